"""What is read out of a line of the lake: the text of each column's field, wherever in the record it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.contract import Column
from headrace.typed.columns import is_iso, quoted


def objects(columns: Sequence[Column]) -> tuple[list[str], list[int]]:
    """
    What ``from_json`` is to look for in a line, and in which of these objects each column is.

    One is enough unless names differ in case alone ("e" and "E"), which DuckDB's structures cannot hold side by side.
    """
    values, places = _structures([column for column in columns if column.record == "value"])
    about: dict[str, object] = {"offset": "BIGINT", "timestamp_ms": "BIGINT"}
    if any(column.record == "key" for column in columns):
        about["key"] = "JSON"
    found = [msgspec.json.encode({**about, "value": value}).decode() for value in values]
    rest = iter(places)
    return found or [msgspec.json.encode(about).decode()], [next(rest) if c.record == "value" else 0 for c in columns]


def _structures(columns: Sequence[Column]) -> tuple[list[dict[str, object]], list[int]]:
    found: list[dict[str, object]] = []
    places = []
    for column in columns:
        number = next((i for i, known in enumerate(found) if _fits(column.source, known)), len(found))
        if number == len(found):
            found.append({})
        place = found[number]
        for name in column.source[:-1]:
            place = place.setdefault(name, {})  # type: ignore[assignment]
        place[column.source[-1]] = "VARCHAR" if is_iso(column) else "JSON"
        places.append(number)
    return found, places


def _fits(source: Sequence[str], structure: object) -> bool:
    for name in source:
        if not isinstance(structure, dict):
            return False
        same = [known for known in structure if known.lower() == name.lower()]
        if not same:
            return True
        if same != [name]:
            return False
        structure = structure[name]
    return False


def leaf(column: Column, parsed: str) -> str:
    """The field's JSON text, an iso moment's content; NULL where there is none, or null. *parsed* is from ``from_json``."""
    if column.record == "timestamp":
        return f"nullif({parsed}.timestamp_ms, -1)::VARCHAR"
    if column.record != "value":
        return f"{parsed}.{quoted(column.record)}::VARCHAR"
    return f"{parsed}.value" + "".join(f".{quoted(name)}" for name in column.source) + "::VARCHAR"

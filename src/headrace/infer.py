"""From records to the Python file of a contract that a person then edits."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from headrace.cells import Rejected, cell
from headrace.columns import Column, Kind
from headrace.inferred import Field, type_of
from headrace.json_text import parsed

_RESERVED = {"str", "int", "bool", "list", "dict", "Decimal", "datetime", "contract", "column", "self", "attrs", "None"}
"""A column of such a name would hide what the columns after it need."""


def written(values: Sequence[bytes | None], name: str, where: str) -> str:
    """
    Write a contract that takes every value of a sample that is an object; what was seen and what is in doubt stands in comments.

    A field of which no one type takes all that was seen is left out, with the reason: the records are rows without it.

    Args:
        values: The sample.

        name: Of the class.

        where: Where the sample is from, for the first comment.
    """
    objects, others = _objects(values)
    fields = _fields(objects)
    names = _names(fields)
    lines: list[str] = []
    for field in fields.values():
        lines += _lines(field, names.get(field.name, ""), objects)
    if not any(re.match(r"    [A-Za-z]", line) for line in lines):
        lines.append("    # no field was seen that can be a column: write at least one")
        lines.append("    value: str | None")
    return "\n".join(
        [
            *_head(len(values), others, where, lines),
            f"class {name}:",
            f'    """One record of {name}."""',
            "",
            *lines,
            "",
        ]
    )


def class_name(stream: str) -> str:
    """A name for the class of a stream: ``market.trades`` is MarketTrades."""
    words = re.findall(r"[A-Za-z0-9]+", stream)
    found = "".join(word[0].upper() + word[1:] for word in words)
    fits = found[:1].isalpha() and not keyword.iskeyword(found) and found not in _RESERVED
    return found if fits else f"Stream{found}"


def _objects(values: Iterable[bytes | None]) -> tuple[list[dict[str, object]], Counter[str]]:
    """The values that are objects, and how many are none, by what they are."""
    objects: list[dict[str, object]] = []
    others: Counter[str] = Counter()
    for value in values:
        try:
            found = None if value is None else parsed(value.decode())
        except (ValueError, RecursionError):
            others["not JSON in UTF-8"] += 1
            continue
        if isinstance(found, dict):
            objects.append(found)
        else:
            others["tombstones" if value is None else "JSON that is no object"] += 1
    return objects, others


def _fields(objects: Sequence[dict[str, object]]) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for found in objects:
        for name, content in found.items():
            if name not in fields:
                fields[name] = Field(name)
            fields[name].see(content)
    for field in fields.values():
        field.missing = len(objects) - field.seen
    return fields


def _names(fields: Iterable[str]) -> dict[str, str]:
    """A column's name for each field that can have one; databases do not tell case."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in fields:
        if not name or "." in name or not name.isprintable():
            continue
        column = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not column[0].isascii() or not column[0].isalpha():
            column = f"f{column}" if column.startswith("_") else f"f_{column}"
        if keyword.iskeyword(column) or column in _RESERVED or (column.startswith("f__") and column.endswith("__")):
            column += "_"
        first, number = column, 2
        while column.lower() in taken:
            column, number = f"{first}_{number}", number + 1
        taken.add(column.lower())
        found[name] = column
    return found


def _lines(field: Field, name: str, objects: Sequence[dict[str, object]]) -> list[str]:
    column = field.column(name) if name else None
    refused = None if column is None else _refused(column, field.name, objects)
    if column is None or refused:
        why = refused or field.why_not() or "a name that cannot be said in source=…"
        # indented: else they would be read as the next column's
        return [f"    # left out: {field.name!a}: {why}", *(f"    #   {note}" for note in field.notes())]
    about = [f"    # {note}" for note in field.notes()]
    given = [f"source={field.name!a}"] if name != field.name else []
    if column.kind == "decimal":
        given += [f"precision={column.precision}", f"scale={column.scale}"]
    call = f" = column({', '.join(given)})" if given else ""
    return [*about, f"    {name}: {type_of(column)}{call}"]


def _refused(column: Column, name: str, objects: Sequence[dict[str, object]]) -> str:
    """Why the column does not take all that was seen, asked of what types rows; "" where it does."""
    reasons: Counter[str] = Counter()
    for found in objects:
        try:
            cell(attrs.evolve(column, source=(name,)), found.get(name))
        except Rejected as rejected:
            reasons[rejected.reason] += 1
    return "; ".join(f"{reason} in {count:,}" for reason, count in reasons.most_common(3))


def _head(records: int, others: Counter[str], where: str, lines: Sequence[str]) -> list[str]:
    body = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    kinds: dict[str, Kind] = {"from datetime import datetime": "timestamp", "from decimal import Decimal": "decimal"}
    used = [line for line in kinds if f": {line.rpartition(' ')[2]}" in body]
    told = "".join(f"; {count:,} of them are {what}, and go to quarantine" for what, count in others.most_common())
    return [
        f"# Inferred from {records:,} records of {where}{told}.",
        "# Read it, correct it, then load by it: what is in no record of the sample is not known here.",
        "",
        *used,
        *([""] if used else []),
        f"from headrace.contract import {'column, ' if 'column(' in body else ''}contract",
        "",
        "",
        "@contract(version=1)",
    ]

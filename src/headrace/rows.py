"""
One record to one row, exactly: what a contract means, in plain Python.

Loaders type most rows by the block and in their own engine; this decides every row that is not plain, and it is what they
are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from headrace.cells import FIRST_YEAR, LAST_YEAR, Rejected, cell
from headrace.columns import Column
from headrace.contract import Contract
from headrace.json_text import Number, parsed

__all__ = ["FIRST_YEAR", "LAST_YEAR", "Rejected", "row"]


def row(
    contract: Contract, value: bytes | None, *, key: bytes | None = None, timestamp_ms: int = -1, offset: int = -1
) -> list[str | None] | Rejected:
    """
    Return the row's cells as canonical text, in the order of the columns, or why there is none.

    An integer and a decimal are digits without exponent, a boolean ``true`` or ``false``, a moment
    ``2013-10-07 13:30:00.123456789`` in UTC, a nested value the text of `headrace.json_text`. Of a contract with a key one more
    cell follows: whether the record is a delete (S9).

    Args:
        contract: What a row is.

        value: The record's; None is a tombstone.

        key: The record's.

        timestamp_ms: The record's; -1 where it has none.

        offset: The record's.
    """
    about: dict[str, object] = {
        "key": key,
        "timestamp": None if timestamp_ms == -1 else Number(timestamp_ms),
        "offset": Number(offset),
    }
    try:
        tombstone = value is None and contract.tombstones
        found = {} if tombstone else _object(value)
        delete = tombstone or _deletes(contract, found, about)
        cells = [
            cell(column, _field(column, found, about), optional=delete and not contract.places(column))
            for column in contract.columns
        ]
        _check_ascending(contract, cells)
    except Rejected as rejected:
        return rejected
    return [*cells, "true" if delete else "false"] if contract.key else cells


def _object(value: bytes | None) -> dict[str, object]:
    if value is None:
        raise Rejected("", "tombstone")  # S9: nothing says what it deletes
    try:
        found = parsed(value.decode())
    except UnicodeDecodeError:
        raise Rejected("", "not UTF-8") from None
    except RecursionError:
        raise Rejected("", "nested too deep") from None
    except ValueError:
        raise Rejected("", "not JSON") from None
    if not isinstance(found, dict):
        raise Rejected("", "not an object")
    return found


def _field(column: Column, found: object, about: Mapping[str, object]) -> object:
    if column.record == "value":
        for name in column.source:
            found = found.get(name) if isinstance(found, dict) else None
        return found
    part = about[column.record]
    try:
        return part.decode() if isinstance(part, bytes) else part
    except UnicodeDecodeError:
        raise Rejected(column.name, "a key that is not UTF-8") from None


def _deletes(contract: Contract, found: object, about: Mapping[str, object]) -> bool:
    if contract.deleted is None:
        return False
    [column] = (c for c in contract.columns if c.name == contract.deleted.column)
    try:
        return cell(column, _field(column, found, about), optional=True) in contract.deleted.cells
    except Rejected:  # told in its turn
        return False


def _check_ascending(contract: Contract, cells: Sequence[str | None]) -> None:
    if not contract.ascending:
        return
    by_name = {column.name: (column, text) for column, text in zip(contract.columns, cells, strict=True)}
    for low, high in contract.ascending:
        (column, less), (_, more) = by_name[low], by_name[high]
        if less is None or more is None:
            continue
        # moments are texts of one width
        if less > more if column.kind == "timestamp" else Decimal(less) > Decimal(more):
            raise Rejected(high, f"below {low}")

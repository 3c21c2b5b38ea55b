"""Reads a quarantine table piece by piece, in the order of the log; nothing is made, nothing is held open in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from headrace.loader import QuarantineCount, QuarantinedRecord, Selection
from headrace.plugins.duckdb.tables import quarantine
from headrace.records import Partition
from headrace.typed.columns import quoted

if TYPE_CHECKING:
    import duckdb

Opened = Callable[[], AbstractContextManager["duckdb.DuckDBPyConnection"]]

_RECORDS_AT_ONCE = 20_000
_BYTES_AT_ONCE = 16 << 20
"""A piece ends behind the record that reaches it, so one record is held however long it is."""


def where(selection: Selection) -> tuple[str, dict[str, object]]:
    """The selection as a condition on a quarantine table, with its values."""
    found = ["_offset >= $start"]
    values: dict[str, object] = {"start": selection.start}
    named = {
        "_stream": selection.stream,
        "_dataset": selection.dataset_id,
        "reason": selection.reason,
        '"column"': selection.column,
    }
    for number, (column, wanted) in enumerate(named.items()):
        if wanted is not None:
            found.append(f"{column} = $v{number}")
            values[f"v{number}"] = wanted
    if selection.partition is not None:
        found.append("_stream = $stream AND _partition = $number")
        values |= {"stream": selection.partition.stream, "number": selection.partition.number}
    if selection.end is not None:
        found.append("_offset < $end")
        values["end"] = selection.end
    return " AND ".join(found), values


def counts(opened: Opened, target: str, selection: Selection) -> list[QuarantineCount]:
    """Count by partition, column, reason and contract, ascending; nothing where there is no such table."""
    condition, values = where(selection)
    with opened() as connection:
        if not _is_there(connection, target):
            return []
        found = connection.execute(
            'SELECT _dataset, _stream, _partition, "column", reason, contract, contract_version, count(*), min(_offset),'
            f" max(_offset) FROM {quoted(quarantine(target))} WHERE {condition} GROUP BY ALL",
            values,
        ).fetchall()
    return sorted(QuarantineCount(d, Partition(s, p), *rest) for d, s, p, *rest in found)


def records(opened: Opened, target: str, selection: Selection) -> Iterator[QuarantinedRecord]:
    """Yield the records, ascending; the file is closed while one is looked at."""
    condition, values = where(selection)
    with opened() as connection:
        if not _is_there(connection, target):
            return
        places = connection.execute(
            f"SELECT _dataset, _stream, _partition FROM {quoted(quarantine(target))} WHERE {condition} GROUP BY ALL"
            " ORDER BY ALL",
            values,
        ).fetchall()
    for dataset, stream, number in places:
        place = f"{condition} AND _dataset = $in_dataset AND _stream = $in_stream AND _partition = $in_number"
        inside = {**values, "in_dataset": dataset, "in_stream": stream, "in_number": number}
        piece: list[QuarantinedRecord] | None = None
        while piece is None or piece:
            if piece:
                inside["start"] = piece[-1].offset + 1
            piece = _piece(opened, target, place, inside)
            yield from piece


def _piece(opened: Opened, target: str, condition: str, values: dict[str, object]) -> list[QuarantinedRecord]:
    """The first records of one partition; how long they are is asked before they are read."""
    table = quoted(quarantine(target))
    with opened() as connection:
        sizes = connection.execute(
            f"SELECT _offset, octet_length(line) FROM {table} WHERE {condition} ORDER BY 1 LIMIT {_RECORDS_AT_ONCE}",
            values,
        ).fetchall()
        sums = itertools.accumulate(size for _, size in sizes)
        last = next((offset for (offset, _), held in zip(sizes, sums, strict=True) if held >= _BYTES_AT_ONCE), None)
        if last is None and sizes:
            last = sizes[-1][0]
        found = connection.execute(
            "SELECT _dataset, _stream, _partition, _offset, _timestamp_ms, contract, contract_version,"
            f' "column", reason, line FROM {table} WHERE {condition} AND _offset <= $last ORDER BY _offset',
            {**values, "last": last},
        ).fetchall()
    return [QuarantinedRecord(d, Partition(s, p), *rest) for d, s, p, *rest in found]


def _is_there(connection: duckdb.DuckDBPyConnection, target: str) -> bool:
    return bool(
        connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [quarantine(target)]).fetchall()
    )

"""Counts and reads the tables for `headrace audit`, by SQL of its own: what writes them has no say in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from headrace import LedgerRow, Line, Partition, Stored, StoredRow, Tally
from headrace.contract import Column, Contract
from headrace.tally import Counts, by_partition, counted, strays
from headrace_sqlite.tables import PLACE, quoted, there

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INSIDE = "_dataset = ? AND _stream = ? AND _partition = ? AND _offset >= ? AND _offset < ?"


def tally(connection: Any, target: str, dataset: str, stream: str) -> Tally | None:
    """Count in one transaction; None where there is no such target."""
    connection.execute("BEGIN")
    try:
        if not all(there(connection, table) for table in (target, f"{target}_quarantine", "headrace_ledger")):
            return None
        return _tally(connection, target, dataset, stream)
    finally:
        connection.execute("ROLLBACK")


def _tally(connection: Any, target: str, dataset: str, stream: str) -> Tally:
    rows, refused = quoted(target), quoted(f"{target}_quarantine")
    ledger = [
        LedgerRow(dataset, Partition(stream, number), *rest)
        for number, *rest in connection.execute(
            'SELECT "partition", kind, start_offset, end_offset, records, inserted, superseded, rejected, digest,'
            " contract_version FROM headrace_ledger WHERE dataset = ? AND stream = ? AND target = ? ORDER BY 1, 3, 4, 2",
            (dataset, stream, target),
        )
    ]
    twice = f"(SELECT {PLACE} FROM {rows} INTERSECT SELECT {PLACE} FROM {refused})"
    here, over_there, both = (_by_load(connection, t, target, dataset, stream) for t in (rows, refused, twice))
    return Tally(
        target,
        there(connection, f"{target}_current"),  # made where the contract has a key
        counted(ledger, here, over_there, both),
        strays(here, over_there, stream),
        rows=_number(connection, f"SELECT count(*) FROM {rows}"),
        quarantined=_number(connection, f"SELECT count(*) FROM {refused}"),
        inserted=_number(connection, "SELECT coalesce(sum(inserted), 0) FROM headrace_ledger WHERE target = ?", target),
        rejected=_number(connection, "SELECT coalesce(sum(rejected), 0) FROM headrace_ledger WHERE target = ?", target),
        of=by_partition(here, stream),  # no key is there twice: the table is UNIQUE
        refused=by_partition(over_there, stream),
    )


def _by_load(connection: Any, table: str, target: str, dataset: str, stream: str) -> Counts:
    """Count by the load that covers an offset, None for none; by one sort of records and loads together."""
    loads = (
        'SELECT "partition" AS p, start_offset AS s, max(end_offset) AS e FROM headrace_ledger'
        " WHERE dataset = :dataset AND stream = :stream AND target = :target AND kind = 'load' GROUP BY 1, 2"
    )
    together = (
        f"SELECT _partition AS p, _offset AS o, NULL AS s FROM {table} WHERE _dataset = :dataset AND _stream = :stream"
        f" UNION ALL SELECT p, s, s FROM ({loads})"
    )
    before = f"SELECT p, o, s, max(s) OVER (PARTITION BY p ORDER BY o RANGE UNBOUNDED PRECEDING) AS b FROM ({together})"
    found = connection.execute(
        f"SELECT r.p, CASE WHEN r.o < l.e THEN l.s END, count(*), count(DISTINCT r.o), min(r.o), max(r.o) FROM ({before}) r"
        f" LEFT JOIN ({loads}) l ON l.p = r.p AND l.s = r.b WHERE r.s IS NULL GROUP BY 1, 2",
        {"dataset": dataset, "stream": stream, "target": target},
    )
    return {(number, start): (count, different, first, last) for number, start, count, different, first, last in found}


def _number(connection: Any, statement: str, *values: object) -> int:
    return int(connection.execute(statement, values).fetchone()[0])


def stored(connection: Any, target: str, contract: Contract | None, line: Line, start: int, end: int) -> Stored:
    """Read what the tables hold of a range, at one moment; the columns of a contract where it is known."""
    within = (line.dataset_id, line.partition.stream, line.partition.number, start, min(end, 2**62))
    columns = [] if contract is None else contract.columns
    names = ", ".join(["_offset", "_timestamp_ms", "_deleted", *(quoted(column.name) for column in columns)])
    connection.execute("BEGIN")
    try:
        rows, refused = (
            connection.execute(
                f"SELECT {wanted} FROM {quoted(table)} WHERE {INSIDE} ORDER BY _offset", within
            ).fetchall()
            for table, wanted in ((target, names), (f"{target}_quarantine", "_offset, line"))
        )
    finally:
        connection.execute("ROLLBACK")
    found = []
    for offset, ms, deleted, *rest in rows:
        cells = [_told(column, cell) for column, cell in zip(columns, rest, strict=True)]
        if contract is not None and contract.key:
            cells.append("true" if deleted else "false")
        found.append(StoredRow(offset, ms, tuple(cells)))
    return Stored(found, refused)


def _told(column: Column, cell: Any) -> str | None:
    """A cell as an audit compares it: canonical text, a moment as nanoseconds."""
    if cell is None:
        return None
    if column.kind == "boolean":
        return "true" if cell else "false"
    if column.kind != "timestamp":
        return str(cell)
    moment, _, fraction = cell.partition(".")
    seconds = (datetime.fromisoformat(f"{moment}+00:00") - EPOCH) // timedelta(seconds=1)
    return str(seconds * 10**9 + int(fraction.ljust(9, "0") or 0))

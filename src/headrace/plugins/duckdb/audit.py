"""Counts and reads tables for an audit, by SQL of its own: what writes them has no say in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.columns import Column
from headrace.contract import Contract
from headrace.records import Partition
from headrace.tally import Counts, LedgerRow, Stored, StoredRow, Tally, by_partition, counted, strays
from headrace.typed.columns import quoted

if TYPE_CHECKING:
    import duckdb

_LINES = "dataset = $dataset AND stream = $stream AND target = $target"
_HERE = "schema_name = current_schema() AND database_name = current_database()"
_PLACE = "_dataset = $dataset AND _stream = $stream"
_RANGE = f"{_PLACE} AND _partition = $number AND _offset >= $start AND _offset < $end"


def tally(
    connection: duckdb.DuckDBPyConnection, target: str, key: tuple[str, ...], dataset: str, stream: str
) -> Tally | None:
    """Count in one transaction; None where there is no such target."""
    names = {target, f"{target}_quarantine", "headrace_ledger"}
    there = connection.execute(f"SELECT table_name FROM duckdb_tables() WHERE {_HERE}").fetchall()
    if not names <= {name for (name,) in there}:
        return None
    columns = connection.execute(
        f"SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND {_HERE}", [target]
    ).fetchall()
    connection.execute("BEGIN")
    try:
        return _tally(connection, target, key, {"dataset": dataset, "stream": stream}, keyed=("_deleted",) in columns)
    finally:
        connection.execute("ROLLBACK")


def _tally(
    connection: duckdb.DuckDBPyConnection, target: str, key: tuple[str, ...], about: dict[str, object], *, keyed: bool
) -> Tally:
    rows, refused = quoted(target), quoted(f"{target}_quarantine")
    ledger = [
        LedgerRow(str(about["dataset"]), Partition(str(about["stream"]), number), *rest)
        for number, *rest in connection.execute(
            'SELECT "partition", kind, start_offset, end_offset, records, inserted, superseded, rejected, digest,'
            f" contract_version FROM headrace_ledger WHERE {_LINES} ORDER BY ALL",
            {**about, "target": target},
        ).fetchall()
    ]
    here, there = (_by_range(connection, table, about, target) for table in (rows, refused))
    both = _by_range(connection, f"(SELECT {_KEY} FROM {rows} INTERSECT SELECT {_KEY} FROM {refused})", about, target)
    [(inserted, rejected)] = connection.execute(
        "SELECT coalesce(sum(inserted), 0)::BIGINT, coalesce(sum(rejected), 0)::BIGINT FROM headrace_ledger WHERE target = ?",
        [target],
    ).fetchall()
    [(count,)], [(quarantined,)] = (connection.execute(f"SELECT count(*) FROM {t}").fetchall() for t in (rows, refused))
    nobodys = (
        "SELECT coalesce(sum(n), 0)::BIGINT FROM (SELECT _dataset, _stream, count(*) AS n FROM {} GROUP BY 1, 2) r WHERE"
        " (_dataset, _stream) <> ($dataset, $stream) AND NOT EXISTS (SELECT 1 FROM headrace_ledger l WHERE l.target = $target"
        " AND l.dataset = r._dataset AND l.stream = r._stream)"
    )
    within = {**about, "target": target}
    keys = ", ".join(map(quoted, key))
    doubled = f"SELECT count(*) FROM (SELECT 1 FROM {rows} GROUP BY {keys} HAVING count(*) > 1)"
    return Tally(
        target,
        keyed,
        counted(ledger, here, there, both),
        strays(here, there, str(about["stream"])),
        count,
        quarantined,
        inserted,
        rejected,
        doubled_keys=connection.execute(doubled).fetchall()[0][0] if key else 0,
        of=by_partition(here, str(about["stream"])),
        refused=by_partition(there, str(about["stream"])),
        nobodys=sum(connection.execute(nobodys.format(t), within).fetchall()[0][0] for t in (rows, refused)),
    )


_KEY = "_dataset, _stream, _partition, _offset"


def _by_range(connection: duckdb.DuckDBPyConnection, table: str, about: dict[str, object], target: str) -> Counts:
    """Count by the load that covers an offset, None for none: records, different ones, the first and the last."""
    found = connection.execute(
        f"SELECT r._partition, CASE WHEN r._offset < l.end_offset THEN l.start_offset END, count(*), count(DISTINCT r._offset),"
        f" min(r._offset), max(r._offset) FROM (SELECT _partition, _offset FROM {table} WHERE {_PLACE}) r ASOF LEFT JOIN"
        f' (SELECT "partition", start_offset, max(end_offset) AS end_offset FROM headrace_ledger WHERE {_LINES} AND'
        " kind = 'load' GROUP BY ALL) l ON r._partition = l.\"partition\" AND r._offset >= l.start_offset GROUP BY 1, 2",
        {**about, "target": target},
    ).fetchall()
    return {(number, start): (count, different, first, last) for number, start, count, different, first, last in found}


def stored(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    contract: Contract | None,
    place: tuple[str, Partition],
    start: int,
    end: int,
) -> Stored:
    """Read what the tables hold of a range, in one transaction."""
    within = {
        "dataset": place[0], "stream": place[1].stream, "number": place[1].number, "start": start, "end": end,
    }  # fmt: skip
    cells = ["_offset", "_timestamp_ms", *map(_cell, () if contract is None else contract.columns)]
    cells += ["_deleted::VARCHAR"] if contract is not None and contract.key else []
    connection.execute("BEGIN")
    try:
        rows = connection.execute(
            f"SELECT {', '.join(cells)} FROM {quoted(target)} WHERE {_RANGE} ORDER BY _offset", within
        ).fetchall()
        refused = connection.execute(
            f"SELECT _offset, line FROM {quoted(f'{target}_quarantine')} WHERE {_RANGE} ORDER BY _offset", within
        ).fetchall()
    finally:
        connection.execute("ROLLBACK")
    return Stored([StoredRow(offset, ms, tuple(rest)) for offset, ms, *rest in rows], refused)


def _cell(column: Column) -> str:
    """A column as `headrace.rows.row` writes it; a moment as nanoseconds, since a text of it depends on settings."""
    if column.kind == "timestamp":
        return f"epoch_ns({quoted(column.name)})::VARCHAR"
    return f"{quoted(column.name)}::VARCHAR"

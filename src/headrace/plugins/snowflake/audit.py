"""Counts and reads tables for an audit, by SQL of its own: what writes them has no say in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import SinkUnavailableError
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import Tables, name
from headrace.records import Partition
from headrace.tally import Counts, LedgerRow, Stored, StoredRow, Tally, by_partition, counted, strays

_LINES = "DATASET = %s AND STREAM = %s AND TARGET = %s"
_PLACE = "_DATASET = %s AND _STREAM = %s"
_RANGE = f"{_PLACE} AND _PARTITION = %s AND _OFFSET >= %s AND _OFFSET < %s"
_ATTEMPTS = 5


def tally(session: Session, tables: Tables, key: Sequence[str], dataset: str, stream: str) -> Tally:
    """
    Count between two looks at the ledger that say the same: each statement of the service sees what is committed by then.

    Of all streams that are loaded into the table: what it holds of them is counted too.

    Raises:
        SinkUnavailableError: The table was loaded all the time.
    """
    for _ in range(_ATTEMPTS):
        before = _ledger(session, tables, dataset, stream), _sums(session, tables)
        found = _tally(session, tables, key, *before, (dataset, stream))
        if (_ledger(session, tables, dataset, stream), _sums(session, tables)) == before:
            return found
    raise SinkUnavailableError(f"{tables.target} was loaded all the time; ask again")


def _ledger(session: Session, tables: Tables, dataset: str, stream: str) -> list[LedgerRow]:
    found = session.execute(
        "SELECT PARTITION, KIND, START_OFFSET, END_OFFSET, RECORDS, INSERTED, SUPERSEDED, REJECTED, DIGEST, CONTRACT_VERSION"
        f" FROM {tables.ledger} WHERE {_LINES} ORDER BY PARTITION, KIND, START_OFFSET, END_OFFSET, ATTEMPT",
        *(dataset, stream, tables.target),
    )
    return [_row(dataset, stream, *row) for row in found]


def _sums(session: Session, tables: Tables) -> tuple[int, int, int]:
    """Over all of the target: rows, rejected records, and how many rows the ledger has."""
    [found] = session.execute(
        "SELECT COALESCE(SUM(INSERTED), 0) AS I, COALESCE(SUM(REJECTED), 0) AS R, COUNT(*) AS N"
        f" FROM {tables.ledger} WHERE TARGET = %s",
        tables.target,
    )
    inserted, rejected, count = map(int, found)
    return inserted, rejected, count


def _row(dataset: str, stream: str, number: int, kind: str, *rest: Any) -> LedgerRow:
    start, end, records, inserted, superseded, rejected = map(int, rest[:6])
    digest, version = rest[6:]
    place = Partition(stream, int(number))
    return LedgerRow(dataset, place, kind, start, end, records, inserted, superseded, rejected, digest, int(version))


def _tally(
    session: Session,
    tables: Tables,
    key: Sequence[str],
    ledger: list[LedgerRow],
    sums: tuple[int, int, int],
    place: tuple[str, str],
) -> Tally:
    places = "_DATASET, _STREAM, _PARTITION, _OFFSET"
    twice = f"(SELECT {places} FROM {tables.rows} INTERSECT SELECT {places} FROM {tables.quarantine})"
    here, there = (_by_range(session, tables, table, place) for table in (tables.rows, tables.quarantine))
    both = _by_range(session, tables, twice, place)
    keyed = any(column[0] == "_DELETED" for column in session.execute(f"DESC TABLE {tables.rows}"))
    return Tally(
        tables.target,
        keyed,
        counted(ledger, here, there, both),
        strays(here, there, place[1]),
        _number(session, f"SELECT COUNT(*) AS N FROM {tables.rows}"),
        _number(session, f"SELECT COUNT(*) AS N FROM {tables.quarantine}"),
        sums[0],
        sums[1],
        doubled_keys=_doubled(session, tables, key),
        of=by_partition(here, place[1]),
        refused=by_partition(there, place[1]),
        nobodys=sum(_nobodys(session, tables, table, place) for table in (tables.rows, tables.quarantine)),
    )


def _doubled(session: Session, tables: Tables, key: Sequence[str]) -> int:
    if not key:
        return 0
    names = ", ".join(map(name, key))
    inside = f"SELECT 1 AS X FROM {tables.rows} GROUP BY {names} HAVING COUNT(*) > 1"
    return _number(session, f"SELECT COUNT(*) AS N FROM ({inside})")


def _nobodys(session: Session, tables: Tables, table: str, place: tuple[str, str]) -> int:
    """Count records of other streams and datasets of which the ledger knows nothing at all."""
    of = f"SELECT _DATASET AS D, _STREAM AS S, COUNT(*) AS N FROM {table} GROUP BY _DATASET, _STREAM"
    known = f"SELECT DISTINCT DATASET AS D, STREAM AS S FROM {tables.ledger} WHERE TARGET = %s"
    [(count,)] = session.execute(
        f"SELECT COALESCE(SUM(r.N), 0) AS N FROM ({of}) r LEFT JOIN ({known}) l ON l.D = r.D AND l.S = r.S"
        " WHERE l.D IS NULL AND NOT (r.D = %s AND r.S = %s)",
        *(tables.target, *place),
    )
    return int(count)


def _number(session: Session, statement: str) -> int:
    return int(session.execute(statement)[0][0])


def _by_range(session: Session, tables: Tables, table: str, place: tuple[str, str]) -> Counts:
    """
    Count by the load that covers an offset, None for none: records, different ones, the first and the last.

    By one sort of offsets and loads together: a join by ranges would compare each with each.
    """
    loads = (
        f"SELECT PARTITION AS P, START_OFFSET AS S, MAX(END_OFFSET) AS E FROM {tables.ledger} WHERE {_LINES} AND KIND = 'load'"
        " GROUP BY PARTITION, START_OFFSET"
    )
    together = (
        f"SELECT _PARTITION AS P, _OFFSET AS O, 1 AS IS_ROW, -1 AS S FROM {table} WHERE {_PLACE}"
        f" UNION ALL SELECT l.P, l.S AS O, 0 AS IS_ROW, l.S FROM ({loads}) l"
    )
    marked = (
        "SELECT t.P, t.O, t.IS_ROW, MAX(t.S) OVER (PARTITION BY t.P ORDER BY t.O, t.IS_ROW"
        f" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS S FROM ({together}) t"
    )
    line = (*place, tables.target)
    found = session.execute(
        "SELECT m.P, CASE WHEN m.O < l.E THEN l.S END AS COVERED, COUNT(*) AS N, COUNT(DISTINCT m.O) AS D, MIN(m.O) AS A,"
        f" MAX(m.O) AS Z FROM ({marked}) m LEFT JOIN ({loads}) l ON l.P = m.P AND l.S = m.S WHERE m.IS_ROW = 1"
        " GROUP BY m.P, CASE WHEN m.O < l.E THEN l.S END",
        *(*place, *line, *line),
    )
    return {
        (int(number), None if start is None else int(start)): (int(n), int(d), int(first), int(last))
        for number, start, n, d, first, last in found
    }


def stored(
    session: Session, tables: Tables, contract: Contract | None, place: tuple[str, Partition], start: int, end: int
) -> Stored:
    """Read what the tables hold of a range; quarantine first and last, so that a redrive in between is noticed."""
    within = (place[0], place[1].stream, place[1].number, start, end)
    columns = () if contract is None else contract.columns
    cells = ["_OFFSET", "_TIMESTAMP_MS", *(f"{_cell(c)} AS {name(c.name)}" for c in columns)]
    cells += ["_DELETED"] if contract is not None and contract.key else []
    lines = f"SELECT _OFFSET, LINE FROM {tables.quarantine} WHERE {_RANGE} ORDER BY _OFFSET"
    for _ in range(_ATTEMPTS):
        refused = session.execute(lines, *within)
        rows = session.execute(f"SELECT {', '.join(cells)} FROM {tables.rows} WHERE {_RANGE} ORDER BY _OFFSET", *within)
        if session.execute(lines, *within) == refused:
            break
    return Stored(
        [StoredRow(int(offset), int(ms), tuple(map(_text, rest))) for offset, ms, *rest in rows],
        [(int(offset), bytes(line)) for offset, line in refused],
    )


def _cell(column: Column) -> str:
    """A column as text, as `headrace.rows.row` writes it, but for a moment: nanoseconds."""
    if column.kind == "timestamp":
        return f"DATE_PART(EPOCH_NANOSECOND, {name(column.name)})::VARCHAR"
    if column.kind == "json":
        return f"TO_JSON({name(column.name)})"
    return f"{name(column.name)}::VARCHAR"


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)

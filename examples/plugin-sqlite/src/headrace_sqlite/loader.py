"""Loads segments into a SQLite file: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from headrace import (
    URI,
    Census,
    CommitUnknownError,
    ConfigError,
    Line,
    LoadableSegment,
    Loader,
    LoadResult,
    Partition,
    PositionConflictError,
    QuarantinedRecord,
    Registry,
    Selection,
    Stored,
    Tally,
)
from headrace.contract import Contract
from headrace.rowwise import TypedRow, TypedSegment, check_share, lacking, newest, order_of, typed, typed_again
from headrace_sqlite import audit
from headrace_sqlite.errors import told
from headrace_sqlite.tables import PLACE, declared, held, quoted, statements, there, where

PIECE = 1_000
"""So many quarantined records are read at once."""


@attrs.define(kw_only=True, eq=False)
class SQLiteLoader(Loader):
    """
    One table of a SQLite file. The file is open only while a call runs.

    Attributes:
        database: The file.

        target: The table.

        contract: The class that says what a row is.

        lock_timeout_s: How long another process may keep the file before a call gives up.

        connect: Opens the file.
    """

    database: str
    target: str
    contract: type
    lock_timeout_s: float = 30.0
    connect: Callable[..., Any] = attrs.field(default=sqlite3.connect, repr=False)
    _contract: Contract = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._contract = Contract.of(self.contract)
        if self.target.startswith(("_", "headrace_", "sqlite_")):
            raise ConfigError(
                f"found table {self.target!r}, expected a name that does not begin with _, headrace_ or sqlite_"
            )

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry, *, contract: type) -> SQLiteLoader:
        """Make the loader of ``sqlite:///silver.db?table=trades``."""
        if uri.host or uri.path in ("", "/") or not uri.settings.get("table"):
            raise ConfigError(f"found {uri}, expected sqlite:///absolute/path.db?table=NAME")
        found = uri.fields(cls, leave=("table",), unsettable=("database", "contract", "target", "connect"))
        return cls(database=uri.path, target=uri.settings["table"], contract=contract, **found)

    # ---- the loader's verbs ---------------------------------------------------------------------------------------

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        if not Path(self.database).exists():  # to open it would make it
            return dict.fromkeys(lines)
        with self._opened() as connection:
            known = there(connection, "headrace_ledger")
            return {line: _position(connection, line) if known else None for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        with self._opened() as connection:
            self._make_tables(connection)
            wanted = lacking(segments, self.target, lambda line: _position(connection, line))
            if not wanted:
                return LoadResult()
            found = [typed(self._contract, each) for each in wanted]
            check_share(self.target, found, self.max_rejected)
            return self._transaction(connection, lambda attempt: self._insert(connection, attempt, found))

    def begin(self, line: Line, position: int) -> None:
        with self._opened() as connection:
            self._make_tables(connection)
            self._transaction(connection, lambda attempt: self._begin(connection, attempt, line, position))

    def redrive(self, selection: Selection) -> LoadResult:
        with self._opened() as connection:
            self._make_tables(connection)
            return self._transaction(connection, lambda attempt: self._take_back(connection, attempt, selection))

    def quarantined(self, selection: Selection) -> Iterator[QuarantinedRecord]:
        condition, values = where(selection)
        after: tuple[object, ...] = ("", "", -1, -1)
        while True:
            with self._opened() as connection:  # not open while one is looked at
                known = there(connection, f"{self.target}_quarantine")
                further = f"{condition} AND ({PLACE}) > (?, ?, ?, ?)"
                piece = self._refused(connection, further, (*values, *after), PIECE) if known else []
            yield from piece
            if len(piece) < PIECE:
                return
            last = piece[-1]
            after = (last.dataset_id, last.partition.stream, last.partition.number, last.offset)

    def recorded(self, line: Line, start: int, end: int) -> int | None:
        with self._opened() as connection:
            return self._recorded(connection, line, start, end) if there(connection, "headrace_ledger") else 0

    def census(self, line: Line, start: int, end: int) -> Census | None:
        with self._opened() as connection:
            if not there(connection, self.target):
                return Census(0, 0, 0)
            inside = "_dataset = ? AND _stream = ? AND _partition = ? AND _offset >= ? AND _offset < ?"
            within = (line.dataset_id, line.partition.stream, line.partition.number, start, min(end, 2**62))
            rows, refused = (
                connection.execute(f"SELECT count(*) FROM {quoted(table)} WHERE {inside}", within).fetchone()[0]
                for table in (self.target, f"{self.target}_quarantine")
            )
            hidden = self._recorded(connection, line, start, end) - rows - refused if self._contract.key else 0
            return Census(rows, refused, max(0, hidden))

    def tally(self, dataset_id: str, stream: str) -> Tally | None:
        if not Path(self.database).exists():  # to open it would make it
            return None
        with self._opened() as connection:
            return audit.tally(connection, self.target, dataset_id, stream)

    def stored(self, line: Line, start: int, end: int, *, cells: bool = True) -> Stored:
        with self._opened() as connection:
            return audit.stored(connection, self.target, self._contract if cells else None, line, start, end)

    # ---- the transaction ------------------------------------------------------------------------------------------

    def _transaction(self, connection: Any, work: Callable[[str], LoadResult]) -> LoadResult:
        """Lock row first, with a fresh attempt id; everything else after it; COMMIT last (S2)."""
        attempt = secrets.token_hex(16)
        connection.execute("BEGIN IMMEDIATE")  # the file's one writer, until COMMIT or until the connection is gone
        self._lock(connection, attempt)
        result = work(attempt)
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            raise CommitUnknownError(
                f"{self.target} in {self.database}: the answer to COMMIT is not known ({exc}); the same call settles it"
            ) from exc
        return result

    def _lock(self, connection: Any, attempt: str) -> None:
        version = self._contract.version
        held = connection.execute(
            "UPDATE headrace_lock SET owner = ?, contract_version = ? WHERE target = ? AND contract_version <= ?",
            (attempt, version, self.target, version),
        )
        if held.rowcount != 1:  # S7
            raise ConfigError(
                f"{self.target} in {self.database} was loaded by a newer contract than {self._contract.name} version {version}:"
                " use the newer one, or another table"
            )

    def _insert(self, connection: Any, attempt: str, found: Sequence[TypedSegment]) -> LoadResult:
        wanted = [each.loadable for each in found]
        if len(lacking(wanted, self.target, lambda line: _position(connection, line))) < len(wanted):
            raise PositionConflictError(
                f"{self.target}: another loader has loaded some of it meanwhile",
                expected=wanted[0].segment.start,
                found=None,
            )
        added = self._write(connection, [row for each in found for row in each.rows])
        self._quarantine(connection, [record for each in found for record in each.refused])
        total = LoadResult()
        for each in found:
            trailer, new = each.loadable.segment.trailer, sum(added[_place(row)] for row in each.rows)
            counts = (trailer.records, new, len(each.rows) - new, len(each.refused))
            line = Line(trailer.dataset_id, trailer.partition, self.target)
            self._enter(connection, attempt, line, "load", (trailer.start, trailer.end, *counts), trailer.digest)
            total += LoadResult(1, *counts)
        return total

    def _write(self, connection: Any, rows: Sequence[TypedRow]) -> Counter[tuple[object, ...]]:
        """Write rows, of each key the newest (S8); return the places of those that were not there before."""
        columns = self._contract.columns
        names = ", ".join([*(quoted(c.name) for c in columns), "_deleted", PLACE, "_timestamp_ms"])
        insert = f"INSERT INTO {quoted(self.target)} ({names}) VALUES ({', '.join('?' * (len(columns) + 6))})"
        added: Counter[tuple[object, ...]] = Counter()
        for row in newest(rows) if self._contract.key else rows:
            if self._contract.key:
                known = self._known(connection, row)
                if known is not None and known > row.order:
                    continue
                if known is not None:
                    connection.execute(f"DELETE FROM {quoted(self.target)} WHERE {self._same()}", self._key(row))
                added[_place(row)] += known is None
            else:
                added[_place(row)] += 1
            cells = [held(column, text) for column, text in zip(columns, row.cells, strict=True)]
            connection.execute(insert, (*cells, row.deleted, *_place(row), row.timestamp_ms))
        return added

    def _known(self, connection: Any, row: TypedRow) -> tuple[object, ...] | None:
        """The order of the row that is there with the same key."""
        order = "".join(f", {quoted(name)}" for name in self._contract.order)
        found = connection.execute(
            f"SELECT {PLACE}{order} FROM {quoted(self.target)} WHERE {self._same()}", self._key(row)
        ).fetchone()
        if found is None:
            return None
        dataset, stream, number, offset, *cells = found
        named = {name: str(cell) for name, cell in zip(self._contract.order, cells, strict=True)}
        return order_of(self._contract, named, dataset, Partition(stream, number), offset)

    def _same(self) -> str:
        return " AND ".join(f"{quoted(name)} = ?" for name in self._contract.key)

    def _key(self, row: TypedRow) -> list[str | int | None]:
        columns = {column.name: column for column in self._contract.columns}
        return [held(columns[name], text) for name, text in zip(self._contract.key, row.key, strict=True)]

    def _quarantine(self, connection: Any, records: Sequence[QuarantinedRecord]) -> None:
        insert = f"INSERT OR REPLACE INTO {quoted(f'{self.target}_quarantine')} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        for r in records:
            connection.execute(insert, (*_place(r), r.timestamp_ms, r.contract, r.version, r.column, r.reason, r.line))

    def _take_back(self, connection: Any, attempt: str, selection: Selection) -> LoadResult:
        """Move what now keeps the contract, of what is in quarantine under the lock; the rest says why not (S6)."""
        found = self._refused(connection, *where(selection), -1)
        again = [typed_again(self._contract, record) for record in found]
        rows = [each for each in again if isinstance(each, TypedRow)]
        added = self._write(connection, rows)
        gone = f"DELETE FROM {quoted(f'{self.target}_quarantine')} WHERE ({PLACE}) = (?, ?, ?, ?)"
        for row in rows:
            connection.execute(gone, _place(row))
        self._quarantine(connection, [each for each in again if isinstance(each, QuarantinedRecord)])
        for line in dict.fromkeys(Line(row.dataset_id, row.partition, self.target) for row in rows):
            mine = [row for row in rows if (row.dataset_id, row.partition) == (line.dataset_id, line.partition)]
            new = sum(added[_place(row)] for row in mine)
            counts = (mine[0].offset, mine[-1].offset + 1, 0, new, len(mine) - new, -len(mine))
            self._enter(connection, attempt, line, "redrive", counts, None)
        inserted = added.total()
        return LoadResult(0, 0, inserted, len(rows) - inserted, -len(rows))

    def _begin(self, connection: Any, attempt: str, line: Line, position: int) -> LoadResult:
        found = _position(connection, line)
        if found is None:
            self._enter(connection, attempt, line, "begin_at", (0, position, 0, 0, 0, 0), None)
        elif found != position:
            raise PositionConflictError(
                f"{self.target}: the ledger of {line.partition} is at {found}, it cannot begin at {position}",
                expected=position,
                found=None,
            )
        return LoadResult()

    def _enter(
        self, connection: Any, attempt: str, line: Line, kind: str, counts: tuple[int, ...], digest: str | None
    ) -> None:
        """Write a line of the ledger; the lock row must still hold this attempt (S3)."""
        place = (line.dataset_id, line.partition.stream, line.partition.number, line.target)
        entered = connection.execute(
            "INSERT INTO headrace_ledger SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            " WHERE EXISTS (SELECT 1 FROM headrace_lock WHERE target = ? AND owner = ?)",
            (*place, kind, *counts, digest, self._contract.version, attempt, self.target, attempt),
        )
        if entered.rowcount != 1:
            raise CommitUnknownError(f"{self.target}: the transaction was lost, nothing is kept")

    # ---- connection -----------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the file; whatever ends the call without a COMMIT leaves nothing."""
        try:
            connection = self.connect(self.database, timeout=self.lock_timeout_s, isolation_level=None)
        except sqlite3.Error as exc:
            raise told(exc, self.database, self.target) from exc
        try:
            yield connection
        except sqlite3.Error as exc:
            raise told(exc, self.database, self.target) from exc
        finally:
            connection.close()

    def _make_tables(self, connection: Any) -> None:
        for statement in statements(self.target, self._contract):
            connection.execute(statement)
        found = [
            (name, kind + " NOT NULL" * required)
            for _, name, kind, required, *_ in connection.execute(f"PRAGMA table_info({quoted(self.target)})")
        ]
        expected = [(c.name, declared(self._contract, c)) for c in self._contract.columns]
        if found[: len(expected)] != expected:
            raise ConfigError(
                f"{self.target} in {self.database} is not the table of contract {self._contract.name}: found {found}, expected"
                f" {expected}; load into another table"
            )
        connection.execute(
            "INSERT OR IGNORE INTO headrace_lock VALUES (?, NULL, ?)", (self.target, self._contract.version)
        )

    def _refused(
        self, connection: Any, condition: str, values: Sequence[object], limit: int
    ) -> list[QuarantinedRecord]:
        table = quoted(f"{self.target}_quarantine")
        found = connection.execute(f"SELECT * FROM {table} WHERE {condition} ORDER BY {PLACE} LIMIT {limit}", values)
        return [
            QuarantinedRecord(dataset, Partition(stream, number), *rest) for dataset, stream, number, *rest in found
        ]

    def _recorded(self, connection: Any, line: Line, start: int, end: int) -> int:
        place = (line.dataset_id, line.partition.stream, line.partition.number, line.target)
        (count,) = connection.execute(
            'SELECT coalesce(sum(records), 0) FROM headrace_ledger WHERE (dataset, stream, "partition", target) = (?, ?, ?, ?)'
            " AND kind = 'load' AND start_offset >= ? AND end_offset <= ?",
            (*place, start, min(end, 2**62)),
        ).fetchone()
        return int(count)


def _position(connection: Any, line: Line) -> int | None:
    (position,) = connection.execute(
        'SELECT max(end_offset) FROM headrace_ledger WHERE (dataset, stream, "partition", target) = (?, ?, ?, ?)'
        " AND kind IN ('load', 'begin_at')",
        (line.dataset_id, line.partition.stream, line.partition.number, line.target),
    ).fetchone()
    return None if position is None else int(position)


def _place(row: TypedRow | QuarantinedRecord) -> tuple[object, ...]:
    return (row.dataset_id, row.partition.stream, row.partition.number, row.offset)

"""Reads an outbox table: a row's id is its offset."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from headrace import (
    URI,
    Batch,
    BelowLog,
    ConfigError,
    DataError,
    Event,
    Extent,
    HeadraceError,
    Identity,
    Owner,
    Partition,
    Reached,
    Record,
    Registry,
    Source,
    SourceUnavailableError,
    Start,
)

AGAIN = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
}
"""The same call may succeed later."""


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


@attrs.define
class _Cursor:
    """
    Where the one partition is read.

    Attributes:
        assignment: Under which number.

        position: The next id to be read; None: the first that there is, asked when it is read.

        told: The end that was said last.

        waits: Nothing more is said until it is moved.
    """

    assignment: int
    position: int | None
    told: int | None = None
    waits: bool = False


@attrs.define(kw_only=True, eq=False)
class OutboxSource(Source):
    """
    One outbox table. It has one partition, and is read by one process; a second one would read the same.

    Attributes:
        database: The application's file.

        table: The outbox.

        records: So many at most are read at once.

        lock_timeout_s: How long a writer of the application may keep us from reading.

        connect: Opens the file.
    """

    database: str
    table: str = "outbox"
    records: int = 1_000
    lock_timeout_s: float = 5.0
    connect: Callable[..., Any] = attrs.field(default=sqlite3.connect, repr=False)
    _cursor: _Cursor | None = attrs.field(default=None, init=False)
    _assigned: bool = attrs.field(default=False, init=False)
    _closed: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> OutboxSource:
        """Make the source of ``outbox:///app.db?table=outbox``."""
        if uri.host or uri.path in ("", "/"):
            raise ConfigError(f"found {uri}, expected outbox:///absolute/path.db?table=NAME")
        return cls(database=uri.path, **uri.fields(cls, unsettable=("database", "connect")))

    @property
    def partition(self) -> Partition:
        return Partition(self.table, 0)

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if not self._assigned:
            starts = owner.assigned({self.partition: None})  # where it fails, the next poll asks again
            self._assigned = True
            self.move(starts)
        event = None if self._cursor is None or self._cursor.waits else self._read(self._cursor)
        if event is None:
            self._closed.wait(timeout_s)
        return [] if event is None else [event]

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for start in starts.values():
            # no I/O here: what failed would leave a partition that is owned and not read
            self._cursor = None if start is None else _Cursor(start.assignment, start.offset)

    def extents(self) -> Mapping[Partition, Extent]:
        with self._opened() as connection:
            low, end = self._range(connection)
            return {self.partition: Extent(low, end, end, self._identity(connection))}

    def reread(self, partition: Partition, start: int, end: int, *, aborted: bool = False) -> Iterator[Batch]:
        while start < end:  # the file is open for one piece at a time; what was rolled back was never there
            with self._opened() as connection:
                found = self._records(connection, start, end)
            if not found:
                return
            batch = Batch.of(partition, found, assignment=0, start=start)
            yield batch
            start = batch.end

    def close(self) -> None:
        self._closed.set()

    # ---- the table --------------------------------------------------------------------------------------------------

    def _read(self, cursor: _Cursor) -> Event | None:
        """The next rows, or what there is to say where none follows."""
        with self._opened() as connection:
            low, end = self._range(connection)
            if cursor.position is None:
                cursor.position = low
            if cursor.position < low:
                cursor.waits = True
                return BelowLog(self.partition, cursor.assignment, cursor.position, low)
            records = self._records(connection, cursor.position, 2**62)
        if records:
            batch = Batch.of(self.partition, records, assignment=cursor.assignment, start=cursor.position)
            cursor.position = batch.end
            return batch
        end = max(end, cursor.position)
        if cursor.told == end:
            return None
        cursor.told = cursor.position = end
        return Reached(self.partition, cursor.assignment, end, at_end=True)

    def _records(self, connection: Any, start: int, end: int) -> list[Record]:
        found = connection.execute(
            f"SELECT id, created_ms, key, value FROM {quoted(self.table)} WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (start, end, self.records),
        )
        return [Record(offset, ms, _bytes(key), _bytes(value)) for offset, ms, key, value in found]

    def _range(self, connection: Any) -> tuple[int, int]:
        """The first id that is there, and the one that the next row will get: SQLite remembers it when all are deleted."""
        (first,) = connection.execute(f"SELECT min(id) FROM {quoted(self.table)}").fetchone()
        found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (self.table,)).fetchone()
        end = 1 if found is None else found[0] + 1
        return (end if first is None and end > 1 else first or 0), end

    def _identity(self, connection: Any) -> Identity:
        rows = connection.execute(f"SELECT id FROM {quoted(f'{self.table}_identity')}").fetchall()
        if len(rows) != 1:
            raise ConfigError(
                f"{self.table}_identity in {self.database} has {len(rows)} rows, expected one: which outbox is it?"
            )
        return Identity("sqlite", str(rows[0][0]), "read_committed", 1)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the file for reading, as it is at one moment."""
        try:
            connection = self.connect(
                f"file:{self.database}?mode=ro", uri=True, timeout=self.lock_timeout_s, isolation_level=None
            )
        except sqlite3.Error as exc:
            raise ConfigError(f"{self.database} cannot be opened: {exc}") from exc
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as exc:
            raise self._told(exc) from exc
        finally:
            connection.close()

    def _told(self, error: sqlite3.Error) -> HeadraceError:
        """Say what an error of SQLite's means: none leaves the plugin as it is."""
        code = getattr(error, "sqlite_errorcode", None)  # SQLite's own; what Python refuses has none
        code = code and code & 0xFF  # without what it adds to it
        if code in AGAIN or (code is None and isinstance(error, sqlite3.OperationalError)):
            return SourceUnavailableError(
                f"{self.table} in {self.database}: {error}; nothing was lost, it is read again"
            )
        if code == sqlite3.SQLITE_CORRUPT:
            return DataError(f"{self.database} is damaged ({error}): the application has to restore it")
        if code == sqlite3.SQLITE_NOTADB:
            return ConfigError(f"{self.database} is no SQLite file: {error}")
        return ConfigError(f"{self.table} in {self.database}: {error}; the README says how an outbox is made")


def _bytes(cell: object) -> bytes | None:
    """A cell's bytes, whatever the application has put there."""
    if cell is None or isinstance(cell, bytes):
        return cell
    return str(cell).encode()

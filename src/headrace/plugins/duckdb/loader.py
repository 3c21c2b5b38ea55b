"""Loads segments into a DuckDB file: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import duckdb

from headrace.contract import Contract
from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    PositionConflictError,
    SinkUnavailableError,
)
from headrace.finding import Finding
from headrace.loader import (
    Census,
    Change,
    Line,
    LoadableSegment,
    Loader,
    LoadResult,
    QuarantineCount,
    QuarantinedRecord,
    Selection,
    refuse_impossible,
)
from headrace.logs import event as log_event
from headrace.logs import marked
from headrace.plugins.duckdb import views
from headrace.plugins.duckdb.alter import changes
from headrace.plugins.duckdb.audit import stored, tally
from headrace.plugins.duckdb.bars import bars_statements, descriptions
from headrace.plugins.duckdb.connection import connected
from headrace.plugins.duckdb.doctor import check_file
from headrace.plugins.duckdb.evolve import additions, evolved, fitting, forget, remember
from headrace.plugins.duckdb.quarantine import counts, records
from headrace.plugins.duckdb.redrive import spool_quarantine, take_back
from headrace.plugins.duckdb.replaced import close, predecessors, refuse_replaced, successor
from headrace.plugins.duckdb.rows import inserted, prepare, write_rows
from headrace.plugins.duckdb.tables import HELD, LINEAGE, PLACE, expected, quarantine, refuse_taken, statements
from headrace.rowwise import lacking
from headrace.tally import Stored, Tally
from headrace.typed.columns import declared, quoted
from headrace.typed.engine import engine
from headrace.typed.fields import new_fields, told
from headrace.typed.segments import check_counts, describe, describe_places
from headrace.typed.share import check_share
from headrace.typed.spool import Spooled, spool, workspace
from headrace.typed.staging import Staging

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI


_log = logging.getLogger("headrace.plugins.duckdb")


@attrs.define(kw_only=True, eq=False)
class DuckDBLoader(Loader):
    """
    One table of a DuckDB file. The file is open only while a call runs, so that others can read it in between.

    Attributes:
        database: The file.

        target: The table.

        contract: The class that says what a row is.

        lock_timeout_s: How long another process may keep the file before a call gives up.

        threads: Of DuckDB; 0: as many as there are cores.

        memory: DuckDB's own limit, such as "1GB"; "" for its default.

        clock: Monotonic seconds.

        sleep: Waits.
    """

    database: Path = attrs.field(converter=Path)
    target: str
    contract: type
    lock_timeout_s: float = 30.0
    threads: int = 0
    memory: str = ""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _contract: Contract = attrs.field(init=False, repr=False)
    _made: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._contract = Contract.of(self.contract)
        if self.database.name == ":memory:":
            raise ConfigError(
                "found database ':memory:', expected a file: it is opened for each call alone, and of a database in memory"
                " nothing would be left after the first one"
            )
        if self.target.startswith(("_", "headrace_")):
            raise ConfigError(
                f"found table {self.target!r}, expected a name that does not begin with '_' or 'headrace_'"
            )

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry, *, contract: type) -> DuckDBLoader:
        """Make the loader of ``duckdb:///silver.duckdb?table=trades``."""
        if uri.host or uri.path in ("", "/"):
            raise ConfigError(f"found {uri}, expected duckdb:///absolute/path.duckdb?table=NAME: three slashes")
        if not uri.settings.get("table"):
            raise ConfigError(f"found {uri}, expected the table to load: add ?table=NAME")
        found = uri.fields(cls, leave=("table",), unsettable=("database", "contract", "target"))
        return cls(**{"database": uri.path, "target": uri.settings["table"], "contract": contract, **found})

    # ---- the loader's verbs -------------------------------------------------------------------------------

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        if not self.database.exists():
            return dict.fromkeys(lines)
        with self._opened() as connection:  # nothing is made: who only asks may know no contract
            there = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_ledger'").fetchall()
            return {line: _position(connection, line) if there else None for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        if not segments:
            return LoadResult()
        with self._connected() as connection, workspace() as folder:
            wanted = self._lacking(connection, segments)
            if not wanted:
                return LoadResult()
            spooled = spool(wanted, folder)
            if self.evolve:
                self._evolve(connection, spooled)
            staging = Staging(connection, self._contract, folder)
            staging.stage(spooled)
            counted = staging.counts()
            check_counts(wanted, counted)
            describe(connection, wanted)
            check_share(connection, counted, self.max_rejected, self.target)
            prepare(connection, self._contract)
            return self._transaction(connection, lambda attempt: self._insert(connection, attempt, wanted))

    def begin(self, line: Line, position: int) -> None:
        with self._connected() as connection:
            self._transaction(connection, lambda attempt: self._begin(connection, attempt, line, position))

    def redrive(self, selection: Selection) -> LoadResult:
        with self._connected() as connection, workspace() as folder:
            spooled, places = spool_quarantine(connection, self.target, selection, folder)
            if not places:
                return LoadResult()
            staging = Staging(connection, self._contract, folder)
            staging.stage(spooled)
            describe_places(connection, places)
            prepare(connection, self._contract)
            return self._transaction(
                connection,
                lambda attempt: take_back(
                    connection, self.target, self._contract, {"target": self.target, "attempt": attempt}
                ),
            )

    def described(self) -> Contract:
        if self.database.exists():
            with self._opened() as connection:
                self._contract = evolved(connection, self.target, Contract.of(self.contract))
        return self._contract

    def changes(self, segments: Sequence[LoadableSegment] = ()) -> Sequence[Change]:
        there = self.database.exists()
        with workspace() as folder, self._opened() if there else engine(folder) as connection:
            known, found = self._contract, []
            if there:
                self._refuse_older(connection)
                known = evolved(connection, self.target, self._contract)
                found = changes(connection, self.target, known)
            if self.evolve and segments:
                new = fitting(connection, self.target, new_fields(connection, spool(segments, folder), known))
                found += additions(self.target, new.columns)
            return found

    def alter(self) -> Sequence[Change]:
        if not self.database.exists():
            return []
        with self._opened() as connection:
            self._refuse_older(connection)
            self._contract = evolved(connection, self.target, Contract.of(self.contract))
            wanted = changes(connection, self.target, self._contract)
            refuse_impossible(f"{self.target} in {self.database}", wanted)
            forget(connection, self.target, self._contract)
            for change in wanted:
                connection.execute(change.statement)
            if wanted:
                self._made = False
                self._make_tables(connection)  # the views follow
            return wanted

    def quarantined(self, selection: Selection) -> Iterator[QuarantinedRecord]:
        if self.database.exists():
            yield from records(self._opened, self.target, selection)

    def quarantine_counts(self, selection: Selection) -> Sequence[QuarantineCount]:
        return counts(self._opened, self.target, selection) if self.database.exists() else []

    def recorded(self, line: Line, start: int, end: int) -> int | None:
        if not self.database.exists():
            return 0
        with self._opened() as connection:
            return recorded(connection, line, start, end)

    def current(self) -> str:
        if not self.database.exists():
            return self.target
        with self._opened() as connection:
            return successor(connection, self.target)

    def take_over(self, name: str) -> None:
        with self._connected() as connection:
            if successor(connection, name) != self.target:
                self._transaction(connection, lambda attempt: self._take_over(connection, name, attempt))
                self._made = False
                self._make_tables(connection)  # other views follow

    def _take_over(self, connection: duckdb.DuckDBPyConnection, name: str, attempt: str) -> LoadResult:
        """DuckDB's DDL is of the transaction, so that view and lock row change together (elsewhere S4 forbids it)."""
        close(connection, successor(connection, name), self.target, attempt)
        for known in {name, *predecessors(connection, self.target)}:  # whichever of their names readers know
            connection.execute(views.repointed(known, self._contract, self.target))
        return LoadResult()

    def census(self, line: Line, start: int, end: int) -> Census | None:
        if not self.database.exists():
            return Census(0, 0, 0)
        with self._opened() as connection:  # nothing is made, and who counts may have any contract of this target
            if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [self.target]).fetchall():
                return Census(0, 0, 0)
            place = {"dataset": line.dataset_id, "stream": line.partition.stream, "number": line.partition.number}
            where = "_dataset = $dataset AND _stream = $stream AND _partition = $number AND _offset >= $start AND _offset < $end"
            within = {**place, "start": start, "end": end}
            rows, refused = (
                connection.execute(
                    f"SELECT count(DISTINCT _offset) FROM {quoted(table)} WHERE {where}", within
                ).fetchall()[0][0]
                for table in (self.target, quarantine(self.target))
            )
            if not self._contract.key:
                return Census(rows, refused, 0)
            [(records,)] = connection.execute(
                "SELECT coalesce(sum(records), 0)::BIGINT FROM headrace_ledger WHERE dataset = $dataset AND stream = $stream AND"
                " \"partition\" = $number AND kind = 'load' AND start_offset >= $start AND end_offset <= $end"
                " AND target = $target",
                {**within, "target": self.target},
            ).fetchall()
            return Census(rows, refused, max(0, records - rows - refused))

    def tally(self, dataset_id: str, stream: str) -> Tally | None:
        if not self.database.exists():
            return None
        with self._opened() as connection:
            return tally(connection, self.target, self._contract.key, dataset_id, stream)

    def stored(self, line: Line, start: int, end: int, *, cells: bool = True) -> Stored:
        with self._opened() as connection:
            contract = evolved(connection, self.target, Contract.of(self.contract)) if cells else None
            return stored(connection, self.target, contract, (line.dataset_id, line.partition), start, end)

    def check(self) -> Iterator[Finding]:
        return check_file(self)

    # ---- the transaction ----------------------------------------------------------------------------------

    def _transaction(self, connection: duckdb.DuckDBPyConnection, work: Callable[[str], LoadResult]) -> LoadResult:
        """Lock row first, with a fresh attempt id; everything else after it; COMMIT last (S2)."""
        attempt = marked(secrets.token_hex(16))
        connection.execute("BEGIN")
        try:
            self._lock(connection, attempt)
            result = work(attempt)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._commit(connection)
        return result

    def _lock(self, connection: duckdb.DuckDBPyConnection, attempt: str) -> None:
        try:
            found = connection.execute(
                "UPDATE headrace_lock SET owner = $attempt, contract = $contract,"
                " contract_version = $version WHERE target = $target AND contract_version <= $version",
                {
                    "attempt": attempt,
                    "contract": self._contract.name,
                    "version": self._contract.version,
                    "target": self.target,
                },
            ).fetchall()
        except duckdb.TransactionException as exc:
            raise SinkUnavailableError(
                f"another loader is at work on {self.target} in {self.database}; try again"
            ) from exc
        if found[0][0] != 1:
            self._refuse_older(connection)
            raise ConfigError(
                f"{self.target} in {self.database} has no row in headrace_lock: it was taken away by hand"
            )

    def _refuse_older(self, connection: duckdb.DuckDBPyConnection) -> None:
        """S7: a deployment that was left behind changes nothing of what a newer contract has made."""
        if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_lock'").fetchall():
            return
        refuse_replaced(connection, self.target)
        newest = connection.execute(
            "SELECT contract, contract_version FROM headrace_lock WHERE target = ?", [self.target]
        ).fetchall()
        if newest and newest[0][1] > self._contract.version:
            raise ConfigError(
                f"{self.target} in {self.database} was loaded by contract {newest[0][0]} version {newest[0][1]}, this loader has"
                f" {self._contract.name} version {self._contract.version}: use the newer contract, or another table (S7)"
            )

    def _commit(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("COMMIT")
        except duckdb.TransactionException as exc:
            raise SinkUnavailableError(
                f"{self.database}: the transaction was refused ({exc}); nothing was written"
            ) from exc
        except duckdb.Error as exc:
            raise CommitUnknownError(
                f"{self.database}: the answer to COMMIT is not known ({exc}); the same call settles it"
            ) from exc

    def _begin(self, connection: duckdb.DuckDBPyConnection, attempt: str, line: Line, position: int) -> LoadResult:
        """A row of its own kind in the ledger, where it, read under the lock, has none of this line (S1)."""
        found = _position(connection, line)
        if found == position:
            return LoadResult()
        if found is not None:
            raise PositionConflictError(
                f"{self.target}: the ledger of {line.partition} is at {found}, it cannot begin at {position}",
                expected=position,
                found=None,
            )
        begun = connection.execute(
            "INSERT INTO headrace_ledger SELECT $dataset, $stream, $number, $target, 'begin_at', 0, $position, 0, 0, 0, 0, NULL,"
            f" $contract, $version, $attempt, now() WHERE {HELD}",
            {
                "dataset": line.dataset_id,
                "stream": line.partition.stream,
                "number": line.partition.number,
                "target": self.target,
                "position": position,
                "contract": self._contract.name,
                "version": self._contract.version,
                "attempt": attempt,
            },
        ).fetchall()[0][0]
        if begun != 1:
            raise CommitUnknownError(f"{self.target}: the transaction was lost, nothing is kept")
        return LoadResult()

    def _insert(
        self, connection: duckdb.DuckDBPyConnection, attempt: str, wanted: Sequence[LoadableSegment]
    ) -> LoadResult:
        """Rows, quarantine and ledger of the segments that the ledger, read under the lock, still lacks."""
        left = self._lacking(connection, wanted)
        if len(left) < len(wanted):  # another loader was first with some: staged anew without them
            raise PositionConflictError(
                f"{self.target}: {len(wanted) - len(left)} of {len(wanted)} segments were loaded by another loader"
                " meanwhile",
                expected=wanted[0].segment.start,
                found=None,
            )
        held = {"target": self.target, "attempt": attempt}
        added = write_rows(connection, self.target, self._contract, held)
        about = {**held, "contract": self._contract.name, "version": self._contract.version}
        rejected = connection.execute(
            f"INSERT INTO {quoted(quarantine(self.target))} SELECT {PLACE}, r._offset, r._timestamp_ms, $contract, $version,"
            f' r."column", r.reason, r.line, now() FROM refused r JOIN segments s ON s.file = r._file WHERE {HELD}',
            about,
        ).fetchall()[0][0]
        accepted = "(SELECT count(*) FROM staged r WHERE r._file = s.file)"
        taken = inserted(self._contract, accepted)
        loaded = connection.execute(
            f"INSERT INTO headrace_ledger SELECT {PLACE}, $target, 'load', s.start_offset, s.end_offset, s.records,"
            f" {taken}, {accepted} - {taken}, (SELECT count(*) FROM refused r WHERE r._file = s.file),"
            f" s.digest, $contract, $version, $attempt, now() FROM segments s WHERE {HELD}",
            about,
        ).fetchall()[0][0]
        records = sum(s.segment.trailer.records for s in wanted)
        superseded = records - rejected - added
        if loaded != len(wanted) or superseded < 0 or (superseded and not self._contract.key):
            raise CommitUnknownError(
                f"{self.target}: {loaded} of {len(wanted)} ledger rows and {added + rejected} of {records} records were"
                " written; the transaction was lost, nothing is kept"
            )
        return LoadResult(len(wanted), records, added, superseded, rejected)

    def _lacking(
        self, connection: duckdb.DuckDBPyConnection, segments: Sequence[LoadableSegment]
    ) -> list[LoadableSegment]:
        """The segments that the ledger has not; each must start where its line ends (S1, S2)."""
        return lacking(segments, self.target, lambda line: _position(connection, line))

    # ---- connection ---------------------------------------------------------------------------------------

    def _opened(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open the file."""
        return connected(
            self.database,
            threads=self.threads,
            memory=self.memory,
            lock_timeout_s=self.lock_timeout_s,
            clock=self.clock,
            sleep=self.sleep,
        )

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file, with the tables made."""
        with self._opened() as connection:
            kept = evolved(connection, self.target, Contract.of(self.contract))
            self._made &= kept == self._contract  # else another loader has added columns
            self._contract = kept
            self._make_tables(connection)
            yield connection

    def _evolve(self, connection: duckdb.DuckDBPyConnection, spooled: Spooled) -> None:
        """Add columns for what these lines have and the contract does not name, before the transaction (S4)."""
        found = fitting(connection, self.target, new_fields(connection, spooled, self._contract))
        for about in told(found.left):
            log_event(_log, logging.WARNING, "fields left out", target=self.target, **about)
        if not found.columns:
            return
        self._refuse_older(connection)
        remember(connection, self.target, found.columns)
        for change in additions(self.target, found.columns):
            log_event(_log, logging.WARNING, "column added", target=self.target, statement=change.statement)
        self._contract = evolved(connection, self.target, Contract.of(self.contract))
        self._made = False
        self._make_tables(connection)  # the views follow

    def _make_tables(self, connection: duckdb.DuckDBPyConnection) -> None:
        """DDL before any transaction (S4), once for each loader."""
        if self._made:
            return
        refuse_replaced(connection, self.target)
        refuse_taken(connection, self.target, views.current(self.target))
        try:
            comment = connection.execute(
                "SELECT comment FROM duckdb_tables() WHERE table_name = ?", [self.target]
            ).fetchall()
            for statement in statements(self.target, self._contract, comment[0][0] if comment else None):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO headrace_lock VALUES (?, NULL, ?, ?) ON CONFLICT DO NOTHING",
                [self.target, self._contract.name, self._contract.version],
            )
        except duckdb.ConstraintException as exc:  # another thread makes them at this moment
            raise SinkUnavailableError(
                f"{self.target} in {self.database} is being made by another loader; try again"
            ) from exc
        self._check_columns(connection)
        newest = connection.execute(
            "SELECT contract_version FROM headrace_lock WHERE target = ?", [self.target]
        ).fetchall()
        if newest <= [(self._contract.version,)]:  # what an older contract has to say of views is not asked
            self._make_views(connection)
            self._make_bars(connection)
        self._made = True

    def _make_views(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Of this target, and of those that it has taken over from."""
        for name in (self.target, *predecessors(connection, self.target)):
            there = connection.execute(
                "SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND schema_name = current_schema()"
                " AND database_name = current_database() ORDER BY column_index",
                [views.current(name)],
            ).fetchall()
            for statement in views.statements(name, self._contract, [column for (column,) in there], self.target):
                connection.execute(statement)

    def _make_bars(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The view of bars and the columns' comments."""
        source = views.current(self.target) if self._contract.key else self.target
        for statement in descriptions(connection, self.target, self._contract):
            connection.execute(statement)
        for name in (self.target, *predecessors(connection, self.target)):
            for statement in bars_statements(connection, name, self._contract, source):
                connection.execute(statement)

    def _check_columns(self, connection: duckdb.DuckDBPyConnection) -> None:
        """A table whose columns are of other types would round what is put into it, without a word."""
        columns = connection.execute(
            "SELECT lower(column_name), data_type, is_nullable, column_default IS NOT NULL FROM duckdb_columns() WHERE"
            " table_name = ? AND schema_name = current_schema() AND database_name = current_database()",
            [self.target],
        ).fetchall()
        found = {name: (kind, nullable) for name, kind, nullable, _ in columns}
        filled = {name for name, *_, default in columns if default}
        wanted = {name.lower(): of for name, of in expected(self._contract).items()}
        wrong = [
            f"column {name} is {declared(found[name][0], nullable=found[name][1]) if name in found else 'not there'},"
            f" expected {declared(kind, nullable=nullable)}"
            for name, (kind, nullable) in wanted.items()
            if name not in found or found[name][0] != kind or (nullable and not found[name][1])
        ]
        wrong += [
            f"column {name} is not there, which says where a row comes from" for name in LINEAGE if name not in found
        ]
        wrong += [
            f"column {name} is NOT NULL, and the contract has no such column"
            for name, (_, nullable) in found.items()
            if not nullable and name not in wanted and name not in LINEAGE and name not in filled
        ]
        if wrong:
            raise ConfigError(
                f"{self.target} in {self.database} is not the table of contract {self._contract.name} version"
                f" {self._contract.version}: {'; '.join(wrong)}. `headrace load --plan` says what"
                " --alter would do about it; or load into another table"
            )


def _position(connection: duckdb.DuckDBPyConnection, line: Line) -> int | None:
    found = connection.execute(
        'SELECT max(end_offset) FROM headrace_ledger WHERE dataset = ? AND stream = ? AND "partition" = ? AND target = ?'
        " AND kind IN ('load', 'begin_at')",
        [line.dataset_id, line.partition.stream, line.partition.number, line.target],
    ).fetchall()
    position: int | None = found[0][0]
    return position


def recorded(connection: duckdb.DuckDBPyConnection, line: Line, start: int, end: int) -> int:
    """How many records the ledger has of the segments in a range of a line."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_ledger'").fetchall():
        return 0
    found = connection.execute(
        'SELECT coalesce(sum(records), 0)::BIGINT FROM headrace_ledger WHERE dataset = ? AND stream = ? AND "partition" = ?'
        " AND target = ? AND kind = 'load' AND start_offset >= ? AND end_offset <= ?",
        [line.dataset_id, line.partition.stream, line.partition.number, line.target, start, end],
    ).fetchall()
    count: int = found[0][0]
    return count

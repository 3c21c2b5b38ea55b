"""Loads segments into a schema of Snowflake: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import attrs
import msgspec

from headrace.contract import Contract
from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    HeadraceError,
    PositionConflictError,
    SinkUnavailableError,
    TransientError,
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
from headrace.logs import marked, run_id
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.alter import additions, altered, changes, columns, fitting
from headrace.plugins.snowflake.audit import stored, tally
from headrace.plugins.snowflake.connection import Session, opened
from headrace.plugins.snowflake.doctor import check_account
from headrace.plugins.snowflake.evolve import forget, outgrown, remember, remembered
from headrace.plugins.snowflake.making import Kept, Making
from headrace.plugins.snowflake.quarantine import counts, records, spool_quarantine
from headrace.plugins.snowflake.replaced import close, followed, refuse_unknown
from headrace.plugins.snowflake.staging import Staged, Stager, sweep
from headrace.plugins.snowflake.tables import Tables
from headrace.plugins.snowflake.writing import Writing
from headrace.records import Partition
from headrace.rowwise import lacking
from headrace.tally import Stored, Tally
from headrace.typed.engine import engine
from headrace.typed.fields import new_fields, told
from headrace.typed.replaced import successor
from headrace.typed.segments import check_counts, describe, describe_places
from headrace.typed.share import check_share
from headrace.typed.spool import Spooled, spool, workspace
from headrace.typed.staging import Staging
from headrace.uri import NESTED

if TYPE_CHECKING:
    import duckdb

    from headrace.registry import Registry
    from headrace.uri import URI

T = TypeVar("T")

_log = logging.getLogger("headrace.plugins.snowflake")

_ELSEWHERE = ("account", "user", "private_key")
"""What no setting of the URI says of an account: its host and its user do, and bytes are for Python."""

_TAG_CHARACTERS = 1900
"""A query tag of the service's has 2,000 at most."""


@attrs.define(kw_only=True, eq=False)
class SnowflakeLoader(Loader):
    """
    One table of a schema. It keeps one session from call to call, and opens another one after an error.

    Attributes:
        account: Where and as whom to connect.

        database: Of the table.

        schema: Of the table; it must be there.

        target: The table. Case does not matter, here nor to readers.

        contract: The class that says what a row is.

        run: Names this run in the query tags; "" for one of its own.

        lock_timeout_s: How long another loader may hold the table's lock row before a call gives up; 0: it gives up at once.

        statement_timeout_s: How long one statement may take.

        network_timeout_s: How long a login, or a request beside statements, may take.

        threads: Of DuckDB, which types the rows; 0: as many as there are cores.

        memory: Its limit, such as "1GB"; "" for its default.

        clock: Seconds since the epoch: when an attempt began.
    """

    account: Account = attrs.field(metadata={NESTED: _ELSEWHERE})
    database: str
    schema: str
    target: str
    contract: type
    run: str = ""
    lock_timeout_s: float = 60.0
    statement_timeout_s: float = 3600.0
    network_timeout_s: float = 120.0
    threads: int = 0
    memory: str = ""
    clock: Callable[[], float] = time.time
    _kept: Kept = attrs.field(init=False, repr=False)
    _tables: Tables = attrs.field(init=False, repr=False)
    _session: Session | None = attrs.field(default=None, init=False, repr=False)
    _made: bool = attrs.field(default=False, init=False)
    _swept: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._kept = Kept(Contract.of(self.contract))
        if self.target.startswith("_") or self.target.lower().startswith("headrace_"):
            raise ConfigError(
                f"found table {self.target!r}, expected a name that does not begin with '_' or 'headrace_'"
            )
        self.target = self.target.upper()  # the ledger's word for it, whoever wrote it how
        self._tables = Tables(self.target)
        self.run = self.run or run_id() or secrets.token_hex(4)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry, *, contract: type) -> SnowflakeLoader:
        """Make the loader of ``snowflake://account/DATABASE/SCHEMA?table=TRADES&warehouse=LOADING&connection=NAME``."""
        place = uri.path.strip("/").split("/")
        if len(place) != 2 or not all(place):
            raise ConfigError(f"found {uri}, expected snowflake://ACCOUNT/DATABASE/SCHEMA?table=NAME")
        if not uri.settings.get("table"):
            raise ConfigError(f"found {uri}, expected the table to load: add ?table=NAME")
        mine = {f.name for f in attrs.fields(cls)} - {"account", "database", "schema", "target", "contract"}
        settings = {name: value for name, value in uri.settings.items() if name != "table"}
        of_account = {name: value for name, value in settings.items() if name.replace("-", "_") not in mine}
        found = attrs.evolve(uri, settings={n: v for n, v in settings.items() if n not in of_account}).fields(cls)
        given = attrs.evolve(uri, settings=of_account).fields(Account, unsettable=_ELSEWHERE, leave=())
        account = Account(**{"account": uri.host, "user": uri.user, "password": uri.password, **given})
        return cls(
            account=account,
            database=place[0],
            schema=place[1],
            target=uri.settings["table"],
            contract=contract,
            **found,
        )

    @property
    def where(self) -> str:
        """Where the table is, for messages."""
        return f"{self.database}.{self.schema}.{self.target}".upper()

    @property
    def _contract(self) -> Contract:
        """What rows are: the contract, with the columns that the stream has brought."""
        return self._kept.contract

    # ---- the loader's verbs -------------------------------------------------------------------------------

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        with self._connected(make=False) as session:  # nothing is made: who only asks may know no contract
            targets = {line.target.upper() for line in lines}
            there = bool(targets) and self._is_there(session, "HEADRACE_LEDGER")
            found = self._ends(session, *targets) if there else {}
            return {line: found.get(attrs.evolve(line, target=line.target.upper())) for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        if not segments:
            return LoadResult()
        with self._connected() as session:
            wanted = self._lacking(session, segments)
            if not wanted:
                return LoadResult()
            self._tag(session, *(f"{s.segment.partition} [{s.segment.start}, {s.segment.end})" for s in wanted))
            with workspace() as folder, engine(folder, threads=self.threads, memory=self.memory) as typing:
                spooled = spool(wanted, folder)
                if self.evolve:
                    self._evolve(session, typing, spooled)
                staging = Staging(typing, self._contract, folder)
                staging.stage(spooled)
                counted = staging.counts()
                check_counts(wanted, counted)
                describe(typing, wanted)
                check_share(typing, counted, self.max_rejected, self.target)
                stager = Stager(session, typing, self._tables, self._contract, folder, self.clock)
                with stager.staged() as staged:
                    return self._transaction(session, lambda writing: self._write(writing, staged, wanted))

    def begin(self, line: Line, position: int) -> None:
        with self._connected() as session:
            self._transaction(session, lambda writing: self._begin(writing, line, position))

    def redrive(self, selection: Selection) -> LoadResult:
        with self._connected() as session, workspace() as folder:
            self._tag(session, f"redrive {selection}")
            spooled, places = spool_quarantine(session, self._tables, selection, folder)
            if not places:
                return LoadResult()
            with engine(folder, threads=self.threads, memory=self.memory) as typing:
                Staging(typing, self._contract, folder).stage(spooled)
                describe_places(typing, places)
                stager = Stager(session, typing, self._tables, self._contract, folder, self.clock)
                with stager.staged() as staged:
                    return self._transaction(session, lambda writing: self._take_back(writing, staged))

    def described(self) -> Contract:
        with self._connected(make=False) as session:
            making = self._making(session)
            return making.kept(making.there()).contract

    def changes(self, segments: Sequence[LoadableSegment] = ()) -> Sequence[Change]:
        with self._connected(make=False) as session:
            making = self._making(session)
            there = making.there()
            making.refuse_older(there)
            kept = making.kept(there).contract
            described = columns(session, self._tables) if self._tables.rows in there else []
        found = changes(self._tables, kept, described) if described else []
        if self.evolve and segments:
            with workspace() as folder, engine(folder, threads=self.threads, memory=self.memory) as typing:
                new = fitting(new_fields(typing, spool(segments, folder), kept), described)
                found += additions(self._tables, new.columns)
        return found

    def alter(self) -> Sequence[Change]:
        wanted = self.changes()
        refuse_impossible(self.where, wanted)
        if wanted:
            with self._connected(make=False) as session:
                making = self._making(session)
                names = outgrown(making.kept(making.there()).brought, making.contract)
                if names:
                    self._transaction(session, lambda writing: forget(session, self._tables, writing.attempt, names))
                altered(session, wanted, self.changes)
                self._make_tables(session)  # the views follow
        return wanted

    def quarantined(self, selection: Selection) -> Iterator[QuarantinedRecord]:
        with self._connected(make=False) as session:
            if self._is_there(session, f"{self.target}_QUARANTINE"):
                yield from records(session, self._tables, selection)

    def quarantine_counts(self, selection: Selection) -> Sequence[QuarantineCount]:
        with self._connected(make=False) as session:
            there = self._is_there(session, f"{self.target}_QUARANTINE")
            return counts(session, self._tables, selection) if there else []

    def census(self, line: Line, start: int, end: int) -> Census | None:
        with self._connected(make=False) as session:
            if not self._is_there(session, self.target):
                return Census(0, 0, 0)
            place = (line.dataset_id, line.partition.stream, line.partition.number, start, end)
            where = "_DATASET = %s AND _STREAM = %s AND _PARTITION = %s AND _OFFSET >= %s AND _OFFSET < %s"
            found = [
                int(session.execute(f"SELECT COUNT(DISTINCT _OFFSET) AS N FROM {table} WHERE {where}", *place)[0][0])
                for table in (self._tables.rows, self._tables.quarantine)
            ]
            if not self._contract.key:
                return Census(found[0], found[1], 0)
            hidden = self._recorded(session, line, start, end) - found[0] - found[1]
            return Census(found[0], found[1], max(0, hidden))

    def recorded(self, line: Line, start: int, end: int) -> int | None:
        with self._connected(make=False) as session:
            if not self._is_there(session, "HEADRACE_LEDGER"):
                return 0
            return self._recorded(session, line, start, end)

    def _recorded(self, session: Session, line: Line, start: int, end: int) -> int:
        """How many records the ledger has of the segments in a range of a line."""
        [(counted,)] = session.execute(
            f"SELECT COALESCE(SUM(RECORDS), 0)::NUMBER(38,0) AS N FROM {self._tables.ledger} WHERE DATASET = %s"
            " AND STREAM = %s AND PARTITION = %s AND START_OFFSET >= %s AND END_OFFSET <= %s AND KIND = 'load' AND TARGET = %s",
            *(line.dataset_id, line.partition.stream, line.partition.number, start, end, self.target),
        )
        return int(counted)

    def tally(self, dataset_id: str, stream: str) -> Tally | None:
        with self._connected(make=False) as session:
            there = [self._is_there(session, t) for t in (self.target, f"{self.target}_QUARANTINE", "HEADRACE_LEDGER")]
            key = Contract.of(self.contract).key
            return tally(session, self._tables, key, dataset_id, stream) if all(there) else None

    def stored(self, line: Line, start: int, end: int, *, cells: bool = True) -> Stored:
        with self._connected(make=False) as session:
            making = self._making(session)
            contract = making.kept(making.there()).contract if cells else None
            return stored(session, self._tables, contract, (line.dataset_id, line.partition), start, end)

    def current(self) -> str:
        with self._connected(make=False) as session:
            there = self._is_there(session, "HEADRACE_REPLACED")
            return successor(followed(session, self._tables), self.target) if there else self.target

    def take_over(self, name: str) -> None:
        with self._connected() as session:
            refuse_unknown(self._making(session).there(), name.upper())
            if successor(followed(session, self._tables), name.upper()) != self.target:
                self._transaction(session, lambda writing: self._take_over(writing, name.upper()))
            self._make_tables(session)  # other views follow, also where a call before this one came no further

    def check(self) -> Iterator[Finding]:
        return check_account(self)

    def close(self) -> None:
        self._made = False
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    # ---- the transaction ----------------------------------------------------------------------------------

    def _transaction(self, session: Session, work: Callable[[Writing], T]) -> T:
        """Lock row first, with a fresh attempt id; everything else after it; COMMIT last (S2)."""
        writing = Writing(session, self._tables, self._contract, marked(secrets.token_hex(16)))
        session.execute("BEGIN")
        try:
            self._lock(session, writing.attempt)
            result = work(writing)
        except BaseException:
            self._roll_back(session)
            raise
        session.commit()
        return result

    def _roll_back(self, session: Session) -> None:
        try:
            session.execute("ROLLBACK")
        except HeadraceError:  # the session is not to be used again: what it left is rolled back when it ends
            self.close()

    def _lock(self, session: Session, attempt: str) -> None:
        contract, version = self._contract.name, self._contract.version
        locked = session.changed(
            f"UPDATE {self._tables.lock} SET OWNER = %s, CONTRACT = %s, CONTRACT_VERSION = %s WHERE CONTRACT_VERSION <= %s",
            *(attempt, contract, version, version),
        )
        if locked != 1:
            self._making(session).refuse_older({self._tables.lock})
            raise ConfigError(
                f"{self.where} has {locked} rows in {self._tables.lock}, expected one: it was changed by hand"
            )

    def _refuse_unknown_columns(self, session: Session) -> None:
        """Under the lock: what was typed without a column that came meanwhile would be null there though it has a value."""
        if tuple(remembered(session, self._tables)) != self._kept.brought:
            raise SinkUnavailableError(
                f"{self.where}: another loader has added columns meanwhile; nothing was written, try again"
            )

    def _write(self, writing: Writing, staged: Staged, wanted: Sequence[LoadableSegment]) -> LoadResult:
        """Rows, quarantine and ledger of the segments that the ledger, read under the lock, still lacks."""
        self._refuse_unknown_columns(writing.session)
        left = self._lacking(writing.session, wanted)
        if len(left) < len(wanted):  # another loader was first with some: staged anew without them
            raise PositionConflictError(
                f"{self.where}: {len(wanted) - len(left)} of {len(wanted)} segments were loaded by another loader"
                " meanwhile",
                expected=wanted[0].segment.start,
                found=None,
            )
        added = writing.rows(staged)
        rejected = writing.quarantine(staged)
        loaded = writing.ledger(staged)
        counted = sum(s.segment.trailer.records for s in wanted)
        superseded = counted - rejected - added
        if loaded != len(wanted) or superseded < 0 or (superseded and not self._contract.key):
            raise CommitUnknownError(
                f"{self.where}: {loaded} of {len(wanted)} ledger rows and {added + rejected} of {counted} records were"
                " written; the transaction was lost, nothing is kept"
            )
        return LoadResult(len(wanted), counted, added, superseded, rejected)

    def _take_back(self, writing: Writing, staged: Staged) -> LoadResult:
        """What was staged and is still in quarantine goes to the target; what is refused again says so (S6)."""
        self._refuse_unknown_columns(writing.session)
        added = writing.rows(staged, still=True)
        lines = writing.redriven(staged)
        removed = writing.leave(staged)
        if removed < added or (not self._contract.key and removed != added) or bool(lines) != bool(removed):
            raise CommitUnknownError(
                f"{self.where}: {added} rows went in and {removed} left quarantine; nothing is kept"
            )
        writing.stay(staged)
        return LoadResult(0, 0, added, removed - added, -removed)

    def _begin(self, writing: Writing, line: Line, position: int) -> None:
        """A row of its own kind in the ledger, where it, read under the lock, has none of this line (S1)."""
        found = self._ends(writing.session).get(attrs.evolve(line, target=self.target))
        if found == position:
            return
        if found is not None:
            raise PositionConflictError(
                f"{self.where}: the ledger of {line.partition} is at {found}, it cannot begin at {position}",
                expected=position,
                found=None,
            )
        if writing.begin(line.dataset_id, line.partition.stream, line.partition.number, position) != 1:
            raise CommitUnknownError(f"{self.where}: the transaction was lost, nothing is kept")

    def _take_over(self, writing: Writing, name: str) -> None:
        """Close the target that readers see by that name now, which may be another one than before the lock."""
        old = successor(followed(writing.session, self._tables), name)
        if old != self.target:
            close(writing.session, old, self._tables, writing.attempt)

    def _evolve(self, session: Session, typing: duckdb.DuckDBPyConnection, spooled: Spooled) -> None:
        """Add columns for what these lines have and the contract does not name, before the transaction (S4)."""
        found = fitting(new_fields(typing, spooled, self._contract), columns(session, self._tables))
        for about in told(found.left):
            log_event(_log, logging.WARNING, "fields left out", target=self.target, **about)
        if not found.columns:
            return
        new = self._transaction(
            session, lambda writing: remember(session, self._tables, writing.attempt, found.columns)
        )
        self._make_tables(session)  # adds them, and the views follow
        for change in additions(self._tables, new):
            log_event(_log, logging.WARNING, "column added", target=self.target, statement=change.statement)

    def _lacking(self, session: Session, segments: Sequence[LoadableSegment]) -> list[LoadableSegment]:
        """The segments that the ledger has not; each must start where its line ends (S1, S2)."""
        return lacking(segments, self.target, self._ends(session).get, where=self.where)

    def _ends(self, session: Session, *targets: str) -> dict[Line, int]:
        """How far each line of some targets, or of this one, is loaded (S1)."""
        asked = targets or (self.target,)
        found = session.execute(
            "SELECT DATASET, STREAM, PARTITION, TARGET, MAX(END_OFFSET) AS N FROM"
            f" {self._tables.ledger} WHERE TARGET IN ({', '.join(['%s'] * len(asked))}) AND KIND IN ('load', 'begin_at')"
            " GROUP BY DATASET, STREAM, PARTITION, TARGET",
            *asked,
        )
        return {Line(d, Partition(s, int(p)), target): int(end) for d, s, p, target, end in found}

    # ---- connection ---------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self, *, make: bool = True) -> Iterator[Session]:
        """Give the session, with the tables made if asked; after an error that may be the session's it is ended."""
        if self._session is None:
            self._session = opened(
                self.account,
                database=self.database.upper(),
                schema=self.schema.upper(),
                where=self.where,
                parameters={
                    "QUERY_TAG": self._tag_of(),
                    "LOCK_TIMEOUT": int(self.lock_timeout_s),
                    "STATEMENT_TIMEOUT_IN_SECONDS": int(self.statement_timeout_s),
                },
                timeout_s=self.network_timeout_s,
            )
        try:
            if make and not self._made:
                self._make_tables(self._session)
            yield self._session
        except GeneratorExit:
            raise
        except HeadraceError as error:
            if isinstance(error, TransientError):
                self.close()
            raise
        except BaseException:
            self.close()
            raise

    def _tag_of(self, *ranges: str) -> str:
        tag = {"app": "headrace", "run": self.run, "target": self.target, "ranges": "; ".join(ranges)}
        spare = _TAG_CHARACTERS - len(msgspec.json.encode({**tag, "ranges": ""}).decode())
        return msgspec.json.encode({**tag, "ranges": tag["ranges"][:spare]}).decode()[:_TAG_CHARACTERS]

    def _tag(self, session: Session, *ranges: str) -> None:
        """Say in the account's query history what the next statements are for."""
        session.execute("ALTER SESSION SET QUERY_TAG = %s", self._tag_of(*ranges))

    def _is_there(self, session: Session, table: str) -> bool:
        return bool(
            session.execute(
                "SELECT 1 AS X FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
                self.schema.upper(),
                table,
            )
        )

    def _make_tables(self, session: Session) -> None:
        """DDL before any transaction (S4), once for each session; what is not the contract's table is refused."""
        self._made = False
        self._kept = self._making(session).make()
        if not self._swept:
            sweep(session, self._tables, self.schema.upper(), self.clock())
        self._made = self._swept = True

    def _making(self, session: Session) -> Making:
        return Making(session, self._tables, Contract.of(self.contract), self.schema.upper(), self.where)

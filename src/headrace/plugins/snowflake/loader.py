"""Loads segments into a schema of Snowflake: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

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
    TransientError,
)
from headrace.finding import Finding
from headrace.loader import (
    Census,
    Line,
    LoadableSegment,
    Loader,
    LoadResult,
    QuarantineCount,
    QuarantinedRecord,
    Selection,
)
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.audit import stored, tally
from headrace.plugins.snowflake.connection import Session, opened
from headrace.plugins.snowflake.doctor import check_account
from headrace.plugins.snowflake.quarantine import counts, records, spool_quarantine
from headrace.plugins.snowflake.staging import Staged, Stager, sweep
from headrace.plugins.snowflake.tables import Tables, differences, name, statements
from headrace.plugins.snowflake.writing import Writing
from headrace.records import Partition
from headrace.tally import Stored, Tally
from headrace.typed.engine import engine
from headrace.typed.segments import check_counts, describe, describe_places
from headrace.typed.share import check_share
from headrace.typed.spool import spool, workspace
from headrace.typed.staging import Staging

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

T = TypeVar("T")

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

    account: Account
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
    _contract: Contract = attrs.field(init=False, repr=False)
    _tables: Tables = attrs.field(init=False, repr=False)
    _session: Session | None = attrs.field(default=None, init=False, repr=False)
    _made: bool = attrs.field(default=False, init=False)
    _swept: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._contract = Contract.of(self.contract)
        if self.target.startswith("_") or self.target.lower().startswith("headrace_"):
            raise ConfigError(
                f"found table {self.target!r}, expected a name that does not begin with '_' or 'headrace_'"
            )
        self.target = self.target.upper()  # the ledger's word for it, whoever wrote it how
        self._tables = Tables(self.target)
        self.run = self.run or secrets.token_hex(4)

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
        given = attrs.evolve(uri, settings=of_account).fields(
            Account, unsettable=("account", "user", "private_key"), leave=()
        )
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

    # ---- the loader's verbs -------------------------------------------------------------------------------

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        with self._connected(make=False) as session:  # nothing is made: who only asks may know no contract
            found = self._ends(session) if self._is_there(session, "HEADRACE_LEDGER") else {}
            return {line: found.get(attrs.evolve(line, target=line.target.upper())) for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        if self.evolve:
            raise ConfigError(f"{self.where}: this loader takes no columns from the stream; name them in the contract")
        if not segments:
            return LoadResult()
        with self._connected() as session:
            wanted = self._lacking(session, segments)
            if not wanted:
                return LoadResult()
            self._tag(session, *(f"{s.segment.partition} [{s.segment.start}, {s.segment.end})" for s in wanted))
            with workspace() as folder, engine(folder, threads=self.threads, memory=self.memory) as typing:
                staging = Staging(typing, self._contract, folder)
                staging.stage(spool(wanted, folder))
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
        contract = Contract.of(self.contract) if cells else None
        with self._connected(make=False) as session:
            return stored(session, self._tables, contract, (line.dataset_id, line.partition), start, end)

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
        writing = Writing(session, self._tables, self._contract, secrets.token_hex(16))
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
            newest = session.execute(f"SELECT CONTRACT, CONTRACT_VERSION FROM {self._tables.lock}")
            raise ConfigError(
                f"{self.where} was loaded by contract {newest}, this loader has {contract} version {version}: use the newer"
                " contract, or another table (S7)"
            )

    def _write(self, writing: Writing, staged: Staged, wanted: Sequence[LoadableSegment]) -> LoadResult:
        """Rows, quarantine and ledger of the segments that the ledger, read under the lock, still lacks."""
        lacking = self._lacking(writing.session, wanted)
        if len(lacking) < len(wanted):  # another loader was first with some: staged anew without them
            raise PositionConflictError(
                f"{self.where}: {len(wanted) - len(lacking)} of {len(wanted)} segments were loaded by another loader"
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

    def _lacking(self, session: Session, segments: Sequence[LoadableSegment]) -> list[LoadableSegment]:
        """The segments that the ledger has not; each must start where its line ends (S1, S2)."""
        ends = self._ends(session)
        lacking = []
        for loadable in segments:
            segment = loadable.segment
            line = Line(segment.trailer.dataset_id, segment.partition, self.target)
            end = ends.get(line, 0)
            if end < segment.end:
                if end != segment.start:
                    raise PositionConflictError(
                        f"{self.where}: the ledger of {segment.partition} is at {end}, the segment covers [{segment.start},"
                        f" {segment.end}); load what lies between first",
                        expected=segment.start,
                        found=None,
                    )
                lacking.append(loadable)
                end = segment.end
            ends[line] = end
        return lacking

    def _ends(self, session: Session) -> dict[Line, int]:
        """How far each line of this target is loaded (S1)."""
        found = session.execute(
            f"SELECT DATASET, STREAM, PARTITION, MAX(END_OFFSET) AS N FROM {self._tables.ledger} WHERE TARGET = %s"
            " AND KIND IN ('load', 'begin_at') GROUP BY DATASET, STREAM, PARTITION",
            self.target,
        )
        return {Line(d, Partition(s, int(p)), self.target): int(end) for d, s, p, end in found}

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
        found = session.execute(
            "SELECT TABLE_NAME AS N FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = %s", self.schema.upper()
        )
        there = {name(table) for (table,) in found}
        for made, statement in statements(self._tables, self._contract).items():
            if made not in there:
                session.execute(statement)
        columns = session.execute(f"DESC TABLE {self._tables.rows}")
        wrong = differences(self._contract, [(c[0], c[1], c[3] == "Y", c[4] is not None) for c in columns])
        if wrong:
            raise ConfigError(
                f"{self.where} is not the table of contract {self._contract.name} version {self._contract.version}:"
                f" {'; '.join(wrong)}. Load into another table, or alter this one"
            )
        if not self._swept:
            sweep(session, self._tables, self.schema.upper(), self.clock())
        self._made = self._swept = True

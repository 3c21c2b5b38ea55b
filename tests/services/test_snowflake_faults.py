"""What goes wrong on the way to Snowflake: statement by statement, lost answers, kills of loader and server."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
import snowflake.connector
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from snowflake.connector.errors import OperationalError

from headrace.contract import column, contract
from headrace.errors import CommitUnknownError, ConfigError, SinkUnavailableError
from headrace.loader import Loader, LoadResult, Selection
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.snowflake import connection as connection_module
from headrace.plugins.snowflake import loader as loader_module
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.loader import SnowflakeLoader
from headrace.plugins.snowflake.tables import Tables
from headrace.plugins.snowflake.writing import Writing
from headrace.records import Partition
from headrace.testing.contracts.keyed_loader import Quote
from headrace.testing.contracts.loader import TARGET, LedgerRow, Tick, segment, values_of
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.snowflake import Snowflake, SnowflakeEndpoint
from headrace.testing.servers.toxiproxy import Toxiproxy
from headrace.testing.silver import CELLS, POISON, REDRIVABLE, Gate, SilverMachine, ViolationError

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

PLACE = "_DATASET, _STREAM, _PARTITION, _OFFSET"
GOOD, OTHER, *_ = CELLS


@attrs.define
class Cursor:
    """A cursor that asks before each statement of a transaction, and breaks where it is told to."""

    of: Connection
    real: Any

    def execute(self, sql: str, values: Any = None) -> Cursor:
        of = self.of
        of.inside = of.inside or sql == "BEGIN"
        fate = of.gate(" ".join(sql.split()[:3])) if of.inside else "do"
        if of.broken or fate == "lose the statement":
            of.broken = True
            raise OperationalError("the connection is lost", errno=250003)
        self.real.execute(sql, values)
        of.inside = sql not in {"COMMIT", "ROLLBACK"} and of.inside
        if fate == "lose the answer":
            of.broken = True
            raise OperationalError("the connection is lost", errno=250003)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@attrs.define
class Connection:
    real: Any
    gate: Gate
    inside: bool = False
    broken: bool = False

    def cursor(self) -> Cursor:
        return Cursor(self, self.real.cursor())

    def close(self) -> None:
        self.real.close()


@attrs.define
class Silver:
    """A schema with one table, read with the connector alone."""

    endpoint: SnowflakeEndpoint
    schema: str = ""
    reader: Any = None
    opened: list[Loader] = attrs.field(factory=list)
    lock_timeout_s: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.schema = self.endpoint.schema()
        self.reader = self.endpoint.connect(database=self.endpoint.database)
        self.ask(f"CREATE SCHEMA {self.endpoint.database}.{self.schema}")

    def ask(self, sql: str) -> list[tuple]:
        return self.reader.cursor().execute(sql).fetchall()

    def read_again(self) -> None:
        """Connect to a server that was started anew."""
        with contextlib.suppress(snowflake.connector.errors.Error):
            self.reader.close()
        self.reader = self.endpoint.connect(database=self.endpoint.database, schema=self.schema)

    def account(self) -> Account:
        given = dict(self.endpoint.settings)
        return Account(connection=given.pop("connection_name", ""), **given)

    def open(self, kept: type, target: str) -> Loader:
        place = {"database": self.endpoint.database, "schema": self.schema, "target": target}
        loader = SnowflakeLoader(
            account=self.account(), contract=kept, threads=1, lock_timeout_s=self.lock_timeout_s, **place
        )
        self.opened.append(loader)
        return loader

    def rows(self, target: str) -> Sequence[Any]:
        found = self.ask(f"SELECT {PLACE}, SYMBOL, PRICE, SIZE FROM {target}")
        return [((d, Partition(s, p), o), tuple(cells)) for d, s, p, o, *cells in found]

    def quarantined(self, target: str) -> Sequence[Any]:
        found = self.ask(f"SELECT {PLACE}, LINE FROM {target}_QUARANTINE")
        return [((d, Partition(s, p), o), bytes(line)) for d, s, p, o, line in found]

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        columns = "DATASET, STREAM, PARTITION, START_OFFSET, END_OFFSET, RECORDS, INSERTED, SUPERSEDED, REJECTED"
        found = self.ask(f"SELECT {columns} FROM HEADRACE_LEDGER WHERE KIND = 'load'")
        return [LedgerRow(d, Partition(s, p), *rest) for d, s, p, *rest in found]

    def close(self) -> None:
        for loader in self.opened:
            loader.close()
        self.ask(f"DROP SCHEMA IF EXISTS {self.endpoint.database}.{self.schema} CASCADE")
        self.reader.close()


# ---- statement by statement -----------------------------------------------------------------------------------------


@pytest.fixture
def machines(snowflake: SnowflakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SilverMachine]]:
    """The loaders' state machine over this Snowflake."""
    made: list[Silver] = []
    opened = connection_module.opened

    class Machine(SilverMachine):
        def make_warehouse(self, gate: Gate) -> Silver:
            def gated(account: Account, **given: Any):
                connect = lambda **more: Connection(snowflake_connect(**more), gate)  # noqa: E731
                return opened(account, **given, connect=connect)

            monkeypatch.setattr(loader_module, "opened", gated)
            made.append(Silver(snowflake))
            return made[-1]

    yield Machine
    for silver in made:
        silver.close()


snowflake_connect = snowflake.connector.connect


def test_loaders_at_once(machines: type[SilverMachine]):
    """Whatever happens to loaders, each record is a row or in quarantine, once; `HYPOTHESIS_PROFILE=nightly` looks longer."""
    machines.audited = True  # while they are in the middle of it, too
    run_state_machine_as_test(
        machines,
        settings=settings(
            max_examples=max(2, settings().max_examples // 50),
            stateful_step_count=10,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def begun(machine: SilverMachine, values: Sequence[bytes], workers: int) -> list[Any]:
    """Let loaders begin that see the same segment, each paused at its BEGIN."""
    machine.grow(0, list(values))
    links = machine.chain[0]
    for _ in range(workers):
        loader = machine._open(newer=False)
        machine._begin(lambda loader=loader: loader.load(list(links)), newer=False)
    return list(machine.workers)


def at_its_commit(machine: SilverMachine) -> None:
    """One loader stands at COMMIT while another one, which saw the same, runs to its end."""
    first, second = begun(machine, [GOOD, POISON], 2)
    machine._run_to(first, "COMMIT")
    machine._run_to(second, "its end")
    machine._run_to(first, "its end")


def behind_a_whole_load(machine: SilverMachine) -> None:
    """One loader stands at BEGIN, all staged, while another one loads the same."""
    first, second = begun(machine, [GOOD, OTHER], 2)
    machine._run_to(second, "its end")
    machine._run_to(first, "its end")


def killed_at_the_ledger(machine: SilverMachine) -> None:
    """A loader is gone before it writes the ledger."""
    (only,) = begun(machine, [GOOD, POISON], 1)
    machine._run_to(only, 'INSERT INTO "HEADRACE_LEDGER"')
    machine.turns.kill(only.turn)
    machine.workers.remove(only)


def lost_commit(machine: SilverMachine) -> None:
    """COMMIT happened, its answer is lost, and the same is loaded again."""
    (only,) = begun(machine, [GOOD, POISON], 1)
    machine._run_to(only, "COMMIT")
    only.fate = "lose the answer"
    machine._run_to(only, "its end")
    assert machine.seen["told: CommitUnknownError"] == 1
    loader = machine._open(newer=False)
    assert loader.load(list(machine.chain[0])) == LoadResult()


def two_redrives(machine: SilverMachine) -> None:
    """Two redrives list the same records before either holds the lock."""
    machine.grow(0, [REDRIVABLE, POISON])
    machine._open(newer=False).load(list(machine.chain[0]))
    for _ in range(2):
        loader = machine._open(newer=True)
        machine._begin(lambda loader=loader: loader.redrive(Selection()), newer=True)
    for worker in list(machine.workers):
        machine._run_to(worker, "its end")


def finish(machine: SilverMachine) -> None:
    """One loader brings the rest, and the tables are compared with what is in the chain."""
    machine.seen.clear()  # Hypothesis is told of events only where it runs
    machine.teardown()


def without_the_lock(patch: pytest.MonkeyPatch) -> None:
    """No UPDATE of the lock row: nothing makes two transactions meet (S2, T15)."""
    patch.setattr(SnowflakeLoader, "_lock", lambda *_: None)
    patch.setattr(Tables, "held", property(lambda _: "%s IS NOT NULL"))


def with_the_ledger_before_the_lock(patch: pytest.MonkeyPatch) -> None:
    """What the ledger lacks is asked before the transaction, and not again under the lock (S2, T15)."""
    lacking, write = SnowflakeLoader._lacking, SnowflakeLoader._write

    def unasked(self: SnowflakeLoader, writing: Writing, *more: Any) -> LoadResult:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(SnowflakeLoader, "_lacking", lambda _, __, segments: list(segments))
            return write(self, writing, *more)

    assert lacking
    patch.setattr(SnowflakeLoader, "_write", unasked)


def with_two_transactions(patch: pytest.MonkeyPatch) -> None:
    """The ledger follows in a transaction of its own."""
    ledger = Writing.ledger

    def later(self: Writing, *staged: Any) -> int:
        self.session.execute("COMMIT")
        self.session.execute("BEGIN")
        self.session.execute(f"UPDATE {self.tables.lock} SET OWNER = %s", self.attempt)
        return ledger(self, *staged)

    patch.setattr(Writing, "ledger", later)


def without_a_look_at_quarantine(patch: pytest.MonkeyPatch) -> None:
    """A redrive takes what it listed, not what is still there (S6, T17)."""
    patch.setattr(Writing, "_still", lambda *_, **__: "")
    patch.setattr(SnowflakeLoader, "_take_back", _take_all)


def _take_all(_: SnowflakeLoader, writing: Writing, staged: Any) -> LoadResult:
    added = writing.rows(staged)
    writing.redriven(staged)
    return LoadResult(0, 0, added, 0, -writing.leave(staged))


EVENTS: dict[Callable[[SilverMachine], None], Callable[[pytest.MonkeyPatch], None] | None] = {
    at_its_commit: without_the_lock,
    behind_a_whole_load: with_the_ledger_before_the_lock,
    killed_at_the_ledger: with_two_transactions,
    two_redrives: without_a_look_at_quarantine,
    lost_commit: None,
}


@pytest.mark.parametrize("happens", EVENTS, ids=lambda f: f.__name__)
def test_order_of_events(happens: Callable[[SilverMachine], None], machines: type[SilverMachine]):
    """The tables are right after it, and a loader without faults brings the rest."""
    machine = machines()
    happens(machine)
    finish(machine)


@pytest.mark.parametrize("happens", [e for e in EVENTS if EVENTS[e]], ids=lambda f: f.__name__)
def test_order_of_events_with_a_rule_missing(
    happens: Callable[[SilverMachine], None], machines: type[SilverMachine], monkeypatch: pytest.MonkeyPatch
):
    """Take the protection away, and the same order doubles a record or tells of one that is not there."""
    machine = machines()
    rule = EVENTS[happens]
    assert rule is not None
    rule(monkeypatch)

    def play() -> None:
        happens(machine)
        finish(machine)

    with pytest.raises(ViolationError):
        play()


# ---- the statements -------------------------------------------------------------------------------------------------

DDL = re.compile(r"(CREATE|ALTER|DROP|TRUNCATE|COMMENT|GRANT|REMOVE|PUT|COPY)\b", re.IGNORECASE)


@pytest.mark.parametrize("kept", [Tick, Quote], ids=lambda kept: kept.__name__)
def test_statements(kept: type, snowflake: SnowflakeEndpoint, monkeypatch: pytest.MonkeyPatch):
    """Between BEGIN and COMMIT no DDL and the lock in every DML; ON_ERROR in every COPY, QUALIFY in every MERGE (S3, S4, S8)."""
    said: list[str] = []
    execute, commit = connection_module.Session.execute, connection_module.Session.commit
    monkeypatch.setattr(
        connection_module.Session,
        "execute",
        lambda self, sql, *values: (said.append(sql), execute(self, sql, *values))[1],
    )
    monkeypatch.setattr(connection_module.Session, "commit", lambda self: (said.append("COMMIT"), commit(self))[1])
    silver = Silver(snowflake)
    loader = silver.open(kept, TARGET)
    price = b'{"symbol":"A","price":1,"size":1}'
    loader.load([segment(0, [price, b"broken", price])])
    loader.redrive(Selection())
    silver.close()

    inside, transactions = False, 0
    for sql in said:
        if sql in ("BEGIN", "COMMIT", "ROLLBACK"):
            inside, transactions = sql == "BEGIN", transactions + (sql == "BEGIN")
        elif inside:
            assert not DDL.match(sql), sql
            locks = sql.startswith('UPDATE "HEADRACE_LOCK_')
            assert locks or sql.startswith("SELECT") or 'EXISTS (SELECT 1 FROM "HEADRACE_LOCK_' in sql, sql
            assert not sql.startswith("MERGE") or "QUALIFY" in sql, sql
        elif sql.startswith("COPY"):
            assert "ON_ERROR = ABORT_STATEMENT" in sql
            assert "FILES = (" in sql
            assert "NULL_IF = ()" in sql
    assert transactions == 2
    assert (kept is Quote) == any(sql.startswith("MERGE") for sql in said)


def test_what_a_killed_loader_left(snowflake: SnowflakeEndpoint, tmp_path: Path):
    """Tables and files of an attempt that began more than a day ago are gone after the next load; younger ones stay."""
    silver = Silver(snowflake)
    silver.open(Tick, TARGET).load([segment(0, values_of(10))])
    (tmp_path / "rows.parquet").write_bytes(b"x")
    young = "9999999999"
    for began in ("0000000001", young):
        silver.ask(f"CREATE TABLE HEADRACE_STG_{began}_AB_ROWS (X VARCHAR)")
        silver.ask(f"PUT 'file://{tmp_path}/rows.parquet' @HEADRACE_STAGE/{began}_ab/ AUTO_COMPRESS = FALSE")
    silver.open(Tick, TARGET).load([segment(10, values_of(10))])
    tables = silver.ask(f"SELECT TABLE_NAME AS N FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = '{silver.schema}'")
    assert [name for (name,) in tables if "_STG_" in name] == [f"HEADRACE_STG_{young}_AB_ROWS"]
    assert [row[0] for row in silver.ask("LIST @HEADRACE_STAGE")] == [f"headrace_stage/{young}_ab/rows.parquet"]
    silver.close()


# ---- the same rows as DuckDB's --------------------------------------------------------------------------------------


@contract(version=1)
class Everything:
    """
    It's every kind of column, with a \\ in its comment.

    Attributes:
        text: It's a \\ too.
    """

    text: str | None
    whole: int | None
    exact: Decimal | None = column(precision=38, scale=9)
    moment: datetime | None
    flag: bool | None
    nested: dict[str, Any] | list[Any] | None


VALUES = [
    {"text": "", "whole": -(2**63), "exact": -0.0, "moment": "1678-01-01T00:00:00.000000001Z", "flag": True},
    {"text": "\\N", "whole": 2**63 - 1, "exact": 1e-9, "moment": "1969-12-31T23:59:59.999999999Z", "flag": False},
    {"text": "'; DROP\\n\n\u2028\0 %s \U0001f4a5", "moment": "2261-12-31T23:59:59.123456789Z"},
    {"text": "null", "whole": 0, "nested": {"a": [1, None, "x'\\y"], "B": {}}},
    {"whole": "7"},
    {"moment": "2016-12-31T23:59:60Z"},
    {},
]
LONG = b'{"exact":12345678901234567890123456789.123456789,"nested":[]}'


def test_the_same_rows_as_duckdb(snowflake: SnowflakeEndpoint, tmp_path: Path):
    """To the last digit and nanosecond; what the one refuses, the other refuses with the same words."""
    one = segment(0, [*(json.dumps(value).encode() for value in VALUES), LONG])
    silver = Silver(snowflake)
    there = silver.open(Everything, "everything")
    here = DuckDBLoader(database=tmp_path / "silver.duckdb", target="everything", contract=Everything)
    assert there.load([one]) == here.load([one])
    assert list(there.quarantined(Selection())) == list(here.quarantined(Selection()))
    cells = "_offset, text, whole, exact, flag"
    with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
        expected = connection.execute(
            f"SELECT {cells}, epoch_ns(moment), nested::VARCHAR FROM everything ORDER BY 1"
        ).fetchall()
    more = "TO_CHAR(moment, 'YYYY-MM-DD HH24:MI:SS.FF9') AS M, TO_JSON(nested) AS N"
    found = silver.ask(f"SELECT {cells}, {more} FROM everything ORDER BY 1")
    assert [row[:5] for row in expected] == [row[:5] for row in found]
    assert [row[5] for row in expected] == [nanoseconds(row[5]) for row in found]
    assert [row[6] and json.loads(row[6]) for row in expected] == [row[6] and json.loads(row[6]) for row in found]
    assert "DECIMAL(38,9)" in str(expected) or Decimal("12345678901234567890123456789.123456789") in [
        r[3] for r in found
    ]
    silver.close()


def nanoseconds(text: str | None) -> int | None:
    if text is None:
        return None
    seconds, _, fraction = text.partition(".")
    moment = datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return whole * 10**9 + int(fraction.ljust(9, "0"))


# ---- the wire -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Snowflake]:
    """An emulator of this test alone, which it may kill: not for a real account."""
    try:
        with Snowflake(folder=tmp_path / "snowflake", idle_s=1.0) as started:
            yield started
    except ServerMissing as exc:
        pytest.skip(str(exc))


def test_a_commit_whose_answer_is_lost(server: Snowflake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The connection is cut behind COMMIT: the loader says that it does not know, and the same call settles it (S5)."""
    with Toxiproxy(folder=tmp_path / "toxiproxy") as proxies:
        proxy = proxies.proxy("snowflake", server.port)
        silver = Silver(server.endpoint)
        silver.endpoint = server.through(proxy.port)
        loader = silver.open(Tick, TARGET)
        loader.network_timeout_s = 2.0
        loader.load([segment(0, values_of(10))])
        commit = connection_module.Session.commit

        def cut(self: connection_module.Session) -> None:
            with proxy.toxic("reset_peer", timeout=0):
                commit(self)

        monkeypatch.setattr(connection_module.Session, "commit", cut)
        with pytest.raises(CommitUnknownError):
            loader.load([segment(10, values_of(10))])
        monkeypatch.setattr(connection_module.Session, "commit", commit)
        silver.opened[0].lock_timeout_s = 30.0
        loader.load([segment(10, values_of(10))])
        places = [place for place, _ in (*silver.rows(TARGET), *silver.quarantined(TARGET))]
        assert sorted(place[2] for place in places) == list(range(20))
        assert [(row.start, row.end) for row in sorted(silver.ledger(TARGET))] == [(0, 10), (10, 20)]
        silver.endpoint = server.endpoint
        silver.close()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # connector 4's own, which would cancel
def test_a_server_that_is_gone(server: Snowflake):
    """It is said within the time-out, and the same loader goes on when the server is back."""
    silver = Silver(server.endpoint)
    loader = silver.open(Tick, TARGET)
    loader.network_timeout_s = 2.0
    loader.load([segment(0, values_of(10))])
    server.kill()
    with pytest.raises(SinkUnavailableError):
        loader.load([segment(10, values_of(10))])
    server.start()
    try:
        loader.load([segment(10, values_of(10))])
    except SinkUnavailableError:  # the session was of the server that is gone
        loader.load([segment(10, values_of(10))])
    silver.read_again()
    assert len(silver.rows(TARGET)) + len(silver.quarantined(TARGET)) == 20
    silver.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "not-the-password"}, "check account, user, key or password"),
        ({"private_key": b"no key"}, "cannot be read as a private key"),
        ({"password": "", "token_file": "/no/such/token"}, "the token cannot be read"),
    ],
    ids=["password", "key", "token"],
)
def test_who_is_refused(change: dict[str, Any], says: str, server: Snowflake):
    """It is an error of the settings, and no secret is in it."""
    account = attrs.evolve(Account(**server.endpoint.settings), **change)
    loader = SnowflakeLoader(account=account, database="HEADRACE", schema="S", target="T", contract=Tick)
    with pytest.raises(ConfigError, match=says) as told:
        loader.load([segment(0, values_of(10))])
    for secret in (server.password, "not-the-password"):
        assert secret not in f"{told.value} {told.value.__cause__} {loader!r}"


CONTRACT = """
from headrace.contract import contract

@contract(version=1)
class Row:
    n: int
"""
RECORDS = 400


def words(*given: object) -> list[str]:
    return [sys.executable, "-m", "headrace", *map(str, given), "--log-level", "error"]


@pytest.mark.kill
def test_kills(server: Snowflake, tmp_path: Path):
    """Loaders of the command line are killed at random moments, and so is the server: then nothing is missing or twice."""
    (tmp_path / "contracts.py").write_text(CONTRACT)
    lines = [json.dumps({"n": n} if n % 7 else {"n": str(n)}) for n in range(RECORDS)]
    (tmp_path / "ticks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    lake = f"file://{tmp_path}/lake"
    stream = words("stream", f"jsonl://{tmp_path}/ticks.jsonl", lake, "--until-end", "--flush-records", 40)
    subprocess.run(stream, check=True, timeout=60)
    silver = Silver(server.endpoint)
    uri = server.endpoint.uri(silver.schema, "rows", lock_timeout_s=20, network_timeout_s=5)
    load = words("load", lake, uri, "--contract", f"{tmp_path}/contracts.py:Row", "--group", "100B")
    chance = random.Random(7)
    for number in range(3):
        process = subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.2 + chance.random() * 2.0)
        process.kill()
        process.wait()
        if number == 1:
            server.kill()
            server.start()
    done = subprocess.run(load, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert server.password not in done.stdout + done.stderr
    silver.read_again()
    rows = silver.ask("SELECT _OFFSET, N FROM ROWS ORDER BY 1")
    refused = silver.ask("SELECT _OFFSET FROM ROWS_QUARANTINE ORDER BY 1")
    assert rows == [(n, n) for n in range(RECORDS) if n % 7]
    assert refused == [(n,) for n in range(RECORDS) if n % 7 == 0]
    assert silver.ask("SELECT COUNT(*) AS N, SUM(RECORDS)::NUMBER(38,0) AS R FROM HEADRACE_LEDGER") == [(10, RECORDS)]
    silver.close()

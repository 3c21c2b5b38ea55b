"""A newer contract, a stream with more fields, a history loaded anew: in Snowflake, by the command line and cut anywhere."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from headrace.cli.app import run
from headrace.contract import column, contract
from headrace.errors import ConfigError, PositionConflictError, SinkUnavailableError, TransientError
from headrace.loader import Change
from headrace.plugins.snowflake import loader as loader_module
from headrace.plugins.snowflake import making, views
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.loader import SnowflakeLoader
from headrace.plugins.snowflake.making import Making
from headrace.plugins.snowflake.writing import Writing
from headrace.testing.contracts.loader import GOOD, PARTITIONS, Tick, segment
from headrace.testing.servers.snowflake import SnowflakeEndpoint
from headrace.typed.replaced import REPLACED

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = [pytest.mark.services, pytest.mark.usefixtures("logging_restored")]

CONTRACTS = """
from datetime import datetime
from decimal import Decimal
from headrace.bars import Bars
from headrace.contract import column, contract

@contract(version=1, bars=Bars())
class One:
    symbol: str
    time: datetime = column(unit="s")
    price: Decimal = column(precision=10, scale=2)
    size: int
    note: str

@contract(version=2, bars=Bars())
class Two:
    symbol: str
    time: datetime = column(unit="s")
    price: Decimal = column(precision=18, scale=2)
    size: int
    venue: str | None
    lot: int = column(default=100)

@contract(version=3, bars=Bars())
class Three:
    symbol: str
    time: datetime = column(unit="s")
    price: Decimal = column(precision=18, scale=4)
    size: int
"""


@attrs.define
class World:
    """A lake and a schema."""

    folder: Path
    endpoint: SnowflakeEndpoint
    schema: str
    reader: Any

    def write(self, records: list[dict[str, object]]) -> None:
        with (self.folder / "ticks.jsonl").open("a") as file:
            file.writelines(f"{json.dumps(record)}\n" for record in records)
        source = f"jsonl://{self.folder}/ticks.jsonl"
        assert 0 == run(["stream", source, self.lake, "--until-end", "--flush-records", "3", "--log-level", "error"])

    @property
    def lake(self) -> str:
        return f"file://{self.folder}/lake"

    def do(self, command: str, contract: str, *more: str, table: str = "ticks") -> int:
        uri = self.endpoint.uri(self.schema, table, lock_timeout_s=20)
        words = [command, self.lake, uri, "--contract", f"{self.folder}/contracts.py:{contract}"]
        return run([*words, "--log-level", "error", *more])

    def ask(self, sql: str) -> list[tuple]:
        return self.reader.cursor().execute(sql).fetchall()


@pytest.fixture
def world(tmp_path: Path, snowflake: SnowflakeEndpoint) -> Iterator[World]:
    """Three records of the first contract, loaded by it."""
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    with snowflake.connect(database=snowflake.database) as connection:
        made = World(tmp_path, snowflake, snowflake.schema(), connection)
        made.ask(f"CREATE SCHEMA {snowflake.database}.{made.schema}")
        made.ask(f"USE SCHEMA {snowflake.database}.{made.schema}")
        made.write([{"symbol": "A", "time": n, "price": 1.25, "size": n, "note": "x"} for n in range(3)])
        assert 0 == made.do("load", "One")
        yield made
        made.ask(f"DROP SCHEMA {snowflake.database}.{made.schema} CASCADE")


def test_alter_evolve_and_reload(world: World, capfd: pytest.CaptureFixture[str]):
    """As in DuckDB: planned and printed, then done; what cannot be altered is loaded anew, and readers see that."""
    world.write([{"symbol": "A", "time": 61, "price": 123456789012, "size": 1, "venue": "N", "depth": 7}])
    described = world.ask("DESC TABLE TICKS")
    capfd.readouterr()
    assert 0 == world.do("load", "Two", "--plan", "--evolve", "--json")
    planned = json.loads(capfd.readouterr().out)
    assert planned["possible"]
    assert [
        'ALTER TABLE "TICKS" ALTER COLUMN "PRICE" SET DATA TYPE NUMBER(18,2)',
        'ALTER TABLE "TICKS" ADD COLUMN IF NOT EXISTS "VENUE" VARCHAR',
        'ALTER TABLE "TICKS" ADD COLUMN "LOT" NUMBER(19,0) DEFAULT 100',
        'ALTER TABLE "TICKS" ALTER COLUMN "NOTE" DROP NOT NULL',
        'ALTER TABLE "TICKS" ADD COLUMN IF NOT EXISTS "DEPTH" NUMBER(19,0)',
    ] == [change["statement"] for change in planned["changes"]]
    assert described == world.ask("DESC TABLE TICKS")
    assert [(3,)] == world.ask("SELECT COUNT(*) AS N FROM TICKS")

    assert 0 == world.do("load", "Two", "--evolve")
    rows = "SELECT TIME, PRICE, VENUE, LOT, DEPTH FROM TICKS_CURRENT ORDER BY _OFFSET"
    assert ["1.25", "1.25", "1.25", "123456789012.00"] == [str(row[1]) for row in world.ask(rows)]
    assert [(None, 100, None)] * 3 + [("N", 100, 7)] == [row[2:] for row in world.ask(rows)]
    bars = "SELECT OPEN, CLOSE, VOLUME FROM TICKS_OHLCV_1M ORDER BY TIME"
    assert 2 == len(world.ask(bars))

    assert 1 == world.do("load", "Three", "--plan")
    assert "impossible" in capfd.readouterr().out
    assert 0 == world.do("reload", "Three")
    assert "readers of ticks_current see ticks_v3" in capfd.readouterr().out
    world.write([{"symbol": "A", "time": 121, "price": 1.2345, "size": 1}])
    assert 2 == world.do("load", "Two")
    assert "TICKS was replaced by TICKS_V3 (headrace reload)" in capfd.readouterr().err
    assert 0 == world.do("load", "Three", table="ticks_v3")
    for target in ("TICKS", "TICKS_V3"):
        prices = world.ask(f"SELECT PRICE FROM {target}_CURRENT ORDER BY _OFFSET")
        assert ["1.2500"] * 3 + ["123456789012.0000", "1.2345"] == [str(price) for (price,) in prices]
        assert 3 == len(world.ask(f"SELECT TIME FROM {target}_OHLCV_1M"))
    assert [(4,)] == world.ask("SELECT COUNT(*) AS N FROM TICKS")


# ---- cut at each statement ------------------------------------------------------------------------------------------


class CutError(Exception):
    """The process is gone."""


@attrs.define
class Cut:
    """Lets a loader be gone before its n-th statement of those that change something, or does something there first."""

    at: int | None = None
    instead: Callable[[], None] | None = None
    only: re.Pattern[str] | None = None
    said: list[str] = attrs.field(factory=list)

    def __call__(self, sql: str) -> None:
        if not (self.only or CHANGES).match(sql):
            return
        self.said.append(" ".join(sql.split()[:5]))
        if len(self.said) - 1 == self.at:
            if self.instead is None:
                raise CutError
            self.instead()


Giving = Callable[[SnowflakeLoader, Cut], None]
Rule = Callable[[pytest.MonkeyPatch], None]
OLD, NEW, THIRD = TARGETS = ("TICKS", "TICKS_V2", "TICKS_V3")
ALTERS = re.compile(r"ALTER TABLE|CREATE OR|INSERT INTO \"HEADRACE_COLUMNS")
BETWEEN = (4, 5)
"""Before COMMIT, where both lock rows are held, and before the first view."""
ONE = segment(0, [GOOD[0][0]] * 10)
CHANGES = re.compile(r"(ALTER TABLE|CREATE OR|CREATE VIEW|BEGIN|UPDATE|INSERT|DELETE|MERGE|COMMIT)")


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Giving:
    """Give one loader's session its cut; what it has open is rolled back when it is closed, as the service does."""
    execute, commit = Session.execute, Session.commit
    whose: dict[int, Cut] = {}

    def asked(self: Session, sql: str, *values: object) -> list[tuple]:
        if id(self) in whose and sql != "ROLLBACK":
            whose[id(self)](sql)
        return execute(self, sql, *values)

    def committed(self: Session) -> None:
        if id(self) in whose:
            whose[id(self)]("COMMIT")
        commit(self)

    monkeypatch.setattr(Session, "execute", asked)
    monkeypatch.setattr(Session, "commit", committed)

    def give(loader: SnowflakeLoader, cut: Cut) -> None:
        with loader._connected(make=False) as session:
            whose[id(session)] = cut
        kept.append(loader._session)  # that its id is nobody else's

    kept: list[object] = []
    return give


@attrs.define
class Silver:
    """A schema in which targets hold the same ten records."""

    endpoint: SnowflakeEndpoint
    schema: str
    reader: Any
    opened: list[SnowflakeLoader] = attrs.field(factory=list)
    asked: dict[str, SnowflakeLoader] = attrs.field(factory=dict)

    def ask(self, sql: str) -> list[tuple]:
        return self.reader.cursor().execute(sql).fetchall()

    def open(self, kept: type, target: str) -> SnowflakeLoader:
        given = dict(self.endpoint.settings)
        account = Account(connection=given.pop("connection_name", ""), **given)
        place = {"database": self.endpoint.database, "schema": self.schema, "target": target}
        self.opened.append(SnowflakeLoader(account=account, contract=kept, threads=1, lock_timeout_s=0.0, **place))
        return self.opened[-1]

    def seen(self, target: str = OLD) -> tuple[str, int]:
        """Which table the readers' view reads, and how many rows they see there."""
        [(view,)] = self.ask(
            "SELECT VIEW_DEFINITION AS D FROM INFORMATION_SCHEMA.VIEWS"
            f" WHERE TABLE_SCHEMA = '{self.schema}' AND TABLE_NAME = '{target}_CURRENT'"
        )
        [(rows,)] = self.ask(f"SELECT COUNT(*) AS N FROM {target}_CURRENT")
        return re.findall(r"FROM \"?(\w+)", view)[-1], rows

    def loadable(self) -> list[str]:
        """The targets whose lock row takes a load."""
        found = [(t, self.ask(f"SELECT CONTRACT_VERSION AS V FROM HEADRACE_LOCK_{t}")[0][0]) for t in TARGETS]
        return [target for target, version in found if version < REPLACED]

    def current(self, target: str) -> str:
        """What a loader of a target says of it."""
        if target not in self.asked:
            self.asked[target] = self.open(Tick, target)
        return self.asked[target].current()

    def undo(self, *targets: str) -> None:
        """As if nobody had taken over."""
        for target in targets:
            self.ask(f"UPDATE HEADRACE_LOCK_{target} SET CONTRACT = 'Tick', CONTRACT_VERSION = 1")
        self.ask("DELETE FROM HEADRACE_REPLACED")
        for target in targets:
            self.open(Tick, target).load([ONE])


@pytest.fixture
def table(snowflake: SnowflakeEndpoint) -> Iterator[Silver]:
    """One target."""
    with snowflake.connect(database=snowflake.database) as connection:
        made = Silver(snowflake, snowflake.schema(), connection)
        made.ask(f"CREATE SCHEMA {snowflake.database}.{made.schema}")
        made.ask(f"USE SCHEMA {snowflake.database}.{made.schema}")
        made.open(Tick, OLD).load([ONE])
        yield made
        for loader in made.opened:
            loader.close()
        made.ask(f"DROP SCHEMA {snowflake.database}.{made.schema} CASCADE")


@pytest.fixture
def silver(table: Silver) -> Silver:
    """Three targets, of which each may take over from another."""
    for target in (NEW, THIRD):
        table.open(Tick, target).load([ONE])
    return table


def cut_a_reload(silver: Silver, cut: Giving, after: int = 0) -> list[str]:
    """Kill it before each statement of the swap, or each later one, look at what is there, and let another one end it."""
    said = [""] * after
    while True:
        first, fate = silver.open(Tick, NEW), Cut(len(said))
        cut(first, fate)
        try:
            first.take_over(OLD)
        except CutError:
            said.append(fate.said[-1])
        else:
            return said
        finally:
            first.close()
        swapped = "COMMIT" in said[:-1]
        assert silver.loadable() == ([NEW, THIRD] if swapped else list(TARGETS))
        assert silver.seen() == (OLD, 10)
        assert silver.current(OLD) == (NEW if swapped else OLD)
        silver.open(Tick, NEW).take_over(OLD)
        assert silver.seen() == (NEW, 10)
        assert silver.loadable() == [NEW, THIRD]
        silver.undo(OLD)


def test_a_reload_that_is_cut_at_each_statement(silver: Silver, cut: Giving):
    """Before COMMIT nothing has changed; after it the old table is closed, and the next call shows readers the new one."""
    said = cut_a_reload(silver, cut)
    assert [words.split()[0] for words in said] == ["BEGIN", "UPDATE", "UPDATE", "INSERT", "COMMIT", "CREATE"]


def views_first(patch: pytest.MonkeyPatch) -> None:
    """Readers see the new table before the old one is closed."""
    transaction = SnowflakeLoader._transaction

    def later(self: SnowflakeLoader, session: Session, work: Callable[[Writing], Any]) -> Any:
        there = views.comments(session, self.schema)
        for statement in views.statements(self._tables, self._contract, [OLD], there):
            session.execute(statement)
        return transaction(self, session, work)

    patch.setattr(SnowflakeLoader, "_transaction", later)


def two_transactions(patch: pytest.MonkeyPatch) -> None:
    """Who follows is written down in a transaction of its own."""
    changed = Session.changed

    def apart(self: Session, sql: str, *values: object) -> int:
        if 'INSERT INTO "HEADRACE_REPLACED"' in sql:
            self.commit()
            self.execute("BEGIN")
            changed(self, f'UPDATE "HEADRACE_LOCK_{values[1]}" SET OWNER = %s', values[-1])
        return changed(self, sql, *values)

    patch.setattr(Session, "changed", apart)


@pytest.mark.parametrize(("rule", "after"), [(views_first, 1), (two_transactions, 4)])
def test_a_reload_with_a_rule_missing(
    rule: Rule, after: int, silver: Silver, cut: Giving, monkeypatch: pytest.MonkeyPatch
):
    """Take the order away, or the one transaction, and some cut leaves readers with the one table and loaders with the other."""
    rule(monkeypatch)
    with pytest.raises(AssertionError):
        cut_a_reload(silver, cut, after)


# ---- two at once ----------------------------------------------------------------------------------------------------


def patiently(call: Callable[[], object]) -> None:
    for _ in range(20):
        try:
            call()
        except (TransientError, PositionConflictError):
            continue
        else:
            return
    raise AssertionError


def two_reloads(silver: Silver, cut: Giving, between: Sequence[int]) -> int:
    """One does all of its own before a statement of the other's swap; say how often that came through at once."""
    through = 0

    def meanwhile() -> None:
        nonlocal through
        with contextlib.suppress(TransientError):
            second.take_over(OLD)
            through += 1

    for at in between:
        first, second = silver.open(Tick, NEW), silver.open(Tick, THIRD)
        fate = Cut(at, meanwhile)
        cut(first, fate)
        with contextlib.suppress(TransientError, ConfigError):
            first.take_over(OLD)
        assert len(fate.said) > at
        for loader in (first, second):  # who was told to try again does
            if loader.target in silver.loadable() and loader.target != silver.current(OLD):
                patiently(lambda loader=loader: loader.take_over(OLD))
        [last] = silver.loadable()
        for target in TARGETS:
            assert silver.current(target) == last
            assert silver.seen(target)[1] == 10
            assert last in silver.seen(target)[0]
        silver.open(Tick, last).load([ONE])
        assert {silver.seen(target) for target in TARGETS} == {(last, 10)}
        if at != between[-1]:
            silver.undo(*TARGETS)
    return through


def test_two_reloads_at_once(silver: Silver, cut: Giving):
    """Whoever is first, one target is left, all others are closed in its favour, and every reader sees it."""
    assert two_reloads(silver, cut, BETWEEN) == 1


def without_a_second_look(patch: pytest.MonkeyPatch) -> None:
    """Who was held up between its look and its DDL does not give back what it has put over another one's."""
    patch.setattr(Making, "_give_back", lambda *_: None)


@pytest.mark.parametrize("rule", [without_a_second_look])
def test_two_reloads_with_a_rule_missing(rule: Rule, silver: Silver, cut: Giving, monkeypatch: pytest.MonkeyPatch):
    """Take it away, and some readers are left with a table that is closed."""
    rule(monkeypatch)
    with pytest.raises(AssertionError):
        two_reloads(silver, cut, BETWEEN[-1:])


# ---- altering, cut at each statement --------------------------------------------------------------------------------


@contract(version=2)
class Wider:
    """More digits, a column with a default, one without, and one of the stream's; a size is no more."""

    symbol: str | None
    price: Decimal = column(precision=24, scale=6)
    lot: int = column(default=100)
    venue: str | None


ENOUGH = 20
MORE = segment(10, [b'{"symbol":"A","price":123456789012345678,"depth":7}'])


def cut_an_alteration(table: Silver, cut: Giving) -> list[str]:
    """Kill a load with `evolve` before each statement in turn, each time where the one before was killed."""
    said: list[str] = []
    while True:
        loader, fate = table.open(Wider, OLD), Cut(1, only=ALTERS)
        loader.evolve = True
        cut(loader, fate)
        try:
            loader.alter()
            loader.load([MORE])
        except CutError:
            said.append(fate.said[0])
            assert len(said) < ENOUGH
        else:
            return [*said, *fate.said]
        finally:
            loader.close()
        assert table.seen() == (OLD, 10)
        assert [name for (name, *_) in table.ask(f"DESC VIEW {OLD}_CURRENT")][:2] == ["SYMBOL", "PRICE"]
        assert table.ask(f"SELECT COUNT(*) AS N FROM {OLD} WHERE SYMBOL = 'A' AND PRICE = 1") == [(10,)]


def test_an_alteration_that_is_cut_at_each_statement(table: Silver, cut: Giving):
    """What is done stays done and is not done again; the next loader does the next; the view and what is remembered follow."""
    said = cut_an_alteration(table, cut)
    assert [words.split()[0] for words in said] == [*["ALTER"] * 4, "CREATE", "INSERT", "ALTER", "CREATE"]
    assert table.seen() == (OLD, 11)
    assert table.ask(f"SELECT PRICE, LOT, VENUE, DEPTH FROM {OLD}_CURRENT ORDER BY _OFFSET")[9:] == [
        (Decimal(1), 100, None, None),
        (Decimal(123456789012345678), 100, None, 7),
    ]


def without_what_is_remembered(patch: pytest.MonkeyPatch) -> None:
    """Only who remembers a column adds it."""
    patch.setattr(making, "additions", lambda *_: [])


def test_an_alteration_with_a_rule_missing(table: Silver, cut: Giving, monkeypatch: pytest.MonkeyPatch):
    """A column that was remembered by somebody who is gone would keep every loader out."""
    without_what_is_remembered(monkeypatch)
    with pytest.raises(ConfigError, match="DEPTH is not there"):
        cut_an_alteration(table, cut)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "the negative control"])
def test_two_at_once(table: Silver, cut: Giving, monkeypatch: pytest.MonkeyPatch, *, checked: bool):
    """What another one has altered is done; who typed without a column that came meanwhile finds it out, and types again."""
    if not checked:
        monkeypatch.setattr(SnowflakeLoader, "_refuse_unknown_columns", lambda *_: None)
        monkeypatch.setattr(loader_module, "altered", lambda session, wanted, _: [*map(said, [session] * 9, wanted)])
    first, second = table.open(Wider, OLD), table.open(Wider, OLD)
    cut(first, Cut(0, second.alter, only=ALTERS))
    with contextlib.nullcontext() if checked else pytest.raises(ConfigError, match="already exists"):
        assert first.alter()
    assert list(first.changes()) == []

    second.evolve = True
    other = segment(0, [b'{"symbol":"A","price":1,"depth":8}'], partition=PARTITIONS[1])
    cut(first, Cut(0, lambda: second.load([other]), only=re.compile("BEGIN")))
    with pytest.raises(SinkUnavailableError) if checked else contextlib.nullcontext():
        first.load([MORE])
    first.load([MORE])
    depths = table.ask(f"SELECT DEPTH FROM {OLD}_CURRENT WHERE DEPTH IS NOT NULL ORDER BY DEPTH")
    assert depths == ([(7,), (8,)] if checked else [(8,)])


def said(session: Session, change: Change) -> None:
    session.execute(change.statement)

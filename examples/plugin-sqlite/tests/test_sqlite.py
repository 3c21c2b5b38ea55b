"""The loader passes headrace's own suites; each I/O of it fails, its processes are killed and overtaken."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from headrace_sqlite.loader import SQLiteLoader
from hypothesis import HealthCheck, settings

from headrace import (
    Chain,
    CommitUnknownError,
    ConfigError,
    DataError,
    HeadraceError,
    Line,
    Load,
    Partition,
    Pipeline,
    Registry,
    Selection,
    SinkUnavailableError,
    audit,
)
from headrace.contract import column, contract
from headrace.testing import (
    AuditedLoaderContract,
    Cells,
    Gate,
    KeyedLoaderContract,
    LedgerRow,
    LoaderCrashContract,
    Place,
    SilverMachine,
    Warehouse,
    Wire,
    kill_at_every_io,
    nothing_fails,
    segment,
    zombie_at_every_io,
)

PLACE = "_dataset, _stream, _partition, _offset"


class Gated(Wire):
    """Asks before each statement from BEGIN on."""

    inside = False

    def asks(self, method: str, args: tuple) -> str:
        words = " ".join(args[0].split()[:3])
        self.inside = (self.inside or words.startswith("BEGIN")) and words != "ROLLBACK"
        return words if self.inside else ""


@attrs.define
class Silver:
    """A SQLite file, read with SQL alone."""

    path: Path
    gate: Gate = nothing_fails
    lock_timeout_s: float = 30.0

    def open(self, kept: type, target: str) -> SQLiteLoader:
        return SQLiteLoader(
            database=str(self.path),
            target=target,
            contract=kept,
            lock_timeout_s=self.lock_timeout_s,
            connect=self.connect,
        )

    def connect(self, *args: object, **more: object) -> Gated:
        real = sqlite3.connect(*args, **more)
        real.execute("PRAGMA synchronous = OFF")  # a process that is killed is no machine that loses its power
        return Gated(real, self.gate, lambda: sqlite3.OperationalError("disk I/O error"))

    def rows(self, target: str) -> Sequence[tuple[Place, Cells]]:
        found = self._query(target, f"SELECT {PLACE}, symbol, price, size FROM {target}")
        return [((d, Partition(s, p), o), (y, None if x is None else Decimal(x), n)) for d, s, p, o, y, x, n in found]

    def quarantined(self, target: str) -> Sequence[tuple[Place, bytes]]:
        found = self._query(f"{target}_quarantine", f"SELECT {PLACE}, line FROM {target}_quarantine")
        return [((d, Partition(s, p), o), line) for d, s, p, o, line in found]

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        columns = 'dataset, stream, "partition", start_offset, end_offset, records, inserted, superseded, rejected'
        sql = f"SELECT {columns} FROM headrace_ledger WHERE kind = 'load' AND target = '{target}'"
        return [LedgerRow(d, Partition(s, p), *rest) for d, s, p, *rest in self._query("headrace_ledger", sql)]

    def current(self, target: str) -> Sequence[Place]:
        found = self._query(target, f"SELECT {PLACE} FROM {target}_current")
        return [(d, Partition(s, p), o) for d, s, p, o in found]

    def take(self, target: str, offset: int) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"DELETE FROM {target} WHERE _offset = ?", [offset])
        connection.close()

    def forget(self, target: str, start: int) -> None:
        loads = "target = ? AND kind = 'load' AND start_offset = ?"
        with sqlite3.connect(self.path) as connection:
            connection.execute(f"DELETE FROM headrace_ledger WHERE {loads}", [target, start])
        connection.close()

    def _query(self, table: str, sql: str) -> list[tuple]:
        connection = sqlite3.connect(self.path)
        try:
            there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchall()
            return connection.execute(sql).fetchall() if there else []
        finally:
            connection.close()


class TestSQLiteLoader(AuditedLoaderContract):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Warehouse:
        return Silver(tmp_path / "silver.db")


class TestSQLiteLoaderWithKeys(KeyedLoaderContract):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Warehouse:
        return Silver(tmp_path / "silver.db")


class TestEveryStatementFails(LoaderCrashContract):
    @pytest.fixture
    def make_warehouse(self, tmp_path: Path) -> Callable[[Gate], Warehouse]:
        def make(gate: Gate) -> Warehouse:
            return Silver(Path(tempfile.mkdtemp(dir=tmp_path)) / "silver.db", gate)

        return make


class Machine(SilverMachine):
    audited = True

    def make_warehouse(self, gate: Gate) -> Warehouse:
        self.folder = tempfile.TemporaryDirectory(prefix="headrace-sqlite-")
        return Silver(Path(self.folder.name) / "silver.db", gate, lock_timeout_s=0.0)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


class KeyedMachine(Machine):
    keyed = True


class TestMachine(Machine.TestCase):
    settings = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


class TestKeyedMachine(KeyedMachine.TestCase):
    settings = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))


# ---- processes ------------------------------------------------------------------------------------------------------


@contract(version=1)
class Tick:
    """What the processes load."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None


SEGMENTS = [segment(n, [b'{"symbol":"A","price":1.5}', b"not json", b'{"symbol":"B","price":2}']) for n in (0, 3, 6)]


def load(folder: Path, gate: Gate) -> None:
    """A process's work; the lock of one that sleeps is waited for shortly."""
    Silver(folder / "silver.db", gate, lock_timeout_s=0.05).open(Tick, "ticks").load(SEGMENTS)


@pytest.mark.parametrize("play", [kill_at_every_io, zombie_at_every_io])
def test_processes(play: Callable[..., list[Path]], tmp_path: Path):
    """Killed at each statement, or asleep there while others work: each record once, in the table or in quarantine."""
    folders = play(load, tmp_path)
    assert len(folders) > 5
    for folder in folders:
        found = Silver(folder / "silver.db")
        assert sorted(place[2] for place, _ in found.rows("ticks")) == [0, 2, 3, 5, 6, 8], folder
        assert sorted(place[2] for place, _ in found.quarantined("ticks")) == [1, 4, 7]
        assert sorted(row.start for row in found.ledger("ticks")) == [0, 3, 6]


# ---- what is SQLite's own -------------------------------------------------------------------------------------------


def test_the_plugin_is_found(tmp_path: Path):
    """Installed, it is there: the registry makes its loader from a URI."""
    loader = Registry.discover().loader(f"sqlite://{tmp_path}/silver.db?table=ticks&lock_timeout_s=2s", Tick)
    assert isinstance(loader, SQLiteLoader)
    assert (f"{tmp_path}/silver.db", "ticks", 2.0) == (loader.database, loader.target, loader.lock_timeout_s)
    with pytest.raises(ConfigError, match=r"expected sqlite:///absolute/path\.db"):
        Registry.discover().loader(f"sqlite://{tmp_path}/silver.db", Tick)


def test_a_file_that_is_locked(tmp_path: Path):
    """Who waits too long is told to call again, and nothing is written."""
    warehouse = Silver(tmp_path / "silver.db", lock_timeout_s=0.0)
    warehouse.open(Tick, "ticks").load(SEGMENTS[:1])
    other = sqlite3.connect(tmp_path / "silver.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SinkUnavailableError, match="locked"):
        warehouse.open(Tick, "ticks").load(SEGMENTS)
    other.close()
    line = Line(SEGMENTS[0].segment.trailer.dataset_id, SEGMENTS[0].segment.partition, "ticks")
    assert {line: 3} == warehouse.open(Tick, "ticks").positions([line])


SAYS = (
    ("locked", sqlite3.SQLITE_BUSY, SinkUnavailableError, "call again"),
    ("disk I/O error", sqlite3.SQLITE_IOERR_WRITE, SinkUnavailableError, "call again"),
    ("the database is full", sqlite3.SQLITE_FULL, SinkUnavailableError, "call again"),
    ("readonly database", sqlite3.SQLITE_READONLY_DBMOVED, ConfigError, "permissions"),
    ("no such column: owner", sqlite3.SQLITE_ERROR, ConfigError, "the tables"),
    ("malformed", sqlite3.SQLITE_CORRUPT_INDEX, DataError, "is damaged"),
    ("UNIQUE constraint failed", sqlite3.SQLITE_CONSTRAINT_UNIQUE, DataError, "its ledger does not know"),
    ("not a database", sqlite3.SQLITE_NOTADB, ConfigError, "no SQLite file"),
    ("wrong number of bindings", None, ConfigError, "nothing was written"),
)
KINDS = [kind for kind in vars(sqlite3).values() if isinstance(kind, type) and issubclass(kind, sqlite3.Error)]


@attrs.define
class Failing:
    """A connection of which one statement fails."""

    real: sqlite3.Connection
    at: str
    error: sqlite3.Error

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql.startswith(self.at):
            raise self.error
        return self.real.execute(sql, *values)

    def close(self) -> None:
        self.real.close()


def failing(path: Path, at: str, error: sqlite3.Error) -> SQLiteLoader:
    def connect(*where: object, **settings: object) -> Failing:
        return Failing(sqlite3.connect(*where, **settings), at, error)

    return SQLiteLoader(database=str(path), target="ticks", contract=Tick, connect=connect)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_error_of_sqlite_gets_out(kind: type[sqlite3.Error], tmp_path: Path):
    """Whatever SQLite raises, wherever, is one of headrace's that says what to do; and what it ended has left nothing."""
    silver = Silver(tmp_path / "silver.db")
    for text, code, expected, says in SAYS:
        error = kind(text)
        if code is not None:
            error.sqlite_errorcode = code
        elif kind is sqlite3.OperationalError:
            continue  # without a number it is taken for the file's: LoaderCrashContract
        with pytest.raises(expected, match=says) as caught:
            failing(silver.path, "INSERT INTO headrace_ledger", error).load(SEGMENTS)
        assert caught.value.__cause__ is error
        assert "ticks" in str(caught.value) or "silver.db" in str(caught.value)
        assert (silver.rows("ticks"), silver.quarantined("ticks"), silver.ledger("ticks")) == ([], [], [])
    line = Line(SEGMENTS[0].segment.trailer.dataset_id, SEGMENTS[0].segment.partition, "ticks")
    for call in (
        lambda loader: loader.positions([line]),
        lambda loader: loader.tally(line.dataset_id, "ticks"),
        lambda loader: loader.stored(line, 0, 3),
        lambda loader: list(loader.quarantined(Selection())),
    ):
        with pytest.raises(HeadraceError):
            call(failing(silver.path, "", kind("it fails")))
    with pytest.raises(CommitUnknownError, match="the same call settles it"):
        failing(silver.path, "COMMIT", kind("it fails")).load(SEGMENTS)
    silver.open(Tick, "ticks").load(SEGMENTS)
    assert len(silver.rows("ticks")) == 6


def test_files_that_cannot_be_loaded(tmp_path: Path):
    """What SQLite itself says of files that are none, damaged, not to be written, or nowhere; and of a ledger that lost a row."""
    silver = Silver(tmp_path / "silver.db")
    silver.open(Tick, "ticks").load(SEGMENTS)
    whole = silver.path.read_bytes()

    def readonly(path: str, **settings: object) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, **settings)

    with pytest.raises(ConfigError, match="readonly database"):
        attrs.evolve(silver.open(Tick, "ticks"), connect=readonly).redrive(Selection())

    silver.forget("ticks", 6)
    with pytest.raises(DataError, match="rows that its ledger does not know"):
        silver.open(Tick, "ticks").load(SEGMENTS)
    assert len(silver.rows("ticks")) == 6

    silver.path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    with pytest.raises(DataError, match="is damaged"):
        silver.open(Tick, "ticks").load(SEGMENTS)

    silver.path.write_bytes(b"no file of SQLite's" * 400)
    with pytest.raises(ConfigError, match="no SQLite file"):
        silver.open(Tick, "ticks").load(SEGMENTS)

    with pytest.raises(ConfigError, match="the path"):
        Silver(tmp_path / "nowhere" / "silver.db").open(Tick, "ticks").load(SEGMENTS)


def test_an_audit_of_its_table(tmp_path: Path):
    """What the README shows: complete, as a command would say it; what somebody deletes is named, and where it was."""
    (tmp_path / "ticks.jsonl").write_bytes(b"".join(b'{"symbol":"A","price":%d}\n' % n for n in range(50)) + b"bad\n")
    lake, warehouse = f"file://{tmp_path}/lake", f"sqlite://{tmp_path}/silver.db?table=ticks"
    registry = Registry.discover()
    with registry.source(f"jsonl://{tmp_path}/ticks.jsonl") as source, registry.sink(lake) as sink:
        Pipeline(source=source, sink=sink, until_end=True).run()
    result = audit(lake, warehouse, contract=Tick, deep=True)
    assert result.verdict == "unknown"
    assert not (tmp_path / "silver.db").exists()  # it was only asked

    with registry.loader(warehouse, Tick) as loader:
        Load(chain=Chain.open(registry.store(lake), "ticks"), loader=loader).run()
    for kept in (Tick, None):  # without the contract rows are counted, and not looked into
        assert audit(lake, warehouse, contract=kept, deep=kept is not None).verdict == "complete"

    Silver(tmp_path / "silver.db").take("ticks", 7)
    [finding] = audit(lake, warehouse, contract=Tick, deep=True).findings
    assert (finding.kind, finding.where, finding.start, finding.end) == ("missing", "rows", 7, 8)


def test_a_table_of_another_contract(tmp_path: Path):
    """It is named, and nothing is loaded into it."""

    @contract(version=2)
    class Wider:
        """Has more digits."""

        symbol: str
        price: Decimal = column(precision=20, scale=8)

    warehouse = Silver(tmp_path / "silver.db")
    warehouse.open(Tick, "ticks").load(SEGMENTS[:1])
    with pytest.raises(ConfigError, match=r"DECIMALTEXT\(18,6\) NOT NULL.*DECIMALTEXT\(20,8\) NOT NULL"):
        warehouse.open(Wider, "ticks").load(SEGMENTS)

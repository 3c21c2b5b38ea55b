"""Every loader keeps the contract, and the contract finds loaders that do not."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from headrace.loader import Loader
from headrace.plugins.duckdb import loader as duckdb_loader
from headrace.plugins.duckdb import rows as duckdb_rows
from headrace.plugins.duckdb.connection import connected
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.records import Partition
from headrace.testing.contracts.audited_loader import AuditedLoaderContract
from headrace.testing.contracts.crash import LoaderCrashContract
from headrace.testing.contracts.keyed_loader import KeyedLoaderContract
from headrace.testing.contracts.loader import Cells, LedgerRow, Place, Tick, Warehouse, segment
from headrace.testing.processes import kill_at_every_io, zombie_at_every_io
from headrace.testing.silver import Gate, SilverMachine, ViolationError

pytest_plugins = ["pytester"]

PLACE = "_dataset, _stream, _partition, _offset"


@attrs.define
class Silver:
    """A DuckDB file, read with DuckDB alone."""

    path: Path
    make: Callable[..., Loader] = DuckDBLoader

    def open(self, kept: type, target: str) -> Loader:
        return self.make(database=self.path, target=target, contract=kept, threads=1)

    def rows(self, target: str) -> Sequence[tuple[Place, Cells]]:
        found = self._query(target, f"SELECT {PLACE}, symbol, price, size FROM {target} ORDER BY ALL")
        assert all(row[5] is None or isinstance(row[5], Decimal) for row in found)
        return [((d, Partition(s, p), o), tuple(cells)) for d, s, p, o, *cells in found]

    def quarantined(self, target: str) -> Sequence[tuple[Place, bytes]]:
        found = self._query(target, f"SELECT {PLACE}, line FROM {target}_quarantine ORDER BY ALL")
        return [((d, Partition(s, p), o), line) for d, s, p, o, line in found]

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        columns = 'dataset, stream, "partition", start_offset, end_offset, records, inserted, superseded, rejected'
        sql = f"SELECT {columns} FROM headrace_ledger WHERE kind = 'load' AND target = '{target}'"
        return [LedgerRow(d, Partition(s, p), *rest) for d, s, p, *rest in self._query("headrace_ledger", sql)]

    def current(self, target: str) -> Sequence[Place]:
        found = self._query(target, f"SELECT {PLACE} FROM {target}_current")
        return [(d, Partition(s, p), o) for d, s, p, o in found]

    def take(self, target: str, offset: int) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(f"DELETE FROM {target} WHERE _offset = ?", [offset])

    def forget(self, target: str, start: int) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(
                "DELETE FROM headrace_ledger WHERE target = ? AND kind = 'load' AND start_offset = ?", [target, start]
            )

    def _query(self, table: str, sql: str) -> list[tuple]:
        if not self.path.exists():
            return []
        with duckdb.connect(str(self.path)) as connection:
            there = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [table]).fetchall()
            return connection.execute(sql).fetchall() if there else []


class TestDuckDBLoader(AuditedLoaderContract):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Warehouse:
        return Silver(tmp_path / "silver.duckdb")


class TestDuckDBLoaderWithKeys(KeyedLoaderContract):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Warehouse:
        return Silver(tmp_path / "silver.duckdb")


# ---- loaders at once, statement by statement ------------------------------------------------------------------------


@attrs.define
class Gated:
    """A connection that asks before each statement of a transaction, and breaks where it is told to."""

    real: duckdb.DuckDBPyConnection
    gate: Gate
    inside: bool = False
    broken: bool = False

    def execute(self, sql: str, *values: object) -> duckdb.DuckDBPyConnection:
        self.inside = self.inside or sql == "BEGIN"
        fate = self.gate(" ".join(sql.split()[:3])) if self.inside else "do"
        if self.broken or fate == "lose the statement":
            self.broken = True
            raise duckdb.IOException("the connection is lost")
        found = self.real.execute(sql, *values)
        self.inside = sql not in {"COMMIT", "ROLLBACK"} and self.inside
        if fate == "lose the answer":
            self.broken = True
            raise duckdb.IOException("the connection is lost")
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


class DuckDBMachine(SilverMachine):
    connection: type[Gated] = Gated

    def make_warehouse(self, gate: Gate) -> Warehouse:
        self.folder = tempfile.TemporaryDirectory(prefix="headrace-")
        path = Path(self.folder.name) / "silver.duckdb"

        @contextlib.contextmanager
        def gated(database: Path, **settings: Any) -> Iterator[Gated]:
            with connected(database, **settings) as real:
                yield self.connection(real, gate)

        self.kept = duckdb.connect(str(path))  # while one is open, another one costs nothing
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(duckdb_loader, "connected", gated)
        return Silver(path)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()
            self.kept.close()
            self.folder.cleanup()


class TestDuckDBLoaderThatFails(LoaderCrashContract):
    """Each statement of a transaction is lost, or its answer is, or the process dies in front of it."""

    @pytest.fixture
    def make_warehouse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Gate], Warehouse]]:
        with contextlib.ExitStack() as kept:

            def make(gate: Gate) -> Warehouse:
                @contextlib.contextmanager
                def gated(database: Path, **settings: Any) -> Iterator[Gated]:
                    with connected(database, **settings) as real:
                        yield Gated(real, gate)

                kept.close()
                path = Path(tempfile.mkdtemp(dir=tmp_path)) / "silver.duckdb"
                kept.enter_context(duckdb.connect(str(path)))  # while one is open, another one costs nothing
                monkeypatch.setattr(duckdb_loader, "connected", gated)
                return Silver(path)

            yield make


SEGMENTS = [segment(n, [b'{"symbol":"A","price":1.5}', b"not json", b'{"symbol":"B","price":2}']) for n in (0, 3)]


def load(folder: Path, gate: Gate) -> None:
    """A process's work; the lock of one that sleeps is waited for shortly."""

    @contextlib.contextmanager
    def gated(database: Path, **settings: Any) -> Iterator[Gated]:
        with connected(database, **settings) as real:
            yield Gated(real, gate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb_loader, "connected", gated)
        place = folder / "silver.duckdb"
        DuckDBLoader(database=place, target="ticks", contract=Tick, threads=1, lock_timeout_s=0.0).load(SEGMENTS)


@pytest.mark.parametrize("play", [kill_at_every_io, zombie_at_every_io])
def test_processes(play: Callable[..., list[Path]], tmp_path: Path):
    """Killed at statements of a transaction, or asleep there while others work: each record once, in its table or quarantine."""
    folders = play(load, tmp_path, every=3)
    assert len(folders) > 3
    for folder in folders:
        found = Silver(folder / "silver.duckdb")
        assert sorted(place[2] for place, _ in found.rows("ticks")) == [0, 2, 3, 5], folder
        assert sorted(place[2] for place, _ in found.quarantined("ticks")) == [1, 4]
        assert sorted(row.start for row in found.ledger("ticks")) == [0, 3]


class Audited(DuckDBMachine):
    audited = True


class TestDuckDBMachine(Audited.TestCase):
    """Whatever happens to loaders, each record is a row or in quarantine, once; `HYPOTHESIS_PROFILE=nightly` looks longer."""

    settings = settings(
        max_examples=max(30, settings().max_examples // 3),
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
    )


class KeyedMachine(DuckDBMachine):
    keyed = True


class AuditedKeys(Audited):
    keyed = True


class TestKeyedMachine(AuditedKeys.TestCase):
    """The same of a contract with a key: the rows are the newest of what the ledger covers, at every moment."""

    settings = settings(
        max_examples=max(10, settings().max_examples // 8),
        stateful_step_count=20,
        suppress_health_check=list(HealthCheck),
    )


ROUNDS = 40
"""How often what is only likely is tried: what one choice of runs misses, another one has."""


def play(machine: type[SilverMachine], examples: int) -> None:
    """Run a machine in rounds; each runs the same way as long as neither the code nor Hypothesis changes."""
    for round_ in range(ROUNDS):
        run_state_machine_as_test(
            seed(round_)(machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )


WANTED = {
    "lose the statement: COMMIT",
    "lose the answer: COMMIT",
    "killed at COMMIT",
    "told: CommitUnknownError",
    "told: PositionConflictError",
    "told: SinkUnavailableError",
    "an older contract was refused",
}


def test_the_machine_reaches_what_the_transaction_is_for() -> None:
    """Without this a machine whose loaders never meet would pass as well."""
    missing = set(WANTED)

    class EnoughError(Exception):
        pass

    class Watched(DuckDBMachine):
        def teardown(self) -> None:
            super().teardown()
            missing.difference_update(self.seen)
            if not missing:
                raise EnoughError

    with contextlib.suppress(EnoughError):
        play(Watched, 30)

    assert missing == set()


class Splitting(Gated):
    """Commits the rows before it writes the ledger."""

    def execute(self, sql: str, *values: object) -> duckdb.DuckDBPyConnection:
        if sql.startswith("INSERT INTO headrace_ledger") and self.inside:
            super().execute("COMMIT")
            super().execute("BEGIN")
        return super().execute(sql, *values)


def without_the_lock(patch: pytest.MonkeyPatch) -> None:
    """No UPDATE of the lock row: nothing makes two transactions meet (S2, T15)."""
    patch.setattr(DuckDBLoader, "_lock", lambda *_: None)
    for module in (duckdb_loader, duckdb_rows):
        patch.setattr(module, "HELD", "$target = $target AND $attempt = $attempt")


def with_the_ledger_before_the_lock(patch: pytest.MonkeyPatch) -> None:
    """What the ledger lacks is asked before the transaction, and not again under the lock (S2, T15)."""
    lacking = DuckDBLoader._lacking

    def before(self: DuckDBLoader, connection: Gated, segments: Sequence[Any]) -> Sequence[Any]:
        return list(segments) if connection.inside else lacking(self, connection, segments)

    patch.setattr(DuckDBLoader, "_lacking", before)


def with_two_transactions(patch: pytest.MonkeyPatch) -> None:
    """The ledger follows in a transaction of its own."""
    patch.setattr(DuckDBMachine, "connection", Splitting)


@pytest.mark.parametrize("rule", [without_the_lock, with_the_ledger_before_the_lock, with_two_transactions])
def test_the_machine_finds_a_missing_rule(rule: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    """Take one protection away, and some order of events doubles a record or tells of one that is not there."""
    rule(monkeypatch)

    with pytest.raises(ViolationError):
        play(DuckDBMachine, 25)


# ---- loaders that break a promise -----------------------------------------------------------------------------------

STRANGER = """
import sys
from unittest import mock
import attrs, duckdb, pytest
from headrace.errors import *
from headrace.loader import Census, LoadResult, Selection
from headrace.plugins.duckdb import loader as module
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.testing.contracts.audited_loader import AuditedLoaderContract
from headrace.testing.contracts.crash import LoaderCrashContract
from headrace.testing.contracts.keyed_loader import KeyedLoaderContract
from headrace.testing.contracts.loader import LoaderContract

Silver = next(m.Silver for n, m in list(sys.modules.items()) if n.endswith("contracts.test_loaders"))

{broken}

class TestBroken({suite}):
    @pytest.fixture
    def warehouse(self, tmp_path):
        with duckdb.connect(str(tmp_path / "silver.duckdb")):  # while one is open, another one costs nothing
            yield Silver(tmp_path / "silver.duckdb", Broken)
"""

BROKEN = {
    "nothing": ("class Broken(DuckDBLoader): pass", set()),
    "does not look into the ledger": (
        """
class Broken(DuckDBLoader):
    def _lacking(self, connection, segments):
        return list(segments)
""",
        {
            "test_loading_again_loads_nothing",
            "test_two_loaders_at_once_load_once",
            "test_segments_out_of_line_are_refused",
            "test_a_segment_behind_the_ledger_must_follow_it",
        },
    ),
    "a transaction for each segment": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        return sum((super(Broken, self).load([s]) for s in segments), LoadResult())
""",
        {
            "test_segments_out_of_line_are_refused",
            "test_a_segment_that_lies_stops_all",
            "test_an_object_that_cannot_be_read_stops_all",
        },
    ),
    "goes over gaps": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        try:
            return super().load(segments)
        except PositionConflictError:
            with mock.patch.object(Broken, "_lacking", lambda self, connection, segments: list(segments)):
                return super().load(segments)
""",
        {"test_segments_out_of_line_are_refused", "test_a_segment_behind_the_ledger_must_follow_it"},
    ),
    "believes the trailer": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)  # not in load: it runs in threads
def believing(monkeypatch):
    monkeypatch.setattr(module, "check_counts", lambda *_: None)
""",
        {"test_a_segment_that_lies_stops_all"},
    ),
    "shows one piece of its quarantine": (
        """
class Broken(DuckDBLoader):
    def quarantined(self, selection):
        for number, record in enumerate(super().quarantined(selection)):
            if number == 1_000:
                return
            yield record
""",
        {"test_quarantine_is_shown_whole"},
    ),
    "throws bad records away": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        result = super().load(segments)
        with self._connected() as connection:
            connection.execute(f"DELETE FROM {self.target}_quarantine")
        return result
""",
        {"test_good_rows_and_bad_records_go_where_they_belong"},
    ),
    "counts with floats": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        result = super().load(segments)
        with self._connected() as connection:
            connection.execute(f"UPDATE {self.target} SET price = price::DOUBLE::DECIMAL(18, 6) WHERE price < 999999999999")
            connection.execute(f"UPDATE {self.target} SET size = size::DOUBLE::BIGINT WHERE size < 9223372036854775000")
        return result
""",
        {"test_good_rows_and_bad_records_go_where_they_belong"},
    ),
    "loads equal records once": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        result = super().load(segments)
        with self._connected() as connection:
            connection.execute(
                f"DELETE FROM {self.target} t WHERE EXISTS (SELECT 1 FROM {self.target} o WHERE o._offset < t._offset"
                " AND (o.symbol, o.price) = (t.symbol, t.price))"
            )
        return result
""",
        {"test_good_rows_and_bad_records_go_where_they_belong"},
    ),
    "is ahead of itself": (
        """
class Broken(DuckDBLoader):
    def positions(self, lines):
        return {line: end and end + 1 for line, end in super().positions(lines).items()}
""",
        {"test_good_rows_and_bad_records_go_where_they_belong", "test_close_can_be_repeated"},
    ),
    "takes one line for another": (
        """
class Broken(DuckDBLoader):
    def positions(self, lines):
        found = super().positions([attrs.evolve(line, dataset_id="0123456789abcdef" * 2) for line in lines])
        return dict(zip(lines, found.values()))
""",
        {"test_several_segments_at_once"},
    ),
    "counts in the ledger": (
        """
class Broken(DuckDBLoader):
    def census(self, line, start, end):
        with self._connected() as connection:
            found = connection.execute(
                "SELECT sum(inserted), sum(rejected) FROM headrace_ledger WHERE target = ? AND dataset = ?",
                [self.target, line.dataset_id],
            ).fetchall()[0]
        return Census(found[0] or 0, found[1] or 0, 0)
""",
        {"test_the_census_counts_what_is_there"},
    ),
    "keeps in quarantine what it took out": (
        """
class Broken(DuckDBLoader):
    def redrive(self, selection):
        return attrs.evolve(super().redrive(selection), rejected=0)
""",
        {"test_redrive_moves_what_now_keeps_the_contract"},
    ),
    "leaves its operator alone": (  # one loader for many tests: each run of the suite takes its time
        """
class Broken(DuckDBLoader):
    def quarantined(self, selection):
        return super().quarantined(attrs.evolve(selection, column=None))

    def redrive(self, selection):
        before = list(self.quarantined(Selection()))
        result = super().redrive(selection)
        with self._connected() as connection:
            for r in before:
                connection.execute(
                    f"UPDATE {self.target}_quarantine SET contract_version = ?, reason = ? WHERE _offset = ?"
                    " AND _partition = ?", [r.version, r.reason, r.offset, r.partition.number])
        return result

    def begin(self, line, position):
        with mock.patch.object(module, "_position", lambda *_: None):
            super().begin(line, position)

    def _check_columns(self, connection):
        pass

    def described(self):
        return self._contract

@pytest.fixture(autouse=True)
def careless(monkeypatch):
    monkeypatch.setattr(module, "check_share", lambda *_: None)
    monkeypatch.setattr(module, "close", lambda *_: None)
    monkeypatch.setattr(module, "refuse_impossible", lambda *_: None)
    monkeypatch.setattr(module, "evolved", lambda connection, target, kept: kept)
    real = module.changes
    monkeypatch.setattr(module, "changes", lambda *a: [c for c in real(*a) if c.statement])
""",
        {
            "test_quarantine_is_selected_and_counted",
            "test_quarantine_says_why_a_record_is_refused_now",
            "test_a_line_may_begin_behind_the_head",
            "test_too_many_bad_records_stop_all",
            "test_a_table_is_not_altered_where_values_would_change",
            "test_a_target_takes_over_from_another",
            "test_fields_become_columns_where_that_is_asked_for",
        },
    ),
    "takes any version": (
        """
class Broken(DuckDBLoader):
    def _lock(self, connection, attempt):
        connection.execute("UPDATE headrace_lock SET contract_version = 0")
        super()._lock(connection, attempt)
""",
        {"test_an_older_contract_is_refused"},
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_loader(failing: Callable[..., set[str]], how: str):
    """Each loader that breaks one promise fails the tests that stand for it; one that keeps all passes."""
    broken, expected = BROKEN[how]
    failed = failing(STRANGER.replace("{broken}", broken).replace("{suite}", "LoaderContract"), expected)
    assert expected <= failed
    assert bool(expected) == bool(failed)


BROKEN_KEYS = {
    "nothing": ("class Broken(DuckDBLoader): pass", set()),
    "by the offset alone": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def misled(monkeypatch):
    from headrace.typed import newest
    monkeypatch.setattr(newest, "PLACE", ("_offset",))
""",
        {"test_the_newest_of_each_key_is_a_row", "test_the_order_of_loading_makes_no_difference"},
    ),
    "what comes last wins": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def misled(monkeypatch):
    from headrace.plugins.duckdb import rows
    monkeypatch.setattr(rows, "newer", lambda *_: "true")
""",
        {"test_the_order_of_loading_makes_no_difference", "test_redrive_takes_the_place_that_the_record_always_had"},
    ),
    "deletes take the row away": (
        """
class Broken(DuckDBLoader):
    def load(self, segments):
        result = super().load(segments)
        with self._connected() as connection:
            connection.execute(f"DELETE FROM {self.target} WHERE _deleted")
        return result
""",
        {"test_the_order_of_loading_makes_no_difference", "test_a_tombstone_deletes"},
    ),
    "shows what was deleted": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def misled(monkeypatch):
    from headrace.plugins.duckdb import views
    monkeypatch.setattr(views, "DELETED", "false")
""",
        {"test_the_newest_of_each_key_is_a_row", "test_a_tombstone_deletes"},
    ),
    "counts every accepted record as a row, and forgets the readers of the one before the last": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def misled(monkeypatch):
    monkeypatch.setattr(module, "inserted", lambda contract, accepted: accepted)
    monkeypatch.setattr(module, "predecessors", lambda *_: [])
""",
        {"test_the_newest_of_each_key_is_a_row", "test_readers_see_the_target_that_took_over"},
    ),
}


@pytest.mark.parametrize("how", BROKEN_KEYS)
def test_broken_loader_with_keys(failing: Callable[..., set[str]], how: str):
    """The same of contracts with a key."""
    broken, expected = BROKEN_KEYS[how]
    failed = failing(STRANGER.replace("{broken}", broken).replace("{suite}", "KeyedLoaderContract"), expected)
    assert expected <= failed
    assert bool(expected) == bool(failed)


BROKEN_AUDITED = {
    "believes the ledger": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found = super().tally(dataset_id, stream)
        if found is None:
            return None
        return attrs.evolve(found, rows=found.inserted, ledger=[attrs.evolve(r, rows=r.inserted) for r in found.ledger])
""",
        {"test_a_tally_counts_what_is_gone"},
    ),
    "forgets quarantine": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found = super().tally(dataset_id, stream)
        return found and attrs.evolve(found, ledger=[attrs.evolve(r, quarantined=0) for r in found.ledger])
""",
        {"test_a_tally_counts_what_is_there"},
    ),
    "tells of loads alone": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found = super().tally(dataset_id, stream)
        return found and attrs.evolve(found, ledger=[r for r in found.ledger if r.kind == "load"])
""",
        {"test_a_tally_has_every_row_of_the_ledger"},
    ),
    "takes its own contract's version for that of each load": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found, version = super().tally(dataset_id, stream), self.described().version
        return found and attrs.evolve(found, ledger=[attrs.evolve(r, version=version) for r in found.ledger])
""",
        {"test_a_tally_has_every_row_of_the_ledger"},
    ),
    "counts every dataset": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found, other = super().tally(dataset_id, stream), super().tally("f" * 32, stream)
        return found and attrs.evolve(found, ledger=[*found.ledger, *other.ledger])
""",
        {"test_a_tally_counts_what_is_there"},
    ),
    "makes the target to count it": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        self.load([])
        with self._connected() as connection:
            self._make_tables(connection)
        return super().tally(dataset_id, stream)
""",
        {"test_a_target_that_is_not_there_has_no_tally"},
    ),
    "does not look for what the ledger lost": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found = super().tally(dataset_id, stream)
        return found and attrs.evolve(found, strays=[])
""",
        {"test_a_tally_names_what_no_load_covers"},
    ),
    "counts to a load whatever lies behind it": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def careless(monkeypatch):
    from headrace.plugins.duckdb import audit
    monkeypatch.setattr(audit, "_by_range", lambda *about, real=audit._by_range: real(Endless(about[0]), *about[1:]))

class Endless:
    def __init__(self, real):
        self.real = real

    def execute(self, sql, values):
        return self.real.execute(sql.replace("WHEN r._offset < l.end_offset", "WHEN true"), values)
""",
        {"test_a_tally_names_what_no_load_covers"},
    ),
    "does not know that it has a key, and counts what newer ones hide": (
        """
class Broken(DuckDBLoader):
    def tally(self, dataset_id, stream):
        found = super().tally(dataset_id, stream)
        return found and attrs.evolve(
            found, keyed=False, ledger=[attrs.evolve(r, rows=r.inserted + r.superseded) for r in found.ledger]
        )
""",
        {"test_a_contract_with_a_key"},
    ),
    "writes moments as its settings say": (
        """
class Broken(DuckDBLoader):
    pass

@pytest.fixture(autouse=True)
def careless(monkeypatch):
    from headrace.plugins.duckdb import audit
    monkeypatch.setattr(audit, "_cell", lambda column: f'"{column.name}"::VARCHAR')
""",
        {"test_stored_of_every_kind"},
    ),
    "does not say which rows are deletes": (
        """
class Broken(DuckDBLoader):
    def stored(self, line, start, end, *, cells=True):
        found = super().stored(line, start, end, cells=cells)
        return attrs.evolve(found, rows=[attrs.evolve(r, cells=r.cells[:-1]) for r in found.rows])
""",
        {"test_a_contract_with_a_key"},
    ),
    "reads whole loads": (
        """
class Broken(DuckDBLoader):
    def stored(self, line, start, end, *, cells=True):
        return super().stored(line, 0, 1 << 40, cells=cells)
""",
        {"test_stored_is_what_the_tables_hold"},
    ),
    "reads lines without their rest": (
        """
class Broken(DuckDBLoader):
    def stored(self, line, start, end, *, cells=True):
        found = super().stored(line, start, end, cells=cells)
        return attrs.evolve(found, quarantined=[(n, bytes(text)[:40]) for n, text in found.quarantined])
""",
        {"test_stored_is_what_the_tables_hold"},
    ),
    "takes another partition's": (
        """
class Broken(DuckDBLoader):
    def stored(self, line, start, end, *, cells=True):
        return super().stored(attrs.evolve(line, partition=attrs.evolve(line.partition, number=0)), start, end, cells=cells)
""",
        {"test_stored_is_not_what_was_taken"},
    ),
}


@pytest.mark.parametrize("how", BROKEN_AUDITED)
def test_broken_loader_that_is_audited(failing: Callable[..., set[str]], how: str):
    """The same of what an audit asks a loader for."""
    broken, expected = BROKEN_AUDITED[how]
    failed = failing(STRANGER.replace("{broken}", broken).replace("{suite}", "AuditedLoaderContract"), expected)
    assert expected == failed

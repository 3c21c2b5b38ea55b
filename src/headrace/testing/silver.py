"""
The loaders' state machine: several at work on one table, statement by statement, and everything that can happen to them.

Hypothesis chooses what happens next: the chain grows, a loader begins with what it once saw of it, executes its next statement,
is gone, is told nothing of its COMMIT though it happened or though it did not, somebody redrives the quarantine. After each
event the tables are read by other means than the loader's and held against what is in the chain; at the end one loader without
any fault brings the rest (rules S1 to S7 and S10).

A loader of your own is tested in a few lines; the warehouse is the one of `headrace.testing.contracts.loader`, whose loaders ask
a `Gate` before each statement::

    class MySilver(SilverMachine):
        def make_warehouse(self, gate):
            return MyWarehouse(gate)

    TestMySilver = MySilver.TestCase

    class MyKeys(MySilver):
        keyed = True    # the same of a contract with a key: at every moment the rows are the newest of what was loaded (S8)
        audited = True  # a deep audit in the middle of it all finds nothing wrong: the loader has `tally` and `stored`

    TestMyKeys = MyKeys.TestCase
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal

import attrs
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.contract import column, contract
from headrace.errors import ConfigError, HeadraceError, PositionConflictError, TransientError
from headrace.loader import Line, LoadableSegment, Loader, LoadResult, Selection
from headrace.testing.auditing import audited
from headrace.testing.contracts.loader import DATASET, PARTITIONS, TARGET, Cells, Place, Warehouse, segment
from headrace.testing.faults import Fate, Gate
from headrace.testing.turns import Turn, Turns
from headrace.testing.world import ViolationError

__all__ = ["Fate", "Gate", "SilverMachine", "ViolationError"]

_LOST: tuple[Fate, ...] = ("lose the statement", "lose the answer")


@contract(version=1)
class Narrow:
    """What the tests load."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None = column(minimum=0)


@contract(version=2)
class Wide:
    """What the tests load."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None


@contract(version=1, key=("symbol",), order=("price",))
class KeyedNarrow:
    """What the tests load, the newest of each symbol by its price."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None = column(minimum=0)


@contract(version=2, key=("symbol",), order=("price",))
class KeyedWide:
    """What the tests load, the newest of each symbol by its price."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None


POISON = b"not json"
REDRIVABLE = b'{"symbol":"A","price":2,"size":-1}'
CELLS: Mapping[bytes, Cells] = {
    b'{"symbol":"A","price":1}': ("A", Decimal(1), None),
    b'{"symbol":"B","price":14.1234,"size":7}': ("B", Decimal("14.1234"), 7),
    REDRIVABLE: ("A", Decimal(2), -1),
}
"""Values with their rows; one of them only the newer contract takes, and the poison none."""


@attrs.define(eq=False)
class Worker:
    """
    A process with a loader in it, on its way through one call.

    Attributes:
        turn: Its thread.

        newer: It has the newer contract.

        fate: Of its next statement.
    """

    turn: Turn
    newer: bool
    fate: Fate = "do"


class SilverMachine(RuleBasedStateMachine):
    """
    Two partitions, a few loaders, one table.

    Attributes:
        workers_at_once: How many loaders there are at most.

        keyed: Whether the contract has a key: then the rows are the newest of what was loaded, at every moment (S8).

        audited: Whether a deep audit looks as well, while loaders are in the middle of their transactions, or where none
            is, when all is loaded: it has nothing to say. For loaders with `headrace.Loader.tally` and `stored`.
    """

    workers_at_once = 3
    keyed = False
    audited = False

    def make_warehouse(self, gate: Gate) -> Warehouse:
        """Make a warehouse in which nothing is; the connections of its loaders ask *gate* before each statement from BEGIN on."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.warehouse = self.make_warehouse(self._gate)
        self.workers: list[Worker] = []
        self.chain: dict[int, list[LoadableSegment]] = {n: [] for n in range(len(PARTITIONS))}
        self.values: dict[Place, bytes] = {}
        self.newest = False  # the newer contract has loaded
        self.seen: Counter[str] = Counter()
        self._open(newer=False).redrive(Selection())  # the tables are there

    # ---- what is there ----------------------------------------------------------------------------------------------

    @invariant()
    def tables_are_right(self) -> None:
        """Each record at most once, as what it is, in the table or in quarantine; all that the ledger says, and no more."""
        rows, refused = self.warehouse.rows(TARGET), self.warehouse.quarantined(TARGET)
        places = Counter(place for place, _ in (*rows, *refused))
        for place, count in places.items():
            if count > 1:
                raise ViolationError(f"duplicate: {place} is there {count} times")
        for place, cells in rows:
            expected = CELLS.get(self.values.get(place, POISON))
            if cells != expected:
                raise ViolationError(f"changed: {place} is {cells}, expected {expected}")
        covered, quarantined = self._ledger_covers(), {place for place, _ in refused}
        if (covered & quarantined) | self._rows_of(covered - quarantined) != set(places):
            raise ViolationError(f"ledger: it covers {sorted(covered, key=str)}, there are {sorted(places, key=str)}")

    def _rows_of(self, accepted: set[Place]) -> set[Place]:
        """Which of the records that were accepted are rows: all, or of each key the newest."""
        if not self.keyed:
            return accepted
        newest: dict[object, Place] = {}
        for place in sorted(accepted, key=lambda p: (p[1].stream, p[1].number, p[2], p[0])):
            symbol, price, _ = CELLS.get(self.values[place], (place, Decimal(0), None))
            before = newest.get(symbol)
            if before is None or price >= CELLS[self.values[before]][1]:  # type: ignore[operator]  # of these none is NULL
                newest[symbol] = place
        return set(newest.values())

    def _ledger_covers(self) -> set[Place]:
        """The places that the ledger says are loaded; its lines must join up and count right (S1, S10)."""
        covered: set[Place] = set()
        ends: dict[tuple[str, object], int] = {}
        for row in sorted(self.warehouse.ledger(TARGET)):
            line = (row.dataset_id, row.partition)
            if row.start != ends.get(line, 0):
                raise ViolationError(f"ledger: {row} does not begin at {ends.get(line, 0)}")
            ends[line] = row.end
            places = {p for p in self.values if p[:2] == line and row.start <= p[2] < row.end}
            if row.records != row.inserted + row.superseded + row.rejected or row.records != len(places):
                raise ViolationError(f"ledger: {row} counts {len(places)} records wrongly")
            covered |= places
        return covered

    # ---- what happens -----------------------------------------------------------------------------------------------

    @rule(
        number=st.integers(0, len(PARTITIONS) - 1),
        values=st.lists(st.sampled_from((*CELLS, POISON)), min_size=1, max_size=3),
    )
    def grow(self, number: int, values: list[bytes]) -> None:
        """A segment comes to a chain."""
        links, partition = self.chain[number], PARTITIONS[number]
        start = links[-1].segment.end if links else 0
        links.append(segment(start, values, partition=partition))
        self.values |= {(DATASET, partition, start + n): value for n, value in enumerate(values)}

    @precondition(lambda self: len(self.workers) < self.workers_at_once)
    @rule(data=st.data(), newer=st.integers(0, 4).map(lambda n: n == 0), rival=st.booleans())
    def load(self, *, data: st.DataObject, newer: bool, rival: bool) -> None:
        """A loader begins with all that it sees beyond the ledger, or with less of it; sometimes two see the same."""
        loader = self._open(newer=newer)
        try:
            wanted = self._lacking(loader)
        except TransientError:  # another one is in the middle of something: it would try again
            return
        count = data.draw(st.integers(1, len(wanted))) if wanted else 0
        if count:
            self._begin(lambda: loader.load(wanted[:count]), newer=newer)
            if rival and len(self.workers) < self.workers_at_once:
                second = self._open(newer=False)
                self._begin(lambda: second.load(wanted[:count]), newer=False)

    @precondition(lambda self: len(self.workers) < self.workers_at_once)
    @rule(newer=st.booleans())
    def redrive(self, *, newer: bool) -> None:
        """Somebody redrives the quarantine."""
        loader = self._open(newer=newer)
        self._begin(lambda: loader.redrive(Selection()), newer=newer)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), until=st.sampled_from(("the next", "COMMIT", "its end")))
    def go_on(self, *, data: st.DataObject, until: str) -> None:
        """A loader executes its next statement, or some."""
        worker = data.draw(st.sampled_from(self.workers))
        if until == "the next":
            self._run(worker)
        else:
            self._run_to(worker, until)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), at=st.sampled_from(("the next", "COMMIT")), fate=st.sampled_from(_LOST))
    def break_connection(self, *, data: st.DataObject, at: str, fate: Fate) -> None:
        """A loader's next statement is lost, or its answer is: COMMIT's as well."""
        worker = data.draw(st.sampled_from(self.workers))
        if at == "COMMIT":
            self._run_to(worker, at)
        if worker in self.workers:
            worker.fate = fate
            self.seen[f"{fate}: {worker.turn.where}"] += 1
            self._run_to(worker, "its end")

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), at=st.sampled_from(("the next", "COMMIT")))
    def kill(self, *, data: st.DataObject, at: str) -> None:
        """A loader's process is gone."""
        worker = data.draw(st.sampled_from(self.workers))
        if at == "COMMIT":
            self._run_to(worker, at)
        if worker in self.workers:
            self.seen[f"killed at {worker.turn.where}"] += 1
            self.turns.kill(worker.turn)
            self.workers.remove(worker)

    def teardown(self) -> None:
        """No more faults: one loader brings the rest, and redrives; then everything is where it belongs."""
        busy = bool(self.workers)
        if busy:
            self._audit()
        for worker in self.workers:
            self.turns.kill(worker.turn)
        self.workers.clear()
        self.tables_are_right()
        try:
            with self._open(newer=True) as loader:
                loader.load(self._lacking(loader))
                loader.redrive(Selection())
        except HeadraceError as error:
            raise ViolationError(f"stuck: {type(error).__name__}: {error}") from error
        self.tables_are_right()
        rows = {place for place, _ in self.warehouse.rows(TARGET)}
        refused = {place for place, _ in self.warehouse.quarantined(TARGET)}
        bad = {place for place, value in self.values.items() if value == POISON}
        if (rows, refused) != (self._rows_of(set(self.values) - bad), bad):
            raise ViolationError(f"lost: {sorted(set(self.values) - rows - refused, key=str)}")
        if not busy:
            self._audit()
        for what in sorted(self.seen):
            event(what)

    def _audit(self) -> None:
        """A deep audit finds nothing wrong, whoever is in the middle of what."""
        if not self.audited or not self.warehouse.ledger(TARGET):
            return
        links = (link for chain in self.chain.values() for link in chain)
        loader, earlier = self._open(newer=True), [self._open(newer=False).contract]
        result = audited(DATASET, PARTITIONS[0].stream, links, loader, earlier)
        if result.findings:
            raise ViolationError(f"the audit cries wolf: {'; '.join(map(str, result.findings))}")

    # ---- workers ----------------------------------------------------------------------------------------------------

    def _open(self, *, newer: bool) -> Loader:
        old, new = (KeyedNarrow, KeyedWide) if self.keyed else (Narrow, Wide)
        return self.warehouse.open(new if newer else old, TARGET)

    def _lacking(self, loader: Loader) -> list[LoadableSegment]:
        """What the chain has and the ledger has not, as `headrace.load` finds it."""
        lines = [Line(DATASET, partition, TARGET) for partition in PARTITIONS]
        positions = loader.positions(lines)
        return [
            link
            for number, line in enumerate(lines)
            for link in self.chain[number]
            if link.segment.start >= (positions[line] or 0)
        ]

    def _begin(self, call: Callable[[], LoadResult], *, newer: bool) -> None:
        worker = Worker(self.turns.start(call, f"loader {len(self.workers)}"), newer)
        self.workers.append(worker)
        self._run(worker)  # to its first statement

    def _run_to(self, worker: Worker, until: str) -> None:
        """Let it execute statements until the next one is this, or until its call ends."""
        while worker in self.workers and worker.turn.where != until:
            self._run(worker)

    def _run(self, worker: Worker) -> None:
        """Let it execute one statement; one that was refused, or whose answer was lost, is gone: another one will come."""
        try:
            self.turns.run(worker.turn)
        except (PositionConflictError, TransientError) as error:
            self.seen[f"told: {type(error).__name__}"] += 1
        except ConfigError:
            if worker.newer or not self.newest:
                raise
            self.seen["an older contract was refused"] += 1
        if worker.turn.done:
            self.workers.remove(worker)
            self.newest = self.newest or worker.newer

    def _gate(self, statement: str) -> Fate:
        mine = self.turns.mine
        if mine is None:
            return "do"
        self.turns.pause(statement)
        worker = next((w for w in self.workers if w.turn is mine), None)
        return "do" if worker is None else worker.fate

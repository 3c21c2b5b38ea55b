"""
Components with one fault each, and the part of the kit that convicts them; the same part acquits what is sound.

What the suites of `test_stores.py`, `test_sinks.py`, `test_sources.py` and `test_loaders.py` and the stories of
`tests/test_machine.py` convict stands there. All of them together are the page `docs/pages/planted.md` (`page.py` makes it).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from headrace.errors import CommitUnknownError, HeadraceError, SinkUnavailableError, SourceUnavailableError
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Batch, Extent, Hint, Identity, Partition, Reached, Start
from headrace.store import Page
from headrace.tally import Stored
from headrace.testing import (
    Gate,
    GatedStore,
    LoaderCrashContract,
    MemoryLoader,
    MemoryLog,
    MemorySource,
    MemoryStore,
    MemoryWarehouse,
    Reader,
    SilverMachine,
    SinkCrashContract,
    SourceCrashContract,
    StoreCrashContract,
    World,
    Writer,
    kill_at_every_io,
    objects_of,
    read_lake,
    zombie_at_every_io,
)
from headrace.testing.faults import WAYS

_spec = importlib.util.spec_from_file_location("jobs", Path(__file__).with_name("jobs.py"))
assert _spec is not None
assert _spec.loader is not None
jobs = importlib.util.module_from_spec(_spec)  # other processes import it as well
_spec.loader.exec_module(jobs)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Many runs log much that nobody reads."""
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


@attrs.frozen
class Planted:
    """
    A component with a fault.

    Attributes:
        kind: What the component is.

        fault: What it does.

        rule: Which rule of the protocol it breaks, and the trace of it where there is one.

        by: What of the kit convicts it.

        judge: Is called with the component, and fails where it convicts.

        sound: What the judge acquits.

        broken: What it convicts.
    """

    kind: str
    fault: str
    rule: str
    by: str
    judge: Callable[[Any], None]
    sound: Any
    broken: Any


# ---- loaders --------------------------------------------------------------------------------------------------------


def crash(loader: type[MemoryLoader]) -> None:
    """Each I/O of a load and a redrive fails, in each way."""
    for way in WAYS:
        LoaderCrashContract().test_every_io_of_a_load_and_a_redrive(lambda gate: MemoryWarehouse(gate, loader), way)


def audit_crash(loader: type[MemoryLoader]) -> None:
    """Each I/O of what an audit asks fails."""
    LoaderCrashContract().test_every_io_of_an_audit(lambda gate: MemoryWarehouse(gate, loader), WAYS[0])


class TakesFailureForNoRows(MemoryLoader):
    def stored(self, line, start, end, *, cells=True):
        try:
            return super().stored(line, start, end, cells=cells)
        except HeadraceError:
            return Stored([], [])


ROUNDS = 6
"""How often what is only likely is tried: what one choice of runs misses, another one has."""


def machine(loader: type[MemoryLoader], *, keys: bool = False) -> None:
    """Several loaders at once, in orders that Hypothesis chooses."""

    class Machine(SilverMachine):
        keyed = keys

        def make_warehouse(self, gate):
            return MemoryWarehouse(gate, loader)

    for round_ in range(1 if loader is MemoryLoader else ROUNDS):
        run_state_machine_as_test(
            seed(round_)(Machine),
            settings=settings(
                max_examples=60,
                stateful_step_count=30,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )


def overtaken_by_another(loader: type[MemoryLoader]) -> None:
    """A loader that has seen the ledger is overtaken by another one before it has the lock: one order of the machine's, alone."""

    class Machine(SilverMachine):
        def make_warehouse(self, gate):
            return MemoryWarehouse(gate, loader)

    found = Machine()
    found.grow(number=0, values=[b'{"symbol":"A","price":1}'])
    for opened in (found._open(newer=False), found._open(newer=False)):
        found._begin(partial(opened.load, found.chain[0]), newer=False)
    for worker in list(found.workers):
        found._run_to(worker, "its end")
        found.tables_are_right()


def audited_machine(loader: type[MemoryLoader]) -> None:
    """A redrive, and then an audit: one order of the machine's, alone."""

    class Machine(SilverMachine):
        audited = True

        def make_warehouse(self, gate):
            return MemoryWarehouse(gate, loader)

    found = Machine()
    found.grow(number=0, values=[b'{"symbol":"A","price":2,"size":-1}', b"not json"])
    found._open(newer=False).load(found.chain[0])
    found.teardown()


def keyed_machine(loader: type[MemoryLoader]) -> None:
    machine(loader, keys=True)


class LedgerApart(MemoryLoader):
    def enter(self, table, found, new):
        self.warehouse.tables[self.target] = table.copied()  # rows are committed, the ledger's follow
        super().enter(table, found, new)


class QuarantineApart(MemoryLoader):
    def quarantine(self, table, found):
        super().quarantine(table, found)
        self.warehouse.tables.setdefault(self.target, table.copied()).refused.update(table.refused)


class LedgerBeforeTheLock(MemoryLoader):
    def lacking(self, segments, table):
        inside = self.warehouse.owners.get(self.target)
        return list(segments) if inside else super().lacking(segments, table)


class BelievesCommit(MemoryLoader):
    def commit(self, transaction):
        with contextlib.suppress(CommitUnknownError):  # it will have arrived
            super().commit(transaction)


class TakesCommitForNothing(MemoryLoader):
    def commit(self, transaction):
        try:
            super().commit(transaction)
        except CommitUnknownError as exc:
            raise SinkUnavailableError("nothing was written, call again") from exc


class RedriveInTwoSteps(MemoryLoader):
    def take_back(self, transaction, selection):
        write = self.write

        def committed(table, rows):
            added = write(table, rows)
            self.warehouse.tables[self.target] = table.copied()
            return added

        self.write = committed
        try:
            return super().take_back(transaction, selection)
        finally:
            del self.write


class RedriveWithoutATrace(MemoryLoader):
    def take_back(self, transaction, selection):
        table = transaction.table
        before = list(table.ledger)
        result = super().take_back(transaction, selection)
        table.ledger = before
        return result


class LastComesWins(MemoryLoader):
    def write(self, table, rows):
        added = [row for row in rows if (row.key or (row.dataset_id, row.partition, row.offset)) not in table.rows]
        for row in rows:
            table.rows[row.key or (row.dataset_id, row.partition, row.offset)] = row
        return added


# ---- sinks and stores, in a world -----------------------------------------------------------------------------------


def world(sink: Callable[..., LakeSink] = LakeSink, **more: object) -> World:
    """A world whose dataset is pinned already; what is at fault is not looked for by the probe."""
    made = World(make_sink=lambda s, _, clock: sink(store=s, clock=clock, guarantee="at-least-once"), **more)
    with LakeSink(store=made.inner, clock=made.clock, guarantee="at-least-once") as opened:
        opened.bind(made.log.extents())
    return made


def rivals(sink: Callable[..., LakeSink]) -> None:
    """Two writers at one position; the one that is refused goes on."""
    made = world(sink)
    made.produce(b"0", b"1")
    first = made.start(records=1)
    second = made.start(records=2)
    for _ in range(3):
        for put in list(made.store.in_flight):
            made.land(put)
            made.answer(put)
        made.produce(b"more")
        made.work(second, 2)
        made.work(first, 2)
        made.check()
    made.finish()


class Lying(MemoryStore):
    """What a writer sees of a store, with a lie in it."""

    def __init__(self, inner):
        super().__init__(place=inner.place)
        self.inner = inner

    def create(self, key, body, metadata):
        return self.inner.create(key, body, metadata)

    def list(self, prefix, after=""):
        return self.inner.list(prefix, after)

    def read(self, key, start=0, end=None):
        return self.inner.read(key, start, end)


class Swallowing(Lying):
    def create(self, key, body, metadata):
        created = super().create(key, body, metadata)
        return created or "/partition=" in key


class Hasty(Lying):
    waiting: tuple[str, bytes, Mapping[str, str]] | None = None

    def create(self, key, body, metadata):
        if "/partition=" not in key:
            return super().create(key, body, metadata)
        if self.waiting:
            super().create(*self.waiting)
        self.waiting = (key, body, metadata)
        return True


class OwnIdIsStored(Lying):
    def create(self, key, body, metadata):
        created = super().create(key, body, metadata)
        found = self.inner.read(key, -1024) or b""
        return created or (b'"writer":"' in found.replace(b": ", b":") and "/partition=" in key)


def lying(store: type[Lying]) -> Callable[..., LakeSink]:
    return lambda *, store=None, _lie=store, **more: LakeSink(store=_lie(store), **more)


def broken_store_crash(answers: type[GatedStore]) -> None:
    """Each request to a store fails, in each way."""
    for way in WAYS:
        inner = MemoryStore()
        StoreCrashContract().test_every_io_of_a_store(lambda gate, inner=inner: answers(inner=inner, gate=gate), way)


@attrs.define
class Lake:
    """A lake whose writers, or whose readers, lose requests; read back, and filled, around that."""

    gate: Gate
    answers: type[GatedStore] = GatedStore
    inner: MemoryStore = attrs.field(factory=lambda: MemoryStore(page_size=2))
    stream: str = "ticks"
    partitions: int = 1
    source: type[LakeSource] = LakeSource
    reads: bool = False

    def open(self):
        store = self.answers(inner=self.inner, gate=self.gate)
        if self.reads:
            return self.source(store=store, stream=self.stream)
        return LakeSink(store=store, guarantee="at-least-once")

    def read(self, partition):
        found = read_lake(objects_of(self.inner), partition.stream).get(partition.number)
        return found.records if found else []

    def append(self, number, records):
        partition, identity = Partition(self.stream, number), Identity("c", "t", "read_committed", 1)
        with LakeSink(store=self.inner) as sink:
            sink.bind({partition: Extent(0, 10**6, 10**6, identity)})
            Writer(sink, partition, identity).put(records)


def sink_crash(answers: type[GatedStore]) -> None:
    """Each request of a lake's writer fails, in each way."""
    for way in WAYS:
        SinkCrashContract().test_every_io_of_a_commit(lambda gate: Lake(gate, answers), way)


def source_crash(source: type[LakeSource]) -> None:
    """Each request of a lake's reader fails."""
    SourceCrashContract().test_every_io_of_a_read(lambda gate: Lake(gate, source=source, reads=True), WAYS[0])


class TakesFailureForTheEnd(LakeSource):
    def poll(self, owner, timeout_s):
        try:
            return super().poll(owner, timeout_s)
        except HeadraceError:
            return [Reached(p, c.assignment, c.position, at_end=True) for p, c in self._cursors.items()]


@attrs.define(kw_only=True, eq=False)
class Asking(MemorySource):
    """Asks before each record that it reads again."""

    gate: Gate

    def reread(self, partition, start, end, *, aborted=False):
        for batch in super().reread(partition, start, end, aborted=aborted):
            if self.gate("FETCH") != "do":
                raise SourceUnavailableError("no answer")
            yield batch


class EndsWhereItFails(Asking):
    def reread(self, partition, start, end, *, aborted=False):
        with contextlib.suppress(HeadraceError):
            yield from super().reread(partition, start, end, aborted=aborted)


@attrs.define
class Kept:
    """A log in memory, whose sources ask a gate."""

    gate: Gate
    source: type[Asking]
    stream: str = "log"
    partitions: int = 1
    memory: MemoryLog = attrs.field(factory=MemoryLog)

    def append(self, number, records):
        for record in records:
            self.memory.produce(record.value)

    def open(self):
        return self.source(log=self.memory, gate=self.gate)


def reread_crash(source: type[Asking]) -> None:
    """Each I/O of reading a range again fails, in each way."""
    for way in WAYS:
        SourceCrashContract().test_every_io_of_reading_again(lambda gate: Kept(gate, source), way)


class TakesSilenceForYes(GatedStore):
    def create(self, key, body, metadata):
        try:
            return super().create(key, body, metadata)
        except CommitUnknownError:
            return True


class TakesSilenceForNothing(GatedStore):
    def read(self, key, start=0, end=None):
        try:
            return super().read(key, start, end)
        except HeadraceError:
            return None


class EmptyPageOnFailure(GatedStore):
    def list(self, prefix, after=""):
        try:
            return super().list(prefix, after)
        except HeadraceError:
            return Page([], truncated=False)


# ---- sources --------------------------------------------------------------------------------------------------------


def rebalance(source: type[MemorySource]) -> None:
    """A partition goes and comes back while a write of it is under way; then another process takes over."""
    made = world(make_source=source)
    made.produce(b"0", b"1", b"2", b"3")
    writer = made.start(records=2)
    made.work(writer, 2)
    made.produce(b"4", b"5", b"6")
    made.run(writer.main)
    made.rebalance(writer, lost=True)
    made.work(writer, 4)
    made.check()
    made.crash(writer)
    made.work(made.start(hint=made.log.committed.get(made.partition), records=1), 6)
    made.check()
    made.finish()


class SkipsOnARebalance(MemorySource):
    """Goes on where it had read to, whatever its owner says."""

    def _tell(self, owner, what, partitions):
        before = {p: c.position for p, c in self._cursors.items()} | getattr(type(self), "kept", {})
        type(self).kept = before
        super()._tell(owner, what, partitions)
        if what == "give":
            for partition in partitions:
                if partition in before and partition in self._cursors:
                    cursor = self._cursors[partition]
                    cursor.position = max(cursor.position, before[partition])


class BeginsAtTheCommittedOffset(MemorySource):
    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        super().move(starts)
        for partition, cursor in self._cursors.items():
            hint = (self.hints or {}).get(partition)
            if hint is not None:
                cursor.position = max(cursor.position, hint.offset)


def forged(source: type[MemorySource]) -> None:
    """The group's committed offset is ahead of the chain: made up, or of a chain that was begun anew."""
    made = world(make_source=source)
    made.produce(b"0", b"1", b"2")
    made.work(made.start(hint=Hint(1, None, None), misled=True, records=1), 5)
    made.check()
    made.finish()


def reading(source: type[MemorySource]) -> None:
    """A log with holes behind its records, read by one who holds every event against the promises."""
    log = MemoryLog()
    for n in range(20):
        log.produce(b"%d" % n)
        if n % 3 == 0:
            log.marker()
    reader = Reader(source(log=log, chunk=5, idle=lambda _: None))
    reader.to_the_end()
    assert [b"%d" % n for n in range(20)] == [r.value for r in reader.records(Partition("log", 0))]


class EndsBehindHoles(MemorySource):
    def _read(self, partition, cursor):
        place = cursor.position
        event = super()._read(partition, cursor)
        if isinstance(event, Batch):
            _, reached, _ = self.log.read(place, self.chunk, partition.number)
            cursor.start = cursor.position = reached
            return attrs.evolve(event, end=reached)
        return event


class AnEndBeforeTheEnd(MemorySource):
    def _read(self, partition, cursor):
        event = super()._read(partition, cursor)
        if isinstance(event, Batch) and cursor.position < self.log.logs[0].high - 3:
            cursor.position += 1
        return event


# ---- processes ------------------------------------------------------------------------------------------------------


def killed(job: Callable[..., object]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for folder in kill_at_every_io(job, Path(root)):
            assert jobs.BODY == (folder / "object").read_bytes()


def overtaken(job: Callable[..., object]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for folder in zombie_at_every_io(job, Path(root)):
            assert jobs.BODY == (folder / "object").read_bytes()


# ---- the table ------------------------------------------------------------------------------------------------------

PLANTED = [
    Planted(
        "loader",
        "its ledger row is in another transaction",
        "S2",
        "LoaderCrashContract",
        crash,
        MemoryLoader,
        LedgerApart,
    ),
    Planted(
        "loader", "its ledger row is in another transaction", "S2", "SilverMachine", machine, MemoryLoader, LedgerApart
    ),
    Planted(
        "loader",
        "quarantine is written outside the transaction",
        "S2",
        "LoaderCrashContract",
        crash,
        MemoryLoader,
        QuarantineApart,
    ),
    Planted(
        "loader",
        "it reads the ledger before it has the lock, and not again",
        "S2, T15",
        "SilverMachine",
        overtaken_by_another,
        MemoryLoader,
        LedgerBeforeTheLock,
    ),
    Planted(
        "loader",
        "it takes a COMMIT that is not answered for done",
        "S5",
        "LoaderCrashContract",
        crash,
        MemoryLoader,
        BelievesCommit,
    ),
    Planted(
        "loader",
        "it says of a COMMIT that is not answered that nothing was written",
        "S5",
        "LoaderCrashContract",
        crash,
        MemoryLoader,
        TakesCommitForNothing,
    ),
    Planted(
        "loader",
        "a redrive commits its rows before they leave quarantine",
        "S6",
        "LoaderCrashContract",
        crash,
        MemoryLoader,
        RedriveInTwoSteps,
    ),
    Planted(
        "loader",
        "a redrive leaves no row in the ledger",
        "S6, S10",
        "SilverMachine, audited",
        audited_machine,
        MemoryLoader,
        RedriveWithoutATrace,
    ),
    Planted(
        "loader",
        "of a key the record that comes last is the row",
        "S8, T18",
        "SilverMachine, keyed",
        keyed_machine,
        MemoryLoader,
        LastComesWins,
    ),
    Planted(
        "sink",
        "it swallows a refusal and goes on as if it had stored",
        "B26",
        "World",
        rivals,
        LakeSink,
        lying(Swallowing),
    ),
    Planted("sink", "it acknowledges before the PUT", "B27", "World", rivals, LakeSink, lying(Hasty)),
    Planted(
        "sink",
        "a refusal by an object of the same writer is taken for stored",
        "B25, T9",
        "World",
        rivals,
        LakeSink,
        lying(OwnIdIsStored),
    ),
    Planted(
        "store",
        "a write that is not answered is taken for stored",
        "B6",
        "StoreCrashContract",
        broken_store_crash,
        GatedStore,
        TakesSilenceForYes,
    ),
    Planted(
        "store",
        "a read that is not answered is taken for no object",
        "B11",
        "StoreCrashContract",
        broken_store_crash,
        GatedStore,
        TakesSilenceForNothing,
    ),
    Planted(
        "store",
        "a listing that is not answered is taken for an empty one",
        "B11",
        "StoreCrashContract",
        broken_store_crash,
        GatedStore,
        EmptyPageOnFailure,
    ),
    Planted(
        "store",
        "it writes under the name, in two parts",
        "B6",
        "kill_at_every_io",
        killed,
        jobs.one_step,
        jobs.in_place,
    ),
    Planted(
        "store",
        "it looks whether the name is free, and then writes",
        "B6, T10",
        "zombie_at_every_io",
        overtaken,
        jobs.one_step,
        jobs.look_then_write,
    ),
    Planted(
        "source",
        "it goes on where it had read to after a rebalance",
        "B16",
        "World",
        rebalance,
        MemorySource,
        SkipsOnARebalance,
    ),
    Planted(
        "source",
        "it begins at the group's committed offset",
        "B16, T6",
        "World",
        forged,
        MemorySource,
        BeginsAtTheCommittedOffset,
    ),
    Planted(
        "source",
        "its batches end behind the holes that follow",
        "B3, T5",
        "Reader",
        reading,
        MemorySource,
        EndsBehindHoles,
    ),
    Planted(
        "source",
        "it passes over an offset between two batches",
        "B17",
        "Reader",
        reading,
        MemorySource,
        AnEndBeforeTheEnd,
    ),
    Planted(
        "sink",
        "a write that is not answered is taken for stored",
        "B25",
        "SinkCrashContract",
        sink_crash,
        GatedStore,
        TakesSilenceForYes,
    ),
    Planted(
        "source",
        "a read that fails is taken for the log's end",
        "B19",
        "SourceCrashContract",
        source_crash,
        LakeSource,
        TakesFailureForTheEnd,
    ),
    Planted(
        "source",
        "for an audit, a read that fails is taken for the end of the range",
        "B30",
        "SourceCrashContract",
        reread_crash,
        Asking,
        EndsWhereItFails,
    ),
    Planted(
        "loader",
        "for an audit, a read that fails is taken for an empty table",
        "B30",
        "LoaderCrashContract",
        audit_crash,
        MemoryLoader,
        TakesFailureForNoRows,
    ),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: f"{p.kind}: {p.fault}, {p.by}")
def test_fault_is_convicted(planted: Planted):
    """The kit finds it."""
    with pytest.raises((AssertionError, HeadraceError)):
        planted.judge(planted.broken)


@pytest.mark.parametrize(
    ("judge", "sound"), {(p.judge, p.sound): None for p in PLANTED}, ids=lambda thing: getattr(thing, "__name__", "")
)
def test_sound_component_is_acquitted(judge: Callable[[Any], None], sound: Any):
    """The same judge has nothing to say of what the fault was planted into."""
    judge(sound)

"""
The protocol's state machine: writers that all believe that they own the partition, and everything that can happen to them.

Hypothesis chooses what happens next in a `World`: a record is produced, a writer takes a turn, a write lands, or its answer is
lost, a process is gone, the log is compacted, retained, cut back or made again, the oldest segments are deleted. After each step
an independent reader looks at the lake (`headrace.testing.oracle`); at the end one writer without any fault must bring the rest.

A sink of your own is tested in four lines::

    class MyLake(LakeMachine):
        def make_sink(self, store, epoch, clock):
            return MySink(store=store, epoch=epoch, clock=clock)

    TestMyLake = MyLake.TestCase

What happened in a run is counted by ``pytest --hypothesis-show-statistics``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.records import Hint
from headrace.sink import Sink
from headrace.store import Store
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore
from headrace.testing.world import ViolationError, World, Writer

__all__ = ["VALUES", "LakeMachine", "ViolationError"]

VALUES = (b"{}", b'{"n":1.10}', None, b"null", b"1,2", b"[1],[2", b"\xff\xfe", b"a\nb", b' "padded" ', b"", b"NaN")
"""A record's value may be anything; these are the ones that an encoder stumbles over."""

SOMETIMES = st.integers(0, 3).map(lambda n: n == 0)


class WritersMachine(RuleBasedStateMachine):
    """
    A few writers, and writes that are held back: what they read, and how it changes under them, is said by who inherits this.

    Attributes:
        world: Where they live; its `check` is asked after each step, its `finish` at the end.

        puts_at_once: How many writes are on their way at most.
    """

    world: World
    puts_at_once = 4

    @invariant()
    def lake_is_right(self) -> None:
        """Each record is there at most once and unchanged, in one chain, and nothing was left out in silence."""
        self.world.check()

    def teardown(self) -> None:
        """No more faults: one fresh writer brings what is missing, and names what is lost."""
        try:
            self.world.finish()
        finally:
            self.world.inner.close()
            for what in sorted(self.world.seen):
                event(what)

    # ---- writers ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> list[Writer]:
        """The writers that may take a turn which may send something."""
        room = len(self.world.store.in_flight) < self.puts_at_once
        return [w for w in self.world.writers if room and w.ready]

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), chunk=st.sampled_from((1, 2, 5)), fine=st.booleans())
    def step(self, *, data: st.DataObject, chunk: int, fine: bool) -> None:
        """A writer reads on, takes answers, sends what is due."""
        writer = data.draw(st.sampled_from(self.ready))
        writer.source.chunk = chunk
        self.world.run(writer.main, fine=fine)

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), chunk=st.sampled_from((1, 2, 5)), rounds=st.integers(2, 6))
    def work(self, data: st.DataObject, chunk: int, rounds: int) -> None:
        """A writer works for a while, undisturbed, as the others hang."""
        writer = data.draw(st.sampled_from(self.ready))
        writer.source.chunk = chunk
        self.world.work(writer, rounds)

    @precondition(lambda self: any(w.looking for w in self.world.writers))
    @rule(data=st.data(), fine=st.booleans())
    def look_on(self, *, data: st.DataObject, fine: bool) -> None:
        """A listing or a read that was overtaken goes on."""
        self.world.run(data.draw(st.sampled_from([t for w in self.world.writers for t in w.looking])), fine=fine)

    @precondition(lambda self: self.world.writers)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.world.crash(data.draw(st.sampled_from(self.world.writers)))

    # ---- writes on their way ------------------------------------------------------------------------------

    @precondition(lambda self: self.world.store.in_flight)
    @rule(data=st.data(), answer=st.sampled_from(("under way", "there", "lost")), fine=st.booleans())
    def land(self, *, data: st.DataObject, answer: str, fine: bool) -> None:
        put = data.draw(st.sampled_from(self.world.store.in_flight))
        self.world.land(put)
        if answer == "there":
            self.world.answer(put, fine=fine)
        elif answer == "lost" and put.sender is not None:
            self.world.lose(put, fine=fine)

    @precondition(lambda self: self.world.store.landed)
    @rule(data=st.data(), fine=st.booleans())
    def answer(self, *, data: st.DataObject, fine: bool) -> None:
        self.world.answer(data.draw(st.sampled_from(self.world.store.landed)), fine=fine)

    @precondition(lambda self: self.world.awaited and len(self.world.store.in_flight) < self.puts_at_once)
    @rule(data=st.data(), fine=st.booleans())
    def lose(self, *, data: st.DataObject, fine: bool) -> None:
        self.world.lose(data.draw(st.sampled_from(self.world.awaited)), fine=fine)

    @precondition(lambda self: any(p.sender for p in self.world.store.in_flight))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        self.world.refuse(data.draw(st.sampled_from([p for p in self.world.store.in_flight if p.sender])))


class LakeMachine(WritersMachine):
    """
    One partition, a few writers, held-back writes, and a log that changes under them.

    Attributes:
        writers_at_once: How many writers there are at most.

        make_source: Makes the writers' sources; takes the fields of `MemorySource`.
    """

    writers_at_once = 3
    make_source: Callable[..., MemorySource] = MemorySource

    def make_sink(self, store: Store, epoch: str, clock: Callable[[], float]) -> Sink:
        """Make a sink of its own for each writer, as a process would."""
        raise NotImplementedError

    def make_store(self) -> Store:
        """Make the store under the lake; its small pages let a listing be overtaken between two of them."""
        return MemoryStore(page_size=2)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(make_sink=self.make_sink, inner=self.make_store(), make_source=self.make_source)

    @initialize(
        records=st.integers(0, 4), unpinned=SOMETIMES, writers=st.lists(st.sampled_from((1, 2, 1000)), max_size=2)
    )
    def begin(self, *, records: int, unpinned: bool, writers: list[int]) -> None:
        """Begin with a few records, mostly with a pin, and with writers that make segments of so many records."""
        self.world.produce(*VALUES[:1] * records)
        if not unpinned:
            with self.make_sink(self.world.store, self.world.epoch, self.world.clock) as sink:
                sink.bind(self.world.log.extents())
        for count in writers:
            self.world.start(records=count)

    # ---- the log ------------------------------------------------------------------------------------------

    @rule(values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    def produce(self, values: list[bytes | None]) -> None:
        self.world.produce(*values)

    @rule(records=st.integers(0, 2), committed=st.booleans())
    def transact(self, *, records: int, committed: bool) -> None:
        self.world.transact(*VALUES[:1] * records, committed=committed)

    @precondition(lambda self: self.world.compactable)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        self.world.log.compact(data.draw(st.sampled_from(self.world.compactable)))

    @precondition(lambda self: self.world.partition_log.end > self.world.partition_log.low)
    @rule(by=st.integers(1, 3))
    def retain(self, by: int) -> None:
        self.world.retain(by)

    @rule()
    def elect(self) -> None:
        self.world.log.elect()

    @precondition(lambda self: self.world.partition_log.high > self.world.partition_log.low and not self.world.cut)
    @precondition(lambda self: self.world.hints)
    @rule(by=st.integers(1, 6), now=SOMETIMES)
    def cut_back(self, *, by: int, now: bool) -> None:
        """Not in every run: a log that was cut back stops what was written of it."""
        if now:
            self.world.cut_back(by, VALUES[0])

    @precondition(lambda self: len(self.world.topics) < 3)
    @rule(now=SOMETIMES)
    def recreate(self, *, now: bool) -> None:
        """Not in every run, for the same reason."""
        if now:
            self.world.recreate(VALUES[0], VALUES[0])

    # ---- writers ------------------------------------------------------------------------------------------

    def _hint(self, kind: str, data: st.DataObject) -> Hint | None:
        """Any hint; but none that says more of holes than was ever acknowledged: B18 rests on it."""
        if kind == "stale" and self.world.hints:
            return data.draw(st.sampled_from(self.world.hints))
        if kind == "forged":
            start = data.draw(st.integers(0, 8))
            end = start + data.draw(st.integers(1, 8))
            dataset_ids = [None, *(hint.dataset_id for hint in self.world.hints[-1:])]
            return Hint(end, (start, end), data.draw(st.sampled_from(dataset_ids)))
        return self.world.log.committed.get(self.world.partition) if kind == "honest" else None

    @precondition(lambda self: len(self.world.writers) < self.writers_at_once)
    @rule(
        data=st.data(),
        kind=st.sampled_from(("none", "honest", "stale", "forged")),
        records=st.sampled_from((1, 2, 3, 1000)),
        memory_bytes=st.sampled_from((1 << 20, 1)),
        on_gap=st.sampled_from(("stop", "note")),
        fine=st.booleans(),
    )
    def start(
        self,
        *,
        data: st.DataObject,
        kind: str,
        records: int,
        memory_bytes: int,
        on_gap: Literal["stop", "note"],
        fine: bool,
    ) -> None:
        """A process begins, with any hint; sometimes it was told an epoch that is over."""
        self.world.start(
            hint=self._hint(kind, data),
            misled=kind in ("forged", "stale"),
            epoch=data.draw(st.sampled_from(sorted(self.world.deleted))),
            records=records,
            memory_bytes=memory_bytes,
            on_gap=on_gap,
            fine=fine,
        )

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), lost=st.booleans())
    def rebalance(self, *, data: st.DataObject, lost: bool) -> None:
        self.world.rebalance(data.draw(st.sampled_from(self.ready)), lost=lost)

    # ---- time and the operator ----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((61.0, 4000.0)))
    def pass_time(self, seconds: float) -> None:
        """Drafts grow old; after an hour positions do as well (B15)."""
        self.world.now_s += seconds

    @precondition(lambda self: self.world.hints)
    @rule(oldest=st.integers(0, 3), killed_after=st.none() | st.integers(0, 2))
    def pass_a_day(self, *, oldest: int, killed_after: int | None) -> None:
        self.world.pass_a_day(oldest, killed_after=killed_after)

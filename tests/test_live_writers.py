"""
Several processes that write what only they heard to one stream of a lake: a live feed under the commit protocol (B26).

Their offsets mean nothing to each other: where two held just as many records, the loser must not take the winner's for its own.
Each record that a process heard is stored once, or the process is told that it is not; what is acknowledged is stored.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from headrace.commit import Holding
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Event, Extent, Hint, Partition, Position, Record, Start
from headrace.source import Owner
from headrace.testing.held import HeldPut
from headrace.testing.machine import WritersMachine
from headrace.testing.oracle import objects_of, read_lake
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore
from headrace.testing.world import ViolationError, World, Writer
from playing import QUIET, play


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Thousands of runs log much that nobody reads."""
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


@attrs.define(kw_only=True, eq=False)
class LiveSource(MemorySource):
    """
    Says what a test lets it hear, once, with numbers of its own from where it was told to begin: all that a feed is, to a sink.

    Attributes:
        store: Where what is acknowledged must be.

        heard: What it has not said yet.

        said: What is not acknowledged yet, each with its offset.

        told: What it was told is not stored.
    """

    rereadable = False
    store: MemoryStore
    heard: deque[bytes] = attrs.field(factory=deque, init=False)
    said: deque[tuple[int, bytes]] = attrs.field(factory=deque, init=False)
    told: set[bytes] = attrs.field(factory=set, init=False)
    _next: int = attrs.field(default=0, init=False)
    _assignment: int = attrs.field(default=0, init=False)

    def extents(self) -> Mapping[Partition, Extent]:
        no_end = 1 << 62
        return {p: attrs.evolve(e, low=0, high=no_end, end=no_end) for p, e in self.log.extents().items()}

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if self._owned is None:
            self._owned = set(self.log.all)
            self.move(owner.assigned(dict.fromkeys(self._owned)))
        if self._paused or not self.heard:
            return []
        values = [self.heard.popleft() for _ in range(min(self.chunk, len(self.heard)))]
        said = list(zip(itertools.count(self._next), values, strict=False))
        self.said += said
        self._next += len(said)
        records = [Record(offset, 0, None, value, (), "create") for offset, value in said]
        return [Batch.of(p, records, assignment=self._assignment) for p in self.log.all]

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            if start is None:
                self._paused.add(partition)
                continue
            self._paused.discard(partition)
            if start.assignment != self._assignment:
                self.told |= {value for _, value in self.said}
                self.said.clear()
                self._next, self._assignment = start.offset or 0, start.assignment

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        there = stored(self.store, self.log.stream)
        for hint in hints.values():
            while self.said and self.said[0][0] < hint.offset:
                _, value = self.said.popleft()
                if value not in there:
                    raise ViolationError(f"acknowledged: {value!r} is not stored")


def stored(store: MemoryStore, stream: str) -> Counter[bytes | None]:
    """Count all values in the lake, around the code under test."""
    return Counter(r.value for lake in read_lake(objects_of(store), stream).values() for r in lake.records)


@attrs.define(kw_only=True, eq=False, repr=False)
class LiveWorld(World):
    """Where what a writer reads is its own."""

    def hear(self, source: LiveSource, count: int) -> None:
        for _ in range(count):
            self._names += 1
            source.heard.append(b"%d" % self._names)

    def check(self) -> None:
        there = stored(self.inner, self.log.stream)
        twice = sorted(value for value, n in there.items() if n > 1)
        told = {value for w in self.writers for value in w.source.told}
        if twice:
            raise ViolationError(f"duplicate: {twice}")
        for writer in self.writers:
            self._is_not_stuck(writer)
        if told & set(there):
            self._saw(
                "what was stored was told as not stored"
            )  # where its answer was lost, and another one wrote behind it

    def finish(self) -> None:
        """Let all that live store what they hold, one after the other."""
        if not self.broken:
            self.check()
            for put in list(self.store.in_flight):
                self.land(put)
            for writer in list(self.writers):
                self._go_on(writer)
            self.check()
        for writer in list(self.writers):
            self._end(writer)

    def _go_on(self, writer: Writer) -> None:
        """Let it work undisturbed, out of whatever it was held up in, until nothing is left to be stored."""
        source = writer.source
        for _ in range(20 + 5 * len(source.heard) + 5 * len(source.said)):
            self.now_s += 61.0
            for turn in writer.looking:
                self.run(turn)
            self.work(writer, 2)
        if source.heard or source.said:
            raise ViolationError(f"stuck: {writer.name} holds {source.said}, and {source.heard} unsaid")

    def land(self, put: HeldPut) -> None:
        super().land(put)
        if put.answer is False and put.sender is not None and "/_headrace/" not in put.key:
            lost = len(put.body) == len(self.inner.objects[put.key]) and put.body != self.inner.objects[put.key]
            self._saw("just as many records were stored by another one" if lost else "a write was refused")


def a_world() -> LiveWorld:
    """Make a world whose dataset is pinned already."""
    store = MemoryStore(page_size=2)
    world = LiveWorld(
        make_sink=lambda s, _, clock: LakeSink(store=s, clock=clock, guarantee="at-least-once"),  # not probed each time
        inner=store,
        make_source=partial(LiveSource, store=store),
    )
    with world.make_sink(store, "", world.clock) as sink:
        sink.bind(world.log.extents())
    return world


class Live(WritersMachine):
    """Writers that hear, each on its own; nothing is ever heard twice."""

    def __init__(self) -> None:
        super().__init__()
        self.world = a_world()

    @precondition(lambda self: len(self.world.writers) < 3)
    @rule(records=st.sampled_from((1, 2, 3)), memory_bytes=st.sampled_from((1 << 20, 1)), fine=st.booleans())
    def start(self, *, records: int, memory_bytes: int, fine: bool) -> None:
        self.world.start(records=records, memory_bytes=memory_bytes, fine=fine)

    @precondition(lambda self: self.world.writers)
    @rule(data=st.data(), count=st.integers(1, 4))
    def hear(self, data: st.DataObject, count: int) -> None:
        self.world.hear(data.draw(st.sampled_from(self.world.writers)).source, count)

    @rule(seconds=st.sampled_from((61.0, 4000.0)))
    def pass_time(self, seconds: float) -> None:
        """Drafts grow old; after an hour positions do as well (B15)."""
        self.world.now_s += seconds


class TestLive(Live.TestCase):
    """Whatever happens, nothing is acknowledged that is not stored, nothing is stored twice, and nobody waits for ever."""

    settings = settings(max_examples=2 * settings().max_examples, stateful_step_count=50, suppress_health_check=QUIET)


def as_of_a_log(holding: Holding, found: Position, **_: bool) -> str:
    """Take an end that is where a draft ends for that draft, as is right for a log."""
    return LOOKED_UP(holding, found)


def nothing_is_ours(holding: Holding, found: Position, *, rereadable: bool = True) -> str:
    """Take nothing that is found for one's own, as a sink without digests must."""
    return LOOKED_UP(holding, attrs.evolve(found, digest=None), rereadable=rereadable)


LOOKED_UP = Holding.looked_up


def test_the_machine_finds_the_missing_rule(monkeypatch: pytest.MonkeyPatch):
    """Nobody tells it the story: it comes upon one by itself."""
    monkeypatch.setattr(Holding, "looked_up", as_of_a_log)

    with pytest.raises(ViolationError, match="acknowledged: "):
        play(Live, 100)


@pytest.mark.parametrize("looked_up", [LOOKED_UP, as_of_a_log])
def test_just_as_many_records_of_another_one(looked_up: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """Two processes heard one record each: the loser is told that its own is not stored."""
    monkeypatch.setattr(Holding, "looked_up", looked_up)
    world = a_world()
    first, second = world.start(records=1), world.start(records=1)
    for writer in (first, second):
        world.hear(writer.source, 1)
        world.run(writer.main)
    assert 2 == len(world.store.in_flight)
    world.work(first, 3)
    if looked_up is as_of_a_log:
        with pytest.raises(ViolationError, match="acknowledged: "):
            world.work(second, 3)
        return
    world.work(second, 3)
    assert 1 == len(second.source.told)
    assert not first.source.told
    world.finish()


@pytest.mark.parametrize("looked_up", [LOOKED_UP, nothing_is_ours])
def test_an_answer_that_was_lost(looked_up: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """What a process finds stored is its own by its digest: it is not told as lost, and what came behind it goes on."""
    monkeypatch.setattr(Holding, "looked_up", looked_up)
    world = a_world()
    writer = world.start(records=1)
    world.hear(writer.source, 3)
    writer.source.chunk = 1
    world.run(writer.main)
    [put] = world.store.in_flight
    world.land(put)
    world.lose(put)
    world.work(writer, 12)
    world.finish()

    there = stored(world.inner, world.log.stream)
    assert (looked_up is nothing_is_ours) == bool(writer.source.told & set(there)) == (len(there) < 3)

"""The commit protocol under everything that can happen to it, and proof that the machine would notice."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import attrs
import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule

from headrace.auditing.run import Audit
from headrace.chain import Chain
from headrace.commit import Held, Holding
from headrace.committer import Committer
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Event, Extent, Hint, Identity, Partition, Position
from headrace.segment import Segment
from headrace.sink import Sink
from headrace.store import Store
from headrace.testing.machine import LakeMachine
from headrace.testing.oracle import objects_of, pinned_topic
from headrace.testing.source import MemorySource, _Cursor
from headrace.testing.store import LaggingStore, MemoryStore, OverwritingStore
from headrace.testing.world import ViolationError, World
from playing import QUIET, play


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Thousands of runs log much that nobody reads."""
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


class Lake(LakeMachine):
    def make_sink(self, store: Store, epoch: str, clock: Callable[[], float]) -> Sink:
        return LakeSink(store=store, epoch=epoch, clock=clock)


class Audited(Lake):
    """The audit looks on, in the middle of everything and at the end: what the oracle finds nothing wrong with it does not."""

    @precondition(lambda self: not self.world.broken)
    @rule()
    def audit(self) -> None:
        source = MemorySource(log=self.world.log, idle=lambda _: None)
        for epoch in self.world.deleted:
            topic = pinned_topic(objects_of(self.world.inner), self.world.log.stream, epoch)
            same = topic == self.world.log.topic and not self.world.cut  # a log that was cut back is no healthy one
            result = Audit(
                store=self.world.inner,
                stream=self.world.log.stream,
                epoch=epoch,
                source=source if same else None,
                deep=True,
                workers=1,
                retry_for_s=0.0,
            ).run()
            alarms = [str(finding) for finding in result.findings if finding.kind != "unknown"]
            if alarms:
                raise ViolationError("; ".join(alarms))

    def teardown(self) -> None:
        super().teardown()
        if not self.world.broken:
            self.audit()


class TestLake(Audited.TestCase):
    """Whatever happens, each record is stored once and unchanged; `HYPOTHESIS_PROFILE=nightly` looks longer."""

    settings = settings(max_examples=5 * settings().max_examples, stateful_step_count=50, suppress_health_check=QUIET)


def test_a_dataset_may_be_begun_between_two_looks_at_it() -> None:
    """A writer that found no pin, and then segments, looks for the pin again before it calls them nobody's (B7)."""
    world = World(make_sink=lambda store, _, clock: LakeSink(store=store, clock=clock))
    world.produce(b"0")
    first = world.start(records=1)
    second = world.start(records=1, fine=True)
    while not second.main.where.startswith("LIST log/partition="):
        world.run(second.main, fine=True)
    world.work(first, 3)
    assert [0] == [s.start for s in world.segments("")]
    while second.looking:
        world.run(second.main, fine=True)

    assert second in world.writers
    world.check()
    world.finish()


# ---- the machine goes where it hurts --------------------------------------------------------------------------


def test_the_machine_reaches_what_the_protocol_is_for() -> None:
    """Without this a machine that never lets two writers meet would pass as well."""
    missing = {
        "two writes of one key were on their way",
        "the answer to a stored write was lost",
        "a late write was stored after its sender gave up",
        "a late write was stored after its sender was gone",
        "a late write was refused after its sender gave up",
        "a late write was refused after its sender was gone",
        "a segment covers a hole: aborted",
        "a segment covers a hole: compacted",
        "a segment covers a hole: marker",
        "a loss was noted",
        "a writer stopped: GapError",
        "a writer stopped: IdentityError",
        "an old segment was deleted",
        "the deletion of old segments was killed",
        "the log was cut back below what is stored",
        "the topic was made again under a running writer",
        "two epochs hold segments",
    }

    class EnoughError(Exception):
        pass

    class Watched(Lake):
        def teardown(self) -> None:
            super().teardown()
            missing.difference_update(self.world.seen)
            if not missing:
                raise EnoughError

    with contextlib.suppress(EnoughError):
        play(Watched, 60)

    assert set() == missing


# ---- negative controls: one story, with a rule and without it -------------------------------------------------


def a_world(sink: type[LakeSink] = LakeSink, **settings: object) -> World:
    """Make a world whose dataset is pinned already."""
    world = World(make_sink=lambda s, _, clock: sink(store=s, clock=clock, guarantee="at-least-once"), **settings)
    with world.make_sink(world.inner, "", world.clock) as opened:
        opened.bind(world.log.extents())
    return world


def judge(world: World, *, broken: bool, kind: str) -> None:
    """With the rule all is well, and a last writer brings the rest; without it the world sees what went wrong."""
    if broken:
        with pytest.raises(ViolationError, match=f"{kind}: "):
            world.check()
    else:
        world.check()
        world.finish()


@attrs.define(kw_only=True, eq=False)
class FirstOffsetSink(LakeSink):
    """Puts the first segment at its first record's offset."""

    lows: dict[Partition, int] = attrs.field(factory=dict)

    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        self.lows = {p: e.low for p, e in extents.items()}
        return super().bind(extents)

    def _look_up(self, partition: Partition, hint: Hint | None) -> Position:
        found = super()._look_up(partition, hint)
        return found if found.segment else attrs.evolve(found, offset=self.lows[partition])


@pytest.mark.parametrize("sink", [LakeSink, FirstOffsetSink])
def test_without_b2_two_writers_begin_a_chain(sink: type[LakeSink]) -> None:
    """Key 0 for the first segment lets one of them win, wherever the log begins by then (T1)."""
    world = a_world(sink)
    world.produce(b"0", b"1")
    world.start(records=2)
    world.retain(1)
    world.start(records=1)
    for put in list(world.store.in_flight):
        world.land(put)

    judge(world, broken=sink is not LakeSink, kind="duplicate")


def follow(chain: Chain, number: int, hint: int | None = None, _: int | None = None) -> Segment | None:
    """Follow the chain object by object from a hint that is confirmed, else from 0."""
    found, position = None, hint or 0
    while (there := next(chain.objects(number, position), None)) is not None:
        segment = chain.segment(number, there)
        if segment is None or segment.start != position:
            break
        found, position = segment, segment.end
    return follow(chain, number) if hint and found is None else found


@pytest.mark.parametrize("newest", [Chain.newest, follow])
def test_without_b11_a_deleted_head_is_written_again(
    newest: Callable[..., Segment | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last key says where a chain ends; whoever follows it ends at the first object that is gone (T2)."""
    monkeypatch.setattr(Chain, "newest", newest)
    world = a_world()
    world.produce(b"0", b"1", b"2")
    first = world.start(records=1)
    world.work(first, 5)
    assert [0, 1, 2] == [s.start for s in world.segments("")]
    world.crash(first)
    world.pass_a_day(oldest=1)
    world.start(records=1)
    for put in list(world.store.in_flight):
        world.land(put)

    judge(world, broken=newest is follow, kind="duplicate")


class ResettingSource(MemorySource):
    """Goes to the log's beginning by itself, as `auto.offset.reset=earliest` does."""

    def _below(self, partition: Partition, cursor: _Cursor, extent: Extent) -> Event | None:
        cursor.position = extent.low
        return self._read(partition, cursor)


@pytest.mark.parametrize("source", [MemorySource, ResettingSource])
def test_without_b16_a_reset_loses_records_in_silence(source: type[MemorySource]) -> None:
    """A reader that retention overtook says so; one that goes on by itself makes the loss look like compaction (T3)."""
    world = a_world(make_source=source)
    world.produce(b"0")
    writer = world.start(records=2)
    world.produce(b"1", b"2")
    world.retain(2)
    world.run(writer.main)
    for put in list(world.store.in_flight):
        world.land(put)

    judge(world, broken=source is not MemorySource, kind="silent gap")


def send_all(committer: Committer, work: list[tuple[Holding, Held]]) -> None:
    """Send the draft behind the oldest one with it, at the position that is hoped for."""
    ONE_AT_A_TIME(committer, work)
    for holding, _ in work:
        for held in itertools.islice([h for h in holding.drafts if h.closed], 1, 2):
            p, identity = held.draft.position, committer.identities()[holding.partition.stream]
            committer._pool().submit(held.draft.commit, p, attrs.evolve(holding.position, offset=p), identity)


ONE_AT_A_TIME = Committer.submit


@pytest.mark.parametrize("submit", [ONE_AT_A_TIME, send_all])
def test_without_b24_a_write_lands_at_a_position_that_was_only_hoped_for(
    submit: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends two drafts at once may see the first one refused and the second one stored (T7)."""
    monkeypatch.setattr(Committer, "submit", submit)
    world = a_world()
    world.produce(b"0")
    world.start(records=1)
    world.produce(b"1", b"2", b"3")
    world.start(records=2)
    for put in list(world.store.in_flight):
        world.land(put)

    judge(world, broken=submit is send_all, kind="broken chain")


def adopt(holding: Holding, found: Position, **_: bool) -> Literal["go on", "fetch again"]:
    """Adopt what was found and go on reading, instead of fetching from there."""
    if LOOKED_UP(holding, found) == "fetch again":
        holding.base = found.offset
    return "go on"


LOOKED_UP = Holding.looked_up


@pytest.mark.parametrize("looked_up", [LOOKED_UP, adopt])
def test_without_b26_what_was_missed_is_never_fetched(
    looked_up: Callable[..., Literal["go on", "fetch again"]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refusal everything from the chain's end on is fetched, and what is gone by then is named (T4)."""
    monkeypatch.setattr(Holding, "looked_up", looked_up)
    world = a_world()
    world.produce(b"0")
    world.start(records=1)
    world.produce(b"1", b"2")
    world.retain(2)
    second = world.start(records=1, on_gap="note")
    world.produce(b"3")
    world.land(world.store.in_flight[0])
    if looked_up is adopt:
        with pytest.raises(ViolationError, match="acknowledged: "):
            world.work(second, 6)
        return
    world.work(second, 6)
    assert 1 == world.seen["a loss was noted"]
    judge(world, broken=False, kind="")


@pytest.mark.parametrize("store", [MemoryStore, OverwritingStore])
def test_a_store_that_ignores_the_condition_breaks_a_chain(store: type[MemoryStore]) -> None:
    """A late write takes the place of what others have gone on from (B6)."""
    world = a_world(inner=store())
    world.produce(b"0")
    world.start(records=1)
    [late] = world.store.in_flight
    world.produce(b"1", b"2", b"3")
    second = world.start(records=2)
    for put in [p for p in world.store.in_flight if p is not late]:
        world.land(put)
        world.answer(put)
    world.work(second, 3)
    assert [0, 2] == [s.start for s in world.segments("")]
    world.land(late)

    judge(world, broken=store is OverwritingStore, kind="broken chain")


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [(Committer, "submit", send_all), (Holding, "looked_up", adopt), (Lake, "make_source", ResettingSource)],
)
def test_the_machine_finds_a_missing_rule(
    where: type, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it the story: it comes upon one by itself."""
    monkeypatch.setattr(where, name, broken)

    with pytest.raises(ViolationError):
        play(Lake, 150)


@pytest.mark.parametrize("store", [OverwritingStore(), LaggingStore()])
def test_a_store_that_does_not_keep_its_word_is_refused(store: MemoryStore) -> None:
    """The probe finds stores that overwrite, and stores that do not list what they hold (B10)."""
    world = World(make_sink=lambda s, _, clock: LakeSink(store=s, clock=clock), inner=store)
    world.produce(b"{}")

    with pytest.raises(ViolationError, match=r"ConfigError: .* cannot hold exactly-once"):
        world.start()

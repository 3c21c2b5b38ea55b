"""Old segments go oldest first, noted before, never the newest; and what that leaves is told from what others did."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import pytest

from headrace.chain import Chain
from headrace.errors import ConfigError, CorruptSegmentError, DataError, ExpiredError, GapError, SinkUnavailableError
from headrace.expire import DAY_S, Expire, Expiry
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.loader import Line, LoadableSegment, Loader, LoadResult, Selection
from headrace.pipeline import Pipeline
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Extent, Hint, Partition, Position, Reached, Start
from headrace.segment import Segment
from headrace.store import Page, Store, StoredObject
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore
from headrace.testing.world import ViolationError, World

T0 = 1_000_000_000.0


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


@attrs.define(kw_only=True, eq=False)
class Shelf(MemoryStore):
    """A store with a clock of its own, that remembers what was written and deleted, and dies when it is told to."""

    now_s: float = T0
    happened: list[str] = attrs.field(factory=list)
    deletions: int | None = None
    refusals: int = 0

    def __attrs_post_init__(self) -> None:
        self.clock = lambda: self.now_s

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        self.happened.append(f"+{key}")
        return super().create(key, body, metadata)

    def delete(self, key: str) -> None:
        if "/_headrace/" not in key:
            if self.refusals:
                self.refusals -= 1
                raise SinkUnavailableError("not now")
            if self.deletions == 0:
                raise KeyboardInterrupt
            self.deletions = None if self.deletions is None else self.deletions - 1
        self.happened.append(f"-{key}")
        super().delete(key)

    @property
    def starts(self) -> list[int]:
        return [int(k[-29:-9]) for k in sorted(self.objects) if "/partition=0/" in k and "/_headrace/" not in k]


def lake(segments: int = 6, *, partitions: int = 1, apart_s: float = DAY_S, store: Shelf | None = None) -> Shelf:
    """A lake whose partitions have as many segments of two records, each written a day after the one before."""
    store, log = store or Shelf(page_size=3), MemoryLog(partitions=partitions)
    for _ in range(segments):
        for number in range(partitions):
            for _ in range(2):
                log.produce(b"{}", partition=number)
        source = MemorySource(log=log, hints={}, idle=lambda _: None)
        Pipeline(source=source, sink=LakeSink(store=store), until_end=True).run()
        store.now_s += apart_s
    store.happened.clear()
    return store


def chain(store: Store) -> Chain:
    return Chain.open(store, "log")


def expire(store: Store, days: float = 1, **settings: object) -> Expire:
    settings = {"without_ledger": "ledgers" not in settings, **settings}
    return Expire(chain=chain(store), older_than_s=days * DAY_S, clock=lambda: T0 + 1e9, **settings)


def key(start: int, number: int = 0) -> str:
    return f"log/partition={number}/{start:020d}.jsonl.gz"


def note(start: int, end: int) -> str:
    return f"log/_headrace/expired/partition=0/{start:020d}-{end:020d}.json"


def states(store: Store) -> list[tuple[str, int, int | None]]:
    from headrace.cli.links import links  # noqa: PLC0415 - it needs nothing of the command line's extra

    return [(link.state, link.start, link.end) for link in links(chain(store), 0)]


@attrs.define(kw_only=True, eq=False)
class Ledger(Loader):
    """A target that says how far it is loaded."""

    target: str = "t"
    contract: type = object
    reached: Mapping[int, int | None] = attrs.field(factory=dict)
    closed: bool = False

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        return {line: self.reached.get(line.partition.number) for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        raise AssertionError

    def redrive(self, selection: Selection) -> LoadResult:
        raise AssertionError

    def close(self) -> None:
        self.closed = True


# ---- what goes ----------------------------------------------------------------------------------------------------


def test_the_oldest_go_first_and_are_noted_before():
    """A note of the range, then one deletion after the other, ascending; the newest stays."""
    store = lake(6)
    (done,) = expire(store).run()
    assert Expiry(Partition("log", 0), 0, 10, 5, done.nbytes, "the newest stays") == done
    assert [10] == store.starts
    about_segments = [h for h in store.happened if "/probes/" not in h]
    assert [f"+{note(0, 10)}", *(f"-{key(start)}" for start in (0, 2, 4, 6, 8))] == about_segments


def test_a_note_says_what_went():
    """Who, when, how much and by which rule: for whoever finds the head missing years later."""
    store = lake(4)
    expire(store, 2, keep=2).run()
    said = json.loads(store.objects[note(0, 4)])
    assert {
        "from": 0,
        "to": 4,
        "segments": 2,
        "records": 4,
        "keep": 2,
        "older_than_s": 2 * DAY_S,
    }.items() <= said.items()
    assert chain(store).dataset.id == said["dataset"]
    assert "2001-09-10T01:46:40.000Z" == said["newest_put_at"]


@pytest.mark.parametrize(
    ("days", "keep", "start"),
    [(1, 1, 10), (1, 3, 6), (4, 1, 6), (4, 5, 2), (4, 6, 0), (7, 1, 0), (1, 100, 0)],
)
def test_age_and_number(days: float, keep: int, start: int):
    """What is younger stays, and so do the newest; the plan says the same as the run, and deletes nothing."""
    store = lake(6)
    run = expire(store, days, keep=keep)
    run.clock = store.clock
    before = dict(store.objects)
    planned = run.plan()
    assert before == store.objects
    assert planned == run.run()
    assert start == store.starts[0]
    assert start == planned[0].end


def test_a_restored_segment_is_young():
    """A copy that came back lately stays for its time, and with it all that follows: in the middle nothing is deleted."""
    store = lake(6)
    body = store.objects[key(4)]
    store.delete(key(4))
    store.create(key(4), body, {})
    (done,) = expire(store).run()
    assert [4, 6, 8, 10] == store.starts
    assert "it was put there 0 seconds ago" == done.stays


def test_partitions_go_each_for_itself():
    """Each keeps its newest."""
    store = lake(3, partitions=3)
    assert [(0, 4), (0, 4), (0, 4)] == [(e.start, e.end) for e in expire(store).run()]
    assert sorted(key(4, n) for n in range(3)) == sorted(k for k in store.objects if "/_headrace/" not in k)


def test_an_empty_dataset():
    """Nothing is there: nothing goes."""
    store = Shelf()
    with LakeSink(store=store) as sink:
        sink.bind(MemorySource(log=MemoryLog()).extents())
    assert [] == expire(store).plan() == expire(store).run()


def test_the_store_says_what_time_it_is():
    """A machine whose clock is years ahead deletes nothing too soon: ages are by the store's clock."""
    store = lake(6, apart_s=60)
    run = expire(store)
    assert 10 == run.plan()[0].end  # it believes its own clock
    assert 0 == run.run()[0].end
    assert 6 == len(store.starts)
    assert [] == [k for k in store.objects if k.endswith(".time")]


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"older_than_s": DAY_S - 1}, "found an age of 86399 s, expected at least a day"),
        ({"older_than_s": float("nan")}, "expected at least a day"),
        ({"keep": 0}, "a partition's newest segment is its position"),
        ({"without_ledger": False}, "name the targets that are loaded from here"),
        ({"ledgers": {"t": Ledger()}}, "leave one out"),
    ],
)
def test_what_is_not_safe_is_refused(settings: dict[str, object], message: str):
    """At once, before anything is looked at."""
    with pytest.raises(ConfigError, match=message):
        Expire(chain=chain(lake(1)), **{"older_than_s": DAY_S, "without_ledger": True, **settings})


class Timeless(Shelf):
    def list(self, prefix: str, after: str = "") -> Page:
        page = super().list(prefix, after)
        return Page([StoredObject(o.key, o.size) for o in page.objects], page.truncated)


def test_a_store_without_times_is_refused():
    """Without an age nothing may go: neither the records' times nor a guess is one."""
    store = lake(3, store=Timeless())
    for act in (expire(store).plan, expire(store).run):
        with pytest.raises(ConfigError, match="does not say when"):
            act()
    assert 3 == len(store.starts)


class Undeletable(Shelf):
    def delete(self, key: str) -> None:
        Store.delete(self, key)


def test_a_store_that_does_not_delete_is_refused_before_anything_is_noted():
    """No note of what will never happen."""
    store = lake(3)
    kept = Undeletable(objects=store.objects)
    with pytest.raises(ConfigError, match="cannot delete"):
        expire(kept).run()
    assert [] == [k for k in kept.objects if "/expired/" in k]


# ---- ledgers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "start"),
    [(12, 12, 10), (12, 4, 4), (4, 12, 4), (5, 12, 4), (12, None, 0), (0, 12, 0)],
)
def test_what_a_ledger_lacks_stays(first: int | None, second: int | None, start: int):
    """The target that is furthest behind counts; one that has loaded nothing keeps everything."""
    store = lake(6)
    ledgers = {"one": Ledger(reached={0: first}), "two": Ledger(reached={0: second})}
    run = expire(store, ledgers=ledgers)
    assert start == run.plan()[0].end
    assert start == run.run()[0].end
    assert start == store.starts[0]
    assert all(ledger.closed for ledger in ledgers.values())
    if start < 10:
        name, reached = min(("one", first or 0), ("two", second or 0), key=lambda pair: pair[1])
        assert f"{name} is at {reached}" == run.done[0].stays


# ---- killed, repeated, disturbed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("deletions", range(6))
def test_killed_at_any_moment_it_leaves_a_chain(deletions: int):
    """What is left begins somewhere and has no hole; the next run finishes, and every note is true by then."""
    store = lake(6)
    store.deletions = deletions
    if deletions < 5:
        with pytest.raises(KeyboardInterrupt):
            expire(store).run()
    else:
        expire(store).run()
    head = 2 * deletions
    assert [*range(head, 12, 2)] == store.starts
    assert ([(0, head)] if head else []) == chain(store).expired(0)
    assert [*range(head, 12, 2)] == [s.start for s in chain(store).walk(0, head)]
    assert {"ok", *(["expired"] if head else [])} == {state for state, *_ in states(store)}

    store.deletions = None
    store.now_s += DAY_S
    expire(store).run()
    assert [10] == store.starts
    assert [(0, 10)] == chain(store).expired(0)


def test_what_does_not_answer_is_tried_again():
    """A store that refuses for a while costs time, nothing else."""
    store = lake(4)
    store.refusals = 3
    assert [(0, 6)] == [(e.start, e.end) for e in expire(store).run()]
    assert [6] == store.starts


def test_a_stop_ends_between_two_segments():
    """What was deleted is told, and what is left is a chain."""
    store = lake(6)
    run = expire(store)
    run.observe = lambda segment: run.stop() if segment.start == 2 else None
    (done,) = run.run()
    assert (0, 4, 2, "stopped") == (done.start, done.end, done.segments, done.stays)
    assert [4, 6, 8, 10] == store.starts


def test_two_runs_at_once():
    """The slower one finds that the other was there, and that is no error."""
    store = lake(6)
    slow, fast = expire(store), expire(store)

    @attrs.define(kw_only=True, eq=False)
    class Overtaken(Shelf):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
            if "/partition=0/" in key and store.starts[0] == 0:
                fast.run()
            return store.read(key, start, end)

    overtaken = Overtaken(objects=store.objects, now_s=store.now_s)
    overtaken._created_s = store._created_s
    slow.chain = attrs.evolve(slow.chain, store=overtaken)
    (done,) = slow.run()
    assert "another run deletes here" == done.stays
    assert [10] == store.starts


def test_more_segments_than_one_note_holds(monkeypatch: pytest.MonkeyPatch):
    """Each note comes before what it is about is deleted; together they say all of it."""
    monkeypatch.setattr("headrace.expire._GROUP", 2)
    store = lake(6)
    expire(store).run()
    about = [h for h in store.happened if "/probes/" not in h]
    assert [note(0, 4), note(4, 8), note(8, 10)] == [h[1:] for h in about if h[0] == "+"]
    assert about.index(f"-{key(2)}") < about.index(f"+{note(4, 8)}") < about.index(f"-{key(4)}")
    assert [(0, 10)] == chain(store).expired(0)


# ---- what is there already: holes, damage -------------------------------------------------------------------------


def test_a_hole_is_not_expired_away():
    """It ends where segments are missing, and says so; the next run begins behind, and what was never noted stays a gap."""
    store = lake(8)
    store.delete(key(6))
    store.delete(key(8))
    with pytest.raises(GapError, match=r"no segment covers \[6, 10\)") as caught:
        expire(store).run()
    assert not isinstance(caught.value, ExpiredError)
    assert [10, 12, 14] == store.starts
    assert [("expired", 0, 6), ("gap", 6, 10)] == states(store)[:2]
    expire(store).run()
    assert [("expired", 0, 6), ("gap", 6, 10), ("expired", 10, 14), ("ok", 14, 16)] == states(store)
    with pytest.raises(GapError, match=r"no segment covers \[0, 14\).*; \[0, 6\) of it was expired") as caught:
        list(chain(store).walk(0))
    assert not isinstance(caught.value, ExpiredError)


def test_a_damaged_segment_stops_its_partition_alone():
    """Nobody can tell where it ends; the other partitions are done."""
    store = lake(4, partitions=2)
    store.objects[key(2)] = store.objects[key(2)][:-5] + b"xxxxx"
    run = expire(store)
    with pytest.raises(CorruptSegmentError):
        run.run()
    assert 4 == len(store.starts)
    assert 6 == run.done[1].end


# ---- what others see afterwards -----------------------------------------------------------------------------------


def test_a_walk_that_comes_too_late_is_told_so():
    """Whoever begins where segments were expired hears that, at each position below; whoever is past them notices nothing."""
    store = lake(6)
    before = chain(store).newest(0)
    expire(store, keep=2).run()
    for position in (0, 2, 6):
        with pytest.raises(ExpiredError, match=rf"the segments \[{position}, 8\) were expired") as caught:
            list(chain(store).walk(0, position))
        assert (position, 8) == (caught.value.start, caught.value.end)
    for position in (8, 10, 12):
        assert [*range(position, 12, 2)] == [s.start for s in chain(store).walk(0, position)]
    for hint in (None, 0, 4, 8, 10, 99):
        assert before == chain(store).newest(0, hint)


@pytest.mark.parametrize(("start", "state"), [(0, "gap"), (4, "gap")])
def test_what_somebody_else_deleted_is_a_gap(start: int, state: str):
    """Without a note, at the head or in the middle."""
    store = lake(6)
    store.delete(key(start))
    assert (state, start, start + 2) in states(store)
    with pytest.raises(GapError, match="restore them") as caught:
        list(chain(store).walk(0, start))
    assert not isinstance(caught.value, ExpiredError)


def test_a_note_excuses_nothing_behind_a_segment_that_is_there():
    """A run that was killed has noted more than it did; what is missing in the middle then, somebody else has deleted."""
    store = lake(6)
    store.deletions = 1
    with pytest.raises(KeyboardInterrupt):
        expire(store).run()
    assert note(0, 10) in store.objects
    store.deletions = None
    store.delete(key(4))
    assert [("expired", 0, 2), ("ok", 2, 4), ("gap", 4, 6), ("ok", 6, 8)] == states(store)[:4]
    with pytest.raises(GapError) as caught:
        list(chain(store).walk(0, 2))
    assert not isinstance(caught.value, ExpiredError)


def test_a_new_target_is_told_that_the_head_is_gone():
    """It would begin in the middle: never in silence."""
    store = lake(4)
    expire(store).run()
    with pytest.raises(ExpiredError, match=r"\[0, 6\) were expired"):
        Load(chain=chain(store), loader=Ledger()).run()


def test_a_lake_is_read_from_what_is_left():
    """A replay from the beginning begins there, as from a log whose head retention took; one from the middle stops."""
    store = lake(4)
    expire(store).run()
    copy = Shelf()
    source, sink = LakeSource(store=store, stream="log"), LakeSink(store=copy)
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=1)).run()
    assert [0, 7] == copy.starts
    behind = Shelf(objects={k: v for k, v in copy.objects.items() if k != key(7)})
    newest = chain(behind).newest(0)
    assert newest is not None
    assert (6, 7) == (newest.trailer.first, newest.end)
    store.now_s += 9 * DAY_S
    lake_on(store, 10)
    expire(store).run()
    source, sink = LakeSource(store=store, stream="log"), LakeSink(store=behind)
    with pytest.raises(GapError, match=r"\[7, 10\)"):
        Pipeline(source=source, sink=sink, until_end=True).run()


def lake_on(store: Shelf, end: int) -> None:
    """Let the lake go on to *end*, two records a segment."""
    log = MemoryLog()
    log.topic = chain(store).dataset.topic or ""
    for _ in range(end + 2):
        log.produce(b"{}")
    source = MemorySource(log=log, hints={}, idle=lambda _: None)
    Pipeline(source=source, sink=LakeSink(store=store), until_end=True, flush=FlushPolicy(records=2)).run()
    store.now_s += DAY_S


# ---- negative controls --------------------------------------------------------------------------------------------


class Careless(Expire):
    """Believes that everything is old enough."""

    def _why_it_stays(self, *_: object) -> str:
        return ""


class Greedy(Expire):
    """Takes the newest too."""

    def _plan(self, *given: object) -> Expiry:
        found = super()._plan(*given)
        return attrs.evolve(found, end=found.end + 10**6, segments=found.segments + 1)


class Backwards(Expire):
    """Begins with the newest of those that go."""

    def _delete(self, number: int, group: list[Segment]) -> None:
        super()._delete(number, group[::-1])


class Silent(Expire):
    """Notes nothing."""

    def _note(self, number: int, group: list[Segment]) -> None:
        pass


def a_world(expire: Callable[..., Expire], records: int) -> World:
    """A world whose dataset is pinned already."""
    world = World(make_sink=lambda store, _, clock: LakeSink(store=store, clock=clock), make_expire=expire)
    with world.make_sink(world.inner, "", world.clock) as opened:
        opened.bind(world.log.extents())
    world.produce(*[b"{}"] * records)
    return world


@pytest.mark.parametrize("kind", [Expire, Careless])
def test_without_an_age_a_late_write_is_stored(kind: type[Expire]):
    """A name that is deleted too soon is free for a writer that looked before: its record is there twice (T19)."""
    world = a_world(kind, 2)
    world.start(records=2)
    [late] = world.store.in_flight
    second = world.start(records=1)
    for put in [p for p in world.store.in_flight if p is not late]:
        world.land(put)
        world.answer(put)
    world.work(second, 4)
    assert [0, 1] == [s.start for s in world.segments("")]
    world.expire(oldest=1)
    world.land(late)

    if kind is Expire:
        world.check()
        world.finish()
    else:
        with pytest.raises(ViolationError, match="duplicate: "):
            world.check()


@pytest.mark.parametrize("kind", [Expire, Greedy, Backwards, Silent])
def test_the_world_sees_what_is_deleted_wrongly(kind: type[Expire]):
    """The newest with the others, the middle before the head, or without a word."""
    world = a_world(kind, 4)
    world.work(world.start(records=1), 6)
    assert [0, 1, 2, 3] == [s.start for s in world.segments("")]
    if kind is Expire:
        world.pass_a_day(oldest=3, killed_after=1)
        world.pass_a_day(oldest=3)
        assert [3] == [s.start for s in world.segments("")]
        world.finish()
    else:
        with pytest.raises(ViolationError, match="expired: " if kind is Silent else "deleted: "):
            world.pass_a_day(oldest=3, killed_after=1 if kind is Backwards else None)


@pytest.mark.parametrize("kind", [Expire, Greedy])
def test_without_its_newest_a_partition_has_no_position(kind: type[Expire]):
    """Whoever comes back to a chain that is gone stops, instead of writing all of it again (B13)."""
    store = lake(3)
    kind(chain=chain(store), older_than_s=DAY_S, without_ledger=True).run()
    partition, hint = Partition("log", 0), Hint(6, (4, 6), chain(store).dataset.id)
    with LakeSink(store=store) as sink:
        sink.bind({partition: Extent(0, 6, 6, chain(store).dataset.identity)})
        found = sink.positions({partition: hint})[partition]
    if kind is Expire:
        assert isinstance(found, Position)
        assert (6, (4, 6)) == (found.offset, found.segment)
    else:
        assert isinstance(found, DataError)


@pytest.mark.parametrize("kind", [Expire, Backwards])
def test_a_middle_that_went_first_is_found(kind: type[Expire]):
    """Killed after one deletion, the wrong order leaves a hole that every walk names."""
    store = lake(6)
    store.deletions = 1
    with pytest.raises(KeyboardInterrupt):
        kind(chain=chain(store), older_than_s=DAY_S, without_ledger=True).run()
    if kind is Expire:
        assert [2, 4, 6, 8, 10] == [s.start for s in chain(store).walk(0, 2)]
    else:
        assert ("gap", 8, 10) in states(store)
        with pytest.raises(GapError, match=r"no segment covers \[8, 10\)"):
            list(chain(store).walk(0))


def test_a_source_that_reached_the_end_reaches_it_still():
    """A reader that is past what went hears nothing of it."""
    store = lake(3)
    source = LakeSource(store=store, stream="log")
    expire(store).run()
    source.move({Partition("log", 0): Start(6, None, 1)})
    source._assigned = True
    (event,) = source.poll(None, 0)
    assert isinstance(event, Reached)
    assert (6, True) == (event.position, event.at_end)


def test_damage_is_no_gap():
    """An error of another kind is not taken for one that may be passed."""
    store = lake(3)
    store.objects[key(1)] = store.objects[key(0)]
    with pytest.raises(DataError):
        expire(store).run()
    assert 4 == len(store.starts)

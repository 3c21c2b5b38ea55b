"""The pipeline over a log in memory and a lake on a local disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from headrace.chain import Chain
from headrace.errors import ConfigError, DataError, GapError, IdentityError, PluginError, SinkUnavailableError
from headrace.flush import FlushPolicy, Progress
from headrace.pipeline import Pipeline
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Batch, BelowLog, Event, Extent, Hint, Identity, Partition, Position, Reached, Record, Start
from headrace.source import Owner, Source
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource


@attrs.define(eq=False)
class Log(Source):
    """A log whose every offset has a record, unless it is a hole; read in chunks of *chunk*."""

    end: int
    partitions: int = 1
    low: int = 0
    holes: frozenset[int] = frozenset()
    chunk: int = 100
    topic: str = "t1"
    value: Callable[[int], bytes] = lambda offset: b'{"n":%d}' % offset
    hints: dict[Partition, Hint] = attrs.field(factory=dict)
    at: dict[Partition, Start | None] = attrs.field(factory=dict)
    next: dict[Partition, int] = attrs.field(factory=dict)
    told: set[Partition] = attrs.field(factory=set)
    started: bool = False
    closed: bool = False

    @property
    def all(self) -> list[Partition]:
        return [Partition("log", n) for n in range(self.partitions)]

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if not self.started:
            self.started = True
            self.move(owner.assigned({p: self.hints.get(p) for p in self.all}))
        events: list[Event] = []
        for partition, start in self.at.items():
            if start is not None and partition not in self.told:
                events.append(self._read(partition, start))
        if not any(isinstance(e, Batch) for e in events):
            time.sleep(min(timeout_s, 0.002))
        return events

    def _read(self, partition: Partition, start: Start) -> Event:
        here = self.next[partition]
        if here < self.low:
            self.told.add(partition)
            return BelowLog(partition, start.assignment, here, self.low)
        offsets = [o for o in range(here, self.end) if o not in self.holes][: self.chunk]
        if not offsets:
            return Reached(partition, start.assignment, max(here, self.end), at_end=True)
        self.next[partition] = offsets[-1] + 1
        records = [Record(o, o, b"k", self.value(o)) for o in offsets]
        return Batch.of(partition, records, assignment=start.assignment, start=here)

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            self.at[partition] = start
            self.told.discard(partition)
            if start is not None:
                self.next[partition] = self.low if start.offset is None else start.offset

    def extents(self) -> Mapping[Partition, Extent]:
        identity = Identity("c", self.topic, "read_committed", self.partitions)
        return {p: Extent(self.low, self.end, self.end, identity) for p in self.all}

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        self.hints.update(hints)

    def close(self) -> None:
        self.closed = True


def pipeline(log: Log, root: Path, *, flush: FlushPolicy | None = None, **settings: object) -> Pipeline:
    sink = LakeSink(store=FileStore(root=root))
    settings = {"until_end": True, "flush": flush or FlushPolicy(records=250), **settings}
    return Pipeline(source=log, sink=sink, **settings)  # type: ignore[arg-type]


def stored(root: Path, number: int = 0) -> list[tuple[int, int]]:
    return [(s.start, s.end) for s in Chain.open(FileStore(root=root), "log").walk(number)]


def offsets(root: Path, number: int = 0) -> list[int]:
    """Read back what is in the lake."""

    class Reader:
        def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
            return {p: Start(0, None, 1) if p.number == number else None for p in hints}

    source, found = LakeSource(store=FileStore(root=root)), []
    while True:
        events = source.poll(Reader(), 0)  # type: ignore[arg-type]
        found += [o for e in events if isinstance(e, Batch) for o in e.offsets]
        if not any(isinstance(e, Batch) for e in events):
            return found


def test_a_bounded_run_stores_everything_once(tmp_path: Path) -> None:
    """Each partition is stored to the end that it had, in segments of the size that was asked for."""
    log = Log(1000, partitions=3)
    progress = pipeline(log, tmp_path).run()

    assert (3000, 3000, 12) == (progress.records, progress.stored_records, progress.segments)
    for number in range(3):
        assert [(0, 250), (250, 500), (500, 750), (750, 1000)] == stored(tmp_path, number)
        assert list(range(1000)) == offsets(tmp_path, number)
    assert log.closed


def test_a_second_run_goes_on_where_the_chain_ends(tmp_path: Path) -> None:
    """The position is in the lake: hints may be lost, stale or wrong (B12)."""
    log = Log(1000)
    pipeline(log, tmp_path).run()
    hints = log.hints
    for hint in (None, hints[log.all[0]], Hint(17), attrs.evolve(hints[log.all[0]], segment=(5, 6)), Hint(10**12)):
        log = Log(log.end + 300, hints={log.all[0]: hint} if hint else {})
        pipeline(log, tmp_path).run()
        assert list(range(log.end)) == offsets(tmp_path)


def test_acknowledged_is_what_is_stored(tmp_path: Path) -> None:
    """The hint names the newest segment and the dataset (B12, B27)."""
    log = Log(300)
    pipeline(log, tmp_path).run()
    chain = Chain.open(FileStore(root=tmp_path), "log")

    assert {log.all[0]: Hint(300, (250, 300), chain.dataset.id)} == log.hints


def test_holes_at_the_end_are_not_part_of_a_segment(tmp_path: Path) -> None:
    """A segment ends at its last record + 1; lag is 0 all the same, and nothing is written for holes (B3, B27, T5)."""
    log = Log(1000, holes=frozenset(range(990, 1000)) | {500, 501})
    pipeline(log, tmp_path).run()

    assert 990 == stored(tmp_path)[-1][1]
    assert 1000 == log.hints[log.all[0]].offset
    log = Log(1010, holes=frozenset(range(990, 1000)))
    pipeline(log, tmp_path).run()
    assert (990, 1010) == stored(tmp_path)[-1]


def test_a_draft_is_stored_when_it_is_old(tmp_path: Path) -> None:
    """Age counts for an idle partition too."""
    log = Log(10)
    run = pipeline(log, tmp_path, flush=FlushPolicy(age_s=0.05), until_end=False)
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        wait_for(lambda: 10 == log.hints.get(log.all[0], Hint(0)).offset)
        assert [(0, 10)] == stored(tmp_path)
    finally:
        run.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_stop_stores_what_is_held(tmp_path: Path) -> None:
    """A run that is told to stop commits, acknowledges and leaves."""
    log = Log(10)
    run = pipeline(log, tmp_path, flush=FlushPolicy(age_s=3600), until_end=False)
    while run.progress.records < 10:
        run.step()
    run.stop()
    run.run()

    assert [(0, 10)] == stored(tmp_path)
    assert 10 == log.hints[log.all[0]].offset


def test_a_large_batch_is_cut_at_the_flush_limit(tmp_path: Path) -> None:
    """The limit holds within a batch, by records and by bytes."""
    pipeline(Log(100), tmp_path / "a", flush=FlushPolicy(records=7)).run()
    assert [7] * 14 + [2] == [end - start for start, end in stored(tmp_path / "a")]

    pipeline(Log(100, value=lambda _: b'"' + b"x" * 998 + b'"'), tmp_path / "b", flush=FlushPolicy(bytes=10_010)).run()
    assert {10} == {end - start for start, end in stored(tmp_path / "b")}


def test_another_writer_is_noticed_and_followed(tmp_path: Path) -> None:
    """A writer that is overtaken drops what it held and goes on from the chain's end (B25, B26)."""
    slow = pipeline(Log(1000), tmp_path, flush=FlushPolicy(records=300))
    slow.step()  # holds the first batch, has looked its position up
    pipeline(Log(700), tmp_path, flush=FlushPolicy(records=70)).run()
    slow.run()

    assert list(range(1000)) == offsets(tmp_path)
    assert 700 in [start for start, _ in stored(tmp_path)]


def test_a_gap_stops_the_partition_and_names_it(tmp_path: Path) -> None:
    """Records that retention took before they were read are never skipped in silence; other partitions go on (B18)."""
    pipeline(Log(100, partitions=2), tmp_path).run()
    log = Log(1000, partitions=2, low=400)

    with pytest.raises(GapError, match=r"\[100, 400\) may be lost") as excinfo:
        pipeline(log, tmp_path).run()

    assert (100, 400) == (excinfo.value.start, excinfo.value.end)
    assert [(0, 100)] == stored(tmp_path)


def test_a_noted_gap_lets_the_partition_go_on(tmp_path: Path) -> None:
    """The loss is recorded first, then the segment is put at the chain's position all the same (B18)."""
    pipeline(Log(100), tmp_path).run()
    pipeline(Log(1000, low=400), tmp_path, on_gap="note", flush=FlushPolicy()).run()

    assert [(0, 100), (100, 1000)] == stored(tmp_path)
    assert [*range(100), *range(400, 1000)] == offsets(tmp_path)
    notes = list((tmp_path / "log/_headrace/gaps/partition=0").iterdir())
    assert [f"{100:020d}-{400:020d}.json"] == [n.name for n in notes]


def test_an_empty_chain_begins_where_the_log_does(tmp_path: Path) -> None:
    """What retention took before our first segment is no gap (B2, B18)."""
    pipeline(Log(1000, low=400), tmp_path, flush=FlushPolicy()).run()

    assert [(0, 1000)] == stored(tmp_path)
    assert list(range(400, 1000)) == offsets(tmp_path)


def test_a_log_that_is_shorter_than_the_lake_stops_the_partition(tmp_path: Path) -> None:
    """A lake that reaches beyond the log belongs to another log, or this one was cut back (B14)."""
    pipeline(Log(1000), tmp_path).run()

    with pytest.raises(IdentityError, match="the lake reaches 1000, the log ends at 700"):
        pipeline(Log(700), tmp_path).run()


def test_a_topic_that_is_made_again_under_a_running_consumer_is_refused(tmp_path: Path) -> None:
    """The identity is asked for again before each segment is put (B20, T12)."""
    log = Log(1000)
    run = pipeline(log, tmp_path)
    run.step()
    log.topic = "t2"

    with pytest.raises(IdentityError, match="topic t2"):
        run.run()

    assert [] == list((tmp_path / "log").glob("partition=*/*"))


@pytest.mark.parametrize("on_gap", ["stop", "note"])
def test_a_topic_that_was_made_again_has_no_gaps(tmp_path: Path, on_gap: str) -> None:
    """Where another log begins says nothing about this chain: no gap is named, none is noted (B18, B20)."""
    pipeline(Log(100), tmp_path).run()
    log = Log(1000, low=400)
    run = pipeline(log, tmp_path, on_gap=on_gap)
    extents = log.extents
    run.source = log
    log_is_asked = iter(range(100))
    log.extents = lambda: extents() if next(log_is_asked) < 2 else another()  # type: ignore[method-assign]

    def another() -> Mapping[Partition, Extent]:
        log.topic = "t2"
        return extents()

    with pytest.raises(IdentityError, match="now topic t2"):
        run.run()
    assert not (tmp_path / "log/_headrace/gaps").exists()


def test_a_topic_that_was_made_again_is_noticed_at_the_next_assignment(tmp_path: Path) -> None:
    """Positions in another log of the same name mean nothing (B7)."""
    log = Log(1000)
    run = pipeline(log, tmp_path)
    run.step()
    log.topic = "t2"
    run.lost(log.all)

    assert {log.all[0]: None} == run.assigned(dict.fromkeys(log.all))
    assert isinstance(run.stopped[log.all[0]], IdentityError)


def test_one_bad_partition_does_not_stop_the_others(tmp_path: Path) -> None:
    """The others are stored; the run ends with the error."""
    pipeline(Log(100, partitions=3), tmp_path).run()
    path = next((tmp_path / "log/partition=1").iterdir())
    path.write_bytes(b"x" * 5000)
    log = Log(500, partitions=3)

    with pytest.raises(DataError, match="partition=1"):
        pipeline(log, tmp_path).run()

    assert [500, 500] == [stored(tmp_path, n)[-1][1] for n in (0, 2)]


def test_memory_is_bounded_by_committing_early_and_pausing(tmp_path: Path) -> None:
    """What drafts hold stays near the budget though no flush limit is ever reached."""
    log = Log(20_000, partitions=4, value=lambda o: b'"%s"' % (b"%016d" % (o * 2654435761 % 10**16) * 60))
    peak = 0

    def watch(held_bytes: int) -> None:
        nonlocal peak
        peak = max(peak, held_bytes)

    run = pipeline(
        log, tmp_path, flush=FlushPolicy(bytes=1 << 40), memory_bytes=8 << 20, observe=lambda p: watch(p.held_bytes)
    )
    run.observe_every_s = 0.0
    run.run()

    assert peak < 10 << 20
    for number in range(4):
        assert list(range(20_000)) == offsets(tmp_path, number)


def test_memory_is_bounded_while_the_sink_takes_nothing(tmp_path: Path) -> None:
    """One partition, and a store that does not answer: reading pauses; when the store answers the run goes on to its end."""
    gate, peak = threading.Event(), 0

    class Stuck(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            if key.endswith(".gz"):
                assert gate.wait(60)
            return super().create(key, body, metadata)

    log = Log(20_000, value=lambda o: b'"%s"' % (b"%016d" % (o * 2654435761 % 10**16) * 60))
    run = Pipeline(
        source=log,
        sink=LakeSink(store=Stuck(root=tmp_path)),
        flush=FlushPolicy(bytes=1 << 40),
        memory_bytes=1 << 20,
        until_end=True,
        observe_every_s=0.0,
    )

    def watch(now: Progress) -> None:
        nonlocal peak
        peak = max(peak, now.held_bytes)
        if run._paused:
            gate.set()

    run.observe = watch
    run.run()
    assert gate.is_set()
    assert peak < 2 << 20
    assert list(range(20_000)) == offsets(tmp_path)


def test_a_pause_goes_on_under_the_leader_of_what_was_read_last(tmp_path: Path) -> None:
    """What is held may be of a later leader than what is stored: by the older one the log would seem cut back (B21)."""
    log = MemoryLog()
    source = MemorySource(log=log, chunk=5, idle=lambda _: None)

    def begin() -> Pipeline:
        return Pipeline(source=source, sink=LakeSink(store=FileStore(root=tmp_path)), until_end=True)

    log.produce(b"1")
    begin().run()
    source = MemorySource(log=log, chunk=5, idle=lambda _: None)
    for _ in range(4):
        log.produce(b"1")
    log.elect()
    for _ in range(15):
        log.produce(b"1")
    run = begin()
    while run.progress.records < 9:
        run.step()
    source.move({log.all[0]: None})
    run._paused = True
    run.run()

    assert not run.stopped
    assert list(range(20)) == offsets(tmp_path)


def test_memory_that_the_queue_would_fill_is_refused(tmp_path: Path) -> None:
    """A budget that the source's own queue uses up is a wrong setting."""
    log = Log(1)
    log.queue_bytes = 64 << 20

    with pytest.raises(ConfigError, match="expected at least twice the source's queue_bytes"):
        pipeline(log, tmp_path, memory_bytes=64 << 20)


def test_a_store_that_is_down_for_a_while_is_waited_for(tmp_path: Path) -> None:
    """Transient errors are tried again at the same position."""

    class Flaky(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            if "partition=" in key and len(failures) < 3:
                failures.append(key)
                raise SinkUnavailableError("not now")
            return super().create(key, body, metadata)

    failures: list[str] = []
    Pipeline(source=Log(300), sink=LakeSink(store=Flaky(root=tmp_path)), until_end=True).run()

    assert 3 == len(failures)
    assert list(range(300)) == offsets(tmp_path)


def test_a_slow_store_is_sent_larger_segments_and_not_more_of_them(tmp_path: Path) -> None:
    """What cannot be sent before the answer to the draft in front of it takes more, however old it is."""
    gate = threading.Event()

    class Slow(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            assert "/partition=" not in key or gate.wait(30)
            return super().create(key, body, metadata)

    source, flush = Log(end=1000, chunk=10), FlushPolicy(age_s=0.005)
    run = Pipeline(source=source, sink=LakeSink(store=Slow(root=tmp_path)), flush=flush, until_end=True)
    while run.progress.records < 1000:
        run.step()
        time.sleep(0.001)
    gate.set()
    run.run()
    first, second = stored(tmp_path)
    assert (0, 1000) == (first[0], second[1])
    assert first[1] < 500


def test_a_store_that_stays_down_ends_the_run(tmp_path: Path) -> None:
    """After retry_for_s the run ends with the store's own error, and nothing is acknowledged."""

    class Down(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            if "partition=" in key:
                raise SinkUnavailableError("not now")
            return super().create(key, body, metadata)

    log = Log(300)
    with pytest.raises(SinkUnavailableError, match="not now"):
        Pipeline(source=log, sink=LakeSink(store=Down(root=tmp_path)), until_end=True, retry_for_s=0.2).run()

    assert 0 == max((h.offset for h in log.hints.values()), default=0)


def test_a_hand_over_commits_and_forgets(tmp_path: Path) -> None:
    """Released partitions are stored, acknowledged, and no longer held (B28)."""
    log = Log(100, partitions=2)
    run = pipeline(log, tmp_path, flush=FlushPolicy(), until_end=False)
    run.step()
    run.release([log.all[0]])

    assert [(0, 100)] == stored(tmp_path)
    assert 100 == log.hints[log.all[0]].offset
    assert [log.all[1]] == [h.partition for h in run._held]
    run.lost([log.all[1]])
    run.stop()
    run.run()
    assert not (tmp_path / "log/partition=1").exists()


def test_a_draft_that_was_given_back_is_not_sent_again(tmp_path: Path) -> None:
    """A commit that is to be tried again when its partition is lost is tried no more: its records are gone (B28)."""

    class Slow(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            if "partition=" in key and not sent.is_set():
                sent.set()
                assert lost.wait(10)
                raise SinkUnavailableError("not now")
            return super().create(key, body, metadata)

    sent, lost = threading.Event(), threading.Event()
    run = Pipeline(source=Log(300), sink=LakeSink(store=Slow(root=tmp_path)), flush=FlushPolicy(records=100))
    wait_for(lambda: run.step() is None and sent.is_set())
    [held] = run._held.under_way
    run.lost([Partition("log", 0)])
    lost.set()
    wait_for(lambda: held.commit is not None and held.commit.done())
    run.stop()
    run.run()

    assert [] == list((tmp_path / "log").glob("partition=*/*"))
    pipeline(Log(300), tmp_path).run()
    assert list(range(300)) == offsets(tmp_path)


def test_a_discarded_draft_cannot_be_committed(tmp_path: Path) -> None:
    """Its object would say in its trailer what is not in its lines."""
    log, sink = Log(3), LakeSink(store=FileStore(root=tmp_path))
    [partition] = log.all
    sink.bind(log.extents())
    draft = sink.draft(partition, 0, 1 << 20)
    draft.add(Batch.of(partition, [Record(0, 0, None, b"1")], assignment=1))
    draft.discard()

    at = sink.positions({partition: None})[partition]
    assert isinstance(at, Position)
    with pytest.raises(PluginError, match="the draft of 0 was discarded"):
        draft.commit(0, at, log.extents()[partition].identity)
    sink.close()


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the bound"
        time.sleep(0.005)

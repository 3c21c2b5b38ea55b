"""A pipeline whose source or sink fails for a while, or for a part: the rest goes on, and nothing waits for what never comes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import pytest

from headrace.chain import Chain
from headrace.commit import Holding
from headrace.errors import DataError, HeadraceError, SinkUnavailableError, SourceUnavailableError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Event, Extent, Hint, Partition, Position, Start
from headrace.source import Owner
from headrace.store import Store
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore

ONE, TWO = Partition("log", 0), Partition("log", 1)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is tried again is said each time."""
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


def source(log: MemoryLog, kind: type[MemorySource] = MemorySource, **settings: object) -> MemorySource:
    return kind(log=log, idle=lambda _: time.sleep(0.001), **settings)


def pipeline(read: MemorySource, store: Store, **settings: object) -> Pipeline:
    settings = {"flush": FlushPolicy(records=5, age_s=0.1), "retry_for_s": 30.0, **settings}
    return Pipeline(source=read, sink=LakeSink(store=store), **settings)


def newest(store: Store, number: int = 0) -> int:
    found = Chain.open(store, "log").newest(number)
    return 0 if found is None else found.end


def step_until(run: Pipeline, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        run.step()


@contextmanager
def running(run: Pipeline) -> Iterator[dict[str, BaseException]]:
    """Run it in a thread; what it ended with is in the result once the block is left."""
    ended: dict[str, BaseException] = {}

    def work() -> None:
        try:
            run.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            ended["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ended
    finally:
        run.stop()
        thread.join(30)
        assert not thread.is_alive()


def produce(log: MemoryLog, count: int, partition: int = 0, value: bytes = b"{}") -> None:
    for _ in range(count):
        log.produce(value, partition=partition)


@attrs.define(eq=False)
class Failing(MemoryStore):
    """Refuses to write the segments whose keys hold one of these."""

    refused: set[str] = attrs.field(factory=set)

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if any(part in key for part in self.refused):
            raise SinkUnavailableError("503")
        return super().create(key, body, metadata)


def test_two_retentions_in_a_row():
    """A second loss, while what follows the first noted one is not stored yet, waits for it and is noted as well (B18, B23)."""
    log, store = MemoryLog(), MemoryStore()
    produce(log, 3)
    pipeline(source(log), store, until_end=True).run()
    produce(log, 10)
    log.retain(6)
    run = pipeline(source(log), store, on_gap="note", flush=FlushPolicy(age_s=60))
    step_until(run, lambda: run.progress.records == 7)
    produce(log, 10)
    log.retain(20)
    step_until(run, lambda: run.progress.records == 10)
    run.stop()
    run.run()

    assert 23 == newest(store)
    notes = sorted(key.rpartition("/")[2][:-5] for key in store.objects if "/gaps/" in key)
    assert [f"{3:020}-{6:020}", f"{13:020}-{20:020}"] == notes


def test_a_hand_over_does_not_drop_what_another_partition_could_not_store():
    """The commit that failed meanwhile is sent again when the store is well."""
    log, store = MemoryLog(partitions=2), Failing()
    produce(log, 5, 1)
    read = source(log)
    run = pipeline(read, store, retry_for_s=0.2, release_timeout_s=5)
    store.refused = {"partition=1/"}
    step_until(run, lambda: bool(run._held.under_way))
    produce(log, 3, 0)
    step_until(run, lambda: run.progress.records == 8)
    read.take_away([ONE])
    run.step()
    store.refused = set()
    step_until(run, lambda: newest(store, 1) == 5)
    run.stop()
    run.run()


def test_partitions_that_come_while_it_is_paused_are_paused_too():
    """A budget holds for what is assigned later as well."""
    log, store = MemoryLog(partitions=9), Failing()
    for number in range(9):
        for _ in range(1000):
            produce(log, 1, number, b'"%s"' % os.urandom(400).hex().encode())
    read = source(log, chunk=20)
    read.give([ONE])
    run = pipeline(read, store, memory_bytes=1 << 18, flush=FlushPolicy(bytes=1 << 16, age_s=1))
    store.refused = {"partition="}
    step_until(run, lambda: run._paused)
    before = run._held.count()
    read.give([Partition("log", n) for n in range(1, 9)])
    for _ in range(50):
        run.step()
    assert run._held.count() < before + 9 * 20 * 1000  # one poll's worth
    store.refused = set()
    step_until(run, lambda: all(newest(store, n) == 1000 for n in range(9)))
    run.stop()
    run.run()


class Stumbling(MemorySource):
    """Does not answer every other poll."""

    polls = 0

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        type(self).polls += 1
        if self.polls % 2:
            raise SourceUnavailableError("timed out")
        return super().poll(owner, timeout_s)


def test_a_source_that_does_not_answer_is_read_again(monkeypatch: pytest.MonkeyPatch):
    """For as long as a sink would be tried again; then the run ends with its error."""
    monkeypatch.setattr("headrace.pipeline._REREAD_S", 0.001)
    log, store = MemoryLog(), MemoryStore()
    produce(log, 20)
    run = pipeline(source(log, Stumbling), store, until_end=True)
    assert 20 == run.run().stored_records

    def never(*_: object) -> Sequence[Event]:
        raise SourceUnavailableError("timed out")

    monkeypatch.setattr(Stumbling, "poll", never)
    began = time.monotonic()
    with pytest.raises(SourceUnavailableError):
        pipeline(source(log, Stumbling), store, retry_for_s=0.3).run()
    assert 0.3 <= time.monotonic() - began < 10


class Lagging(MemorySource):
    """Does not know the second partition for a while."""

    asked = 0

    def extents(self) -> Mapping[Partition, Extent]:
        type(self).asked += 1
        return {p: e for p, e in super().extents().items() if p == ONE or self.asked > 4}


def test_a_partition_that_the_servers_do_not_know_yet_is_waited_for():
    """It is ours, so it is there, or will be."""
    log, store = MemoryLog(partitions=2), MemoryStore()
    produce(log, 5, 0)
    produce(log, 5, 1)
    assert 10 == pipeline(source(log, Lagging), store, until_end=True).run().stored_records


class Away(MemorySource):
    """Never says what the log holds."""

    def extents(self) -> Mapping[Partition, Extent]:
        raise SourceUnavailableError("nobody answers")


def test_stop_is_heard_while_a_look_up_is_tried_again():
    """There is nothing to wait for."""
    run = pipeline(source(MemoryLog(), Away), MemoryStore(), retry_for_s=600)
    with running(run) as ended:
        wait(lambda: run._asked_s is not None)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert {} == ended


def test_a_bounded_run_without_an_answer_is_not_done():
    """Nothing is held, as nothing is known: that is no end (the look-up may take longer than a hand-over)."""
    run = pipeline(source(MemoryLog(), Away), MemoryStore(), until_end=True, retry_for_s=0.5, release_timeout_s=0.1)
    with pytest.raises(SourceUnavailableError):
        run.run()


def test_a_pause_forgets_no_beginning():
    """What began at a moment goes on from there after a pause, before the first record as well (B22)."""
    at = Position(0, None, "d" * 32, None, 0.0)
    assert 40 == Holding.begin(ONE, at, Start(None, None, 1, begun=40)).resume().begun


@attrs.define(kw_only=True, eq=False)
class Broken(LakeSink):
    """Cannot say where the first partition stands."""

    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        found = super().positions(hints)
        return {p: DataError("damaged") if p == ONE else at for p, at in found.items()}


def test_an_endless_run_outlives_its_partitions():
    """One has stopped, the others go to another reader: it waits for those to come back, and what stopped is not its any more."""
    log, store = MemoryLog(partitions=2), MemoryStore()
    read = source(log)
    run = Pipeline(source=read, sink=Broken(store=store), flush=FlushPolicy(records=5, age_s=0.1))
    with running(run) as ended:
        wait(lambda: ONE in run.stopped)
        read.take_away([ONE, TWO])
        wait(lambda: not run._held)
        read.give([TWO])
        produce(log, 5, 1)
        wait(lambda: newest(store, 1) == 5)
    assert {} == ended


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def test_what_stopped_is_raised_at_the_end():
    """The same without a hand-over: the error is the run's."""
    log = MemoryLog(partitions=2)
    produce(log, 5, 1)
    run = Pipeline(source=source(log), sink=Broken(store=MemoryStore()), until_end=True)
    with pytest.raises(DataError, match="damaged"):
        run.run()
    assert 5 == run.progress.stored_records


def test_latest_means_when_it_first_began():
    """A crash before the first segment skips nothing: the group remembers where reading began (B22)."""
    log, store = MemoryLog(), MemoryStore()
    produce(log, 100)
    first = pipeline(source(log, start="latest"), store, flush=FlushPolicy(age_s=60))
    step_until(first, lambda: ONE in log.committed)
    produce(log, 50)
    step_until(first, lambda: first.progress.records == 50)
    second = pipeline(source(log, start="latest"), store)  # the first one is gone, and so is what it held
    step_until(second, lambda: newest(store) == 150)
    second.stop()
    second.run()
    first_segment = Chain.open(store, "log").covering(0, 0)
    assert first_segment is not None
    assert 100 == first_segment.trailer.first


def test_a_damaged_segment_stops_its_partition_alone():
    """Of a lake that is read as a source, as of any other."""
    log, store = MemoryLog(partitions=3), MemoryStore()
    for number in range(3):
        produce(log, 5, number)
    pipeline(source(log), store, until_end=True).run()
    key = next(key for key in store.objects if "partition=1/" in key)
    body = bytearray(store.objects[key])
    body[20] ^= 1
    store.objects[key] = bytes(body)
    copy = MemoryStore()
    run = Pipeline(source=LakeSource(store=store), sink=LakeSink(store=copy), until_end=True)
    with pytest.raises(HeadraceError, match="partition=1"):
        run.run()
    assert 10 == run.progress.stored_records

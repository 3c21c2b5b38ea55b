"""Every source keeps the contract, and the contract finds sources that do not."""

from __future__ import annotations

import csv
import gzip
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs
import pytest
from confluent_kafka import Producer

from headrace.demo.broker import embedded_broker
from headrace.errors import SourceUnavailableError
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.kafka.source import KafkaSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Batch, Event, Extent, Identity, Partition, Record
from headrace.source import Owner, Source
from headrace.testing.contracts.audited_source import AuditedSourceContract
from headrace.testing.contracts.crash import SourceCrashContract
from headrace.testing.contracts.reader import Reader
from headrace.testing.contracts.source import (
    GroupSourceContract,
    GrowingSourceContract,
    Log,
    RetentionSourceContract,
)
from headrace.testing.contracts.values import LINES
from headrace.testing.faults import Gate, nothing_fails
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore

pytest_plugins = ["pytester"]


# ---- in memory ------------------------------------------------------------------------------------------------------


@attrs.define
class InMemory:
    """A log with holes of every kind."""

    stream: str = "log"
    partitions: int = 3
    memory: MemoryLog = attrs.field(factory=lambda: MemoryLog(partitions=3))

    def append(self, number: int, records: Sequence[Record]) -> None:
        for i, record in enumerate(records):
            if i % 7 == 3:
                self.memory.produce(b"aborted", partition=number, fate="aborted")
                self.memory.marker(number)
            more = {"key": record.key, "headers": record.headers, "timestamp_ms": record.timestamp_ms}
            self.memory.produce(record.value, partition=number, **more)
        self.memory.marker(number)

    def open(self) -> Source:
        return MemorySource(log=self.memory, chunk=10)


@attrs.define(kw_only=True, eq=False)
class Asking(MemorySource):
    """One that asks a gate before each poll."""

    gate: Gate

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if self.gate("poll") != "do":
            raise SourceUnavailableError("nothing was lost")
        return super().poll(owner, timeout_s)


@attrs.define
class Asked(InMemory):
    gate: Gate = nothing_fails

    def open(self) -> Source:
        return Asking(log=self.memory, chunk=10, gate=self.gate)


class TestPartitionsThatEndEarlier(SourceCrashContract):
    """The ends of those that are empty are no ends of the one that is read."""

    @pytest.fixture
    def make_log(self) -> Callable[[Gate], Log]:
        return lambda gate: Asked(gate=gate)


class TestMemorySource(AuditedSourceContract, GrowingSourceContract, GroupSourceContract, RetentionSourceContract):
    @pytest.fixture
    def log(self) -> Log:
        return InMemory()

    @pytest.fixture
    def take_over(self) -> Callable[[Reader], None]:
        def take(reader: Reader) -> None:
            assert isinstance(reader.source, MemorySource)
            reader.source.take_away(reader.owned[:1])
            reader.source.lose(reader.owned[1:2])
            reader.until(lambda: bool(reader.lost_partitions), "the hand-over")

        return take

    @pytest.fixture
    def forget(self, log: Log) -> Callable[[Partition, int], None]:
        assert isinstance(log, InMemory)
        return lambda partition, low: log.memory.retain(low, partition.number)


# ---- a file ---------------------------------------------------------------------------------------------------------


@attrs.define
class File:
    path: Path
    follow: bool = False
    stream: str = "ticks"
    partitions: int = 1

    def append(self, number: int, records: Sequence[Record]) -> None:
        assert all(record.value is not None for record in records)
        # an empty line is a hole
        lines = [(record.value or b"") + b"\n" * (1 + (i % 7 == 3)) for i, record in enumerate(records)]
        with self.path.open("ab") as file:
            file.write(gzip.compress(b"".join(lines)) if self.path.suffix == ".gz" else b"".join(lines))

    def open(self) -> Source:
        return JsonlSource(path=str(self.path), follow=self.follow, look_every_s=0.0)


class TestJsonlSource(AuditedSourceContract):
    values = LINES
    carries = ("value",)

    @pytest.fixture(params=["ticks.jsonl", "ticks.jsonl.gz"])
    def log(self, tmp_path: Path, request: pytest.FixtureRequest) -> Log:
        return File(tmp_path / request.param)

    def test_settings_of_the_pipeline(self, log: Log, appended: object) -> None:  # a file that is not there is none
        super().test_settings_of_the_pipeline(log)


@attrs.define
class Rows(File):
    """Values with two fields, as rows; what an append begins with is the names, once."""

    def append(self, number: int, records: Sequence[Record]) -> None:
        with self.path.open("a", newline="") as file:
            rows = csv.writer(file)
            if file.tell() == 0:
                rows.writerow(["n", "x"])
            rows.writerows(json.loads(record.value or b"").values() for record in records)

    def open(self) -> Source:
        return JsonlSource(path=str(self.path), text="x")


class TestCsvSource(AuditedSourceContract):
    values = (b'{"n":-1,"x":"a,\\"b\\"\\nc"}', b'{"n":-2,"x":""}', '{"n":-3,"x":"ä\u2028"}'.encode())
    carries = ("value",)

    @pytest.fixture
    def log(self, tmp_path: Path) -> Log:
        return Rows(tmp_path / "ticks.csv")

    def test_settings_of_the_pipeline(self, log: Log, appended: object) -> None:  # a file that is not there is none
        super().test_settings_of_the_pipeline(log)


class TestJsonlSourceThatFollows(GrowingSourceContract):
    values = LINES
    carries = ("value",)

    @pytest.fixture
    def log(self, tmp_path: Path) -> Log:
        return File(tmp_path / "ticks.jsonl", follow=True)


# ---- a lake ---------------------------------------------------------------------------------------------------------


@attrs.define
class Lake:
    """A lake whose segments leave holes between records."""

    store: FileStore | MemoryStore
    format: Literal["jsonl", "parquet"] = "jsonl"
    stream: str = "ticks"
    partitions: int = 3

    def __attrs_post_init__(self) -> None:
        self._bound()

    def _bound(self) -> LakeSink:
        sink = LakeSink(store=self.store, format=self.format)
        identity = Identity("c", "t", "read_committed", self.partitions)
        sink.bind({Partition(self.stream, n): Extent(0, 10**9, 10**9, identity) for n in range(self.partitions)})
        return sink

    def append(self, number: int, records: Sequence[Record]) -> None:
        sink, partition = self._bound(), Partition(self.stream, number)
        at = sink.positions({partition: None})[partition]
        assert not isinstance(at, Exception)
        placed = [attrs.evolve(r, offset=at.offset + 2 + i + i // 5) for i, r in enumerate(records)]
        draft = sink.draft(partition, at.offset, 1 << 20)
        draft.add(Batch.of(partition, placed, assignment=1, start=at.offset))
        draft.commit(at.offset, at, Identity("c", "t", "read_committed", self.partitions))

    def open(self) -> Source:
        return LakeSource(store=self.store)


class TestLakeSource(GrowingSourceContract, RetentionSourceContract):
    @pytest.fixture(params=["file", "memory", "parquet"])
    def log(self, tmp_path: Path, request: pytest.FixtureRequest) -> Log:
        if request.param == "parquet":
            pytest.importorskip("pyarrow")
            return Lake(MemoryStore(page_size=2), "parquet")
        return Lake(FileStore(root=tmp_path, page_size=2) if request.param == "file" else MemoryStore(page_size=2))

    @pytest.fixture
    def forget(self, log: Log) -> Callable[[Partition, int], None]:
        """Delete the segments that end at or below an offset, as `expire` does: whole ones, oldest first."""

        def delete(partition: Partition, low: int) -> None:
            assert isinstance(log, Lake)
            keys = sorted(o.key for o in log.store.list(f"ticks/partition={partition.number}/").objects)
            starts = [int(key.rpartition("/")[2][:20]) for key in keys]
            for key, end in zip(keys, starts[1:], strict=False):
                if end <= low:
                    log.store.delete(key)

        return delete


# ---- Kafka ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with embedded_broker() as addresses:
        yield addresses


@attrs.define
class Topic:
    bootstrap: str
    stream: str = attrs.field(factory=lambda: f"t-{secrets.token_hex(4)}")
    group: str = attrs.field(factory=lambda: secrets.token_hex(4))
    partitions: int = 4

    def append(self, number: int, records: Sequence[Record]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 1, "log_level": 0})
        for r in records:
            where = {"partition": number, "timestamp": r.timestamp_ms, "headers": list(r.headers)}
            producer.produce(self.stream, r.value, r.key, **where)
        assert producer.flush(20) == 0

    def open(self) -> KafkaSource:
        quick = {"fetch.wait.max.ms": "10"}  # a seek waits for the fetch under way
        return KafkaSource(
            bootstrap=self.bootstrap, topics=(self.stream,), group=self.group, topic_id="off", client_settings=quick
        )


class TestKafkaSource(AuditedSourceContract, GrowingSourceContract, GroupSourceContract):
    """On librdkafka's own broker, which keeps no transactions and gives no topic ids."""

    @pytest.fixture
    def log(self, broker: str) -> Log:
        return Topic(broker)

    @pytest.fixture
    def take_over(self, log: Log) -> Iterator[Callable[[Reader], None]]:
        """A second member of the group, which gets its share."""
        with log.open() as other:

            def take(reader: Reader) -> None:
                rival = Reader(other)

                def shared() -> bool:
                    rival.poll()
                    return bool(reader.released) and bool(rival.owned)

                reader.until(shared, "the group's new shares")

            yield take


# ---- sources that break a promise -----------------------------------------------------------------------------------

STRANGER = """
import attrs
import pytest
from headrace.records import *
from headrace.testing.contracts.audited_source import AuditedSourceContract
from headrace.testing.contracts.crash import SourceCrashContract
from headrace.testing.contracts.source import GroupSourceContract, GrowingSourceContract, RetentionSourceContract
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource

{broken}

@attrs.define
class Log:
    stream: str = "log"
    partitions: int = 3
    memory: MemoryLog = attrs.field(factory=lambda: MemoryLog(partitions=3))

    def append(self, number, records):
        for r in records:
            self.memory.produce(
                r.value, key=r.key, headers=r.headers, timestamp_ms=r.timestamp_ms, partition=number
            )

    def open(self):
        return Broken(log=self.memory, chunk=10, idle=lambda timeout_s: None)

class TestBroken(AuditedSourceContract, GrowingSourceContract, GroupSourceContract, RetentionSourceContract):
    @pytest.fixture
    def log(self):
        return Log()

    @pytest.fixture
    def take_over(self):
        def take(reader):
            reader.source.take_away(reader.owned[:1])
            reader.until(lambda: bool(reader.released), "the hand-over")
        return take

    @pytest.fixture
    def forget(self, log):
        return lambda partition, low: log.memory.retain(low, partition.number)
"""

BROKEN = {
    "nothing": ("class Broken(MemorySource): pass", set()),
    "repeats a record where it resumes": (
        """
class Broken(MemorySource):
    def move(self, starts):
        super().move({p: s and attrs.evolve(s, offset=s.offset and s.offset - 1) for p, s in starts.items()})
""",
        {"test_positions_resume_exactly", "test_assignments_resume_exactly"},
    ),
    "leaves the first record out where it resumes": (
        """
class Broken(MemorySource):
    def _read(self, partition, cursor):
        event = super()._read(partition, cursor)
        resumed = isinstance(event, Batch) and event.start > 0 and event.start % 10
        return event.split(1)[1] if resumed and len(event) > 1 else event
""",
        {"test_positions_resume_exactly"},
    ),
    "keeps the old number": (
        """
class Broken(MemorySource):
    def move(self, starts):
        before = {p: c.assignment for p, c in self._cursors.items()}
        super().move(starts)
        for p, number in before.items():
            self._cursors[p].assignment = number
""",
        {"test_a_move_drops_what_was_read_ahead", "test_positions_resume_exactly"},
    ),
    "reads on while paused": (
        """
class Broken(MemorySource):
    def move(self, starts):
        super().move({p: s for p, s in starts.items() if s is not None})
""",
        {"test_a_pause_holds_one_partition"},
    ),
    "begins by itself": (
        """
class Broken(MemorySource):
    def _tell(self, owner, what, partitions):
        super()._tell(owner, what, partitions)
        super().move({p: Start(0, None, 1) for p in self._paused})
""",
        {"test_nothing_is_fetched_unasked"},
    ),
    "never says where it ends": (
        """
class Broken(MemorySource):
    def _reached(self, partition, cursor, reached, extent):
        found = super()._reached(partition, cursor, reached, extent)
        return found and attrs.evolve(found, position=max(0, found.position - 1))
""",
        {"test_every_record_comes_once"},
    ),
    "reads what was taken away": (
        """
class Broken(MemorySource):
    def _tell(self, owner, what, partitions):
        kept = dict(self._cursors)
        super()._tell(owner, what, partitions)
        self._cursors = kept | self._cursors
""",
        {"test_what_is_taken_away_says_nothing_more"},
    ),
    "begins at what was acknowledged": (
        """
class Broken(MemorySource):
    def _resolve(self, partition):
        hint = self.log.committed.get(partition)
        return hint.offset if hint else super()._resolve(partition)
""",
        {"test_an_acknowledgement_is_a_hint"},
    ),
    "skips what the log lost": (
        """
class Broken(MemorySource):
    def _below(self, partition, cursor, extent):
        cursor.start = cursor.position = extent.low
""",
        {"test_below_the_log_is_said"},
    ),
    "changes what it carries": (
        """
class Broken(MemorySource):
    def _read(self, partition, cursor):
        event = super()._read(partition, cursor)
        return attrs.evolve(event, values=[v or None for v in event.values]) if isinstance(event, Batch) else event
""",
        {"test_every_record_comes_once", "test_a_pause_holds_one_partition"},
    ),
    "forgets the empty partition": (
        """
class Broken(MemorySource):
    def extents(self):
        return {p: e for p, e in super().extents().items() if e.high}
""",
        {"test_extents_hold_the_records"},
    ),
    "is another stream each time": (
        """
class Broken(MemorySource):
    def extents(self):
        return {p: attrs.evolve(e, identity=attrs.evolve(e.identity, topic=str(id(self)))) for p, e in super().extents().items()}
""",
        {"test_identity_stays"},
    ),
    "takes the partitions over from elsewhere": (
        """
import threading

class Broken(MemorySource):
    def _tell(self, owner, what, partitions):
        failed = []
        def tell():
            try:
                MemorySource._tell(self, owner, what, partitions)
            except AssertionError as error:
                failed.append(error)
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
""",
        {"test_every_record_comes_once"},
    ),
    "changes a record when it is read again": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        for batch in super().reread(partition, start, end, **more):
            yield attrs.evolve(batch, values=[v.strip() if v else v for v in batch.values])
""",
        {"test_a_range_comes_again_as_it_was_read"},
    ),
    "leaves a record out when it is read again": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        return super().reread(partition, start, end - 1, **more)
""",
        {"test_a_range_comes_again_as_it_was_read", "test_an_aborted_record_is_one_more"},
    ),
    "reads again in whole chunks, beyond the end": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        return super().reread(partition, start, -(-end // 10) * 10, **more)
""",
        {"test_a_range_comes_again_as_it_was_read"},
    ),
    "says that a record is gone which is there": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        where = self._cursors.get(partition)
        return super().reread(partition, max(start, where.position if where else 0), end, **more)
""",
        {"test_a_range_comes_again_as_it_was_read", "test_reading_again_disturbs_nobody"},
    ),
    "knows no partition before it is polled": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        return super().reread(partition, start, end, **more) if partition in self._cursors else iter(())
""",
        {"test_a_range_comes_again_as_it_was_read"},
    ),
    "moves its reader to read again": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        yield from super().reread(partition, start, end, **more)
        if partition in self._cursors:
            self._cursors[partition].position = self._cursors[partition].start = end
""",
        {"test_reading_again_disturbs_nobody"},
    ),
    "gives again what retention took": (
        """
class Broken(MemorySource):
    def reread(self, partition, start, end, **more):
        for entry in self.log.logs[partition.number].entries[start:end]:
            if entry.fate == "record":
                yield Batch.of(partition, [entry.record], assignment=0)
""",
        {"test_below_the_log_is_said"},
    ),
    "gives up when it is closed twice": (
        """
class Broken(MemorySource):
    def close(self):
        assert not self.closed
        super().close()
""",
        {"test_close_can_be_repeated"},
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_source(failing: Callable[..., set[str]], how: str, monkeypatch: pytest.MonkeyPatch):
    """Each source that breaks one promise fails the tests that stand for it; one that keeps all passes."""
    monkeypatch.setattr("headrace.testing.contracts.reader.PATIENCE_S", 0.3)
    broken, expected = BROKEN[how]
    failed = failing(STRANGER.replace("{broken}", broken), expected)
    assert expected <= failed
    assert bool(expected) == bool(failed)

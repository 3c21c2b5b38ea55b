"""Every sink keeps the contract, and the contract finds sinks that do not."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.demo.broker import embedded_broker
from headrace.plugins.kafka.sink import KafkaSink
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Partition, Record
from headrace.sink import Sink
from headrace.store import Store
from headrace.testing.contracts.sink import ExactlyOnceSinkContract, SinkContract, SinkPlace, Writer
from headrace.testing.store import MemoryStore, answers_lost

try:
    import pyarrow.parquet as pq
except ImportError:
    pq = None

pytest_plugins = ["pytester"]


# ---- the lake -------------------------------------------------------------------------------------------------------


def field(line: Mapping[str, object], name: str) -> bytes | None:
    """A key, value or header as it was, by the published format of a line."""
    if f"{name}_b64" in line:
        return base64.b64decode(str(line[f"{name}_b64"]))
    found = line[name]
    return None if found is None else str(found).encode()


def raw_value(line: bytes) -> bytes:
    """What stands behind the first name "value" before which the line is whole: a header has one too."""
    for name in re.finditer(b',"value":', line):
        with contextlib.suppress(ValueError):
            json.loads(line[: name.start()] + b"}")
            return line[name.end() : -len(b"}\n")]
    raise AssertionError(line)


def record_of(line: bytes) -> Record:
    found = json.loads(line)
    value = raw_value(line) if "value" in found else base64.b64decode(found["value_b64"])
    tombstone = "value" in found and value == b"null"
    headers = tuple(((field(h, "key") or b"").decode(), field(h, "value")) for h in found["headers"] or ())
    kind = found.get("timestamp_type", "create")
    key = field(found, "key")
    return Record(found["offset"], found["timestamp_ms"], key, None if tombstone else value, headers, kind)


@attrs.define
class Lake:
    """Read back with gzip and json alone."""

    make: Callable[[], Store]
    objects: Callable[[], Mapping[str, bytes]]

    def open(self) -> Sink:
        return LakeSink(store=self.make())

    def read(self, partition: Partition) -> Sequence[Record]:
        prefix, objects = f"{partition.stream}/partition={partition.number}/", self.objects()
        return [
            record_of(line)
            for key in sorted(objects)
            if key.startswith(prefix)
            for line in gzip.decompress(objects[key]).splitlines(keepends=True)
        ]


class OverAnyStore(ExactlyOnceSinkContract):
    @pytest.fixture
    def lose_answer(self, writer: Writer) -> Callable[[bool], AbstractContextManager[object]]:
        return lambda written: answers_lost(writer.sink, written=written)


class TestLakeSinkOnDisk(OverAnyStore):
    @pytest.fixture
    def place(self, tmp_path: Path) -> SinkPlace:
        def objects() -> Mapping[str, bytes]:
            return {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.jsonl.gz")}

        return Lake(lambda: FileStore(root=tmp_path, page_size=3), objects)


@attrs.define
class ParquetLake:
    """Read back with pyarrow alone."""

    make: Callable[[], Store]
    objects: Callable[[], Mapping[str, bytes]]

    def open(self) -> Sink:
        return LakeSink(store=self.make(), format="parquet")

    def read(self, partition: Partition) -> Sequence[Record]:
        prefix, objects = f"{partition.stream}/partition={partition.number}/", self.objects()
        tables = [pq.read_table(io.BytesIO(objects[key])) for key in sorted(objects) if key.startswith(prefix)]
        return [row_of(row) for table in tables for row in table.to_pylist()]


def row_of(row: Mapping[str, Any]) -> Record:
    def content(cells: Mapping[str, Any], name: str) -> bytes | None:
        return cells[f"{name}_bytes"] if cells[name] is None else cells[name].encode()

    headers = tuple(((content(h, "key") or b"").decode(), content(h, "value")) for h in row["headers"] or ())
    kind = row["timestamp_type"] or "create"
    return Record(row["offset"], row["timestamp_ms"], content(row, "key"), content(row, "value"), headers, kind)


class TestLakeSinkOfParquet(OverAnyStore):
    @pytest.fixture
    def place(self) -> SinkPlace:
        pytest.importorskip("pyarrow")
        objects: dict[str, bytes] = {}
        one = MemoryStore(objects=objects, page_size=2)
        return ParquetLake(lambda: one, lambda: objects)


class TestLakeSinkInMemory(OverAnyStore):
    @pytest.fixture
    def place(self) -> SinkPlace:
        objects: dict[str, bytes] = {}
        one = MemoryStore(objects=objects, page_size=2)  # one lock for all: it stands for one server
        return Lake(lambda: one, lambda: objects)


# ---- Kafka ----------------------------------------------------------------------------------------------------------


@attrs.define
class Topic:
    """Read back with the client alone."""

    bootstrap: str
    topic: str

    def open(self) -> Sink:
        return KafkaSink(
            bootstrap=self.bootstrap, topic=self.topic, partition="keep", client_settings={"linger.ms": "1"}
        )

    def read(self, partition: Partition) -> Sequence[Record]:
        settings = {"bootstrap.servers": self.bootstrap, "group.id": secrets.token_hex(4), "log_level": 0}
        consumer, found = Consumer({**settings, "enable.partition.eof": True, "fetch.wait.max.ms": 10}), []
        consumer.assign([TopicPartition(self.topic, partition.number, 0)])
        while (message := consumer.poll(20)) is not None and message.error() is None:
            headers = tuple(message.headers() or ())
            offset, (_, ms) = message.offset(), message.timestamp()
            found.append(Record(offset, ms, message.key(), message.value(), headers))
        consumer.close()
        return found


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with embedded_broker() as addresses:
        yield addresses


class TestKafkaSink(SinkContract):
    """At least once, and no position of its own: what a topic promises, on librdkafka's own broker."""

    carries = ("key", "value", "headers")

    @pytest.fixture
    def place(self, broker: str) -> SinkPlace:
        return Topic(broker, f"t-{secrets.token_hex(4)}")


# ---- sinks that break a promise -------------------------------------------------------------------------------------

STRANGER = """
import contextlib, threading
import attrs, pytest
from headrace.errors import *
from headrace.records import *
from headrace.sink import Draft, Sink
from headrace.testing.contracts.sink import ExactlyOnceSinkContract


@attrs.define(slots=False)
class Place:  # segments in a dictionary
    segments: dict = attrs.field(factory=dict)
    pins: dict = attrs.field(factory=dict)
    notes: set = attrs.field(factory=set)
    lock: object = attrs.field(factory=threading.Lock)
    deaf: object = None

    def open(self):
        return Broken(self)

    def read(self, partition):
        return [r for s in sorted(self.segments.get(partition, {}).items()) for r in s[1][1]]


@attrs.define(eq=False, slots=False)
class ListDraft(Draft):
    sink: object
    partition: Partition
    position: int
    batches: list = attrs.field(factory=list)

    @property
    def held_bytes(self):
        return sum(b.nbytes + 1 for b in self.batches)

    @property
    def end(self):
        return self.batches[-1].end if self.batches else self.position

    def add(self, batch):
        self.batches.append(batch)

    def discard(self):
        self.batches = []

    def commit(self, base, at, identity):
        return self.sink.commit(self, base, at, identity)


@attrs.define(eq=False, slots=False)
class ListSink(Sink):  # the smallest that keeps the contract
    place: Place

    def bind(self, extents):
        for p, e in extents.items():
            pinned = self.place.pins.setdefault(p.stream, e.identity)
            self.check(pinned, e.identity)
        return {p.stream: self.place.pins[p.stream] for p in extents}

    def check(self, pinned, found):
        if attrs.evolve(pinned, partitions=0) != attrs.evolve(found, partitions=0):
            raise IdentityError(f"{found}, expected {pinned}")

    def positions(self, hints):
        return {p: self.look_up(p, hint) for p, hint in hints.items()}

    def look_up(self, partition, hint=None):
        there = self.place.segments.get(partition)
        if not there:
            return Position(0, None, "d", None, 0.0)
        start = max(there)
        return Position(there[start][0], (start, there[start][0]), "d", None, 0.0)

    def draft(self, partition, position, buffer_bytes):
        return ListDraft(self, partition, position)

    def note(self, partition, start, end):
        self.place.notes.add((partition, start, end))

    def refused(self, draft, found):
        return PositionConflictError(f"found {found}", expected=draft.position, found=found)

    def commit(self, draft, base, at, identity):
        p = draft.position
        if at.offset != p:
            raise self.refused(draft, at)
        if at.looked_up_s < -1e6:
            raise self.refused(draft, self.look_up(draft.partition))
        self.covered(draft, base)
        self.check(self.place.pins[draft.partition.stream], identity)
        records = [r for b in draft.batches for r in b.records()]
        if self.place.deaf is None or self.place.deaf:
            if not self.create(draft, p, (draft.end, records)):
                raise self.refused(draft, self.look_up(draft.partition))
        if self.place.deaf is not None:
            raise CommitUnknownError("no answer")
        return Position(draft.end, (p, draft.end), "d", None, 0.0)

    def covered(self, draft, base):
        noted = (draft.partition, draft.position, base) in self.place.notes
        if base != draft.position and draft.position and not noted:
            raise DataError("not covered")

    def create(self, draft, p, segment):
        with self.place.lock:
            return self.place.segments.setdefault(draft.partition, {}).setdefault(p, segment) is segment


{broken}


class TestBroken(ExactlyOnceSinkContract):
    @pytest.fixture
    def place(self):
        return Place()

    @pytest.fixture
    def lose_answer(self, place):
        @contextlib.contextmanager
        def lose(written):
            place.deaf = written
            yield
            place.deaf = None
        return lose
"""

BROKEN = {
    "nothing": ("class Broken(ListSink): pass", set()),
    "overwrites": (
        """
class Broken(ListSink):
    def create(self, draft, p, segment):
        self.place.segments.setdefault(draft.partition, {})[p] = segment
        return True
""",
        {
            "test_the_second_writer_of_a_position_is_refused",
            "test_one_of_many_writers_wins",
            "test_a_stored_draft_is_not_stored_again",
            "test_a_write_that_comes_late_is_refused",
        },
    ),
    "appends wherever the chain ends": (
        """
class Broken(ListSink):
    def create(self, draft, p, segment):
        return super().create(draft, self.look_up(draft.partition).offset, segment)
""",
        {"test_an_unknown_answer_is_settled_by_the_same_call", "test_a_stored_draft_is_not_stored_again"},
    ),
    "believes the hint": (
        """
class Broken(ListSink):
    def look_up(self, partition, hint=None):
        return Position(hint.offset, hint.segment, "d", None, 0.0) if hint else super().look_up(partition)
""",
        {"test_a_hint_never_changes_the_answer"},
    ),
    "does not say where the chain ends": (
        """
class Broken(ListSink):
    def refused(self, draft, found):
        return super().refused(draft, None)
""",
        {"test_the_second_writer_of_a_position_is_refused", "test_an_old_position_writes_nothing_wrong"},
    ),
    "takes any stream": (
        """
class Broken(ListSink):
    def check(self, pinned, found):
        pass
""",
        {"test_another_stream_is_refused"},
    ),
    "takes a stream that grew for another": (
        """
class Broken(ListSink):
    def check(self, pinned, found):
        if pinned != found:
            raise IdentityError(f"{found}")
""",
        {"test_a_stream_that_grew_stays_itself"},
    ),
    "takes each draft of one length for any other": (
        """
class Broken(ListSink):
    def draft(self, partition, position, buffer_bytes):
        class Alike(ListDraft):
            digest = property(lambda self: "%064d" % (self.end - self.position))
        return Alike(self, partition, position)
    def look_up(self, partition, hint=None):
        found = super().look_up(partition, hint)
        return attrs.evolve(found, digest="%064d" % (found.segment[1] - found.segment[0]) if found.segment else None)
    def commit(self, draft, base, at, identity):
        return attrs.evolve(super().commit(draft, base, at, identity), digest=draft.digest)
""",
        {"test_a_digest_tells_a_draft_from_a_rivals"},
    ),
    "leaves gaps": (
        """
class Broken(ListSink):
    def covered(self, draft, base):
        pass
""",
        {"test_a_draft_covers_what_lies_before_it"},
    ),
    "knows its own commits only": (
        """
class Broken(ListSink):
    def __attrs_post_init__(self):
        self.own = {}
    def look_up(self, partition, hint=None):
        return self.own.get(partition, Position(0, None, "d", None, 0.0))
    def commit(self, draft, base, at, identity):
        self.own[draft.partition] = found = super().commit(draft, base, at, identity)
        return found
""",
        {"test_the_position_lives_with_the_data", "test_the_second_writer_of_a_position_is_refused"},
    ),
    "takes a lost answer for a failure": (
        """
class Broken(ListSink):
    def create(self, draft, p, segment):
        if draft.__dict__.pop("again", None):
            p = self.look_up(draft.partition).offset
        if self.place.deaf:
            draft.again = True
        return super().create(draft, p, segment)
""",
        {"test_an_unknown_answer_is_settled_by_the_same_call"},
    ),
    "stores a half": (
        """
class Broken(ListSink):
    def create(self, draft, p, segment):
        return super().create(draft, p, (segment[0], segment[1][: max(1, len(segment[1]) // 2)]))
""",
        {"test_every_record_is_stored_to_the_byte", "test_batches_make_no_difference"},
    ),
    "loses tombstones": (
        """
class Broken(ListSink):
    def create(self, draft, p, segment):
        return super().create(draft, p, (segment[0], [r for r in segment[1] if r.value is not None]))
""",
        {"test_every_record_is_stored_to_the_byte"},
    ),
    "stores when it is closed": (
        """
class Broken(ListSink):
    def __attrs_post_init__(self):
        self.drafts = []
    def draft(self, partition, position, buffer_bytes):
        self.drafts.append(super().draft(partition, position, buffer_bytes))
        return self.drafts[-1]
    def close(self):
        for d in self.drafts:
            if d.batches:
                self.create(d, d.position, (d.end, [r for b in d.batches for r in b.records()]))
""",
        {"test_what_is_not_committed_is_not_stored"},
    ),
    "counts records, not offsets": (
        """
class Broken(ListSink):
    def draft(self, partition, position, buffer_bytes):
        class Counting(ListDraft):
            end = property(lambda self: self.position + sum(len(b) for b in self.batches))
        return Counting(self, partition, position)
""",
        {"test_a_draft_says_what_it_holds"},
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_sink(failing: Callable[..., set[str]], how: str):
    """Each sink that breaks one promise fails the tests that stand for it; one that keeps all passes."""
    broken, expected = BROKEN[how]
    failed = failing(STRANGER.replace("{broken}", broken), expected)
    assert expected <= failed
    assert bool(expected) == bool(failed)

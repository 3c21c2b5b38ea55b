"""The Kafka sink on Apache Kafka: exactly once, whoever is killed, paused, fenced or not answered."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import attrs
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from headrace.errors import ConfigError, DataError, IdentityError, SinkUnavailableError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka import exactly_once
from headrace.plugins.kafka.publish import produce
from headrace.plugins.kafka.sink import KafkaSink
from headrace.records import Extent, Identity, Partition, Record
from headrace.registry import Registry
from headrace.sink import Sink
from headrace.testing.contracts.sink import ExactlyOnceSinkContract, SinkPlace, Writer

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services


ANY_TIME = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}
"""Of a topic: what was recorded in 1970 or will be in 5000 is taken, and kept."""


def read(bootstrap: str, topic: str, partition: int, isolation: str = "read_committed") -> list[Record]:
    """All records of a partition that are committed, by the client alone: what is decided is seen a moment later."""
    place, found = TopicPartition(topic, partition, 0), []
    with AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}) as admin:
        end = admin.list_offsets({place: OffsetSpec.latest()})[place].result(20).offset
    settings = {"bootstrap.servers": bootstrap, "group.id": secrets.token_hex(4), "isolation.level": isolation}
    consumer = Consumer({**settings, "log_level": 0, "enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer.assign([place])
    reached, deadline = 0, time.monotonic() + 60
    while reached < end:
        assert time.monotonic() < deadline, f"a transaction is open at {reached}"
        message = consumer.poll(1)
        if message is None:
            continue
        reached = message.offset() if message.error() else message.offset() + 1
        if message.error() is None:
            headers, (_, ms) = tuple(message.headers() or ()), message.timestamp()
            found.append(Record(message.offset(), ms, message.key(), message.value(), headers))
    consumer.close()
    return found


def make(admin: AdminClient, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
    """Make a topic; brokers know of it a moment later."""
    admin.create_topics([NewTopic(name, partitions, 1, config=dict(config or {}))])[name].result(20)
    wait(lambda: admin.describe_topics(TopicCollection([name]))[name].result(20).topic_id is not None)


def wait(condition: Callable[[], bool]) -> None:
    """Ask until it is true, for half a minute at most."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(KafkaException):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not come true")


@attrs.define
class Topic:
    """Read back with the client alone."""

    bootstrap: str
    topic: str

    def open(self) -> Sink:
        return KafkaSink(
            bootstrap=self.bootstrap,
            topic=self.topic,
            guarantee="exactly-once",
            partition="keep",
            transaction_timeout_s=10,  # how long readers wait for one that nobody ends
            client_settings={"linger.ms": "1"},
        )

    def read(self, partition: Partition) -> Sequence[Record]:
        return read(self.bootstrap, self.topic, partition.number)


@attrs.define
class Deaf:
    """A producer that commits, or does not, and never hears the answer."""

    inner: object
    written: bool

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def commit_transaction(self, timeout: float) -> None:
        if self.written:
            self.inner.commit_transaction(timeout)  # type: ignore[attr-defined]
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def abort_transaction(self, timeout: float) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))


class TestKafkaSink(ExactlyOnceSinkContract):
    carries = ("key", "value", "headers")

    @pytest.fixture
    def place(self, kafka: str) -> SinkPlace:
        name = f"t-{secrets.token_hex(4)}"
        with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as admin:
            make(admin, name, partitions=6, config=ANY_TIME)
        return Topic(kafka, name)

    @pytest.fixture
    def lose_answer(self, writer: Writer) -> Callable[[bool], AbstractContextManager[object]]:
        @contextlib.contextmanager
        def lose(written: bool) -> Iterator[None]:
            assert isinstance(writer.sink, KafkaSink)
            transactions = writer.sink._positions._line_of(writer.partition).transactions
            transactions._producer = Deaf(transactions._producer, written)
            yield

        return lose


# ---- what the positions are about -----------------------------------------------------------------------------------


class Sinks:
    """Sinks of one topic, each as another process would make it, and one record after the other through them."""

    def __init__(self, kafka: str) -> None:
        self.kafka, self.topic = kafka, f"t-{secrets.token_hex(4)}"
        self.admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        self.identity = Identity("cluster", "topic", "read_committed", 1)
        self.make(self.topic)

    def make(self, topic: str, **config: str) -> None:
        make(self.admin, topic, config=config)

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(20)
        wait(lambda: topic not in self.admin.list_topics(timeout=10).topics)

    @contextlib.contextmanager
    def writer(self, **settings: object) -> Iterator[Writer]:
        made = {"bootstrap": self.kafka, "topic": self.topic, "guarantee": "exactly-once", **settings}
        with KafkaSink(**made) as sink:
            sink.bind({Partition("ticks", 0): Extent(0, 10**6, 10**6, self.identity)})
            yield Writer(sink, Partition("ticks", 0), self.identity)

    def put(self, **settings: object) -> None:
        with self.writer(**settings) as writer:
            at = writer.position().offset
            writer.put([Record(at, 1_700_000_000_000, b"k", b"%d" % at)])

    def values(self) -> list[bytes | None]:
        return [record.value for record in read(self.kafka, self.topic, 0)]


@pytest.fixture
def sinks(kafka: str) -> Iterator[Sinks]:
    made = Sinks(kafka)
    with made.admin:
        yield made


def test_a_topic_made_again_is_refused(sinks: Sinks):
    """Positions of a topic that was deleted would hide what the new one lacks; a new epoch publishes it all (B9)."""
    sinks.put()
    sinks.delete(sinks.topic)
    sinks.make(sinks.topic)
    with pytest.raises(IdentityError, match="target is"):
        sinks.put()
    sinks.put(epoch="b")
    sinks.put(epoch="b")
    assert [b"0", b"1"] == sinks.values()


def test_a_topic_made_again_meanwhile_is_refused(sinks: Sinks):
    """The same under a sink that is open, at its next look-up."""
    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])
        sinks.delete(sinks.topic)
        sinks.make(sinks.topic)
        with pytest.raises(IdentityError, match="made again"):
            writer.position()
        draft = writer.draft(1, [Record(1, 1, b"k", b"1")])
        with pytest.raises(IdentityError, match="made again"):
            writer.commit(draft, attrs.evolve(at, looked_up_s=at.looked_up_s - 1e9))
    assert [] == sinks.values()


def test_a_topic_made_again_is_not_committed_to(sinks: Sinks):
    """Nor at its next commit: what the new topic lacks is never passed over in silence, and nothing is published to it."""
    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])
        sinks.delete(sinks.topic)
        sinks.make(sinks.topic)
        draft = writer.draft(1, [Record(1, 1, b"k", b"1")])
        for _ in range(2):  # nor when it is tried again
            with pytest.raises(IdentityError, match="made again"):
                writer.commit(draft, at)
    assert [] == sinks.values()


def test_a_topic_made_again_under_a_transaction(sinks: Sinks, monkeypatch: pytest.MonkeyPatch):
    """The same where that happens as the draft is being published: the question comes after the last record was taken."""
    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])

        def late(*arguments: object) -> None:
            produce(*arguments)
            arguments[0].flush(20)
            sinks.delete(sinks.topic)
            sinks.make(sinks.topic)

        monkeypatch.setattr(exactly_once, "produce", late)
        with pytest.raises(IdentityError, match="made again"):
            writer.commit(writer.draft(1, [Record(1, 1, b"k", b"1")]), at)
    assert [] == sinks.values()


def test_without_the_question_a_topic_made_again_loses(sinks: Sinks, monkeypatch: pytest.MonkeyPatch):
    """The negative control: where the topics are not asked for, a commit moves the position over what the new topic lacks."""
    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])
        sinks.delete(sinks.topic)
        sinks.make(sinks.topic)
        monkeypatch.setattr(exactly_once.PositionsInTopic, "_check_topics", lambda *_: None)
        assert 2 == writer.commit(writer.draft(1, [Record(1, 1, b"k", b"1")]), at).offset
    assert [b"1"] == sinks.values()


def test_positions_made_again_are_not_committed_to(sinks: Sinks):
    """A side topic that was deleted has lost the positions of others too: nothing is published behind them."""
    side = f"{sinks.topic}.headrace-positions"
    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])
        sinks.delete(side)
        sinks.make(side, **{"cleanup.policy": "compact"})
        with pytest.raises(IdentityError, match="made again"):
            writer.commit(writer.draft(1, [Record(1, 1, b"k", b"1")]), at)
    assert [b"0"] == sinks.values()


def test_records_without_positions_are_not_joined(sinks: Sinks):
    """A topic that has records and no positions is published to only when that is asked for: they may have been deleted (B7)."""
    sinks.put()
    sinks.delete(f"{sinks.topic}.headrace-positions")
    with pytest.raises(ConfigError, match="append=on"):
        sinks.put()
    sinks.put(append=True)
    sinks.put()
    assert [b"0", b"0", b"1"] == sinks.values()


def test_positions_are_kept_for_good(sinks: Sinks):
    """A side topic that forgets is refused; the one that is made is compacted."""
    sinks.make("forgets-" + sinks.topic, **{"cleanup.policy": "delete"})
    with pytest.raises(ConfigError, match=r"cleanup\.policy=delete, expected compact"):
        sinks.put(positions_topic="forgets-" + sinks.topic)
    sinks.put()
    about = ConfigResource(ConfigResource.Type.TOPIC, f"{sinks.topic}.headrace-positions")
    found = sinks.admin.describe_configs([about])[about].result(20)
    assert "compact" == found["cleanup.policy"].value


def test_ids_that_would_not_fence_are_refused(sinks: Sinks):
    """Another prefix makes other transactional ids, which leave a zombie of the old ones alone."""
    sinks.put()
    with pytest.raises(IdentityError, match="transactional_id_prefix is 'headrace' in the pin, 'other' now"):
        sinks.put(transactional_id_prefix="other")
    assert [b"0"] == sinks.values()


def test_an_answer_that_is_late_is_waited_for(sinks: Sinks):
    """A commit that the client gave up waiting for is asked for again, not begun again."""

    @attrs.define
    class Slow(Deaf):
        calls: int = 0

        def commit_transaction(self, timeout: float) -> None:
            self.calls += 1
            if self.calls < 3:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, retriable=True))
            self.inner.commit_transaction(timeout)  # type: ignore[attr-defined]

    with sinks.writer() as writer:
        writer.put([Record(0, 1, b"k", b"0")])
        transactions = writer.sink._positions._line_of(writer.partition).transactions
        slow = transactions._producer = Slow(transactions._producer, written=True)
        writer.put([Record(1, 1, b"k", b"1")])
        transactions._producer = slow.inner
    assert 3 == slow.calls
    assert [b"0", b"1"] == sinks.values()


def test_a_right_that_is_missing_is_told(sinks: Sinks):
    """What asking again cannot help is no reason to ask again, even if the brokers have nothing to abort."""

    class Refused(Deaf):
        def commit_transaction(self, timeout: float) -> None:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, txn_requires_abort=True))

        def abort_transaction(self, timeout: float) -> None:
            raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, fatal=True))

    with sinks.writer() as writer:
        at = writer.put([Record(0, 1, b"k", b"0")])
        transactions = writer.sink._positions._line_of(writer.partition).transactions
        transactions._producer = Refused(transactions._producer, written=False)
        draft = writer.draft(1, [Record(1, 1, b"k", b"1")])
        with pytest.raises(ConfigError, match="TOPIC_AUTHORIZATION_FAILED"):
            writer.commit(draft, at)
        writer.commit(draft, at)
    assert [b"0", b"1"] == sinks.values()


def test_a_record_that_is_refused_stops_its_partition(sinks: Sinks):
    """What the brokers will never take is told as such, nothing of its draft is published, and the sink can go on."""
    with sinks.writer(client_settings={"message.max.bytes": "3000000"}) as writer:
        at = writer.position()
        too_large = [Record(0, 1, b"k", b"0"), Record(1, 1, b"k", b"x" * 2_000_000)]
        with pytest.raises(DataError, match=r"max\.message\.bytes"):
            writer.commit(writer.draft(0, too_large), at)
        future = [Record(0, 1, b"k", b"0"), Record(1, 10**14, b"k", b"1")]
        with pytest.raises(DataError, match=r"message\.timestamp\.after\.max\.ms"):
            writer.commit(writer.draft(0, future), at)
        writer.put([Record(0, 1, b"k", b"0")])
    assert [b"0"] == sinks.values()


def test_few_producers_for_many_partitions(kafka: str):
    """Producers beyond those that are kept are given back, and made again: each partition goes on where it was."""
    topic = f"t-{secrets.token_hex(4)}"
    identity = Identity("cluster", "topic", "read_committed", 5)
    extents = {Partition("ticks", n): Extent(0, 99, 99, identity) for n in range(5)}
    settings = {"bootstrap": kafka, "topic": topic, "guarantee": "exactly-once", "create_partitions": 1}
    with KafkaSink(**settings, producers=2) as sink:
        sink.bind(extents)
        for at in range(3):
            for partition in extents:
                Writer(sink, partition, identity).put([Record(at, 1, b"k", b"%d" % at)])
        assert 2 == sum(line.transactions.open for line in sink._positions._lines._all.values())
    assert [b"%d" % at for at in range(3) for _ in extents] == [record.value for record in read(kafka, topic, 0)]


def test_timestamps(kafka: str):
    """Times are kept, also those before 1970; none at all, or the epoch's first millisecond, becomes the time of publishing."""
    topic, before_ms = f"t-{secrets.token_hex(4)}", time.time() * 1000 - 1
    kinds = [
        (1_700_000_000_000, "create"),
        (1, "append"),
        (-86_400_000, "create"),
        (-1, "create"),
        (-1, "none"),
        (0, "create"),
    ]
    identity = Identity("cluster", "topic", "read_committed", 1)
    settings = {"create_partitions": 1, "create_settings": "retention.ms=-1"}
    with KafkaSink(bootstrap=kafka, topic=topic, guarantee="exactly-once", **settings) as sink:
        sink.bind({Partition("ticks", 0): Extent(0, 99, 99, identity)})
        records = [Record(n, ms, b"k", b"v", timestamp_type=kind) for n, (ms, kind) in enumerate(kinds)]
        Writer(sink, Partition("ticks", 0), identity).put(records)
    found = [record.timestamp_ms for record in read(kafka, topic, 0)]
    assert [1_700_000_000_000, 1, -86_400_000, -1] == found[:4]
    assert all(ms >= before_ms for ms in found[4:])


def test_an_open_transaction_hides_no_position(sinks: Sinks):
    """Whosever transaction is open in the side topic, what was committed behind it is waited for: not one position is missed."""
    foreign = Producer({"bootstrap.servers": sinks.kafka, "transactional.id": secrets.token_hex(4), "log_level": 0})
    foreign.init_transactions(20)
    with sinks.writer() as writer, ThreadPoolExecutor(1) as pool:
        writer.put([Record(0, 1, b"k", b"0")])
        at = writer.position()
        foreign.begin_transaction()
        foreign.produce(f"{sinks.topic}.headrace-positions", b"{}", b"[]", 0)
        assert 0 == foreign.flush(20)
        writer.commit(writer.draft(1, [Record(1, 1, b"k", b"1")]), at)
        with (
            sinks.writer(transaction_timeout_s=1.0, request_timeout_s=3.0) as hasty,
            pytest.raises(SinkUnavailableError, match="a transaction was open"),
        ):
            hasty.position()
        with sinks.writer() as patient:
            found = pool.submit(patient.position)
            with pytest.raises(TimeoutError):
                found.result(1.5)
            foreign.abort_transaction(20)
            assert 2 == found.result(30).offset


def test_from_topic_to_topic(sinks: Sinks):
    """A topic is carried into another one, over several runs, holes and all; a group that forgot where it was changes nothing."""
    source, registry = f"{sinks.topic}-source", Registry.discover()
    make(sinks.admin, source)
    producer = Producer({"bootstrap.servers": sinks.kafka, "transactional.id": source, "log_level": 0})
    producer.init_transactions(20)
    for run in range(3):
        for kept in (True, False):
            producer.begin_transaction()
            for n in range(10):
                producer.produce(source, b"%d" % (10 * run + n))
            producer.flush(20)
            (producer.commit_transaction if kept else producer.abort_transaction)(20)
        reader = registry.source(f"kafka://{sinks.kafka}/{source}?group={secrets.token_hex(4)}")
        writer = registry.sink(f"kafka://{sinks.kafka}/{sinks.topic}?guarantee=exactly-once")
        Pipeline(source=reader, sink=writer, flush=FlushPolicy(records=7), until_end=True).run()
    assert [b"%d" % n for n in range(30)] == sinks.values()

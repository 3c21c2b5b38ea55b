"""The Kafka sink on Apache Kafka: exactly once, whoever is killed, paused, fenced or not answered."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import attrs
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from headrace.plugins.kafka.sink import KafkaSink
from headrace.records import Partition, Record
from headrace.sink import Sink
from headrace.testing.contracts.sink import ExactlyOnceSinkContract, Place, Writer

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
    def place(self, kafka: str) -> Place:
        name, admin = f"t-{secrets.token_hex(4)}", AdminClient({"bootstrap.servers": kafka, "log_level": 0})
        admin.create_topics([NewTopic(name, 6, 1, config=ANY_TIME)])[name].result(20)
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

"""Publishes to a topic with an idempotent producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import attrs
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the client's stubs

from headrace.errors import CommitUnknownError, ConfigError, DataError, HeadraceError, SinkUnavailableError
from headrace.plugins.kafka.client import PLAIN, asked, connection, credentials, made, merged, told, topics_of
from headrace.records import Batch, Extent, Hint, Identity, Partition, Position, Record
from headrace.sink import Draft, Guarantee, Sink

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError._BAD_MSG}


@attrs.define(kw_only=True, eq=False)
class KafkaSink(Sink):
    """
    Publishes records with key, value, headers and timestamp, in their order, at least once. A record without a timestamp gets
    that of its publishing, and so does one of the epoch's first millisecond, which the client library takes for none.

    A topic keeps no position for us: a run begins where the source's own acknowledged offset is, so that records between
    the last acknowledgement and a crash are published again. The idempotent producer keeps its own retries from doing so.

    Attributes:
        bootstrap: ``host:port``, several divided by commas.

        topic: Where all streams of the source go.

        partition: "key": records of one key stay in one partition, as Java's producer places them; "keep": the source's
            own partition numbers.

        create_partitions: Make the topic with so many partitions where it does not exist; 0: do not.

        create_replication: Of a topic that is made.

        create_settings: Of a topic that is made: Kafka's own, ``retention.ms=-1,cleanup.policy=delete``. A topic of old
            records needs the first one: retention goes by their timestamps, and takes them at once.

        request_timeout_s: How long a question to the brokers waits.

        delivery_timeout_s: How long a record is tried before its commit is not known.

        client_settings: Any setting of librdkafka; those that order and idempotence rest on are refused.

        clock: Monotonic seconds.
    """

    bootstrap: str
    topic: str
    partition: Literal["key", "keep"] = "key"
    create_partitions: int = 0
    create_replication: int = 1
    create_settings: str = ""
    request_timeout_s: float = 10.0
    delivery_timeout_s: float = 120.0
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    clock: Callable[[], float] = time.monotonic
    guarantee: Guarantee = attrs.field(default="at-least-once", init=False)
    _producer: Producer | None = attrs.field(default=None, init=False)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> KafkaSink:
        """Make the sink of ``kafka://host:9092/trades``; a setting with a dot is librdkafka's."""
        topics = topics_of(uri)
        if len(topics) > 1:
            raise ConfigError(f"found {len(topics)} topics in {uri}, expected one to publish to")
        found = uri.fields(cls, dotted="client_settings", plain=PLAIN)
        found["client_settings"] = {**credentials(uri), **found.get("client_settings", {})}
        return cls(**{"bootstrap": uri.host, "topic": topics[0], **found})

    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        """Find the topic, or make it. Nothing is pinned: a topic keeps no identity of what is published to it."""
        admin = made(AdminClient, {"bootstrap.servers": self.bootstrap, **connection(self.client_settings)})
        what = f"find topic {self.topic!r} at {self.bootstrap}"
        about = asked(lambda: admin.list_topics(timeout=self.request_timeout_s), what, SinkUnavailableError).topics.get(
            self.topic
        )
        if about is None and self.create_partitions:
            self._create(admin)
        elif about is None and not self._auto_created(admin):
            raise ConfigError(f"{what}: it does not exist; make it, or add ?create_partitions=N to have it made")
        return {partition.stream: extent.identity for partition, extent in extents.items()}

    def _create(self, admin: AdminClient) -> None:
        pairs = [pair.partition("=") for pair in self.create_settings.split(",") if pair]
        if not all(name and equals for name, equals, _ in pairs):
            raise ConfigError(
                f"found create_settings={self.create_settings}, expected NAME=VALUE, several divided by commas"
            )
        config = {name: value for name, _, value in pairs}
        wanted = NewTopic(self.topic, self.create_partitions, self.create_replication, config=config)
        asked_for = admin.create_topics([wanted], request_timeout=self.request_timeout_s)
        try:
            asked_for[self.topic].result(self.request_timeout_s + 1)
        except TimeoutError as exc:
            raise SinkUnavailableError(f"make topic {self.topic!r} at {self.bootstrap}: no answer") from exc
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise told(exc.args[0], f"make topic {self.topic!r}", SinkUnavailableError) from exc

    def _auto_created(self, admin: AdminClient) -> bool:
        """Whether asking for the topic by name makes it: brokers with auto.create.topics.enable, and librdkafka's own."""
        try:
            return self.topic in admin.list_topics(self.topic, timeout=self.request_timeout_s).topics and bool(
                admin.list_topics(self.topic, timeout=self.request_timeout_s).topics[self.topic].partitions
            )
        except KafkaException:
            return False

    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        now = self.clock()
        return {p: Position(0 if hint is None else hint.offset, None, None, None, now) for p, hint in hints.items()}

    def draft(self, partition: Partition, position: int, buffer_bytes: int) -> KafkaDraft:
        return KafkaDraft(sink=self, partition=partition, position=position)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.flush(self.request_timeout_s)

    def producer(self) -> Producer:
        """Return the producer, made at first use."""
        if self._producer is None:
            fixed = {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "acks": "all"}
            defaults = {
                "client.id": "headrace",
                "linger.ms": 20,
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": int(self.delivery_timeout_s * 1000),
                "reconnect.backoff.max.ms": 5000,
            }
            self._producer = made(Producer, merged(fixed, defaults, self.client_settings))
        return self._producer


@attrs.define(eq=False)
class _Attempt:
    """What is known of the records of one attempt; a late answer to an earlier one is not counted here."""

    sent: int = 0
    acked: int = 0
    failed: KafkaError | None = None

    def delivered(self, error: KafkaError | None, _: Message) -> None:
        self.acked += 1
        self.failed = self.failed or error


@attrs.define(kw_only=True, eq=False)
class KafkaDraft(Draft):
    """Records that wait to be published: held until the commit, so that a discarded draft published nothing."""

    sink: KafkaSink
    partition: Partition
    position: int
    _batches: list[Batch] = attrs.field(factory=list)
    _held_bytes: int = 0
    _attempt: _Attempt = attrs.field(factory=_Attempt)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def end(self) -> int:
        return self._batches[-1].end if self._batches else self.position

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._held_bytes += batch.nbytes + 200 * len(batch)  # the Python objects of a record cost about so much

    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        producer = self.sink.producer()
        attempt = self._attempt = _Attempt()
        for batch in self._batches:
            for record in batch.records():
                self._produce(producer, record)
        deadline = self.sink.clock() + self.sink.delivery_timeout_s + 5.0
        while attempt.acked < attempt.sent and self.sink.clock() < deadline:
            producer.poll(0.05)
        self._check()
        return Position(self.end, None, None, self._batches[-1].leader_epoch, self.sink.clock())

    def discard(self) -> None:
        self._batches = []
        self._held_bytes = 0

    def _produce(self, producer: Producer, record: Record) -> None:
        number = self.partition.number if self.sink.partition == "keep" else -1  # -1: the partitioner decides
        while True:
            try:
                producer.produce(
                    self.sink.topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers) or None,
                    timestamp=max(0, record.timestamp_ms),  # 0: now
                    on_delivery=self._attempt.delivered,
                    partition=number,
                )
            except BufferError:
                producer.poll(0.05)  # the client's queue is full
            except KafkaException as exc:
                raise self._told(exc.args[0], f"offset {record.offset}") from exc
            else:
                self._attempt.sent += 1
                return

    def _check(self) -> None:
        attempt = self._attempt
        if attempt.failed is not None:
            raise self._told(attempt.failed, f"[{self.position}, {self.end})")
        if attempt.acked < attempt.sent:
            raise CommitUnknownError(
                f"{self.partition}: {attempt.sent - attempt.acked} of {attempt.sent} records of [{self.position}, {self.end})"
                f" were not acknowledged by {self.sink.bootstrap} in {self.sink.delivery_timeout_s} s"
            )

    def _told(self, error: KafkaError, where: str) -> HeadraceError:
        what = f"publish {self.partition} {where} to {self.sink.topic!r}"
        if error.code() in _TOO_LARGE:
            return DataError(f"{what}: {error.str()}; raise message.max.bytes here and max.message.bytes on the topic")
        return told(error, what, CommitUnknownError)

"""Publishes to a topic: exactly once, with the position in the transaction, or idempotently, as soon as can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import attrs
from confluent_kafka import KafkaException, Producer

from headrace.errors import CommitUnknownError, ConfigError
from headrace.finding import Finding
from headrace.plugins.kafka.client import PLAIN, connection, credentials, from_file, made, merged, topics_of
from headrace.plugins.kafka.doctor import check_sink
from headrace.plugins.kafka.exactly_once import PositionsInTopic
from headrace.plugins.kafka.publish import Attempt, KafkaDraft, produce
from headrace.plugins.kafka.topics import NewSettings, Topics, create_settings
from headrace.records import Extent, Hint, Identity, Partition, Position
from headrace.sink import Guarantee, Sink

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

STREAM = "{stream}"
"""Stands in a topic's name for the stream's."""


@attrs.define(kw_only=True, eq=False)
class KafkaSink(Sink):
    """
    Publishes records with key, value, headers and timestamp, in their order.

    ``guarantee="at-least-once"``, the default: by one idempotent producer, with the least latency. A topic keeps no position for
    us: a run begins where the source's own acknowledged offset is, so that records between the last acknowledgement and a
    crash are published again.

    ``guarantee="exactly-once"``: the position is written to a side topic in the same transaction as the records, under a
    transactional id for each partition of the source. Whoever reads with ``isolation.level=read_committed`` sees each record
    exactly once, and in order. The source must be one that can be read again.

    A record without a timestamp gets that of its publishing, and so does one of the epoch's first millisecond, which the client
    library takes for none.

    Attributes:
        bootstrap: ``host:port``, several divided by commas.

        topic: Where all streams of the source go; ``{stream}`` in it stands for the stream's name, so that each has a topic of
            its own. Not for exactly-once.

        guarantee: What whoever reads the topic may rely on after a crash.

        partition: "key": records of one key stay in one partition, as Java's producer places them; "keep": the source's
            own partition numbers.

        create_partitions: Make the topic with so many partitions where it does not exist; 0: do not.

        create_replication: Of a topic that is made.

        create_settings: Of a topic that is made: Kafka's own, ``retention.ms=-1,cleanup.policy=delete``. A topic of old
            records needs the first one: retention goes by their timestamps, and takes them at once.

        epoch: The name of a new beginning: everything is published once more, behind what is there; "" for the first.

        append: Publish exactly once into a topic that has records and no positions of ours.

        positions_topic: The side topic; ``TOPIC.headrace-positions`` unless given. It is made where it does not exist.

        transactional_id_prefix: Of the transactional ids; pinned, as other ids would not fence those of before.

        transaction_timeout_s: How long one draft may take to be published. What a process that died has left open holds
            readers back for so long at the most, or until its partition is published again.

        producers: How many partitions keep their producer, ready for the next draft: each costs about 0.5 MB and 4 threads.
            For the others one is made for each draft, which takes some 20 ms.

        position_max_age_s: An older position is looked up again before it is written to.

        request_timeout_s: How long a question to the brokers waits.

        delivery_timeout_s: How long a record is tried before its commit is not known; not for exactly-once.

        settings_file: Settings of librdkafka that no list of processes shall show, such as ``sasl.password=…``: one a line, as it
            is. What is said beside it wins.

        client_settings: Any setting of librdkafka; those that order, idempotence and transactions rest on are refused.

        clock: Monotonic seconds.
    """

    live_age_s = 0.1

    bootstrap: str
    topic: str
    guarantee: Guarantee = attrs.field(
        default="at-least-once", validator=attrs.validators.in_(("exactly-once", "at-least-once"))
    )
    partition: Literal["key", "keep"] = "key"
    create_partitions: int = 0
    create_replication: int = 1
    create_settings: str = ""
    epoch: str = ""
    append: bool = False
    positions_topic: str = ""
    transactional_id_prefix: str = "headrace"
    transaction_timeout_s: float = attrs.field(default=60.0, validator=attrs.validators.ge(1.0))
    producers: int = attrs.field(default=32, validator=attrs.validators.ge(1))
    position_max_age_s: float = attrs.field(default=3600.0, validator=attrs.validators.ge(1.0))
    request_timeout_s: float = 10.0
    delivery_timeout_s: float = 120.0
    settings_file: str = ""
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    clock: Callable[[], float] = time.monotonic
    _topics: Topics = attrs.field(init=False)
    _producer: Producer | None = attrs.field(default=None, init=False)
    _positions: PositionsInTopic | None = attrs.field(default=None, init=False)  # where they are for exactly-once

    def __attrs_post_init__(self) -> None:
        self.client_settings = {**from_file(self.settings_file), **self.client_settings}
        self.rereads = self.guarantee == "exactly-once"
        if self.rereads and STREAM in self.topic:
            raise ConfigError(
                f"found the topic {self.topic!r} for exactly-once, whose positions are about one topic: name it, or ask for"
                " at-least-once"
            )
        self._topics = Topics(settings=self.connection(), timeout_s=self.request_timeout_s, clock=self.clock)
        if self.guarantee == "exactly-once":
            self._positions = PositionsInTopic(sink=self, topics=self._topics)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> KafkaSink:
        """Make the sink of ``kafka://host:9092/trades?guarantee=exactly-once``; a setting with a dot is librdkafka's."""
        topics = topics_of(uri)
        if len(topics) > 1:
            raise ConfigError(f"found {len(topics)} topics in {uri}, expected one to publish to")
        found = uri.fields(cls, dotted="client_settings", plain=PLAIN)
        found["client_settings"] = {**credentials(uri), **found.get("client_settings", {})}
        return cls(**{"bootstrap": uri.host, "topic": topics[0], **found})

    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        """Find the topic, or make it. For exactly-once each stream is pinned; otherwise a topic keeps no identity of it."""
        config = create_settings(self.create_settings)
        identities = {partition.stream: extent.identity for partition, extent in extents.items()}
        try:
            for topic in dict.fromkeys(self.topic_of(stream) for stream in identities):
                self._topics.find(topic, NewSettings(self.create_partitions, self.create_replication, config))
            return identities if self._positions is None else self._positions.bind(identities)
        finally:
            self._topics.rest()

    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        if self._positions is not None:
            return self._positions.look_up(hints)
        now = self.clock()
        return {p: Position(0 if hint is None else hint.offset, None, None, None, now) for p, hint in hints.items()}

    def check(self) -> Iterator[Finding]:
        return check_sink(self)

    def draft(self, partition: Partition, position: int, buffer_bytes: int) -> KafkaDraft:
        store = self._publish if self._positions is None else self._positions.commit
        return KafkaDraft(partition=partition, position=position, store=store)

    def note(self, partition: Partition, start: int, end: int) -> None:
        if self._positions is None:
            super().note(partition, start, end)
        else:
            self._positions.note(partition, start, end)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.flush(self.request_timeout_s)
        if self._positions is not None:
            self._positions.close()

    # ---- what both ways to publish share ------------------------------------------------------------------

    def topic_of(self, stream: str) -> str:
        """Where a stream's records go."""
        return self.topic.replace(STREAM, stream)

    def number(self, partition: Partition) -> int:
        """Where a partition's records go; -1: the partitioner decides."""
        return partition.number if self.partition == "keep" else -1

    def connection(self) -> dict[str, object]:
        """librdkafka's settings for a client that does not publish."""
        return {"bootstrap.servers": self.bootstrap, **connection(self.client_settings)}

    def producer_settings(self, fixed: Mapping[str, object]) -> dict[str, object]:
        """librdkafka's settings for a producer; *fixed* are those that cannot be given otherwise."""
        defaults = {
            "client.id": "headrace",
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "reconnect.backoff.max.ms": 5000,
        }
        always = {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "acks": "all"}
        return merged({**always, **fixed}, defaults, self.client_settings)

    # ---- at least once ------------------------------------------------------------------------------------

    def _publish(self, draft: KafkaDraft, base: int, at: Position, identity: Identity) -> Position:
        """Publish a draft with the idempotent producer; what is not delivered in time may be, or not."""
        if self._producer is None:
            delivery = {"delivery.timeout.ms": int(self.delivery_timeout_s * 1000)}
            self._producer = made(Producer, {**delivery, **self.producer_settings({})})
        producer, attempt, topic = self._producer, Attempt(), self.topic_of(draft.partition.stream)
        deadline = self.clock() + self.delivery_timeout_s + 5.0

        def wait(serve: Callable[[float], int] = producer.poll) -> None:
            serve(0.05)
            if self.clock() >= deadline:
                raise CommitUnknownError(
                    f"{draft.partition}: {attempt.acked} of {draft.records} records of [{draft.position}, {draft.end}) were"
                    f" acknowledged by {self.bootstrap} in {self.delivery_timeout_s} s"
                )

        try:
            produce(producer, topic, self.number(draft.partition), draft.batches, wait, attempt.delivered)
            while attempt.acked < draft.records:
                wait(producer.flush)  # nothing more comes to linger for
        except KafkaException as exc:
            raise draft.refused(exc.args[0], topic, CommitUnknownError) from exc
        if attempt.failed is not None:
            raise draft.refused(attempt.failed, topic, CommitUnknownError)
        return Position(draft.end, None, None, draft.leader_epoch, self.clock())

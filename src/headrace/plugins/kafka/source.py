"""Reads topics as a member of a consumer group, from the positions that the pipeline gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from confluent_kafka import KafkaError, KafkaException, Message

from headrace.errors import ConfigError, DataError, HeadraceError, IdentityError, SourceUnavailableError
from headrace.finding import Finding
from headrace.plugins.kafka.client import NO_TOPIC, PLAIN, connection, credentials, told, topics_of
from headrace.plugins.kafka.cluster import EARLIEST, LATEST, Cluster
from headrace.plugins.kafka.columns import batch_of, by_leader, from_offset, runs
from headrace.plugins.kafka.doctor import check_source
from headrace.plugins.kafka.group import Member
from headrace.plugins.kafka.places import Cursor, Places, Unexplained
from headrace.plugins.kafka.settings import classic_only, consumer_settings
from headrace.plugins.kafka.starts import start_time_ms
from headrace.records import BelowLog, Event, Extent, Failed, Hint, Partition, Reached, Start
from headrace.source import Owner, Source

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

CHUNK = 1000
"""Messages a call: 10,000 fall out of the CPU's cache and cost up to twice as much each."""

_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)
_PASSING = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)


@attrs.define(kw_only=True, eq=False)
class KafkaSource(Source):
    """
    The records of one or more topics. Offsets that the group committed only say where to look first (B12, B16).

    Attributes:
        bootstrap: ``host:port``, several divided by commas.

        topics: Their names.

        group: The consumer group: its members share the partitions.

        instance: A name of this member alone, that it keeps over restarts (``group.instance.id``): while it is away for less
            than the session time-out, its partitions wait for it. "": a member of the moment.

        start: Where an empty lake begins: "earliest", "latest", or a time as ISO-8601 text.

        isolation: What is read of transactions.

        group_protocol: "consumer" is KIP-848, "classic" the cooperative protocol before it; "auto" takes the first where
            the broker has it.

        topic_id: "off" for a broker that knows no topic ids; a topic that was made again is then not noticed (B20).

        queue_bytes: What librdkafka may fetch ahead.

        request_timeout_s: How long a question to the brokers waits.

        lag_timeout_s: How long answers of a broker that lags behind are asked for again, before their partition stops.

        client_settings: Any setting of librdkafka; those that the protocol fixes are refused.

        clock: Monotonic seconds.
    """

    bootstrap: str
    topics: tuple[str, ...]
    group: str
    instance: str = ""
    start: str = "earliest"
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    group_protocol: Literal["auto", "consumer", "classic"] = "auto"
    topic_id: Literal["on", "off"] = "on"
    queue_bytes: int = 16 << 20
    request_timeout_s: float = 10.0
    lag_timeout_s: float = 30.0
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    clock: Callable[[], float] = time.monotonic
    _cluster: Cluster = attrs.field(init=False, repr=False)
    _member: Member = attrs.field(init=False, repr=False)
    _places: Places = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.group:
            raise ConfigError(
                f"kafka://{self.bootstrap}/{','.join(self.topics)} needs a consumer group: add ?group=NAME"
            )
        start_time_ms(self.start)
        self._cluster = Cluster(
            settings=connection(self._settings("classic")),
            isolation=self.isolation,
            topic_ids=self.topic_id == "on",
            timeout_s=self.request_timeout_s,
        )
        classic = self.group_protocol == "auto" and classic_only(self.client_settings)
        self._member = Member(
            group=self.group,
            topics=self.topics,
            protocol="classic" if classic else self.group_protocol,
            settings=self._settings,
            cluster=self._cluster,
            timeout_s=self.request_timeout_s,
        )
        self._places = self._member.places = Places(
            consumer=lambda: self._member.consumer,
            cluster=self._cluster,
            policy=self.start,
            timeout_s=self.lag_timeout_s,
            clock=self.clock,
        )

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> KafkaSource:
        """Make the source of ``kafka://host:9092/trades?group=bronze``; a setting with a dot is librdkafka's."""
        found = uri.fields(cls, dotted="client_settings", plain=PLAIN)
        found["client_settings"] = {**credentials(uri), **found.get("client_settings", {})}
        return cls(**{"bootstrap": uri.host, "topics": topics_of(uri), "group": "", **found})

    def _settings(self, protocol: str) -> dict[str, object]:
        return consumer_settings(
            bootstrap=self.bootstrap,
            group=self.group,
            instance=self.instance,
            protocol=protocol,
            isolation=self.isolation,
            queue_bytes=self.queue_bytes,
            given=self.client_settings,
        )

    # ---- the source's verbs -------------------------------------------------------------------------------

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        self._member.owner = owner
        self._member.raise_failure()
        events = self._catch_up(owner)
        if not events:
            events = self._events(self._consume(timeout_s))
        if not events:
            self._member.raise_failure()
        return events  # what was read is said first, a failure at the next poll

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        self._places.move(starts)

    def extents(self) -> Mapping[Partition, Extent]:
        return self._cluster.extents(self.topics)

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        self._member.acknowledge(hints)

    def check(self) -> Iterator[Finding]:
        return check_source(self)

    def close(self) -> None:
        self._member.leave()
        self._places.clear()

    # ---- reading ------------------------------------------------------------------------------------------

    def _catch_up(self, owner: Owner) -> list[Event]:
        """Do what is to be done before partitions are read on. What fails is raised, and done again at the next poll."""
        unplaced = self._places.unplaced
        if unplaced or self._member.asked_nothing:
            self._places.answered(owner.assigned(self._member.hints(unplaced)))
            self._member.asked_nothing = False
        if not self._places.todo:
            return []
        self._places.begin()
        self._places.fetch_again()
        for partition, what in list(self._places.todo.items()):
            if isinstance(what, Unexplained):
                events = self._explained(partition, what.error)
                if events:
                    return events  # one at a time: what the next one raises must not lose these
        return []

    def _consume(self, timeout_s: float) -> list[Message]:
        try:
            return self._member.consumer.consume(CHUNK, timeout_s)
        except KafkaException as exc:
            if self._member.failed:
                return []
            raise told(exc.args[0], f"read {', '.join(self.topics)}", SourceUnavailableError) from exc

    def _events(self, messages: list[Message]) -> list[Event]:
        errors = list(map(Message.error, messages))
        # by type: the client's error cannot be compared with None
        if set(map(type, errors)) <= {type(None)}:
            return list(self._batches(messages))
        events: list[Event] = []
        begin = 0
        for i, error in enumerate(errors):  # an error's message may carry a real partition and offset
            if error is not None:
                events += self._batches(messages[begin:i])
                try:
                    events += self._said(messages[i], error)
                except HeadraceError as failure:
                    self._member.keep(failure)
                begin = i + 1
        return [*events, *self._batches(messages[begin:])]

    def _batches(self, messages: list[Message]) -> Iterator[Event]:
        for partition, run in runs(messages, self.topics):
            cursor = self._places.read(partition)
            if cursor is None:
                continue  # it is read again from where it is moved to
            fresh = from_offset(run, cursor.next)
            if not fresh:
                continue  # of before a move
            for part in by_leader(fresh):
                epoch = part[0].leader_epoch()
                if epoch is not None and epoch < cursor.newest_epoch:
                    yield from self._behind(partition, cursor, f"its records at {cursor.next} are of epoch {epoch}")
                    break
                try:
                    batch = batch_of(part, partition, cursor.assignment, cursor.next)
                except DataError as error:
                    self._places.fail(partition)
                    yield Failed(partition, cursor.assignment, error)
                    break
                cursor.next, cursor.leader_epoch, cursor.lagging_s = batch.end, batch.leader_epoch, None
                cursor.newest_epoch = max(cursor.newest_epoch, -1 if epoch is None else epoch)
                yield batch

    # ---- what the client says instead of a record -----------------------------------------------------------

    def _said(self, message: Message, error: KafkaError) -> list[Event]:
        topic, number = message.topic(), message.partition()
        partition = Partition(topic, number) if topic is not None and number is not None else None
        if error.code() == KafkaError._PARTITION_EOF:
            return self._ended(partition, message.offset() or 0)
        if error.code() == KafkaError._UNSUPPORTED_FEATURE and self._member.protocol == "auto":
            self._member.fall_back()
            return []
        if error.code() in _OUT_OF_RANGE:
            if partition is None or self._places.read(partition) is None:
                return []
            self._places.todo[partition] = Unexplained(error)  # until it was found out: the client says it once
            return self._explained(partition, error)
        if error.retriable() or error.code() in _PASSING or (error.code() in NO_TOPIC and topic in self._cluster.seen):
            return []  # the client goes on by itself
        raise told(error, f"read {topic or ', '.join(self.topics)}", SourceUnavailableError)

    def _ended(self, partition: Partition | None, end: int) -> list[Event]:
        cursor = self._places.read(partition)
        if partition is None or cursor is None:
            return []
        cursor.lagging_s = None
        if end > cursor.next:  # behind holes; under which leader they end is not known (B21)
            cursor.next, cursor.leader_epoch = end, None
        return [Reached(partition, cursor.assignment, cursor.next, at_end=True)]

    def _explained(self, partition: Partition, error: KafkaError) -> list[Event]:
        """The log does not have the next offset, or has another record there: say which (B14, B18, B21)."""
        cursor = self._places.cursor(partition)
        low = self._cluster.offset(partition, EARLIEST)
        high = self._cluster.offset(partition, LATEST)
        self._places.todo.pop(partition, None)
        if cursor is None:
            return []
        if error.code() == KafkaError._LOG_TRUNCATION or cursor.next > high:
            failure = IdentityError(
                f"{partition}: the log ends at {high} and was cut back below {cursor.next}, up to which it was read"
                f" ({error.str()}); restore it, or begin a new epoch"
            )
            return [Failed(partition, cursor.assignment, failure)]
        if cursor.next < low:
            return [BelowLog(partition, cursor.assignment, cursor.next, low)]
        return self._behind(partition, cursor, f"{cursor.next} is out of its range ({error.str()})")

    def _behind(self, partition: Partition, cursor: Cursor, found: str) -> list[Event]:
        """A broker that lags behind answered: ask again, for a while (B20)."""
        if self._places.again(partition, cursor):
            return []
        self._places.fail(partition)
        failure = IdentityError(
            f"{partition}: a broker that lags behind has answered for {self.lag_timeout_s:g} s, or the log was cut back:"
            f" {found}, expected epoch {cursor.newest_epoch} or later; run again when the brokers agree, or begin a new epoch"
        )
        return [Failed(partition, cursor.assignment, failure)]

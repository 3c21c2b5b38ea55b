"""Reads topics as a member of a consumer group, from the positions that the pipeline gives."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import attrs
import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.errors import ConfigError, DataError, HeadraceError, IdentityError, SourceUnavailableError
from headrace.logs import event as log_event
from headrace.plugins.kafka.client import NO_TOPIC, PLAIN, asked, credentials, made, merged, told, topics_of
from headrace.plugins.kafka.cluster import EARLIEST, LATEST, Cluster, at_time
from headrace.plugins.kafka.columns import batch_of
from headrace.records import BelowLog, Event, Extent, Failed, Hint, Partition, Reached, Start
from headrace.source import Owner, Source

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_log = logging.getLogger("headrace.kafka.source")

CHUNK = 1000
"""Messages a call: 10,000 fall out of the CPU's cache and cost up to twice as much each."""

_CLASSIC_ONLY = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.protocol.type")


@attrs.define(eq=False)
class _Cursor:
    """Where a partition is read: the number that its events carry, the next offset, and the leader of the last (B17, B21)."""

    assignment: int
    next: int
    leader_epoch: int | None


@attrs.define(kw_only=True, eq=False)
class KafkaSource(Source):
    """
    The records of one or more topics. Offsets that the group committed only say where to look first (B12, B16).

    Attributes:
        bootstrap: ``host:port``, several divided by commas.

        topics: Their names.

        group: The consumer group: its members share the partitions.

        start: Where an empty lake begins: "earliest", "latest", or a time as ISO-8601 text.

        isolation: What is read of transactions.

        group_protocol: "consumer" is KIP-848, "classic" the cooperative protocol before it; "auto" takes the first where
            the broker has it.

        topic_id: "off" for a broker that knows no topic ids; a topic that was made again is then not noticed (B20).

        queue_bytes: What librdkafka may fetch ahead.

        request_timeout_s: How long a question to the brokers waits.

        client_settings: Any setting of librdkafka; those that the protocol fixes are refused.
    """

    bootstrap: str
    topics: tuple[str, ...]
    group: str
    start: str = "earliest"
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    group_protocol: Literal["auto", "consumer", "classic"] = "auto"
    topic_id: Literal["on", "off"] = "on"
    queue_bytes: int = 16 << 20
    request_timeout_s: float = 10.0
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    _cluster: Cluster = attrs.field(init=False, repr=False)
    _consumer: Consumer | None = attrs.field(default=None, init=False)
    _owner: Owner | None = attrs.field(default=None, init=False, repr=False)
    _owned: dict[Partition, _Cursor | None] = attrs.field(factory=dict, init=False)  # None: paused
    _unplaced: dict[Partition, None] = attrs.field(factory=dict, init=False)  # their assignment failed
    _found: dict[Partition, Start | None] = attrs.field(
        factory=dict, init=False
    )  # the owner's answer, not yet followed
    _unsaid: dict[Partition, KafkaError] = attrs.field(factory=dict, init=False)  # notices that are not understood yet
    _unsent: dict[Partition, Hint] = attrs.field(factory=dict, init=False)
    _failure: BaseException | None = attrs.field(default=None, init=False)
    _protocol: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not self.group:
            raise ConfigError(
                f"kafka://{self.bootstrap}/{','.join(self.topics)} needs a consumer group: add ?group=NAME"
            )
        _start_time(self.start)
        classic = any(name in self.client_settings for name in _CLASSIC_ONLY)
        self._protocol = "classic" if self.group_protocol == "auto" and classic else self.group_protocol
        connection = {
            n: v
            for n, v in self._settings("classic").items()
            if n.split(".")[0] in ("bootstrap", "sasl", "security", "ssl", "client")
        }
        self._cluster = Cluster(
            settings=connection,
            isolation=self.isolation,
            topic_ids=self.topic_id == "on",
            timeout_s=self.request_timeout_s,
        )

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> KafkaSource:
        """Make the source of ``kafka://host:9092/trades?group=bronze``; a setting with a dot is librdkafka's."""
        found = uri.fields(cls, dotted="client_settings", plain=PLAIN)
        found["client_settings"] = {**credentials(uri), **found.get("client_settings", {})}
        return cls(**{"bootstrap": uri.host, "topics": topics_of(uri), "group": "", **found})

    # ---- the source's four verbs --------------------------------------------------------------------------

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        self._owner = owner
        self._raise_failure()
        if self._unplaced:
            self._place_again(owner)
        self._move_found()
        again = self._said_again()
        if again:
            return again
        events = self._events(self._consume(timeout_s))
        if not events:
            self._raise_failure()
        return events  # what was read is said first, a failure at the next poll

    def _said_again(self) -> list[Event]:
        """Ask again what an out-of-range notice means: the client says it once, and the first time nobody answered."""
        for partition, error in list(self._unsaid.items()):
            cursor = self._owned.get(partition)
            events = [] if cursor is None else self._out_of_range(partition, cursor, error)
            self._unsaid.pop(partition, None)
            if events:
                return events  # one at a time: what the next one raises must not lose these
        return []

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

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
                    self._failure = self._failure or failure
                begin = i + 1
        return [*events, *self._batches(messages[begin:])]

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            if partition not in self._owned:
                continue  # another member's by now
            place = TopicPartition(partition.stream, partition.number)
            if start is None:
                self._owned[partition] = None
                self._found.pop(partition, None)
                self._call(lambda: self._connected().pause([place]), "pause")  # noqa: B023 - called at once
            else:
                offset = self._resolved({partition: start})[partition]
                self._owned[partition] = _Cursor(start.assignment, offset, start.leader_epoch)
                self._seek(partition)
                self._call(lambda: self._connected().resume([place]), "resume")  # noqa: B023
                self._found.pop(partition, None)
            self._unsaid.pop(partition, None)

    def extents(self) -> Mapping[Partition, Extent]:
        return self._cluster.extents(self.topics)

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        self._unsent.update(hints)
        self._commit(hints, wait=False)

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # without a broker the client waits for minutes; the group finds out by itself that we are gone
            leaving = threading.Thread(target=self._leave, args=(consumer,), name="headrace-leave", daemon=True)
            leaving.start()
            leaving.join(self.request_timeout_s)
            if leaving.is_alive():
                self._owner = None  # a hand-over that comes after all has nobody to tell
                log_event(_log, logging.WARNING, "left without a word", group=self.group)
        self._owned.clear()

    def _leave(self, consumer: Consumer) -> None:
        with contextlib.suppress(KafkaException):  # what was not acknowledged is a hint less
            self._commit_with(consumer, dict(self._unsent), wait=True)
            consumer.close()  # hands over: calls _revoked

    # ---- reading ------------------------------------------------------------------------------------------

    def _consume(self, timeout_s: float) -> list[Message]:
        try:
            return self._connected().consume(CHUNK, timeout_s)
        except KafkaException as exc:
            if self._failure is not None:
                return []
            raise told(exc.args[0], f"read {', '.join(self.topics)}", SourceUnavailableError) from exc

    def _batches(self, messages: list[Message]) -> Iterator[Event]:
        for partition, run in _runs(messages, self.topics):
            cursor = self._owned.get(partition)
            if cursor is None:
                continue  # paused or another's: it is read again from where it is moved to
            fresh = run if _offset(run[0]) >= cursor.next else [m for m in run if _offset(m) >= cursor.next]
            if not fresh:
                continue  # of before a move
            for part in _by_leader(fresh):
                try:
                    batch = batch_of(part, partition, cursor.assignment, cursor.next)
                except DataError as error:
                    self._owned[partition] = None
                    yield Failed(partition, cursor.assignment, error)
                    break
                cursor.next, cursor.leader_epoch = batch.end, batch.leader_epoch
                yield batch

    def _said(self, message: Message, error: KafkaError) -> list[Event]:
        """Take what the client says instead of a record."""
        topic, number = message.topic(), message.partition()
        partition = Partition(topic, number) if topic is not None and number is not None else None
        cursor = self._owned.get(partition) if partition is not None else None
        if error.code() == KafkaError._PARTITION_EOF:
            if partition is None or cursor is None:
                return []
            end = message.offset() or 0
            if end > cursor.next:  # behind holes; under which leader they end is not known (B21)
                cursor.next, cursor.leader_epoch = end, None
            return [Reached(partition, cursor.assignment, cursor.next, at_end=True)]
        if error.code() == KafkaError._UNSUPPORTED_FEATURE and self._protocol == "auto":
            self._fall_back()
            return []
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE):
            if partition is None or cursor is None:
                return []
            self._unsaid[partition] = error
            events = self._out_of_range(partition, cursor, error)
            del self._unsaid[partition]
            return events
        passing = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)
        if error.retriable() or error.code() in passing or (error.code() in NO_TOPIC and topic in self._cluster.seen):
            return []  # the client goes on by itself
        raise told(error, f"read {topic or ', '.join(self.topics)}", SourceUnavailableError)

    def _out_of_range(self, partition: Partition, cursor: _Cursor, error: KafkaError) -> list[Event]:
        """The log does not have the next offset, or has another record there: say which (B14, B18, B21)."""
        low = self._cluster.offset(partition, EARLIEST)
        high = self._cluster.offset(partition, LATEST)
        if error.code() == KafkaError._LOG_TRUNCATION or cursor.next > high:
            failure = IdentityError(
                f"{partition}: the log ends at {high} and was cut back below {cursor.next}, up to which it was read"
                f" ({error.str()}); restore it, or begin a new epoch"
            )
            return [Failed(partition, cursor.assignment, failure)]
        if cursor.next < low:
            return [BelowLog(partition, cursor.assignment, cursor.next, low)]
        self._seek(partition)  # a broker that lagged behind
        return []

    # ---- the group ----------------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with _Kept(self):
            partitions = [Partition(tp.topic, tp.partition) for tp in places]
            try:
                starts = self._asked_for(consumer, places)
                resolved = self._resolved({p: s for p, s in starts.items() if s is not None})
            except BaseException:
                # they are ours, and nobody knows yet where to begin: held still, and asked for again at the next poll
                self._owned |= dict.fromkeys(partitions)
                self._unplaced |= dict.fromkeys(partitions)
                self._assign(consumer, partitions)
                raise
            for partition in partitions:
                start = starts.get(partition)
                found = None if start is None else _Cursor(start.assignment, resolved[partition], start.leader_epoch)
                self._owned[partition] = found
            self._assign(consumer, partitions)

    def _asked_for(self, consumer: Consumer, places: list[TopicPartition]) -> Mapping[Partition, Start | None]:
        assert self._owner is not None, "callbacks run inside poll"  # noqa: S101 - our own state
        return self._owner.assigned(self._hints(consumer, places) if places else {})

    def _place_again(self, owner: Owner) -> None:
        """Ask again where to begin, after an assignment that failed."""
        places = [TopicPartition(p.stream, p.number) for p in self._unplaced]
        self._found |= owner.assigned(self._hints(self._connected(), places))
        self._unplaced.clear()
        self._move_found()

    def _move_found(self) -> None:
        """Place what the owner has answered; what fails is placed at the next poll."""
        for partition in list(self._found):
            start = self._found[partition]
            if start is not None:
                self.move({partition: start})
            self._found.pop(partition, None)

    def _assign(self, consumer: Consumer, partitions: list[Partition]) -> None:
        """Fetch from explicit offsets, whatever the group has committed (B16)."""
        wanted = []
        for p in partitions:
            cursor = self._owned[p]
            wanted.append(_place(p, 0, None) if cursor is None else _place(p, cursor.next, cursor.leader_epoch))
        consumer.incremental_assign(wanted)
        paused = [TopicPartition(p.stream, p.number) for p in partitions if self._owned[p] is None]
        if paused:
            consumer.pause(paused)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with _Kept(self):
            partitions = [Partition(tp.topic, tp.partition) for tp in places]
            if self._owner is not None:
                self._owner.release(partitions)
            self._commit_with(consumer, {p: h for p, h in self._unsent.items() if p in partitions}, wait=True)
            self._drop(consumer, places)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with _Kept(self):
            if self._owner is not None:
                self._owner.lost([Partition(tp.topic, tp.partition) for tp in places])
            self._drop(consumer, places)

    def _drop(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for tp in places:
            self._owned.pop(Partition(tp.topic, tp.partition), None)
            for known in (self._unplaced, self._found, self._unsaid):
                known.pop(Partition(tp.topic, tp.partition), None)
            self._unsent.pop(Partition(tp.topic, tp.partition), None)
        consumer.incremental_unassign(places)

    def _hints(self, consumer: Consumer, places: list[TopicPartition]) -> dict[Partition, Hint | None]:
        found = asked(
            lambda: consumer.committed(places, timeout=self.request_timeout_s),
            f"ask for the offsets of group {self.group}",
            SourceUnavailableError,
        )
        return {Partition(tp.topic, tp.partition): _hint(tp) for tp in found}

    def _commit(self, hints: Mapping[Partition, Hint], *, wait: bool) -> None:
        if self._consumer is not None:
            self._commit_with(self._consumer, hints, wait=wait)

    def _commit_with(self, consumer: Consumer, hints: Mapping[Partition, Hint], *, wait: bool) -> None:
        """Commit to the group; what is lost here costs the next look-up some requests, and no record."""
        offsets = [TopicPartition(p.stream, p.number, h.offset, _metadata(h)) for p, h in hints.items()]
        if not offsets:
            return
        try:
            if not wait:
                consumer.commit(offsets=offsets, asynchronous=True)
            else:
                consumer.commit(offsets=offsets, asynchronous=False)
                for partition in list(hints):
                    self._unsent.pop(partition, None)
        except KafkaException:
            pass

    # ---- connection ---------------------------------------------------------------------------------------

    def _connected(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._subscribed("classic" if self._protocol == "classic" else "consumer")
        return self._consumer

    def _subscribed(self, protocol: str) -> Consumer:
        consumer = made(Consumer, self._settings(protocol))
        self._cluster.identities(self.topics)  # who is not there is found here, with a bound and a name
        consumer.subscribe(list(self.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        return consumer

    def _fall_back(self) -> None:
        """The broker does not have KIP-848."""
        self._protocol = "classic"
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._consumer = self._subscribed("classic")

    def _settings(self, protocol: str) -> dict[str, object]:
        fixed: dict[str, object] = {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "group.protocol": protocol,
            "enable.auto.commit": False,  # only what is stored is acknowledged (B27)
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # never begins anywhere but where it was told to (B16)
            "enable.partition.eof": True,
            "isolation.level": self.isolation,
        }
        if protocol == "classic":
            fixed["partition.assignment.strategy"] = "cooperative-sticky"
        defaults = {
            "client.id": "headrace",
            # a full queue stops a partition for this long; the default of 1,000 ms makes everything 4 times slower
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": max(1, self.queue_bytes >> 10),
            "reconnect.backoff.max.ms": 5000,
        }
        return merged(fixed, defaults, self.client_settings)

    def _seek(self, partition: Partition) -> None:
        cursor = self._owned[partition]
        assert cursor is not None, "only what is fetched is moved"  # noqa: S101 - our own state
        place = _place(partition, cursor.next, cursor.leader_epoch)
        consumer = self._connected()
        try:
            consumer.seek(place)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError._STATE:
                raise told(exc.args[0], f"seek {partition} to {cursor.next}", SourceUnavailableError) from exc
            # assigned, and not fetched yet: seek() knows only what is fetched
            self._call(lambda: consumer.incremental_unassign([place]), "unassign")
            self._call(lambda: consumer.incremental_assign([place]), "assign")

    def _call(self, call: Callable[[], object], what: str) -> None:
        asked(call, f"{what} at {self.bootstrap}", SourceUnavailableError)

    def _resolved(self, starts: Mapping[Partition, Start]) -> dict[Partition, int]:
        """Turn starts into explicit offsets: the start policy holds where nothing is stored (B16, B22)."""
        found = {p: s.offset for p, s in starts.items() if s.offset is not None}
        if self.start != "earliest":
            found |= {p: s.begun for p, s in starts.items() if s.offset is None and s.begun is not None}
        open_ = [p for p in starts if p not in found]
        if open_:
            time_ms = _start_time(self.start)
            named = LATEST if self.start == "latest" else EARLIEST
            spec = named if time_ms is None else at_time(time_ms)
            offsets = self._cluster.offsets(open_, spec)
            if offsets.keys() < set(open_):
                away = ", ".join(str(p) for p in open_ if p not in offsets)
                raise SourceUnavailableError(f"where to begin with {away} is not known: their leader is away")
            ends = {p: self._cluster.offset(p, LATEST) for p in open_ if offsets[p] < 0}  # none so late
            found |= {p: ends.get(p, offsets[p]) for p in open_}
        return found


class _Kept:
    """Keeps what a callback raises, for poll to raise: librdkafka would print it and go on."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, KafkaException):
            self._source._failure = told(error.args[0], "take over partitions", SourceUnavailableError)
        elif error is not None:
            self._source._failure = error
        return error is not None


def _runs(messages: list[Message], topics: tuple[str, ...]) -> Iterator[tuple[Partition, list[Message]]]:
    """Split what one call returned into runs of one partition; mostly it is one."""
    if not messages:
        return
    numbers = list(map(Message.partition, messages))
    if len(topics) == 1 and numbers.count(numbers[0]) == len(numbers):
        yield Partition(topics[0], numbers[0] or 0), messages
        return
    i = 0
    for (topic, number), group in itertools.groupby(zip(map(Message.topic, messages), numbers, strict=True)):
        count = sum(1 for _ in group)
        yield Partition(topic or "", number or 0), messages[i : i + count]
        i += count


def _by_leader(run: list[Message]) -> Iterator[list[Message]]:
    """Split a run where another leader took over; epochs only rise, so its ends say whether one did."""
    if run[0].leader_epoch() == run[-1].leader_epoch():
        yield run
        return
    for _, group in itertools.groupby(run, lambda m: m.leader_epoch()):
        yield list(group)


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "a record has an offset"  # noqa: S101 - librdkafka's promise
    return offset


def _place(partition: Partition, offset: int, leader_epoch: int | None) -> TopicPartition:
    if leader_epoch is None:
        return TopicPartition(partition.stream, partition.number, offset)
    return TopicPartition(partition.stream, partition.number, offset, leader_epoch=leader_epoch)  # KIP-320 (B21)


def _metadata(hint: Hint) -> str:
    """Write what stands beside the committed offset (B12)."""
    return msgspec.json.encode({"dataset": hint.dataset_id, "segment": hint.segment}).decode()


class _Metadata(msgspec.Struct):
    dataset: str | None = None
    segment: tuple[int, int] | None = None


def _hint(place: TopicPartition) -> Hint | None:
    """Read the committed offset and its metadata; anybody's metadata but ours is none (B12)."""
    if place.offset < 0:
        return None
    try:
        found = msgspec.json.decode(place.metadata or "{}", type=_Metadata)
    except msgspec.MsgspecError:
        found = _Metadata()
    return Hint(place.offset, found.segment, found.dataset)


def _start_time(start: str) -> int | None:
    """Milliseconds of a start that is a time; None for the two that are names."""
    if start in ("earliest", "latest"):
        return None
    try:
        when = datetime.fromisoformat(start)
    except ValueError as exc:
        raise ConfigError(
            f"found start={start}, expected earliest, latest or a time such as 2026-01-31T09:30:00Z"
        ) from exc
    if when.tzinfo is None:
        raise ConfigError(f"found start={start}, expected a time with its zone, such as {start}Z")
    return int(when.timestamp() * 1000)

"""Examines topics and groups: what the brokers say of them, and how long they will keep what is not read yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource  # type: ignore[attr-defined]  # the client's stubs

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.finding import Finding
from headrace.plugins.kafka.client import NO_TOPIC, asked, connection, made, told
from headrace.records import Extent, Partition
from headrace.retry import Retry
from headrace.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from headrace.plugins.kafka.sink import KafkaSink
    from headrace.plugins.kafka.source import KafkaSource

T = TypeVar("T")

_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_REFUSED = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED}

_SOON = 0.2
"""A record with less than this part of its retention left is as good as gone, or an hour."""

_LISTED = 5
"""So many partitions are named, then they are counted."""

_NO_GROUP = "it is not there yet: the first member makes it"


class _Denied(Exception):  # noqa: N818 - what happened
    """The brokers may not be asked that."""


@attrs.frozen
class _Topic:
    """What the brokers say of a topic."""

    name: str
    partitions: Mapping[int, Any]
    config: Mapping[str, str]  # empty where it may not be asked for

    @property
    def replication(self) -> int:
        return min((len(p.replicas) for p in self.partitions.values()), default=0)

    def number(self, name: str, otherwise: int) -> int:
        return int(self.config.get(name, otherwise))


@attrs.define(eq=False)
class _Brokers:
    """Questions to the brokers; each waits for a bounded time."""

    admin: AdminClient
    place: str
    timeout_s: float
    heard: list[KafkaError]  # what the client says while it tries to connect

    @classmethod
    def connect(cls, settings: Mapping[str, object], timeout_s: float) -> _Brokers:
        heard: list[KafkaError] = []
        admin = made(AdminClient, {**settings, "error_cb": heard.append})
        return cls(admin, f"kafka://{settings['bootstrap.servers']}", timeout_s, heard)

    def of(self, what: str, answer: Future[T]) -> T:
        """Wait for an answer; _Denied where we may not ask."""
        try:
            return answer.result(self.timeout_s + 1)
        except TimeoutError as exc:
            raise SourceUnavailableError(f"{what} at {self.place}: no answer") from exc
        except KafkaException as exc:
            if exc.args[0].code() in _DENIED:
                raise _Denied(f"{what}: {exc.args[0].str()}") from exc
            raise told(exc.args[0], f"{what} at {self.place}", SourceUnavailableError) from exc

    def cluster(self) -> Finding:
        """Who answers."""
        what = f"ask for the brokers at {self.place}"
        try:
            found = asked(lambda: self.admin.list_topics(timeout=self.timeout_s), what, SourceUnavailableError)
        except SourceUnavailableError:
            self.admin.poll(0.2)  # a refused password looks like a broken connection, and only here it is told
            refused = next((error for error in self.heard if error.code() in _REFUSED), None)
            if refused is None:
                raise
            raise ConfigError(f"{what}: {refused.name()}: {refused.str()}") from None
        return Finding("brokers", "fine", f"{len(found.brokers)} of cluster {found.cluster_id} answer")

    def topic(self, name: str) -> tuple[_Topic | None, list[Finding]]:
        """What a topic is, and what is wrong with it; None where it is not there."""
        subject, what = f"topic {name}", f"ask for topic {name!r} at {self.place}"
        found = asked(lambda: self.admin.list_topics(name, timeout=self.timeout_s), what, SourceUnavailableError)
        about = found.topics[name]
        if about.error is not None and about.error.code() in NO_TOPIC:
            return None, [Finding(subject, "wrong", "it is not there", "make it, or mend the name")]
        if about.error is not None and about.error.code() in _DENIED:
            return None, [Finding(subject, "wrong", about.error.str(), "allow this user to describe and to use it")]
        if about.error is not None:
            raise told(about.error, what, SourceUnavailableError)
        try:
            config, findings = self._config(name), []
        except _Denied as exc:
            config, findings = {}, [Finding(subject, "unknown", str(exc), "allow DescribeConfigs on it")]
        topic = _Topic(name, about.partitions, config)
        return topic, [*findings, *_replicas(topic, len(found.brokers))]

    def _config(self, name: str) -> dict[str, str]:
        wanted = ConfigResource(ConfigResource.Type.TOPIC, name)
        answer = self.admin.describe_configs([wanted], request_timeout=self.timeout_s)[wanted]
        entries = self.of(f"ask for the settings of topic {name!r}", answer)
        return {entry.name: entry.value for entry in entries.values()}

    def rights(self, name: str, needed: AclOperation) -> tuple[Finding, str]:
        """Whether we may do to a topic what we must; and its id."""
        subject, names = f"topic {name}", TopicCollection([name])
        answer = self.admin.describe_topics(names, include_authorized_operations=True, request_timeout=self.timeout_s)[
            name
        ]
        try:
            about = self.of(f"ask what may be done to topic {name!r}", answer)
        except _Denied as exc:
            return Finding(subject, "wrong", str(exc), "allow Describe on it"), ""
        return _allowed(subject, about.authorized_operations, needed), str(about.topic_id)

    @staticmethod
    def topic_id(name: str, found: str) -> Finding:
        """Whether a topic that is made again would be noticed (B20)."""
        subject = f"topic {name}"
        if found in ("None", "AAAAAAAAAAAAAAAAAAAAAA"):
            return Finding(
                subject, "wrong", "it has no id", "Kafka before 2.8: set topic_id=off, and never make it again"
            )
        return Finding(subject, "fine", f"its id is {found}")


def _allowed(subject: str, allowed: list[AclOperation] | None, needed: AclOperation) -> Finding:
    """Whether a right is among those that we have."""
    if allowed is None:
        return Finding(
            subject, "unknown", "the brokers do not say what this user may do", "try it: a short run shows it"
        )
    if needed in allowed:
        return Finding(subject, "fine", f"this user may {needed.name.lower()}")
    names = ", ".join(sorted(operation.name.lower() for operation in allowed)) or "nothing"
    text = f"this user may {names}, and not {needed.name.lower()}"
    return Finding(subject, "wrong", text, f"allow {needed.name.title()} on it")


def _replicas(topic: _Topic, brokers: int) -> Iterator[Finding]:
    """Partitions, leaders, replicas."""
    subject, parts = f"topic {topic.name}", topic.partitions
    headless = [n for n, p in parts.items() if p.leader < 0]
    behind = [n for n, p in parts.items() if p.leader >= 0 and len(p.isrs) < len(p.replicas)]
    if headless:
        yield Finding(subject, "wrong", f"no leader: partitions {_some(headless)}", "start the brokers that have them")
    if behind:
        text = f"fewer replicas in sync than there are: partitions {_some(behind)}"
        yield Finding(subject, "wrong", text, "see why their brokers lag or are away")
    if topic.replication == 1 and brokers >= 3:
        text = f"{len(parts)} partitions on one broker each, of {brokers}"
        yield Finding(subject, "wrong", text, "a broker that is lost takes records with it: use 3 replicas")
    elif not headless and not behind:
        yield Finding(subject, "fine", f"{len(parts)} partitions, {topic.replication} replicas each, all in sync")


# ---- a source -----------------------------------------------------------------------------------------------------


def check_source(source: KafkaSource, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Examine what a source would read, and its group; nobody joins it, and nothing is committed."""
    cluster = source._cluster
    brokers = _Brokers.connect(cluster.settings, source.request_timeout_s)
    yield brokers.cluster()
    topics: dict[str, _Topic] = {}
    for name in source.topics:
        topic, findings = brokers.topic(name)
        yield from findings
        if topic is not None:
            topics[name] = topic
            if not cluster.topic_ids:  # nor anything else that only a newer broker says
                yield _no_ids(name)
                continue
            allowed, found = brokers.rights(name, AclOperation.READ)
            yield allowed
            if found:
                yield brokers.topic_id(name, found)
    if not topics:
        return
    extents = cluster.extents(tuple(topics))
    yield from _ends(source.isolation, extents)
    try:
        again = Retry(source.request_timeout_s)  # a coordinator that was just elected is loading
        yield from again(lambda: _group(brokers, source.group))
        committed = again(lambda: _committed(brokers, source.group, list(extents)))
    except _Denied as exc:
        yield Finding(f"group {source.group}", "wrong", str(exc), "allow this user to read and describe the group")
        return
    yield from _lag(source, topics, extents, committed, clock)


def _no_ids(name: str) -> Finding:
    text = "topic_id=off: a topic that is made again is not noticed"
    return Finding(f"topic {name}", "fine", text, "take it out where the broker knows ids (Kafka 2.8)")


def _ends(isolation: str, extents: Mapping[Partition, Extent]) -> Iterator[Finding]:
    held = sum(e.end - e.low for e in extents.values())
    text = f"{held} offsets in {len(extents)} partitions can be read ({isolation})"
    waiting = {p: e.high - e.end for p, e in extents.items() if e.high > e.end}
    if waiting:
        text += f"; {sum(waiting.values())} more stand behind transactions that have not ended"
    yield Finding("log", "fine", text)


def _group(brokers: _Brokers, group: str) -> list[Finding]:
    subject = f"group {group}"
    answer = brokers.admin.describe_consumer_groups(
        [group], include_authorized_operations=True, request_timeout=brokers.timeout_s
    )[group]
    try:
        found = answer.result(brokers.timeout_s + 1)
    except KafkaException as exc:
        if exc.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return [Finding(subject, "fine", _NO_GROUP)]
        brokers.of(f"ask for group {group!r}", answer)
        raise
    state, members = found.state.name, found.members
    if state == "DEAD":
        return [Finding(subject, "fine", _NO_GROUP)]
    text = f"{state.lower().replace('_', ' ')}, {len(members)} members"
    hosts = sorted({f"{m.client_id} at {m.host.lstrip('/')}" for m in members})
    state_of_it = Finding(subject, "fine", text + (f": {_some(hosts)}" if hosts else ""))
    return [state_of_it, _allowed(subject, found.authorized_operations, AclOperation.READ)]


def _committed(brokers: _Brokers, group: str, partitions: list[Partition]) -> dict[Partition, int]:
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(p.stream, p.number) for p in partitions])
    answer = brokers.admin.list_consumer_group_offsets([wanted], request_timeout=brokers.timeout_s)[group]
    try:
        found = brokers.of(f"ask for the offsets of group {group!r}", answer)
    except SourceUnavailableError as exc:
        cause = exc.__cause__
        if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}
        raise
    return {Partition(tp.topic, tp.partition): tp.offset for tp in found.topic_partitions or () if tp.offset >= 0}


def _lag(
    source: KafkaSource,
    topics: Mapping[str, _Topic],
    extents: Mapping[Partition, Extent],
    committed: Mapping[Partition, int],
    clock: Callable[[], float],
) -> Iterator[Finding]:
    """How far the group is; what retention has taken, and what it takes next."""
    subject = f"lag of {source.group}"
    if not committed:
        held = sum(e.end - e.low for e in extents.values())
        yield Finding(
            subject, "fine", f"nothing was committed yet: it begins with start={source.start}, of {held} offsets"
        )
        return
    lags = {p: extents[p].end - offset for p, offset in committed.items() if p in extents}
    below = {p: offset for p, offset in committed.items() if p in extents and offset < extents[p].low}
    above = {p: offset for p, offset in committed.items() if p in extents and offset > extents[p].high}
    yield Finding(subject, "fine", f"{sum(max(0, lag) for lag in lags.values())} offsets in {len(lags)} partitions")
    if below:
        which = _some([f"{p} at {o}, the log begins at {extents[p].low}" for p, o in below.items()])
        advice = "the lake's own position decides; if it is the same, they are lost: --on-gap note"
        yield Finding(subject, "wrong", f"retention took what was not read: {which}", advice)
    if above:
        which = _some([f"{p} at {o}, the log ends at {extents[p].high}" for p, o in above.items()])
        advice = "the topic was made again or cut back: a new epoch, or restore the log"
        yield Finding(subject, "wrong", f"beyond the log's end: {which}", advice)
    unread = {p: o for p, o in committed.items() if p in extents and extents[p].low <= o < extents[p].end}
    yield from _retention(source, topics, unread, clock)


def _retention(
    source: KafkaSource, topics: Mapping[str, _Topic], unread: Mapping[Partition, int], clock: Callable[[], float]
) -> Iterator[Finding]:
    """How long the oldest record that is not read has yet, by the topic's retention by time."""
    limited = {
        n: t.number("retention.ms", -1) / 1000
        for n, t in topics.items()
        if "delete" in t.config.get("cleanup.policy", "")
    }
    wanted = {p: offset for p, offset in unread.items() if limited.get(p.stream, -1) >= 0}
    if not wanted:
        return
    times_s = _times_s(source, wanted)
    now_s = clock()
    for name in sorted({p.stream for p in wanted}):
        subject, keeps_s = f"retention of {name}", limited[name]
        ages = {p: now_s - time_s for p, time_s in times_s.items() if p.stream == name}
        if not ages:
            yield Finding(
                subject, "unknown", "the oldest record that is not read could not be read in time", "try again"
            )
            continue
        oldest = max(ages, key=lambda p: ages[p])
        text = (
            f"the oldest record that is not read is {format_seconds(ages[oldest])} old ({oldest}),"
            f" kept are {format_seconds(keeps_s)}"
        )
        if (most := topics[name].number("retention.bytes", -1)) >= 0:
            text += f", and {format_bytes(most)} a partition, which may be sooner"
        if ages[oldest] > keeps_s - max(_SOON * keeps_s, min(3600.0, keeps_s / 2)):
            yield Finding(
                subject, "wrong", text, "it is about to be lost: read faster, or set retention.ms higher, now"
            )
        else:
            yield Finding(subject, "fine", text)


def _times_s(source: KafkaSource, wanted: Mapping[Partition, int]) -> dict[Partition, float]:
    """Read the first record at each offset, and take its time; without joining the group."""
    settings = {
        **connection(source._settings("classic")),
        "group.id": source.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": source.isolation,
        "max.partition.fetch.bytes": 1 << 16,  # one record is wanted of each
    }
    consumer = made(Consumer, settings)
    found: dict[Partition, float] = {}
    try:
        consumer.assign([TopicPartition(p.stream, p.number, offset) for p, offset in wanted.items()])
        deadline = time.monotonic() + source.request_timeout_s
        while len(found) < len(wanted) and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    partition = Partition(str(message.topic()), message.partition() or 0)
                    found.setdefault(partition, message.timestamp()[1] / 1000)
    finally:
        consumer.close()
    return found


# ---- a sink -------------------------------------------------------------------------------------------------------


def check_sink(sink: KafkaSink) -> Iterator[Finding]:
    """Examine where a sink would publish; nothing is made."""
    topics = sink._topics
    brokers = _Brokers.connect(topics.settings, sink.request_timeout_s)
    yield brokers.cluster()
    if sink.topic_of("") != sink.topic:
        yield Finding("topics", "fine", f"{sink.topic}: one for each stream, of which the source has the names")
        return
    topic, findings = brokers.topic(sink.topic)
    if topic is None and sink.create_partitions:
        findings = [Finding(f"topic {sink.topic}", "fine", f"it will be made with {sink.create_partitions} partitions")]
    yield from findings
    if topic is None:
        return
    yield brokers.rights(sink.topic, AclOperation.WRITE)[0]
    yield _acks(topic)
    yield _forgets(topic)


def _acks(topic: _Topic) -> Finding:
    """What an acknowledgement is worth."""
    subject, least = f"durability of {topic.name}", topic.number("min.insync.replicas", 1)
    in_sync = min((len(p.isrs) for p in topic.partitions.values()), default=0)
    text = f"min.insync.replicas={least} of {topic.replication} replicas, {in_sync} in sync"
    if least > in_sync:
        return Finding(subject, "wrong", text, "every write is refused until more replicas are in sync")
    if least == 1 and topic.replication > 1:
        return Finding(
            subject, "wrong", text, "a record is acknowledged by one broker alone: set min.insync.replicas=2"
        )
    return Finding(subject, "fine", text)


def _forgets(topic: _Topic) -> Finding:
    """Retention goes by the records' own times, which a replay keeps."""
    subject, policy = f"retention of {topic.name}", topic.config.get("cleanup.policy", "")
    keeps_ms = topic.number("retention.ms", -1)
    if "delete" in policy and keeps_ms >= 0:
        text = f"records whose own time is more than {format_seconds(keeps_ms / 1000)} ago are deleted, however new they are here"
        return Finding(subject, "fine", text, "where old records are published, set retention.ms=-1")
    return Finding(
        subject, "fine", f"cleanup.policy={policy}, no retention by time" if policy else "it may not be asked for"
    )


def _some(things: list[Any]) -> str:
    more = f" and {len(things) - _LISTED} more" if len(things) > _LISTED else ""
    return ", ".join(map(str, things[:_LISTED])) + more

"""Reads topics as a member of a consumer group, from the positions that the pipeline gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from confluent_kafka import KafkaException, Message

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.finding import Finding
from headrace.plugins.kafka.client import PLAIN, connection, credentials, from_file, told, topics_of
from headrace.plugins.kafka.cluster import Cluster
from headrace.plugins.kafka.doctor import check_source
from headrace.plugins.kafka.group import Member
from headrace.plugins.kafka.places import Places, Unexplained
from headrace.plugins.kafka.reading import Reading
from headrace.plugins.kafka.reread import reread
from headrace.plugins.kafka.settings import classic_only, consumer_settings
from headrace.plugins.kafka.starts import start_time_ms
from headrace.records import Batch, Event, Extent, Hint, Identity, Partition, Start
from headrace.source import Owner, Source

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

CHUNK = 1000
"""Messages a call: 10,000 fall out of the CPU's cache and cost up to twice as much each."""


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

        settings_file: Settings of librdkafka that no list of processes shall show, such as ``sasl.password=…``: one a line, as it
            is. What is said beside it wins.

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
    settings_file: str = ""
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    clock: Callable[[], float] = time.monotonic
    _cluster: Cluster = attrs.field(init=False, repr=False)
    _member: Member = attrs.field(init=False, repr=False)
    _places: Places = attrs.field(init=False, repr=False)
    _reading: Reading = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.client_settings = {**from_file(self.settings_file), **self.client_settings}
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
        self._reading = Reading(topics=self.topics, member=self._member, places=self._places, cluster=self._cluster)

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
        events = self._catch_up(owner) or self._reading.said_late()
        if not events:
            events = self._reading.events(self._consume(timeout_s))
        if not events:
            self._member.raise_failure()
        return events  # what was read is said first, a failure at the next poll

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        self._reading.forget(starts)
        self._places.move(starts)

    def extents(self) -> Mapping[Partition, Extent]:
        return self._cluster.extents(self.topics)

    def identities(self) -> Mapping[str, Identity]:
        return self._cluster.identities(self.topics)

    def ends(self) -> Mapping[Partition, int]:
        return self._member.ends()

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        self._member.acknowledge(hints)
        self._reading.stored(hints)

    def reread(self, partition: Partition, start: int, end: int, *, aborted: bool = False) -> Iterator[Batch]:
        settings = connection(self._settings("classic"))
        return reread(settings, partition, start, end, aborted=aborted, timeout_s=self.request_timeout_s)

    def check(self) -> Iterator[Finding]:
        return check_source(self)

    def close(self) -> None:
        self._member.leave()
        self._places.clear()

    # ---- what a poll does --------------------------------------------------------------------------------

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
                events = self._reading.explained(partition, what.error)
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

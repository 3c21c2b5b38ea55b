"""What the brokers say of topics, asked now: ids, partitions, offsets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import attrs
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.plugins.kafka.client import NO_TOPIC, asked, log_error, made, told
from headrace.records import Extent, Identity, Partition

T = TypeVar("T")

EARLIEST, LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the client's stubs


def at_time(time_ms: int) -> OffsetSpec:
    """The first offset at or after a time, in milliseconds since the epoch; -1 where there is none."""
    return OffsetSpec.for_timestamp(time_ms)  # type: ignore[no-any-return]  # the client's stubs


@attrs.define(kw_only=True, eq=False)
class Cluster:
    """
    Questions to the brokers. Safe from any thread.

    Attributes:
        settings: librdkafka's, for an admin client.

        isolation: Decides where a reader's view ends.

        topic_ids: False: the topics' ids are not asked for, as some brokers know none (B20).

        timeout_s: How long each question waits.
    """

    settings: Mapping[str, object] = attrs.field(repr=False)
    isolation: str
    topic_ids: bool
    timeout_s: float
    seen: set[str] = attrs.field(factory=set, init=False)
    """Topics that were there: one that is gone since may come back, one that never was is a mistake."""
    _admin: AdminClient | None = attrs.field(default=None, init=False)
    _refused: KafkaError | None = attrs.field(default=None, init=False)  # what an answer that never comes does not say

    def extents(self, topics: tuple[str, ...]) -> dict[Partition, Extent]:
        """Ask what the log holds, for every partition of the topics; those without a leader are left out."""
        identities = self.identities(topics)
        partitions = [Partition(t, n) for t, identity in identities.items() for n in range(identity.partitions)]
        low = self.offsets(partitions, EARLIEST)
        high = self.offsets(partitions, LATEST)
        end = high
        if self.isolation == "read_committed":
            end = self.offsets(partitions, LATEST, IsolationLevel.READ_COMMITTED)  # the last stable offset (B19)
        there = low.keys() & high.keys() & end.keys()
        return {p: Extent(low[p], end[p], high[p], identities[p.stream]) for p in partitions if p in there}

    def identities(self, topics: tuple[str, ...]) -> dict[str, Identity]:
        """
        Ask for cluster, topic ids and numbers of partitions (B7, B20).

        Raises:
            ConfigError: A topic is not there, and never was. One that was there is left out, as long as another one is.
            SourceUnavailableError: The brokers did not answer.
        """
        counts, cluster, gone = {}, "", ""
        for topic in topics:
            what = f"ask for topic {topic!r} at {self._place}"
            ask = partial(self._client().list_topics, topic, timeout=self.timeout_s)
            found = self._asked_first(ask, what)
            about = found.topics[topic]
            if about.error is not None and about.error.code() in NO_TOPIC and topic in self.seen:
                gone = f"{what}: it is not there any more, or not known for now ({about.error.str()})"
                continue
            if about.error is not None:
                raise told(about.error, what, SourceUnavailableError)
            counts[topic], cluster = len(about.partitions), found.cluster_id or ""
        if not counts:
            raise SourceUnavailableError(gone)
        ids = self.ids(tuple(counts)) if self.topic_ids else dict.fromkeys(counts)
        self.seen |= counts.keys()
        return {t: Identity(cluster, ids[t], self.isolation, count) for t, count in counts.items() if t in ids}

    def offsets(
        self, partitions: list[Partition], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[Partition, int]:
        """Ask for one offset of each partition; those whose leader is away are left out, as long as another one answers."""
        asked_for = {TopicPartition(p.stream, p.number): spec for p in partitions}
        what = f"ask for offsets at {self._place}"

        def ask() -> dict[Partition, int]:
            answers = self._client().list_offsets(asked_for, isolation_level=isolation, request_timeout=self.timeout_s)
            found, failed = {}, []
            for tp, answer in answers.items():
                try:
                    found[Partition(tp.topic, tp.partition)] = answer.result().offset
                except KafkaException as exc:
                    failed.append(exc)
            refused = [exc for exc in failed if _is_refusal(exc.args[0])]
            if refused:
                raise refused[0]
            if failed and not found:  # of topics that were there a moment ago
                raise SourceUnavailableError(f"{what}: {failed[0].args[0].str()}") from failed[0]
            return found

        return asked(ask, what, SourceUnavailableError) if partitions else {}

    def offset(self, partition: Partition, spec: OffsetSpec) -> int:
        """Ask for one offset of one partition."""
        return self.offsets([partition], spec)[partition]

    def ids(self, topics: tuple[str, ...]) -> dict[str, str | None]:
        """
        Ask for the topics' ids, all in one request; one that was there and is gone is left out.

        Raises:
            SourceUnavailableError: The brokers did not answer: a time-out is never taken for "it has none" (B20).
            ConfigError: They know no topic ids.
        """

        def ask() -> dict[str, str | None]:
            answers = self._client().describe_topics(TopicCollection(list(topics)), request_timeout=self.timeout_s)
            return {name: str(answer.result().topic_id) for name, answer in answers.items() if not self._gone(answer)}

        what = (
            f"ask for the ids of {', '.join(topics)} at {self._place} (a broker that knows no topic ids, such as"
            " librdkafka's own, needs topic_id=off by name)"
        )
        found = asked(ask, what, SourceUnavailableError)
        unknown = [name for name, topic_id in found.items() if topic_id in (None, "None", "AAAAAAAAAAAAAAAAAAAAAA")]
        if unknown:
            raise ConfigError(
                f"{self._place} gives {', '.join(unknown)} no topic id (Kafka before 2.8): set topic_id=off"
            )
        return found

    def _gone(self, answer: Future[Any]) -> bool:
        """Whether a topic that was there is not there any more."""
        error = answer.exception()
        return isinstance(error, KafkaException) and error.args[0].code() in NO_TOPIC and bool(self.seen)

    def _asked_first(self, ask: Callable[[], T], what: str) -> T:
        """Ask what is asked before anything else: credentials that are wrong would look like brokers that are away."""
        try:
            return asked(ask, what, SourceUnavailableError)
        except SourceUnavailableError as exc:
            self._client().poll(0)
            if self._refused is None or self.seen:  # a broker that starts may refuse what it took before
                raise
            raise told(self._refused, what, SourceUnavailableError) from exc

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = made(AdminClient, self.settings, self._on_error)
        return self._admin

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self._refused = error
        log_error(error)

    @property
    def _place(self) -> str:
        return f"kafka://{self.settings['bootstrap.servers']}"


def _is_refusal(error: KafkaError) -> bool:
    """Whether asking again would not help, and it is not that somebody does not know a topic, which passes."""
    return error.code() not in NO_TOPIC and isinstance(told(error, "", SourceUnavailableError), ConfigError)

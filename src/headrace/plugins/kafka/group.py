"""One member of a consumer group: its client, what the group gives and takes, and what is acknowledged to it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping

import attrs
from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace.errors import SourceUnavailableError
from headrace.logs import event as log_event
from headrace.plugins.kafka.client import asked, made, told
from headrace.plugins.kafka.cluster import Cluster
from headrace.plugins.kafka.hints import hint_of, metadata
from headrace.plugins.kafka.places import Places
from headrace.records import Hint, Partition
from headrace.source import Owner

_log = logging.getLogger("headrace.kafka.source")


@attrs.define(kw_only=True, eq=False)
class Member:
    """
    A member of a group, from its first `consumer` to `leave`.

    Attributes:
        group: The group's name.

        topics: What it subscribes to.

        protocol: "auto", "consumer" or "classic".

        settings: Returns the client's settings for one of the two protocols.

        cluster: Finds topics that are not there.

        timeout_s: How long a question waits, and the leaving.

        owner: Who is told what the group takes; known from the first poll on.

        asked_nothing: The group gave no partition, and the owner has not been told so yet.
    """

    group: str
    topics: tuple[str, ...]
    protocol: str
    settings: Callable[[str], Mapping[str, object]]
    cluster: Cluster
    timeout_s: float
    places: Places = attrs.field(init=False)
    owner: Owner | None = None
    asked_nothing: bool = False
    _consumer: Consumer | None = attrs.field(default=None, init=False)
    _unsent: dict[Partition, Hint] = attrs.field(factory=dict, init=False)
    _failure: BaseException | None = attrs.field(default=None, init=False)

    @property
    def consumer(self) -> Consumer:
        """The client, which joins the group at first use."""
        if self._consumer is None:
            self._consumer = self._subscribed("classic" if self.protocol == "classic" else "consumer")
        return self._consumer

    @property
    def joined(self) -> Consumer | None:
        """The client, where there is one."""
        return self._consumer

    def fall_back(self) -> None:
        """Join by the protocol before KIP-848: the broker does not have that one."""
        self.protocol = "classic"
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def rejoin(self) -> None:
        """Lose all that was given, and join anew at the next `consumer`: the client cannot go on."""
        known = self.places.take(list(self.places))
        if self.owner is not None and known:
            self.owner.lost(known)
        self.leave()

    def leave(self) -> None:
        """Hand over and leave, in `timeout_s` at most. A static member stays in the group until its session ends."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        # without a broker the client waits for minutes; the group finds out by itself that we are gone
        leaving = threading.Thread(target=self._leave, args=(consumer,), name="headrace-leave", daemon=True)
        leaving.start()
        leaving.join(self.timeout_s)
        if leaving.is_alive():
            self.owner = None  # a hand-over that comes after all has nobody to tell
            log_event(_log, logging.WARNING, "left without a word", group=self.group)

    def _leave(self, consumer: Consumer) -> None:
        with contextlib.suppress(KafkaException):  # what was not acknowledged is a hint less
            self._commit(consumer, dict(self._unsent), wait=True)
            consumer.close()  # hands over: calls _revoked

    # ---- what the group has of us -------------------------------------------------------------------------

    def hints(self, partitions: list[Partition]) -> dict[Partition, Hint | None]:
        """Ask for what was acknowledged of these."""
        if not partitions:
            return {}
        found = asked(
            lambda: self.consumer.committed([TopicPartition(p.stream, p.number) for p in partitions], self.timeout_s),
            f"ask for the offsets of group {self.group}",
            SourceUnavailableError,
        )
        return {Partition(tp.topic, tp.partition): hint_of(tp) for tp in found}

    def ends(self) -> dict[Partition, int]:
        """Return where the logs end, by what the last answers to fetches said of it."""
        found: dict[Partition, int] = {}
        consumer = self._consumer
        if consumer is not None:
            for partition in self.places:
                marks = consumer.get_watermark_offsets(TopicPartition(partition.stream, partition.number), cached=True)
                if marks is not None and marks[1] >= 0:
                    found[partition] = marks[1]
        return found

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        """Tell the group, without waiting; it is told again when partitions are handed over."""
        self._unsent.update(hints)
        if self._consumer is not None:
            self._commit(self._consumer, hints, wait=False)

    def _commit(self, consumer: Consumer, hints: Mapping[Partition, Hint], *, wait: bool) -> None:
        """Commit to the group; what is lost here costs the next look-up some requests, and no record."""
        offsets = [TopicPartition(p.stream, p.number, h.offset, metadata(h)) for p, h in hints.items()]
        if not offsets:
            return
        with contextlib.suppress(KafkaException):
            if not wait:
                consumer.commit(offsets=offsets, asynchronous=True)
                return
            consumer.commit(offsets=offsets, asynchronous=False)
            for partition in list(hints):
                self._unsent.pop(partition, None)

    # ---- what the group gives and takes -------------------------------------------------------------------

    def _subscribed(self, protocol: str) -> Consumer:
        consumer = made(Consumer, self.settings(protocol))
        self.cluster.identities(self.topics)  # who is not there is found here, with a bound and a name
        consumer.subscribe(list(self.topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        return consumer

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._kept():
            self.asked_nothing = not places
            if places:
                self.places.give(consumer, _partitions(places))
            else:
                consumer.incremental_assign([])

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._kept():
            partitions = _partitions(places)
            try:
                known = self.places.take(partitions)
                if self.owner is not None and known:
                    self.owner.release(known)
                self._commit(consumer, {p: h for p, h in self._unsent.items() if p in partitions}, wait=True)
            finally:
                self._drop(consumer, places)

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        with self._kept():
            try:
                known = self.places.take(_partitions(places))
                if self.owner is not None and known:
                    self.owner.lost(known)
            finally:
                self._drop(consumer, places)

    def _drop(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        for partition in _partitions(places):
            self._unsent.pop(partition, None)
        consumer.incremental_unassign(places)

    # ---- failures -----------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether something is to be raised."""
        return self._failure is not None

    def keep(self, failure: BaseException) -> None:
        """Keep a failure for `raise_failure`; of several the first one."""
        self._failure = self._failure or failure

    def raise_failure(self) -> None:
        """Raise what was kept, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep what a callback raises, for poll to raise: librdkafka would print it and go on."""
        try:
            yield
        except KafkaException as exc:
            self.keep(told(exc.args[0], "take over partitions", SourceUnavailableError))
        except BaseException as exc:  # noqa: BLE001 - it is raised again, where somebody can catch it
            self.keep(exc)


def _partitions(places: list[TopicPartition]) -> list[Partition]:
    return [Partition(tp.topic, tp.partition) for tp in places]

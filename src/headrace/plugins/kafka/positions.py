"""
The side topic: how far each partition of a source is published, written in the transaction that publishes it.

It is compacted, so that it keeps the newest value of every key for good; `headrace.plugins.kafka.stored` says what they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from headrace.errors import SinkUnavailableError, SourceUnavailableError
from headrace.plugins.kafka.client import made, told
from headrace.plugins.kafka.cluster import EARLIEST, LATEST, Cluster
from headrace.records import Partition


@attrs.define(kw_only=True, eq=False)
class PositionsTopic:
    """
    What was committed to the side topic, read to its end. Safe from any thread.

    Only its first partition is used: one log has one order, and partitions that somebody adds change nothing.

    Attributes:
        name: The topic.

        settings: librdkafka's, for its consumer.

        cluster: Asked where the topic ends.

        clock: Monotonic seconds.
    """

    name: str
    settings: Mapping[str, object] = attrs.field(repr=False)
    cluster: Cluster
    clock: Callable[[], float] = time.monotonic
    _values: dict[bytes, bytes] = attrs.field(factory=dict, init=False)
    _next: int = attrs.field(default=0, init=False)  # what was read before, also by consumers that are closed
    _readers: int = attrs.field(default=0, init=False)  # who are reading now
    _consumer: Consumer | None = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def read(self, within_s: float) -> bool:
        """
        Read all that was written before this call began and is committed.

        An open transaction hides what was written after it began, its own and everybody's, until it is decided: so the
        end to be reached is that of the log, not of what can be read now.

        Returns:
            False where a transaction was open for all of *within_s*: then what is known may be too old.
        """
        deadline, known = self.clock() + within_s, self._next
        with as_sink():
            end = self.cluster.offsets([Partition(self.name, 0)], LATEST)[Partition(self.name, 0)]
        if end < known:
            raise SinkUnavailableError(
                f"{self.name} ends at {end} and was read up to {known}: a broker lags behind, or the positions were cut back;"
                " restore the topic, or begin a new epoch (epoch=NAME)"
            )
        if end <= known:
            return True
        self._fetch(True)
        try:
            while not self._reached(end):
                if self.clock() >= deadline:
                    return False
        finally:
            self._fetch(False)
        return True

    def read_all(self, within_s: float) -> None:
        """Read as `read` does; SinkUnavailableError where a transaction was open all the time."""
        if not self.read(within_s):
            raise SinkUnavailableError(
                f"{self.name}: a transaction was open in it for {within_s:g} s, so the positions behind it are not known; the"
                " brokers end it after its transaction.timeout.ms (kafka-transactions.sh find-hanging names one they forgot)"
            )

    def value(self, name: bytes) -> bytes | None:
        """What is known of a key, by the last `read`."""
        return self._values.get(name)

    def has(self, start: bytes) -> bool:
        """Whether there is a key that begins so."""
        with self._lock:
            return any(name.startswith(start) for name in self._values)

    def _fetch(self, wanted: bool) -> None:  # noqa: FBT001 - begin and end of one thing
        """Have a consumer while somebody reads: a new one finds the end in milliseconds, an idle one would ask for ever."""
        with self._lock:
            if self._consumer is None:
                with as_sink():
                    at = self._next or self.cluster.offset(Partition(self.name, 0), EARLIEST)
                self._consumer = made(Consumer, {**_READER, **self.settings})
                self._consumer.assign([TopicPartition(self.name, 0, at)])
            self._readers += 1 if wanted else -1
            if not self._readers:
                self._consumer.close()
                self._consumer = None

    def _reached(self, end: int) -> bool:
        """Say whether *end* was reached; if not, wait a moment for more. Others may read meanwhile, and wait as little."""
        with self._lock:
            if self._next >= end:
                return True
            consumer, wait_s = self._consumer, 0.05
            assert consumer is not None, "there is one while somebody reads"  # noqa: S101 - our own state
            for _ in range(_CHUNK):
                message = consumer.poll(wait_s)
                if message is None:
                    break
                self._take(message)
                wait_s = 0
            return self._next >= end

    def _take(self, message: Message) -> None:
        error, offset = message.error(), message.offset()
        if error is None:
            assert offset is not None  # noqa: S101 - librdkafka's promise
            self._next = offset + 1
            name, value = message.key(), message.value()
            if isinstance(name, bytes) and isinstance(value, bytes):
                self._values[name] = value
        elif error.code() == KafkaError._PARTITION_EOF:
            self._next = max(self._next, offset or 0)  # behind markers, which are no records
        elif not error.retriable() and error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
            raise told(error, f"read the positions in {self.name!r}", SinkUnavailableError)


_CHUNK = 1000

_READER = {
    "client.id": "headrace",
    "group.id": "headrace-positions",  # never joined, nothing is committed to it
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 10,
    "fetch.error.backoff.ms": 20,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 1024,
    "reconnect.backoff.max.ms": 5000,
}


@contextmanager
def as_sink() -> Iterator[None]:
    """Questions to the cluster say that a source is away; here it is the sink's side."""
    try:
        yield
    except SourceUnavailableError as exc:
        raise SinkUnavailableError(str(exc)) from exc

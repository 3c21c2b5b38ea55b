"""Records on their way to a topic: held until their commit, then given to a producer, a column at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import attrs
from confluent_kafka import KafkaError, Message, Producer

from headrace.errors import DataError, HeadraceError, PluginError, TransientError
from headrace.plugins.kafka.client import told
from headrace.records import Batch, Headers, Identity, Partition, Position
from headrace.sink import Draft

_TOO_LARGE = "raise message.max.bytes here and max.message.bytes on the topic"
_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: _TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: _TOO_LARGE,
    KafkaError._BAD_MSG: _TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP: "raise message.timestamp.after.max.ms and message.timestamp.before.max.ms on the topic",
    KafkaError.INVALID_RECORD: "a compacted topic takes no record without a key",
}
"""Records that the brokers will not take, however often they are asked, and what to do."""

_RECORD_BYTES = 200
"""About what the Python objects of one record cost besides its bytes."""

Delivered = Callable[[KafkaError | None, Message], None]


@attrs.define(kw_only=True, eq=False)
class KafkaDraft(Draft):
    """
    Records that wait to be published: held until the commit, so that a discarded draft has published nothing.

    Attributes:
        partition: Whose records.

        position: Where the draft is to be committed.

        store: What the sink does at the commit.

        batches: In their order.

        records: How many.
    """

    partition: Partition
    position: int
    store: Callable[[KafkaDraft, int, Position, Identity], Position]
    batches: list[Batch] = attrs.field(factory=list)
    records: int = 0
    _held_bytes: int = 0
    _discarded: bool = False

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    @property
    def end(self) -> int:
        return self.batches[-1].end if self.batches else self.position

    @property
    def leader_epoch(self) -> int | None:
        """Of the last record."""
        return self.batches[-1].leader_epoch if self.batches else None

    def add(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.records += len(batch)
        self._held_bytes += batch.nbytes + _RECORD_BYTES * len(batch)

    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        if self._discarded:
            raise PluginError(f"{self.partition}: the draft of {self.position} was discarded, it cannot be committed")
        return self.store(self, base, at, identity)

    def discard(self) -> None:
        self._discarded = True
        self.batches = []
        self._held_bytes = 0

    def refused(self, error: KafkaError, topic: str, unavailable: type[TransientError]) -> HeadraceError:
        """Say as our error why the draft could not be published."""
        what = f"publish {self.partition} [{self.position}, {self.end}) to {topic!r}"
        if error.code() in _REFUSED:
            return DataError(f"{what}: {error.str()}; {_REFUSED[error.code()]}")
        return told(error, what, unavailable)


def produce(
    producer: Producer,
    topic: str,
    number: int,
    batches: Iterable[Batch],
    wait: Callable[[], None],
    delivered: Delivered | None = None,
) -> None:
    """
    Give all records to the producer, in their order.

    A timestamp is kept, also one before 1970; a record that has none gets that of its publishing, and so does one of the
    epoch's first millisecond, which the client library takes for none.

    Args:
        producer: Whose queue takes them.

        topic: Where to.

        number: The partition; -1: the partitioner decides by the key.

        batches: The records.

        wait: Called while the queue is full; raises when that took too long.

        delivered: Called with each answer.

    Raises:
        KafkaException: A record was refused at once, being too large; those before it are on their way.
    """
    for batch in batches:
        headers: Iterable[Headers | None] = itertools.repeat(None) if batch.headers is None else batch.headers
        for value, key, ms, pairs in zip(batch.values, batch.keys, _stamps(batch), headers, strict=False):
            while True:
                try:
                    producer.produce(
                        topic,
                        value,
                        key,
                        number,
                        on_delivery=delivered,
                        timestamp=ms,
                        headers=list(pairs) if pairs else None,
                    )
                    break
                except BufferError:
                    wait()


def _stamps(batch: Batch) -> Iterable[int]:
    if batch.timestamp_types is None:
        return batch.timestamps_ms
    return [0 if kind == "none" else ms for ms, kind in zip(batch.timestamps_ms, batch.timestamp_types, strict=True)]


@attrs.define(eq=False)
class Attempt:
    """What is known of the records of one idempotent attempt; a late answer to an earlier one is not counted here."""

    acked: int = 0
    failed: KafkaError | None = None

    def delivered(self, error: KafkaError | None, _: Message) -> None:
        """Take the answer to one record."""
        self.acked += 1
        self.failed = self.failed or error

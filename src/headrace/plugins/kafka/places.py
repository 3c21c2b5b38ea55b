"""The partitions that this member was given, where each is read, and what is still to be done before one is read on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import SourceUnavailableError
from headrace.plugins.kafka.client import asked, told
from headrace.plugins.kafka.cluster import Cluster
from headrace.plugins.kafka.starts import resolved
from headrace.records import Partition, Start

AGAIN_S = 0.5
"""A broker that lags behind is read again after so long."""


@attrs.define(eq=False)
class Cursor:
    """
    Where a partition is read.

    Attributes:
        assignment: The number that its events carry (B17).

        next: The offset that is read next.

        leader_epoch: Of the record before it, at ``next - 1``; None where it is not known, or the record not there (B21).

        proven: That record was seen to be there still, under the same leader: it is the same log. A fetch begins at it.

        newest_epoch: The highest that was seen: a record of a lower one comes from a broker that lags behind (B20).

        lagging_s: Since when such a broker answers; None: it does not.
    """

    assignment: int
    next: int
    leader_epoch: int | None
    proven: bool = False
    newest_epoch: int = -1
    lagging_s: float | None = None


@attrs.frozen
class Unplaced:
    """The group gave it; the owner has not said yet where to begin."""


@attrs.frozen
class Unexplained:
    """The client said, once, that the next offset is not there; what that means was not found out yet."""

    error: KafkaError


@attrs.frozen
class Lagging:
    """A broker that lags behind answered; the next offset is asked for again."""

    due_s: float


ToDo = Unplaced | Start | Unexplained | Lagging
"""A `Start` is the owner's answer, and not followed yet."""


@attrs.define(kw_only=True, eq=False)
class Places:
    """
    Where partitions are read. Nothing is fetched but from an explicit offset (B16).

    Attributes:
        consumer: Returns the client.

        cluster: Resolves the start policy.

        policy: Where an empty lake begins.

        timeout_s: How long an older broker's answers are borne with.

        clock: Monotonic seconds.

        todo: What must be done before a partition is read on, in the order in which it came up. What fails stays.
    """

    consumer: Callable[[], Consumer]
    cluster: Cluster
    policy: str
    timeout_s: float
    clock: Callable[[], float]
    todo: dict[Partition, ToDo] = attrs.field(factory=dict, init=False)
    _at: dict[Partition, Cursor | None] = attrs.field(factory=dict, init=False)  # None: paused

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._at)

    def read(self, partition: Partition | None) -> Cursor | None:
        """Return where it is read; None where it is not, being paused, another's, or waiting for something to be done."""
        return None if partition is None or partition in self.todo else self._at.get(partition)

    def cursor(self, partition: Partition) -> Cursor | None:
        """Return where it is read, or will be when what is to be done is done."""
        return self._at.get(partition)

    # ---- given and taken ----------------------------------------------------------------------------------

    def give(self, consumer: Consumer, partitions: list[Partition]) -> None:
        """Take them over, held still: where to begin is asked at the next poll."""
        self._at |= dict.fromkeys(partitions)
        self.todo |= dict.fromkeys(partitions, Unplaced())
        consumer.incremental_assign([_place(p, 0, None) for p in partitions])
        consumer.pause([_place(p) for p in partitions])

    def take(self, partitions: list[Partition]) -> list[Partition]:
        """Forget them; return those that the owner knows of."""
        known = [p for p in partitions if p in self._at and not isinstance(self.todo.get(p), Unplaced)]
        for partition in partitions:
            self._at.pop(partition, None)
            self.todo.pop(partition, None)
        return known

    def clear(self) -> None:
        """Forget all."""
        self._at.clear()
        self.todo.clear()

    @property
    def unplaced(self) -> list[Partition]:
        """What the owner is to be asked about."""
        return [p for p, what in self.todo.items() if isinstance(what, Unplaced)]

    def answered(self, starts: Mapping[Partition, Start | None]) -> None:
        """Keep the owner's answer; what it gives no start stays still."""
        for partition, start in starts.items():
            if start is None:
                del self.todo[partition]
            else:
                self.todo[partition] = start

    # ---- moving -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Follow the owner's answers, all together."""
        self.move({p: what for p, what in self.todo.items() if isinstance(what, Start)})

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        """Fetch from there; None pauses. What is another member's by now is left out."""
        ours = {p: start for p, start in starts.items() if p in self._at}
        found = {p: start for p, start in ours.items() if start is not None}
        offsets = resolved(found, self.policy, self.cluster)
        paused = [p for p in ours if p not in found]
        for partition in paused:
            self._at[partition] = None
            self.todo.pop(partition, None)
        self._pause(paused)
        for partition, start in found.items():
            epoch = -1 if start.leader_epoch is None else start.leader_epoch
            self._at[partition] = Cursor(start.assignment, offsets[partition], start.leader_epoch, newest_epoch=epoch)
        self._fetch(list(found))
        for partition in found:
            self.todo.pop(partition, None)

    def fail(self, partition: Partition) -> None:
        """Read it no more, until it is moved."""
        self._at[partition] = None

    def unprovable(self, partition: Partition, cursor: Cursor) -> None:
        """Fetch without proof: the record before is not there any more."""
        cursor.leader_epoch = None
        self._fetch([partition])

    def again(self, partition: Partition, cursor: Cursor) -> bool:
        """Ask for the next offset again in a while; False when older brokers have answered for too long."""
        now = self.clock()
        cursor.lagging_s = now if cursor.lagging_s is None else cursor.lagging_s
        if now - cursor.lagging_s >= self.timeout_s:
            return False
        self.todo[partition] = Lagging(now + AGAIN_S)
        self._pause([partition])
        return True

    def fetch_again(self) -> None:
        """Ask again for what is due."""
        now = self.clock()
        due = [p for p, what in self.todo.items() if isinstance(what, Lagging) and what.due_s <= now]
        self._fetch(due)
        for partition in due:
            del self.todo[partition]

    def _pause(self, partitions: list[Partition]) -> None:
        if partitions:
            self._ask(lambda: self.consumer().pause([_place(p) for p in partitions]), "pause")

    def _fetch(self, partitions: list[Partition]) -> None:
        """
        Fetch from the cursors on, paused or not: one by a seek, several by an assignment of their own.

        From the record before, where its leader is known: the client takes a leader epoch and does not compare it when a
        fetch begins, so that a log that was cut back, and has grown again since, would be read on (B21).
        """
        wanted = []
        for partition in partitions:
            cursor = self._at[partition]
            assert cursor is not None, "only what is read is fetched"  # noqa: S101 - our own state
            cursor.proven = cursor.leader_epoch is None
            wanted.append(_place(partition, cursor.next - (not cursor.proven), cursor.leader_epoch))
        if not wanted or (len(wanted) == 1 and self._sought(wanted[0])):
            return
        self._ask(lambda: self.consumer().incremental_unassign(wanted), "unassign")
        # a pause outlives its assignment; taken back behind the next one it may overtake that one's start inside librdkafka,
        # and all that is fetched from there on is thrown away as out of date: the partition would stand still for ever
        self._ask(lambda: self.consumer().resume(wanted), "resume")
        self._ask(lambda: self.consumer().incremental_assign(wanted), "assign")

    def _sought(self, place: TopicPartition) -> bool:
        """Seek and resume; False where it is not being fetched yet, which is all that a seek knows."""
        try:
            self.consumer().seek(place)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError._STATE:
                return False
            what = f"seek {place.topic}/{place.partition} to {place.offset}"
            raise told(exc.args[0], what, SourceUnavailableError) from exc
        self._ask(lambda: self.consumer().resume([place]), "resume")
        return True

    def _ask(self, call: Callable[[], object], what: str) -> None:
        asked(call, what, SourceUnavailableError)


def _place(partition: Partition, offset: int = 0, leader_epoch: int | None = None) -> TopicPartition:
    if leader_epoch is None:
        return TopicPartition(partition.stream, partition.number, offset)
    return TopicPartition(partition.stream, partition.number, offset, leader_epoch=leader_epoch)  # KIP-320 (B21)

"""What the client returns, records and what it says instead of them, turned into events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
from confluent_kafka import KafkaError, Message

from headrace.errors import DataError, HeadraceError, IdentityError, SourceUnavailableError
from headrace.plugins.kafka.client import NO_TOPIC, fatal, told
from headrace.plugins.kafka.cluster import EARLIEST, LATEST, Cluster
from headrace.plugins.kafka.columns import UnreadableError, batch_of, by_leader, from_offset, offset_of, runs
from headrace.plugins.kafka.group import Member
from headrace.plugins.kafka.places import Cursor, Places, Unexplained
from headrace.records import Batch, BelowLog, Event, Failed, Hint, Partition, Reached

_OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)
_PASSING = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)


@attrs.define(kw_only=True, eq=False)
class Reading:
    """
    Takes messages in the order in which the client returned them.

    Attributes:
        topics: What is read.

        member: Keeps a failure until what was read before it has been said; is left when it cannot go on.

        places: Where each partition is read; moved by what is taken.

        cluster: Is asked what an error of the client means.
    """

    topics: tuple[str, ...]
    member: Member
    places: Places
    cluster: Cluster
    withheld: dict[Partition, tuple[int, Failed]] = attrs.field(factory=dict, init=False)
    """A failure to be said when its partition is stored up to an offset."""
    due: list[Event] = attrs.field(factory=list, init=False)

    def events(self, messages: list[Message]) -> list[Event]:
        """Turn messages into events; an error among them is kept for the next poll."""
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
                    self.member.keep(failure)
                begin = i + 1
        return [*events, *self._batches(messages[begin:])]

    def _batches(self, messages: list[Message]) -> Iterator[Event]:
        for partition, run in runs(messages, self.topics):
            cursor = self.places.read(partition)
            if cursor is None:
                continue  # it is read again from where it is moved to
            if not cursor.proven:
                failed = self._failed_proof(partition, cursor, run)
                if failed is not None:
                    yield from failed
                    continue
            fresh = from_offset(run, cursor.next)
            if not fresh:
                continue  # of before a move
            for part in by_leader(fresh):
                epoch = part[0].leader_epoch()
                if epoch is not None and epoch < cursor.newest_epoch:
                    yield from self._behind(partition, cursor, f"its records at {cursor.next} are of epoch {epoch}")
                    break
                try:
                    yield self._taken(part, partition, cursor)
                except UnreadableError as error:
                    yield from self._unreadable(partition, cursor, error)
                    break

    def _taken(self, part: list[Message], partition: Partition, cursor: Cursor) -> Batch:
        """Make the next batch, of one leader, and go on behind it."""
        batch, epoch = batch_of(part, partition, cursor.assignment, cursor.next), part[0].leader_epoch()
        cursor.next, cursor.leader_epoch, cursor.lagging_s = batch.end, batch.leader_epoch, None
        cursor.proven = True
        cursor.newest_epoch = max(cursor.newest_epoch, -1 if epoch is None else epoch)
        return batch

    def _unreadable(self, partition: Partition, cursor: Cursor, error: UnreadableError) -> Iterator[Event]:
        """Read no further; say so once what lies before the record is stored, since the way out deletes it from the log."""
        failed = Failed(partition, cursor.assignment, DataError(str(error)))
        if error.before:
            yield self._taken(error.before, partition, cursor)
        self.places.fail(partition)
        if error.before:
            self.withheld[partition] = (cursor.next, failed)
        else:
            yield failed

    def stored(self, hints: Mapping[Partition, Hint]) -> None:
        """Take note of what is stored: what was withheld until then is said at the next poll."""
        for partition, hint in hints.items():
            end, failed = self.withheld.get(partition, (0, None))
            if failed is not None and hint.offset >= end:
                del self.withheld[partition]
                self.due.append(failed)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """They are read again from elsewhere, and what was withheld comes up again by itself."""
        for partition in partitions:
            self.withheld.pop(partition, None)

    def said_late(self) -> list[Event]:
        """What was withheld, and is to be said now."""
        said, self.due = self.due, []
        return said

    def _failed_proof(self, partition: Partition, cursor: Cursor, run: list[Message]) -> list[Event] | None:
        """Compare the record before the next one with what was read or stored there; None: it is the same log (B21)."""
        first, expected = run[0], cursor.leader_epoch
        found = first.leader_epoch()
        cursor.proven = True
        if expected is None or found is None or offset_of(first) != cursor.next - 1 or found == expected:
            return None  # it is the same record, or compaction took it and nobody can tell
        cursor.proven = False
        if found < expected:
            return self._behind(partition, cursor, f"the record at {cursor.next - 1} is of epoch {found}")
        return [self._cut_back(partition, cursor, f"another record is at {cursor.next - 1}, of leader epoch {found}")]

    # ---- what the client says instead of a record -----------------------------------------------------------

    def _said(self, message: Message, error: KafkaError) -> list[Event]:
        topic, number = message.topic(), message.partition()
        partition = Partition(topic, number) if topic is not None and number is not None else None
        if error.code() == KafkaError._PARTITION_EOF:
            return self._ended(partition, message.offset() or 0)
        if error.code() == KafkaError._UNSUPPORTED_FEATURE and self.member.protocol == "auto":
            self.member.fall_back()
            return []
        if error.code() in _OUT_OF_RANGE:
            if partition is None or self.places.read(partition) is None:
                return []
            self.places.todo[partition] = Unexplained(error)  # until it was found out: the client says it once
            return self.explained(partition, error)
        if (
            error.code() == KafkaError._FATAL
            and "version not supported" in error.str()
            and self.member.protocol == "auto"
        ):
            self.member.fall_back()  # a broker that has the protocol, and where it is switched off
            return []
        if error.code() == KafkaError._FATAL:
            self.member.rejoin()
            raise fatal(error, f"read {', '.join(self.topics)} as a member of group {self.member.group}")
        if error.retriable() or error.code() in _PASSING or (error.code() in NO_TOPIC and topic in self.cluster.seen):
            return []  # the client goes on by itself
        raise told(error, f"read {topic or ', '.join(self.topics)}", SourceUnavailableError)

    def _ended(self, partition: Partition | None, end: int) -> list[Event]:
        cursor = self.places.read(partition)
        if partition is None or cursor is None:
            return []
        if end < cursor.next:  # of the log that ended further on before
            return self._behind(partition, cursor, f"it ends at {end}, read or stored was up to {cursor.next}")
        cursor.lagging_s = None
        if end > cursor.next:  # behind holes; under which leader they end is not known (B21)
            cursor.next, cursor.leader_epoch = end, None
        return [Reached(partition, cursor.assignment, cursor.next, at_end=True)]

    def explained(self, partition: Partition, error: KafkaError) -> list[Event]:
        """The log does not have the next offset, or has another record there: say which (B14, B18, B21)."""
        cursor = self.places.cursor(partition)
        low = self.cluster.offset(partition, EARLIEST)
        high = self.cluster.offset(partition, LATEST)
        self.places.todo.pop(partition, None)
        if cursor is None:
            return []
        truncated = error.code() == KafkaError._LOG_TRUNCATION or "truncation" in error.str()
        if truncated or cursor.next > high:
            return [self._cut_back(partition, cursor, f"the log ends at {high} ({error.str()})")]
        if cursor.next < low:
            return [BelowLog(partition, cursor.assignment, cursor.next, low)]
        if cursor.next == low and not cursor.proven:
            self.places.unprovable(partition, cursor)
            return []
        return self._behind(partition, cursor, f"{cursor.next} is out of its range ({error.str()})")

    def _cut_back(self, partition: Partition, cursor: Cursor, found: str) -> Failed:
        self.places.fail(partition)
        failure = IdentityError(
            f"{partition}: the log was cut back below {cursor.next}, up to which it was read or stored: {found}; restore it,"
            " or begin a new epoch"
        )
        return Failed(partition, cursor.assignment, failure)

    def _behind(self, partition: Partition, cursor: Cursor, found: str) -> list[Event]:
        """A broker that lags behind answered: ask again, for a while (B20)."""
        if self.places.again(partition, cursor):
            return []
        self.places.fail(partition)
        failure = IdentityError(
            f"{partition}: a broker that lags behind has answered for {self.places.timeout_s:g} s, or the log was cut back:"
            f" {found} (newest leader epoch {cursor.newest_epoch}); run again when the brokers agree, or begin a new epoch"
        )
        return [Failed(partition, cursor.assignment, failure)]

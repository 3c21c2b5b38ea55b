"""Reads a log in memory, as a member of a group that may be wrong about who owns what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import attrs

from headrace.errors import IdentityError
from headrace.records import Batch, BelowLog, Event, Extent, Failed, Hint, Partition, Reached, Start
from headrace.source import Owner, Source
from headrace.testing.log import MemoryLog


@attrs.define(eq=False)
class _Cursor:
    """Where one partition is read."""

    start: int  # of the next batch
    position: int  # of the next fetch
    assignment: int
    epoch: int | None
    waits: bool = False  # nothing more is said until it is moved
    told: int | None = None  # the last `Reached`


@attrs.define(kw_only=True, eq=False)
class MemorySource(Source):
    """
    The records of a `MemoryLog`.

    The group is simple: whoever asks gets every partition, also those that another reader has already. That is what a
    zombie looks like. `give`, `take_away` and `lose` play a rebalance; the owner is told at the next poll.

    Attributes:
        log: What is read.

        chunk: How many offsets a poll looks at; a batch holds the records among them.

        start: The start policy, for partitions of which nothing is stored.

        hints: What the group knows as committed; the log's own unless given.

        idle: Called with the time-out where there is nothing to say.

        acknowledged: Called with each hint, before the log keeps it.
    """

    log: MemoryLog
    chunk: int = 1000
    start: Literal["earliest", "latest"] = "earliest"
    hints: Mapping[Partition, Hint | None] | None = None
    idle: Callable[[float], object] = time.sleep
    acknowledged: Callable[[Mapping[Partition, Hint]], object] | None = None
    closed: bool = attrs.field(default=False, init=False)
    _cursors: dict[Partition, _Cursor] = attrs.field(factory=dict, init=False)
    _paused: set[Partition] = attrs.field(factory=set, init=False)
    _owned: set[Partition] | None = attrs.field(default=None, init=False)
    _news: list[tuple[str, list[Partition]]] = attrs.field(factory=list, init=False)

    # ---- the group ----------------------------------------------------------------------------------------

    def give(self, partitions: Iterable[Partition]) -> None:
        """Assign these at the next poll."""
        self._news.append(("give", list(partitions)))

    def take_away(self, partitions: Iterable[Partition]) -> None:
        """Hand these over at the next poll: the owner may commit first."""
        self._news.append(("take away", list(partitions)))

    def lose(self, partitions: Iterable[Partition]) -> None:
        """Say at the next poll that these are gone already."""
        self._news.append(("lose", list(partitions)))

    # ---- the source's interface ---------------------------------------------------------------------------

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if self._owned is None and not self._news:
            self.give(self.log.all)
        while self._news:
            self._tell(owner, *self._news[0])
            self._news.pop(0)  # where it failed it is told again
        events = [
            event
            for partition, cursor in list(self._cursors.items())
            if partition not in self._paused
            and not cursor.waits
            and (event := self._read(partition, cursor)) is not None
        ]
        if not events:
            self.idle(timeout_s)
        return events

    def _tell(self, owner: Owner, what: str, partitions: list[Partition]) -> None:
        if what == "give":
            self._owned = (self._owned or set()) | set(partitions)
            known = self.log.committed if self.hints is None else self.hints
            self.move(owner.assigned({p: known.get(p) for p in partitions}))
            return
        (owner.release if what == "take away" else owner.lost)(partitions)
        self._owned = (self._owned or set()) - set(partitions)
        for partition in partitions:
            self._cursors.pop(partition, None)

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            if start is None:
                self._paused.add(partition)
                continue
            self._paused.discard(partition)
            offset = self._resolve(partition, start) if start.offset is None else start.offset
            self._cursors[partition] = _Cursor(offset, offset, start.assignment, start.leader_epoch)

    def extents(self) -> Mapping[Partition, Extent]:
        return self.log.extents()

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        if self.acknowledged is not None:
            self.acknowledged(hints)
        self.log.committed.update(hints)

    def reread(self, partition: Partition, start: int, end: int, *, aborted: bool = False) -> Iterator[Batch]:
        log, fates = self.log.logs[partition.number], ("record", "aborted") if aborted else ("record",)
        for entry in list(log.entries[max(start, log.low) : end]):
            if entry.record is not None and entry.fate in fates:
                yield Batch.of(partition, [entry.record], assignment=0)

    def close(self) -> None:
        self.closed = True

    # ---- reading ------------------------------------------------------------------------------------------

    def _resolve(self, partition: Partition, start: Start) -> int:
        extent = self.log.extents()[partition]
        if self.start == "earliest":
            return extent.low
        return extent.end if start.begun is None else start.begun

    def _read(self, partition: Partition, cursor: _Cursor) -> Event | None:
        extent = self.log.extents()[partition]
        if cursor.position < extent.low:
            return self._below(partition, cursor, extent)
        ends = extent.high if cursor.epoch is None else self.log.logs[partition.number].end_of_epoch(cursor.epoch)
        if cursor.position > ends:
            cursor.waits = True
            error = IdentityError(f"{partition}: position {cursor.position}, the log ends at {ends}: it was cut back")
            return Failed(partition, cursor.assignment, error)
        records, reached, epoch = self.log.read(cursor.position, self.chunk, partition.number)
        if not records:
            cursor.epoch = cursor.epoch if epoch is None else epoch  # a client learns the leader from markers too
            return self._reached(partition, cursor, reached, extent)
        batch = Batch.of(partition, records, assignment=cursor.assignment, start=cursor.start, leader_epoch=epoch)
        # holes behind the last record belong to the next batch (B3)
        cursor.start = cursor.position = batch.end
        cursor.epoch = epoch
        return batch

    def _below(self, partition: Partition, cursor: _Cursor, extent: Extent) -> Event | None:
        cursor.waits = True
        return BelowLog(partition, cursor.assignment, cursor.start, extent.low)

    def _reached(self, partition: Partition, cursor: _Cursor, reached: int, extent: Extent) -> Event | None:
        position = max(reached, cursor.position)
        if cursor.told == position:
            return None
        cursor.told = cursor.start = cursor.position = position
        return Reached(partition, cursor.assignment, position, at_end=position >= extent.end)

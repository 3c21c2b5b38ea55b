"""Reads a lake's chains back as a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from headrace.chain import Chain, streams
from headrace.errors import ConfigError, CorruptSegmentError, HeadraceError, TransientError
from headrace.finding import Finding
from headrace.plugins.lake.doctor import check_lake
from headrace.records import Batch, BelowLog, Event, Extent, Failed, Identity, Partition, Reached, Start
from headrace.segment import Segment
from headrace.source import Owner, Source
from headrace.store import Store

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI


@attrs.define(eq=False)
class _Cursor:
    """Where one partition is read."""

    position: int
    assignment: int
    batches: Iterator[Batch] | None = None  # of the segment that is being read
    waits: bool = False  # BelowLog was said: nothing more until it is moved


@attrs.define(kw_only=True, eq=False)
class LakeSource(Source):
    """
    The records of one stream in a lake, as they were written: offsets, keys, values, headers and timestamps to the byte.

    Attributes:
        store: Where the lake is; closed with the source.

        stream: Which stream; "" where the lake has only one.

        epoch: Which of its datasets.
    """

    store: Store
    stream: str = ""
    epoch: str = ""
    _chain: Chain | None = attrs.field(default=None, init=False)
    _cursors: dict[Partition, _Cursor] = attrs.field(factory=dict, init=False)
    _paused: dict[Partition, None] = attrs.field(factory=dict, init=False)
    _assigned: bool = attrs.field(default=False, init=False)
    _closed: threading.Event = attrs.field(factory=threading.Event, init=False)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> LakeSource:
        """Make the source of ``file:///folder?stream=trades``; other settings are the store's."""
        settings = dict(uri.settings)
        stream, epoch = settings.pop("stream", ""), settings.pop("epoch", "")
        return cls(store=registry.store(attrs.evolve(uri, settings=settings)), stream=stream, epoch=epoch)

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if not self._assigned:
            self.move(owner.assigned(dict.fromkeys(self._partitions())))
            self._assigned = True
        events: list[Event] = []
        for partition, cursor in list(self._cursors.items()):
            if partition in self._paused or cursor.waits:
                continue
            try:
                events += self._read(partition, cursor)
            except TransientError:
                if events:
                    break  # what was read is said first; it fails again at the next poll, or does not
                raise
            except HeadraceError as error:
                cursor.waits = True
                events.append(Failed(partition, cursor.assignment, error))
        if not any(isinstance(event, Batch) for event in events):
            self._closed.wait(timeout_s)
        return events

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            if start is None:
                self._paused[partition] = None
                continue
            self._paused.pop(partition, None)
            cursor = self._cursors.get(partition)
            if cursor is None or (cursor.position, cursor.assignment) != (start.offset, start.assignment):
                self._cursors[partition] = _Cursor(start.offset or 0, start.assignment)

    def extents(self) -> Mapping[Partition, Extent]:
        chain, found = self._opened(), {}
        partitions = self._partitions()
        identity = Identity("lake", chain.dataset.id, chain.dataset.isolation, len(partitions))
        for partition in partitions:
            newest = chain.newest(partition.number)
            first = next(chain.from_start(partition.number), None)
            low = 0 if first is None else first.trailer.first
            end = 0 if newest is None else newest.end
            found[partition] = Extent(low, end, end, identity)
        return found

    def check(self) -> Iterator[Finding]:
        yield from check_lake(self.store)
        yield from super().check()

    def close(self) -> None:
        self._closed.set()
        self.store.close()

    def _opened(self) -> Chain:
        if self._chain is None:
            self._chain = Chain.open(self.store, self.stream or self._only_stream(), self.epoch)
        return self._chain

    def _only_stream(self) -> str:
        found = sorted({stream for stream, _ in streams(self.store)})
        if len(found) != 1:
            raise ConfigError(
                f"{self.store.place} has {len(found)} streams ({', '.join(found) or 'none'}): name one with ?stream=NAME"
            )
        return found[0]

    def _partitions(self) -> list[Partition]:
        chain = self._opened()
        count = max([chain.dataset.partitions, *(n + 1 for n in chain.partitions())])
        return [Partition(chain.dataset.stream, number) for number in range(count)]

    def _read(self, partition: Partition, cursor: _Cursor) -> list[Event]:
        """The next block of a partition, or what there is to say where none follows."""
        if cursor.batches is not None:
            batch = next(cursor.batches, None)
            if batch is not None:
                cursor.position = batch.end
                return [batch]
            cursor.batches = None
        chain = self._opened()
        following = segment = next(chain.from_start(partition.number, cursor.position), None)
        if segment is None or segment.start > cursor.position:  # not at a segment's start
            segment = chain.covering(partition.number, cursor.position)
        if segment is not None and segment.end > cursor.position:
            cursor.batches = self._batches(segment, cursor)
            return self._read(partition, cursor)
        if following is None:
            end = max(cursor.position, 0 if segment is None else segment.end)
            return [Reached(partition, cursor.assignment, end, at_end=True)]
        cursor.waits = True
        return [BelowLog(partition, cursor.assignment, cursor.position, following.start)]

    def _batches(self, segment: Segment, cursor: _Cursor) -> Iterator[Batch]:
        wanted, start, read = cursor.position, segment.start, 0
        for batch in self._opened().batches(segment, cursor.assignment):
            start, read = batch.end, read + len(batch)
            before = sum(offset < wanted for offset in batch.offsets) if batch.start < wanted else 0
            if before:
                if before == len(batch):
                    continue
                yield attrs.evolve(batch.split(before)[1], start=wanted)
            else:
                yield attrs.evolve(batch, start=max(batch.start, wanted))
        if (start, read) != (segment.end, segment.trailer.records):
            raise CorruptSegmentError(
                f"{segment.key} ({segment.partition}): found {read} records up to {start}, its trailer says"
                f" {segment.trailer.records} up to {segment.end}",
                key=segment.key,
            )

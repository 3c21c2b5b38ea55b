"""A Kafka log in memory: partitions of records and holes, with everything that a broker does to them over the years."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Literal

import attrs

from headrace.records import Extent, Headers, Hint, Identity, Partition, Record

Fate = Literal["record", "marker", "aborted", "open", "compacted"]


@attrs.define
class Entry:
    """
    What an offset holds.

    Attributes:
        fate: Only a "record" is readable. "open" belongs to a transaction that has not ended.

        record: As it was produced, whatever became of it; None for a marker.

        epoch: The leader epoch under which it was appended.

        born: Counts the log's appends and cuts: which of two things happened first.

        cut: When it was cut off, counted as *born* is; None while it is in the log.
    """

    fate: Fate
    record: Record | None
    epoch: int
    born: int
    cut: int | None = None


@attrs.define
class PartitionLog:
    """
    One partition of one topic id.

    Attributes:
        entries: By offset; those below *low* are kept here for whoever checks, and are not readable.

        low: The first offset that can be read.

        epoch: The leader epoch of what is appended now.

        lost: Entries that an unclean election cut off.
    """

    entries: list[Entry] = attrs.field(factory=list)
    low: int = 0
    epoch: int = 0
    lost: list[Entry] = attrs.field(factory=list)

    @property
    def high(self) -> int:
        return len(self.entries)

    @property
    def end(self) -> int:
        """The last stable offset: where the first open transaction begins, or the high watermark."""
        return next((i for i, e in enumerate(self.entries[self.low :], self.low) if e.fate == "open"), self.high)

    def end_of_epoch(self, epoch: int) -> int:
        """
        Say where the records of this leader epoch and of those before it end: what OffsetsForLeaderEpoch answers (KIP-320).

        An epoch of which retention left nothing ends where the log begins.
        """
        return next((i for i, e in enumerate(self.entries[self.low :], self.low) if e.epoch > epoch), self.high)


@attrs.define(eq=False)
class MemoryLog:
    """
    A topic whose whole history stays known, so that what was read of it can be checked.

    Not safe to change from several threads at once; reading is.

    Attributes:
        stream: The topic's name.

        partitions: How many it has.

        cluster: The cluster's id.

        isolation: What readers see: without "read_committed", aborted and open records too.

        topic: The topic's id.

        logs: By partition number.

        past: The logs of earlier topic ids of the same name, oldest first.

        committed: What readers acknowledged: the group's committed offsets and their metadata.
    """

    stream: str = "log"
    partitions: int = 1
    cluster: str = "memory"
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    topic: str = attrs.field(factory=lambda: secrets.token_hex(8))
    logs: dict[int, PartitionLog] = attrs.field(init=False)
    past: list[tuple[str, dict[int, PartitionLog]]] = attrs.field(factory=list, init=False)
    committed: dict[Partition, Hint] = attrs.field(factory=dict, init=False)
    _clock: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.logs = {n: PartitionLog() for n in range(self.partitions)}

    @property
    def all(self) -> list[Partition]:
        """Every partition."""
        return [Partition(self.stream, n) for n in range(self.partitions)]

    @property
    def identity(self) -> Identity:
        return Identity(self.cluster, self.topic, self.isolation, self.partitions)

    # ---- producers ----------------------------------------------------------------------------------------

    def produce(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        partition: int = 0,
        fate: Fate = "record",
    ) -> int:
        """Append a record and return its offset; its timestamp is its offset unless given."""
        offset = self.logs[partition].high
        record = Record(offset, offset if timestamp_ms is None else timestamp_ms, key, value, tuple(headers))
        self._append(partition, fate, record)
        return offset

    def marker(self, partition: int = 0) -> int:
        """Append what takes an offset and is no record: a transaction's commit marker."""
        self._append(partition, "marker", None)
        return self.logs[partition].high - 1

    def settle(self, partition: int = 0, *, abort: bool = False) -> None:
        """End the open transaction: its records become readable, or never will be; a marker is appended."""
        for entry in self.logs[partition].entries:
            if entry.fate == "open":
                entry.fate = "aborted" if abort else "record"
        self.marker(partition)

    # ---- what brokers do ----------------------------------------------------------------------------------

    def compact(self, offset: int, partition: int = 0) -> None:
        """Remove a record for which a newer one of its key exists."""
        entry = self.logs[partition].entries[offset]
        assert entry.fate == "record", f"offset {offset} holds no record: {entry.fate}"
        entry.fate = "compacted"

    def retain(self, low: int, partition: int = 0) -> None:
        """Let the log begin at *low*: retention took what is below."""
        log = self.logs[partition]
        log.low = max(log.low, min(low, log.end))

    def recreate(self) -> None:
        """Delete the topic and make it again: another id, empty partitions."""
        self.past.append((self.topic, self.logs))
        self.topic = secrets.token_hex(8)
        self.logs = {n: PartitionLog() for n in range(self.partitions)}
        self.committed = {}

    def cut_back(self, end: int, partition: int = 0) -> None:
        """Let a replica that lagged become the leader: what lies at and after *end* is gone, the leader epoch rises."""
        log = self.logs[partition]
        self._clock += 1
        for entry in log.entries[end:]:
            entry.cut = self._clock
        log.lost += log.entries[end:]
        del log.entries[end:]
        log.low = min(log.low, end)
        log.epoch += 1

    def elect(self, partition: int = 0) -> None:
        """Let another replica lead, without a loss: only the leader epoch rises."""
        self.logs[partition].epoch += 1

    # ---- readers ------------------------------------------------------------------------------------------

    def extents(self) -> Mapping[Partition, Extent]:
        """Say what the log holds now."""
        return {
            Partition(self.stream, n): Extent(log.low, self._end(log), log.high, self.identity)
            for n, log in self.logs.items()
        }

    def read(self, start: int, count: int, partition: int = 0) -> tuple[list[Record], int, int | None]:
        """
        Read the records among the next *count* offsets, those of one leader epoch.

        Returns:
            The records, the offset before which nothing else is readable, and their leader epoch; where there is no
            record, that of what lies before that offset.
        """
        log = self.logs[partition]
        end = min(self._end(log), start + count)
        found = [e for e in log.entries[start:end] if self._readable(e)]
        first = found[0] if found else log.entries[end - 1] if end > start else None
        epoch = None if first is None else first.epoch
        return [e.record for e in found if e.record is not None and e.epoch == epoch], end, epoch

    def _readable(self, entry: Entry) -> bool:
        return entry.fate == "record" or (self.isolation != "read_committed" and entry.fate in ("aborted", "open"))

    def _end(self, log: PartitionLog) -> int:
        return log.end if self.isolation == "read_committed" else log.high

    def _append(self, partition: int, fate: Fate, record: Record | None) -> None:
        log = self.logs[partition]
        self._clock += 1
        log.entries.append(Entry(fate, record, log.epoch, self._clock))

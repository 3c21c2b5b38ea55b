"""What moves through headrace: partitions, records, batches, and the places in a log that name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from headrace.errors import HeadraceError, PluginError

TimestampType = Literal["create", "append", "none"]
"""Who set a record's timestamp: its producer, the broker when it appended the record, or nobody."""

Headers = Sequence[tuple[str, bytes | None]]


@attrs.frozen(order=True)
class Partition:
    """
    One independent, ordered part of a stream.

    Attributes:
        stream: The stream's name: a Kafka topic, a feed.

        number: From 0.
    """

    stream: str
    number: int

    def __str__(self) -> str:
        return f"{self.stream}/{self.number}"


@attrs.frozen
class Record:
    """
    One record, for people and tests; the hot path moves columns (`Batch`).

    Attributes:
        offset: Its place in its partition.

        timestamp_ms: Milliseconds since the Unix epoch, UTC; -1 where there is none.

        key: None where it has none.

        value: None is a tombstone.

        headers: In the order of the log; a name may repeat.

        timestamp_type: Who set the timestamp.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp_type: TimestampType = "create"


@attrs.frozen
class Batch:
    """
    Consecutive records of one partition, as columns of equal length (PluginError where they are not); never empty.

    A batch covers ``[start, end)``. Offsets may jump inside (compaction, transaction markers); holes after the last
    record belong to the next batch.

    Attributes:
        partition: Where the records were read.

        assignment: The number that came with the `Start` from which the source reads.

        leader_epoch: Under which its records were appended: one for all, so that a part of a batch has it too; None where
            the source has none.

        start: The end of the batch before, or the later position that the source said it had reached since.

        end: The last record's offset + 1.

        offsets: Ascending; a `range` where they are dense.

        timestamps_ms: Milliseconds since the Unix epoch, UTC.

        keys: None where a record has none.

        values: None is a tombstone.

        headers: None where no record of the batch has any.

        timestamp_types: None where every timestamp is the producer's ("create").

        nbytes: Bytes in keys, values and headers.

        urgent: The source waits until it is stored: its draft is committed at once.
    """

    partition: Partition
    assignment: int
    leader_epoch: int | None
    start: int
    end: int
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers | None] | None
    timestamp_types: Sequence[TimestampType] | None
    nbytes: int
    urgent: bool = False

    def __attrs_post_init__(self) -> None:
        count = len(self.offsets)
        for name in ("timestamps_ms", "keys", "values", "headers", "timestamp_types"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise PluginError(
                    f"batch of {self.partition} at {self.start}: found {count:,} offsets and {len(column):,} {name}, expected"
                    " one for each record; the source that made it is at fault"
                )

    @classmethod
    def of(
        cls,
        partition: Partition,
        records: Sequence[Record],
        *,
        assignment: int,
        start: int | None = None,
        leader_epoch: int | None = None,
    ) -> Batch:
        """Make a batch from at least one record; *start* is the first record's offset unless given."""
        return cls(
            partition=partition,
            assignment=assignment,
            leader_epoch=leader_epoch,
            start=records[0].offset if start is None else start,
            end=records[-1].offset + 1,
            offsets=[r.offset for r in records],
            timestamps_ms=[r.timestamp_ms for r in records],
            keys=[r.key for r in records],
            values=[r.value for r in records],
            headers=[r.headers for r in records] if any(r.headers for r in records) else None,
            timestamp_types=(
                [r.timestamp_type for r in records] if any(r.timestamp_type != "create" for r in records) else None
            ),
            nbytes=sum(_nbytes(r) for r in records),
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def records(self) -> Iterator[Record]:
        """Yield the rows, one object each: for people and tests."""
        for i, offset in enumerate(self.offsets):
            yield Record(
                offset=offset,
                timestamp_ms=self.timestamps_ms[i],
                key=self.keys[i],
                value=self.values[i],
                headers=tuple(self.headers[i] or ()) if self.headers is not None else (),
                timestamp_type="create" if self.timestamp_types is None else self.timestamp_types[i],
            )

    def split(self, count: int) -> tuple[Batch, Batch]:
        """Cut after *count* records, ``0 < count < len``; the second half begins where the first one ends."""
        head, tail = slice(None, count), slice(count, None)
        middle = self.offsets[count - 1] + 1
        nbytes = self.nbytes * count // len(self)
        return (
            self._cut(head, start=self.start, end=middle, nbytes=nbytes),
            self._cut(tail, start=middle, end=self.end, nbytes=self.nbytes - nbytes),
        )

    def _cut(self, rows: slice, *, start: int, end: int, nbytes: int) -> Batch:
        return attrs.evolve(
            self,
            start=start,
            end=end,
            offsets=self.offsets[rows],
            timestamps_ms=self.timestamps_ms[rows],
            keys=self.keys[rows],
            values=self.values[rows],
            headers=None if self.headers is None else self.headers[rows],
            timestamp_types=None if self.timestamp_types is None else self.timestamp_types[rows],
            nbytes=nbytes,
        )


def _nbytes(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


@attrs.frozen
class Reached:
    """
    Nothing readable is left below *position* of this partition.

    Attributes:
        partition: What the source reads.

        assignment: The number that came with its `Start`.

        position: The next offset to be read.

        at_end: True where *position* was the end of the log when the source looked.
    """

    partition: Partition
    assignment: int
    position: int
    at_end: bool


@attrs.frozen
class BelowLog:
    """
    The log begins above the position: retention overtook the reader. The source waits for a new `Start`.

    Attributes:
        partition: What the source reads.

        assignment: The number that came with its `Start`.

        position: Where the source stands.

        low: The first offset that the log still has.
    """

    partition: Partition
    assignment: int
    position: int
    low: int


@attrs.frozen
class Failed:
    """
    This partition cannot be read on; the others can. The source waits for a new `Start`.

    Attributes:
        partition: What the source reads.

        assignment: The number that came with its `Start`.

        error: Why.
    """

    partition: Partition
    assignment: int
    error: HeadraceError


Event = Batch | Reached | BelowLog | Failed


@attrs.frozen
class Hint:
    """
    What was acknowledged to the source: where a look-up may begin; never a position (B12).

    Attributes:
        offset: The acknowledged offset.

        segment: Start and end of the partition's newest segment at that time; None where there was none.

        dataset_id: The dataset that the segment belongs to.
    """

    offset: int
    segment: tuple[int, int] | None = None
    dataset_id: str | None = None


@attrs.frozen
class Position:
    """
    How far a partition is stored, as a look-up or a stored write found it.

    Attributes:
        offset: The next record to be read.

        segment: Start and end of the newest segment; None where the chain is empty.

        dataset_id: The dataset that was looked at; None for a sink that keeps none.

        leader_epoch: Of the last stored record; None where it is not known.

        looked_up_s: When the look-up, or the stored write, *began*: seconds of the sink's clock, one that counts
            suspended time. A position ages (B15).

        digest: SHA-256 of what the newest segment holds, as `Draft.digest` of the draft that became it; None where it is not
            known.
    """

    offset: int
    segment: tuple[int, int] | None
    dataset_id: str | None
    leader_epoch: int | None
    looked_up_s: float
    digest: str | None = None


@attrs.frozen
class Start:
    """
    Where a source is to fetch from.

    Attributes:
        offset: None where nothing is stored yet: the source's own start policy decides (B22).

        leader_epoch: Of the last stored record, so that a log that was cut back is noticed (B21).

        assignment: The number that every batch read from here must carry (B17).

        begun: Where the start policy was resolved before, as far as a hint remembers; None: it was not. A policy that
            depends on the moment, such as "latest", goes on from there, so that a crash before the first segment skips nothing.
    """

    offset: int | None
    leader_epoch: int | None
    assignment: int
    begun: int | None = None


@attrs.frozen
class Identity:
    """
    What makes a stream this stream and no other of the same name.

    Attributes:
        cluster: The cluster's id.

        topic: The topic's id; None where ids were switched off by name.

        isolation: "read_committed" or "read_uncommitted".

        partitions: How many the stream has.
    """

    cluster: str
    topic: str | None
    isolation: str
    partitions: int

    def is_same(self, other: Identity) -> bool:
        """Whether both are one stream, read alike; partitions may have been added to it (B7, B20)."""
        mine, others = ((i.cluster, i.topic, i.isolation) for i in (self, other))
        return mine == others


@attrs.frozen
class Extent:
    """
    What a log holds of one partition, asked of the servers just now.

    Attributes:
        low: The first offset that is still there.

        end: Where a reader's view ends: the last stable offset (B19).

        high: The high watermark.

        identity: Of the stream.
    """

    low: int
    end: int
    high: int
    identity: Identity

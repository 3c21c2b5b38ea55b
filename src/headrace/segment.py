"""One bronze object as its trailer describes it, and how to get its bytes."""

from __future__ import annotations

import attrs

from headrace.records import Partition


@attrs.frozen
class Trailer:
    """
    What every object says of itself, in its last bytes (B4, B5).

    Attributes:
        dataset_id: The dataset, 32 hexadecimal digits.

        partition: Whose records.

        start: The chain position it was committed at; also in its key.

        end: The last record's offset + 1. The trailer is the one source of it.

        first: The first record's offset; above *start* where holes come first.

        records: How many, at least one.

        min_ms: The smallest timestamp, milliseconds since the epoch, UTC.

        max_ms: The largest.

        digest: SHA-256 of all bytes before the trailer, 64 hexadecimal digits.

        leader_epoch: Of the last record; None where the source has none.

        writer: Who wrote it, for people; no decision reads it (B5).
    """

    dataset_id: str
    partition: Partition
    start: int
    end: int
    first: int
    records: int
    min_ms: int
    max_ms: int
    digest: str
    leader_epoch: int | None
    writer: str


@attrs.frozen
class Segment:
    """
    One link of a chain: an object in the lake that covers ``[start, end)`` of one partition.

    Attributes:
        key: Its key in the store.

        size: In bytes.

        trailer: What it says of itself.

        modified_s: When the store got it, by the store's clock; None where it does not tell.
    """

    key: str
    size: int
    trailer: Trailer
    modified_s: float | None = attrs.field(default=None, eq=False)

    @property
    def start(self) -> int:
        return self.trailer.start

    @property
    def end(self) -> int:
        return self.trailer.end

    @property
    def partition(self) -> Partition:
        return self.trailer.partition

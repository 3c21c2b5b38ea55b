"""When a draft is committed, and how far a run is."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from headrace.commit import Held
from headrace.records import Batch, Partition


@attrs.frozen
class FlushPolicy:
    """
    When a draft is committed: at whichever comes first.

    Attributes:
        bytes: Of keys, values and headers, before compression.

        records: None: no limit.

        age_s: Seconds since its first record; holds for an idle partition too.
    """

    bytes: int = attrs.field(default=64 << 20, validator=attrs.validators.gt(0))
    records: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    age_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))

    def room(self, held: Held, batch: Batch) -> int:
        """How many records of *batch* still belong to the draft: at least one, for a draft that is not full."""
        count = len(batch)
        if self.records is not None:
            count = min(count, self.records - held.records)
        left = self.bytes - held.nbytes
        if batch.nbytes > left:
            count = min(count, max(1, left * len(batch) // batch.nbytes))
        return count

    def full(self, held: Held) -> bool:
        """Whether the draft is to be committed whatever its age."""
        return held.nbytes >= self.bytes or (self.records is not None and held.records >= self.records)


@attrs.frozen
class Progress:
    """
    How far a run is: numbers at one moment.

    Attributes:
        records: Read by this run.

        nbytes: Of their keys, values and headers.

        stored_records: Of these, committed.

        segments: Committed by this run.

        offsets_done: Of `offsets_total`; counts offsets, which may be more than records.

        offsets_total: What a bounded run was asked for, in the partitions that it owns; None for an endless one.

        held_bytes: Memory in drafts, as last counted.

        oldest_s: How long the oldest record that is not stored has been here, in seconds; 0.0 where there is none.

        lag: Offsets that the log has and the sink has not, in the partitions that this run owns; None where no end is known.
            At most a second old, and as new as the source's last news of the log's end.

        lags: The same by partition, of those whose end is known.

        records_per_s: Read a second, over the last five or so.

        bytes_per_s: Of their keys, values and headers.

        elapsed_s: Since the run began.
    """

    records: int = 0
    nbytes: int = 0
    stored_records: int = 0
    segments: int = 0
    offsets_done: int = 0
    offsets_total: int | None = None
    held_bytes: int = 0
    oldest_s: float = 0.0
    lag: int | None = None
    lags: Mapping[Partition, int] = attrs.field(factory=dict)
    records_per_s: float = 0.0
    bytes_per_s: float = 0.0
    elapsed_s: float = 0.0

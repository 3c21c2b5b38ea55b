"""All that a pipeline holds: the drafts of every owned partition, in the queues that they move through."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import attrs

from headrace.commit import Held, Holding
from headrace.committer import Committer
from headrace.flush import FlushPolicy
from headrace.records import Batch, Partition
from headrace.sink import Sink


@attrs.define(kw_only=True, eq=False)
class Holdings:
    """
    The holdings by partition, and which of their drafts is open, waits, or is being committed.

    What may be done with a draft is its `Holding`'s to say; here it is found without looking at every partition.

    Attributes:
        sink: Makes drafts.

        flush: Says when they are full or old.

        committer: Sends them.

        memory_bytes: Shared among the owned partitions for what drafts buffer before they encode.

        clock: Monotonic seconds.

        held_bytes: Memory in drafts: never too low, too high until `count` was called.
    """

    sink: Sink
    flush: FlushPolicy
    committer: Committer
    memory_bytes: int
    clock: Callable[[], float]
    held_bytes: int = 0
    _all: dict[Partition, Holding] = attrs.field(factory=dict)
    _open: dict[Partition, Held] = attrs.field(
        factory=dict
    )  # oldest first: the order of insertion is the order of time
    _waiting: dict[Partition, Holding] = attrs.field(factory=dict)  # has a closed draft, and none under way
    _flying: dict[Partition, Held] = attrs.field(factory=dict)

    def __iter__(self) -> Iterator[Holding]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, partition: object) -> bool:
        return partition in self._all

    def get(self, partition: Partition) -> Holding | None:
        return self._all.get(partition)

    def begin(self, holding: Holding) -> None:
        """Hold this partition from now on."""
        self._all[holding.partition] = holding

    def forget(self, partition: Partition) -> None:
        """Hold nothing of this partition any more; a commit under way is not waited for (B28)."""
        self.unqueue(partition)
        holding = self._all.pop(partition, None)
        if holding is not None:
            holding.forget()

    def unqueue(self, partition: Partition) -> None:
        """Take the partition's drafts out of all queues."""
        for queue in (self._open, self._waiting, self._flying):
            queue.pop(partition, None)

    # ---- filling ------------------------------------------------------------------------------------------

    def add(self, holding: Holding, batch: Batch) -> None:
        """Encode an accepted batch into the open draft; one that is full or urgent is closed, and another one opened."""
        rest: Batch | None = batch
        while rest is not None:
            held = holding.open or self._open_draft(holding, rest)
            room = self.flush.room(held, rest)
            part, rest = rest.split(room) if room < len(rest) else (rest, None)
            before = held.draft.held_bytes
            held.draft.add(part)
            self.held_bytes += max(0, held.draft.held_bytes - before)
            held.leader_epoch = part.leader_epoch
            held.records += len(part)
            held.nbytes += part.nbytes
            # what a commit makes of a draft is a copy, for a moment: one must not be most of the memory
            if self.flush.full(held) or held.draft.held_bytes > self.memory_bytes // 8:
                self.close_draft(holding.partition)
        if batch.urgent:
            self.close_draft(holding.partition)

    def _open_draft(self, holding: Holding, batch: Batch) -> Held:
        buffer_bytes = self.memory_bytes // (4 * len(self._all))
        draft = self.sink.draft(holding.partition, holding.draft_position, buffer_bytes)
        held = Held(draft, self.clock(), batch.leader_epoch)
        holding.drafts.append(held)
        self._open[holding.partition] = held
        return held

    def close_draft(self, partition: Partition) -> None:
        """No more is added to the partition's open draft, if there is one: it waits for its turn."""
        held = self._open.pop(partition, None)
        if held is not None:
            held.closed = True
            self._waiting[partition] = self._all[partition]

    def close_old(self) -> None:
        """
        Close the drafts that have reached their age.

        One whose partition waits for the answer to an earlier draft could not be sent anyway (B24): it stays open and takes
        more, so that a store that is slow is sent larger segments and not a growing queue of small ones.
        """
        latest_s = self.clock() - self.flush.age_s
        old = list(itertools.takewhile(lambda item: item[1].opened_s <= latest_s, self._open.items()))
        for partition, held in old:
            if self._is_oldest(partition, held):
                self.close_draft(partition)

    def close_oldest(self) -> bool:
        """Close the oldest open draft; False where none is open."""
        oldest = next(iter(self._open), None)
        if oldest is not None:
            self.close_draft(oldest)
        return oldest is not None

    def hurry_oldest(self, nbytes: int) -> None:
        """
        Close the oldest open drafts, until so many bytes are on their way.

        What is on its way already counts: a sink that is slow is not sent ever smaller drafts.
        """
        sent = sum(held.draft.held_bytes for h in self._all.values() for held in h.drafts if held.closed)
        while sent < nbytes and self._open:
            oldest = next(iter(self._open))
            sent += self._open[oldest].draft.held_bytes
            self.close_draft(oldest)

    def due_s(self) -> float | None:
        """Seconds until the oldest open draft that could be sent reaches its age; None where there is none."""
        oldest = next((held for p, held in self._open.items() if self._is_oldest(p, held)), None)
        return None if oldest is None else max(0.0, oldest.opened_s + self.flush.age_s - self.clock())

    def _is_oldest(self, partition: Partition, held: Held) -> bool:
        """Whether nothing of the partition is to be sent before it."""
        drafts = self._all[partition].drafts
        return bool(drafts) and drafts[0] is held

    # ---- committing ---------------------------------------------------------------------------------------

    def commit_ready(self) -> None:
        """Send the oldest closed draft of each partition that has none under way (B24)."""
        work = [(h, held) for h in self._waiting.values() if (held := h.ready()) is not None]
        for holding, held in work:
            self._flying[holding.partition] = held
            del self._waiting[holding.partition]
        if work:
            self.committer.submit(work)

    def answered(self) -> list[tuple[Holding, Held]]:
        """Take out the drafts whose answer has come; those that were forgotten meanwhile are left out (B28)."""
        done = [(p, h) for p, h in self._flying.items() if h.commit is not None and h.commit.done()]
        for partition, _ in done:
            del self._flying[partition]
        found = [(self._all.get(p), h) for p, h in done]
        return [(holding, h) for holding, h in found if holding and holding.drafts and holding.drafts[0] is h]

    def requeue(self, holding: Holding) -> None:
        """After an answer: the next draft waits for its turn, if it is closed already."""
        if holding.open is None:
            self._open.pop(holding.partition, None)
        if holding.drafts and holding.drafts[0].closed:
            self._waiting[holding.partition] = holding

    @property
    def under_way(self) -> list[Held]:
        """The drafts that are being committed."""
        return list(self._flying.values())

    def above(self, nbytes: int) -> bool:
        """Whether drafts hold more than that; counted exactly only where it may be so."""
        return self.held_bytes > nbytes and self.count() > nbytes

    def count(self) -> int:
        """Count the memory in drafts, exactly."""
        self.held_bytes = sum(held.draft.held_bytes for h in self._all.values() for held in h.drafts)
        return self.held_bytes

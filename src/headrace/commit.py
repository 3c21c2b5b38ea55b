"""
The commit protocol of one partition: what is held, where it may be committed, and what an answer means.

The sink is a compare-and-append log. A commit at position p is one conditional write under a name that p alone decides, so of
any number of writers one succeeds, whoever was paused, restarted or deposed. That makes the chain exactly once if, and only
if, whoever commits at p

- saw the chain complete up to p (`Position`, from a look-up or from the commit before), and
- holds everything that is readable from p on.

The second half is kept here. A `Holding` covers ``[base, next)``: *base* is what the source was told to fetch from, *next* is
where its next batch must start. The records in between are in drafts, oldest first: the first stands at the chain's position,
each other one at the end of the draft before it.

==================== ========================================================================================
`accept`             a batch is taken only if it starts at *next* and was read under this assignment (B17, B20)
`ready`              only the oldest draft may be committed, one at a time, and only from ``base == p`` (B23, B24)
`stored`             it is stored: position and base move to its end (B25)
`looked_up`          somebody else was first: go on only where nothing was missed, else forget all (B26)
`below_log`          retention overtook the reader: holes, or a gap that is named (B18)
`hint`               what may be acknowledged: only what is stored (B27)
==================== ========================================================================================

No I/O here, no clock, no thread: the pipeline does what a holding says. The rules' numbers are those of the protocol page in
the documentation, where each stands with the fault that it survives.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Literal

import attrs

from headrace.errors import DataError, IdentityError, PluginError, PositionConflictError
from headrace.records import Batch, Hint, Identity, Partition, Position, Reached, Start
from headrace.sink import Draft


@attrs.define(eq=False)
class Held:
    """
    A draft in a holding, with what the pipeline counts of it.

    Attributes:
        draft: The sink's.

        opened_s: When its first record came.

        records: How many it holds.

        nbytes: Of keys, values and headers.

        leader_epoch: Of its last record; None where the source has none.

        closed: Nothing is added any more; it waits for its commit.

        commit: The commit under way; None where there is none.

        given_back: It is not to be stored by us any more: a commit under way is not tried again.
    """

    draft: Draft
    opened_s: float
    leader_epoch: int | None
    records: int = 0
    nbytes: int = 0
    closed: bool = False
    commit: Future[Position] | None = None
    given_back: bool = False

    def discard(self) -> None:
        """Give the draft back: at once, or when the attempt under way has ended; a sink never sees both at a time."""
        self.given_back = True
        if self.commit is None:
            self.draft.discard()
        else:
            self.commit.cancel()  # where it has not begun
            self.commit.add_done_callback(lambda _: self.draft.discard())


@attrs.define(eq=False)
class Holding:
    """
    What is held of one owned partition, from its assignment to its release.

    Attributes:
        partition: Which.

        position: How far the chain is known to reach.

        assignment: The number that its batches must carry.

        base: Where the source was told to fetch from; None until a start policy has been resolved.

        next: Where the next batch must start.

        drafts: Oldest first; only the last may be open.

        given: The hint that came with the assignment: what another owner may have known of holes (B18).

        until: A bounded run is done when *next* reaches it; None: endless.

        begun: Where the start policy was resolved before; see `Start.begun`.

        below: Where the log begins, while a `BelowLog` waits for the drafts to be stored.

        resting: The source was told to fetch no more of it: a bounded run has what it was asked for.
    """

    partition: Partition
    position: Position
    assignment: int
    base: int | None
    next: int | None
    given: Hint | None = None
    until: int | None = None
    begun: int | None = None
    drafts: deque[Held] = attrs.field(factory=deque)
    below: int | None = None
    resting: bool = False
    _noted: int | None = None
    _holes_to: int = 0
    _epoch: int = -1

    @classmethod
    def begin(cls, partition: Partition, position: Position, start: Start, hint: Hint | None = None) -> Holding:
        """Hold nothing yet, from *start* on: the look-up's position, or a policy where the chain is empty (B16, B22)."""
        epoch = -1 if position.leader_epoch is None else position.leader_epoch
        place = (start.assignment, start.offset, start.offset)
        return cls(partition, position, *place, given=hint, begun=start.begun, epoch=epoch)

    # ---- reading ------------------------------------------------------------------------------------------

    def accept(self, batch: Batch) -> bool:
        """
        Say whether *batch* is to be held: True moves *next* to its end, False drops it, being of an earlier assignment.

        Raises:
            PluginError: It does not start where the one before ended: the source broke its contract (B17).
            IdentityError: Its leader epoch went backwards: the broker that sent it lags behind (B20).
        """
        if batch.assignment != self.assignment:
            return False
        if self.next is None:  # the start policy has been resolved
            self.base = self.next = batch.start
        if batch.start != self.next:
            raise PluginError(
                f"{self.partition}: found a batch [{batch.start}, {batch.end}), expected one that starts at {self.next};"
                " the source skipped or repeated records"
            )
        if batch.leader_epoch is not None:
            if batch.leader_epoch < self._epoch:
                raise IdentityError(
                    f"{self.partition}: found leader epoch {batch.leader_epoch} at offset {batch.start}, expected at least"
                    f" {self._epoch}; a broker that lags behind answered, or the log was cut back"
                )
            self._epoch = batch.leader_epoch
        self.next = batch.end
        return True

    def reached(self, event: Reached) -> None:
        """Nothing readable is left below the event's position: *next* moves, *base* never does (B17)."""
        if event.assignment != self.assignment:
            return
        if self.next is None:
            self.base = self.next = event.position
        self.next = max(self.next, event.position)

    @property
    def open(self) -> Held | None:
        """The draft that takes the next batch, if there is one."""
        return self.drafts[-1] if self.drafts and not self.drafts[-1].closed else None

    @property
    def draft_position(self) -> int:
        """Where the next draft is to be committed: at the end of the last one, or at the chain's end (B17)."""
        return self.drafts[-1].draft.end if self.drafts else self.position.offset

    @property
    def done(self) -> bool:
        """Whether a bounded run has read all that it was asked to (B19)."""
        return self.until is not None and self.next is not None and self.next >= self.until

    # ---- committing ---------------------------------------------------------------------------------------

    def ready(self) -> Held | None:
        """The draft that may be committed now, or None: the oldest, closed, with no commit under way (B23, B24)."""
        if not self.drafts:
            return None
        oldest = self.drafts[0]
        p = self.position.offset
        covered = self.base == p or p == 0 or self._noted == p
        return oldest if oldest.closed and oldest.commit is None and covered else None

    def stored(self, position: Position) -> Held:
        """The oldest draft is stored: position and base are its end (B25)."""
        held = self.drafts.popleft()
        self.position = position
        self.base = position.offset
        return held

    def looked_up(self, found: Position, *, rereadable: bool = True) -> Literal["go on", "fetch again"]:
        """
        Take a position that was looked up after a refusal or a long pause (B26). An encoded draft cannot be cut.

        "go on": the chain stands where the oldest draft does, or at the end of a held one which is what is stored there: what
        is stored is dropped, the rest is still complete. "fetch again": anything else; all is dropped, and the source must be
        moved to *found*.

        Of a log that is *rereadable* the same offset under the same leader is the same record, whoever stored it. A live feed's
        offsets are its reader's own, and another reader's say nothing: there the content must be the draft's.
        """
        if found.offset == self.position.offset:
            self.position = found  # only its age is new
            return "go on"
        for i, held in enumerate(self.drafts):
            if rereadable:
                same = found.leader_epoch in (held.leader_epoch, None)
            else:
                same = found.digest is not None and found.digest == held.draft.digest
            if held.draft.end == found.offset and same:
                for _ in range(i + 1):
                    self.drafts.popleft().discard()
                self.position = found
                self.base = found.offset
                return "go on"
        self.forget()
        self.position = found
        return "fetch again"

    def restart(self, start: Start) -> None:
        """Hold nothing, from *start* on: a fresh assignment at the same partition (B26)."""
        self.forget()
        self.assignment, self.base, self.next = start.assignment, start.offset, start.offset
        self.below = self._noted = None
        self._holes_to = 0
        self.resting = False
        # what was read before, perhaps under later leaders, is read again: the segment found is what comes before (B20)
        self._epoch = -1 if self.position.leader_epoch is None else self.position.leader_epoch

    def resume(self) -> Start:
        """
        Say where to read on after a pause: behind the last record that was read, under its leader; number and base stay (B17).

        Holes that were read behind it are read again: under which leader they end is not known, and with a wrong one the log
        would seem cut back, or would not seem so when it was (B21).
        """
        if self.base is not None and self.next is not None:
            self._holes_to = max(self._holes_to, self.next)
            self.next = self.draft_position if self.drafts else max(self.base, self.position.offset)
        return Start(self.next, None if self._epoch < 0 else self._epoch, self.assignment, self.begun)

    def forget(self) -> None:
        """Give all drafts back; nothing of them is stored by us any more (B28)."""
        while self.drafts:
            self.drafts.pop().discard()

    # ---- retention and acknowledgement --------------------------------------------------------------------

    def below_log(self, low: int) -> Literal["begin", "holes", "gap"]:
        """
        The log begins at *low*, above *next*, and no draft is left: say what lies between (B18).

        "begin": the chain is empty, its first segment holds what the log still has. "holes": the hint proves that only
        holes were there. "gap": records may be lost.
        """
        p = self.position.offset
        if p == 0 and self.position.segment is None:
            return "begin"
        if self.base == p and low <= self._holes_to:
            return "holes"  # we have read them
        hint = self.given
        proof = hint is not None and hint.segment is not None and hint.dataset_id == self.position.dataset_id
        if proof and hint is not None and hint.segment == self.position.segment and hint.offset >= low:
            return "holes"
        return "gap"

    def step_over(self, low: int, kind: Literal["begin", "holes", "noted"], assignment: int) -> None:
        """Go on at *low*: after holes the base stays at the position, otherwise it is *low* (B18)."""
        self.assignment, self.next, self.below = assignment, low, None
        self.base = self.position.offset if kind == "holes" else low
        self._noted = self.position.offset if kind == "noted" else None

    def hint(self) -> Hint:
        """
        What may be acknowledged: the position, or *next* where nothing is held below it (B27).

        Of an empty chain it is where reading began: nothing below that will ever be stored.
        """
        p = self.position.offset
        if self.position.segment is None:
            begun = self.base if self.drafts else self.next
            return Hint(p if begun is None else max(p, begun), None, self.position.dataset_id)
        # past an accepted loss there are not only holes between p and next: that is no proof for below_log
        only_holes = not self.drafts and self.base == p
        offset = max(p, self.next) if only_holes and self.next is not None else p
        return Hint(offset, self.position.segment, self.position.dataset_id)


# ---- what every sink asks before it commits -----------------------------------------------------------------------------


def check_commit(partition: Partition, position: int, base: int, at: Position, *, noted: bool) -> None:
    """
    Say whether a draft of *position*, which covers from *base* on, may be committed at *at* (B23).

    Args:
        partition: Whose.

        position: The draft's own.

        base: Where the source was told to fetch from.

        at: The position as it is known.

        noted: Whether what lies between position and base is a loss that was accepted.

    Raises:
        PositionConflictError: The draft is of another position.
        DataError: Something between position and base would be left out.
    """
    if at.offset != position:
        raise PositionConflictError(
            f"{partition}: draft of {position}, position {at.offset}", expected=position, found=at
        )
    if base != position and position != 0 and not noted:
        raise DataError(
            f"{partition}: what is held begins at {base}, the position is {position}: [{position}, {base}) is not covered"
        )


def check_identity(partition: Partition, found: Identity, pinned: Identity) -> None:
    """IdentityError where the stream is not the one that its positions were pinned to: they mean nothing then (B20)."""
    if not found.is_same(pinned):
        raise IdentityError(
            f"{partition}: the stream is now topic {found.topic} on cluster {found.cluster}, expected topic {pinned.topic}"
            f" on cluster {pinned.cluster}, to which it is pinned; it was made again: begin a new epoch (epoch=NAME)"
        )

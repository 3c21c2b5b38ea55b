"""The commit protocol of one partition, rule by rule; the state machine tries them all together."""

from __future__ import annotations

from concurrent.futures import Future

import attrs
import pytest

from headrace.commit import Held, Holding
from headrace.errors import IdentityError, PluginError
from headrace.records import Batch, Hint, Identity, Partition, Position, Reached, Record, Start
from headrace.sink import Draft

TICKS = Partition("ticks", 3)


@attrs.define
class FakeDraft(Draft):
    position: int
    last: int
    discarded: bool = False
    digest: str | None = None

    @property
    def held_bytes(self) -> int:
        return 1

    @property
    def end(self) -> int:
        return self.last

    def add(self, batch: Batch) -> None:
        self.last = batch.end

    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        raise NotImplementedError

    def discard(self) -> None:
        self.discarded = True


def position(offset: int, *, segment: tuple[int, int] | None = None, epoch: int | None = None) -> Position:
    return Position(offset, segment or ((0, offset) if offset else None), "d", epoch, 0.0)


def batch(start: int, end: int, *, assignment: int = 1, epoch: int | None = None) -> Batch:
    records = [Record(o, 0, None, b"1") for o in range(start, end)]
    return Batch.of(TICKS, records, assignment=assignment, leader_epoch=epoch)


def holding(offset: int, *, hint: Hint | None = None, epoch: int | None = None) -> Holding:
    at = position(offset, epoch=epoch)
    return Holding.begin(TICKS, at, Start(offset, epoch, 1), hint)


def hold(held_by: Holding, *ends: int, closed: bool = True, epoch: int | None = None) -> list[FakeDraft]:
    """Read and draft up to each of *ends*, a draft each."""
    drafts = []
    for end in ends:
        start = held_by.next
        assert start is not None
        assert held_by.accept(batch(start, end, epoch=epoch))
        draft = FakeDraft(held_by.draft_position, end)
        held_by.drafts.append(Held(draft, 0.0, epoch, closed=closed))
        drafts.append(draft)
    return drafts


def test_a_batch_that_does_not_join_up_is_refused() -> None:
    """A source that skips a record is found out before anything of it is stored (B17)."""
    held_by = holding(10)

    with pytest.raises(PluginError, match=r"found a batch \[11, 12\), expected one that starts at 10"):
        held_by.accept(batch(11, 12))


def test_a_batch_of_an_earlier_assignment_is_dropped() -> None:
    """What was read before the source was moved does not count (B17)."""
    held_by = holding(10)
    held_by.restart(Start(10, None, 2))

    assert not held_by.accept(batch(10, 11, assignment=1))
    assert held_by.next == 10


def test_reached_moves_next_and_never_base() -> None:
    """Holes behind the position do not change what a commit covers (B17)."""
    held_by = holding(10)

    held_by.reached(Reached(TICKS, 1, 15, at_end=True))

    assert (10, 15) == (held_by.base, held_by.next)
    assert held_by.accept(batch(15, 16))


def test_an_older_leader_is_refused() -> None:
    """A batch read from a deposed leader may come from a log that was cut back since (B20)."""
    held_by = holding(10, epoch=5)

    with pytest.raises(IdentityError, match="found leader epoch 4 at offset 10, expected at least 5"):
        held_by.accept(batch(10, 11, epoch=4))


def test_drafts_stand_end_to_end() -> None:
    """A draft is opened at the end of the one before, whatever its first batch's start (B17, B24)."""
    held_by = holding(10)
    hold(held_by, 12, 15)
    held_by.reached(Reached(TICKS, 1, 20, at_end=False))

    assert [10, 12] == [h.draft.position for h in held_by.drafts]
    assert 15 == held_by.draft_position


def test_only_the_oldest_closed_draft_may_be_committed() -> None:
    """The next commit of a partition waits for the answer to the one before (B24)."""
    held_by = holding(10)
    hold(held_by, 12, 15)
    first, second = held_by.drafts

    assert held_by.ready() is first
    first.commit = object()  # type: ignore[assignment]
    assert held_by.ready() is None
    first.commit = None
    held_by.stored(position(12, segment=(10, 12)))
    assert held_by.ready() is second


def test_nothing_may_be_committed_that_was_not_fetched_from_the_position() -> None:
    """Between the position and the base something may be missing: only a note allows it (B23)."""
    held_by = holding(10)
    held_by.base = 12
    held_by.next = 12
    hold(held_by, 14)

    assert held_by.ready() is None

    held_by._noted = 10
    assert held_by.ready() is not None


def test_an_empty_chain_may_begin_anywhere() -> None:
    """The first segment is at key 0, whatever its first record's offset (B2)."""
    held_by = Holding.begin(TICKS, position(0), Start(None, None, 1))
    assert held_by.accept(batch(40, 42))
    held_by.drafts.append(Held(FakeDraft(held_by.draft_position, 42), 0.0, None, closed=True))

    assert (0, 40) == (held_by.drafts[0].draft.position, held_by.base)
    assert held_by.ready() is not None


class TestLookedUp:
    """What a look-up after a refusal or a long pause means for what is held (B26)."""

    def test_nothing_changed(self) -> None:
        """A position that only aged keeps every draft."""
        held_by = holding(10)
        hold(held_by, 12, 15)

        assert "go on" == held_by.looked_up(attrs.evolve(position(10), looked_up_s=7.0))
        assert [10, 12] == [h.draft.position for h in held_by.drafts]
        assert 7.0 == held_by.position.looked_up_s

    def test_the_end_of_a_held_draft(self) -> None:
        """Drafts that end where the chain does are done, whoever stored them; the rest go on."""
        held_by = holding(10)
        drafts = hold(held_by, 12, 15, 18)

        assert "go on" == held_by.looked_up(position(15, segment=(12, 15)))
        assert [True, True, False] == [d.discarded for d in drafts]
        assert (15, 15) == (held_by.base, held_by.drafts[0].draft.position)

    @pytest.mark.parametrize("found", [11, 14, 99, 5])
    def test_anything_else_drops_all(self, found: int) -> None:
        """An encoded draft cannot be cut: what does not fit is fetched again (T4: dropping only what is below loses)."""
        held_by = holding(10)
        drafts = hold(held_by, 12, 15)

        assert "fetch again" == held_by.looked_up(position(found))
        assert all(d.discarded for d in drafts)
        assert not held_by.drafts

    def test_a_later_leader_drops_all(self) -> None:
        """A segment written under a later leader than ours may have replaced what we read."""
        held_by = holding(10)
        hold(held_by, 12, epoch=3)
        hold(held_by, 15, epoch=3)

        assert "fetch again" == held_by.looked_up(position(12, epoch=4))

    def test_an_earlier_leader_drops_all(self) -> None:
        """What is stored was cut off before we read: only a fetch from there finds that out (B21)."""
        held_by = holding(10)
        hold(held_by, 12, 15, epoch=3)

        assert "fetch again" == held_by.looked_up(position(12, epoch=2))

    def test_the_same_leader_goes_on(self) -> None:
        """The same offset under the same leader is the same record; so is all before it."""
        held_by = holding(10)
        hold(held_by, 12, epoch=3)
        hold(held_by, 15, epoch=4)

        assert "go on" == held_by.looked_up(position(12, epoch=3))
        assert [12] == [h.draft.position for h in held_by.drafts]

    @pytest.mark.parametrize(
        ("ours", "found", "what"),
        [
            ("a", "a", "go on"),  # our own write, landed after a lost answer
            ("a", "b", "fetch again"),  # just as many records of another process
            (None, "b", "fetch again"),  # not sent yet
            (None, None, "fetch again"),  # a sink that tells no digest
            ("a", None, "fetch again"),
        ],
    )
    def test_a_live_feeds_draft_is_known_by_what_it_holds(self, ours: str | None, found: str | None, what: str) -> None:
        """A feed's offsets are its reader's own: where a draft ends says nothing of whose records are stored there."""
        held_by = holding(10)
        drafts = hold(held_by, 12, 15)
        drafts[0].digest = ours

        there = attrs.evolve(position(12, segment=(10, 12)), digest=found)
        assert what == held_by.looked_up(there, rereadable=False)
        assert [True, what == "fetch again"] == [d.discarded for d in drafts]
        assert (1 if what == "go on" else 0) == len(held_by.drafts)

    def test_what_is_fetched_again_may_be_of_an_earlier_leader(self) -> None:
        """The segment found is what comes before, not what was read and dropped (B20, B26)."""
        held_by = holding(0)
        hold(held_by, 3, epoch=1)
        hold(held_by, 6, epoch=2)

        assert "fetch again" == held_by.looked_up(position(2, epoch=1))
        held_by.restart(Start(2, 1, 2))

        assert held_by.accept(batch(2, 3, assignment=2, epoch=1))
        with pytest.raises(IdentityError, match="found leader epoch 0 at offset 3, expected at least 1"):
            held_by.accept(batch(3, 4, assignment=2, epoch=0))


def test_a_draft_is_given_back_when_its_commit_has_ended() -> None:
    """A sink never sees commit and discard of one draft at a time (B28)."""
    held_by = holding(0)
    [draft] = hold(held_by, 3)
    under_way: Future[Position] = Future()
    under_way.set_running_or_notify_cancel()
    held_by.drafts[0].commit = under_way

    held_by.forget()
    assert not draft.discarded
    under_way.set_result(position(3))
    assert draft.discarded


def test_a_commit_that_has_not_begun_never_does() -> None:
    """A draft that waits for a worker is given back at once."""
    held_by = holding(0)
    [draft] = hold(held_by, 3)
    held_by.drafts[0].commit = waiting = Future()

    held_by.forget()

    assert draft.discarded
    assert waiting.cancelled()


class TestResume:
    """Where a source that was paused reads on."""

    def test_behind_the_last_record_under_its_leader(self) -> None:
        """Number and base stay; holes are read again, for nobody knows under which leader they end (B17, B21)."""
        held_by = holding(10, epoch=1)
        hold(held_by, 12, epoch=2)
        held_by.reached(Reached(TICKS, 1, 20, at_end=False))

        assert Start(12, 2, 1) == held_by.resume()
        assert (10, 12) == (held_by.base, held_by.next)
        assert held_by.accept(batch(12, 13, epoch=3))

    def test_holes_that_were_read_are_no_gap(self) -> None:
        """Where retention takes them before they are read again nothing is lost (B18)."""
        held_by = holding(10, epoch=1)
        held_by.reached(Reached(TICKS, 1, 20, at_end=False))

        assert Start(10, 1, 1) == held_by.resume()
        assert ["holes", "gap"] == [held_by.below_log(low) for low in (20, 21)]

    def test_what_a_policy_has_not_resolved_stays_open(self) -> None:
        """The start policy is asked again (B22)."""
        assert Start(None, None, 1) == Holding.begin(TICKS, position(0), Start(None, None, 1)).resume()


class TestBelowLog:
    """The log begins above what is to be read next (B18)."""

    def test_an_empty_chain_begins_where_the_log_does(self) -> None:
        """Before our first segment nothing was promised."""
        held_by = Holding.begin(TICKS, position(0), Start(0, None, 1))

        assert "begin" == held_by.below_log(7)
        held_by.step_over(7, "begin", 2)
        assert (7, 7, 2) == (held_by.base, held_by.next, held_by.assignment)

    def test_holes_need_a_proof(self) -> None:
        """A hint that names the newest segment and reaches the log's beginning proves that only holes were there (T14)."""
        proof = Hint(20, (5, 10), "d")
        at = position(10, segment=(5, 10))

        assert "holes" == Holding.begin(TICKS, at, Start(10, None, 1), proof).below_log(20)
        for weaker in (None, Hint(20), Hint(19, (5, 10), "d"), Hint(20, (4, 10), "d"), Hint(20, (5, 10), "other")):
            assert "gap" == Holding.begin(TICKS, at, Start(10, None, 1), weaker).below_log(20)

    def test_holes_keep_the_base(self) -> None:
        """The next segment starts at the position: nothing is missing in between."""
        held_by = holding(10)
        held_by.step_over(20, "holes", 2)

        assert (10, 20) == (held_by.base, held_by.next)

    def test_a_noted_loss_allows_the_commit(self) -> None:
        """After the note the segment is still put at the chain's position."""
        held_by = holding(10)
        held_by.step_over(20, "noted", 2)
        assert held_by.accept(batch(20, 22, assignment=2))
        held_by.drafts.append(Held(FakeDraft(held_by.draft_position, 22), 0.0, None, closed=True))

        assert 10 == held_by.drafts[0].draft.position
        assert held_by.ready() is not None


class TestHint:
    """What is acknowledged (B27)."""

    def test_only_what_is_stored(self) -> None:
        """Records that are held are not acknowledged."""
        held_by = holding(10)
        hold(held_by, 12)

        assert Hint(10, (0, 10), "d") == held_by.hint()

    def test_holes_behind_the_position_are_done(self) -> None:
        """With nothing held the lag over holes is 0."""
        held_by = holding(10)
        held_by.reached(Reached(TICKS, 1, 15, at_end=True))

        assert Hint(15, (0, 10), "d") == held_by.hint()

    def test_a_noted_loss_is_no_proof_of_holes(self) -> None:
        """Past an accepted loss the acknowledged offset stays at the position, or it would pass for holes later."""
        held_by = holding(10)
        held_by.step_over(20, "noted", 2)
        held_by.reached(Reached(TICKS, 2, 25, at_end=True))

        assert Hint(10, (0, 10), "d") == held_by.hint()

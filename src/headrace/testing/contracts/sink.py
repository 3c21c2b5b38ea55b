"""What every sink keeps, and what those keep that deliver exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol

import attrs
import pytest

from headrace.errors import CommitUnknownError, ConfigError, HeadraceError, IdentityError, PositionConflictError
from headrace.records import Batch, Extent, Hint, Identity, Partition, Position, Record
from headrace.sink import Draft, Sink
from headrace.testing.contracts.values import VALUES, hostile_records

WRITERS = 4
BUFFER_BYTES = 1 << 20


class SinkPlace(Protocol):
    """Where a sink writes to: what whoever writes a sink makes for these tests."""

    def open(self) -> Sink:
        """Make a sink as another process would: it shares nothing with those before but the place."""

    def read(self, partition: Partition) -> Sequence[Record]:
        """Read what is stored of a partition in its order, by other means than the sink's."""


@attrs.define(eq=False)
class Writer:
    """
    Commits to one partition through a sink of its own.

    Attributes:
        sink: Bound to the stream.

        partition: Which.

        identity: Of the stream.
    """

    sink: Sink
    partition: Partition
    identity: Identity

    def position(self, hint: Hint | None = None) -> Position:
        """Look the position up."""
        found = self.sink.positions({self.partition: hint})[self.partition]
        if isinstance(found, Exception):
            raise found
        return found

    def draft(self, position: int, *parts: Sequence[Record]) -> Draft:
        """Open a draft that holds these records, a batch a part."""
        draft, start = self.sink.draft(self.partition, position, BUFFER_BYTES), position
        for part in parts:
            batch = Batch.of(self.partition, part, assignment=1, start=start)
            draft.add(batch)
            start = batch.end
        return draft

    def commit(self, draft: Draft, at: Position, *, base: int | None = None) -> Position:
        """Commit a draft that covers everything from its position on."""
        return draft.commit(draft.position if base is None else base, at, self.identity)

    def put(self, *parts: Sequence[Record]) -> Position:
        """Look up, draft, commit."""
        at = self.position()
        return self.commit(self.draft(at.offset, *parts), at)


class SinkContract:
    """
    A sink: what is committed is stored, all of it, in order and to the byte; what is not committed is not.

    Attributes:
        values: What it can store as values.

        carries: Those fields of a record that can be read back.

        identity: Of the stream.
    """

    values: Sequence[bytes | None] = VALUES
    carries: Sequence[str] = ("offset", "timestamp_ms", "timestamp_type", "key", "value", "headers")
    identity: Identity = Identity("cluster", "topic", "read_committed", 4)
    stream: str = "ticks"

    @pytest.fixture
    def place(self) -> SinkPlace:
        """Return a place where nothing is."""
        raise NotImplementedError

    @pytest.fixture
    def sink(self, place: SinkPlace) -> Iterator[Sink]:
        """Return a sink that is bound to the stream."""
        with place.open() as sink:
            sink.bind(self.extents())
            yield sink

    @pytest.fixture
    def writer(self, sink: Sink) -> Writer:
        """Return the writer of the first partition."""
        return Writer(sink, self.partition, self.identity)

    @pytest.fixture
    def rival(self, place: SinkPlace) -> Iterator[Writer]:
        """Return another writer of the same partition, as it is when an owner was declared dead and is not."""
        with place.open() as sink:
            sink.bind(self.extents())
            yield Writer(sink, self.partition, self.identity)

    @property
    def partition(self) -> Partition:
        """The first partition."""
        return Partition(self.stream, 0)

    def extents(self, identity: Identity | None = None) -> dict[Partition, Extent]:
        """What a source says of the stream, or of another one in its place."""
        found = identity or self.identity
        return {Partition(self.stream, n): Extent(0, 10**6, 10**6, found) for n in range(found.partitions)}

    def records(self, start: int, end: int, word: str = "") -> list[Record]:
        """Make records of ``[start, end)`` that say who wrote them."""
        return [
            Record(offset, 1_700_000_000_000 + offset, b"k", b'{"offset":%d,"by":"%s"}' % (offset, word.encode()))
            for offset in range(start, end)
        ]

    def poison(self, start: int) -> list[Record]:
        """Make records of every hostile value, key and header, from *start* on, with holes between them."""
        return list(hostile_records(start, self.values))

    def stored(self, place: SinkPlace, expected: Sequence[Record], partition: Partition | None = None) -> None:
        """Hold what the place has of a partition against what was committed."""
        found = place.read(partition or self.partition)
        assert [[getattr(r, name) for name in self.carries] for r in found] == [
            [getattr(r, name) for name in self.carries] for r in expected
        ]

    # ---- drafts -----------------------------------------------------------------------------------------------------

    def test_a_new_place_holds_nothing(self, sink: Sink) -> None:
        """Every partition of a stream that is new here begins at 0."""
        found = sink.positions(dict.fromkeys(self.extents()))
        assert set(found) == set(self.extents())
        assert {(p.offset, p.segment) for p in found.values() if isinstance(p, Position)} == {(0, None)}

    def test_every_record_is_stored_to_the_byte(self, writer: Writer, place: SinkPlace) -> None:
        """Whatever is in a record, it is stored, and nothing beside it suffers."""
        records = [*self.records(0, 10), *self.poison(10)]
        records += self.records(records[-1].offset + 1, records[-1].offset + 11)
        position = writer.put(records)
        assert position.offset == records[-1].offset + 1
        self.stored(place, records)

    def test_a_draft_says_what_it_holds(self, writer: Writer) -> None:
        """Empty it ends where it begins; then behind its last record, holes before that counted and none after it."""
        draft = writer.sink.draft(self.partition, 0, BUFFER_BYTES)
        assert (draft.position, draft.end) == (0, 0)
        assert draft.held_bytes == 0
        records = [*self.records(3, 5), *self.records(9, 12)]
        draft.add(Batch.of(self.partition, records, assignment=1, start=0))
        assert (draft.position, draft.end) == (0, 12)
        assert draft.held_bytes > 0
        assert writer.commit(draft, writer.position()).offset == 12

    @pytest.mark.parametrize("cuts", [(), (1,), (29,), (10, 20), tuple(range(1, 30))], ids=str)
    def test_batches_make_no_difference(self, writer: Writer, place: SinkPlace, cuts: tuple[int, ...]) -> None:
        """However records are cut into batches, the same is stored."""
        records = self.records(0, 30)
        writer.put(*(records[a:b] for a, b in zip((0, *cuts), (*cuts, 30), strict=True)))
        self.stored(place, records)

    def test_a_draft_of_many_megabytes(self, writer: Writer, place: SinkPlace) -> None:
        """A draft may hold more than its buffer."""
        body = b'"%s"' % (b"0123456789" * 20_000)
        records = [attrs.evolve(r, value=body) for r in self.records(0, 25)]
        writer.put(*(records[n : n + 5] for n in range(0, 25, 5)))
        self.stored(place, records)

    def test_commits_follow_each_other(self, writer: Writer, place: SinkPlace) -> None:
        """Each commit returns the position of the next one."""
        at, records = writer.position(), self.records(0, 100)
        for n in range(0, 100, 10):
            assert at.offset == n
            at = writer.commit(writer.draft(n, records[n : n + 10]), at)
        assert at.offset == 100
        self.stored(place, records)

    def test_a_draft_may_be_opened_early(self, writer: Writer, place: SinkPlace) -> None:
        """The next draft is filled while the one before it waits for its commit (B24)."""
        records, at = self.records(0, 30), writer.position()
        drafts = [writer.draft(n, records[n : n + 10]) for n in (0, 10, 20)]
        for draft in drafts:
            at = writer.commit(draft, at)
        self.stored(place, records)

    def test_what_is_not_committed_is_not_stored(self, place: SinkPlace, writer: Writer) -> None:
        """A draft that is discarded, or whose sink is closed, leaves nothing; its place is free for another one."""
        writer.draft(0, self.records(0, 10, "discarded")).discard()
        with place.open() as other:
            other.bind(self.extents())
            Writer(other, self.partition, self.identity).draft(0, self.records(0, 10, "closed"))
        self.stored(place, [])
        writer.put(self.records(0, 10, "committed"))
        self.stored(place, self.records(0, 10, "committed"))

    def test_discard_gives_the_memory_back(self, writer: Writer) -> None:
        """A draft that was discarded holds nothing; a second time does nothing."""
        draft = writer.draft(0, self.records(0, 1000))
        draft.discard()
        draft.discard()
        assert draft.held_bytes == 0

    def test_partitions_do_not_meet(self, sink: Sink, place: SinkPlace) -> None:
        """Partitions are committed from several threads at once, each at its own position."""
        writers = [Writer(sink, p, self.identity) for p in self.extents()]

        def write(writer: Writer) -> int:
            at, word = writer.position(), f"{writer.partition.number}"
            for n in range(0, 50, 10):
                at = writer.commit(writer.draft(n, self.records(n, n + 10, word)), at)
            return at.offset

        with ThreadPoolExecutor(len(writers)) as pool:
            assert set(pool.map(write, writers)) == {50}
        for partition in self.extents():
            self.stored(place, self.records(0, 50, f"{partition.number}"), partition)

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def test_bind_says_what_is_pinned(self, place: SinkPlace, sink: Sink) -> None:
        """Binding again, here or in another process, returns the same identity for every stream."""
        with place.open() as other:
            for each in (sink, other, other):
                assert each.bind(self.extents()) == {self.stream: self.identity}

    def test_a_loss_is_noted_or_refused(self, writer: Writer) -> None:
        """A sink notes an accepted loss, any number of times, or says that it cannot."""
        at = writer.put(self.records(0, 3))
        try:
            writer.sink.note(self.partition, at.offset, 7)
        except ConfigError:
            return
        writer.sink.note(self.partition, at.offset, 7)
        draft = writer.sink.draft(self.partition, at.offset, BUFFER_BYTES)
        draft.add(Batch.of(self.partition, self.records(7, 9), assignment=1))
        assert writer.commit(draft, at, base=7).offset == 9

    def test_guarantee_is_said(self, sink: Sink) -> None:
        """A reader of the sink is told what to rely on."""
        assert sink.guarantee in {"exactly-once", "at-least-once"}

    def test_close_can_be_repeated(self, place: SinkPlace) -> None:
        """Closing twice does nothing, also before anything was done."""
        for bind in (False, True):
            with place.open() as sink:
                if bind:
                    sink.bind(self.extents())
            sink.close()


class ExactlyOnceSinkContract(SinkContract):
    """A sink whose position lives with the data, so that no crash, pause or rival can double or lose a record."""

    @pytest.fixture
    def lose_answer(self, writer: Writer) -> Callable[[bool], AbstractContextManager[object]]:
        """
        Return what makes one commit of `writer` fail with CommitUnknownError inside a block.

        Its argument says whether it is stored all the same.
        """
        raise NotImplementedError

    def test_guarantee_is_said(self, sink: Sink) -> None:
        """It claims what the rest of these tests are about."""
        assert sink.guarantee == "exactly-once"

    # ---- the position -----------------------------------------------------------------------------------------------

    def test_the_position_lives_with_the_data(self, writer: Writer, rival: Writer) -> None:
        """Another process finds the position that the last commit returned."""
        for end in (5, 9, 30):
            stored = writer.put(self.records(writer.position().offset, end))
            found = rival.position()
            assert (found.offset, found.segment, found.dataset_id) == (end, stored.segment, stored.dataset_id)
            assert found.segment is not None
            assert found.segment[1] == end

    def test_a_hint_never_changes_the_answer(self, writer: Writer, rival: Writer) -> None:
        """A hint that is right, behind, ahead, absurd or another dataset's says at most where to look first (B11)."""
        for end in (5, 9, 30):
            at = writer.put(self.records(writer.position().offset, end))
        places = (None, (0, 5), (5, 9), (9, 30), (30, 31), (7, 8), (10**12, 10**12 + 1))
        for dataset_id in (at.dataset_id, None, "0" * 32):
            for place in places:
                for offset in (0, 5, 30, 10**15):
                    assert rival.position(Hint(offset, place, dataset_id)).offset == 30

    def test_positions_age_from_before_the_look_up(self, writer: Writer) -> None:
        """A later look-up is younger, and so is the position that a commit returns."""
        first, second = writer.position(), writer.position()
        third = writer.put(self.records(0, 3))
        assert first.looked_up_s <= second.looked_up_s <= third.looked_up_s <= writer.position().looked_up_s

    def test_an_old_position_writes_nothing_wrong(self, writer: Writer, place: SinkPlace) -> None:
        """A position that is too old is looked up again; the commit goes on from what was found (B15)."""
        at = writer.put(self.records(0, 3))
        draft, old = writer.draft(3, self.records(3, 5)), attrs.evolve(at, looked_up_s=at.looked_up_s - 1e9)
        with pytest.raises(PositionConflictError) as told:
            writer.commit(draft, old)
        assert told.value.found is not None
        assert told.value.found.offset == 3
        assert writer.commit(draft, told.value.found).offset == 5
        self.stored(place, self.records(0, 5))

    # ---- rivals -----------------------------------------------------------------------------------------------------

    def test_the_second_writer_of_a_position_is_refused(self, writer: Writer, rival: Writer, place: SinkPlace) -> None:
        """Nothing of it is written, and the error says where the chain ends now (B26)."""
        writer.put(self.records(0, 3))
        old = rival.position()
        draft = rival.draft(3, self.records(3, 9, "rival"))
        writer.put(self.records(3, 5))
        for _ in range(2):
            with pytest.raises(PositionConflictError) as told:
                rival.commit(draft, old)
            assert (told.value.expected, told.value.found and told.value.found.offset) == (3, 5)
        self.stored(place, self.records(0, 5))
        rival.put(self.records(5, 9))
        self.stored(place, self.records(0, 9))

    def test_a_digest_tells_a_draft_from_a_rivals(self, writer: Writer, rival: Writer) -> None:
        """What a look-up finds is known for the draft that became it, and not for one that holds just as many records (B26)."""
        writer.put(self.records(0, 3))
        mine, theirs = writer.draft(3, self.records(3, 5)), rival.draft(3, self.records(3, 5, "rival"))
        at = rival.position()
        stored = writer.commit(mine, writer.position())
        with pytest.raises(PositionConflictError) as told:
            rival.commit(theirs, at)
        assert told.value.found is not None
        digests = {stored.digest, told.value.found.digest, writer.position().digest, rival.position().digest}
        assert digests == {mine.digest}
        assert mine.digest is None or mine.digest != theirs.digest

    def test_one_of_many_writers_wins(self, place: SinkPlace) -> None:
        """Of writers that race for one position exactly one is stored, again and again."""
        sinks = [place.open() for _ in range(WRITERS)]
        for sink in sinks:
            sink.bind(self.extents())
        writers = [Writer(sink, self.partition, self.identity) for sink in sinks]
        together, expected = threading.Barrier(WRITERS), []

        def write(number: int, start: int) -> int:
            at = writers[number].position()
            draft = writers[number].draft(start, self.records(start, start + 1 + number, f"{number}"))
            together.wait(60)
            unknown = False
            while True:
                try:
                    return writers[number].commit(draft, at).offset
                except CommitUnknownError:  # the same call settles it
                    unknown = True
                except PositionConflictError as told:
                    found = told.found.offset if told.found else 0
                    return found if unknown and found == draft.end else -found

        start = 0
        with ThreadPoolExecutor(WRITERS) as pool:
            for _ in range(5):
                ends = list(pool.map(write, range(WRITERS), [start] * WRITERS))
                (winner,) = (n for n, end in enumerate(ends) if end > 0)
                expected += self.records(start, start + 1 + winner, f"{winner}")
                start += 1 + winner
                assert {-end for end in ends if end < 0} == {start}  # what the others were told
        for sink in sinks:
            sink.close()
        self.stored(place, expected)

    def test_a_stored_draft_is_not_stored_again(self, writer: Writer, place: SinkPlace) -> None:
        """Committing it once more, at once or after others, says where the chain ends and writes nothing (B25)."""
        at = writer.position()
        draft = writer.draft(0, self.records(0, 3))
        writer.commit(draft, at)
        for end in (3, 9):
            with pytest.raises(PositionConflictError) as told:
                writer.commit(draft, at)
            assert told.value.found is not None
            assert told.value.found.offset == end
            if end < 9:
                writer.put(self.records(end, 9))
        self.stored(place, self.records(0, 9))

    @pytest.mark.parametrize("outcome", ["stored", "not stored"])
    def test_an_unknown_answer_is_settled_by_the_same_call(
        self,
        writer: Writer,
        place: SinkPlace,
        lose_answer: Callable[[bool], AbstractContextManager[object]],
        outcome: str,
    ) -> None:
        """All or nothing was written; the call again stores it, or finds it stored: in both cases once (B25)."""
        at = writer.put(self.records(0, 3))
        draft = writer.draft(3, self.records(3, 9))
        with lose_answer(outcome == "stored"), pytest.raises(CommitUnknownError):
            writer.commit(draft, at)
        self.stored(place, self.records(0, 9 if outcome == "stored" else 3))
        try:
            found: Position | None = writer.commit(draft, at)
        except PositionConflictError as told:
            found = told.found
        assert found is not None
        assert found.offset == draft.end == 9
        writer.commit(writer.draft(9, self.records(9, 12)), found)
        self.stored(place, self.records(0, 12))

    def test_a_write_that_comes_late_is_refused(
        self,
        writer: Writer,
        rival: Writer,
        place: SinkPlace,
        lose_answer: Callable[[bool], AbstractContextManager[object]],
    ) -> None:
        """Whoever gave up on an answer and tries again after others went on doubles nothing."""
        at = writer.put(self.records(0, 3))
        draft = writer.draft(3, self.records(3, 9, "late"))
        with lose_answer(False), pytest.raises(CommitUnknownError):
            writer.commit(draft, at)
        rival.put(self.records(3, 5))
        rival.put(self.records(5, 20))
        with pytest.raises(PositionConflictError) as told:
            writer.commit(draft, at)
        assert told.value.found is not None
        assert told.value.found.offset == 20
        self.stored(place, self.records(0, 20))

    # ---- what may not be committed ----------------------------------------------------------------------------------

    def test_a_draft_fits_its_position(self, writer: Writer, place: SinkPlace) -> None:
        """A draft of another position than the one that is known is refused."""
        at = writer.put(self.records(0, 3))
        for position in (0, 2, 4, 10):
            with pytest.raises(PositionConflictError):
                writer.commit(writer.draft(position, self.records(max(position, 4), 20)), at)
        self.stored(place, self.records(0, 3))

    def test_a_draft_covers_what_lies_before_it(self, writer: Writer, place: SinkPlace) -> None:
        """Fetched from above the position, records between may be missing: refused, unless the loss was noted (B23)."""
        at = writer.put(self.records(0, 3))
        draft = writer.sink.draft(self.partition, 3, BUFFER_BYTES)
        draft.add(Batch.of(self.partition, self.records(7, 9), assignment=1))
        with pytest.raises(HeadraceError) as told:
            writer.commit(draft, at, base=7)
        assert not isinstance(told.value, PositionConflictError | CommitUnknownError)
        self.stored(place, self.records(0, 3))

    def test_an_empty_chain_begins_anywhere(self, writer: Writer, place: SinkPlace) -> None:
        """What the log had lost before the first record was stored needs no note: the first segment stands at 0 (B23)."""
        at = writer.position()
        draft = writer.sink.draft(self.partition, 0, BUFFER_BYTES)
        draft.add(Batch.of(self.partition, self.records(500, 505), assignment=1))
        assert writer.commit(draft, at, base=500).offset == 505
        self.stored(place, self.records(500, 505))

    @pytest.mark.parametrize("what", ["topic", "cluster", "isolation"])
    def test_another_stream_is_refused(self, writer: Writer, place: SinkPlace, what: str) -> None:
        """A stream that was made again is never mixed in: not when a sink is bound, not at any commit (B7, B20)."""
        others = {
            "topic": attrs.evolve(self.identity, topic="another"),
            "cluster": attrs.evolve(self.identity, cluster="another"),
            "isolation": attrs.evolve(self.identity, isolation="read_uncommitted"),
        }
        at = writer.put(self.records(0, 3))
        draft = writer.draft(3, self.records(3, 9))
        with pytest.raises(IdentityError):
            draft.commit(3, at, others[what])
        with place.open() as sink, pytest.raises(IdentityError, match=str(getattr(others[what], what))):
            sink.bind(self.extents(others[what]))
        self.stored(place, self.records(0, 3))
        writer.commit(draft, at)
        self.stored(place, self.records(0, 9))

    def test_a_stream_that_grew_stays_itself(self, writer: Writer, place: SinkPlace) -> None:
        """More partitions than were pinned are no other stream; the pin keeps its number (B22)."""
        writer.put(self.records(0, 3))
        with place.open() as sink:
            grown = attrs.evolve(self.identity, partitions=self.identity.partitions + 2)
            extents = self.extents(grown)
            assert sink.bind(extents) == {self.stream: self.identity}
            new = Writer(sink, max(extents), grown)
            assert new.position().offset == 0
            assert new.put(self.records(0, 4)).offset == 4

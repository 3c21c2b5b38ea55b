"""What every source keeps."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import attrs
import pytest

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.records import Batch, BelowLog, Hint, Partition, Reached, Record
from headrace.source import Source
from headrace.testing.contracts.reader import PATIENCE_S, Reader
from headrace.testing.contracts.values import HEADERS, KEYS, VALUES


class Log(Protocol):
    """
    The place that a source reads: what whoever writes a source makes for these tests.

    Attributes:
        stream: The stream's name.

        partitions: How many it has.
    """

    stream: str
    partitions: int

    def append(self, number: int, records: Sequence[Record]) -> None:
        """Append records to a partition, durably; the log gives them offsets of its own, which may leave holes."""

    def open(self) -> Source:
        """Make a source that shares nothing with those before, and that begins at the log's beginning if nobody says where."""


class SourceContract:
    """
    A source: every record once, in order, from any position, and nothing that was not asked for.

    Attributes:
        values: What the log can carry as values.

        carries: Those fields of a record that come back as they were appended.
    """

    values: Sequence[bytes | None] = VALUES
    carries: Sequence[str] = ("timestamp_ms", "timestamp_type", "key", "value", "headers")

    @pytest.fixture
    def log(self) -> Log:
        """Return an empty log."""
        raise NotImplementedError

    @pytest.fixture
    def appended(self, log: Log) -> Mapping[Partition, Sequence[Record]]:
        """Fill the log, in several parts; of several partitions the last one stays empty."""
        found: dict[Partition, Sequence[Record]] = {Partition(log.stream, n): [] for n in range(log.partitions)}
        filled = list(found)[: max(1, log.partitions - 1)]
        for partition in filled:
            made = self.records(60 + 20 * partition.number)
            for begin in range(0, len(made), 25):
                log.append(partition.number, made[begin : begin + 25])
            found[partition] = made
        return found

    def records(self, more: int) -> list[Record]:
        """Make records of every hostile value, and *more* that differ from each other; their offsets mean nothing."""
        values = [*self.values, *(b'{"n":%d,"x":"%s"}' % (n, b"y" * (n % 50)) for n in range(more))]
        return [
            Record(n, 1_700_000_000_000 + n, KEYS[n % len(KEYS)], value, tuple(HEADERS[n % len(HEADERS)]))
            for n, value in enumerate(values)
        ]

    @pytest.fixture
    def read(self, log: Log) -> Iterator[Callable[..., Reader]]:
        """Open a source with a `Reader` of it; all are closed at the end."""
        opened: list[Source] = []

        def open_reader(**more: object) -> Reader:
            opened.append(log.open())
            return Reader(opened[-1], **more)  # type: ignore[arg-type]

        yield open_reader
        for source in opened:
            source.close()

    def content(self, records: Sequence[Record]) -> list[tuple[object, ...]]:
        """Return what came back of records, as far as this log carries it."""
        return [tuple(getattr(record, name) for name in self.carries) for record in records]

    # ---- reading ----------------------------------------------------------------------------------------------------

    def test_every_record_comes_once(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """A read from the beginning brings each record of each partition once, in order and to the byte."""
        reader = read()
        reader.to_the_end()
        for partition, records in appended.items():
            assert self.content(reader.records(partition)) == self.content(records)

    def test_two_reads_agree(self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]) -> None:
        """Offsets are the log's: another source gives every record the same."""
        readers = read(), read()
        for reader in readers:
            reader.to_the_end()
            reader.source.close()
        for partition in appended:
            first, second = (reader.records(partition) for reader in readers)
            assert first == second

    def test_positions_resume_exactly(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """From any position come the records from there on: none before it, none left out."""
        reader = read()
        reader.to_the_end()
        chance = random.Random(5)
        for partition in (p for p, records in appended.items() if records):
            whole = reader.records(partition)
            places = {whole[0].offset, whole[-1].offset, whole[-1].offset + 1}
            places |= {r.offset + more for r in chance.sample(whole, 6) for more in (0, 1)}
            for place in sorted(places, key=lambda _: chance.random()):
                reader.move(partition, reader.start(place))
                reader.to_the_end(partition)
                assert reader.records(partition) == [r for r in whole if r.offset >= place], place

    def test_an_assignment_that_failed_is_asked_for_again(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Where the owner cannot say where to begin, the poll fails; the next ones ask again, and nothing is left out."""
        reader = read(refusals=2)
        for _ in range(2):
            with pytest.raises(SourceUnavailableError):
                reader.until(lambda: bool(reader.owned), "a poll that fails")
        reader.to_the_end()
        for partition, records in appended.items():
            assert self.content(reader.records(partition)) == self.content(records)

    def test_assignments_resume_exactly(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """The same from the positions that an owner gives when it takes the partitions over."""
        first = read()
        first.to_the_end()
        whole = {p: first.records(p) for p in appended}
        first.source.close()
        begin = {p: first.start(records[len(records) // 2].offset) for p, records in whole.items() if records}
        second = read(begin=begin)
        second.to_the_end()
        for partition, start in begin.items():
            assert second.records(partition) == [r for r in whole[partition] if r.offset >= (start.offset or 0)]

    def test_a_move_drops_what_was_read_ahead(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """After a move nothing comes of the number before, and the new number begins where it was told to."""
        reader, partition = read(), next(iter(appended))
        for _ in range(3):
            reader.until(lambda: _batches(reader, partition) > 0, "a first batch")
            first = next(e.start for e in reader.events if isinstance(e, Batch) and e.partition == partition)
            reader.move(partition, reader.start(first))
        reader.to_the_end()
        assert self.content(reader.records(partition)) == self.content(appended[partition])

    def test_a_pause_holds_one_partition(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """A paused partition says nothing, the others go on; under the same number it reads on from where it stood."""
        reader, partition = read(), next(iter(appended))
        reader.until(lambda: _batches(reader, partition) > 0, "a first batch")
        number = next(e.assignment for e in reader.events if e.partition == partition)
        reader.move(partition, None)
        reader.idle()
        others = [p for p in reader.owned if p != partition]
        if others:
            reader.to_the_end(*others)
        place = max(_end(e) for e in reader.events if e.partition == partition)
        reader.move(partition, attrs.evolve(reader.start(place), assignment=number))
        reader.to_the_end()
        for each, records in appended.items():
            assert self.content(reader.records(each)) == self.content(records)

    def test_nothing_is_fetched_unasked(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """A partition that the owner gave no start for waits for its first move."""
        reader = read(begin=dict.fromkeys(appended))
        reader.until(lambda: set(reader.owned) == set(appended), "an assignment")
        assert reader.idle() == []
        for partition in appended:
            reader.move(partition, reader.start(None))
        reader.to_the_end()
        for partition, records in appended.items():
            assert self.content(reader.records(partition)) == self.content(records)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def test_the_end_is_said(self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]) -> None:
        """The end of a partition is a `Reached` there: after its records, at an empty one, and for whoever begins at it."""
        reader = read()
        reader.to_the_end()
        ends = {p: extent.end for p, extent in reader.source.extents().items()}
        for partition in appended:
            last = [e for e in reader.events if e.partition == partition][-1]
            assert isinstance(last, Reached)
            assert (last.position, last.at_end) == (ends[partition], True)
            reader.move(partition, reader.start(ends[partition]))
        reader.to_the_end()
        assert {p: reader.records(p) for p in appended} == {p: [] for p in appended}

    def test_extents_hold_the_records(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Every partition of the stream has an extent that begins at or before its records and ends behind them."""
        reader = read()
        reader.to_the_end()
        extents = reader.source.extents()
        assert set(extents) == set(appended) == set(reader.owned)
        for partition, extent in extents.items():
            offsets = [r.offset for r in reader.records(partition)] or [extent.low]
            assert 0 <= extent.low <= offsets[0], partition
            assert extent.end in range(offsets[-1] + bool(reader.records(partition)), extent.high + 1), partition
            assert extent.identity.partitions == len(appended)
            assert extent.identity.isolation in {"read_committed", "read_uncommitted"}

    def test_identity_stays(self, log: Log, appended: Mapping[Partition, Sequence[Record]]) -> None:
        """The stream is the same for every source, and after more was read."""
        with log.open() as first, log.open() as second:
            identities = {e.identity for source in (first, second, first) for e in source.extents().values()}
        assert len(identities) == 1

    def test_identities_are_those_of_the_extents(
        self, log: Log, appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """What a commit compares is what the pin was made of (B20)."""
        with log.open() as source:
            extents = source.extents()
            assert source.identities() == {p.stream: extent.identity for p, extent in extents.items()}

    def test_ends_are_those_of_the_log(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Where a source knows an end without asking, it is the log's, of a partition that it reads."""
        reader = read()
        assert reader.source.ends() == {}
        reader.to_the_end()
        extents = reader.source.extents()
        assert {p: extents[p].high for p in reader.source.ends()} == reader.source.ends()

    def test_extents_are_asked_from_any_thread(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """A commit asks for the identity while the reader's thread polls."""
        reader, found, stop = read(), [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                found.append(reader.source.extents())

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            reader.to_the_end()
            reader.until(lambda: bool(found), "an answer")
        finally:
            stop.set()
            thread.join(PATIENCE_S)
        assert all(extents == reader.source.extents() for extents in found)
        for partition, records in appended.items():
            assert self.content(reader.records(partition)) == self.content(records)

    def test_a_poll_ends(self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]) -> None:
        """Where there is nothing to say a poll returns about when it was asked to."""
        reader = read()
        reader.to_the_end()
        reader.idle()
        began_s = time.monotonic()
        reader.idle(3)
        assert time.monotonic() - began_s < 3.0 + 3 * reader.poll_s

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def test_an_acknowledgement_is_a_hint(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """What was acknowledged comes back as it was, or not at all; it never decides where a read begins (B12)."""
        first, partition = read(), next(iter(appended))
        first.to_the_end()
        hint = Hint(first.records(partition)[3].offset, (0, first.records(partition)[3].offset), "0" * 32)
        first.source.acknowledge({partition: hint})
        first.idle()
        first.source.close()
        second = read()
        second.to_the_end()
        assert second.hints[partition] in {None, hint}
        assert self.content(second.records(partition)) == self.content(appended[partition])

    def test_a_range_can_be_read_again_or_not(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """
        An audit is given what the readers were given; a source that cannot refuses before the first record.

        A source that can is held to more: `headrace.testing.contracts.audited_source.AuditedSourceContract`.
        """
        reader, partition = read(), next(iter(appended))
        reader.to_the_end()
        records = reader.records(partition)
        for first, last in ((0, len(records)), (2, len(records) - 1), (3, 3)):
            start = records[first].offset
            end = records[last].offset if last < len(records) else records[-1].offset + 1
            try:
                again = reader.source.reread(partition, start, end)
                found = [record for batch in again for record in batch.records()]
            except ConfigError:
                return
            assert records[first:last] == found

    def test_close_can_be_repeated(self, log: Log, appended: Mapping[Partition, Sequence[Record]]) -> None:
        """Closing twice does nothing, before the first poll, in the middle and at the end."""
        for polls in (0, 1, 5):
            reader = Reader(log.open())
            with reader.source:
                reader.idle(polls)
            reader.source.close()
            reader.source.close()

    def test_settings_of_the_pipeline(self, log: Log) -> None:
        """What the pipeline needs to know of a source before it connects is there."""
        with log.open() as source:
            assert isinstance(source.rereadable, bool)
            assert source.queue_bytes >= 0


class GrowingSourceContract(SourceContract):
    """A source of a log that grows while it is read."""

    def test_reads_on_behind_the_end(
        self, read: Callable[..., Reader], log: Log, appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """What is appended after the end was said comes too, also in a partition that was empty."""
        reader = read()
        reader.to_the_end()
        for turn in range(3):
            more = [Record(0, 1_800_000_000_000 + turn, b"k", b'{"turn":%d}' % turn)]
            for partition in appended:
                log.append(partition.number, more)
            reader.to_the_end()
            for partition in appended:
                assert self.content(reader.records(partition)[-1:]) == self.content(more)
        for partition, records in appended.items():
            assert len(reader.records(partition)) == len(records) + 3


class GroupSourceContract(SourceContract):
    """A source that shares its stream with others."""

    @pytest.fixture
    def take_over(self) -> Callable[[Reader], None]:
        """Return what lets another member have at least one of a reader's partitions, and polls until the reader knows."""
        raise NotImplementedError

    def test_what_is_taken_away_says_nothing_more(
        self,
        read: Callable[..., Reader],
        log: Log,
        appended: Mapping[Partition, Sequence[Record]],
        take_over: Callable[[Reader], None],
    ) -> None:
        """After a hand-over nothing comes of those partitions; the others go on."""
        reader = read()
        reader.to_the_end()
        take_over(reader)
        gone = [*reader.released, *reader.lost_partitions]
        assert gone
        assert not set(gone) & set(reader.owned)
        for number in range(log.partitions):
            log.append(number, [Record(0, 1_800_000_000_000, b"k", b'"late"')])
        before = len(reader.events)
        if reader.owned:
            reader.to_the_end()
        assert not {e.partition for e in [*reader.events[before:], *reader.idle(10)]} & set(gone)


class RetentionSourceContract(SourceContract):
    """A source of a log that loses its oldest records."""

    @pytest.fixture
    def forget(self) -> Callable[[Partition, int], None]:
        """Return what lets a partition's log begin at an offset, which is one of its records'."""
        raise NotImplementedError

    def test_below_the_log_is_said(
        self,
        read: Callable[..., Reader],
        appended: Mapping[Partition, Sequence[Record]],
        forget: Callable[[Partition, int], None],
    ) -> None:
        """Whoever stands below the log's beginning is told where it begins, and then nothing, until it moves there."""
        reader, partition = read(), next(iter(appended))
        reader.to_the_end()
        whole = reader.records(partition)
        low = whole[len(whole) // 2].offset
        forget(partition, low)
        place = whole[1].offset
        start = reader.move(partition, reader.start(place))
        assert start is not None
        reader.until(lambda: any(isinstance(e, BelowLog) for e in reader.events), "that the log begins above")
        reader.idle()
        (told,) = (e for e in reader.events if isinstance(e, BelowLog))
        assert told == BelowLog(partition, start.assignment, place, told.low)
        assert place < told.low <= min(low, reader.source.extents()[partition].low)
        reader.move(partition, reader.start(told.low))
        reader.to_the_end(partition)
        assert reader.records(partition) == [r for r in whole if r.offset >= told.low]
        try:
            again = [
                r for b in reader.source.reread(partition, whole[0].offset, whole[-1].offset + 1) for r in b.records()
            ]
        except ConfigError:
            return  # `Source.reread` is optional, and it says so
        assert again == [r for r in whole if r.offset >= reader.source.extents()[partition].low]


def _batches(reader: Reader, partition: Partition) -> int:
    """How many batches came of a partition under its newest number."""
    return len(reader.records(partition)) if partition in reader.owned else 0


def _end(event: object) -> int:
    return event.end if isinstance(event, Batch) else event.position if isinstance(event, Reached) else 0

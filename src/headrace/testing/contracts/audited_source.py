"""What a source keeps that `headrace audit` compares a lake with: it gives any range again, beside everybody who reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from headrace.records import Batch, Partition, Record
from headrace.source import Source
from headrace.testing.contracts.reader import Reader
from headrace.testing.contracts.source import Log, SourceContract

_AT_ONCE = 4


class AuditedSourceContract(SourceContract):
    """`SourceContract`, and a source that can be read again beside its readers: `Source.reread`."""

    def again(
        self, source: Source, partition: Partition, start: int, end: int, *, aborted: bool = False
    ) -> list[Record]:
        """Read a range again, and hold what comes against what it was asked for."""
        found: list[Record] = []
        for batch in source.reread(partition, start, end, aborted=aborted):
            assert isinstance(batch, Batch)
            assert batch.partition == partition
            found += batch.records()
        offsets = [record.offset for record in found]
        assert offsets == sorted(set(offsets)), f"offsets do not rise: {offsets}"
        assert not offsets or start <= offsets[0] <= offsets[-1] < end, f"asked for [{start}, {end}), found {offsets}"
        return found

    def test_a_range_comes_again_as_it_was_read(
        self, read: Callable[..., Reader], log: Log, appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Every record of it and no other, whatever its ends cut, to the byte; also from a source that was never polled."""
        reader = read()
        reader.to_the_end()
        extents = reader.source.extents()
        with log.open() as unread:
            for number, partition in enumerate(appended):
                whole = reader.records(partition)
                for start, end in _ranges(whole, extents[partition].end)[: None if number == 0 else 1]:
                    expected = [r for r in whole if start <= r.offset < end]
                    assert self.again(unread, partition, start, end) == expected, (start, end)
            partition = next(iter(appended))
            for source in (unread, reader.source):  # a second time, and by one that has read it
                whole = reader.records(partition)
                assert self.again(source, partition, 0, extents[partition].end) == whole

    def test_an_aborted_record_is_one_more(
        self, read: Callable[..., Reader], log: Log, appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Whoever asks for what was aborted gets all the rest as well, in its order."""
        reader, partition = read(), next(iter(appended))
        reader.to_the_end()
        end = reader.source.extents()[partition].end
        found, plain = self.again(reader.source, partition, 0, end, aborted=True), reader.records(partition)
        offsets = {record.offset for record in plain}
        assert [record for record in found if record.offset in offsets] == plain

    def test_reading_again_disturbs_nobody(
        self, read: Callable[..., Reader], appended: Mapping[Partition, Sequence[Record]]
    ) -> None:
        """Several threads read ranges again, and leave some in the middle, while a reader is on its way: it misses nothing."""
        reader, partition = read(), next(iter(appended))
        reader.until(lambda: bool(reader.owned) and bool(reader.records(partition)), "a first batch")
        source, end = reader.source, reader.source.extents()[partition].end

        def ask(number: int) -> list[Record]:
            started = iter(source.reread(partition, number, end))
            next(started, None)
            del started  # an audit stops where it knows enough
            return self.again(source, partition, 0, end)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            asked = [threads.submit(ask, number) for number in range(_AT_ONCE)]
            reader.to_the_end()
            found = [each.result() for each in asked]
        for each, records in appended.items():
            assert self.content(reader.records(each)) == self.content(records)
        assert found == [reader.records(partition)] * _AT_ONCE
        assert not [event for event in reader.idle() if isinstance(event, Batch)]


def _ranges(records: Sequence[Record], end: int) -> list[tuple[int, int]]:
    """All of a partition; with records, ranges that begin or end at, behind and between them."""
    found = [(0, end)]
    if records:
        first, third, middle, last = (records[n].offset for n in (0, 2, len(records) // 2, -1))
        found += [(third, last), (third + 1, middle + 1), (middle, middle + 1), (middle, middle), (first, third + 1)]
        found += [(last, end), (last + 1, end)]
        holes = sorted({*range(end)} - {record.offset for record in records})
        found += [(hole, middle) for hole in holes[:1] if hole <= middle]
        found += [(hole, hole + 1) for hole in holes[:1]]
    return found

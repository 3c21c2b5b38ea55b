"""What every loader keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import attrs
import pytest

from headrace.contract import column, contract
from headrace.envelope import decode, decode_lines
from headrace.errors import (
    ConfigError,
    CorruptSegmentError,
    PositionConflictError,
    SinkUnavailableError,
    TooManyRejectedError,
    TransientError,
)
from headrace.formats import COMPRESSIONS, Workers, format_of
from headrace.loader import LEAST_REJECTED, Census, Line, LoadableSegment, Loader, LoadResult, Selection, counted
from headrace.records import Batch, Partition, Record
from headrace.segment import Segment, Trailer
from headrace.testing.contracts.values import HEADERS, KEYS

TARGET = "ticks"
DATASET = "0123456789abcdef" * 2
PARTITIONS = (Partition("ticks", 0), Partition("ticks", 7))


@contract(version=1)
class Tick:
    """What the tests load."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None


@contract(version=2)
class LenientTick:
    """Takes prices that are written as text, too."""

    symbol: str
    price: Decimal = column(precision=18, scale=6, text=True)
    size: int | None


@contract(version=2)
class WiderTick:
    """Holds more digits and may lack what a tick has; a column comes and one goes."""

    symbol: str | None
    price: Decimal = column(precision=24, scale=6)  # more before the point alone: what every warehouse can
    venue: str | None
    lot: int = column(default=100)


@contract(version=3)
class NarrowTick:
    """Has no room for what a tick holds."""

    symbol: str
    price: Decimal = column(precision=10, scale=2)
    broker: str


Cells = tuple[str, Decimal | None, int | None]
"""Symbol, price and size of a row; of a delete only the key and the order need be there."""

GOOD: tuple[tuple[bytes, Cells], ...] = (
    (b'{"symbol":"A","price":1}', ("A", Decimal(1), None)),
    (b'{"symbol":"A","price":1}', ("A", Decimal(1), None)),  # content is never identity
    (b'{"symbol":"A","price":14.1234,"size":7}', ("A", Decimal("14.1234"), 7)),
    (b'{"size":null,"price":-0.000001,"symbol":""}', ("", Decimal("-0.000001"), None)),
    (b'{"symbol":"A","price":999999999999.999999}', ("A", Decimal("999999999999.999999"), None)),
    (b'{"symbol":"A","price":1e-6,"size":9007199254740993}', ("A", Decimal("0.000001"), 9007199254740993)),
    (b'{"symbol":"A","price":12E2,"size":9223372036854775807}', ("A", Decimal(1200), 9223372036854775807)),
    (b'{"symbol":"A","price":0.10,"size":-9223372036854775808}', ("A", Decimal("0.1"), -9223372036854775808)),
    (b' {"symbol" : "A","price":2,"more":{"price":3}} ', ("A", Decimal(2), None)),
    (b'{"symbol":"A","price":2,"price":3}', ("A", Decimal(2), None)),  # the first of a repeated name
    ('{"symbol":"ä\u2028\U0001f4a5","price":2}'.encode(), ("ä\u2028\U0001f4a5", Decimal(2), None)),
    (b'{"symbol":"a\\n\\"b\\u00e4","price":2}', ('a\n"bä', Decimal(2), None)),
)
"""Values with the rows that they are."""

BAD: tuple[bytes | None, ...] = (
    None,
    b"",
    b"not json",
    b"null",
    b"[]",
    b"{}",
    b"1,2",
    b"\xff\xfe",
    b'{"symbol":"A","price":NaN}',
    b'{"symbol":"A"}',
    b'{"price":1}',
    b'{"symbol":null,"price":1}',
    b'{"symbol":5,"price":1}',
    b'{"symbol":"A","price":"7"}',
    b'{"symbol":"A","price":true}',
    b'{"symbol":"A","price":1.0000001}',
    b'{"symbol":"A","price":1000000000000}',
    b'{"symbol":"A","price":1,"size":1.5}',
    b'{"symbol":"A","price":1,"size":"7"}',
    b'{"symbol":"A","price":1,"size":9223372036854775808}',
)
"""Values that break the contract, each in its own way."""

REDRIVABLE = BAD.index(b'{"symbol":"A","price":"7"}')
"""The one that keeps `LenientTick`."""

Place = tuple[str, Partition, int]
"""Dataset, partition, offset: what a row is known by."""


@attrs.frozen(order=True)
class LedgerRow:
    """
    One line of a ledger.

    Attributes:
        dataset_id: The dataset.

        partition: The partition.

        start: Of the segment.

        end: Of the segment.

        records: In it.

        inserted: Of these, rows.

        superseded: Of these, hidden by newer ones.

        rejected: Of these, in quarantine.
    """

    dataset_id: str
    partition: Partition
    start: int
    end: int
    records: int
    inserted: int
    superseded: int
    rejected: int


class Warehouse(Protocol):
    """
    What a loader writes to, read by other means than the loader's: plain SQL, say.

    A warehouse of your own gives these for `LoaderContract`, for `headrace.testing.contracts.keyed_loader.KeyedLoaderContract`
    and for the machine of `headrace.testing.silver` alike. All contracts of the tests have the columns ``symbol``, ``price`` and
    ``size``; some have more, which nobody reads.
    """

    def open(self, kept: type, target: str) -> Loader:
        """Make a loader as another process would: it shares nothing with those before but the warehouse."""

    def rows(self, target: str) -> Sequence[tuple[Place, Cells]]:
        """Read all rows; none where there is no such table yet."""

    def quarantined(self, target: str) -> Sequence[tuple[Place, bytes]]:
        """Read all that is in quarantine, with the bronze line of each."""

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        """Read the ledger's lines of loads, not those of redrives."""

    def current(self, target: str) -> Sequence[Place]:
        """Read the view for readers: the places of the rows that are not deleted. Only asked where the contract has a key."""

    def take(self, target: str, offset: int) -> None:
        """Delete the rows with this offset behind the loader's back."""

    def forget(self, target: str, start: int) -> None:
        """
        Delete the ledger's loads that begin at this offset behind the loader's back.

        Only asked by `headrace.testing.contracts.audited_loader.AuditedLoaderContract`.
        """


def segment(
    offset: int,
    values: Sequence[bytes | None],
    *,
    lake: str = "jsonl",
    keys: Sequence[bytes | None] = KEYS,
    stream: str = "",
    **changes: object,
) -> LoadableSegment:
    """
    Make a segment of the first partition, or of what *changes* say, from *offset* on.

    *lake* is its format, *keys* are its records' keys in turns, *stream* is another stream than the partition's. *changes* are
    to its trailer; its bytes stay what they are, so that they can be made to differ.
    """
    records = [
        Record(offset + n, 1_700_000_000_000 + n, keys[n % len(keys)], value, tuple(HEADERS[n % len(HEADERS)]))
        for n, value in enumerate(values)
    ]
    kept, workers = format_of(lake, COMPRESSIONS[lake][0]), Workers(1)
    partition = changes.get("partition", PARTITIONS[0])
    assert isinstance(partition, Partition)
    if stream:
        partition = changes["partition"] = Partition(stream, partition.number)
    trailer = Trailer(
        dataset_id=DATASET,
        partition=partition,
        start=offset,
        end=offset + len(values),
        first=offset,
        records=len(values),
        min_ms=records[0].timestamp_ms,
        max_ms=records[-1].timestamp_ms,
        digest="",
        leader_epoch=None,
        writer="contract",
    )

    def sealed(digest: str) -> Trailer:
        nonlocal trailer
        trailer = attrs.evolve(trailer, **{"digest": digest, **changes})  # type: ignore[arg-type]  # a test may lie
        return trailer

    content = kept.content(workers, 1 << 20)
    content.add(Batch.of(partition, records, assignment=1))
    body = content.finish(sealed)
    workers.close()
    key = f"ticks/partition={partition.number}/{trailer.start:020}.{kept.extension}"
    return LoadableSegment(Segment(key, len(body), trailer), kept, lambda: body)


def values_of(count: int) -> list[bytes | None]:
    """Good and bad values, in turns, the same for the same count."""
    mixed = [value for value, _ in GOOD] + list(BAD)
    return [mixed[(7 * n) % len(mixed)] for n in range(count)]


class LoaderContract:
    """A loader: rows, quarantine and ledger of some segments at once or not at all, and each segment once."""

    @pytest.fixture
    def warehouse(self) -> Warehouse:
        """Return a warehouse in which nothing is."""
        raise NotImplementedError

    @pytest.fixture
    def open_loader(self, warehouse: Warehouse) -> Callable[..., Loader]:
        """Return what makes a loader of the tests' contract and target, unless told otherwise."""

        def make(kept: type = Tick, target: str = TARGET) -> Loader:
            return warehouse.open(kept, target)

        return make

    @pytest.fixture
    def loader(self, open_loader: Callable[..., Loader]) -> Loader:
        """Return a loader."""
        return open_loader()

    def line(self, partition: Partition = PARTITIONS[0], dataset_id: str = DATASET, target: str = TARGET) -> Line:
        """Return the ledger's line of the first partition, unless told otherwise."""
        return Line(dataset_id, partition, target)

    def holds(self, warehouse: Warehouse, *segments: LoadableSegment, target: str = TARGET) -> None:
        """Hold what is in the warehouse against these segments: rows, quarantine and ledger, nothing else."""
        expected = dict(GOOD)
        rows: list[tuple[Place, Cells]] = []
        refused: list[tuple[Place, Record]] = []
        ledger = []
        for each in segments:
            trailer, counted = each.segment.trailer, (len(rows), len(refused))
            for record in _records(each):
                place = (trailer.dataset_id, trailer.partition, record.offset)
                if record.value in expected:
                    rows.append((place, expected[record.value]))
                else:
                    refused.append((place, record))
            inserted, rejected = len(rows) - counted[0], len(refused) - counted[1]
            ledger.append(
                LedgerRow(
                    trailer.dataset_id,
                    trailer.partition,
                    trailer.start,
                    trailer.end,
                    inserted + rejected,
                    inserted,
                    0,
                    rejected,
                )
            )
        assert sorted(warehouse.rows(target), key=str) == sorted(rows, key=str)
        found = [(place, decode(bytes(line))) for place, line in warehouse.quarantined(target)]
        assert sorted(found, key=str) == sorted(refused, key=str)
        assert sorted(warehouse.ledger(target)) == sorted(ledger)

    # ---- one call ---------------------------------------------------------------------------------------------------

    def test_nothing_is_loaded_before_the_first_load(self, loader: Loader, warehouse: Warehouse) -> None:
        """Asking for positions, counting and redriving find nothing and change nothing."""
        lines = [self.line(p) for p in PARTITIONS]
        for _ in range(2):
            assert loader.positions(lines) == dict.fromkeys(lines)
            assert loader.census(lines[0], 0, 100) in {None, Census(0, 0, 0)}
            assert loader.redrive(Selection()) == LoadResult()
            assert loader.load([]) == LoadResult()
        self.holds(warehouse)

    def test_good_rows_and_bad_records_go_where_they_belong(self, loader: Loader, warehouse: Warehouse) -> None:
        """Rows are exact to the last digit, quarantine to the byte, and every record is in one of the two."""
        one = segment(0, [*(value for value, _ in GOOD), *BAD])
        result = loader.load([one])
        assert result == LoadResult(1, len(GOOD) + len(BAD), len(GOOD), 0, len(BAD))
        self.holds(warehouse, one)
        assert loader.positions([self.line()]) == {self.line(): len(GOOD) + len(BAD)}

    @pytest.mark.parametrize("lake", ["jsonl", "parquet"])
    def test_the_format_makes_no_difference(self, loader: Loader, warehouse: Warehouse, lake: str) -> None:
        """Whatever the segments are made of, the same records make the same rows and the same quarantine."""
        if lake == "parquet":
            pytest.importorskip("pyarrow")
        segments = [segment(n, values_of(40), lake=lake) for n in (0, 40)]
        assert loader.load(segments).records == 80
        self.holds(warehouse, *segments)

    def test_several_segments_at_once(self, loader: Loader, warehouse: Warehouse) -> None:
        """Segments of several partitions and datasets go in one call; each has its own line in the ledger."""
        segments = [
            *(segment(n, values_of(10), partition=PARTITIONS[0]) for n in (0, 10, 20)),
            *(segment(n, values_of(10), partition=PARTITIONS[1]) for n in (0, 10)),
            segment(0, values_of(5), dataset_id="f" * 32),
        ]
        result = loader.load(segments)
        assert (result.segments, result.records) == (6, 55)
        assert result.records == result.inserted + result.superseded + result.rejected
        self.holds(warehouse, *segments)
        lines = {self.line(): 30, self.line(PARTITIONS[1]): 20, self.line(dataset_id="f" * 32): 5}
        assert loader.positions([*lines, self.line(Partition("ticks", 3))]) == {
            **lines,
            self.line(Partition("ticks", 3)): None,
        }

    def test_holes_are_no_records(self, loader: Loader, warehouse: Warehouse) -> None:
        """A segment may begin with a hole; the next one starts where it ended, in offsets."""
        first = segment(5, values_of(5), start=0)
        loader.load([first, segment(10, values_of(5))])
        self.holds(warehouse, first, segment(10, values_of(5)))
        assert loader.positions([self.line()]) == {self.line(): 15}

    def test_targets_do_not_meet(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """One dataset is loaded into two tables, each with its own ledger."""
        first, second = open_loader(), open_loader(target="others")
        first.load([segment(0, values_of(10)), segment(10, values_of(10))])
        second.load([segment(0, values_of(10))])
        self.holds(warehouse, segment(0, values_of(10)), segment(10, values_of(10)))
        self.holds(warehouse, segment(0, values_of(10)), target="others")
        assert second.positions([self.line(target="others")]) == {self.line(target="others"): 10}

    # ---- again ------------------------------------------------------------------------------------------------------

    def test_loading_again_loads_nothing(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """What the ledger holds is left out, in whatever company and by whatever process it comes again."""
        segments = [segment(n, values_of(10)) for n in (0, 10, 20)]
        assert open_loader().load(segments[:2]).segments == 2
        for loader in (open_loader(), open_loader()):
            assert loader.load(segments[:2]) == LoadResult()
            assert loader.load(segments[:1]) == LoadResult()
        self.holds(warehouse, *segments[:2])
        assert open_loader().load(segments).segments == 1
        self.holds(warehouse, *segments)

    def test_two_loaders_at_once_load_once(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """Loaders that do not know of each other, and try again when they are refused, end exactly once (S2)."""
        segments = [segment(n, values_of(10)) for n in range(0, 60, 10)]
        together, failed = threading.Barrier(2), []

        def work() -> None:
            together.wait(60)
            for one in range(len(segments)):
                deadline = time.monotonic() + 60
                while True:
                    try:
                        open_loader().load(segments[: one + 1])
                        break
                    except (PositionConflictError, TransientError) as error:
                        if time.monotonic() > deadline:
                            failed.append(error)
                            return

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        self.holds(warehouse, *segments)

    # ---- all or nothing ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("starts", [(10,), (0, 20), (0, 10, 30), (10, 0), (0, 5)], ids=str)
    def test_segments_out_of_line_are_refused(
        self, loader: Loader, warehouse: Warehouse, starts: tuple[int, ...]
    ) -> None:
        """A gap, an overlap, a wrong order: nothing is written, and the error says where the segment starts (S1)."""
        segments = [segment(n, values_of(10)) for n in starts]
        with pytest.raises(PositionConflictError) as told:
            loader.load(segments)
        assert told.value.expected in starts
        self.holds(warehouse)
        loader.load([segment(0, values_of(10))])
        self.holds(warehouse, segment(0, values_of(10)))

    def test_a_segment_behind_the_ledger_must_follow_it(self, loader: Loader, warehouse: Warehouse) -> None:
        """The same where the ledger has something: a gap behind it, and a segment that begins inside what is loaded."""
        loader.load([segment(0, values_of(10))])
        for start in (11, 5):
            with pytest.raises(PositionConflictError):
                loader.load([segment(start, values_of(10))])
        self.holds(warehouse, segment(0, values_of(10)))

    @pytest.mark.parametrize("lie", [{"records": 11}, {"records": 9}, {"end": 21}, {"first": 11}], ids=str)
    def test_a_segment_that_lies_stops_all(self, loader: Loader, warehouse: Warehouse, lie: Mapping[str, Any]) -> None:
        """What its trailer says must be what it holds: otherwise nothing of the call is written (B4)."""
        loader.load([segment(0, values_of(10))])
        with pytest.raises(CorruptSegmentError) as told:
            loader.load([segment(0, values_of(5), partition=PARTITIONS[1]), segment(10, values_of(10), **lie)])
        assert told.value.key.endswith("partition=0/00000000000000000010.jsonl.gz")
        self.holds(warehouse, segment(0, values_of(10)))
        loader.load([segment(10, values_of(10))])
        self.holds(warehouse, segment(0, values_of(10)), segment(10, values_of(10)))

    def test_an_object_that_cannot_be_read_stops_all(self, loader: Loader, warehouse: Warehouse) -> None:
        """The store's error comes through, nothing of the call is written, and the next call finds all as it was."""

        def unavailable() -> bytes:
            raise SinkUnavailableError("the store does not answer")

        segments = [segment(n, values_of(10)) for n in (0, 10, 20)]
        with pytest.raises(SinkUnavailableError):
            loader.load([segments[0], attrs.evolve(segments[1], body=unavailable), segments[2]])
        self.holds(warehouse)
        loader.load(segments)
        self.holds(warehouse, *segments)

    def test_too_many_bad_records_stop_all(self, loader: Loader, warehouse: Warehouse) -> None:
        """Above the share nothing is written and the error says why, with a place; at the share, or of a few, all is taken."""
        few = segment(0, [b"{}"] * (LEAST_REJECTED - 1))
        loader.load([few])
        good = segment(few.segment.end, [GOOD[0][0]] * 60)
        bad = segment(good.segment.end, [b"[]", b"{}"] + [b'{"symbol":"A","price":"7"}'] * LEAST_REJECTED)
        with pytest.raises(TooManyRejectedError) as told:
            loader.load([good, bad])
        assert (told.value.rejected, told.value.records) == (LEAST_REJECTED + 2, LEAST_REJECTED + 62)
        assert told.value.partitions in (frozenset(), {bad.segment.partition})  # empty: it does not say
        place = f"ticks/0 offset {bad.segment.start + 2}"
        assert f"{LEAST_REJECTED} of price: text, expected a number, first at {place}" in str(told.value)
        self.holds(warehouse, few)
        loader.max_rejected = (LEAST_REJECTED + 2) / (LEAST_REJECTED + 62)
        loader.load([good, bad])
        self.holds(warehouse, few, good, bad)

    def test_a_line_may_begin_behind_the_head(self, loader: Loader, warehouse: Warehouse) -> None:
        """Once, and only where nothing was loaded; the segment there follows, and what is before counts as done (B29)."""
        try:
            loader.begin(self.line(), 10)
        except ConfigError:
            return  # `Loader.begin` is optional, and it says so
        loader.begin(self.line(), 10)
        other = self.line(PARTITIONS[1])
        assert loader.positions([self.line(), other]) == {self.line(): 10, other: None}
        self.holds(warehouse)
        assert loader.load([segment(0, values_of(10))]) == LoadResult()
        for start in (5, 20):
            with pytest.raises(PositionConflictError):
                loader.load([segment(start, values_of(10))])
        loader.load([segment(10, values_of(10))])
        self.holds(warehouse, segment(10, values_of(10)))
        for position in (10, 15, 30):
            with pytest.raises(PositionConflictError):
                loader.begin(self.line(), position)
        assert loader.positions([self.line(), other]) == {self.line(): 20, other: None}

    # ---- counting ---------------------------------------------------------------------------------------------------

    def test_the_census_counts_what_is_there(self, loader: Loader, warehouse: Warehouse) -> None:
        """Of any range it counts distinct rows and quarantined records, in the table and not in the ledger (S10)."""
        loader.load([segment(n, values_of(10)) for n in (0, 10, 20)] + [segment(0, values_of(9), dataset_id="f" * 32)])
        if loader.census(self.line(), 0, 30) is None:
            pytest.skip("this loader does not count")  # `Loader.census` is optional, and None is its answer
        (_, _, taken), _ = next(r for r in warehouse.rows(TARGET) if r[0][0] == DATASET)
        for _ in range(2):
            rows, refused = (
                [place[2] for place, _ in found if place[:2] == (DATASET, PARTITIONS[0])]
                for found in (warehouse.rows(TARGET), warehouse.quarantined(TARGET))
            )
            for start, end in ((0, 30), (0, 0), (5, 6), (9, 21), (29, 30), (30, 10**12)):
                assert loader.census(self.line(), start, end) == Census(
                    sum(start <= n < end for n in rows), sum(start <= n < end for n in refused), 0
                )
            warehouse.take(TARGET, taken)
        assert loader.census(self.line(PARTITIONS[1]), 0, 30) == Census(0, 0, 0)

    # ---- contracts --------------------------------------------------------------------------------------------------

    def test_redrive_moves_what_now_keeps_the_contract(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """It leaves quarantine and becomes a row, once; positions and loads are as before (S6)."""
        one = segment(0, BAD)
        open_loader().load([one])
        assert open_loader().redrive(Selection()) == LoadResult()
        lenient = open_loader(LenientTick)
        assert lenient.redrive(Selection(end=REDRIVABLE)) == LoadResult()
        for other in ({"partition": PARTITIONS[1]}, {"column": "size"}, {"stream": "others"}, {"dataset_id": "f" * 32}):
            assert lenient.redrive(Selection(**other)) == LoadResult()
        assert lenient.redrive(Selection()) == LoadResult(0, 0, 1, 0, -1)
        assert lenient.redrive(Selection()) == LoadResult()
        place = (DATASET, PARTITIONS[0], REDRIVABLE)
        assert warehouse.rows(TARGET) == [(place, ("A", Decimal(7), None))]
        assert sorted(where[2] for where, _ in warehouse.quarantined(TARGET)) == [
            n for n in range(len(BAD)) if n != REDRIVABLE
        ]
        assert lenient.positions([self.line()]) == {self.line(): len(BAD)}
        assert lenient.load([one]) == LoadResult()

    def test_quarantine_says_why_a_record_is_refused_now(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """A redrive leaves what is still bad, with the contract and the reason that are true from then on."""
        loader = open_loader()
        try:
            assert list(loader.quarantined(Selection())) == []
        except ConfigError:
            return  # `Loader.quarantined` is optional, and it says so
        segments = [segment(0, BAD), segment(0, values_of(40), partition=PARTITIONS[1])]
        loader.load(segments)
        first = list(open_loader().quarantined(Selection()))
        places = [(r.dataset_id, r.partition, r.offset) for r in first]
        assert places == sorted(place for place, _ in warehouse.quarantined(TARGET))
        assert {(r.dataset_id, r.partition, r.offset): r.line for r in first} == dict(warehouse.quarantined(TARGET))
        assert all((r.contract, r.version) == ("Tick", 1) for r in first)
        assert [r.timestamp_ms for r in first] == [decode(bytes(r.line)).timestamp_ms for r in first]

        open_loader(LenientTick).redrive(Selection(partition=PARTITIONS[0]))
        second = list(open_loader().quarantined(Selection()))
        told = {r.offset: (r.contract, r.version, r.column, r.reason) for r in second if r.partition == PARTITIONS[0]}
        number = BAD.index(b'{"symbol":"A","price":1,"size":1.5}')
        assert REDRIVABLE not in told
        assert {(name, version) for name, version, *_ in told.values()} == {("LenientTick", 2)}
        assert told[number] == ("LenientTick", 2, "price", "a number, expected a number as text")
        assert [r for r in second if r.partition != PARTITIONS[0]] == [r for r in first if r.partition != PARTITIONS[0]]

    def test_quarantine_is_shown_whole(self, loader: Loader, warehouse: Warehouse) -> None:
        """However much it is, and in whatever pieces it is read: each record once, in its order."""
        loader.max_rejected = 1.0
        loader.load([segment(0, BAD[:1] * 2_300), segment(0, BAD[:1] * 10, partition=PARTITIONS[1])])
        try:
            places = [(r.dataset_id, r.partition, r.offset) for r in loader.quarantined(Selection())]
        except ConfigError:
            return  # `Loader.quarantined` is optional, and it says so
        assert places == sorted(place for place, _ in warehouse.quarantined(TARGET))
        assert len(places) == 2_310

    def test_quarantine_is_selected_and_counted(self, loader: Loader) -> None:
        """By partition, range, reason, column, stream and dataset; the counts are those of the records."""
        try:
            loader.load([segment(0, BAD), segment(0, values_of(40), partition=PARTITIONS[1])])
            everything = list(loader.quarantined(Selection()))
        except ConfigError:
            return  # `Loader.quarantined` is optional, and it says so
        number = len(everything) // 2
        column, reason = everything[number].column, everything[number].reason
        for selection, expected in (
            (Selection(), everything),
            (Selection(partition=PARTITIONS[1]), [r for r in everything if r.partition == PARTITIONS[1]]),
            (Selection(start=3, end=9), [r for r in everything if 3 <= r.offset < 9]),
            (Selection(column=column), [r for r in everything if r.column == column]),
            (Selection(column="", start=1), [r for r in everything if r.column == "" and r.offset]),
            (
                Selection(reason=reason, column=column),
                [r for r in everything if (r.column, r.reason) == (column, reason)],
            ),
            (Selection(stream="ticks"), everything),
            (Selection(stream="others"), []),
            (Selection(dataset_id=DATASET), everything),
            (Selection(dataset_id="f" * 32), []),
        ):
            assert list(loader.quarantined(selection)) == expected
            assert list(loader.quarantine_counts(selection)) == counted(expected)

    def test_an_older_contract_is_refused(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """A deployment that was left behind writes nothing into a table of the newer one (S7)."""
        open_loader(LenientTick).load([segment(0, values_of(10)[:1])])
        before = (warehouse.rows(TARGET), warehouse.quarantined(TARGET), warehouse.ledger(TARGET))
        with pytest.raises(ConfigError):
            open_loader().load([segment(1, values_of(10))])
        assert (warehouse.rows(TARGET), warehouse.quarantined(TARGET), warehouse.ledger(TARGET)) == before

    def test_a_table_is_altered_when_it_is_asked_for(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """What changes no value is done, once, before a load; rows stay as they are, and an older contract is out (S4, S7)."""
        good = [value for value, _ in GOOD]
        open_loader().load([segment(0, good)])
        wider = open_loader(WiderTick)
        try:
            planned = wider.changes()
        except ConfigError:
            return  # `Loader.alter` is optional, and it says so
        with pytest.raises(ConfigError):
            open_loader(WiderTick).load([segment(len(good), good)])
        assert len(planned) >= 3
        assert list(open_loader(WiderTick).changes()) == list(planned) == list(wider.alter())
        assert list(open_loader(WiderTick).alter()) == list(wider.changes()) == []
        self.holds(warehouse, segment(0, good))
        wider.load([segment(len(good), [b'{"symbol":"A","price":123456789012345678,"lot":7}'])])
        assert ((DATASET, PARTITIONS[0], len(good)), ("A", Decimal(123456789012345678), None)) in warehouse.rows(TARGET)
        for call in (open_loader().changes, open_loader().alter):
            with pytest.raises(ConfigError):
                call()

    def test_a_table_is_not_altered_where_values_would_change(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """Then nothing is done at all: neither what could be nor what could not; a table that is not there needs nothing."""
        narrow = open_loader(NarrowTick)
        try:
            assert list(narrow.changes()) == []
        except ConfigError:
            return  # `Loader.alter` is optional, and it says so
        open_loader().load([segment(0, values_of(10))])
        planned = list(open_loader(NarrowTick).changes())
        assert sum(not change.statement for change in planned) == 2
        with pytest.raises(ConfigError, match="reload"):
            open_loader(NarrowTick).alter()
        assert list(open_loader(NarrowTick).changes()) == planned
        open_loader().load([segment(10, values_of(10))])
        self.holds(warehouse, segment(0, values_of(10)), segment(10, values_of(10)))

    def test_fields_become_columns_where_that_is_asked_for(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """Planned, then made, once; every loader knows them from then on, and what is of another kind is refused."""
        values: list[bytes | None] = [
            b'{"symbol":"A","price":1,"lot":7,"tags":["x"],"mixed":1}',
            b'{"symbol":"A","price":2,"lot":null,"mixed":"x"}',
        ]
        one, evolving = segment(0, values), open_loader()
        evolving.evolve = True
        try:
            planned = list(evolving.changes([one]))
        except ConfigError:
            return  # `Loader.changes` is optional, and it says so
        assert len(planned) == 2
        assert all(change.statement for change in planned)
        self.holds(warehouse)
        names = [c.name for c in open_loader().described().columns]
        assert evolving.load([one]).inserted == 2
        for told in (evolving, open_loader()):
            assert [c.name for c in told.described().columns] == [*names, "lot", "tags"]
        assert list(evolving.changes([one])) == []
        more: list[bytes | None] = [
            b'{"symbol":"A","price":1,"lot":"x"}',
            b'{"symbol":"A","price":1,"lot":8,"other":1}',
        ]
        assert open_loader().load([segment(2, more)]) == LoadResult(1, 2, 1, 0, 1)
        assert [c.name for c in open_loader().described().columns] == [*names, "lot", "tags"]
        assert [place[2] for place, _ in warehouse.quarantined(TARGET)] == [2]
        assert sorted(place[2] for place, _ in warehouse.rows(TARGET)) == [0, 1, 3]

    def test_a_table_is_altered_by_several_at_once(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """By the contract and by what the stream brings: each change is made once, and every record is somewhere."""
        open_loader().load([segment(0, [GOOD[0][0]] * 3)])
        try:
            open_loader(WiderTick).changes()
        except ConfigError:
            return  # `Loader.alter` is optional, and it says so
        fields = (b'"lot":7,"more":7', b'"lot":7,"more":"x"')
        segments = [
            segment(0, [b'{"symbol":"A","price":1,%b}' % field] * 3, partition=partition)
            for field, partition in zip(fields, PARTITIONS, strict=True)
        ]
        segments[0] = segment(3, [b'{"symbol":"A","price":1,%b}' % fields[0]] * 3)
        together = threading.Barrier(2)
        failed: list[Exception] = []

        def work(one: LoadableSegment) -> None:
            loader = open_loader(WiderTick)
            loader.evolve = True
            together.wait(60)
            deadline = time.monotonic() + 60
            while True:
                try:
                    loader.alter()
                    loader.load([one])
                except TransientError as error:
                    if time.monotonic() > deadline:
                        failed.append(error)
                        return
                except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                    failed.append(error)
                    return
                else:
                    return

        threads = [threading.Thread(target=work, args=[one]) for one in segments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert list(open_loader(WiderTick).changes()) == []
        names = [c.name for c in open_loader(WiderTick).described().columns]
        assert names == ["symbol", "price", "venue", "lot", "more"]
        rows, refused = (len(found) for found in (warehouse.rows(TARGET), warehouse.quarantined(TARGET)))
        assert (rows, refused) in {(9, 0), (6, 3)}  # of two kinds at once one is the column's

    def test_a_target_takes_over_from_another(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """Only when it is not behind, once and for all: then the old one is closed, and what is current is the new one (S7)."""
        segments = [segment(n, values_of(10)) for n in (0, 10, 20)]
        open_loader().load(segments[:2])
        new = open_loader(LenientTick, target="ticks_v2")
        new.load(segments[:1])
        try:
            with pytest.raises(PositionConflictError):
                new.take_over(TARGET)
        except ConfigError:
            return  # `Loader.take_over` is optional, and it says so
        old = open_loader()  # a warehouse may write names its own way
        assert (old.current(), new.current()) == (old.target, new.target)
        assert new.load(segments[:2]).segments == 1
        for _ in range(2):
            new.take_over(TARGET)
            assert (open_loader().current(), open_loader(LenientTick).current(), new.current()) == (new.target,) * 3
        for kept in (Tick, LenientTick):
            with pytest.raises(ConfigError):
                open_loader(kept).load(segments[2:])
        for target in (TARGET, "ticks_v2"):
            line = self.line(target=target)
            assert open_loader().positions([line]) == {line: 20}
            assert open_loader(target=target).recorded(line, 0, 20) == 20
            assert open_loader(target=target).recorded(line, 10, 20) == 10
        assert open_loader(LenientTick, target="ticks_v2").load(segments).segments == 1
        self.holds(warehouse, *segments[:2])

    def test_a_class_that_is_no_contract_is_refused(self, open_loader: Callable[..., Loader]) -> None:
        """It is told when the loader is made, before anything is written."""

        class NoContract:
            symbol: str

        with pytest.raises(ConfigError):
            open_loader(NoContract)

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def test_close_can_be_repeated(self, open_loader: Callable[..., Loader]) -> None:
        """Closing twice does nothing, before and after a load; what was loaded stays."""
        for end in (0, 1):
            with open_loader() as loader:
                loader.load([segment(0, values_of(10))][:end])
            loader.close()
        assert open_loader().positions([self.line()]) == {self.line(): 10}


def _records(loadable: LoadableSegment) -> list[Record]:
    """What a segment of these tests holds."""
    return decode_lines(b"".join(loadable.lines()))

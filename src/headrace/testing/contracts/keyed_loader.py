"""What every loader keeps of a contract with a business key: the newest of each key, whatever was loaded when (S8 to S10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import attrs
import msgspec
import pytest

from headrace.contract import column, contract
from headrace.errors import ConfigError
from headrace.loader import Census, Line, LoadableSegment, Loader, LoadResult, Selection
from headrace.records import Partition
from headrace.testing.contracts.loader import DATASET, PARTITIONS, TARGET, Cells, Place, Warehouse, segment

__all__ = ["Compacted", "KeyedLoaderContract", "LenientQuote", "Quote"]


@contract(version=1, key=("symbol",), order=("size",), deleted=("op", ("D",)))
class Quote:
    """What the tests load: the newest quote of each symbol, by its size."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int
    op: str = column(default="U")


@contract(version=2, key=("symbol",), order=("size",), deleted=("op", ("D",)))
class LenientQuote:
    """Takes prices that are written as text, and no others."""

    symbol: str
    price: Decimal = column(precision=18, scale=6, text=True)
    size: int
    op: str = column(default="U")


@contract(version=1, key=("symbol",))
class Compacted:
    """A topic of which each key's last record counts, and whose tombstones delete."""

    symbol: str = column(record="key")
    price: Decimal = column(precision=18, scale=6)
    size: int | None


class _Value(msgspec.Struct):
    """What the tests' own reading knows of a value; nothing of the loader's."""

    symbol: str
    size: int | None = None
    price: int | str | None = None
    op: str = "U"


@attrs.frozen
class Newest:
    """
    What a target holds, by an independent reading.

    Attributes:
        rows: Of each symbol the newest record's place and cells.

        deleted: The places of those that are deletes.

        refused: The places of records that break the contract.
    """

    rows: Mapping[str, tuple[Place, Cells]]
    deleted: frozenset[Place]
    refused: frozenset[Place]


def newest(segments: Sequence[LoadableSegment]) -> Newest:
    """Read `Quote` records in Python: by size, then stream, partition, offset and dataset."""
    found: dict[str, tuple[tuple[object, ...], Place, _Value]] = {}
    refused = set()
    for each in segments:
        trailer = each.segment.trailer
        for place, value in _values(each):
            priced = value.op == "D" if value.price is None else isinstance(value.price, int)
            if value.size is None or not priced:
                refused.add(place)
                continue
            order = (value.size, trailer.partition.stream, trailer.partition.number, place[2], trailer.dataset_id)
            if value.symbol not in found or found[value.symbol][0] < order:
                found[value.symbol] = (order, place, value)
    cells = {
        s: (place, (s, None if v.price is None else Decimal(v.price), v.size)) for s, (_, place, v) in found.items()
    }
    return Newest(cells, frozenset(place for _, place, v in found.values() if v.op == "D"), frozenset(refused))


def _values(each: LoadableSegment) -> list[tuple[Place, _Value]]:
    trailer = each.segment.trailer
    lines = b"".join(each.lines()).splitlines()
    decoded = [msgspec.json.decode(line, type=_Line) for line in lines]
    return [((trailer.dataset_id, trailer.partition, line.offset), line.value) for line in decoded]


class _Line(msgspec.Struct):
    offset: int
    value: _Value


def quote(symbol: str, size: int | None, price: int | str | None = 1, op: str = "U") -> bytes:
    """A value of these tests."""
    fields = {"symbol": symbol, "size": size, "price": price, "op": op}
    return msgspec.json.encode({name: content for name, content in fields.items() if content is not None})


FIRST = segment(
    0,
    [
        quote("A", 1, 10),
        quote("A", 3, 11),  # newer in the same segment
        quote("A", 2, 12),  # older in the same segment
        quote("B", 5, 13),
        quote("C", 1, 14),
        quote("D", 9, None, "D"),  # a delete of what was never there
        quote("E", None, 15),  # an order that is missing: refused
        quote("F", 1, "16"),  # refused, until the contract is widened
    ],
)
SECOND = segment(
    8,
    [
        quote("B", 4, 20),  # older than the row
        quote("C", 7, None, "D"),  # a delete
        quote("A", 3, 21),  # as new by size, and later in the log
        quote("D", 8, 22),  # older than the delete
        quote("C", 6, 23),  # older than the delete
    ],
)
OTHER = segment(
    0,
    [
        quote("A", 3, 30),  # as new by size, and of a later partition
        quote("B", 5, None, "D"),  # as new by size: the delete is of a later partition
        quote("C", 6, 31),
        quote("G", -1, 32),
    ],
    partition=PARTITIONS[1],
)
AGAIN = segment(0, [quote("A", 3, 40), quote("G", -1, 41)], partition=PARTITIONS[1], dataset_id="f" * 32)
"""The same places in the log as `OTHER`, of a topic that was made again."""

QUOTES = (FIRST, SECOND, OTHER, AGAIN)

ORDERS = ((0, 1, 2, 3), (3, 2, 0, 1), (0, 2, 3, 1))
"""Orders that keep each line's own."""


class KeyedLoaderContract:
    """A loader of a contract with a key: the table is a function of the records, not of how they came."""

    @pytest.fixture
    def warehouse(self) -> Warehouse:
        """Return a warehouse in which nothing is."""
        raise NotImplementedError

    @pytest.fixture
    def open_loader(self, warehouse: Warehouse) -> Callable[..., Loader]:
        """Return what makes a loader of `Quote` and the tests' target, unless told otherwise."""

        def make(kept: type = Quote, target: str = TARGET) -> Loader:
            loader = warehouse.open(kept, target)
            loader.max_rejected = 1.0  # of a few records each one counts
            return loader

        return make

    def holds(self, warehouse: Warehouse, *segments: LoadableSegment, target: str = TARGET) -> None:
        """Hold what is in the warehouse against these segments: rows, what readers see, quarantine, and the ledger's sums."""
        expected = newest(segments)
        rows = warehouse.rows(target)
        assert sorted(rows, key=str) == sorted(expected.rows.values(), key=str)
        shown = {place for place, _ in rows} - expected.deleted
        assert sorted(warehouse.current(target), key=str) == sorted(shown, key=str)
        refused = [place for place, _ in warehouse.quarantined(target)]
        assert sorted(refused, key=str) == sorted(expected.refused, key=str)
        ledger = warehouse.ledger(target)
        assert len(ledger) == len(segments)
        for row in ledger:
            assert row.records == row.inserted + row.superseded + row.rejected
            assert min(row.inserted, row.superseded, row.rejected) >= 0
        assert sum(row.inserted for row in ledger) == len(rows)
        assert sum(row.rejected for row in ledger) == len(refused)

    # ---- one call ---------------------------------------------------------------------------------------------------

    def test_the_newest_of_each_key_is_a_row(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """In one call as in two; a delete is a row that readers do not see; the counts say what became of each record."""
        result = open_loader().load([FIRST, SECOND])
        assert result == LoadResult(2, 13, 4, 7, 2)
        self.holds(warehouse, FIRST, SECOND)
        # of the second segment only the delete of C is a row, and C was not there before this call
        [first, second] = sorted(warehouse.ledger(TARGET))
        assert (first.inserted, first.superseded, first.rejected) == (2, 4, 2)
        assert (second.inserted, second.superseded, second.rejected) == (2, 3, 0)
        assert open_loader().load([OTHER, AGAIN]) == LoadResult(2, 6, 1, 5, 0)
        self.holds(warehouse, *QUOTES)
        assert open_loader().load(QUOTES) == LoadResult()
        self.holds(warehouse, *QUOTES)

    def test_the_order_of_loading_makes_no_difference(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """Segment by segment, in any order that keeps each partition's, into a table of its own each (T18)."""
        for number, order in enumerate(ORDERS):
            loader = open_loader(target=f"{TARGET}{number}")
            seen = []
            for place in order:
                loader.load([QUOTES[place]])
                seen.append(QUOTES[place])
                self.holds(warehouse, *seen, target=f"{TARGET}{number}")

    def test_a_tombstone_deletes(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """Where key and order are the record's own; a later record of the key is there again, an earlier one is not (S9)."""
        good = b'{"price":1}'
        one = segment(0, [good, good, None, None, None], keys=(b"A", b"B", b"A", b"C", None))
        two = segment(5, [b'{"price":2}', good], keys=(b"A", b"D"))
        other = segment(0, [good], keys=(b"C",), partition=PARTITIONS[0], stream="earlier")
        loader = open_loader(Compacted)
        assert loader.load([one]) == LoadResult(1, 5, 3, 1, 1)
        assert {cells for _, cells in warehouse.rows(TARGET)} == {
            ("A", None, None),
            ("B", Decimal(1), None),
            ("C", None, None),
        }
        assert [place[2] for place in warehouse.current(TARGET)] == [1]
        assert [place[2] for place, _ in warehouse.quarantined(TARGET)] == [4]  # a tombstone of no key
        assert loader.load([two, other]) == LoadResult(2, 3, 1, 2, 0)
        assert {(cells[0], cells[1]) for _, cells in warehouse.rows(TARGET)} == {
            ("A", Decimal(2)),
            ("B", Decimal(1)),
            ("C", None),
            ("D", Decimal(1)),
        }
        assert sorted(place[2] for place in warehouse.current(TARGET)) == [1, 5, 6]

    def test_readers_see_the_target_that_took_over(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """So do the readers of all those before it, and they see what is loaded into it later (S7)."""
        open_loader().load([FIRST])
        targets, loaded = [TARGET], [FIRST]
        for number, more in ((2, SECOND), (3, OTHER)):
            targets.append(f"{TARGET}_v{number}")
            loader = open_loader(target=targets[-1])
            loader.load(loaded)
            try:
                loader.take_over(TARGET)
            except ConfigError:
                return  # `Loader.take_over` is optional, and it says so
            loader.load([more])
            loaded.append(more)
            expected = newest(loaded)
            shown = sorted({place for place, _ in expected.rows.values()} - expected.deleted, key=str)
            for target in targets:
                assert sorted(warehouse.current(target), key=str) == shown

    # ---- counting, redrive ------------------------------------------------------------------------------------------

    def test_redrive_takes_the_place_that_the_record_always_had(
        self, open_loader: Callable[..., Loader], warehouse: Warehouse
    ) -> None:
        """What is older than the row is superseded, what is newer replaces it, a key that was not there is inserted (S6)."""
        values = [quote("A", 2, 1), quote("A", 1, "2"), quote("B", 1, 3), quote("B", 2, "4"), quote("C", 1, "5")]
        open_loader().load([segment(0, [*values, quote("C", 2, "6"), quote("D", None, "7")])])
        lenient = open_loader(LenientQuote)
        assert lenient.redrive(Selection(end=4)) == LoadResult(0, 0, 0, 2, -2)
        assert lenient.redrive(Selection()) == LoadResult(0, 0, 1, 1, -2)
        assert lenient.redrive(Selection()) == LoadResult()
        rows = sorted((place[2], cells) for place, cells in warehouse.rows(TARGET))
        assert rows == [(0, ("A", Decimal(1), 2)), (3, ("B", Decimal(4), 2)), (5, ("C", Decimal(6), 2))]
        assert [place[2] for place, _ in warehouse.quarantined(TARGET)] == [6]

    def test_the_census_adds_up(self, open_loader: Callable[..., Loader]) -> None:
        """Of a line's whole range: rows, quarantine, and the rest of its records, which newer ones hide (S10)."""
        loader = open_loader()
        loader.load(QUOTES)
        found = [
            loader.census(Line(dataset, partition, TARGET), 0, 10**12)
            for dataset, partition in ((DATASET, PARTITIONS[0]), (DATASET, PARTITIONS[1]), ("f" * 32, PARTITIONS[1]))
        ]
        if None in found:
            return  # `Loader.census` is optional, and None is its answer
        rows = newest(QUOTES).rows.values()
        of_line = [
            sum(place[:2] == line for place, _ in rows)
            for line in ((DATASET, PARTITIONS[0]), (DATASET, PARTITIONS[1]), ("f" * 32, PARTITIONS[1]))
        ]
        records, refused = (13, 4, 2), (2, 0, 0)
        assert found == [Census(n, r, all_ - n - r) for n, r, all_ in zip(of_line, refused, records, strict=True)]
        assert loader.census(Line(DATASET, Partition("none", 0), TARGET), 0, 100) == Census(0, 0, 0)

"""What a loader keeps that `headrace audit` looks into: it tells what its tables really hold, not what they should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal

from headrace.contract import Contract, column, contract
from headrace.envelope import decode
from headrace.errors import ConfigError
from headrace.loader import LoadableSegment, Loader, Selection
from headrace.rows import row
from headrace.tally import LedgerRow as Row
from headrace.tally import Stored, Stray, Tally
from headrace.testing.contracts.keyed_loader import QUOTES, Newest, Quote, newest
from headrace.testing.contracts.loader import (
    BAD,
    DATASET,
    GOOD,
    PARTITIONS,
    REDRIVABLE,
    TARGET,
    LedgerRow,
    LenientTick,
    LoaderContract,
    Place,
    Tick,
    Warehouse,
    segment,
)

STREAM = PARTITIONS[0].stream
OTHER_DATASET = "f" * 32


@contract(version=1)
class EveryKind:
    """A column of each kind that the other contracts have not."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None
    moment: datetime | None = column(unit="ns")
    flag: bool | None
    nested: dict[str, object] | None


KINDS: tuple[tuple[bytes, tuple[str | None, ...]], ...] = (
    (b'{"symbol":"A","price":1.5}', ("A", "1.500000", None, None, None, None)),
    (
        b'{"symbol":"A","price":-1,"size":0,"moment":1381152600123456789,"flag":true,"nested":{"a":[1,null,"\xc3\xa4"]}}',
        ("A", "-1.000000", "0", "1381152600123456789", "true", '{"a":[1,null,"\xe4"]}'),
    ),
    (
        b'{"symbol":"","price":0,"size":-1,"moment":-1,"flag":false,"nested":{}}',
        ("", "0.000000", "-1", "-1", "false", "{}"),
    ),
    (b'{"symbol":"A","price":1,"moment":0}', ("A", "1.000000", None, "0", None, None)),
)
"""Values, and their cells as an audit compares them: a moment is nanoseconds since the Unix epoch, all else as it is typed."""


class AuditedLoaderContract(LoaderContract):
    """
    `LoaderContract`, and a loader that counts its tables and reads them back: `Loader.tally` and `Loader.stored`.

    Of a contract with a key as well, unless the loader refuses such a contract (ConfigError).
    """

    def tally(self, loader: Loader, dataset_id: str = DATASET) -> Tally:
        """Return the tally of the tests' stream; there must be one."""
        found = loader.tally(dataset_id, STREAM)
        assert found is not None
        return found

    def test_a_target_that_is_not_there_has_no_tally(self, loader: Loader) -> None:
        """Counting makes nothing."""
        for _ in range(2):
            assert loader.tally(DATASET, STREAM) is None

    def test_a_tally_counts_what_is_there(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """For each load what the ledger says and what the tables hold of its range, of one dataset; sums over all of them."""
        loader = open_loader()
        values = [GOOD[0][0], BAD[2], GOOD[1][0]]
        loader.load([segment(0, values), segment(3, [BAD[3]]), segment(4, [GOOD[2][0]])])
        loader.load([segment(0, values, partition=PARTITIONS[1]), segment(0, values, dataset_id=OTHER_DATASET)])
        tally = self.tally(open_loader())
        assert tally.target.lower() == TARGET  # as the warehouse spells it
        assert (tally.keyed, list(tally.strays)) == (False, [])
        assert [(r.partition, r.start, r.end, r.kind) for r in tally.ledger] == [
            (PARTITIONS[0], 0, 3, "load"),
            (PARTITIONS[0], 3, 4, "load"),
            (PARTITIONS[0], 4, 5, "load"),
            (PARTITIONS[1], 0, 3, "load"),
        ]
        assert [(r.records, r.inserted, r.superseded, r.rejected) for r in tally.ledger] == [
            (3, 2, 0, 1),
            (1, 0, 0, 1),
            (1, 1, 0, 0),
            (3, 2, 0, 1),
        ]
        for r in tally.ledger:
            assert (r.rows, r.distinct_rows, r.quarantined, r.distinct_quarantined, r.both) == (
                r.inserted,
                r.inserted,
                r.rejected,
                r.rejected,
                0,
            )
        assert (
            (tally.rows, tally.quarantined)
            == (len(warehouse.rows(TARGET)), len(warehouse.quarantined(TARGET)))
            == (7, 4)
        )
        assert (tally.inserted, tally.rejected) == (7, 4)
        assert (tally.of, tally.refused) == ({PARTITIONS[0]: 3, PARTITIONS[1]: 2}, {PARTITIONS[0]: 2, PARTITIONS[1]: 1})
        assert (tally.position(PARTITIONS[0]), tally.position(PARTITIONS[1])) == (5, 3)

    def test_a_tally_has_every_row_of_the_ledger(self, open_loader: Callable[..., Loader]) -> None:
        """Redrives and beginnings too, each with its range, its counts, its segment's digest and its contract's version."""
        one, second = segment(0, BAD), PARTITIONS[1]
        open_loader().load([one])
        lenient = open_loader(LenientTick)
        lenient.redrive(Selection())
        expected = [
            (PARTITIONS[0], "load", 0, len(BAD), (len(BAD), 0, 0, len(BAD)), one.segment.trailer.digest, 1),
            (PARTITIONS[0], "redrive", REDRIVABLE, REDRIVABLE + 1, (0, 1, 0, -1), None, 2),
        ]
        with suppress(ConfigError):  # `Loader.begin` is optional, and says so
            lenient.begin(self.line(second), 5)
            expected.append((second, "begin_at", 0, 5, (0, 0, 0, 0), None, 2))
        tally = self.tally(lenient)
        assert [
            (
                r.partition,
                r.kind,
                r.start,
                r.end,
                (r.records, r.inserted, r.superseded, r.rejected),
                r.digest,
                r.version,
            )
            for r in sorted(tally.ledger, key=lambda r: (r.partition, r.kind))
        ] == expected
        load = next(r for r in tally.ledger if r.kind == "load")
        assert (load.rows, load.quarantined) == (1, len(BAD) - 1)  # in the load's range, and not the redrive's
        assert {(r.rows, r.quarantined) for r in tally.ledger if r.kind != "load"} == {(0, 0)}

    def test_a_tally_counts_what_is_gone(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """What somebody took behind the loader's back is missing from the rows, and not from the ledger's words."""
        open_loader().load([segment(0, [GOOD[0][0]] * 3), segment(3, [GOOD[0][0]] * 2)])
        warehouse.take(TARGET, 3)
        tally = self.tally(open_loader())
        assert [(r.inserted, r.rows) for r in tally.ledger] == [(3, 3), (2, 1)]
        assert (tally.inserted, tally.rows) == (5, 4)

    def test_a_tally_names_what_no_load_covers(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """What lost its row of the ledger is a stray, in the middle, behind the last load and where no load is left."""
        loader, values = open_loader(), [GOOD[0][0], BAD[2], GOOD[1][0]]
        loader.load([segment(start, values) for start in (0, 3, 6, 9)])
        loader.load([segment(0, values, partition=PARTITIONS[1]), segment(0, values, dataset_id=OTHER_DATASET)])
        for start in (3, 9):
            warehouse.forget(TARGET, start)
        tally, first = self.tally(open_loader()), PARTITIONS[0]
        lost = [Stray(first, "quarantine", 4, 11, 2), Stray(first, "rows", 3, 12, 4)]
        assert sorted(tally.strays, key=str) == lost
        assert [(r.partition, r.start, r.end) for r in tally.ledger] == [
            (first, 0, 3),
            (first, 6, 9),
            (PARTITIONS[1], 0, 3),
        ]
        assert {(r.rows, r.distinct_rows, r.quarantined, r.distinct_quarantined, r.both) for r in tally.ledger} == {
            (2, 2, 1, 1, 0)
        }
        assert (tally.rows, tally.inserted, tally.quarantined, tally.rejected) == (12, 8, 6, 4)
        assert (tally.of, tally.refused) == ({first: 8, PARTITIONS[1]: 2}, {first: 4, PARTITIONS[1]: 1})
        assert tally.position(first) == 9
        warehouse.forget(TARGET, 0)
        tally = self.tally(open_loader(), OTHER_DATASET)
        assert (list(tally.ledger), tally.position(first)) == ([], None)
        lost = [Stray(first, "quarantine", 1, 2, 1), Stray(first, "rows", 0, 3, 2)]
        assert sorted(tally.strays, key=str) == lost
        assert (tally.rows, tally.quarantined, tally.of, tally.refused) == (12, 6, {first: 2}, {first: 1})

    def test_a_contract_with_a_key(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """
        Rows are counted and read where their records stand in the log, those that newer ones hide not at all.

        The ledger's words stay what they were. Of each row one cell more is read: whether it is a delete.
        """
        try:
            loader = open_loader(Quote)
            loader.max_rejected = 1.0  # of a few records each one counts
            for each in QUOTES:  # rows leave the loads that came before
                loader.load([each])
        except ConfigError:
            return  # a loader may refuse contracts with a key
        expected, loader = newest(QUOTES), open_loader(Quote)
        self.counts(self.tally(loader), warehouse, expected)
        values = _values(QUOTES)
        deletes = set()
        for dataset, partition in {place[:2] for place in values}:
            found = loader.stored(self.line(partition, dataset), 0, 100)
            places = sorted(p for p, _ in expected.rows.values() if p[:2] == (dataset, partition))
            refused = sorted(p[2] for p in expected.refused if p[:2] == (dataset, partition))
            assert [(r.offset, r.cells) for r in found.rows] == [(p[2], self.cells(values[p], Quote)) for p in places]
            assert [n for n, _ in found.quarantined] == refused
            deletes |= {(dataset, partition, r.offset) for r in found.rows if r.cells[-1] == "true"}
        assert deletes == expected.deleted

    def counts(self, tally: Tally, warehouse: Warehouse, expected: Newest) -> None:
        """Hold a tally of the quotes against the ledger, and against what an independent reading says that there is."""
        places = [place for place, _ in expected.rows.values()]
        assert (tally.keyed, tally.doubled_keys, list(tally.strays)) == (True, 0, [])
        told = [r for r in warehouse.ledger(TARGET) if r.dataset_id == DATASET]
        assert [_words(r) for r in tally.ledger] == sorted(map(_words, told))
        for load in tally.ledger:
            here, refused = (sum(_within(load, place) for place in some) for some in (places, expected.refused))
            found = (load.rows, load.distinct_rows, load.quarantined, load.distinct_quarantined, load.both)
            assert found == (here, here, refused, refused, 0)
        assert [r.rows for r in tally.ledger] != [r.inserted for r in tally.ledger]  # the ledger alone would not do
        assert tally.rows == tally.inserted == len(places)
        assert tally.quarantined == tally.rejected == len(expected.refused)
        assert sum(tally.of.values()) == sum(place[0] == DATASET for place in places)

    def test_stored_is_what_the_tables_hold(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """Rows cell by cell and quarantined lines to the byte, of the range and nothing beside it, whatever loads it cuts."""
        values = [value for value, _ in GOOD] + list(BAD)
        half = len(values) // 2
        loader = open_loader()
        loader.load(
            [segment(0, values[:half]), segment(half, values[half:]), segment(0, values, partition=PARTITIONS[1])]
        )
        start, end = 2, len(values) - 2
        found = open_loader().stored(self.line(), start, end)
        expected = [(n, self.cells(value)) for n, value in enumerate(values) if start <= n < end and n < len(GOOD)]
        assert [(r.offset, r.cells) for r in found.rows] == expected
        assert [r.timestamp_ms - 1_700_000_000_000 for r in found.rows] == [
            n if n < half else n - half for n, _ in expected
        ]
        lines = {p[2]: bytes(line) for p, line in warehouse.quarantined(TARGET) if p[1] == PARTITIONS[0]}
        assert [(n, bytes(line)) for n, line in found.quarantined] == [(n, lines[n]) for n in range(len(GOOD), end)]
        assert [decode(bytes(line)).value for _, line in found.quarantined] == values[len(GOOD) : end]

    def test_stored_of_every_kind(self, open_loader: Callable[..., Loader]) -> None:
        """A boolean is true or false, a nested value compact JSON, a moment nanoseconds, before 1970 too; NULL is None."""
        open_loader(EveryKind).load([segment(0, [value for value, _ in KINDS])])
        loader = open_loader(EveryKind)
        assert [row.cells for row in loader.stored(self.line(), 0, len(KINDS)).rows] == [cells for _, cells in KINDS]
        found = loader.stored(self.line(), 0, len(KINDS), cells=False)  # the contract is not known
        assert [row.offset for row in found.rows] == list(range(len(KINDS)))

    def test_stored_has_what_the_stream_has_brought(self, open_loader: Callable[..., Loader]) -> None:
        """Every column that the loader describes, those behind the contract's too: an audit looks into all of them."""
        one, evolving = segment(0, [b'{"symbol":"A","price":1,"lot":7}']), open_loader()
        evolving.evolve = True
        try:
            evolving.changes([one])
        except ConfigError:
            return  # `Loader.changes` is optional, and it says so
        evolving.load([one])
        loader = open_loader()
        names = [column.name for column in loader.described().columns]
        [found] = loader.stored(self.line(), 0, 1).rows
        assert dict(zip(names, found.cells, strict=True))["lot"] == "7"

    def test_stored_is_not_what_was_taken(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """It reads the table, not the ledger."""
        open_loader().load([segment(0, [GOOD[0][0]] * 3)])
        warehouse.take(TARGET, 1)
        assert [r.offset for r in open_loader().stored(self.line(), 0, 3).rows] == [0, 2]
        nothing = open_loader().stored(self.line(PARTITIONS[1]), 0, 3)
        assert nothing == Stored([], [])

    @staticmethod
    def cells(value: bytes | None, kept: type = Tick) -> tuple[str | None, ...]:
        """Return the canonical cells of a good value."""
        found = row(Contract.of(kept), value)
        assert isinstance(found, list)
        return tuple(found)


def _within(load: Row, place: Place) -> bool:
    return place[:2] == (load.dataset_id, load.partition) and load.start <= place[2] < load.end


def _words(load: Row | LedgerRow) -> tuple[object, ...]:
    """What the ledger says of a load."""
    return load.partition, load.start, load.end, load.records, load.inserted, load.superseded, load.rejected


def _values(segments: Sequence[LoadableSegment]) -> dict[Place, bytes | None]:
    """The value of each record."""
    return {
        (each.segment.trailer.dataset_id, each.segment.partition, record.offset): record.value
        for each in segments
        for record in map(decode, b"".join(each.lines()).splitlines())
    }

"""What a loader keeps that `headrace audit` looks into: it tells what its tables really hold, not what they should."""

from __future__ import annotations

from collections.abc import Callable

from headrace.contract import Contract
from headrace.envelope import decode
from headrace.loader import Loader
from headrace.rows import row
from headrace.tally import Stored, Tally
from headrace.testing.contracts.loader import (
    BAD,
    DATASET,
    GOOD,
    PARTITIONS,
    TARGET,
    LoaderContract,
    Tick,
    Warehouse,
    segment,
)

STREAM = PARTITIONS[0].stream


class AuditedLoaderContract(LoaderContract):
    """`LoaderContract`, and a loader that counts its tables and reads them back: `Loader.tally` and `Loader.stored`."""

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
        loader.load([segment(0, values, partition=PARTITIONS[1]), segment(0, values, dataset_id="f" * 32)])
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

    def test_a_tally_counts_what_is_gone(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """What somebody took behind the loader's back is missing from the rows, and not from the ledger's words."""
        open_loader().load([segment(0, [GOOD[0][0]] * 3), segment(3, [GOOD[0][0]] * 2)])
        warehouse.take(TARGET, 3)
        tally = self.tally(open_loader())
        assert [(r.inserted, r.rows) for r in tally.ledger] == [(3, 3), (2, 1)]
        assert (tally.inserted, tally.rows) == (5, 4)

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

    def test_stored_is_not_what_was_taken(self, open_loader: Callable[..., Loader], warehouse: Warehouse) -> None:
        """It reads the table, not the ledger."""
        open_loader().load([segment(0, [GOOD[0][0]] * 3)])
        warehouse.take(TARGET, 1)
        assert [r.offset for r in open_loader().stored(self.line(), 0, 3).rows] == [0, 2]
        nothing = open_loader().stored(self.line(PARTITIONS[1]), 0, 3)
        assert nothing == Stored([], [])

    @staticmethod
    def cells(value: bytes | None) -> tuple[str | None, ...]:
        """Return the canonical cells of a good value."""
        found = row(Contract.of(Tick), value)
        assert isinstance(found, list)
        return tuple(found)

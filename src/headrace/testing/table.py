"""One target of a warehouse in memory: what it holds, and what an audit asks of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import attrs

from headrace.auditing.nanoseconds import nanoseconds
from headrace.contract import Contract
from headrace.loader import Line, QuarantinedRecord
from headrace.rowwise import TypedRow
from headrace.tally import Counts, LedgerRow, Stored, StoredRow, Tally, by_partition, counted, strays
from headrace.testing.contracts.loader import Place

Shape = tuple[tuple[str, str, int, int, bool], ...]


@attrs.define
class Table:
    """
    One target: its rows, its quarantine and its ledger, as the last COMMIT left them.

    Attributes:
        version: Of the newest contract that has loaded it (S7).

        shape: Its columns.

        keyed: It holds of each business key the newest.

        rows: By business key, or by place where the contract has none.

        refused: By place.

        ledger: Loads, redrives, and where lines begin of which the head is not loaded (B29).
    """

    version: int = 0
    shape: Shape = ()
    keyed: bool = False
    rows: dict[object, TypedRow] = attrs.field(factory=dict)
    refused: dict[Place, QuarantinedRecord] = attrs.field(factory=dict)
    ledger: list[LedgerRow] = attrs.field(factory=list)

    def copied(self) -> Table:
        return attrs.evolve(self, rows=dict(self.rows), refused=dict(self.refused), ledger=list(self.ledger))

    def position(self, line: Line) -> int | None:
        """How far the ledger says that a line is loaded (S1)."""
        return max((r.end for r in self.of(line) if r.kind != "redrive"), default=None)

    def of(self, line: Line) -> list[LedgerRow]:
        """The ledger's rows of a line."""
        return [r for r in self.ledger if (r.dataset_id, r.partition) == (line.dataset_id, line.partition)]

    def tally(self, target: str, dataset_id: str, stream: str) -> Tally:
        """As `headrace.Loader.tally`."""
        mine = [r for r in self.ledger if r.dataset_id == dataset_id and r.partition.stream == stream]
        mine.sort(key=lambda r: (r.partition, r.start, r.end))
        rows, refused = {place_of(row) for row in self.rows.values()}, set(self.refused)
        here, there, both = (
            _by_load(mine, (place for place in places if place[0] == dataset_id and place[1].stream == stream))
            for places in (rows, refused, rows & refused)
        )
        return Tally(
            target,
            self.keyed,
            counted(mine, here, there, both),
            strays(here, there, stream),
            rows=len(self.rows),
            quarantined=len(self.refused),
            inserted=sum(r.inserted for r in self.ledger),
            rejected=sum(r.rejected for r in self.ledger),
            of=by_partition(here, stream),
            refused=by_partition(there, stream),
        )

    def stored(self, line: Line, start: int, end: int, contract: Contract | None) -> Stored:
        """As `headrace.Loader.stored`; the contract's columns, none where it is not known."""

        def is_meant(place: Place) -> bool:
            return place[:2] == (line.dataset_id, line.partition) and start <= place[2] < end

        rows = [row for row in self.rows.values() if is_meant(place_of(row))]
        return Stored(
            [StoredRow(row.offset, row.timestamp_ms, self._cells(row, contract)) for row in sorted(rows, key=place_of)],
            [(place[2], self.refused[place].line) for place in sorted(filter(is_meant, self.refused))],
        )

    def _cells(self, row: TypedRow, contract: Contract | None) -> tuple[str | None, ...]:
        if contract is None:
            return ()
        there = {name: cell for (name, *_), cell in zip(self.shape, row.cells, strict=True)}
        cells = [
            nanoseconds(there.get(c.name)) if c.kind == "timestamp" else there.get(c.name) for c in contract.columns
        ]
        return (*cells, str(row.deleted).lower()) if contract.key else tuple(cells)


def place_of(row: TypedRow | QuarantinedRecord) -> Place:
    """Where a record stands in the log."""
    return (row.dataset_id, row.partition, row.offset)


def _by_load(ledger: Iterable[LedgerRow], places: Iterable[Place]) -> Counts:
    """Count by the load that covers an offset, None for none."""
    loads: dict[int, list[tuple[int, int]]] = {}
    for row in ledger:
        if row.kind == "load":
            loads.setdefault(row.partition.number, []).append((row.start, row.end))
    offsets: dict[tuple[int, int | None], list[int]] = {}
    for _, partition, offset in places:
        known = loads.get(partition.number, [])
        at = bisect_right(known, (offset, float("inf"))) - 1
        covered = at >= 0 and offset < known[at][1]
        offsets.setdefault((partition.number, known[at][0] if covered else None), []).append(offset)
    return {load: (len(all_), len(set(all_)), min(all_), max(all_)) for load, all_ in offsets.items()}

"""
What a target really holds, counted in its tables: what an audit holds against the ledger and the lake.

A loader of your own counts, by one statement a table, how many records lie in the range of each load (`Counts`); `counted` puts
that to the rows of its ledger, `strays` and `by_partition` are the rest of a `Tally`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from headrace.records import Partition

__all__ = ["Counts", "LedgerRow", "Stored", "StoredRow", "Stray", "Tally", "by_partition", "counted", "strays"]


@attrs.frozen
class LedgerRow:
    """
    A row of the ledger, and what the tables hold of its range. `headrace.testing` has another, of the ledger's words alone.

    Attributes:
        dataset_id: Whose.

        partition: Of which partition.

        kind: "load", "begin_at" or "redrive".

        start: Its range.

        end: Before this offset.

        records: By the ledger, and so are the next three.

        inserted: Rows.

        superseded: Hidden by newer ones, or hiding older ones.

        rejected: In quarantine; negative where they left it.

        digest: Of the segment; None where it is no load.

        version: Of the contract.

        rows: Counted in the table; 0 where it is no load, and so are the next four.

        distinct_rows: Of these, different offsets.

        quarantined: Counted in quarantine.

        distinct_quarantined: Of these, different offsets.

        both: Offsets that are in the table and in quarantine.
    """

    dataset_id: str
    partition: Partition
    kind: str
    start: int
    end: int
    records: int
    inserted: int
    superseded: int
    rejected: int
    digest: str | None
    version: int
    rows: int = 0
    distinct_rows: int = 0
    quarantined: int = 0
    distinct_quarantined: int = 0
    both: int = 0


@attrs.frozen
class Stray:
    """
    Records of a partition that no load of the ledger covers.

    Attributes:
        partition: Whose.

        table: "rows" or "quarantine".

        start: The first offset.

        end: Behind the last.

        records: How many.
    """

    partition: Partition
    table: str
    start: int
    end: int
    records: int


@attrs.frozen
class Tally:
    """
    One target and one dataset, as one transaction saw them.

    Attributes:
        target: The table.

        keyed: It holds of each business key the newest.

        ledger: Of the dataset and this target, ascending by partition, start and end.

        strays: What the ledger does not cover.

        rows: In the whole table, whatever the dataset.

        quarantined: In the whole quarantine.

        inserted: Summed over the whole ledger of the target.

        rejected: The same.

        doubled_keys: Keys that have more than one row. 0 where there is no key, or the contract is not known.

        of: Rows of each partition of the dataset.

        refused: Quarantined records of each partition of the dataset.

        nobodys: Rows and quarantined records of other datasets and streams of which the target's ledger knows nothing at all.
    """

    target: str
    keyed: bool
    ledger: Sequence[LedgerRow]
    strays: Sequence[Stray]
    rows: int
    quarantined: int
    inserted: int
    rejected: int
    doubled_keys: int = 0
    of: Mapping[Partition, int] = attrs.field(factory=dict)
    refused: Mapping[Partition, int] = attrs.field(factory=dict)
    nobodys: int = 0

    @property
    def partitions(self) -> set[int]:
        """The numbers of the partitions of which the ledger or the tables hold something."""
        return {row.partition.number for row in self.ledger} | {stray.partition.number for stray in self.strays}

    def position(self, partition: Partition) -> int | None:
        """How far the ledger is; None where nothing was loaded."""
        ends = [row.end for row in self.ledger if row.partition == partition and row.kind in ("load", "begin_at")]
        return max(ends, default=None)


Counts = Mapping[tuple[int, int | None], tuple[int, int, int, int]]
"""By partition and start of the load that covers an offset, None for none: records, different ones, the first and last offset."""

_NOTHING = (0, 0, 0, 0)


def counted(ledger: Iterable[LedgerRow], rows: Counts, refused: Counts, both: Counts) -> list[LedgerRow]:
    """Put what was counted to each load; of one that is there twice the first one has the counts."""
    seen: set[tuple[int, int]] = set()
    found = []
    for row in ledger:
        place = (row.partition.number, row.start)
        if row.kind != "load" or place in seen:
            found.append(row)
            continue
        seen.add(place)
        here, there = rows.get(place, _NOTHING), refused.get(place, _NOTHING)
        found.append(
            attrs.evolve(
                row,
                rows=here[0],
                distinct_rows=here[1],
                quarantined=there[0],
                distinct_quarantined=there[1],
                both=both.get(place, _NOTHING)[0],
            )
        )
    return found


def strays(rows: Counts, refused: Counts, stream: str) -> list[Stray]:
    """What no load covers."""
    return [
        Stray(Partition(stream, number), what, first, last + 1, count)
        for what, found in (("rows", rows), ("quarantine", refused))
        for (number, start), (count, _, first, last) in sorted(found.items(), key=str)
        if start is None
    ]


def by_partition(counts: Counts, stream: str) -> dict[Partition, int]:
    """Add up each partition's records."""
    found: dict[Partition, int] = {}
    for (number, _), (count, *_) in counts.items():
        found[Partition(stream, number)] = found.get(Partition(stream, number), 0) + count
    return found


@attrs.frozen
class StoredRow:
    """
    A row of a target.

    Attributes:
        offset: Of its record.

        timestamp_ms: Of its record.

        cells: Its columns in the contract's order, as `headrace.rowwise.TypedRow` has them, but a moment is a number:
            nanoseconds since the Unix epoch. Of a contract with a key one more: ``true`` where it is a delete, else ``false``.
    """

    offset: int
    timestamp_ms: int
    cells: tuple[str | None, ...] = attrs.field(repr=False)


@attrs.frozen
class Stored:
    """
    What a target holds of a range of one partition.

    Attributes:
        rows: Ascending by offset; a record that is there twice is here twice.

        quarantined: Offset and line of each quarantined record, ascending.
    """

    rows: Sequence[StoredRow]
    quarantined: Sequence[tuple[int, bytes]] = attrs.field(repr=False)

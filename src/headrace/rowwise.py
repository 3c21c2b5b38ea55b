"""
What a loader needs that types record by record, in plain Python: no engine, no client library, exact.

A loader for a warehouse of your own stands on a few functions. `lacking` says which segments the ledger has not, `typed` makes
rows and quarantine of one segment, `check_share` refuses a contract that is not this stream's, `newest` keeps of each business
key one row, `typed_again` is for a redrive. What is left to the loader is its transaction (rules S1 to S9 of the protocol). Ours
for big tables type by the block instead; the rows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

import attrs

from headrace.contract import Contract
from headrace.envelope import decode_lines
from headrace.errors import CorruptSegmentError, DataError, PositionConflictError
from headrace.loader import Line, LoadableSegment, QuarantinedRecord, Selection
from headrace.records import Partition, Record
from headrace.rows import Rejected, row
from headrace.share import exceeds, too_many

__all__ = [
    "TypedRow",
    "TypedSegment",
    "check_share",
    "lacking",
    "newest",
    "order_of",
    "selected",
    "typed",
    "typed_again",
]


@attrs.frozen
class TypedRow:
    """
    A record that keeps its contract.

    Attributes:
        dataset_id: Where it comes from, with its partition and offset: what a row is known by.

        partition: In that dataset.

        offset: In that partition.

        timestamp_ms: The record's own, -1 where it has none.

        cells: One text for each value, in the order of the contract's columns; None is NULL. An integer and a decimal are digits
            without exponent, a decimal with all its digits behind the point; a boolean is ``true`` or ``false``, a moment
            ``2013-10-07 13:30:00.123456789`` in UTC, a nested value compact JSON. Whether it is a delete is not among them.

        deleted: Whether the record is a delete (S9).

        key: The cells of the business key; empty where the contract has none.

        order: Of two rows with one key, the one whose order is greater is the newer one (S8).
    """

    dataset_id: str
    partition: Partition
    offset: int
    timestamp_ms: int
    cells: tuple[str | None, ...]
    deleted: bool = False
    key: tuple[str | None, ...] = ()
    order: tuple[object, ...] = ()


@attrs.frozen
class TypedSegment:
    """
    One segment as a contract sees it. ``len(rows) + len(refused)`` is the number of its records.

    Attributes:
        loadable: The segment, with its place and trailer.

        rows: What keeps the contract, ascending.

        refused: What breaks it, ascending.
    """

    loadable: LoadableSegment
    rows: Sequence[TypedRow]
    refused: Sequence[QuarantinedRecord]


def lacking(
    segments: Iterable[LoadableSegment], target: str, position: Callable[[Line], int | None], *, where: str = ""
) -> list[LoadableSegment]:
    """
    Keep the segments that the ledger has not (S1); ask this under the lock (S2).

    Args:
        segments: Ascending in each partition.

        target: The table that is loaded.

        position: How far the ledger says that a line is loaded; None where nothing of it ever was.

        where: What a message calls the table; *target* unless given.

    Raises:
        PositionConflictError: A segment does not start where its line ends.
    """
    ends: dict[Line, int] = {}
    found = []
    for loadable in segments:
        segment = loadable.segment
        line = Line(segment.trailer.dataset_id, segment.partition, target)
        end = ends[line] if line in ends else position(line) or 0
        if end < segment.end:
            if end != segment.start:
                raise PositionConflictError(
                    f"{where or target}: the ledger of {segment.partition} is at {end}, the segment covers [{segment.start},"
                    f" {segment.end}); load what lies between first",
                    expected=segment.start,
                    found=None,
                )
            found.append(loadable)
            end = segment.end
        ends[line] = end
    return found


def typed(contract: Contract, loadable: LoadableSegment) -> TypedSegment:
    """
    Read a segment and type each of its records.

    Raises:
        CorruptSegmentError: It does not hold what its trailer says (B4).
        SinkUnavailableError: Its store did not answer.
    """
    trailer, key = loadable.segment.trailer, loadable.segment.key
    lines = b"".join(loadable.lines()).split(b"\n")[:-1]
    try:
        records = decode_lines(b"".join(line + b"\n" for line in lines))
    except DataError as exc:
        raise CorruptSegmentError(f"{key} ({trailer.partition}): {exc}", key=key) from exc
    first, last = (records[0].offset, records[-1].offset) if records else (-1, -1)
    if (len(records), first, last + 1) != (trailer.records, trailer.first, trailer.end):
        raise CorruptSegmentError(
            f"{key} ({trailer.partition}): found {len(records)} records in [{first}, {last + 1}), its trailer says"
            f" {trailer.records} in [{trailer.first}, {trailer.end})",
            key=key,
        )
    rows, refused = [], []
    for record, line in zip(records, lines, strict=True):
        found = _typed(contract, trailer.dataset_id, trailer.partition, record)
        if isinstance(found, TypedRow):
            rows.append(found)
        else:
            refused.append(_refused(contract, trailer.dataset_id, trailer.partition, record, line, found))
    return TypedSegment(loadable, rows, refused)


def typed_again(contract: Contract, quarantined: QuarantinedRecord) -> TypedRow | QuarantinedRecord:
    """Type a quarantined record again: its row, or the record with what refuses it now (S6)."""
    record = quarantined.record()
    found = _typed(contract, quarantined.dataset_id, quarantined.partition, record)
    if isinstance(found, TypedRow):
        return found
    return _refused(contract, quarantined.dataset_id, quarantined.partition, record, quarantined.line, found)


def check_share(target: str, segments: Sequence[TypedSegment], max_rejected: float) -> None:
    """
    Refuse a call of which too much breaks the contract, before anything is written.

    Args:
        target: For the message.

        segments: All of the call's.

        max_rejected: The share of the records that may go to quarantine, 0 to 1 (`Loader.max_rejected`).

    Raises:
        TooManyRejectedError: `LEAST_REJECTED` or more are refused, and they are more than that share. It names the partitions of
            which so much is bad.
    """
    found: dict[Partition, tuple[int, int]] = {}
    for segment in segments:
        good, bad = found.get(segment.loadable.segment.partition, (0, 0))
        found[segment.loadable.segment.partition] = good + len(segment.rows), bad + len(segment.refused)
    refused = [each for segment in segments for each in segment.refused]
    if not exceeds(len(refused), len(refused) + sum(len(segment.rows) for segment in segments), max_rejected):
        return
    alike: dict[tuple[str, str], list[QuarantinedRecord]] = {}
    for each in refused:
        alike.setdefault((each.column, each.reason), []).append(each)
    reasons = [
        (len(group), column, reason, *min((each.partition, each.offset) for each in group))
        for (column, reason), group in sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    raise too_many(target, max_rejected, found, reasons)


def newest(rows: Iterable[TypedRow]) -> list[TypedRow]:
    """
    Keep of each business key the newest row (S8), in the order of the keys' first rows.

    Ask it of all rows of a call, whatever segment they are of: the ledger counts a key that was not there before in the row of
    the segment that has the newest, and all other accepted records as superseded.
    """
    found: dict[tuple[str | None, ...], TypedRow] = {}
    for each in rows:
        if each.key not in found or each.order > found[each.key].order:
            found[each.key] = each
    return list(found.values())


def order_of(
    contract: Contract, cells: Mapping[str, str | None], dataset_id: str, partition: Partition, offset: int
) -> tuple[object, ...]:
    """
    Return what decides between two rows with one key: `TypedRow.order`, of a row that is in a table already.

    Args:
        contract: Which columns are the order.

        cells: Canonical text by column; those of the order are looked at.

        dataset_id: The row's place in the log, with the next two.

        partition: In that dataset.

        offset: In that partition.
    """
    kinds = {column.name: column.kind for column in contract.columns}
    found: list[object] = []
    for name in contract.order:
        text = cells[name]
        assert text is not None  # noqa: S101 - a contract's order is never nullable
        found.append(text if kinds[name] == "timestamp" else Decimal(text))  # moments are texts of one width
    return (*found, partition.stream, partition.number, offset, dataset_id)


def selected(selection: Selection, record: QuarantinedRecord) -> bool:
    """Whether a quarantined record is one of those that are meant."""
    return (
        selection.partition in (None, record.partition)
        and selection.start <= record.offset
        and (selection.end is None or record.offset < selection.end)
        and selection.reason in (None, record.reason)
        and selection.column in (None, record.column)
        and selection.stream in (None, record.partition.stream)
        and selection.dataset_id in (None, record.dataset_id)
    )


def _typed(contract: Contract, dataset_id: str, partition: Partition, record: Record) -> TypedRow | Rejected:
    found = row(contract, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset)
    if isinstance(found, Rejected):
        return found
    cells, deleted = (found[:-1], found[-1] == "true") if contract.key else (found, False)
    named = {column.name: text for column, text in zip(contract.columns, cells, strict=True)}
    return TypedRow(
        dataset_id=dataset_id,
        partition=partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        cells=tuple(cells),
        deleted=deleted,
        key=tuple(named[name] for name in contract.key),
        order=order_of(contract, named, dataset_id, partition, record.offset),
    )


def _refused(
    contract: Contract, dataset_id: str, partition: Partition, record: Record, line: bytes, why: Rejected
) -> QuarantinedRecord:
    return QuarantinedRecord(
        dataset_id=dataset_id,
        partition=partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        contract=contract.name,
        version=contract.version,
        column=why.column,
        reason=why.reason,
        line=line,
    )

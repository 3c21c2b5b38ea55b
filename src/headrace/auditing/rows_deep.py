"""The rows of a table beside the lines that they were made from: each line is typed anew, by the careful path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from headrace.auditing.lines import DamagedError, Line, line
from headrace.auditing.nanoseconds import nanoseconds
from headrace.auditing.result import AuditFinding, Kind, Where
from headrace.auditing.tables import RELOAD
from headrace.contract import Contract
from headrace.loader import Line as LedgerLine
from headrace.loader import Loader
from headrace.rows import Rejected, row
from headrace.tally import LedgerRow, Stored, StoredRow

AT_ONCE = 5_000


@attrs.define(kw_only=True, eq=False)
class RowComparison:
    """
    Takes the records of a partition's loads in their order and holds them against what the table has.

    Attributes:
        loader: Reads the table.

        contract: Types lines; None: rows are looked for, and not into.

        line: The partition, the dataset and the target.

        keyed: The table holds of each key the newest: a record need not be there.

        asked: Calls, and calls again what does not answer.

        accepted: Called with each record that is not in quarantine, and with its cells.
    """

    loader: Loader
    contract: Contract | None
    line: LedgerLine
    keyed: bool
    asked: Callable[[Callable[[], Stored]], Stored]
    accepted: Callable[[Line, Sequence[str | None]], object] | None = None
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    _held: list[tuple[Line, LedgerRow]] = attrs.field(factory=list, init=False)
    _start: int = attrs.field(default=0, init=False)
    _end: int = attrs.field(default=0, init=False)

    def begin(self, load: LedgerRow) -> None:
        """The records that come are of this load."""
        if load.start != self._end:
            self._compare(self._end)
            self._start = self._end = load.start

    def record(self, stored: Line, load: LedgerRow) -> None:
        """Take the next record of a load."""
        self._held.append((stored, load))
        if len(self._held) >= AT_ONCE:
            self._compare(stored.record.offset + 1)

    def end(self, load: LedgerRow, *, whole: bool) -> None:
        """All records of the load were given; or not all, and it is told elsewhere why."""
        if not whole:
            self._held = [held for held in self._held if held[1] is not load]
            self._compare(load.start)
            self._start = load.end
        self._end = load.end

    def close(self) -> None:
        """There are no more."""
        self._compare(self._end)

    def _compare(self, end: int) -> None:
        start, held = self._start, self._held
        if start >= end:
            return
        self._start, self._held = end, []
        stored = self._stored(start, end)
        found = list(self._differences(held, stored))
        if found:  # a redrive may have come between two statements: what is wrong is so still
            stored = self._stored(start, end)
            found = list(self._differences(held, stored))
        self.findings += found
        if self.accepted is not None:
            refused = {offset for offset, _ in stored.quarantined}
            for each, _ in held:
                cells = None if each.record.offset in refused else self._cells(each)
                if cells is not None:
                    self.accepted(each, cells)

    def _stored(self, start: int, end: int) -> Stored:
        return self.asked(lambda: self.loader.stored(self.line, start, end, cells=self.contract is not None))

    def _differences(self, held: Sequence[tuple[Line, LedgerRow]], stored: Stored) -> Iterator[AuditFinding]:
        rows: dict[int, list[StoredRow]] = {}
        for there in stored.rows:
            rows.setdefault(there.offset, []).append(there)
        refused: dict[int, list[bytes]] = {}
        for offset, raw in stored.quarantined:
            refused.setdefault(offset, []).append(raw)
        for each, load in held:
            offset = each.record.offset
            yield from self._record(each, load, rows.pop(offset, []), refused.pop(offset, []))
        left: Sequence[tuple[Where, Iterable[int]]] = (("rows", rows), ("quarantine", refused))
        for where, offsets in left:
            for offset in offsets:
                yield self._found("foreign", where, offset, "the lake has no record there")

    def _record(
        self, each: Line, load: LedgerRow, rows: Sequence[StoredRow], refused: Sequence[bytes]
    ) -> Iterator[AuditFinding]:
        offset = each.record.offset
        if len(rows) > 1:
            yield self._found("duplicate", "rows", offset, f"it is there {len(rows)} times")
        if len(refused) > 1:
            yield self._found("duplicate", "quarantine", offset, f"it is there {len(refused)} times")
        if rows and refused:
            yield self._found("duplicate", "quarantine", offset, "it is in the table and in quarantine")
        if not rows and not refused and not self.keyed:
            where: Where = "quarantine" if self._is_refused(each) else "rows"
            yield self._found("missing", where, offset, "it is neither in the table nor in quarantine")
        if refused and not _is_same(refused[0], each):
            yield self._found("changed", "quarantine", offset, "its line is not the lake's")
        if rows and not refused:
            yield from self._row(each, load, rows[0])

    def _row(self, each: Line, load: LedgerRow, there: StoredRow) -> Iterator[AuditFinding]:
        offset = each.record.offset
        if there.timestamp_ms != each.record.timestamp_ms:
            yield self._found(
                "changed", "rows", offset, f"its time is {there.timestamp_ms}, {each.record.timestamp_ms} in the lake"
            )
        if self.contract is None or load.version != self.contract.version:
            return
        expected = typed(self.contract, each)
        if isinstance(expected, Rejected):
            evidence = f"it is a row, and the contract refuses it: {expected.column} {expected.reason}".replace(
                "  ", " "
            )
            yield self._found("changed", "rows", offset, evidence)
        elif expected != list(there.cells):
            names = [c.name for c in self.contract.columns] + ["_deleted"]
            wrong = [n for n, a, b in zip(names, expected, there.cells, strict=False) if a != b]
            yield self._found("changed", "rows", offset, f"{', '.join(wrong)}: not what the contract makes of the line")

    def _cells(self, each: Line) -> Sequence[str | None] | None:
        found = None if self.contract is None else typed(self.contract, each)
        return None if isinstance(found, Rejected) else found

    def _is_refused(self, each: Line) -> bool:
        return self.contract is not None and isinstance(typed(self.contract, each), Rejected)

    def _found(self, kind: Kind, where: Where, offset: int, evidence: str) -> AuditFinding:
        return AuditFinding(kind, where, self.line.partition.number, offset, offset + 1, evidence, RELOAD)


def typed(contract: Contract, each: Line) -> list[str | None] | Rejected:
    """A line's row, its moments as nanoseconds."""
    record = each.record
    cells = row(contract, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset)
    if isinstance(cells, Rejected):
        return cells
    for i, column in enumerate(contract.columns):
        if column.kind == "timestamp":
            cells[i] = nanoseconds(cells[i])
    return cells


def _is_same(raw: bytes, each: Line) -> bool:
    if raw == each.raw:
        return True
    try:
        return line(raw) == each.record
    except DamagedError:
        return False

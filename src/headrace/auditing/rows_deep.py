"""The rows of a table beside the lines that they were made from: each line is typed anew, by the careful path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from headrace.auditing.contracts import Cell, Contracts, fits, same
from headrace.auditing.lines import DamagedError, Line, line
from headrace.auditing.result import AuditFinding, Kind, Where
from headrace.auditing.tables import RELOAD
from headrace.loader import Line as LedgerLine
from headrace.loader import Loader
from headrace.rows import Rejected
from headrace.tally import LedgerRow, Stored, StoredRow

AT_ONCE = 5_000
_TOLD = 2  # columns of a row whose values are told
_WIDE = 60  # characters of a value
GIVE = "give the contract of each version that rows were loaded by (--contract, once for each)"


@attrs.define(kw_only=True, eq=False)
class RowComparison:
    """
    Takes the records of a partition's loads in their order and holds them against what the table has.

    Attributes:
        loader: Reads the table.

        contracts: Type lines; None: rows are looked for, and not into.

        line: The partition, the dataset and the target.

        keyed: The table holds of each key the newest: a record need not be there.

        asked: Calls, and calls again what does not answer.

        redrives: The ledger's, of this partition: a record that left quarantine was typed by their version.

        again: Asks anew for these, and for what the table's columns are.

        accepted: Called with each record that is not in quarantine, and with its cells.
    """

    loader: Loader
    contracts: Contracts | None
    line: LedgerLine
    keyed: bool
    asked: Callable[[Callable[[], Stored]], Stored]
    redrives: Sequence[LedgerRow]
    again: Callable[[], tuple[Sequence[LedgerRow], Contracts | None]]
    accepted: Callable[[Line, Sequence[Cell]], object] | None = None
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
            self.redrives, self.contracts = self.again()
            found = list(self._differences(held, stored))
        self.findings += found
        if self.accepted is not None:
            refused = {offset for offset, _ in stored.quarantined}
            for each, load in held:
                cells = None if each.record.offset in refused else self._cells(each, load)
                if cells is not None:
                    self.accepted(each, cells)

    def _stored(self, start: int, end: int) -> Stored:
        return self.asked(lambda: self.loader.stored(self.line, start, end, cells=self.contracts is not None))

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
            where: Where = "quarantine" if self._is_refused(each, load) else "rows"
            yield self._found("missing", where, offset, "it is neither in the table nor in quarantine")
        if refused and not _is_same(refused[0], each):
            yield self._found("changed", "quarantine", offset, "its line is not the lake's")
        if refused and not rows and self._is_taken(each, load):
            yield self._found("changed", "quarantine", offset, "the contract takes it, and it is in quarantine")
        if rows and not refused:
            yield from self._row(each, load, rows[0])

    def _row(self, each: Line, load: LedgerRow, there: StoredRow) -> Iterator[AuditFinding]:
        offset = each.record.offset
        if there.timestamp_ms != each.record.timestamp_ms:
            yield self._found(
                "changed", "rows", offset, f"its time is {there.timestamp_ms}, {each.record.timestamp_ms} in the lake"
            )
        if self.contracts is None:
            return
        expected = list(self._typed(each, load))
        if any(not isinstance(cells, Rejected) and same(cells, there.cells) for cells in expected):
            return
        if unknown := sorted(self._versions(load) - set(self.contracts.by_version)):
            versions = " and ".join(map(str, unknown))
            evidence = f"rows by version {versions} of the contract were not looked into: it was not given"
            yield AuditFinding("unknown", "rows", self.line.partition.number, load.start, load.end, evidence, GIVE)
            return
        first = next((cells for cells in expected if not isinstance(cells, Rejected)), expected[0])
        if isinstance(first, Rejected):
            evidence = f"it is a row, and the contract refuses it: {first.column} {first.reason}".replace("  ", " ")
            yield self._found("changed", "rows", offset, evidence)
            return
        names = [c.name for c in (*self.contracts.newest.columns, *self.contracts.brought)] + ["_deleted"]
        wrong = [each for each in zip(names, there.cells, first, strict=False) if not fits(each[2], each[1])]
        evidence = f"not what the contract makes of the line: {_differences(wrong)}"
        yield self._found("changed", "rows", offset, evidence)

    def _versions(self, load: LedgerRow) -> set[int]:
        """By which a record of a load may have been typed: the load's, or that of a redrive since."""
        return {load.version, *(r.version for r in self.redrives if r.start < load.end and load.start < r.end)}

    def _typed(self, each: Line, load: LedgerRow) -> Iterator[list[Cell] | Rejected]:
        """What each known version makes of a line, the load's first."""
        if self.contracts is not None:
            known = self._versions(load) & set(self.contracts.by_version)
            for version in sorted(known, key=lambda v: (v != load.version, v)):
                yield from self.contracts.each(version, each)

    def _cells(self, each: Line, load: LedgerRow) -> Sequence[Cell] | None:
        return next((cells for cells in self._typed(each, load) if not isinstance(cells, Rejected)), None)

    def _is_refused(self, each: Line, load: LedgerRow) -> bool:
        return isinstance(next(self._typed(each, load), None), Rejected)

    def _is_taken(self, each: Line, load: LedgerRow) -> bool:
        """Whether the version that it was loaded by takes it, if that one is known."""
        known = self.contracts is not None and load.version in self.contracts.by_version
        return known and not isinstance(next(self._typed(each, load)), Rejected)

    def _found(self, kind: Kind, where: Where, offset: int, evidence: str) -> AuditFinding:
        return AuditFinding(kind, where, self.line.partition.number, offset, offset + 1, evidence, RELOAD)


def _differences(wrong: Sequence[tuple[str, str | None, Cell]]) -> str:
    """What was found and expected in which columns: the values of the first ones, none longer than a line."""
    told = [f"{name} is {_shown(found)}, expected {_shown(expected)}" for name, found, expected in wrong[:_TOLD]]
    return "; ".join([*told, *(name for name, _, _ in wrong[_TOLD:])])


def _shown(cell: Cell) -> str:
    values = ["NULL" if value is None else value for value in (cell if isinstance(cell, list) else [cell])]
    return " or ".join(value if len(value) <= _WIDE else f"{value[:_WIDE]}…" for value in values)


def _is_same(raw: bytes, each: Line) -> bool:
    if raw == each.raw:
        return True
    try:
        return line(raw) == each.record
    except DamagedError:
        return False

"""The newest record of each business key, found anew from the lake and held against a table that keeps only these (S8)."""

from __future__ import annotations

import bisect
import json
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.contracts import Cell, Contracts, same
from headrace.auditing.lines import Line
from headrace.auditing.result import AuditFinding
from headrace.auditing.rows_deep import AT_ONCE
from headrace.auditing.tables import RELOAD, loads
from headrace.contract import Contract
from headrace.loader import Line as LedgerLine
from headrace.loader import Loader
from headrace.records import Partition
from headrace.retry import Retry
from headrace.tally import LedgerRow, StoredRow, Tally

_ATTEMPTS = 3
_BIAS = 10**40
_ENDLESS = 2**62


@attrs.define(kw_only=True, eq=False)
class Newest:
    """
    A file on disk with the newest record of each key, so that memory does not grow with them. Safe from any thread.

    Attributes:
        audit: Asks.

        loader: Reads the table.

        contract: Says what a key is, and what is newer.

        tally: As it was when the audit began: what was loaded by then is what is looked at.

        whole: All that was loaded is meant. Of a part, rows that other records made are looked at where the part has their key.
    """

    audit: Asked
    loader: Loader
    contract: Contract
    tally: Tally
    whole: bool
    _covered: dict[Partition, list[tuple[int, int]]] = attrs.field(factory=dict, init=False)
    _folder: tempfile.TemporaryDirectory[str] = attrs.field(init=False, repr=False)
    _file: sqlite3.Connection = attrs.field(init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headrace-audit-")
        path = Path(self._folder.name) / "keys.sqlite"
        self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute(
            "CREATE TABLE wanted (key BLOB PRIMARY KEY, rank BLOB, number INTEGER, offset INTEGER, cells TEXT, seen INTEGER)"
            " WITHOUT ROWID"
        )

    @classmethod
    def of(
        cls,
        audit: Asked,
        tally: Tally | None,
        contracts: Contracts | None,
        wanted: Mapping[int, tuple[int, int | None]],
    ) -> tuple[Newest | None, str]:
        """Make one where there is a key; or say why the newest records could not be looked for, if nothing else says so."""
        if audit.loader is None or tally is None or not tally.keyed or contracts is None:
            return None, ""
        meant = [row for row in tally.ledger if row.kind == "load" and _is_meant(row, wanted)]
        told = "which record of each key is the newest could not be told: "
        unknown = sorted({row.version for row in meant} - set(contracts.by_version))
        if unknown:
            return None, f"{told}version {' and '.join(map(str, unknown))} of the contract was not given"
        newest = contracts.newest
        for then in {
            contracts.by_version[row.version].version: contracts.by_version[row.version] for row in meant
        }.values():
            names = {column.name for column in then.columns}
            if then.key != newest.key or then.order != newest.order or not names.issuperset(newest.key + newest.order):
                return None, f"{told}version {then.version} of the contract has another key or another order"
        whole = all(w == (0, None) for w in wanted.values())
        return cls(audit=audit, loader=audit.loader, contract=newest, tally=tally, whole=whole), ""

    def cover(self, partition: Partition, start: int, end: int) -> None:
        """All records of this range were taken, or are in quarantine; ranges of a partition come ascending."""
        with self._lock:
            ranges = self._covered.setdefault(partition, [])
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, end))

    def _is_covered(self, partition: Partition, offset: int) -> bool:
        ranges = self._covered.get(partition, [])
        at = bisect.bisect_right(ranges, offset, key=lambda each: each[0]) - 1
        return at >= 0 and offset < ranges[at][1]

    def taking(self, partition: Partition) -> Callable[[Line, Sequence[Cell]], None]:
        """Return what takes the accepted records of a partition, with their cells."""

        def take(line: Line, cells: Sequence[Cell]) -> None:
            offset = line.record.offset
            with self._lock:
                self._file.execute(
                    "INSERT INTO wanted VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE SET rank = excluded.rank,"
                    " number = excluded.number, offset = excluded.offset, cells = excluded.cells"
                    " WHERE excluded.rank > wanted.rank",
                    (
                        self._key(cells),
                        self._rank(cells, partition, offset),
                        partition.number,
                        offset,
                        json.dumps(cells),
                    ),
                )

        return take

    def findings(self) -> tuple[list[AuditFinding], list[str]]:
        """
        Hold the table against what was taken: each key its newest record, cell by cell.

        What was loaded meanwhile is not looked at; where that may have taken a row's place the table is read again.
        """
        try:
            for _ in range(_ATTEMPTS):
                before = self._tallied()
                found, missing = self._scan(before)
                if self._tallied() == before:
                    return self._told(before, found, missing)
            return [self._untold("the table was loaded all the time")], []
        finally:
            self._file.close()
            self._folder.cleanup()

    def _tallied(self) -> Tally:
        found = Retry(for_s=self.audit.retry_for_s)(lambda: self.loader.tally(self._dataset, self.audit.stream))
        return self.tally if found is None else found

    @property
    def _dataset(self) -> str:
        return self.tally.ledger[0].dataset_id if self.tally.ledger else ""

    def _told(
        self, now: Tally, found: list[AuditFinding], missing: list[AuditFinding]
    ) -> tuple[list[AuditFinding], list[str]]:
        if [r for r in now.ledger if r.kind == "redrive"] != [r for r in self.tally.ledger if r.kind == "redrive"]:
            return [self._untold("quarantine was redriven meanwhile")], []
        remarks = []
        if not self.whole:
            remarks.append(
                "of the table with a key, rows of records outside the part where no record of the part has their key"
            )
        if now.rows > sum(now.of.values()):
            if missing:
                remarks.append("the table has rows of other streams: a key that is not there may be one of theirs")
            return found, remarks
        return found + missing, remarks

    def _untold(self, why: str) -> AuditFinding:
        evidence = f"{why}: which record of each key is the newest could not be told"
        return AuditFinding("unknown", "rows", None, 0, 0, evidence, "ask again when nothing is loaded")

    def _scan(self, now: Tally) -> tuple[list[AuditFinding], list[AuditFinding]]:
        found: list[AuditFinding] = []
        self._file.execute("UPDATE wanted SET seen = 0")
        for partition in sorted({row.partition for row in now.ledger}):
            for each in self._rows(partition, now):
                found += self._row(partition, each, covered=self._is_covered(partition, each.offset))
        missing = [
            AuditFinding(
                "missing",
                "rows",
                number,
                offset,
                offset + 1,
                "it is the newest of its key, and the key has no row",
                RELOAD,
            )
            for number, offset in self._file.execute("SELECT number, offset FROM wanted WHERE NOT seen ORDER BY 1, 2")
        ]
        return found, missing

    def _rows(self, partition: Partition, now: Tally) -> Iterator[StoredRow]:
        asked, line = Retry(for_s=self.audit.retry_for_s), LedgerLine(self._dataset, partition, self.tally.target)
        position = 0
        for load in [*loads(now, partition), None]:
            end = _ENDLESS if load is None else load.end
            while position < end:
                upto = end if load is None else min(end, position + AT_ONCE)
                yield from asked(partial(self.loader.stored, line, position, upto)).rows
                position = upto

    def _row(self, partition: Partition, each: StoredRow, *, covered: bool) -> Iterator[AuditFinding]:
        key = self._key(each.cells)
        self._file.execute("UPDATE wanted SET seen = 1 WHERE key = ?", (key,))
        wanted = self._file.execute("SELECT rank, number, offset, cells FROM wanted WHERE key = ?", (key,)).fetchone()
        place = (partition.number, each.offset)
        if wanted is None:
            if covered:
                yield self._found(partition, each, "no record of the lake that was loaded has its key")
            return
        rank, number, offset, cells = wanted
        expected = json.loads(cells)
        if len(expected) != len(each.cells):
            yield self._untold("a column was added meanwhile")
        elif place == (number, offset):
            if not same(expected, each.cells):
                yield self._found(partition, each, "it is not what the contract makes of the line")
        elif covered or self._rank(each.cells, partition, each.offset) < rank:
            yield self._found(partition, each, f"the newest record of its key is {number}:{offset}")

    def _found(self, partition: Partition, each: StoredRow, evidence: str) -> AuditFinding:
        return AuditFinding("changed", "rows", partition.number, each.offset, each.offset + 1, evidence, RELOAD)

    def _key(self, cells: Sequence[Cell]) -> bytes:
        names = [column.name for column in self.contract.columns]
        return json.dumps([cells[names.index(name)] for name in self.contract.key]).encode()

    def _rank(self, cells: Sequence[Cell], partition: Partition, offset: int) -> bytes:
        """Bytes that sort as the contract's order does: its columns, stream, partition, offset, dataset."""
        by_name = {column.name: (column, cell) for column, cell in zip(self.contract.columns, cells, strict=False)}
        parts = [_sortable(by_name[name][0].kind, str(by_name[name][1] or "")) for name in self.contract.order]
        place = [
            partition.stream.encode() + b"\0\0",
            b"%010d" % partition.number,
            b"%020d" % offset,
            self._dataset.encode(),
        ]
        return b"".join([*parts, *place])


def _is_meant(row: LedgerRow, wanted: Mapping[int, tuple[int, int | None]]) -> bool:
    start, end = wanted.get(row.partition.number, (0, 0))
    return row.end > start and (end is None or row.start < end)


def _sortable(kind: str, cell: str) -> bytes:
    if kind == "text":
        return cell.encode().replace(b"\0", b"\0\xff") + b"\0\0"
    if kind in ("integer", "decimal", "timestamp"):
        return _number(cell)
    return cell.encode()


def _number(cell: str) -> bytes:
    whole, _, fraction = cell.lstrip("-").partition(".")
    digits = int(whole + fraction.ljust(40, "0"))
    return b"%082d" % (_BIAS * 10**40 + (-digits if cell.startswith("-") else digits))

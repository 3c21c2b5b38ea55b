"""The records of a chain beside those of the log, one by one, and the offsets that have none."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from headrace.auditing.result import AuditFinding, Hole, Kind
from headrace.errors import ConfigError
from headrace.records import Batch, Partition, Record
from headrace.source import Source

_NOT_HELD = "the log has records there, and the segment that covers them has not"
_LOST = "restore the segment from a copy, or load the range from the log into a new epoch while the log still has it"


@attrs.define(eq=False)
class LogReader:
    """
    The records of a log, ascending, as they are asked for.

    Attributes:
        source: The log.

        partition: Of it.

        start: From this offset on.

        end: Before this one.

        aborted: Those of aborted transactions as well.
    """

    source: Source
    partition: Partition
    start: int
    end: int
    aborted: bool = False
    _batches: Iterator[Batch] | None = attrs.field(default=None, init=False)
    _records: Iterator[Record] = attrs.field(factory=lambda: iter(()), init=False)
    _next: Record | None = attrs.field(default=None, init=False)

    def until(self, offset: int) -> Iterator[Record]:
        """Yield what comes before *offset*."""
        while (record := self._peek()) is not None and record.offset < offset:
            self._next = None
            yield record

    def at(self, offset: int) -> Record | None:
        """Return the record at *offset*, which is the next one if it is there."""
        record = self._peek()
        if record is None or record.offset != offset:
            return None
        self._next = None
        return record

    def seen(self, offset: int) -> bool:
        """Pass over what comes before *offset*; say whether there is a record."""
        for _ in self.until(offset):
            pass
        return self.at(offset) is not None

    def _peek(self) -> Record | None:
        if self._batches is None:
            self._batches = iter(self.source.reread(self.partition, self.start, self.end, aborted=self.aborted))
        while self._next is None:
            self._next = next(self._records, None)
            if self._next is None:
                batch = next(self._batches, None)
                if batch is None:
                    return None
                self._records = batch.records()
        return self._next


@attrs.define(kw_only=True, eq=False)
class Comparison:
    """
    Takes a partition's records in their order and holds them against the log.

    Attributes:
        partition: Whose.

        begin: Where what is compared begins: what lies before the chain's first record was not ours to store.

        low: Where the log begins; None: there is no log to compare with.

        end: Up to where the log can be read.

        source: The log.

        aborted: The chain was made by readers of aborted transactions as well.
    """

    partition: Partition
    begin: int
    low: int | None
    end: int
    source: Source | None
    aborted: bool = False
    compared: int = attrs.field(default=0, init=False)
    gone: int = attrs.field(default=0, init=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    holes: dict[Hole, int] = attrs.field(factory=dict, init=False)
    _log: LogReader | None = attrs.field(default=None, init=False)
    _all: LogReader | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.source is not None and self.low is not None:
            start = max(self.low, self.begin)
            self._log = LogReader(self.source, self.partition, start, self.end, aborted=self.aborted)
            self._all = LogReader(self.source, self.partition, start, self.end, aborted=True)

    def record(self, stored: Record) -> None:
        """Take the next record of the chain."""
        if self._log is None or self._all is None or stored.offset >= self.end:
            return
        if stored.offset < (self.low or 0):
            self.gone += 1
            return
        self._missed(stored.offset)
        there = self._log.at(stored.offset)
        if there is None and self._all.seen(stored.offset):
            evidence = "the record is of a transaction that was aborted: no reader was to see it"
            self._find("foreign", stored.offset, stored.offset + 1, evidence, _LOST)
        elif there is None:
            self.gone += 1  # compacted since, or retention is at work: what is gone proves nothing
        elif there == stored:
            self.compared += 1
        else:
            self.compared += 1
            evidence = f"the record is not the log's: {_difference(stored, there)}"
            self._find("changed", stored.offset, stored.offset + 1, evidence, _LOST)

    def hole(self, start: int, end: int, why: Hole | None = None) -> None:
        """Take a range of a segment that has no record, with the reason where it is known."""
        if why == "noted loss":
            self._missed(end, "the log has records there, and a note says that they were lost")
        if why is not None or self._log is None or self._all is None:
            self._add(why or "not looked at", end - start)
            return
        low = max(start, min(end, self.low or 0))
        self._add("unverifiable", low - start)
        self._missed(end)
        for _ in self._all.until(low):
            pass
        seen = {record.offset for record in self._all.until(end)}
        lost = sum(f.end - f.start for f in self.findings if f.kind == "gap" and low <= f.start < end)
        self._add("aborted", len(seen) - lost)
        self._add("no record", end - low - len(seen))

    def skip(self, end: int) -> None:
        """Pass over a range whose object is damaged: it is told of already."""
        for reader in (self._log, self._all):
            for _ in reader.until(end) if reader is not None else ():
                pass

    def _missed(self, offset: int, evidence: str = _NOT_HELD) -> None:
        """What the log has before *offset* and the chain has not."""
        for record in self._log.until(offset) if self._log is not None else ():
            last = self.findings[-1] if self.findings else None
            if last is not None and last.kind == "gap" and last.end == record.offset:
                self.findings[-1] = attrs.evolve(last, end=record.offset + 1)
                continue
            self._find("gap", record.offset, record.offset + 1, evidence, _LOST)

    def _add(self, what: Hole, count: int) -> None:
        if count > 0:
            self.holes[what] = self.holes.get(what, 0) + count

    def _find(self, kind: Kind, start: int, end: int, evidence: str, advice: str) -> None:
        self.findings.append(AuditFinding(kind, "lake", self.partition.number, start, end, evidence, advice))


def can_reread(source: Source, partition: Partition, start: int) -> str:
    """Say why a source cannot be read again; "" where it can."""
    try:
        next(iter(source.reread(partition, start, start)), None)
    except ConfigError as exc:
        return str(exc)
    return ""


def _difference(stored: Record, there: Record) -> str:
    names = [a.name for a in attrs.fields(Record) if getattr(stored, a.name) != getattr(there, a.name)]
    return f"another {' and '.join(names)}"

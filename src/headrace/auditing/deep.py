"""A partition to the byte: each object's lines, the log's records beside them, the table's rows beside them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.chains import Judged, Sound, View, noted_until
from headrace.auditing.contracts import Contracts
from headrace.auditing.keys import Newest
from headrace.auditing.numbers import Numbers
from headrace.auditing.objects import listing, root_of
from headrace.auditing.objects_deep import Reading
from headrace.auditing.records_deep import Comparison, can_reread
from headrace.auditing.result import AuditFinding, Hole
from headrace.auditing.rows_deep import RowComparison
from headrace.auditing.tables import loads
from headrace.loader import Line as LedgerLine
from headrace.records import Extent, Partition
from headrace.retry import Retry
from headrace.tally import LedgerRow, Tally

T = TypeVar("T")

_AHEAD = 2
"""So many objects of a partition are on their way while one is looked at."""


@attrs.frozen
class Deep:
    """
    What was found in a partition.

    Attributes:
        findings: What is wrong.

        remarks: What was not looked at.

        compared: Records that were compared with the log.

        holes: By class.
    """

    findings: Sequence[AuditFinding]
    remarks: Sequence[str]
    compared: int | None
    holes: Mapping[Hole, int]


@attrs.define(kw_only=True, eq=False)
class Examination:
    """
    Everything that is looked at of one partition.

    Attributes:
        audit: Asks.

        judged: Its chain.

        seen: Its listing.

        partition: Its name.

        extent: Of its log; None: it is not compared with one.

        tally: Of the target; None: there is none.

        wanted: Which offsets are meant.

        contracts: Of the target's rows; None: none is known.

        newest: Takes the rows of a table with a key; None: there is none.

        numbers: Takes every record.

        alone: Held while the loader is asked.
    """

    audit: Asked
    judged: Judged
    seen: View
    partition: Partition
    extent: Extent | None
    tally: Tally | None
    wanted: tuple[int, int | None]
    contracts: Contracts | None
    newest: Newest | None
    numbers: Numbers
    alone: threading.Lock
    remarks: list[str] = attrs.field(factory=list, init=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    position: int = attrs.field(default=0, init=False)

    def run(self, pool: ThreadPoolExecutor | None) -> Deep:
        """Read object by object, the next one while this one is looked at."""
        links = [link for link in self.judged.links if self._is_wanted(link)]
        comparison = self._comparison(links)
        loaded, rows = self._loads(), self._rows()
        for link, body in self._bodies(pool, links):
            if link.said.start > self.position:
                comparison.skip(link.said.start)
            self._object(Reading(link, self.partition.number, body), comparison, loaded.get(link.said.start), rows)
            self.audit.observe(link)
        if rows is not None:
            rows.close()
            self.findings += rows.findings
            self._remark_expired()
        told = [(f.start, f.end) for f in self.findings if f.where == "lake"]
        self.findings += [f for f in comparison.findings if not any(a < f.end and f.start < b for a, b in told)]
        if comparison.gone:
            self.remarks.append(
                f"partition {self.partition.number}: the log has {comparison.gone:,} of the records no more (compaction or"
                " retention); they were not compared with it"
            )
        compared = None if comparison.source is None else comparison.compared
        return Deep(self.findings, self.remarks, compared, comparison.holes)

    def _remark_expired(self) -> None:
        rows = [row for row in loads(self.tally, self.partition) if row.end <= self.judged.start] if self.tally else []
        if rows and rows[-1].end > self.wanted[0]:
            self.remarks.append(
                f"partition {self.partition.number}: rows below {rows[-1].end} were counted and not looked into: their segments"
                " were expired"
            )

    def _is_wanted(self, link: Sound) -> bool:
        start, end = self.wanted
        return link.said.end > start and (end is None or link.said.start < end)

    def _comparison(self, links: Sequence[Sound]) -> Comparison:
        said = links[0].said if links else None
        first = 0 if said is None else said.start or said.first  # whoever began a stream may have begun behind its head
        source, extent = self.audit.source, self.extent
        if source is not None and extent is not None:
            why = can_reread(source, self.partition, extent.low)
            if why:
                evidence = f"records were not compared with the log one by one: {why}"
                advice = "audit without --source, or name a source that can be read again"
                self.findings.append(AuditFinding("unknown", "source", None, 0, 0, evidence, advice))
                source = None
        end = min(self.judged.end, extent.end) if extent is not None else 0
        low = None if extent is None or source is None else extent.low
        uncommitted = extent is not None and extent.identity.isolation != "read_committed"
        return Comparison(partition=self.partition, begin=first, low=low, end=end, source=source, aborted=uncommitted)

    def _loads(self) -> dict[int, LedgerRow]:
        return {} if self.tally is None else {row.start: row for row in loads(self.tally, self.partition)}

    def _bodies(self, pool: ThreadPoolExecutor | None, links: Sequence[Sound]) -> Iterator[tuple[Sound, bytes | None]]:
        asked = Retry(for_s=self.audit.retry_for_s)

        def read(link: Sound) -> bytes | None:
            return asked(lambda: self.audit.store.read(link.named.item.key))

        if pool is None:
            yield from ((link, read(link)) for link in links)
            return
        ahead = deque(pool.submit(read, link) for link in links[:_AHEAD])
        for i, link in enumerate(links):
            body = ahead.popleft().result()
            if i + _AHEAD < len(links):
                ahead.append(pool.submit(read, links[i + _AHEAD]))
            yield link, body

    def _object(
        self, reading: Reading, comparison: Comparison, load: LedgerRow | None, rows: RowComparison | None
    ) -> None:
        said = reading.said
        if rows is None or load is None or load.digest != said.digest:
            rows = load = None
        else:
            self._remark(load)
            rows.begin(load)
        position = said.start
        for line in reading.lines():
            offset = line.record.offset
            self._holes(comparison, reading, position, offset)
            comparison.record(line.record)
            self.numbers.record(self.partition.number, line.record)
            if rows is not None and load is not None:
                rows.record(line, load)
            position = offset + 1
        self.position = said.end
        if not reading.is_whole:
            self.findings += self._confirmed(reading)
            comparison.skip(said.end)
        if rows is not None and load is not None:
            rows.end(load, whole=reading.is_whole)
            if self.newest is not None and reading.is_whole:
                self.newest.cover(self.partition, load.start, load.end)

    def _confirmed(self, reading: Reading) -> list[AuditFinding]:
        """An object that is gone may have been expired meanwhile: oldest first, and never the newest."""
        if reading.body is None and self.seen.listing.segments and reading.link is not self.judged.links[-1]:
            return [] if self._is_expired(reading.link) else reading.findings
        return reading.findings

    def _is_expired(self, link: Sound) -> bool:
        found = listing(self.audit.store, root_of(self.audit.stream, self.audit.epoch), self.partition.number)
        head = found.segments[0].start if found.segments else 0
        return link.said.start < head and any(a <= link.said.start < b for a, b in found.expired)

    def _holes(self, comparison: Comparison, reading: Reading, start: int, end: int) -> None:
        if start >= end:
            return
        said = reading.said
        if start == said.start == 0:
            comparison.hole(start, end, "before the first segment")
            return
        if start == said.start:
            noted = noted_until(self.seen.listing, start, end)
            if noted > start:
                comparison.hole(start, noted, "noted loss")
            start = noted
        if start < end:
            comparison.hole(start, end)

    def _asked(self, call: Callable[[], T]) -> T:
        """A loader is asked by one thread at a time: it may have one session."""
        with self.alone:
            return Retry(for_s=self.audit.retry_for_s)(call)

    def _redrives(self, tally: Tally | None) -> list[LedgerRow]:
        ledger = () if tally is None else tally.ledger
        return [row for row in ledger if row.partition == self.partition and row.kind == "redrive"]

    def _again(self) -> tuple[Sequence[LedgerRow], Contracts | None]:
        """Redrives and columns by now: one may have come since the ledger was read."""
        loader, tally, contracts = self.audit.loader, self.tally, self.contracts
        if loader is None or tally is None:
            return [], contracts
        now = self._asked(lambda: loader.tally(tally.ledger[0].dataset_id, self.partition.stream))
        if contracts is not None:
            contracts = contracts.of_table(self._asked(loader.described))
        return self._redrives(now), contracts

    def _remark(self, load: LedgerRow) -> None:
        known = self.contracts is not None and load.version in self.contracts.by_version
        if self.contracts is not None and known and (dropped := self.contracts.dropped(load.version)):
            names = f"{', '.join(dropped)} of version {load.version}"
            self.remarks.append(f"{names} of the contract: the newest has no such column, so nobody looked into it")

    def _rows(self) -> RowComparison | None:
        loader, tally = self.audit.loader, self.tally
        if loader is None or tally is None or not tally.ledger:
            return None
        return RowComparison(
            loader=loader,
            contracts=self.contracts,
            line=LedgerLine(tally.ledger[0].dataset_id, self.partition, tally.target),
            keyed=tally.keyed,
            redrives=self._redrives(tally),
            again=self._again,
            asked=self._asked,
            accepted=None if self.newest is None else self.newest.taking(self.partition),
        )

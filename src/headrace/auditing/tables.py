"""The warehouse beside the lake: ledger, rows and quarantine of each partition (S1, S10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.auditing.chains import Judged
from headrace.auditing.result import AuditFinding, Kind, Where
from headrace.records import Partition
from headrace.tally import LedgerRow, Tally

RELOAD = "load the range into a new target and swap it in (headrace reload), or restore the table from the warehouse's own copy"
BY_HAND = (
    "somebody changed the ledger by hand, or a loader of another make did; restore it from the warehouse's own copy"
)


def target_findings(tally: Tally) -> Iterator[AuditFinding]:
    """What is wrong with a target as a whole, whatever the dataset."""
    if tally.rows != tally.inserted and tally.keyed:
        kind: Kind = "missing" if tally.rows < tally.inserted else "duplicate"
        evidence = f"{tally.target} has {tally.rows:,} rows, its ledger says {tally.inserted:,}"
        yield AuditFinding(kind, "rows", None, 0, 0, evidence, f"--deep with --contract names the records; {RELOAD}")
    if tally.doubled_keys:
        evidence = f"{tally.doubled_keys:,} keys have more than one row in {tally.target}"
        yield AuditFinding(
            "duplicate", "rows", None, 0, 0, evidence, f"--deep with --contract names the records; {RELOAD}"
        )
    if tally.keyed and tally.nobodys:
        evidence = f"{tally.nobodys:,} records in {tally.target} or its quarantine are of datasets that its ledger does not know"
        yield AuditFinding("foreign", "rows", None, 0, 0, evidence, f"find out who wrote them; {RELOAD}")
    if not tally.keyed:
        rows, told = tally.rows - sum(tally.of.values()), tally.inserted - sum(row.inserted for row in tally.ledger)
        yield from _of_others("rows", tally.target, rows, told)
    refused = tally.quarantined - sum(tally.refused.values())
    told = tally.rejected - sum(row.rejected for row in tally.ledger)
    yield from _of_others("quarantine", f"the quarantine of {tally.target}", refused, told)


def _of_others(where: Where, what: str, there: int, told: int) -> Iterator[AuditFinding]:
    if there != told:
        evidence = f"{what} has {there:,} records of other streams or datasets, its ledger says {told:,} of them"
        advice = (
            f"audit each stream that is loaded into it; where all are right, somebody wrote into it by hand; {RELOAD}"
        )
        yield AuditFinding("missing" if there < told else "foreign", where, None, 0, 0, evidence, advice)


def partition_findings(
    tally: Tally, partition: Partition, judged: Judged, wanted: tuple[int, int | None]
) -> list[AuditFinding]:
    """What is wrong between the ledger, the tables and the chain of one partition."""
    return _Ledger(tally, partition, judged, wanted).findings()


def begun_at(tally: Tally, partition: Partition) -> int:
    """Where a line begins: 0, or where it was told to begin."""
    return max((r.end for r in tally.ledger if r.partition == partition and r.kind == "begin_at"), default=0)


def loads(tally: Tally, partition: Partition) -> list[LedgerRow]:
    """The ledger's loads of a partition, ascending."""
    return [row for row in tally.ledger if row.partition == partition and row.kind == "load"]


class _Ledger:
    def __init__(self, tally: Tally, partition: Partition, judged: Judged, wanted: tuple[int, int | None]) -> None:
        self.tally, self.partition, self.judged, self.wanted = tally, partition, judged, wanted
        self.rows = loads(tally, partition)
        self.once = list({(row.start, row.end): row for row in reversed(self.rows)}.values())[::-1]
        self.segments = {link.said.start: link.said for link in judged.links}
        self.ledger = [row for row in tally.ledger if row.partition == partition]
        self.redrives = [row for row in self.ledger if row.kind == "redrive"]
        self.begin = begun_at(tally, partition)
        self.position = tally.position(partition) or 0
        self.whole = wanted == (0, None)

    def findings(self) -> list[AuditFinding]:
        found = [*self._line(), *self._kinds()]
        for row in self.once:
            if self._is_wanted(row.start, row.end):
                found += self._row(row)
        found += [*self._strays(), *self._ahead(), *self._expired()]
        if self.whole and not found:  # sums say less than what is known of ranges
            found += self._sums()
        return found

    def _is_wanted(self, start: int, end: int) -> bool:
        return self.whole or (end > self.wanted[0] and (self.wanted[1] is None or start < self.wanted[1]))

    def _line(self) -> Iterator[AuditFinding]:
        """The ledger's rows join up (S1)."""
        position, before = self.begin, None
        for row in self.rows:
            if before is not None and (row.start, row.end) == (before.start, before.end):
                yield self._found("duplicate", "ledger", row.start, row.end, "the ledger has this load twice", BY_HAND)
            elif row.start > position:
                evidence = f"the ledger has no load between {position} and {row.start}"
                yield self._found("missing", "ledger", position, row.start, evidence, BY_HAND)
            elif row.start < position:
                evidence = (
                    f"the ledger's load [{row.start}, {row.end}) begins inside the one before, which ends at {position}"
                )
                yield self._found("overlap", "ledger", row.start, min(row.end, position), evidence, BY_HAND)
            position, before = max(position, row.end), row

    def _kinds(self) -> Iterator[AuditFinding]:
        """Each row of the ledger by itself, of whatever kind: what it counts must be possible (S10)."""
        once: dict[tuple[str, int], LedgerRow] = {}
        for row in self.ledger:
            where = (row.start, row.end)
            if not self._is_wanted(*where):
                continue
            if row.kind not in ("load", "begin_at", "redrive"):
                yield self._found(
                    "corrupt", "ledger", *where, f"a row of the kind {row.kind!r}: there is no such", BY_HAND
                )
            elif row.kind != "load" and once.setdefault((row.kind, row.start), row) is not row:
                yield self._found("duplicate", "ledger", *where, f"the ledger has this {row.kind} twice", BY_HAND)
            sums = row.inserted + row.superseded + row.rejected
            if row.records != sums or (row.superseded and not self.tally.keyed):
                counted = f"{row.inserted} rows, {row.superseded} superseded, {row.rejected} rejected"
                evidence = f"a {row.kind} of {row.records} records, but {counted}"
                yield self._found("corrupt", "ledger", *where, evidence, BY_HAND)

    def _row(self, row: LedgerRow) -> Iterator[AuditFinding]:
        """One load: the segment that it was made from, and what the tables hold of it."""
        where = (row.start, row.end)
        yield from self._segment(row)
        if row.distinct_rows < row.rows:
            evidence = f"{row.rows} rows of {row.distinct_rows} records"
            yield self._found("duplicate", "rows", *where, evidence, RELOAD)
        if row.distinct_quarantined < row.quarantined:
            evidence = f"{row.quarantined} entries of {row.distinct_quarantined} records"
            yield self._found("duplicate", "quarantine", *where, evidence, RELOAD)
        if row.both:
            evidence = f"{row.both} records are in the table and in quarantine"
            yield self._found(
                "duplicate", "quarantine", *where, evidence, f"find out which contract was right; {RELOAD}"
            )
        yield from self._counts(row)

    def _counts(self, row: LedgerRow) -> Iterator[AuditFinding]:
        there = row.distinct_rows + row.distinct_quarantined - row.both
        redriven = any(r.start < row.end and row.start < r.end for r in self.redrives)
        lost_refused = 0 if redriven else row.rejected - row.distinct_quarantined
        counted = f"{row.distinct_rows} rows and {row.distinct_quarantined} in quarantine"
        evidence = f"{row.records} records were loaded, there are {counted}"
        if there > row.records:
            yield self._found("foreign", "rows", row.start, row.end, f"{evidence}: more than there can be", RELOAD)
        elif self.tally.keyed or there < row.records:
            if lost_refused > 0:
                yield self._found("missing", "quarantine", row.start, row.end, evidence, RELOAD)
            if not self.tally.keyed and (redriven or row.inserted > row.distinct_rows):
                yield self._found("missing", "rows", row.start, row.end, evidence, RELOAD)
        if lost_refused < 0 or (lost_refused > 0 and there == row.records and not self.tally.keyed):
            evidence = (
                f"{row.distinct_quarantined} in quarantine, by the ledger {row.rejected}, and no redrive says why"
            )
            yield self._found("changed", "quarantine", row.start, row.end, evidence, RELOAD)

    def _segment(self, row: LedgerRow) -> Iterator[AuditFinding]:
        """The load's segment is in the chain, with the same end, count and digest (S10); or it was expired."""
        judged = self.judged
        said = self.segments.get(row.start)
        if said is None:
            elsewhere = judged.is_damaged(row.start, row.end) or row.end <= judged.start or row.start >= judged.end
            if not elsewhere:
                evidence = "no segment of the chain begins there: the chain is not the one that was loaded"
                yield self._found(
                    "changed", "ledger", row.start, row.end, evidence, "restore the segments that were loaded"
                )
            return
        wrong = [
            f"{name} {mine} in the ledger, {theirs} in the lake"
            for name, mine, theirs in (
                ("end", row.end, said.end),
                ("records", row.records, said.records),
                ("digest", row.digest, said.digest),
            )
            if mine != theirs
        ]
        if wrong:
            advice = "the segment was replaced after it was loaded, or the ledger was changed: restore the one that was loaded"
            yield self._found("changed", "ledger", row.start, row.end, "; ".join(wrong), advice)

    def _strays(self) -> Iterator[AuditFinding]:
        """Rows that no load covers: since ledger and rows come in one transaction, a row of the ledger is gone."""
        for stray in self.tally.strays:
            if stray.partition != self.partition:
                continue
            for start, end in ((stray.start, min(stray.end, self.begin)), (max(stray.start, self.position), stray.end)):
                if start < end and self._is_wanted(start, end):
                    evidence = f"{stray.records} records in {stray.table}, and no load in the ledger covers them"
                    yield self._found("missing", "ledger", start, end, evidence, BY_HAND)

    def _ahead(self) -> Iterator[AuditFinding]:
        judged = self.judged
        if self.position > judged.end and judged.end_known and self._is_wanted(judged.end, self.position):
            evidence = f"the ledger is at {self.position}, the chain ends at {judged.end}: its newest segments are gone"
            advice = "restore the segments from a copy; a stream that goes on would write others in their place"
            yield self._found("ahead", "ledger", judged.end, self.position, evidence, advice)

    def _expired(self) -> Iterator[AuditFinding]:
        """What was deleted before it was loaded comes no more by itself."""
        start = self.judged.start
        if self.tally.ledger and self.position < start and self._is_wanted(self.position, start):
            evidence = (
                f"the ledger is at {self.position}, and what lies before {start} was expired: it was never loaded"
            )
            advice = "decide: restore the segments from a copy, or load from there on into a new table (--begin-at)"
            yield self._found("gap", "ledger", self.position, start, evidence, advice)

    def _sums(self) -> Iterator[AuditFinding]:
        """What a range cannot tell where records were redriven: the sums over all rows of the ledger (S10)."""
        if not self.redrives:
            return
        of = self.tally.refused.get(self.partition, 0), self.tally.of.get(self.partition, 0)
        told = sum(row.rejected for row in self.ledger), sum(row.inserted for row in self.ledger)
        kept: Sequence[Where] = ("quarantine",) if self.tally.keyed else ("quarantine", "rows")
        for where, there, by_ledger in zip(kept, of, told, strict=False):
            if there != by_ledger:
                evidence = f"{there} records in {where}, the ledger's sum is {by_ledger}"
                kind: Kind = "missing" if there < by_ledger else "changed"
                yield self._found(kind, where, self.begin, self.position, evidence, RELOAD)

    def _found(self, kind: Kind, where: Where, start: int, end: int, evidence: str, advice: str) -> AuditFinding:
        return AuditFinding(kind, where, self.partition.number, start, end, evidence, advice)


def spans_of(tally: Tally | None, partition: Partition) -> Sequence[tuple[int, int, int]]:
    """Start, end and quarantined records of each load."""
    return [] if tally is None else [(r.start, r.end, r.quarantined) for r in loads(tally, partition)]

"""The numbers of a feed beside its gap records: what is missing must be in a gap, and no more of it than the gap says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from headrace.auditing.feed_gaps import FeedGaps, Told
from headrace.auditing.numbers import Numbers
from headrace.auditing.ranges import Ranges, Run, Span, holding, merged, without
from headrace.auditing.result import AuditFinding, FeedGap

SETTLE_S = 600.0
"""So long a gap record may be on its way to the lake, beside the records behind the gap."""

_MOST = 1_000
_MOST_RUNS = 1_000_000
_ADVICE = (
    "look for them in the log (--source) and among the gap records (headrace audit LAKE --stream {gaps} --deep); where both have"
    " nothing, fetch them from the exchange's history into the stream"
)


@attrs.define(eq=False)
class Judgement:
    """
    Holds numbers against gap records, which must have been read after the last record was taken.

    Attributes:
        numbers: All that was seen.

        gaps: All that was told.

        now_ns: Nanoseconds since the epoch.

        findings: Numbers that nobody explains.

        remarks: What was not looked at.

        absent: By gap, how many of its numbers no record has.
    """

    numbers: Numbers
    gaps: FeedGaps
    now_ns: Callable[[], int]
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    remarks: list[str] = attrs.field(factory=list, init=False)
    waiting: int = attrs.field(default=0, init=False)
    absent: dict[int, int] = attrs.field(factory=dict, init=False)

    def judge(self) -> None:
        """Symbol by symbol."""
        for symbol in self.numbers.symbols():
            by_run = self.numbers.ranges(symbol)
            told = [t for t in self.gaps.told if t.gap.symbol in (symbol, "*")]
            if any(t.gap.next is not None and t.gap.last is not None and t.gap.next <= t.gap.last for t in told):
                self.remarks.append(
                    f"numbers of {symbol}: the feed began to count anew, so what is missing is not told by them"
                )
            elif sum(len(ranges.runs) for ranges in by_run.values()) > _MOST_RUNS:
                self.remarks.append(f"numbers of {symbol}: they are no count, most of them are left out")
            else:
                self._symbol(symbol, by_run, told)
        if self.waiting:
            self.remarks.append(
                f"{self.waiting:,} of the newest numbers are missing, and a gap record of them may be on its way; ask again in"
                f" {SETTLE_S / 60:.0f} minutes"
            )
        if len(self.findings) > _MOST:
            self.remarks.append(f"{len(self.findings) - _MOST:,} more ranges of missing numbers")
            del self.findings[_MOST:]

    def _symbol(self, symbol: str, by_run: Mapping[tuple[int, str], Ranges], told: Sequence[Told]) -> None:
        there = merged((r.start, r.end) for ranges in by_run.values() for r in ranges.runs)
        for gap in told:
            if _is_counted(gap.gap):
                self.absent[id(gap)] = sum(b - a for a, b in _left(gap.gap, there))
        found: dict[tuple[int, int], AuditFinding] = {}
        for (partition, run), ranges in by_run.items():
            if not run:
                continue  # nobody says who received it
            own = [t for t in told if t.run == run]
            unexplained = self._unexplained(symbol, partition, run, ranges, own, there)
            for finding in [*self._more_than_told(symbol, partition, ranges.runs, own), *unexplained]:
                found.setdefault((finding.start, finding.end), finding)
        self.findings += found.values()

    def _more_than_told(
        self, symbol: str, partition: int, runs: Sequence[Run], own: Sequence[Told]
    ) -> Iterator[AuditFinding]:
        """Of what a run missed some came late, by its word: that must be there."""
        for gap in own:
            last, after = gap.gap.last, gap.gap.next
            behind = None if last is None or after is None else holding(runs, after)
            if last is None or after is None or behind is None:
                continue
            most, absent = gap.missing(self.numbers.until_ns(gap.run, symbol)), self.absent.get(id(gap), 0)
            if most is not None and absent > most:
                evidence = (
                    f"{symbol}: of the numbers {last + 1} to {after - 1} no record has {absent}, and by the gap record"
                    f" {most} are missing: the others came late and were lost behind the exchange"
                )
                yield self._found(partition, holding(runs, last) or behind, behind, evidence)

    def _unexplained(
        self,
        symbol: str,
        partition: int,
        run: str,
        ranges: Ranges,
        own: Sequence[Told],
        there: Sequence[Span],
    ) -> Iterator[AuditFinding]:
        """Numbers between two records of a run that no record has and no gap of the run tells."""
        counted = merged((t.gap.last + 1, t.gap.next) for t in own if t.gap.last is not None and t.gap.next is not None)
        # below what a run received first it knows of nothing; one that came late is not the first: others before it were expired
        begin = next((n for n in ranges.highs if without(n, n + 1, counted)), 0)
        for before, after in itertools.pairwise(ranges.runs):
            missing = [part for a, b in without(before.end, after.start, there) for part in without(a, b, counted)]
            missing = [(a, b) for a, b in missing if a >= begin]
            if not missing or self._is_told_by_time(own, before, after):
                continue
            count = sum(b - a for a, b in missing)
            if not self._is_settled(own, after):
                self.waiting += count
                continue
            numbers = ", ".join(f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in missing[:5])
            evidence = (
                f"{symbol}: no record has {numbers}, and no gap record says that the feed did not send that: run {run} received"
                " it, and it was lost behind the exchange; or a gap record is lost"
            )
            yield self._found(partition, before, after, evidence)

    def _is_told_by_time(self, own: Sequence[Told], before: Run, after: Run) -> bool:
        """Whether a gap without numbers lies where they were due: a number that was fetched later was sent in its gap."""
        ids = {t.id: t for t in own if before.last.gap or after.first.gap}
        sent = ids.get(before.last.gap), ids.get(after.first.gap)
        low = before.last.ns if sent[0] is None else sent[0].began_ns
        high = after.first.ns if sent[1] is None else sent[1].ended_ns
        low, high = sorted((low, high))
        return any(
            not _is_counted(t.gap) and t.began_ns < high and low < t.ended_ns and (t.gap.began or t.gap.ended)
            for t in own
        )

    def _is_settled(self, own: Sequence[Told], after: Run) -> bool:
        """Whether a gap record would be here by now: a later one of the same run is, or it is long ago."""
        later = any(ns > after.first.ns for t in own for ns, _ in t.revisions)
        return later or self.now_ns() - after.first.ns > SETTLE_S * 1e9

    def _found(self, partition: int, before: Run, after: Run, evidence: str) -> AuditFinding:
        start, end = sorted((before.last.offset, after.first.offset))
        advice = _ADVICE.format(gaps=self.gaps.stream)
        return AuditFinding("missing", "numbers", partition, start, end + 1, evidence, advice)


def _is_counted(gap: FeedGap) -> bool:
    return gap.last is not None and gap.next is not None


def _left(gap: FeedGap, there: Sequence[Span]) -> list[Span]:
    return [] if gap.last is None or gap.next is None else without(gap.last + 1, gap.next, there)

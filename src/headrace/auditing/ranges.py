"""Which numbers of a count were seen, as ranges: memory grows with what is missing, not with what is there."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import attrs

_HIGHS = 1_000


@attrs.define
class Edge:
    """
    A record at an end of a range.

    Attributes:
        offset: Its place in the log.

        ns: When it was received, in nanoseconds since the epoch; 0 where it does not say.

        gap: Of which gap it was fetched from the exchange's history, long after it was sent; "" where it came by itself.
    """

    offset: int
    ns: int
    gap: str = ""


@attrs.define
class Run:
    """
    Numbers without a hole.

    Attributes:
        start: The first one.

        end: Behind the last one.

        first: The record of the first one.

        last: The record of the last one.
    """

    start: int
    end: int
    first: Edge
    last: Edge


@attrs.define(eq=False)
class Ranges:
    """
    Takes numbers in any order, fast where each is one more than the one before.

    Attributes:
        runs: What was taken, ascending.

        highs: The first numbers that were each above all before.
    """

    runs: list[Run] = attrs.field(factory=list, init=False)
    highs: list[int] = attrs.field(factory=list, init=False)

    def add(self, number: int, edge: Edge) -> None:
        """Take one; a repeated one changes nothing."""
        runs = self.runs
        if len(self.highs) < _HIGHS and (not runs or number >= runs[-1].end):
            self.highs.append(number)
        if runs and number == runs[-1].end:
            runs[-1].end, runs[-1].last = number + 1, edge
            return
        at = bisect.bisect_right(runs, number, key=lambda run: run.start)
        before = runs[at - 1] if at else None
        after = runs[at] if at < len(runs) else None
        if before is not None and number < before.end:
            return
        joins_before, joins_after = (
            before is not None and number == before.end,
            after is not None and number + 1 == after.start,
        )
        if before is not None and joins_before:  # it came late: the ends stay where those stand that came in order
            before.end = number + 1
            if after is not None and joins_after:
                before.end, before.last = after.end, after.last
                del runs[at]
        elif after is not None and joins_after:
            after.start = number
        else:
            runs.insert(at, Run(number, number + 1, edge, edge))


Span = tuple[int, int]


def holding(runs: Sequence[Run], number: int) -> Run | None:
    """The run that holds a number."""
    at = bisect.bisect_right(runs, number, key=lambda run: run.start) - 1
    return runs[at] if at >= 0 and number < runs[at].end else None


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same numbers, ascending, apart from each other."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def without(start: int, end: int, taken: Sequence[Span]) -> list[Span]:
    """What is left of a range without others, which are as `merged` makes them."""
    left = []
    at = bisect.bisect_right(taken, start, key=lambda span: span[1])
    while at < len(taken) and taken[at][0] < end:
        if taken[at][0] > start:
            left.append((start, taken[at][0]))
        start, at = taken[at][1], at + 1
    return [*left, (start, end)] if start < end else left

"""Numbers that are missing, as ranges: thousands in a row cost no more than one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import attrs


@attrs.define(init=False)
class Numbers:
    """
    A set of whole numbers that only becomes smaller. Each that leaves it makes one range more at the most.

    Args:
        first: The first one.

        end: The one behind the last.
    """

    _firsts: list[int]
    _ends: list[int]
    _count: int

    def __init__(self, first: int, end: int) -> None:
        self._firsts, self._ends = ([first], [end]) if first < end else ([], [])
        self._count = max(0, end - first)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._range_of(number) is not None

    def discard(self, number: int) -> None:
        """Take one out, if it is there."""
        i = self._range_of(number)
        if i is None:
            return
        first, end = self._firsts[i], self._ends[i]
        rest = [(a, b) for a, b in ((first, number), (number + 1, end)) if a < b]
        self._firsts[i : i + 1] = [a for a, _ in rest]
        self._ends[i : i + 1] = [b for _, b in rest]
        self._count -= 1

    def difference_update(self, numbers: Iterable[int]) -> None:
        """Take all of these out that are there."""
        for number in numbers:
            self.discard(number)

    def _range_of(self, number: int) -> int | None:
        i = bisect_right(self._firsts, number) - 1
        return i if i >= 0 and number < self._ends[i] else None

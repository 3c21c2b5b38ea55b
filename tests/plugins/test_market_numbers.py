"""What is missing of a feed, held as ranges: the same as a set of numbers says, and not its size."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from headrace.plugins.market.gaps import Gaps
from headrace.plugins.market.numbers import Numbers

SMALL = st.integers(-2, 14)
GAPS = 40
LONG = 9_000
KEPT_BYTES = 1 << 20


@given(SMALL, SMALL, st.lists(st.one_of(SMALL, st.lists(SMALL, max_size=5))))
def test_it_is_what_a_set_is(first: int, end: int, taken: list[int | list[int]]):
    """Whatever is taken out of it, one by one or several at a time, again or never there."""
    ours, theirs = Numbers(first, end), set(range(first, end))
    for numbers in taken:
        if isinstance(numbers, int):
            ours.discard(numbers)
            theirs.discard(numbers)
        else:
            ours.difference_update(numbers)
            theirs.difference_update(numbers)
        assert (len(theirs), bool(theirs)) == (len(ours), bool(ours))
        assert [n in theirs for n in range(-3, 16)] == [n in ours for n in range(-3, 16)]


def test_gaps_that_are_followed_take_no_memory():
    """Connections that are lost over and over, with thousands of numbers missing each time: a set of them took 0.8 MB a gap."""
    gaps = Gaps(feed="f", symbols=["A"], producer="p", run="r")
    gaps.count(["A"], [1], 0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(1, GAPS + 1):
            gaps.begin("broken off", n)
            gaps.end(n)
            gaps.count(["A"], [n * LONG], n)
            gaps.out.clear()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert GAPS - 1 <= len(gaps._late["A"])  # they are followed: what comes late makes them smaller
    assert after - before < KEPT_BYTES

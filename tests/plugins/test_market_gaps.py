"""Gap records by any course of events: what they count as missing is what is not there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.plugins.market.gaps import Gaps, moment

LEFT_OUT = "numbers are missing"
EVENTS = st.lists(
    st.one_of(
        st.just("sent"),
        st.just("sent"),
        st.just("sent"),
        st.just("not sent"),
        st.just("held back"),
        st.just("released"),
        st.just("again"),
        st.just("beat"),
        st.just("lost"),
        st.just("back"),
        st.just("fetched"),
    ),
    max_size=60,
)


def last_of(gaps: Gaps) -> list[dict[str, Any]]:
    """Each gap as its highest revision says; every revision must be one more than the one before."""
    found: dict[str, dict[str, Any]] = {}
    for _, value, _ in gaps.out:
        gap = json.loads(value)
        assert gap["revision"] == found.get(gap["id"], {"revision": 0})["revision"] + 1
        found[gap["id"]] = gap
    return list(found.values())


@given(EVENTS)
@example(["held back", "sent", "lost", "back", "released"])
@example(["not sent", "sent", "fetched", "held back", "sent", "lost", "fetched", "back", "released", "sent", "fetched"])
@example(["not sent", "sent", "lost", "not sent", "sent", "back", "again", "beat"])
def test_what_is_missing_is_counted(events: list[str]):
    """
    Numbers that are sent, left out, held back, repeated, announced, lost with their connection, and fetched from a history
    that has every other one: what the gaps count as missing in the end is exactly what never came.
    """
    gaps, came, back, number, up, now = Gaps(feed="f", symbols=("A",), producer="p", run="p"), {1}, [], 1, True, 0
    gaps.begin("started", None)
    gaps.end(now)
    gaps.count(["A"], [1], now)

    def deliver(n: int) -> None:
        came.add(n)
        gaps.count(["A"], [n], now)

    for event in [*events, "back", "sent", "beat"]:
        now += 1
        if event in ("sent", "not sent", "held back"):
            number += 1
        if event == "sent" and up:
            deliver(number)
        elif event == "held back" and up:
            back.append(number)
        elif event == "released" and up and back:
            deliver(back.pop())
        elif event == "again" and up:
            deliver(max(came))
        elif event == "beat" and up:
            gaps.latest({"A": number}, now)
        elif event == "lost" and up:
            up = False  # what was held back may come on the next one
            gaps.begin("lost", now)
        elif event == "fetched" and gaps.fillable:
            gap = gaps.fillable.pop(0)
            numbers = [n for n in range((gap.last or 0) + 1, gap.next or 0) if n % 2]
            kept = gaps.fetched(gap, [b"%d" % n for n in numbers], numbers)
            assert not came & {int(value) for value in kept}
            came |= {int(value) for value in kept}
            gaps.settle(gap, "partly")
        elif event == "back" and not up:
            up = True
            gaps.end(now)
    missing = set(range(1, number + 1)) - came
    last = last_of(gaps)
    assert len(missing) == sum(gap["missing"] or 0 for gap in last)
    inside = {n for g in last if g["missing"] for n in range(g["last_sequence"] + 1, g["next_sequence"])}
    assert missing <= inside
    assert all(gap["filled"] == (gap["missing"] == 0) for gap in last)
    assert all(gap["to"] is not None for gap in last)


@pytest.mark.parametrize("first", [0, 1, 5_000])
def test_a_count_that_begins_anew(first: int):
    """Numbers that begin anew behind a lost connection do not say that nothing is missing, as far as they may come."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    gaps.count(["A"] * 300, range(first, first + 300), 1)
    gaps.begin("lost", 1)
    gaps.end(60)
    gaps.count(["A"] * 400, range(first, first + 400), 61)
    gap = last_of(gaps)[-1]
    anew = first <= 1
    assert (first if anew else first + 300, None if anew else 0, not anew) == (
        gap["next_sequence"],
        gap["missing"],
        gap["filled"],
    )


ANEW = "counts anew"


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([5000, 5001, 5002, 1, 2, 3, 7, 8, 40, 41], [(ANEW, 5002, 1), (LEFT_OUT, 3, 7), (LEFT_OUT, 8, 40)]),
        ([5000, 5001, 5002, 30, 31, 33], [(ANEW, 5002, 30), (LEFT_OUT, 31, 33)]),
        ([5000, 5002, 8, 7, 9, 11], [(LEFT_OUT, 5000, 5002), (ANEW, 5002, 8), (LEFT_OUT, 9, 11)]),
        ([*range(50), 1, 2, 5, 6], [(ANEW, 49, 1), (LEFT_OUT, 2, 5)]),
        ([5000, 5001, 17, 5002, 16, 5003], []),  # one at a time is sent again
        ([*range(5), *range(5), 5, 6], []),  # all of a frame is
        ([*range(5), 6, *range(5), 6, 7], [(LEFT_OUT, 4, 6)]),
        ([1, 2, 3, 1, 3, 4], []),
        ([*range(900), *range(500, 600), *range(700, 720), 900], []),
        ([1, 3000, 2, 3001, 5, 4, 3002], [(LEFT_OUT, 1, 3000)]),  # late, and far below
    ],
)
def test_a_count_that_begins_anew_on_a_connection_that_is_up(numbers: list[int], found: list[tuple[str, int, int]]):
    """The second message of a new count shows it, and what is left out of that is told; what is sent again is not."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    for now, number in enumerate(numbers):
        gaps.count(["A"], [number], now)
    told = [(g["cause"], g["last_sequence"], g["next_sequence"]) for g in last_of(gaps)[1:]]
    assert found == told


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([50, 51, 60], [("lost", 101, 50), (LEFT_OUT, 51, 60)]),
        ([2, 3, 5], [("lost", 101, 2), (LEFT_OUT, 3, 5)]),
        ([1, 3], [("lost", 101, 1), (LEFT_OUT, 1, 3)]),
        ([50, 51, 52, *range(53, 103)], [("lost", 101, 102)]),
        ([95, 97, 104], [("lost", 101, 95), (LEFT_OUT, 95, 97), (LEFT_OUT, 97, 104)]),  # rather twice than not
    ],
)
def test_a_low_count_behind_a_new_connection(numbers: list[int], found: list[tuple[str, int, int]]):
    """What an exchange sends again as a connection begins leaves nothing out of what we have; a new count may."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    gaps.count(["A"] * 102, range(102), 1)
    gaps.begin("lost", 1)
    gaps.end(2)
    for now, number in enumerate(numbers, 3):
        gaps.count(["A"], [number], now)
    assert found == [(g["cause"], g["last_sequence"], g["next_sequence"]) for g in last_of(gaps)[1:]]


@pytest.mark.parametrize(("first", "from_s", "to_s"), [(300, 3, 100), (49_900, 3, 300)])
def test_when_a_count_begins_anew(first: int, from_s: int, to_s: int):
    """What is missing lies between the last number of the old count and the first of the new one; what is repeated is neither."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    for now_s, number in ((3, 50_001), (100, first), (200, first + 1), (300, 60_000)):
        gaps.count(["A"], [number], now_s * 10**9)
    gap = last_of(gaps)[1]
    assert (moment(from_s * 10**9), moment(to_s * 10**9)) == (gap["from"], gap["to"])


def test_what_was_fetched_of_an_old_count_is_dropped():
    """It is as large as before, and no number of the new count makes it smaller."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    gaps.count(["A"] * 4, [39, 50, 5000, 5001], 1)
    gap = next(g for g in gaps.fillable if g.last == 39)
    assert [b"40"] == gaps.fetched(gap, [b"40"], [40])
    gaps.count(["A"] * 60, range(1, 61), 2)
    gaps.dropped()
    gaps.count(["A"] * 7, range(40, 47), 3)
    assert 10 == next(g["missing"] for g in last_of(gaps) if g["last_sequence"] == 39)


def test_what_was_missing_of_an_old_count_never_comes():
    """A number of the new count is not the old one's that came late."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(0)
    gaps.count(["A"] * 8, [1, 2, 4, 5000, 1, 2, 5, 3], 1)
    assert [(2, 4, 1), (4, 5000, 4995), (5000, 1, None), (2, 5, 1)] == [
        (g["last_sequence"], g["next_sequence"], g["missing"]) for g in last_of(gaps)[1:]
    ]


def test_moments():
    """Nanoseconds are written to the last digit."""
    assert "2026-01-02T15:00:00.000000001Z" == moment(1_767_366_000_000_000_001)
    assert "1970-01-01T00:00:00.000000000Z" == moment(0)


def test_many_missing_numbers():
    """A gap of millions is counted, not listed; the newest hundred of a symbol are followed."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.count(["A", "A", "A"], [1, 5_000_000, 3], 1)
    assert [4_999_998] == [gap["missing"] for gap in last_of(gaps)]
    gaps.count(["A"] * 200, [5_000_000 + 2 * n for n in range(1, 201)], 2)
    gaps.count(["A", "A"], [5_000_001, 5_000_399], 3)
    assert {4_999_998: 1, 1: 199, 0: 1} == {
        m: sum(gap["missing"] == m for gap in last_of(gaps)) for m in (4_999_998, 1, 0)
    }


def test_what_is_not_stored_is_missing():
    """
    What came late makes a gap smaller for good when it is stored. When something is dropped before, the gap is as large as at
    first, and can become smaller again.

    While that is not known every revision belongs behind what came: one that is written for another reason says it, too.
    """
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.end(1)
    gaps.count(["A"], [1], 2)
    gaps.begin("broken off", 3)
    gaps.count(["A", "A"], [6, 3], 4)  # the exchange has not confirmed the subscription yet
    gaps.end(5)
    gap = last_of(gaps)[-1]
    assert [(4, False), (3, True), (3, True)] == [(json.loads(v)["missing"], less) for _, v, less in gaps.out[-3:]]
    gaps.stored(gap["id"], gap["revision"] - 2)  # from before it came
    assert {gap["id"]: gap["revision"] + 1} == gaps.dropped()
    assert (4, False) == (last_of(gaps)[-1]["missing"], gaps.out[-1][2])
    assert {} == gaps.dropped()
    gaps.count(["A", "A", "A", "A"], [2, 3, 4, 5], 6)
    gap = last_of(gaps)[-1]
    assert gap["filled"]
    gaps.stored(gap["id"], gap["revision"])
    assert {} == gaps.dropped()


def test_a_symbol_without_a_number():
    """
    Of a symbol of which no number was seen yet the last gap waits for the first one; those before it are asked for by their time,
    as soon as another has ended. So nothing grows with each connection.
    """
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p", numbers={"trades": "n"})
    for now in range(100):
        gaps.begin("broken off", now)
        gaps.end(now)
    assert [f"p-{n}" for n in range(1, 100)] == [gap.id for gap in gaps.fillable]
    assert {None} == {gap.next for gap in gaps.fillable}
    assert 1 == len(gaps._first["A"])
    gaps.begin("broken off", 100)
    gaps.count(["A"], [7], 101)  # the exchange has not confirmed the subscription yet
    gaps.end(102)
    assert [("p-100", 7), ("p-101", 7)] == [(gap.id, gap.next) for gap in gaps.fillable[99:]]
    assert not gaps._first


def test_many_fetched_numbers():
    """What the history had of a gap of many is counted, and each number once, though it is not listed."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.count(["A", "A"], [1, 20_002], 1)
    (gap,) = gaps.fillable
    assert 19_999 == len(gaps.fetched(gap, [b"{}"] * 19_999, range(2, 20_001)))
    gaps.settle(gap, "partly")
    (said,) = last_of(gaps)
    assert (1, False, "partly", 19_999) == tuple(said[n] for n in ("missing", "filled", "backfill", "backfilled"))

"""Records of a real stock exchange, the same in every run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from headrace.demo import market
from headrace.records import Record

__all__ = ["real_bars", "real_ticks"]


def real_ticks(count: int | None = None, symbol: str = "IBM") -> Iterator[Record]:
    """
    Yield a share's trades as they were printed on some days of 2013: offsets from 0, keys, times, JSON values.

    About one in ten repeats another one in every field and is a trade of its own: whoever drops duplicates by content loses
    it. The files come with headrace; its NOTICE says whose they are. *symbol* may be "BAC" as well.
    """
    return islice(market.trades(symbol), count)


def real_bars(count: int | None = None, symbol: str = "AAPL") -> Iterator[Record]:
    """Yield a share's bars of one minute, likewise; they have a business key, symbol and time."""
    return islice(market.bars(symbol), count)

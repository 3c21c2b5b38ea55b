"""
Market data: live feeds as sources, and ready contracts for what they bring.

::

    from headrace.plugins.market import Bar, Gap, Quote, Trade

A class is imported when it is asked for, and the client library of a feed only when a feed is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from headrace.hookspecs import Component, hookimpl

if TYPE_CHECKING:
    from headrace.bars import Bars
    from headrace.plugins.market.contracts import Bar, Gap, Quote, Trade
    from headrace.plugins.market.feed import Dialogue, Feed, FeedLostError, FeedRefusedError, Heard, Messages
    from headrace.plugins.market.history import History, HistoryLostError, HistoryRefusedError, Page, Wanted
    from headrace.plugins.market.json_feed import JsonFeed
    from headrace.plugins.market.source import FeedSource
    from headrace.plugins.market.venues import (
        AlpacaBar,
        AlpacaCorrection,
        AlpacaQuote,
        AlpacaTrade,
        CoinbaseQuote,
        CoinbaseTrade,
    )

__all__ = [
    "AlpacaBar",
    "AlpacaCorrection",
    "AlpacaQuote",
    "AlpacaTrade",
    "Bar",
    "Bars",
    "CoinbaseQuote",
    "CoinbaseTrade",
    "Dialogue",
    "Feed",
    "FeedLostError",
    "FeedRefusedError",
    "FeedSource",
    "Gap",
    "Heard",
    "History",
    "HistoryLostError",
    "HistoryRefusedError",
    "JsonFeed",
    "Messages",
    "Page",
    "Quote",
    "Trade",
    "Wanted",
]

_HOMES = {
    "headrace.bars": ("Bars",),
    "headrace.plugins.market.contracts": ("Bar", "Gap", "Quote", "Trade"),
    "headrace.plugins.market.feed": (
        "Dialogue",
        "Feed",
        "FeedLostError",
        "FeedRefusedError",
        "Heard",
        "Messages",
    ),
    "headrace.plugins.market.history": ("History", "HistoryLostError", "HistoryRefusedError", "Page", "Wanted"),
    "headrace.plugins.market.json_feed": ("JsonFeed",),
    "headrace.plugins.market.source": ("FeedSource",),
    "headrace.plugins.market.venues": (
        "AlpacaBar",
        "AlpacaCorrection",
        "AlpacaQuote",
        "AlpacaTrade",
        "CoinbaseQuote",
        "CoinbaseTrade",
    ),
}


@hookimpl
def headrace_components() -> list[Component]:
    """Bring feeds as sources."""
    return [
        Component("source", "alpaca", f"{__name__}.alpaca:AlpacaSource", "market", "follows stocks by Alpaca's stream"),
        Component(
            "source",
            "coinbase",
            f"{__name__}.coinbase:CoinbaseSource",
            "market",
            "follows products of Coinbase Exchange",
        ),
        Component(
            "source",
            "websocket",
            f"{__name__}.json_feed:JsonFeedSource",
            "market",
            "follows a WebSocket that sends JSON, by a file that describes it",
        ),
    ]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

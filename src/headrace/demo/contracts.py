"""What the demo's silver rows are: the ready contracts of market data, with what is known of the demo's own vendor."""

from headrace.contract import contract
from headrace.plugins import market
from headrace.plugins.market import Bar, Bars

__all__ = ["Bar", "Trade"]

_SWEEPS = (
    "20",
    "20000001",
    "20000002",
    "20000004",
    "20000008",
    "20000020",
    "20000200",
    "20040200",
    "20100000",
    "20100200",
    "20200040",
    "20200080",
)
"""
Conditions of trades in regular hours that swept several venues at once (bit 5), or were exempt from the best price (bit 29).

The vendor's own minute bars count them for the volume and not for the prices, unless the minute has no other: it was found by
comparison (`docs/pages/market.md`). Outside regular hours (bit 13 is set as well) they set prices.
"""


@contract(
    version=1,
    bars=Bars(without=("suspicious", (True,)), unpriced=("conditions", _SWEEPS)),
    cluster=("symbol", "time"),
)
class Trade(market.Trade):
    """One trade as the consolidated tape reported it; equal rows are trades of their own."""

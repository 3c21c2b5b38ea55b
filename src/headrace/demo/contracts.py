"""What the demo's silver rows are: the ready contracts of market data, with what is known of the demo's own vendor."""

from headrace.contract import contract
from headrace.plugins import market
from headrace.plugins.market import Bar, Bars

__all__ = ["Bar", "Trade"]

_SWEEPS = ("20", "20000020", "20000200", "20040200", "20100000", "20100200")
"""
Conditions of trades in regular hours that swept several venues at once (bit 5), or that were exempt from the best price (bit
29) at an average or a derived price (bits 9, 18 and 20).

The vendor's own minute bars count them for the volume and not for the prices, unless the minute has no other trade. This was
found by comparison: `docs/pages/market.md`. Outside regular hours (bit 13 is set as well) they set prices.
"""

_OFFICIAL = ("1000000", "4000000")
"""An exchange's official close and open (bits 24 and 26): they say the auction's price once more, and nothing was traded."""


@contract(
    version=1,
    bars=Bars(without=[("suspicious", (True,)), ("conditions", _OFFICIAL)], unpriced=("conditions", _SWEEPS)),
    cluster=("symbol", "time"),
)
class Trade(market.Trade):
    """One trade as the consolidated tape reported it; equal rows are trades of their own."""

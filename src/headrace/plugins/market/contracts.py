"""
Ready contracts for market data: trades, quotes, bars.

They type the JSON that a feed puts into the lake, one object a record: ``{"symbol":"IBM","time":"2013-10-07T13:30:00.123Z",
"price":181.86,"size":100,"exchange":"P","conditions":"20002020","suspicious":false}``. Numbers are exact decimals: prices and
sizes (shares come in fractions) with up to six digits behind the point; a value that has more is refused, never rounded.

Take one as it is (``--contract headrace.plugins.market:Trade``), or make one of your own that adds or replaces what you need::

    @contract(version=1, bars=Bars(unpriced=("conditions", ("B", "4"))))
    class OurTrade(Trade):
        '''One trade, with the venue's own number.'''

        id: str | None
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from headrace.bars import Bars
from headrace.contract import column, contract

__all__ = ["Bar", "Bars", "Gap", "Quote", "Trade"]


@contract(version=1, bars=Bars(without=[("suspicious", (True,))]), cluster=("symbol", "time"))
class Trade:
    """
    One trade as the feed reported it; equal rows are trades of their own.

    Attributes:
        symbol: What was traded.
        time: When it was traded, in UTC.
        price: What was paid for one.
        size: How many were traded, in fractions too.
        exchange: Where it was traded, in the feed's own code.
        conditions: The feed's codes for how it was traded, as they were sent.
        suspicious: Whether the feed doubts it; NULL where the feed does not say.
    """

    symbol: str
    time: datetime
    price: Decimal = column(precision=18, scale=6, minimum="0.000001")
    size: Decimal = column(precision=18, scale=6, minimum="0.000001")
    exchange: str | None
    conditions: str | None
    suspicious: bool | None


@contract(version=1, cluster=("symbol", "time"))
class Quote:
    """
    What was bid and asked, best first; a side that the feed did not send is NULL, never 0.

    A bid may be above the ask: quotes of several venues cross, and that is no error of the record.

    Attributes:
        symbol: What is quoted.
        time: From when on it holds, in UTC.
        bid_price: Highest price that a buyer offers.
        bid_size: How many at this price.
        ask_price: Lowest price that a seller wants.
        ask_size: How many at this price.
        exchange: Where it was quoted, in the feed's own code.
        conditions: The feed's codes, as they were sent.
        suspicious: Whether the feed doubts it; NULL where the feed does not say.
    """

    symbol: str
    time: datetime
    bid_price: Decimal | None = column(precision=18, scale=6, minimum="0.000001")
    bid_size: Decimal | None = column(precision=18, scale=6, minimum=0)
    ask_price: Decimal | None = column(precision=18, scale=6, minimum="0.000001")
    ask_size: Decimal | None = column(precision=18, scale=6, minimum=0)
    exchange: str | None
    conditions: str | None
    suspicious: bool | None


@contract(
    version=1,
    key=("symbol", "time"),
    ascending=(("low", "open"), ("low", "close"), ("open", "high"), ("close", "high")),
    cluster=("symbol", "time"),
)
class Bar:
    """
    One minute of trading in one symbol, as the feed made it; a bar that is sent again replaces the one before.

    Attributes:
        symbol: What was traded.
        time: Where the minute begins, in UTC.
        open: Price of the first trade.
        high: Highest price.
        low: Lowest price.
        close: Price of the last trade.
        volume: How many were traded, in fractions too.
    """

    symbol: str
    time: datetime
    open: Decimal = column(precision=18, scale=6, minimum=0)
    high: Decimal = column(precision=18, scale=6, minimum=0)
    low: Decimal = column(precision=18, scale=6, minimum=0)
    close: Decimal = column(precision=18, scale=6, minimum=0)
    volume: Decimal = column(precision=18, scale=6, minimum=0)


@contract(version=2, key=("id",), order=("revision",), cluster=("symbol", "began"))
class Gap:
    """
    An interval in which messages of a feed may be missing; what is learnt later replaces what was known.

    Attributes:
        id: Of the gap.
        revision: The highest is the newest.
        feed: Which feed.
        producer: Who received: of two producers of one feed each has gaps of its own.
        symbol: Of what; * for all.
        began: Up to when nothing is missing, in UTC; NULL: up to the last record that was kept before the producer began.
        ended: From when on nothing is missing, in UTC; NULL while it lasts.
        last_sequence: The last number before it, where the feed counts.
        next_sequence: The first number behind it, where the feed counts.
        missing: How many messages are missing; NULL where the feed does not count.
        cause: Why.
        filled: Whether nothing is missing after all: the numbers say so, or what was missing came later.
        backfill: What came of asking the exchange's history: done, partly or not available, and why; NULL: it was not asked yet.
        backfilled: How many records came from there.
    """

    id: str
    revision: int
    feed: str
    producer: str
    symbol: str
    began: datetime | None = column(source="from")
    ended: datetime | None = column(source="to")
    last_sequence: int | None
    next_sequence: int | None
    missing: int | None
    cause: str
    filled: bool
    backfill: str | None
    backfilled: int | None

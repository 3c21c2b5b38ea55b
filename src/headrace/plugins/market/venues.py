"""Contracts for what the built-in feeds send, as they send it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from headrace.bars import Bars
from headrace.contract import column, contract


@contract(
    version=1,
    key=("symbol", "exchange", "id", "time"),
    bars=Bars(without=[("mark", ("canceled", "incorrect"))]),
    cluster=("symbol", "time"),
)
class AlpacaTrade:
    """
    One trade as Alpaca sends it (stream ``alpaca.iex.trades``); sent twice, or received by two producers, it is one row.

    What came last of it is the row: so a mark from the history, behind what came live, replaces the trade without one.

    Attributes:
        symbol: What was traded.
        time: When, in UTC, to the nanosecond.
        exchange: Where, in the tape's code.
        id: Of the trade: unique only for one exchange and day.
        price: What was paid for one.
        size: How many were traded, in fractions too.
        conditions: The tape's codes.
        tape: A, B or C.
        mark: What Alpaca's history says of it: canceled; incorrect, another trade is in its place; corrected, it is in the place
            of another one. NULL where nothing is said, as of all that comes live.
    """

    symbol: str = column(source="S")
    time: datetime = column(source="t")
    exchange: str = column(source="x")
    id: int = column(source="i")
    price: Decimal = column(source="p", precision=18, scale=6, minimum="0.000001")
    size: Decimal = column(source="s", precision=18, scale=6, minimum="0.000001")
    conditions: list[str] | None = column(source="c")
    tape: str | None = column(source="z")
    mark: str | None = column(source="u")


@contract(version=1, key=("symbol", "time"), cluster=("symbol", "time"))
class AlpacaQuote:
    """
    What was bid and asked best, as Alpaca sends it (stream ``alpaca.iex.quotes``).

    A quote has no number; it says what holds from its time on, so of one symbol and nanosecond the last one is the row.

    Attributes:
        symbol: What is quoted.
        time: From when on it holds, in UTC, to the nanosecond.
        bid_exchange: Who bids.
        bid_price: Highest price that a buyer offers; 0 where there is none.
        bid_size: How many at this price, in the unit that Alpaca sends.
        ask_exchange: Who asks.
        ask_price: Lowest price that a seller wants; 0 where there is none.
        ask_size: How many at this price, in the unit that Alpaca sends.
        conditions: The tape's codes.
        tape: A, B or C.
    """

    symbol: str = column(source="S")
    time: datetime = column(source="t")
    bid_exchange: str | None = column(source="bx")
    bid_price: Decimal | None = column(source="bp", precision=18, scale=6, minimum=0)
    bid_size: Decimal | None = column(source="bs", precision=18, scale=6, minimum=0)
    ask_exchange: str | None = column(source="ax")
    ask_price: Decimal | None = column(source="ap", precision=18, scale=6, minimum=0)
    ask_size: Decimal | None = column(source="as", precision=18, scale=6, minimum=0)
    conditions: list[str] | None = column(source="c")
    tape: str | None = column(source="z")


@contract(
    version=1,
    key=("symbol", "exchange", "time", "kind", "cancelled_id", "original_id"),
    cluster=("symbol", "time"),
)
class AlpacaCorrection:
    """
    What Alpaca says of a trade afterwards (stream ``alpaca.iex.corrections``): it is void, or was another one.

    Trades stay as they were sent; who wants them as they count takes these away from them (docs, "Live feeds").

    Attributes:
        kind: x, void; c, corrected.
        symbol: What was traded.
        exchange: Where, in the tape's code.
        time: When, in UTC, to the nanosecond.
        cancelled_id: The id of the trade that is void; 0 of a corrected one.
        cancelled_price: What was paid for one of it.
        cancelled_size: How many.
        action: C, cancelled; E, it was an error.
        original_id: The id of the trade that was corrected; 0 of a void one.
        original_price: What was said to be paid for one.
        original_size: How many were said to be traded.
        original_conditions: The tape's codes, as they were.
        corrected_id: The id of the trade in its place.
        corrected_price: What was paid for one.
        corrected_size: How many were traded.
        corrected_conditions: The tape's codes.
        tape: A, B or C.
    """

    kind: str = column(source="T", one_of=("c", "x"))
    symbol: str = column(source="S")
    exchange: str = column(source="x")
    time: datetime = column(source="t")
    cancelled_id: int = column(source="i", default=0)
    cancelled_price: Decimal | None = column(source="p", precision=18, scale=6, minimum=0)
    cancelled_size: Decimal | None = column(source="s", precision=18, scale=6, minimum=0)
    action: str | None = column(source="a")
    original_id: int = column(source="oi", default=0)
    original_price: Decimal | None = column(source="op", precision=18, scale=6, minimum=0)
    original_size: Decimal | None = column(source="os", precision=18, scale=6, minimum=0)
    original_conditions: list[str] | None = column(source="oc")
    corrected_id: int | None = column(source="ci")
    corrected_price: Decimal | None = column(source="cp", precision=18, scale=6, minimum=0)
    corrected_size: Decimal | None = column(source="cs", precision=18, scale=6, minimum=0)
    corrected_conditions: list[str] | None = column(source="cc")
    tape: str | None = column(source="z")


@contract(
    version=1,
    key=("symbol", "time"),
    order=("trades",),
    ascending=(("low", "open"), ("low", "close"), ("open", "high"), ("close", "high")),
    cluster=("symbol", "time"),
)
class AlpacaBar:
    """
    One minute as Alpaca sends it (stream ``alpaca.iex.bars``); sent again with a late trade, the one of more trades is the row.

    Attributes:
        symbol: What was traded.
        time: Where the minute begins, in UTC.
        open: Price of the first trade.
        high: Highest price.
        low: Lowest price.
        close: Price of the last trade.
        volume: How many were traded.
        trades: Number of trades.
        vwap: Turnover by volume.
    """

    symbol: str = column(source="S")
    time: datetime = column(source="t")
    open: Decimal = column(source="o", precision=18, scale=6, minimum=0)
    high: Decimal = column(source="h", precision=18, scale=6, minimum=0)
    low: Decimal = column(source="l", precision=18, scale=6, minimum=0)
    close: Decimal = column(source="c", precision=18, scale=6, minimum=0)
    volume: Decimal = column(source="v", precision=18, scale=6, minimum=0)
    trades: int = column(source="n", minimum=0)
    vwap: Decimal | None = column(source="vw", precision=38, scale=12, minimum=0)


@contract(version=2, key=("symbol", "id"), order=("sequence",), bars=Bars(), cluster=("symbol", "time"))
class CoinbaseTrade:
    """
    One trade as Coinbase sends it (stream ``coinbase.trades``); sent twice, or received by two producers, it is one row.

    Attributes:
        symbol: The product.
        id: Of the trade: each is one more than the one before.
        time: When, in UTC.
        price: What was paid for one, in the product's second currency.
        size: How much was traded.
        side: Of the order that was there before.
        sequence: The exchange's count of all that happened to the product; 0 where the trade came from the exchange's history,
            which does not tell it.
    """

    symbol: str = column(source="product_id")
    id: int = column(source="trade_id")
    time: datetime
    price: Decimal = column(precision=20, scale=10, text=True, minimum=0)
    size: Decimal = column(precision=18, scale=8, text=True, minimum=0)
    side: str | None = column(one_of=("buy", "sell"))
    sequence: int = column(default=0)


@contract(version=1, key=("symbol", "sequence"), cluster=("symbol", "time"))
class CoinbaseQuote:
    """
    The best bid and ask at a trade, as Coinbase sends it (stream ``coinbase.quotes``).

    Attributes:
        symbol: The product.
        sequence: The exchange's count of all that happened to the product.
        time: When, in UTC.
        bid_price: Highest price that a buyer offers.
        bid_size: How much at this price.
        ask_price: Lowest price that a seller wants.
        ask_size: How much at this price.
    """

    symbol: str = column(source="product_id")
    sequence: int
    time: datetime
    bid_price: Decimal | None = column(source="best_bid", precision=20, scale=10, text=True, minimum=0)
    bid_size: Decimal | None = column(source="best_bid_size", precision=20, scale=10, text=True, minimum=0)
    ask_price: Decimal | None = column(source="best_ask", precision=20, scale=10, text=True, minimum=0)
    ask_size: Decimal | None = column(source="best_ask_size", precision=20, scale=10, text=True, minimum=0)

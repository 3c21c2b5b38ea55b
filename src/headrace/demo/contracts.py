"""What the demo's silver rows are."""

from datetime import datetime
from decimal import Decimal

from headrace.contract import column, contract


@contract(version=1)
class Bar:
    """One minute of trading in one symbol; time is where the minute begins."""

    symbol: str
    time: datetime
    open: Decimal = column(precision=18, scale=4, minimum=0)
    high: Decimal = column(precision=18, scale=4, minimum=0)
    low: Decimal = column(precision=18, scale=4, minimum=0)
    close: Decimal = column(precision=18, scale=4, minimum=0)
    volume: int = column(minimum=0)


@contract(version=1)
class Trade:
    """One trade as the consolidated tape reported it; equal rows are trades of their own."""

    symbol: str
    time: datetime
    price: Decimal = column(precision=18, scale=4, minimum=0)
    size: int = column(minimum=0)
    exchange: str
    conditions: str
    suspicious: bool

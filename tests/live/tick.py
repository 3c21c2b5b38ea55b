"""What a row of silver is."""

from __future__ import annotations

from decimal import Decimal

from headrace.contract import column, contract


@contract(version=1, key=("symbol", "number"))
class Tick:
    symbol: str = column(source="S")
    number: int = column(source="n")
    price: Decimal = column(source="p", precision=18, scale=2)
    size: int = column(source="s")
    sent_ns: int = column(source="at")

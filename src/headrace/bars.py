"""Which columns of a contract make bars: open, high, low, close, volume by the minute (OHLCV)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from headrace.columns import Column, Kind
from headrace.errors import ConfigError

Condition = tuple[str, tuple[str | int | bool, ...]]
"""A column and its values, as of a contract's deletes: ``("conditions", ("B", "4"))``. NULL is none of them."""

COLUMNS = {
    "time": "Where the minute begins, in UTC.",
    "open": "Price of the first trade of the minute that sets prices.",
    "high": "Highest price of these.",
    "low": "Lowest price of these.",
    "close": "Price of the last of these.",
    "volume": "Sum of the sizes of all trades, exact.",
    "turnover": "Sum of price times size of all trades, exact.",
    "vwap": "Turnover by volume, rounded half up to the digits of the price; NULL where the volume is 0.",
    "trades": "How many trades there are.",
}
"""What a view of bars has behind the columns that say whose bars they are, and what each is."""

_INTEGER_DIGITS = 19
MAX_DIGITS = 38


def _values(given: Condition | None) -> Condition | None:
    return (given[0], tuple(given[1])) if isinstance(given, tuple) and len(given) == 2 else given


def _several(given: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(map(_values, given))  # type: ignore[arg-type]  # what is none is told by `check_bars`


@attrs.frozen(kw_only=True)
class Bars:
    """
    Say that a contract's rows are trades, of which bars of one minute are made.

    A warehouse makes them as a view beside the table. Trades of equal time are in the order of the log: stream, partition,
    offset. So the first and the last of a minute are the same ones whenever and in whatever order the rows were loaded.

    Attributes:
        by: Columns that say whose bars they are.

        time: When the trade was.

        price: What was paid for one.

        size: How many.

        without: Which trades are in no bar at all: those of which one of these holds.

        unpriced: Which trades count for volume, turnover and their number, but set no price, unless the minute has no other.
    """

    by: tuple[str, ...] = attrs.field(default=("symbol",), converter=tuple)
    time: str = "time"
    price: str = "price"
    size: str = "size"
    without: tuple[Condition, ...] = attrs.field(default=(), converter=_several)
    unpriced: Condition | None = attrs.field(default=None, converter=_values)


def check_bars(kept: str, bars: Bars, columns: Sequence[Column]) -> None:
    """Hold what makes bars against the columns of contract *kept*. ConfigError where it cannot be meant."""
    by_name = {column.name: column for column in columns}
    for name in bars.by:
        _there(kept, name, by_name, ("text", "integer", "boolean"))
        if name.lower() in COLUMNS:
            raise ConfigError(f"{kept}: bars by {name!r}, which is a bar's own column; give the column another name")
    _there(kept, bars.time, by_name, ("timestamp",))
    price, size = (_there(kept, name, by_name, ("decimal", "integer")) for name in (bars.price, bars.size))
    product = digits(price) + digits(size)
    if product > MAX_DIGITS:
        raise ConfigError(
            f"{kept}: bars of {price.name} and {size.name}, whose product may have {product} digits, expected at most"
            f" {MAX_DIGITS}: make the precision of one smaller"
        )
    for condition in (*bars.without, *([] if bars.unpriced is None else [bars.unpriced])):
        _check_condition(kept, condition, by_name)


def digits(column: Column) -> int:
    """How many digits a number of this column may have."""
    return column.precision if column.kind == "decimal" else _INTEGER_DIGITS


def _there(kept: str, name: str, by_name: Mapping[str, Column], kinds: Sequence[Kind]) -> Column:
    if name not in by_name:
        raise ConfigError(f"{kept}: bars name {name!r}, and there is no such column; there are {', '.join(by_name)}")
    if by_name[name].kind not in kinds:
        raise ConfigError(f"{kept}: bars name {name}, which is {by_name[name].kind}, expected {' or '.join(kinds)}")
    return by_name[name]


def _check_condition(kept: str, condition: Condition, by_name: Mapping[str, Column]) -> None:
    match condition:
        case (str(name), tuple(values)) if values:
            column = _there(kept, name, by_name, ("text", "integer", "boolean"))
        case _:
            raise ConfigError(
                f"{kept}: found {condition!r}, expected a column and its values, such as ('conditions', ('B', '4'))"
            )
    wanted = {"text": str, "integer": int, "boolean": bool}[column.kind]
    for value in values:
        if type(value) is not wanted or (column.one_of and value not in column.one_of):
            raise ConfigError(f"{kept}: bars look for {value!r} in column {name}, which never has it")

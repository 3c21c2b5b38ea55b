"""The view of one-minute bars beside a table of trades: the same bars as every other warehouse makes (`headrace.bars`)."""

from __future__ import annotations

from collections.abc import Callable

from headrace.bars import COLUMNS, MAX_DIGITS, Bars, Condition, digits
from headrace.contract import Contract

Named = Callable[[str], str]

_ORDER = ("_STREAM", "_PARTITION", "_OFFSET", "_DATASET")
"""Trades of equal time are in the order of the log."""


def bars_columns(contract: Contract) -> dict[str, str]:
    """The columns of the view, each with its comment."""
    assert contract.bars is not None, "asked for where there are some"  # noqa: S101
    of_columns = {c.name: c.comment for c in contract.columns}
    return {n: of_columns[n] for n in contract.bars.by} | COLUMNS


def bars_query(contract: Contract, source: str, name: Named, literal: Named) -> str:
    """
    Write the query of the view.

    Args:
        contract: One that says what makes bars.

        source: What the view reads, quoted: the table, or the view of its current rows.

        name: Quotes an identifier.

        literal: Quotes a text.
    """
    bars = contract.bars
    assert bars is not None, "asked for where there are some"  # noqa: S101
    by_name = {column.name: column for column in contract.columns}
    scale = by_name[bars.price].scale if by_name[bars.price].kind == "decimal" else 0
    whose = ", ".join(map(name, bars.by))
    wide = f"NUMBER({MAX_DIGITS - digits(by_name[bars.size])},{scale})"  # that the product has all its digits
    rank = f"ROW_NUMBER() OVER (PARTITION BY {whose}, _MINUTE ORDER BY _PRICED DESC, {{}})"
    ascending = ", ".join(("_MOMENT", *_ORDER))
    descending = ", ".join(f"{column} DESC" for column in ("_MOMENT", *_ORDER))
    prices = [
        "MAX(CASE WHEN _FROM_FIRST = 1 THEN _PRICE END) AS _OPEN",
        "COALESCE(MAX(CASE WHEN _PRICED = 1 THEN _PRICE END), MAX(_PRICE)) AS _HIGH",
        "COALESCE(MIN(CASE WHEN _PRICED = 1 THEN _PRICE END), MIN(_PRICE)) AS _LOW",
        "MAX(CASE WHEN _FROM_LAST = 1 THEN _PRICE END) AS _CLOSE",
    ]
    unit = f"{10**-scale:.{scale}f}"
    # a quotient has few digits more than its turnover: what is left of it says which way to round
    left = "2 * (_TURNOVER - _QUOTIENT * _VOLUME)"
    nearest = (
        f"CASE WHEN {left} >= {unit} * _VOLUME THEN {unit} WHEN {left} < -{unit} * _VOLUME THEN -{unit} ELSE 0 END"
    )
    size_scale = by_name[bars.size].scale if by_name[bars.size].kind == "decimal" else 0
    sums = (
        f"CAST(SUM(_SIZE) AS NUMBER(38,{size_scale})) AS _VOLUME,"
        f" CAST(SUM(CAST(_PRICE AS {wide}) * _SIZE) AS NUMBER(38,{scale + size_scale})) AS _TURNOVER, COUNT(*) AS _TRADES"
    )
    return (
        f"WITH PRINTS AS ({_prints(bars, source, name, literal)}),"
        f" RANKED AS (SELECT *, {rank.format(ascending)} AS _FROM_FIRST, {rank.format(descending)} AS _FROM_LAST FROM PRINTS),"
        f" MINUTES AS (SELECT {whose}, _MINUTE, {', '.join(prices)}, {sums} FROM RANKED GROUP BY {whose}, _MINUTE),"
        f" DIVIDED AS (SELECT *, CASE WHEN _VOLUME > 0 THEN TRUNC(_TURNOVER / _VOLUME, {scale}) END AS _QUOTIENT FROM MINUTES)"
        f" SELECT {whose}, _MINUTE, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _TURNOVER,"
        f" CAST(_QUOTIENT + {nearest} AS NUMBER(38,{scale})), _TRADES FROM DIVIDED"
    )


def _prints(bars: Bars, source: str, name: Named, literal: Named) -> str:
    time, price, size = name(bars.time), name(bars.price), name(bars.size)
    where = [f"{column} IS NOT NULL" for column in (time, price, size)]
    where += [f"NOT {_holds(condition, name, literal)}" for condition in bars.without]
    priced = "1" if bars.unpriced is None else f"CASE WHEN {_holds(bars.unpriced, name, literal)} THEN 0 ELSE 1 END"
    return (
        f"SELECT {', '.join(map(name, bars.by))}, DATE_TRUNC('minute', {time}) AS _MINUTE, {time} AS _MOMENT, {price} AS _PRICE,"
        f" {size} AS _SIZE, {priced} AS _PRICED, {', '.join(_ORDER)} FROM {source} WHERE {' AND '.join(where)}"
    )


def _holds(condition: Condition, name: Named, literal: Named) -> str:
    column, values = condition
    cells = ", ".join(literal(v) if isinstance(v, str) else str(v).upper() for v in values)
    return f"COALESCE({name(column)} IN ({cells}), FALSE)"

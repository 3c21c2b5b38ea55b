"""The view of one-minute bars beside a table of trades: the same bars as every other warehouse makes (`headrace.bars`)."""

from __future__ import annotations

from collections.abc import Callable

from headrace.bars import COLUMNS, MAX_DIGITS, Bars, Condition, digits
from headrace.contract import Contract

Named = Callable[[str], str]

_ORDER = ("_STREAM", "_PARTITION", "_OFFSET", "_DATASET")
"""Trades of equal time are in the order of the log."""


def bars_statement(view: str, contract: Contract, source: str, name: Named, literal: Named) -> str:
    """
    Write the DDL of the view, with a comment for it and for each of its columns.

    Args:
        view: Its name, quoted.

        contract: One that says what makes bars.

        source: What the view reads, quoted: the table, or the view of its current rows.

        name: Quotes an identifier.

        literal: Quotes a text.
    """
    bars = contract.bars
    assert bars is not None, "asked for where there are some"  # noqa: S101
    of_columns = {c.name: c.comment for c in contract.columns}
    about = {n: of_columns[n] for n in bars.by} | COLUMNS
    columns = ", ".join(name(n) + (f" COMMENT {literal(words)}" if words else "") for n, words in about.items())
    comment = f"One-minute bars, made by headrace from contract {contract.name}."
    query = _query(contract, bars, source, name, literal)
    return f"CREATE VIEW IF NOT EXISTS {view} ({columns}) COMMENT = {literal(comment)} AS {query}"


def _query(contract: Contract, bars: Bars, source: str, name: Named, literal: Named) -> str:
    by_name = {column.name: column for column in contract.columns}
    scale = by_name[bars.price].scale if by_name[bars.price].kind == "decimal" else 0
    whose = ", ".join(map(name, bars.by))
    wide = f"NUMBER({MAX_DIGITS - digits(by_name[bars.size])},{scale})"  # that the product has all its digits
    rank = f"ROW_NUMBER() OVER (PARTITION BY {whose}, MINUTE ORDER BY PRICED DESC, {{}})"
    ascending = ", ".join(("MOMENT", *_ORDER))
    descending = ", ".join(f"{column} DESC" for column in ("MOMENT", *_ORDER))
    prices = [
        "MAX(CASE WHEN FROM_FIRST = 1 THEN PRICE_ END) AS OPEN_",
        "COALESCE(MAX(CASE WHEN PRICED = 1 THEN PRICE_ END), MAX(PRICE_)) AS HIGH_",
        "COALESCE(MIN(CASE WHEN PRICED = 1 THEN PRICE_ END), MIN(PRICE_)) AS LOW_",
        "MAX(CASE WHEN FROM_LAST = 1 THEN PRICE_ END) AS CLOSE_",
    ]
    unit = f"{10**-scale:.{scale}f}"
    # a quotient has few digits more than its turnover: what is left of it says which way to round
    left = "2 * (TURNOVER_ - QUOTIENT * VOLUME_)"
    nearest = (
        f"CASE WHEN {left} >= {unit} * VOLUME_ THEN {unit} WHEN {left} < -{unit} * VOLUME_ THEN -{unit} ELSE 0 END"
    )
    size_scale = by_name[bars.size].scale if by_name[bars.size].kind == "decimal" else 0
    sums = (
        f"CAST(SUM(SIZE_) AS NUMBER(38,{size_scale})) AS VOLUME_,"
        f" CAST(SUM(CAST(PRICE_ AS {wide}) * SIZE_) AS NUMBER(38,{scale + size_scale})) AS TURNOVER_, COUNT(*) AS TRADES_"
    )
    return (
        f"WITH PRINTS AS ({_prints(bars, source, name, literal)}),"
        f" RANKED AS (SELECT *, {rank.format(ascending)} AS FROM_FIRST, {rank.format(descending)} AS FROM_LAST FROM PRINTS),"
        f" MINUTES AS (SELECT {whose}, MINUTE, {', '.join(prices)}, {sums} FROM RANKED GROUP BY {whose}, MINUTE),"
        f" DIVIDED AS (SELECT *, CASE WHEN VOLUME_ > 0 THEN TRUNC(TURNOVER_ / VOLUME_, {scale}) END AS QUOTIENT FROM MINUTES)"
        f" SELECT {whose}, MINUTE, OPEN_, HIGH_, LOW_, CLOSE_, VOLUME_, TURNOVER_,"
        f" CAST(QUOTIENT + {nearest} AS NUMBER(38,{scale})), TRADES_ FROM DIVIDED"
    )


def _prints(bars: Bars, source: str, name: Named, literal: Named) -> str:
    time, price, size = name(bars.time), name(bars.price), name(bars.size)
    where = [f"{column} IS NOT NULL" for column in (time, price, size)]
    where += [f"NOT {_holds(condition, name, literal)}" for condition in bars.without]
    priced = "1" if bars.unpriced is None else f"CASE WHEN {_holds(bars.unpriced, name, literal)} THEN 0 ELSE 1 END"
    return (
        f"SELECT {', '.join(map(name, bars.by))}, DATE_TRUNC('minute', {time}) AS MINUTE, {time} AS MOMENT, {price} AS PRICE_,"
        f" {size} AS SIZE_, {priced} AS PRICED, {', '.join(_ORDER)} FROM {source} WHERE {' AND '.join(where)}"
    )


def _holds(condition: Condition, name: Named, literal: Named) -> str:
    column, values = condition
    cells = ", ".join(literal(v) if isinstance(v, str) else str(v).upper() for v in values)
    return f"COALESCE({name(column)} IN ({cells}), FALSE)"

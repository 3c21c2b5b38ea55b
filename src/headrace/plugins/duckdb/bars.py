"""The view of one-minute bars beside a table of trades, and what stands in the catalogue about columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.bars import COLUMNS, MAX_DIGITS, Bars, Condition, digits
from headrace.columns import Column
from headrace.contract import Contract
from headrace.typed.columns import literal, quoted

if TYPE_CHECKING:
    import duckdb


_MINUTE_NS = 60 * 10**9


def bars_view(target: str) -> str:
    """The name of a target's view of bars."""
    return f"{target}_ohlcv_1m"


def descriptions(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> Iterator[str]:
    """
    Yield the comments that the columns of the table do not have yet.

    They are DDL: run before a transaction, never inside (S4).
    """
    known = _known(connection, target)
    for column in contract.columns:
        if column.comment and known.get(column.name, column.comment) != column.comment:
            yield f"COMMENT ON COLUMN {quoted(target)}.{quoted(column.name)} IS {literal(column.comment)}"


def bars_statements(
    connection: duckdb.DuckDBPyConnection, target: str, contract: Contract, source: str
) -> Iterator[str]:
    """
    Yield what makes the view, where the contract says what makes bars and the view is not there as this contract has it.

    Args:
        connection: Outside a transaction.

        target: The table.

        contract: Of it.

        source: What the view reads: the table, or the view of its current rows.
    """
    if contract.bars is None:
        return
    view, query = bars_view(target), bars_query(contract, source)
    comment = f"One-minute bars of {target}, made by headrace from contract {contract.name}."
    if _made(connection, view, query) == comment:
        return  # a statement that changes nothing would still be in the way of another loader
    of_columns = {c.name: c.comment for c in contract.columns if c.comment}
    yield f"CREATE OR REPLACE VIEW {quoted(view)} AS {query}"
    about = {name: of_columns[name] for name in contract.bars.by if name in of_columns} | COLUMNS
    for name, words in about.items():
        yield f"COMMENT ON COLUMN {quoted(view)}.{quoted(name)} IS {literal(words)}"
    yield f"COMMENT ON VIEW {quoted(view)} IS {literal(comment)}"  # last: it says that the others are there


def bars_query(contract: Contract, source: str) -> str:
    """
    The query of the view. ``min_by`` and ``max_by`` of a price by the whole order (time, then the place in the log) make open
    and close; every engine that has them computes the same bars. What the query itself names begins with ``_``, as no column of
    a contract does.
    """
    bars = contract.bars
    assert bars is not None, "asked for where there are some"  # noqa: S101
    by_name = {column.name: column for column in contract.columns}
    price, size = by_name[bars.price], by_name[bars.size]
    price_scale = price.scale if price.kind == "decimal" else 0
    # of two decimals of up to 18 digits DuckDB makes the product in 64 bits
    wide = f"DECIMAL({MAX_DIGITS - digits(size)},{price_scale})"
    whose = ", ".join(quoted(name) for name in bars.by)
    prices = {
        "open": "min_by(_price, _place)",
        "high": "max(_price)",
        "low": "min(_price)",
        "close": "max_by(_price, _place)",
    }
    priced = ", ".join(f"coalesce({f} FILTER (WHERE _priced), {f}) AS {name}" for name, f in prices.items())
    return (
        f"WITH prints AS ({_prints(bars, source, size)}),"
        f" minutes AS (SELECT {whose}, _minute, {priced}, sum(_size) AS volume, sum(CAST(_price AS {wide}) * _size) AS turnover,"
        f" count(*) AS trades FROM prints GROUP BY {whose}, _minute),"
        f" whole AS (SELECT *, {_whole('turnover')} AS _t, {_whole('volume')} AS _v FROM minutes)"
        f" SELECT {whose}, _minute AS time, open, high, low, close, volume, turnover, {_vwap(price_scale)} AS vwap, trades"
        " FROM whole"
    )


def _whole(decimal: str) -> str:
    """All digits of a decimal as a whole number: a decimal divided by a decimal would be a double."""
    return f"CAST(replace(CAST({decimal} AS VARCHAR), '.', '') AS HUGEINT)"


def _vwap(scale: int) -> str:
    """*_t* by *_v* has as many digits behind the point as the price; a half is rounded away from 0."""
    unit = f"CAST('{10**-scale:.{scale}f}' AS DECIMAL({scale + 1},{scale}))"
    return (
        "CASE WHEN _v > 0 THEN (_t // _v + CASE WHEN abs(_t % _v) >= _v - abs(_t % _v) THEN sign(_t) ELSE 0 END)"
        f" * {unit} END"
    )


def _prints(bars: Bars, source: str, size: Column) -> str:
    integer = size.kind == "integer"
    time, price = quoted(bars.time), quoted(bars.price)
    where = [f"{name} IS NOT NULL" for name in (time, price, quoted(bars.size))]
    where += [f"NOT {_holds(condition)}" for condition in bars.without]
    priced = "true" if bars.unpriced is None else f"NOT {_holds(bars.unpriced)}"
    return (
        f"SELECT {', '.join(map(quoted, bars.by))}, {_minute(time)} AS _minute, {price} AS _price,"
        f" {f'CAST({quoted(bars.size)} AS DECIMAL(19,0))' if integer else quoted(bars.size)} AS _size,"
        f" ({time}, _stream, _partition, _offset, _dataset) AS _place, {priced} AS _priced"
        f" FROM {quoted(source)} WHERE {' AND '.join(where)}"
    )


def _minute(time: str) -> str:
    """``date_trunc`` goes through microseconds, and rounds: 14:30:59.9999999 would be of the minute after."""
    return f"make_timestamp_ns(epoch_ns({time}) - (epoch_ns({time}) % {_MINUTE_NS} + {_MINUTE_NS}) % {_MINUTE_NS})"


def _holds(condition: Condition) -> str:
    column, values = condition
    cells = ", ".join(literal(v) if isinstance(v, str) else str(v).lower() for v in values)
    return f"coalesce({quoted(column)} IN ({cells}), false)"


def _made(connection: duckdb.DuckDBPyConnection, view: str, query: str) -> str | None:
    """The view's comment, where the view is there with this very query, which DuckDB keeps in its own spelling."""
    found = connection.execute("SELECT sql, comment FROM duckdb_views() WHERE view_name = ?", [view]).fetchall()
    if not found:
        return None
    connection.execute(f"CREATE OR REPLACE TEMP VIEW headrace_wanted AS {query}")
    wanted = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'headrace_wanted'").fetchall()[0][0]
    connection.execute("DROP VIEW temp.headrace_wanted")
    [(sql, comment)] = found
    same = sql.partition(" AS ")[2] == wanted.partition(" AS ")[2]
    return comment if same else None


def _known(connection: duckdb.DuckDBPyConnection, target: str) -> dict[str, str]:
    found = connection.execute(
        "SELECT column_name, coalesce(comment, '') FROM duckdb_columns() WHERE table_name = ?"
        " AND schema_name = current_schema() AND database_name = current_database()",
        [target],
    ).fetchall()
    return dict(found)

"""Bars of one minute in Snowflake: the same as in DuckDB, whose own are held against the vendor's."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from headrace.chain import Chain
from headrace.demo import market
from headrace.demo.contracts import Trade
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.market import AlpacaTrade
from headrace.registry import Registry
from headrace.testing.servers.exchange import alpaca_trade
from headrace.testing.servers.snowflake import SnowflakeEndpoint

pytestmark = pytest.mark.services
pytest_plugins = ["headrace.testing.fixtures"]

BARS = "SELECT symbol, time, open, high, low, close, volume, turnover, vwap, trades FROM trades_ohlcv_1m ORDER BY 1, 2"


def in_both(
    values: list[bytes], contract: type, snowflake: SnowflakeEndpoint, folder: Path
) -> list[tuple[object, ...]]:
    """The bars of these trades in Snowflake, after they were held against DuckDB's."""
    registry, schema = Registry.discover(), snowflake.schema()
    (folder / "trades.jsonl").write_bytes(b"\n".join(values) + b"\n")
    source, sink = registry.source(f"jsonl://{folder}/trades.jsonl"), registry.sink(f"file://{folder}/lake")
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=5_000)).run()
    chain = Chain.open(registry.store(f"file://{folder}/lake"), "trades")
    with snowflake.connect(database=snowflake.database) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE SCHEMA {snowflake.database}.{schema}")
        cursor.execute(f"USE SCHEMA {snowflake.database}.{schema}")
        for uri in (snowflake.uri(schema, "trades"), f"duckdb://{folder}/w.duckdb?table=trades"):
            Load(chain=chain, loader=registry.loader(uri, contract)).run()
        found = [tuple(row) for row in cursor.execute(BARS).fetchall()]
        cursor.execute(f"DROP SCHEMA {snowflake.database}.{schema} CASCADE")
    with duckdb.connect(str(folder / "w.duckdb"), read_only=True) as expected:
        assert expected.execute(BARS).fetchall() == found
    return found


def test_bars_are_the_same(snowflake: SnowflakeEndpoint, tmp_path: Path):
    """Real trades in both warehouses give the same bars, each value to the last digit."""
    values = [r.value or b"" for r in islice(market.trades("BAC"), 20_000)]
    assert len(in_both(values, Trade, snowflake, tmp_path)) > 100


def test_trades_that_their_exchange_took_back(snowflake: SnowflakeEndpoint, tmp_path: Path):
    """Trades that Alpaca's history marks canceled or incorrect are in no bar of either warehouse, corrected ones are."""
    marks = ("canceled", "incorrect", "corrected", None)
    trades = [alpaca_trade(n, p=100 + n, **({"u": mark} if mark else {})) for n, mark in enumerate(marks)]
    trades.append(alpaca_trade(3, p=103, u="canceled"))  # sent live, then marked
    (bar,) = in_both([json.dumps(trade).encode() for trade in trades], AlpacaTrade, snowflake, tmp_path)
    assert (102, 102, 3, 1) == (bar[2], bar[5], bar[6], bar[9])

"""Bars of one minute in Snowflake: the same as in DuckDB, whose own are held against the vendor's."""

from __future__ import annotations

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
from headrace.registry import Registry
from headrace.testing.servers.snowflake import SnowflakeEndpoint

pytestmark = pytest.mark.services
pytest_plugins = ["headrace.testing.fixtures"]

BARS = "SELECT symbol, time, open, high, low, close, volume, turnover, vwap, trades FROM trades_ohlcv_1m ORDER BY 1, 2"


def test_bars_are_the_same(snowflake: SnowflakeEndpoint, tmp_path: Path):
    """Real trades in both warehouses give the same bars, each value to the last digit."""
    registry, schema = Registry.discover(), snowflake.schema()
    values = [r.value or b"" for r in islice(market.trades("BAC"), 20_000)]
    (tmp_path / "trades.jsonl").write_bytes(b"\n".join(values) + b"\n")
    source, sink = registry.source(f"jsonl://{tmp_path}/trades.jsonl"), registry.sink(f"file://{tmp_path}/lake")
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=5_000)).run()
    chain = Chain.open(registry.store(f"file://{tmp_path}/lake"), "trades")
    with snowflake.connect(database=snowflake.database) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE SCHEMA {snowflake.database}.{schema}")
        cursor.execute(f"USE SCHEMA {snowflake.database}.{schema}")
        for uri in (snowflake.uri(schema, "trades"), f"duckdb://{tmp_path}/w.duckdb?table=trades"):
            Load(chain=chain, loader=registry.loader(uri, Trade)).run()
        found = [tuple(row) for row in cursor.execute(BARS).fetchall()]
        cursor.execute(f"DROP SCHEMA {snowflake.database}.{schema} CASCADE")
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as expected:
        assert expected.execute(BARS).fetchall() == found
    assert len(found) > 100

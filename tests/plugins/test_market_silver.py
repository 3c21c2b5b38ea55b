"""From an exchange to silver: each kind of Alpaca's messages becomes the rows that its contract says."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from market_following import Running, until, values

from headrace.chain import Chain
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.market import AlpacaBar, AlpacaCorrection, AlpacaQuote, AlpacaTrade
from headrace.registry import Registry
from headrace.testing.servers.exchange import AlpacaExchange, alpaca_trade

KINDS = {"trades": AlpacaTrade, "corrections": AlpacaCorrection, "quotes": AlpacaQuote, "bars": AlpacaBar}

QUOTE = {"T": "q", "S": "AAPL", "bx": "K", "bp": 91.95, "bs": 2, "ax": "Q", "ap": 91.98, "as": 1, "c": ["R"], "z": "C"}
BAR = {
    "T": "b",
    "S": "AAPL",
    "o": 388.985,
    "h": 389.13,
    "l": 388.975,
    "c": 389.12,
    "v": 49378,
    "n": 461,
    "vw": 389.062639,
}
CANCEL = {"T": "x", "S": "AAPL", "i": 2, "x": "K", "p": 162.92, "s": 3, "a": "C", "z": "C", "t": "2026-01-02T15:00:09Z"}
CORRECTION = {"T": "c", "S": "AAPL", "x": "K", "oi": 3, "op": 162.92, "os": 3, "oc": [" ", "7"], "ci": 9, "cp": 163.1,
              "cs": 0.0015, "cc": ["@"], "z": "C", "t": "2026-01-02T15:00:08.000000001Z"}  # fmt: skip

AS_THEY_COUNT = """
WITH said AS (
    SELECT symbol, exchange, id, time, price, size FROM trades_current
    WHERE coalesce(mark NOT IN ('canceled', 'incorrect'), true)
    UNION ALL
    SELECT symbol, exchange, corrected_id, time, corrected_price, corrected_size FROM corrections_current AS c WHERE kind = 'c'
    AND NOT EXISTS (FROM trades_current AS t WHERE t.symbol = c.symbol AND t.exchange = c.exchange AND t.id = c.corrected_id
        AND timezone('America/New_York', t.time)::DATE = timezone('America/New_York', c.time)::DATE)
)
SELECT symbol, id, price, size FROM said
WHERE NOT EXISTS (FROM corrections_current AS c WHERE c.symbol = said.symbol AND c.exchange = said.exchange
    AND said.id IN (c.cancelled_id, c.original_id)
    AND timezone('America/New_York', c.time)::DATE = timezone('America/New_York', said.time)::DATE)
"""
"""The trades as they count: as `docs/pages/feeds.md` has it."""


@pytest.fixture(scope="module")
def silver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """All that the exchange sends, some of it twice and some of it broken, the whole way."""
    folder, registry = tmp_path_factory.mktemp("silver"), Registry.discover()
    sent: list[dict[str, Any]] = [
        *(alpaca_trade(n) for n in range(1, 5)),
        alpaca_trade(4),  # repeated
        alpaca_trade(2, x="D"),  # the same id at another exchange is another trade
        alpaca_trade(5, p=1, u="canceled"),  # as the history marks them
        alpaca_trade(6),
        alpaca_trade(6, p=999, u="incorrect"),  # what came last is the row
        alpaca_trade(9, p=163.1, s=0.0015, u="corrected"),  # in the place of 3, as CORRECTION says too
        alpaca_trade(11, p=163.2, u="of another kind"),
        {**QUOTE, "t": "2026-01-02T15:00:01.000000001Z"},
        {**QUOTE, "t": "2026-01-02T15:00:02.123456789Z"},
        {**QUOTE, "t": "2026-01-02T15:00:02.123456789Z", "bp": 91.96, "as": 0.5},  # what holds from then on
        {**QUOTE, "t": "yesterday"},
        {**BAR, "t": "2026-01-02T15:00:00Z"},
        {**BAR, "T": "u", "t": "2026-01-02T15:00:00Z", "n": 462, "h": 390, "v": 49400},  # a late trade
        {**BAR, "t": "2026-01-02T15:01:00Z"},
        {**BAR, "t": "2026-01-02T15:02:00Z", "l": 500},
        CANCEL,
        CORRECTION,
        CORRECTION,
        {**CORRECTION, "oi": 1, "ci": 10},
        {**CANCEL, "i": 10, "a": "E"},  # the corrected one was void, too
        {"T": "x", "S": "AAPL", "i": 7},
    ]
    with pytest.MonkeyPatch.context() as environment, AlpacaExchange() as exchange:
        environment.setenv("APCA_API_KEY_ID", "key")
        environment.setenv("APCA_API_SECRET_KEY", "secret")
        source = registry.source(f"alpaca://iex/AAPL?address={exchange.address}")
        sink = registry.sink(f"file://{folder}/lake")
        running = Running(Pipeline(source=source, sink=sink, flush=FlushPolicy(age_s=0.05))).begin()
        exchange.wait_for_clients()
        exchange.publish(*sent)
        until(lambda: sum(len(values(folder / "lake", f"alpaca.iex.{kind}")) for kind in KINDS) == len(sent))
        assert running.stop() is None
    for kind, contract in KINDS.items():
        chain = Chain.open(registry.store(f"file://{folder}/lake"), f"alpaca.iex.{kind}")
        loader = registry.loader(f"duckdb://{folder}/silver.duckdb?table={kind}", contract)
        Load(chain=chain, loader=loader).run()
    with duckdb.connect(str(folder / "silver.duckdb"), read_only=True) as connection:
        yield connection


def refused(silver: duckdb.DuckDBPyConnection, kind: str) -> list[str]:
    return [column for (column,) in silver.execute(f'SELECT "column" FROM {kind}_quarantine').fetchall()]


def test_quotes(silver: duckdb.DuckDBPyConnection):
    """Of one nanosecond the last quote is the row, its numbers are exact, and one without a time is in quarantine."""
    found = silver.execute(
        "SELECT epoch_ns(time) % 1000000000, bid_price, bid_size, ask_size, bid_exchange, conditions"
        " FROM quotes_current ORDER BY time"
    ).fetchall()
    assert [
        (1, Decimal("91.95"), 2, 1, "K", '["R"]'),
        (123456789, Decimal("91.96"), 2, Decimal("0.5"), "K", '["R"]'),
    ] == found
    assert ["time"] == refused(silver, "quotes")


def test_bars(silver: duckdb.DuckDBPyConnection):
    """A minute that is sent again with a late trade replaces the first; prices out of order are in quarantine."""
    found = silver.execute(
        "SELECT epoch(time)::BIGINT % 3600, open, high, trades, volume, vwap FROM bars_current ORDER BY time"
    ).fetchall()
    first, vwap = Decimal("388.985"), Decimal("389.062639")
    assert [(0, first, 390, 462, 49400, vwap), (60, first, Decimal("389.13"), 461, 49378, vwap)] == found
    assert 1 == len(refused(silver, "bars"))


def test_corrections(silver: duckdb.DuckDBPyConnection):
    """A cancel and a correction are a row each, however often they were sent; one that does not say when is in quarantine."""
    found = silver.execute(
        "SELECT kind, cancelled_id, action, original_id, original_conditions, corrected_id, corrected_price, corrected_size"
        " FROM corrections_current WHERE original_id <> 1 AND cancelled_id <> 10 ORDER BY time DESC"
    ).fetchall()
    assert [
        ("x", 2, "C", 0, None, None, None, None),
        ("c", 0, None, 3, '[" ","7"]', 9, Decimal("163.1"), Decimal("0.0015")),
    ] == found
    assert 1 == len(refused(silver, "corrections"))


def test_trades_as_they_count(silver: duckdb.DuckDBPyConnection):
    """All nine are rows; by the corrections beside them and by their marks four are void, and one is in another's place, once."""
    assert (9,) == silver.execute("SELECT count(*) FROM trades_current").fetchone()
    price = Decimal("162.92")
    assert [
        ("AAPL", 2, price, 3),
        ("AAPL", 4, price, 3),
        ("AAPL", 9, Decimal("163.1"), Decimal("0.0015")),
        ("AAPL", 11, Decimal("163.2"), 3),
    ] == sorted(silver.execute(AS_THEY_COUNT).fetchall())
    (exchange,) = silver.execute("SELECT exchange FROM trades_current WHERE id = 2 AND exchange <> 'K'").fetchone()
    assert "D" == exchange  # the other one of that id is not void


def test_marked_trades_are_in_no_bar(silver: duckdb.DuckDBPyConnection):
    """What the history marked canceled or incorrect is a row with its mark, and in no bar; what it corrected is in one."""
    marks = silver.execute("SELECT id, mark FROM trades_current WHERE mark IS NOT NULL ORDER BY id").fetchall()
    assert [(5, "canceled"), (6, "incorrect"), (9, "corrected"), (11, "of another kind")] == marks
    price = Decimal("162.92")
    assert [(price, Decimal("163.2"), price, Decimal("163.2"), Decimal("18.0015"), 7)] == silver.execute(
        "SELECT open, high, low, close, volume, trades FROM trades_ohlcv_1m"
    ).fetchall()


def test_the_query_is_the_one_in_the_docs():
    """The page tells this very query."""
    page = Path(__file__).parents[2] / "docs/pages/feeds.md"
    assert AS_THEY_COUNT.strip() in page.read_text(encoding="utf-8")

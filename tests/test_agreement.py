"""Bars that are made of real trades, against the vendor's own bars of the same sessions."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from headrace.demo import agreement
from headrace.plugins import market

SHARED = Path(__file__).parent.parent.parent / "shared/data/lean"
SESSION = "2013-10-07"


@pytest.fixture(scope="module")
def silver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged session of both symbols, loaded."""
    return agreement.load(tmp_path_factory.mktemp("agreement"))


def test_packaged_session(silver: Path):
    """Every minute but those of the auctions is equal in all five values; of all minutes more than 99 %."""
    found = agreement.compare(silver)
    print(agreement.table(found))
    assert [("BAC", SESSION, 595, 590, 590), ("IBM", SESSION, 453, 448, 448)] == [
        (a.symbol, a.day, a.minutes, a.quiet, a.quiet_whole) for a in found
    ]
    assert [(0, 0)] * 2 == [(a.missing, a.added) for a in found]
    assert [(594, 595, 595, 594, 593, 592), (452, 453, 453, 452, 451, 450)] == [
        (a.open, a.high, a.low, a.close, a.volume, a.whole) for a in found
    ]


def test_every_trade_is_in_a_bar(silver: Path):
    """No trade is lost or counted twice on the way into bars; what the contract leaves out is left out, and no more."""
    with duckdb.connect(str(silver), read_only=True) as connection:
        bars = connection.execute("SELECT sum(trades), sum(volume), sum(turnover) FROM trades_ohlcv_1m").fetchall()
        rows = connection.execute(
            "SELECT count(*), sum(size), sum(CAST(price AS DECIMAL(20,6)) * size) FROM trades"
            " WHERE conditions NOT IN ('1000000', '4000000')"
        ).fetchall()
    assert rows == bars
    assert 112_460 == bars[0][0]


def test_what_the_auction_moves(silver: Path):
    """Where volumes differ, it is by the auction's trade: too little in one minute is as much too much in another."""
    with duckdb.connect(str(silver), read_only=True) as connection:
        found = connection.execute(
            "SELECT symbol, sum(o.volume) - sum(b.volume), count(*) FILTER (WHERE o.volume <> b.volume)"
            " FROM bars_current b JOIN trades_ohlcv_1m o USING (symbol, time)"
            " WHERE strftime(time - INTERVAL 4 HOURS, '%H:%M') <> '09:30' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        auction = connection.execute(
            "SELECT symbol, max(size) FROM trades WHERE conditions = '80' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        late = connection.execute(
            "SELECT symbol, max(o.volume - b.volume) FROM bars_current b JOIN trades_ohlcv_1m o USING (symbol, time)"
            " GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert [("IBM", 0, 2)] == found[1:]
    assert auction[1:] == late[1:]
    assert 2 == found[0][2]


def test_content_is_no_identity(silver: Path):
    """The negative control: without the trades that repeat another one, volumes agree in less than half of the minutes."""
    with duckdb.connect(str(silver), read_only=True) as connection:
        [(equal, minutes)] = connection.execute(
            "SELECT count(*) FILTER (WHERE volume = b.size), count(*) FROM bars_current JOIN (SELECT symbol,"
            " date_trunc('minute', time)::TIMESTAMP_NS AS time, sum(size) AS size FROM"
            " (SELECT DISTINCT symbol, time, price, size, exchange, conditions FROM trades) GROUP BY ALL) b USING (symbol, time)"
        ).fetchall()
    assert equal < minutes / 2


def test_rule_of_the_vendor(tmp_path: Path):
    """The negative control: where every trade sets a price, IBM's prices differ in a fifth of the minutes or more."""
    found = agreement.compare(agreement.load(tmp_path, kept=market.Trade))
    assert found[1].symbol == "IBM"
    assert found[1].open < found[1].minutes * 0.9


@pytest.mark.slow
def test_five_sessions(tmp_path: Path):
    """Five sessions of both symbols: outside the auctions not one value differs."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: the whole set of ticks is not part of the project")
    found = agreement.compare(agreement.load(tmp_path, SHARED))
    assert 10 == len(found)
    assert (5_058, 5_058) == (sum(a.quiet for a in found), sum(a.quiet_whole for a in found))
    assert 0.994 < sum(a.whole for a in found) / sum(a.minutes for a in found)

"""Symbols by pattern: the exchange's own list says which there are, once, before anything begins."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
from market_following import begun, products, stocks

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.plugins.market.symbols import listed
from headrace.registry import Registry
from headrace.testing.servers.exchange import AlpacaExchange, CoinbaseExchange


@pytest.fixture
def alpaca() -> Iterator[AlpacaExchange]:
    with AlpacaExchange(keeps=True) as exchange:
        yield exchange


def test_stocks_by_pattern(alpaca: AlpacaExchange, follow):
    """A pattern becomes the assets that match it: those are subscribed to, and have gaps of their own."""
    following = follow(stocks(alpaca, "A*", "MSFT", "AAPL", assets_address=alpaca.history_address))
    alpaca.faults = [503]
    with pytest.raises(SourceUnavailableError, match=r"alpaca\.iex: its list of symbols could not be read"):
        following.poll()  # a pipeline tries again
    begun(following, alpaca)
    subscribed = next(words for words in alpaca.heard if words["action"] == "subscribe")
    assert ["AAPL", "AMD", "MSFT"] == subscribed["trades"]
    assert ["AAPL", "AMD", "MSFT"] == [gap["symbol"] for gap in following.gaps()]
    assert ["/v2/assets?status=active&asset_class=us_equity"] * 2 == alpaca.asked


@pytest.mark.parametrize(
    ("status", "limits", "wait_s"),
    [(429, {"Retry-After": "7"}, 7.0), (503, {"Retry-After": "7"}, 7.0), (429, {}, 60.0), (503, {}, 0.0)],
)
def test_list_that_is_to_be_waited_for(alpaca: AlpacaExchange, follow, status: int, limits: dict, wait_s: float):
    """Whoever says how long to wait is not asked for its list before, however often a pipeline polls."""
    following = follow(stocks(alpaca, "A*", assets_address=alpaca.history_address))
    alpaca.faults, alpaca.limits = [status], limits
    with pytest.raises(SourceUnavailableError, match="its list of symbols could not be read"):
        following.poll()
    if wait_s:
        following.clock.pass_s(wait_s - 0.001)
        with pytest.raises(SourceUnavailableError, match=f"it wants to be left alone for {wait_s:g} s"):
            following.poll()
        assert 1 == len(alpaca.asked)
        following.clock.pass_s(0.001)
    begun(following, alpaca)
    assert 2 == len(alpaca.asked)


def test_list_that_is_not_to_be_had_for_long(alpaca: AlpacaExchange, follow):
    """Whoever wants to be left alone for more than an hour is asked again after an hour."""
    following = follow(stocks(alpaca, "A*", assets_address=alpaca.history_address))
    alpaca.faults, alpaca.limits = [429], {"Retry-After": "99999999999"}
    with pytest.raises(SourceUnavailableError, match=r"it wants to be left alone for 1e\+11 s"):
        following.poll()
    following.clock.pass_s(3600)
    begun(following, alpaca)


def test_products_by_pattern(follow):
    """The same of products; the pattern may stand in the URI."""
    with CoinbaseExchange(keeps=True, products=("BTC-USD", "ETH-EUR", "ETH-USD")) as exchange:
        addresses = f"address={exchange.address}&history_address={exchange.history_address}"
        feed = Registry.discover().source(f"coinbase://*-USD?{addresses}").feed
        assert ("*-USD",) == feed.symbols
        following = begun(follow(feed, backfill=False), exchange)
        assert ["BTC-USD", "ETH-USD"] == exchange.heard[0]["product_ids"]
        assert ["BTC-USD", "ETH-USD"] == [gap["symbol"] for gap in following.gaps()]


@pytest.mark.parametrize(
    ("symbol", "fault", "message"),
    [
        ("Z*", "", r"Z\* matches none of the 3 symbols of http://127"),
        ("A*", 401, r"its list of symbols is not to be had \(credentials refused"),
        ("A*", "wrong", "answered with no list of symbols"),
    ],
)
def test_wrong_pattern(alpaca: AlpacaExchange, follow, symbol: str, fault: int | str, message: str):
    """A pattern that matches nothing, and a list that is not to be had, are told before anything is connected to."""
    alpaca.faults = [fault]
    with pytest.raises(ConfigError, match=message):
        follow(stocks(alpaca, symbol, assets_address=alpaca.history_address)).poll()
    assert 0 == alpaca.connections


def test_all_is_no_pattern(alpaca: AlpacaExchange, follow):
    """Alpaca's own wildcard needs no list, and a server that is not Alpaca's has none."""
    feed = stocks(alpaca, "*")
    assert feed is feed.resolved(lambda *_: b"")
    with pytest.raises(ConfigError, match="no list of assets: name symbols, or give assets_address="):
        follow(attrs.evolve(feed, symbols=("A*",))).poll()
    with pytest.raises(ConfigError, match="no list of products"):
        follow(products(alpaca, "*")).poll()


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'[{"name":"A"}]', b"<html>"])
def test_no_list(body: bytes):
    """Whatever else an exchange answers is no list."""
    with pytest.raises(ConfigError, match="x answered with no list of symbols"):
        listed(body, "symbol", "x")

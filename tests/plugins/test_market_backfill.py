"""What a connection did not bring is fetched from the exchange's history, and a gap is filled only when all of it is stored."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from market_following import Clock, Following, Running, begun, products, stocks, until, values

from headrace import audit
from headrace.chain import Chain
from headrace.contract import Contract
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market.alpaca_history import AlpacaHistory
from headrace.plugins.market.backfill import Backfill, Reach
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.backoff import Backoff
from headrace.plugins.market.coinbase_history import CoinbaseHistory
from headrace.plugins.market.fetching import Fetcher
from headrace.plugins.market.gaps import NOT_STORED, Gaps, Missing
from headrace.plugins.market.history import HistoryLostError, HistoryRefusedError, Page, Wanted, spliced
from headrace.plugins.market.source import FeedSource
from headrace.plugins.market.venues import AlpacaBar, AlpacaQuote, AlpacaTrade, CoinbaseTrade
from headrace.records import Hint, Partition, Record, Start
from headrace.registry import Registry
from headrace.rows import row
from headrace.testing.servers.exchange import (
    AlpacaExchange,
    Answer,
    CoinbaseExchange,
    Exchange,
    alpaca_trade,
    coinbase_match,
)

QUIET = {"ping_every_s": 1e9, "subscribe_timeout_s": 1e9, "backfill_reach_s": 0.0}
"""The clock is turned much: no connection is lost for that. And only the outage is fetched."""


@pytest.fixture
def coinbase() -> Iterator[CoinbaseExchange]:
    with CoinbaseExchange(keeps=True, page=10) as exchange:
        yield exchange


@pytest.fixture
def alpaca() -> Iterator[AlpacaExchange]:
    with AlpacaExchange(keeps=True, page=2) as exchange:
        yield exchange


def coins(exchange: CoinbaseExchange, **more: Any):
    return products(exchange, history_address=exchange.history_address, heartbeat_s=None, **more)


def waited(following: Following, condition: Callable[[], bool]) -> None:
    """Let time pass until it is true."""

    def passed() -> bool:
        following.clock.pass_s(1)
        return condition()

    following.until(passed)


def outage(following: Following, exchange: CoinbaseExchange, meanwhile: Sequence[int], behind: int) -> dict[str, Any]:
    """Receive the trades 1 to 3, lose the connection while others are made, and come back; the gap that this is."""
    exchange.publish(*(coinbase_match(n) for n in (1, 2, 3)))
    following.until(lambda: len(following.values("trades")) == 3)
    exchange.drop()
    exchange.publish(*(coinbase_match(n) for n in meanwhile))  # to nobody
    exchange.last.clear()
    waited(following, lambda: bool(exchange.subscribed()))
    exchange.publish(coinbase_match(behind))
    following.until(lambda: len(following.values("trades")) == 4)
    return lost(following)


def lost(following: Following) -> dict[str, Any]:
    (gap,) = [g for g in following.gaps() if g["cause"] == "broken off"]
    return gap


def backfilled(following: Following, kind: str = "trades") -> list:
    return [r for r in following.said.get(kind, []) if any(name == "headrace.backfilled" for name, _ in r.headers)]


def typed(kept: type, record: Record) -> dict[str, Any]:
    contract = Contract.of(kept)
    return dict(zip((c.name for c in contract.columns), row(contract, record.value), strict=False))


# ---- by numbers -----------------------------------------------------------------------------------------------


def test_an_outage_is_filled(coinbase: CoinbaseExchange, follow):
    """
    All that is missing comes page by page, through every fault of the history, each once; the gap is filled when it is stored.

    A message has the bytes of the answer, with what the answer says once for all put in front.
    """
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    gap = outage(following, coinbase, range(4, 29), 29)
    assert (25, False, None) == (gap["missing"], gap["filled"], gap["backfill"])
    coinbase.limits = {"Retry-After": "30"}
    coinbase.faults = [503, "cut", 429, "wrong", "", 500]
    began_s = following.clock.now_s
    waited(following, lambda: len(backfilled(following)) == 25)
    assert following.clock.now_s - began_s > 5 + 30
    for _ in range(20):
        following.poll()
    assert lost(following) == gap  # it is not stored yet
    following.store()
    following.until(lambda: lost(following)["backfill"] is not None)
    found = lost(following)
    assert ("done", 25, 0, True) == tuple(found[n] for n in ("backfill", "backfilled", "missing", "filled"))
    records = backfilled(following)
    numbers = [json.loads(r.value)["trade_id"] for r in records]
    assert list(range(4, 29)) == sorted(numbers)
    assert [*range(19, 29), *range(9, 19), *range(4, 9)] == numbers  # the exchange has the newest page first
    headers = dict(records[0].headers)
    assert (b"BTC-USD", gap["id"].encode(), b"p-history") == (
        records[0].key,
        headers["headrace.backfilled"],
        headers["headrace.connection"],
    )
    answered = b'"trade_id":19,"side":"sell","size":"985","price":"0.00001305","time":"2026-01-02T15:00:00.019000Z"}'
    assert b'{"type":"match","product_id":"BTC-USD",' + answered == records[0].value
    assert "0" == typed(CoinbaseTrade, records[0])["sequence"]
    assert 8 <= len(coinbase.asked) <= 10  # five in vain
    assert all("limit=1000&after=" in asked for asked in coinbase.asked)


def test_what_history_lacks_stays_missing(coinbase: CoinbaseExchange, follow):
    """Numbers that the history never has are asked for several times, and then said to be missing: nothing is made up."""
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    outage(following, coinbase, [4, 5, 8], 9)
    waited(following, lambda: following.store() or lost(following)["backfill"] is not None)
    found = lost(following)
    assert ("partly: 2 are not in the history", 3, 2, False) == tuple(
        found[n] for n in ("backfill", "backfilled", "missing", "filled")
    )
    assert 3 == len(backfilled(following))
    assert 6 <= len(coinbase.asked) <= 8


def test_late_history(coinbase: CoinbaseExchange, follow):
    """A number that the history does not have yet is asked for again; one that came meanwhile is not taken twice."""
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    outage(following, coinbase, [4, 5], 7)
    coinbase.publish(coinbase_match(4))  # late, by the stream
    following.until(lambda: len(following.values("trades")) == 5)
    coinbase.published[:] = [m for m in coinbase.published if m["trade_id"] != 6]
    coinbase.faults = ["wrong"]
    waited(following, lambda: len(backfilled(following)) == 1)
    coinbase.published.append(coinbase_match(6))
    waited(following, lambda: following.store() or lost(following)["filled"])
    assert [5, 6] == [json.loads(r.value)["trade_id"] for r in backfilled(following)]


def test_before_the_first_start(coinbase: CoinbaseExchange, follow):
    """What came before a process began is fetched so far back as was asked for, and the gap says from when on."""
    coinbase.publish(*(coinbase_match(n) for n in (1_000, 250_000, 290_000)))  # milliseconds behind 15:00
    coinbase.last.clear()
    following = follow(coins(coinbase), **(QUIET | {"backfill_reach_s": 60.0}))
    following.clock.pass_s(300)
    begun(following, coinbase)
    coinbase.publish(coinbase_match(300_001))
    waited(following, lambda: following.store() or following.gaps()[0]["backfill"] is not None)
    (gap,) = following.gaps()
    assert [250_000, 290_000] == [json.loads(r.value)["trade_id"] for r in backfilled(following)]
    said = (gap["cause"], gap["backfill"], gap["missing"], gap["filled"])
    assert ("started", "partly: from 2026-01-02T15:04:00.000000000Z on", None, False) == said


def test_quotes_alone(coinbase: CoinbaseExchange, follow):
    """Whoever follows Coinbase's quotes alone has no count and no history: nothing is asked, and no gap speaks of numbers."""
    following = begun(follow(coins(coinbase, wanted=("quotes",)), **(QUIET | {"backfill_reach_s": 60.0})), coinbase)
    coinbase.drop()
    waited(following, lambda: len(following.gaps()) == 2 and not following.open_gaps())
    for _ in range(20):
        following.clock.pass_s(1)
        following.poll(0.005)
    assert [None, None] == [gap["backfill"] for gap in following.gaps()]
    assert not any("numbers" in gap for gap in following.gaps())
    assert [] == coinbase.asked


def test_the_feed_goes_first(coinbase: CoinbaseExchange, follow):
    """While half of the queue is full no page is asked for beyond the one at hand; when there is room, all come."""
    following = begun(follow(coins(coinbase), queue_bytes=6_000, **QUIET), coinbase)
    outage(following, coinbase, range(4, 104), 104)
    following.source.move(dict.fromkeys(following.source._kinds.values()))  # the pipeline has no memory left
    backlog = following.source._backlog
    waited(following, lambda: backlog.held_bytes > 3_000)
    for _ in range(50):
        following.clock.pass_s(1)
        following.poll(0.005)
    assert backlog.held_bytes < 6_000
    assert len(coinbase.asked) < 5
    following.source.move({p: Start(n, None, 1) for p, n in following.source._next.items()})
    waited(following, lambda: following.store() or lost(following)["filled"])
    assert 100 == len(backfilled(following))
    assert 10 <= len(coinbase.asked) <= 12


def test_stopped_before(coinbase: CoinbaseExchange, follow):
    """A gap that was not fetched when the feed is stopped says so, in the last that the source says."""
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    gap = outage(following, coinbase, [4], 5)
    following.finish()
    assert {
        **gap,
        "revision": gap["revision"] + 1,
        "backfill": "not available: stopped before",
        "backfilled": 0,
    } == lost(following)
    assert [] == coinbase.asked


# ---- stored or not ------------------------------------------------------------------------------------------


def stands_elsewhere(following: Following, stream: str) -> None:
    """What was said of a stream and is not stored is refused: another one wrote a record there."""
    source, partition = following.source, Partition(stream, 0)
    stored = source._stored[partition]
    kept = following.said[partition.stream.rpartition(".")[2]]
    kept[:] = [r for r in kept if r.offset < stored]
    source.move({partition: Start(stored + 1, None, 2)})


def missing(following: Following) -> list[int]:
    return [g["missing"] for g in following.gaps() if g["cause"] == "numbers are missing"]


def numbers(following: Following) -> set[int]:
    return {json.loads(v)["trade_id"] for v in following.values("trades")}


@pytest.mark.parametrize(
    ("faults", "fetched"),
    [([], 25), (["", "", 404], 20), (["", "hold"], 10)],
    ids=["all", "a part", "while it is fetched"],
)
@pytest.mark.parametrize("again", [True, False], ids=["there again", "not there any more"])
def test_what_was_fetched_is_dropped(coinbase: CoinbaseExchange, follow, faults: list, fetched: int, again: bool):
    """A gap is never filled by records that another writer's displaced: it is as large as it was, and they are fetched again."""
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    gap = outage(following, coinbase, range(4, 29), 29)
    following.store()
    coinbase.faults = faults
    waited(following, lambda: len(backfilled(following)) == fetched)
    for _ in range(5):
        following.poll()
    assert gap == lost(following)
    stands_elsewhere(following, "coinbase.trades")
    coinbase.faults = [] if again else [404] * 100
    coinbase.held.set()
    coinbase.publish(*(coinbase_match(n) for n in range(30, 60)))  # beyond where it was to be stored before

    def settled() -> bool:
        following.store()
        found = lost(following)
        assert found["missing"] >= len(set(range(4, 29)) - numbers(following)), found
        return found["filled"] if again else "404" in (found["backfill"] or "")

    waited(following, settled)
    if again:
        assert ("done", set(range(1, 60))) == (lost(following)["backfill"], numbers(following))


def test_many_numbers_are_dropped(coinbase: CoinbaseExchange, follow, monkeypatch: pytest.MonkeyPatch):
    """Of a gap whose numbers are too many to be listed, those that are fetched twice count once."""
    monkeypatch.setattr("headrace.plugins.market.gaps._TRACKED", 5)
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    outage(following, coinbase, range(4, 29), 29)
    following.store()
    coinbase.faults = ["", "hold"]
    waited(following, lambda: len(backfilled(following)) == 10)
    stands_elsewhere(following, "coinbase.trades")
    coinbase.published[:] = [m for m in coinbase.published if m["trade_id"] > 10]  # the others are too old by now
    coinbase.held.set()
    waited(following, lambda: following.store() or (lost(following)["backfill"] or "").startswith("partly: 7"))
    assert (7, 18, False) == tuple(lost(following)[n] for n in ("missing", "backfilled", "filled"))


def test_what_came_late_is_dropped(coinbase: CoinbaseExchange, follow):
    """
    A number that came late and was not stored is missing again.

    The stream is quiet then: where it was to be stored it never comes, and what is said of other gaps does not wait for that.
    """
    following = begun(follow(coins(coinbase), backfill=False), coinbase)
    coinbase.publish(*(coinbase_match(n) for n in (1, 3, 5)))
    following.until(lambda: len(following.values("trades")) == 3)
    following.store()
    coinbase.publish(coinbase_match(2))
    following.until(lambda: len(following.values("trades")) == 4)
    following.poll()
    following.source.move({Partition("coinbase.trades", 0): Start(0, None, 2)})
    for _ in range(5):
        following.poll()
    found = [g for g in following.gaps() if g["cause"] == "numbers are missing"]
    assert [(1, 3, 1, None), (3, 5, 1, None)] == [
        (g["last_sequence"], g["next_sequence"], g["missing"], g["backfill"]) for g in found
    ]
    assert "not stored: the sink of coinbase.trades stands elsewhere" == following.gaps()[-1]["cause"]
    coinbase.publish(coinbase_match(4), coinbase_match(2))
    following.until(lambda: len(following.values("trades")) == 6)
    following.store()
    following.until(lambda: missing(following) == [0, 0])
    assert not following.source._void  # nothing is remembered of gaps for longer than it is of use
    following.store()
    stands_elsewhere(following, "coinbase.trades")
    for _ in range(5):
        following.poll()
    assert [0, 0] == missing(following)  # that is stored


def test_what_is_smaller_needs_what_came_before(coinbase: CoinbaseExchange, follow):
    """That less is missing is said when what came late is stored, though what was received behind it is not."""
    following = begun(follow(coins(coinbase), backfill=False), coinbase)
    coinbase.publish(coinbase_match(1), coinbase_match(3))
    following.until(lambda: len(following.values("trades")) == 2)
    following.source.move(dict.fromkeys(following.source._kinds.values()))  # paused, so that all is one step
    coinbase.publish(*(coinbase_match(n) for n in (2, 4, 5)))
    until(lambda: len(following.source._backlog) == 4)
    following.source.move({p: Start(n, None, 1) for p, n in following.source._next.items()})
    following.until(lambda: len(following.values("trades")) == 5)
    assert 1 == following.gaps()[-1]["missing"]
    following.source.acknowledge({Partition("coinbase.trades", 0): Hint(3)})
    following.poll()
    assert 0 == following.gaps()[-1]["missing"]


def test_what_an_interval_brought_is_dropped(alpaca: AlpacaExchange, follow):
    """A feed that does not count: that all was fetched is said when all pages are stored, and not for the last one alone."""
    feed = stocks(alpaca, history_address=alpaca.history_address, silence_s=1e9, wanted=("trades",))
    following = begun(follow(feed, **QUIET), alpaca)
    following.clock.pass_s(20)
    alpaca.drop()
    alpaca.publish(*(alpaca_trade(1000 * n) for n in (21, 22, 23)))
    following.clock.pass_s(10)
    alpaca.faults = ["", "hold"]
    following.store()
    waited(following, lambda: len(backfilled(following)) == 2)
    stands_elsewhere(following, "alpaca.iex.trades")
    alpaca.held.set()
    told: list[str] = []

    def passed() -> bool:
        following.store()
        told.append(lost_of(following)["backfill"] or "")
        return told[-1] == "partly: corrections are not in the history" or len(backfilled(following)) > 4

    waited(following, passed)
    assert [23000, 21000, 22000, 23000] == [json.loads(r.value)["i"] for r in backfilled(following)]
    assert "partly: what was fetched is not stored; corrections are not in the history" in told
    assert 3 == lost_of(following)["backfilled"]


class Idle(threading.Event):
    """Set as soon as somebody waits for it: whoever has nothing more to do ends."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


@attrs.define(kw_only=True)
class Displaced:
    """
    One gap is fetched in this thread, in three pages of a record each, and stored, or displaced by another writer, when the test
    says so.

    Attributes:
        counted: The feed counts.

        page: Called with the lock at each request.

        settled: The same when it was said what came of it.
    """

    counted: bool = False
    page: Callable[[Displaced], None] = lambda _: None
    settled: Callable[[Displaced], None] = lambda _: None
    asked: int = 0
    told: list[dict[str, Any]] = attrs.field(factory=list)
    stored: set[int] = attrs.field(factory=set)
    backlog: Backlog = attrs.field(factory=lambda: Backlog(limit_bytes=1 << 20))
    gaps: Gaps = attrs.field(factory=lambda: Gaps(feed="f", symbols=("A",), producer="p", run="p"))
    backfill: Backfill = attrs.field(init=False)
    _held: list[bytes] = attrs.field(factory=list)
    _void: dict[str, int] = attrs.field(factory=dict)

    def run(self) -> list[str]:
        """Fetch until nothing more is to be fetched; return what the gap's revisions say of that."""
        self.backfill = Backfill(
            history=(CoinbaseHistory if self.counted else partial(AlpacaHistory, "iex"))(address="http://127.0.0.1"),
            kinds=("trades",),
            name="p",
            backlog=self.backlog,
            gaps=self.gaps,
            lock=threading.Lock(),
            tell=self._tell,
            reach=Reach(after_s=0.0, back_s=0.0),
            backoff=Backoff(uniform=lambda *_: 0.0),
            fetcher=self,
            clock=lambda: 0.0,
            now_ns=lambda: 0,
            stopping=Idle(),
        )
        if self.counted:
            self.gaps.count(["A", "A"], [10, 14], 1)
        else:
            self.gaps.between("of a test", 0, 1)
        self._tell()
        self.backfill.run()
        return [said["backfill"] for said in self.told if said["backfill"]]

    def store(self) -> None:
        """All that came is stored, and then what waits for that is said."""
        self.stored |= {json.loads(v)["trade_id"] for c in self.backlog.take(1 << 30, 0.0) for v in c.values}
        self._say_held()

    def drop(self) -> None:
        """All that came and is not stored is gone."""
        self.backlog.take(1 << 30, 0.0)
        self._void |= self.gaps.dropped()
        self._put(behind=False)
        self._say_held()

    def get(self, address: str, headers: Mapping[str, str]) -> tuple[Mapping[str, str], bytes]:
        self.asked += 1
        assert self.asked < 1_000, "requests without an end"
        with self.backfill.lock:
            self.page(self)
        if self.counted:
            number = int(address.partition("after=")[2]) - 1
            return {}, b'[{"trade_id":%d,"time":"2026-01-02T15:00:00Z"}]' % number
        number = int(address.partition("page_token=")[2] or 11)
        token = b'"%d"' % (number + 1) if number < 13 else b"null"
        return {}, b'{"symbol":"A","trades":[{"trade_id":%d}],"next_page_token":%s}' % (number, token)

    def _tell(self) -> None:
        if any(less for _, _, less in self.gaps.out):
            self._put(behind=True)
            self.settled(self)
        self._put(behind=True)

    def _put(self, *, behind: bool) -> None:
        self.backfill.add(self.gaps.fillable)
        self.gaps.fillable.clear()
        self.told += [json.loads(value) for _, value, less in self.gaps.out if behind or not less]
        self._held += [value for _, value, less in self.gaps.out if behind and less]
        self.gaps.out = [out for out in self.gaps.out if out[2] and not behind]

    def _say_held(self) -> None:
        for said in map(json.loads, self._held):
            if said["revision"] > self._void.get(said["id"], 0):
                self.gaps.stored(said["id"], said["revision"])
                assert self.stored >= {11, 12, 13} or not (said["backfill"] == "done" or said["filled"]), said
        self._held.clear()


@pytest.fixture
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "secret")


@pytest.mark.usefixtures("_credentials")
def test_a_gap_waits_once():
    """What is dropped page after page while it is fetched is fetched once more, all of it, and not once for each page."""
    dropped = f"not available: {NOT_STORED}"
    displaced = Displaced(page=lambda it: it.drop() if it.asked <= 3 else None)
    assert [dropped, dropped, f"partly: {NOT_STORED}", "done"] == displaced.run()
    assert (6, 4) == (displaced.asked, len(displaced.backlog))


@pytest.mark.usefixtures("_credentials")
def test_a_gap_that_is_never_stored(caplog: pytest.LogCaptureFixture):
    """What is displaced each time is fetched six times; then the gap says so for good, and the log."""
    dropped = f"not available: {NOT_STORED}"
    displaced = Displaced(settled=Displaced.drop)
    assert [*["done", dropped] * 6, dropped] == displaced.run()
    assert 18 == displaced.asked
    assert 1 == caplog.text.count("gap left")


@pytest.mark.usefixtures("_credentials")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.sampled_from(["", "store", "drop"]), max_size=40))
@example(False, ["", "drop", "", "drop", "store"])
def test_displaced_at_any_time(counted: bool, events: list[str]):
    """Whatever is stored and displaced while a gap is fetched: it is told as done or filled only when all of it is stored."""
    course = iter(events)

    def happens(displaced: Displaced) -> None:
        event = next(course, "")
        if event:
            getattr(displaced, event)()

    displaced = Displaced(counted=counted, page=happens, settled=happens)
    displaced.run()
    displaced.store()
    last = displaced.told[-1]
    assert last["backfill"] == "done" or NOT_STORED in last["backfill"]
    if events.count("drop") < 6:
        assert (last["backfill"], {11, 12, 13}) == ("done", displaced.stored)


# ---- by time --------------------------------------------------------------------------------------------------


def quote(n: int, **other: object) -> dict[str, Any]:
    sides = {"bx": "K", "bp": 91.95, "bs": 2, "ax": "Q", "ap": 91.98, "as": 1, "c": ["R"]}
    return {"T": "q", "S": "AAPL", **sides, "z": "C", "t": f"2026-01-02T15:00:{n:02d}.000000001Z", **other}


def bar(minute: int, **other: object) -> dict[str, Any]:
    prices = {"o": 388.985, "h": 389.13, "l": 388.975, "c": 389.12, "v": 49378, "n": 461, "vw": 389.062639}
    return {"T": "b", "S": "AAPL", **prices, "t": f"2026-01-02T15:{minute:02d}:00Z", **other}


def test_stocks_are_filled_by_time(alpaca: AlpacaExchange, follow):
    """Trades, quotes and bars of the outage come page by page; corrections do not, and that is said."""
    feed = stocks(alpaca, history_address=alpaca.history_address, silence_s=1e9)
    following = begun(follow(feed, **QUIET), alpaca)
    following.clock.pass_s(20)
    alpaca.publish(alpaca_trade(20_000))
    following.until(lambda: len(following.values("trades")) == 1)
    alpaca.drop()
    seconds = (21, 22, 23)
    alpaca.publish(
        *(alpaca_trade(1000 * n) for n in seconds), *(quote(n) for n in seconds), bar(0), alpaca_trade(1, "MSFT")
    )
    following.clock.pass_s(10)
    waited(following, lambda: following.store() or lost_of(following)["backfill"] is not None)
    gap = lost_of(following)
    assert ("partly: corrections are not in the history", None, False) == (
        gap["backfill"],
        gap["missing"],
        gap["filled"],
    )
    trades, quotes, bars = (backfilled(following, kind) for kind in ("trades", "quotes", "bars"))
    assert ["20000", "21000", "22000", "23000"] == [typed(AlpacaTrade, r)["id"] for r in trades]
    assert [3, 1] == [len(quotes), len(bars)]
    assert "K" == typed(AlpacaQuote, quotes[0])["bid_exchange"]
    assert "461" == typed(AlpacaBar, bars[0])["trades"]
    assert trades[1].value.startswith(b'{"T":"t","S":"AAPL","i":21000,"x":"K"')
    assert ["/v2/stocks/AAPL/trades", "/v2/stocks/AAPL/trades", "/v2/stocks/AAPL/quotes"] == [
        asked.partition("?")[0] for asked in alpaca.asked
    ][:3]
    assert [2, 2, 1] == [sum(f"/{kind}?" in asked for asked in alpaca.asked) for kind in ("trades", "quotes", "bars")]


@pytest.mark.parametrize("slow_s", [0, 2, 9])
def test_a_clock_that_is_slow(alpaca: AlpacaExchange, follow, slow_s: int):
    """What was missed up to the new connection is fetched also where the exchange's clock is ahead of ours."""
    feed = stocks(alpaca, history_address=alpaca.history_address, silence_s=1e9, wanted=("trades",))
    following = begun(follow(feed, clock=Clock(day_ns=Clock().day_ns - slow_s * 10**9), **QUIET), alpaca)
    with away(alpaca):
        following.until(lambda: bool(following.open_gaps()))
        following.clock.pass_s(20)
        alpaca.publish(*(alpaca_trade(1000 * n) for n in range(1, 20)))  # to nobody, up to a second ago
    waited(following, lambda: following.store() or lost_of(following)["backfill"] is not None)
    assert list(range(1000, 20_000, 1000)) == [json.loads(r.value)["i"] for r in backfilled(following)]


def lost_of(following: Following) -> dict[str, Any]:
    return next((g for g in following.gaps() if g["cause"] == "broken off"), {"backfill": None})


def test_refused_credentials(alpaca: AlpacaExchange, follow, caplog: pytest.LogCaptureFixture):
    """Credentials that the history does not take end no feed: the gap says why, and is asked for no more."""
    feed = stocks(alpaca, history_address=alpaca.history_address, silence_s=1e9, wanted=("trades", "bars"))
    following = begun(follow(feed, **(QUIET | {"backfill_reach_s": 60.0})), alpaca)
    alpaca.key = "sesame"
    waited(following, lambda: following.store() or following.gaps()[0]["backfill"] is not None)
    why = "credentials refused (HTTP 401)"
    assert f"not available: trades: {why}; bars: {why}" == following.gaps()[0]["backfill"]
    assert (2, []) == (len(alpaca.asked), backfilled(following))
    assert "gap fetched" in caplog.text
    assert following.source._supervisor.error is None


# ---- a history that misleads ----------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class Misleading(AlpacaExchange):
    """Its pages never end: the cursors go round, or every one is new."""

    cursors: Iterator[str]
    full: bool

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], kept: int) -> Answer:
        trades = [{"t": "2026-01-02T15:00:00Z", "x": "V", "p": 1, "s": 1, "c": [], "i": 1, "z": "C"}] * self.full
        return Answer(200, {"trades": trades, "symbol": "AAPL", "next_page_token": next(self.cursors)})


@pytest.mark.parametrize(
    ("cursors", "full", "pages", "why"),
    [
        (itertools.cycle("A"), True, 2, "partly: trades: the same page again and again"),
        (itertools.cycle("AB"), True, 3, "partly: trades: the same page again and again"),
        (itertools.count(), True, 20, "partly: trades: pages without an end"),
        (itertools.count(), False, 10, "not available: trades: pages without an end"),
    ],
    ids=["the same one", "two in turn", "new ones", "new and empty ones"],
)
def test_pages_without_an_end(
    follow, monkeypatch: pytest.MonkeyPatch, cursors: Iterator[object], full: bool, pages: int, why: str
):
    """A history whose pages never end is left, and never called done."""
    monkeypatch.setattr("headrace.plugins.market.backfill._PAGES", 20)
    monkeypatch.setattr("headrace.plugins.market.backfill._IDLE_PAGES", 10)
    with Misleading(keeps=True, cursors=map(str, cursors), full=full) as exchange:
        feed = stocks(exchange, history_address=exchange.history_address, silence_s=1e9, wanted=("trades",))
        following = begun(follow(feed, **(QUIET | {"backfill_reach_s": 60.0})), exchange)
        waited(following, lambda: following.store() or following.gaps()[0]["backfill"] is not None)
        assert why == following.gaps()[0]["backfill"].partition(";")[0]
        assert pages == len(exchange.asked) == (len(backfilled(following)) if full else pages)


def test_cursors_that_lead_nowhere(follow, monkeypatch: pytest.MonkeyPatch):
    """Pages with always the same numbers bring nothing after the first one, though each has a cursor of its own."""
    monkeypatch.setattr("headrace.plugins.market.backfill._IDLE_PAGES", 10)
    cursor = itertools.count(10**6)
    answer = CoinbaseExchange.answer
    monkeypatch.setattr(
        CoinbaseExchange,
        "answer",
        lambda *asked: attrs.evolve(answer(*asked), headers={"CB-AFTER": str(next(cursor))}),
    )
    with CoinbaseExchange(keeps=True) as exchange:
        following = begun(follow(coins(exchange), **QUIET), exchange)
        outage(following, exchange, [7], 9)
        exchange.published[:] = [m for m in exchange.published if m["trade_id"] == 7]
        waited(following, lambda: following.store() or lost(following)["backfill"] is not None)
        assert "partly: trades: pages without an end" == lost(following)["backfill"].partition(";")[0]


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"Retry-After": "99999999999"}, "99,999,999,999"),
        ({"Retry-After": "3601"}, "3,601"),
        ({"Retry-After": "Sat, 03 Jan 2026 15:00:10 GMT"}, "86,4"),
        ({"X-RateLimit-Reset": "1767366000000000"}, "1,765,"),  # microseconds
    ],
)
def test_left_alone_for_long(
    alpaca: AlpacaExchange, follow, caplog: pytest.LogCaptureFixture, limits: dict, wanted: str
):
    """
    A history that wants to be left alone for more than an hour is asked for nothing meanwhile: the gaps say so, and the log.
    It is asked again behind that hour: it may have been a mistake.
    """
    feed = stocks(alpaca, history_address=alpaca.history_address, silence_s=1e9, wanted=("trades", "bars"))
    following = begun(follow(feed, **(QUIET | {"backfill_reach_s": 60.0})), alpaca)
    alpaca.faults, alpaca.limits = [429], limits
    waited(following, lambda: following.store() or following.gaps()[0]["backfill"] is not None)
    why = f"too many requests; it wants to be left alone for {wanted}"
    said = following.gaps()[0]["backfill"]
    assert said.startswith(f"not available: trades: {why}")
    assert f"; bars: {why}" in said
    assert 1 == len(alpaca.asked)
    (warned,) = [r for r in caplog.records if r.getMessage().startswith("history left alone")]
    assert ("WARNING", 3600.0) == (warned.levelname, warned.fields["again_in_s"])

    def again() -> dict[str, Any]:
        alpaca.drop()
        begin = len(following.gaps())
        waited(following, lambda: len(following.gaps()) > begin)
        waited(following, lambda: following.store() or following.gaps()[-1]["backfill"] is not None)
        return following.gaps()[-1]

    assert why in again()["backfill"]
    assert 1 == len(alpaca.asked)
    following.clock.pass_s(3600)
    assert "partly: corrections are not in the history" == again()["backfill"]
    assert 3 == len(alpaca.asked)


# ---- one request ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"null",
        b'{"trades":null}',
        b'{"message":"forbidden."}',
        b'{"symbol":"AAPL","next_page_token":null}',
        b'{"symbol":"AAPL","quotes":[]}',
        b'{"symbol":null,"trades":[]}',
        b'{"symbol":"MSFT","trades":[]}',
    ],
)
def test_no_answer_of_theirs(body: bytes):
    """What names another symbol or none, or lacks what was asked for, is no answer: nothing is known from it."""
    wanted = Wanted(symbol="AAPL", from_ns=0, to_ns=1)
    with pytest.raises(HistoryLostError):
        AlpacaHistory("iex", "http://127.0.0.1").page("trades", wanted, "http://127.0.0.1", {}, body)


@pytest.mark.parametrize("body", [b'{"symbol":"AAPL","trades":null}', b'{"symbol":"AAPL","trades":[]}'])
def test_an_empty_answer(body: bytes):
    """No trades at all is an answer, and the last page."""
    wanted = Wanted(symbol="AAPL", from_ns=0, to_ns=1)
    assert Page([], None, "") == AlpacaHistory("iex", "http://127.0.0.1").page("trades", wanted, "", {}, body)


@pytest.mark.parametrize(
    ("fault", "headers", "message", "wait_s"),
    [
        (429, {"Retry-After": "7"}, "too many requests", 7.0),
        (429, {"X-RateLimit-Reset": "1767366012"}, "too many requests", 12.0),
        (429, {"X-RateLimit-Reset": "1767366012000"}, "too many requests", 12.0),
        (429, {"X-RateLimit-Reset": "12"}, "too many requests", 12.0),
        (429, {"Retry-After": "Fri, 02 Jan 2026 15:02:00 GMT"}, "too many requests", 120.0),
        (503, {"Retry-After": "Friday, 02-Jan-26 15:02:00 GMT"}, "HTTP 503", 120.0),
        (503, {"Retry-After": "Fri Jan  2 15:02:00 2026"}, "HTTP 503", 120.0),
        (429, {"Retry-After": "Fri, 01 Jan 2021 00:00:00 GMT"}, "too many requests", 0.0),
        (429, {"Retry-After": "soon", "X-RateLimit-Reset": "1767366012"}, "too many requests", 12.0),
        (429, {"Retry-After": "Fri, 99 Jan 2021 00:00:00 GMT"}, "too many requests", 60.0),
        (429, {"Retry-After": "-1", "X-RateLimit-Reset": "1.5"}, "too many requests", 60.0),
        (429, {"Retry-After": "9" * 400}, "too many requests", float("inf")),
        (429, {}, "too many requests", 60.0),
        (502, {}, "HTTP 502", 0.0),
        (502, {"X-RateLimit-Reset": "86400"}, "HTTP 502", 0.0),
        ("cut", {}, "not reached: ProtocolError", 0.0),
        (403, {}, "not in this subscription", None),
        (404, {}, "no history", None),
        (302, {"Location": "/elsewhere"}, "refused (HTTP 302)", None),
        ("", {}, "an answer of more than 100 bytes", None),
    ],
)
def test_answers(coinbase: CoinbaseExchange, fault: int | str, headers: dict, message: str, wait_s: float | None):
    """Whether asking again helps, and from when on, is told by an answer's status and headers."""
    coinbase.publish(*(coinbase_match(n) for n in range(5)))
    coinbase.faults, coinbase.limits = [fault], headers
    fetcher = Fetcher(most_bytes=100 if fault == "" else 1 << 20, now_ns=lambda: 1_767_366_000_000_000_000)
    address = CoinbaseHistory(coinbase.history_address).first("trades", Wanted(symbol="BTC-USD", from_ns=0, to_ns=1))
    with pytest.raises(HistoryRefusedError if wait_s is None else HistoryLostError) as raised:
        fetcher.get(address, {})
    assert message in str(raised.value)
    assert wait_s == getattr(raised.value, "wait_s", None)


@pytest.mark.parametrize("last", [2000, 3])
def test_a_gap_that_counts_anew(coinbase: CoinbaseExchange, follow, last: int):
    """Of two counts nobody can say what lies between them: the history is not asked, and nothing is called done."""
    following = begun(follow(coins(coinbase), **QUIET), coinbase)
    coinbase.publish(coinbase_match(last))
    following.until(lambda: len(following.values("trades")) == 1)
    coinbase.drop()
    coinbase.last.clear()
    waited(following, lambda: bool(coinbase.subscribed()))
    coinbase.publish(coinbase_match(1))
    waited(following, lambda: following.store() or lost(following)["backfill"] is not None)
    assert "not available: the feed counts anew" == lost(following)["backfill"]
    assert (last, 1, None, False) == tuple(
        lost(following)[n] for n in ("last_sequence", "next_sequence", "missing", "filled")
    )
    assert not backfilled(following)


@pytest.mark.parametrize("value", [b"[1]", b"{}", b"{ }", b'"x"', b"1"])
def test_no_object_is_spliced(value: bytes):
    """What is no object with fields is no message."""
    with pytest.raises(HistoryLostError):
        spliced(b'{"T":"t",', value)


# ---- in a lake ------------------------------------------------------------------------------------------------


@contextmanager
def away(exchange: Exchange) -> Iterator[None]:
    """Nobody is connected while the block runs, however often somebody tries."""
    exchange.refuses = [503] * 10_000
    exchange.drop()
    yield
    exchange.refuses = []


@attrs.define(kw_only=True)
class Contested(FileStore):
    """Before the first segment with what was fetched another feed writes a trade of its own into the lake."""

    contested: bool = attrs.field(default=False, init=False)

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        fetched = key.startswith("coinbase.trades/partition=0/") and b"headrace.backfilled" in gzip.decompress(body)
        if fetched and not self.contested:
            self.contested = True
            self._write()
        return super().create(key, body, metadata)

    def _write(self) -> None:
        with CoinbaseExchange() as exchange:
            source = FeedSource(feed=products(exchange), run="another")
            sink = LakeSink(store=FileStore(root=self.root))
            running = Running(Pipeline(source=source, sink=sink, flush=FlushPolicy(age_s=0.05))).begin()
            exchange.wait_for_clients()
            exchange.publish(coinbase_match(1))
            until(lambda: [1, 1] == [v["trade_id"] for v in values(self.root, "coinbase.trades") if v["trade_id"] == 1])
            assert running.stop() is None


def run_with_outage(
    exchange: CoinbaseExchange, lake: Path, store: FileStore | None = None, after_s: float = 0.05
) -> None:
    """Follow it into a lake, with an outage of the trades 4 to 28, until the gap's record says what came of it."""
    source = FeedSource(
        feed=coins(exchange), reconnect_first_s=0.05, backfill_after_s=after_s, backfill_reach_s=0.0, run="r"
    )

    def settled(gap: dict[str, Any]) -> bool:
        return gap["cause"] == "broken off" and (gap["backfill"] or "not stored").find("not stored") < 0

    pipeline = Pipeline(
        source=source, sink=LakeSink(store=store or FileStore(root=lake)), flush=FlushPolicy(age_s=0.05)
    )
    running = Running(pipeline).begin()
    try:
        exchange.wait_for_clients()
        exchange.publish(*(coinbase_match(n) for n in (1, 2, 3)))
        until(lambda: source._supervisor.gaps._numbers.get("BTC-USD") == 3)
        with away(exchange):
            exchange.publish(*(coinbase_match(n) for n in range(4, 29)))
            exchange.last.clear()
        exchange.wait_for_clients()
        exchange.publish(*(coinbase_match(n) for n in range(29, 40)))
        until(lambda: any(settled(gap) for gap in values(lake, "coinbase.gaps")))
        exchange.publish(coinbase_match(40))  # an audit holds it to its word from the next record on
        until(lambda: source._supervisor.gaps._numbers.get("BTC-USD") == 40)
    finally:
        error = running.stop()
    assert error is None


@pytest.mark.parametrize("fault", ["none", "lost behind the exchange", "not kept"])
def test_the_audit_agrees(coinbase: CoinbaseExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str):
    """The deep audit finds each number of a gap that is said to be filled; one that was lost on its way it misses."""
    if fault == "lost behind the exchange":  # of each page the last record
        monkeypatch.setattr(
            "headrace.plugins.market.backfill.Chunk",
            lambda kind, ns, keys, values, headers, size: Chunk(kind, ns, keys[:-1], values[:-1], headers[:-1], size),
        )
    coinbase.faults = [404] if fault == "not kept" else []
    run_with_outage(coinbase, tmp_path)
    result = audit(f"file://{tmp_path}", stream="coinbase.trades", deep=True)
    (gap,) = [g for g in result.gaps if g.cause == "broken off"]
    expected = {
        "none": ("complete", "filled", 0),
        "lost behind the exchange": ("incomplete", "missing", 3),
        "not kept": ("complete", "missing", 25),
    }
    assert expected[fault] == (result.verdict, gap.state, gap.absent)
    refused = "not available: trades: no history (HTTP 404)"
    assert (refused if fault == "not kept" else "done") == gap.history


@pytest.mark.parametrize("mended", [True, False], ids=["as it is", "told by nobody"])
def test_the_audit_finds_what_was_displaced(
    coinbase: CoinbaseExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mended: bool
):
    """
    What another writer displaced in a lake is fetched again, and the gap is filled by the records, too.

    The negative control: where gaps stay as small as they were, the audit finds the numbers that no record has.
    """
    if not mended:
        monkeypatch.setattr(Gaps, "dropped", lambda _: {})
    run_with_outage(coinbase, tmp_path, Contested(root=tmp_path), after_s=1.0)  # what came live is stored by then
    result = audit(f"file://{tmp_path}", stream="coinbase.trades", deep=True)
    (gap,) = [g for g in result.gaps if g.cause == "broken off"]
    assert (("complete", "filled") if mended else ("incomplete", "missing")) == (result.verdict, gap.state)
    assert "done" == gap.history


@pytest.mark.parametrize("locked", [True, False], ids=["as it is", "without the lock"])
def test_less_is_said_behind_what_came(
    coinbase: CoinbaseExchange, follow, monkeypatch: pytest.MonkeyPatch, locked: bool
):
    """
    A message that comes late, and the revision by which its gap is smaller, are one step: whoever settles another gap meanwhile
    finds both or none to write. Else the gap is told as filled, and a kill takes what it was filled with.

    The negative control: with a lock of his own he writes the revision, and nothing holds it back until the message is stored.
    """
    following = begun(follow(coins(coinbase), backfill_after_s=1e6, **QUIET), coinbase)
    coinbase.publish(*(coinbase_match(n) for n in (1, 2, 4)))
    following.until(lambda: len(following.values("trades")) == 3)
    following.store()
    backfill = following.source._supervisor._backfill
    if not locked:
        backfill.lock = threading.Lock()
    settling = threading.Thread(target=backfill._filled, args=[Missing("another", "*", "of a test", 1, 2)])
    put = Backlog.put

    def meanwhile(backlog: Backlog, chunks: list[Chunk]) -> None:
        if chunks[0].kind == "trades":
            settling.start()
            settling.join(0.3)
            until(lambda: not len(backlog))  # what he has written is taken before the message is there
        put(backlog, chunks)

    def missing() -> list[int]:
        return [g["missing"] for g in following.gaps() if g["cause"] == "numbers are missing"]

    monkeypatch.setattr(Backlog, "put", meanwhile)
    coinbase.publish(coinbase_match(3))
    following.until(lambda: len(following.values("trades")) == 4)
    settling.join(10)
    following.until(lambda: "another" in {g["id"] for g in following.gaps()} or locked)
    for _ in range(5):
        following.poll()
    assert missing() == ([1] if locked else [0])
    following.store()
    following.until(lambda: missing() == [0] and "another" in {g["id"] for g in following.gaps()})


# ---- killed ---------------------------------------------------------------------------------------------------


@pytest.mark.kill
def test_killed_in_the_middle(tmp_path: Path):
    """
    A process that is killed while it fetches begins again: what came twice is one row, and the audit finds its gap filled.

    Whatever the first one had fetched lies in bronze twice: that is what the contract's key is for.
    """
    lake, silver = f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/silver.duckdb?table=trades"
    with CoinbaseExchange(keeps=True, page=10) as exchange:

        def sent(*numbers: int) -> None:
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            exchange.publish(*(coinbase_match(n, time=now) for n in numbers))

        def gaps() -> list[dict[str, Any]]:
            return values(tmp_path / "lake", "coinbase.gaps")

        def asked_for() -> set[str]:
            """The gaps before a process began, as far as they were fetched and that is stored."""
            return {g["id"] for g in gaps() if "partly: from" in (g["backfill"] or "")}

        waits = "reconnect_first_s=0.05&backfill_after_s=0.05&producer=p"
        feed = f"coinbase://BTC-USD?address={exchange.address}&history_address={exchange.history_address}&{waits}"
        command = [sys.executable, "-m", "headrace", "stream", feed, lake, "--flush-age", "50ms"]
        with process(command) as first:
            exchange.wait_for_clients()
            sent(*range(1, 21))
            until(lambda: len(values(tmp_path / "lake", "coinbase.trades")) >= 20)
            # what was before it began was asked for, and that is stored: else it may be killed before it is
            until(lambda: len(asked_for()) == 1, gaps)
            exchange.faults = ["", "", "hold"]
            with away(exchange):
                sent(*range(21, 61))
            exchange.wait_for_clients()
            sent(61)
            until(lambda: len(values(tmp_path / "lake", "coinbase.trades")) >= 31)
            first.kill()
        exchange.held.set()
        with process(command) as second:
            exchange.wait_for_clients()
            sent(62)
            until(lambda: len(asked_for()) == 2, gaps)
            second.terminate()
            assert 0 == second.wait(30)
    numbers = [value["trade_id"] for value in values(tmp_path / "lake", "coinbase.trades")]
    assert set(range(1, 63)) == set(numbers)
    assert len(numbers) >= 62 + 20 + 10  # what the first run had received and fetched
    registry = Registry.discover()
    Load(chain=Chain.open(registry.store(lake), "coinbase.trades"), loader=registry.loader(silver, CoinbaseTrade)).run()
    with duckdb.connect(f"{tmp_path}/silver.duckdb") as connection:
        rows = connection.execute("SELECT id, sequence > 0 FROM trades_current ORDER BY id").fetchall()
    assert list(range(1, 63)) == [number for number, _ in rows]
    live = [
        *range(1, 21),
        60,
        61,
        62,
    ]  # 60 was sent again, to whom came back; what came live hides what the history has
    assert live == [number for number, sequenced in rows if sequenced]
    result = audit(lake, silver, stream="coinbase.trades", contract=CoinbaseTrade, deep=True)
    assert ("complete", ["filled"]) == (result.verdict, [g.state for g in result.gaps if g.cause == "broken off"])


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            yield child
        finally:
            child.kill()

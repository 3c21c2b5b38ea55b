"""Feeds by URI and by description, in a pipeline, and New York's calendar."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from market_following import Running, until
from websockets.sync.server import ServerConnection

from headrace.cli.app import run
from headrace.commit import Holding
from headrace.contract import Contract
from headrace.errors import ConfigError, DataError, SinkUnavailableError
from headrace.flush import FlushPolicy
from headrace.logs import redacted
from headrace.pipeline import Pipeline
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market.alpaca import Alpaca, AlpacaSource
from headrace.plugins.market.coinbase import CoinbaseSource
from headrace.plugins.market.contracts import Gap
from headrace.plugins.market.environment import shown
from headrace.plugins.market.gaps import moment
from headrace.plugins.market.json_feed import JsonFeed, JsonFeedSource
from headrace.plugins.market.sessions import is_open, opened
from headrace.plugins.market.source import FeedSource
from headrace.plugins.market.venues import AlpacaBar, AlpacaQuote, AlpacaTrade, CoinbaseQuote, CoinbaseTrade
from headrace.records import Extent, Identity, Partition, Position
from headrace.registry import Registry
from headrace.rows import Rejected, row
from headrace.sink import Sink
from headrace.status.look import Look
from headrace.testing.servers.exchange import (
    AlpacaExchange,
    CoinbaseExchange,
    PlainExchange,
    alpaca_trade,
    coinbase_match,
)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "secret")


# ---- by URI ---------------------------------------------------------------------------------------------------


def test_uris(tmp_path: Path):
    """A feed, its symbols and its settings are one line of text; symbols may stand in a file."""
    registry = Registry.discover()
    stocks = registry.source("alpaca://sip/AAPL,MSFT?kinds=trades,quotes&silence_s=30s&queue_bytes=1MiB&producer=a")
    assert isinstance(stocks, AlpacaSource)
    assert Alpaca(symbols=("AAPL", "MSFT"), feed="sip", wanted=("trades", "quotes"), silence_s=30.0) == stocks.feed
    assert (1 << 20, "a", "wss://stream.data.alpaca.markets/v2/sip") == (
        stocks.queue_bytes,
        stocks.producer,
        stocks.feed.url(),
    )
    streams = [f"alpaca.sip.{kind}" for kind in ("trades", "corrections", "quotes", "other", "gaps")]
    assert streams == [p.stream for p in stocks.extents()]
    assert [("AAPL",), ("FAKEPACA",)] == [registry.source(f"alpaca://{u}").feed.symbols for u in ("iex", "test")]
    (tmp_path / "symbols").write_text("# tech\nMSFT\n\nAAPL\nNVDA\n")
    listed = registry.source(f"alpaca://iex/AAPL?symbols_file={tmp_path}/symbols")
    assert ("AAPL", "MSFT", "NVDA") == listed.feed.symbols
    assert (True, "https://data.alpaca.markets") == (stocks.backfill, stocks.feed.history().address)
    coins = registry.source("coinbase://BTC-USD,ETH-USD?stream=coins&backfill=false&address=ws://127.0.0.1:1")
    assert (False, None) == (coins.backfill, coins.feed.history())  # no other server's past is asked for
    assert isinstance(coins, CoinbaseSource)
    assert ["coins.trades", "coins.other", "coins.gaps"] == [p.stream for p in coins.extents()]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("alpaca://nyse/AAPL", "'iex', 'sip'"),
        ("alpaca://key:secret@iex/AAPL", "found a user or a password in alpaca://.* APCA_API_KEY_ID"),
        ("coinbase://key:secret@BTC-USD", "found a user or a password in coinbase://"),
        ("coinbase://key@BTC-USD", "found a user or a password in coinbase://"),
        ("websocket://key:secret@/feed.toml", "found a user or a password in websocket://"),
        ("coinbase://BTC-USD?stream=my/coins", "'coinbase': found the name 'my/coins' of a stream, expected 1 to 249"),
        ("alpaca://iex/AAPL?kinds=books", "kinds=books, expected some of trades, quotes, bars"),
        ("alpaca://iex/AAPL?feed=sip", "no setting 'feed'"),
        ("coinbase://?kinds=trades", "found no symbol"),
        ("coinbase://BTC-USD?symbols_file=/nowhere", "/nowhere cannot be read"),
        ("websocket://feed.toml", "three slashes"),
        ("websocket:///nowhere.toml", "cannot be read"),
    ],
)
def test_wrong_uri(uri: str, message: str):
    """A wrong setting is told before anything is connected to, in words of which none is taken for a secret."""
    with pytest.raises(ConfigError, match=message) as told:
        Registry.discover().source(uri)
    assert str(told.value) == redacted(str(told.value))


# ---- by description -------------------------------------------------------------------------------------------

DESCRIBED = """
name = "finnhub"
address = "ADDRESS/?token=${FINNHUB_TOKEN}"
symbols = ["AAPL"]
send = ['{"type":"subscribe","symbol":"{symbol}"}']
kind = "type"
items = "data"
symbol = "s"
streams = {trade = "trades"}
control = ["subscribed"]
replies = {ping = '{"type":"pong"}'}
lost = ["error"]
http = {X-Token = "${FINNHUB_TOKEN}"}
heartbeat_s = 90.0
"""


def test_described_feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A feed that nobody wrote a plugin for: its envelopes, symbols, pings and keys are said in fourteen lines."""
    monkeypatch.setenv("FINNHUB_TOKEN", "sesame")
    with PlainExchange() as exchange:
        (tmp_path / "feed.toml").write_text(DESCRIBED.replace("ADDRESS", exchange.address))
        source = Registry.discover().source(f"websocket://{tmp_path}/feed.toml?symbols=AAPL,MSFT")
        assert isinstance(source, JsonFeedSource)
        assert "sesame" not in repr(source)
        feed = source.feed
        assert (exchange.address + "/?token=sesame", {"X-Token": "sesame"}) == (feed.url(), feed.headers())
        assert exchange.address + "/" == feed.safe_url
        words = ['{"type":"subscribe","symbol":"AAPL"}', '{"type":"subscribe","symbol":"MSFT"}']
        assert words == list(feed.dialogue().begin().replies)
        heard = feed.dialogue().hear(b'{"data":[{"p":1.50,"s":"AAPL"} , {"s":"MSFT"}],"type":"trade"}')
        (messages,) = heard.messages
        assert ("trades", [b'{"p":1.50,"s":"AAPL"}', b'{"s":"MSFT"}'], ["AAPL", "MSFT"], None) == (
            messages.kind,
            messages.values,
            messages.symbols,
            messages.numbers,
        )
        assert (['{"type":"pong"}'], []) == (
            (ping := feed.dialogue().hear(b'{"type":"ping"}')).replies,
            list(ping.messages),
        )
        assert "other" == feed.dialogue().hear(b'{"type":"news"}').messages[0].kind
    monkeypatch.delenv("FINNHUB_TOKEN")
    assert [("wrong", "FINNHUB_TOKEN"), ("fine", "feed")] == [(f.state, f.subject) for f in source.check()]
    with pytest.raises(ConfigError, match="FINNHUB_TOKEN is not in the environment"):
        source.feed.url()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nme = 'x'", "found nme, expected some of address, control"),
        ("name = 'x'\naddress = 'http://x'\nsymbols = ['A']", "expected ws://"),
        ("name = 'x'\naddress = 'ws://x'", "found no symbols"),
        ("name = 'x'\naddress = 'ws://x'\nsymbols = ['A']\nkind = 'k'\nstreams = {a = 'gaps'}", "the source's own"),
        ("name = ", "expected TOML"),
        ("symbols = 'AAPL'", "found symbols of type str, expected a list of texts"),
        ("symbols = ['A', 1]", "expected a list of texts"),
        ("send = '{}'", "found send of type str, expected a list of texts"),
        ("control = 'beat'", "expected a list of texts"),
        ("streams = ['trade']", "expected a table of texts"),
        ("silence_s = '300'", "found silence_s of type str, expected seconds"),
        ("heartbeat_s = 0", "expected seconds, more than 0"),
        ("address = 5", "found address of type int, expected a text"),
        ("address = 'ws://x'\nsymbols = ['A']", "feed.toml: found no name, expected name and address at the least"),
        ("symbols = ['A']", "found no name and no address"),
    ],
)
def test_wrong_description(tmp_path: Path, wrong: str, message: str):
    """A description that cannot be meant is told where it is written."""
    (tmp_path / "feed.toml").write_text(wrong)
    with pytest.raises(ConfigError, match=message):
        JsonFeed.read(tmp_path / "feed.toml")


class LineExchange(PlainExchange):
    """As a server is that speaks no JSON."""

    def _said(self, connection: ServerConnection) -> Iterator[Any]:
        for words in connection:
            with self._changed:
                self.heard.append(words)
            yield words


def test_feed_in_python(tmp_path: Path):
    """
    The documentation's feed of two classes runs as it stands there. Its gap lasts until the first message, however long the
    exchange takes to read what it is asked for: what it sent before went to nobody.
    """
    page = (Path(__file__).parents[2] / "docs/pages/feeds.md").read_text(encoding="utf-8")
    blocks = [text for text in page.split("```python\n") if "LineFeed" in text or "Pipeline(" in text]
    with LineExchange() as exchange:
        exchange.reading.clear()
        space: dict[str, Any] = {"__name__": "page"}
        for text in blocks:
            block = text.partition("```")[0].replace("wss://example.org/lines", exchange.address)
            exec(block.replace(":///lake", f"://{tmp_path}"), space)
        pipeline: Pipeline = space["pipeline"]
        running = Running(pipeline).begin()
        until(lambda: pipeline.source.unanswered() == "")
        exchange.reading.set()
        exchange.wait_for_clients()
        for line in (b"1", b"2"):
            exchange.send(line)
        until(lambda: pipeline.progress.records == 4)  # with a gap's two revisions
        assert running.stop() is None
    found = lines(tmp_path, "lines.lines")
    assert ([1, 2], ["SUBSCRIBE A"]) == ([line["value"] for line in found], exchange.heard)
    (received,) = {h["value"] for h in found[0]["headers"] if h["key"] == "headrace.received_ns"}
    begun = [line["value"] for line in lines(tmp_path, "lines.gaps") if line["value"]["cause"] == "started"]
    assert [None, moment(int(received))] == [gap["to"] for gap in begun]


@pytest.mark.parametrize(
    ("name", "streams", "message"),
    [
        ("", "trades", "found the name '' of a stream"),
        ("a b/c", "trades", "found the name 'a b/c' of a stream, expected 1 to 249 letters, digits"),
        ("mine", "my/trades", "found the name 'mine.my/trades'"),
        ("mine", "t" * 245, "found the name 'mine.ttt"),
    ],
)
def test_name_that_no_topic_may_have(tmp_path: Path, name: str, streams: str, message: str):
    """A name of which no topic can be made is told when the description is read, not by a broker."""
    (tmp_path / "feed.toml").write_text(
        f"name = '{name}'\naddress = 'ws://x'\nsymbols = ['A']\nkind = 'k'\nstreams = {{t = '{streams}'}}"
    )
    with pytest.raises(ConfigError, match=message):
        Registry.discover().source(f"websocket://{tmp_path}/feed.toml")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("wss://stream.example.com:9443/ws/btcusdt@trade", "wss://stream.example.com:9443/ws/btcusdt@trade"),
        ("wss://stream.example.com/stream?streams=a@trade/b@trade", "wss://stream.example.com/stream"),
        ("wss://h", "wss://h"),
        ("wss://h/${KEY}/x@y", "wss://h/${KEY}/x@y"),
        ("wss://h:${PORT}/a@b", "wss://h:${PORT}/a@b"),
        ("wss://[::1]:80/a@b", "wss://[::1]:80/a@b"),
        ("wss://h/a:b@c", "wss://h/a:b@c"),
        ("wss://u:p@h/x?k=1", "wss://h/x"),
        ("WSS://u:p@h/x", "WSS://h/x"),
        ("u:p@h/x", "h/x"),
        ("wss://u:p@h:80/a@b", "wss://h:80/a@b"),
        ("wss://u:p@h", "wss://h"),
        ("wss://u:p@ss@h/x", "wss://h/x"),
        ("wss://${USER}:${PASSWORD}@h/x", "wss://h/x"),
        ("wss://h?x=a@b", "wss://h"),
        ("wss://h#a@b", "wss://h"),
        ("wss://h:80?x=a@b", "wss://h:80"),
        ("wss://u:p/q@h/x", "wss://***"),
        ("wss://u:p?q@h/x?y=a@b", "wss://***"),
        ("wss://u:p#q@h/x", "wss://***"),
        ("wss://u:/p@h/x", "wss://***"),
        ("wss://u:1:p/q@h/x", "wss://***"),
        ("u:p/q@h/x", "***"),
    ],
)
def test_address_as_it_is_shown(address: str, expected: str):
    """Neither a user nor a password nor a query is shown, also where the password is not written right; a path with '@' is."""
    assert expected == shown(address)


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("where", ["127.0.0.1:99999", "127.0.0.1:abc", "[::1", "127.0.0.1:-1"])
def test_address_that_is_none(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An address that nobody can connect to is a wrong setting, in a description as in a URI, and is shown without secrets."""
    monkeypatch.setenv("MINE_TOKEN", "sesame")
    (tmp_path / "feed.toml").write_text(
        f"name = 'mine'\naddress = 'ws://me:open@{where}/x?token=${{MINE_TOKEN}}'\nsymbols = ['A']"
    )
    at = quote(f"ws://me:open@{where}/x?token=sesame", safe="")
    for source in (
        f"websocket://{tmp_path}/feed.toml",
        f"coinbase://BTC-USD?address={at}",
        f"alpaca://iex/A?address={at}",
    ):
        assert 2 == run(["stream", source, f"file://{tmp_path}/lake"])
        told = "".join(capsys.readouterr())
        assert f"found the address 'ws://{where}/x" in told.replace("\n", "")
        assert "expected ws://HOST" in told.replace("\n", " ")
        assert not any(secret in told for secret in ("sesame", "me:open", "Traceback"))
    assert not (tmp_path / "lake").exists() or not list((tmp_path / "lake").glob("*.gaps/partition=0/*"))


# ---- contracts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "value", "wrong"),
    [
        (
            AlpacaTrade,
            json.dumps(alpaca_trade(1)).encode(),
            b'{"T":"x","S":"GOOGL","i":465,"x":"D","p":105.31,"s":300}',
        ),
        (
            AlpacaQuote,
            b'{"T":"q","S":"AMD","bx":"K","bp":91.95,"bs":2,"ax":"Q","ap":91.98,"as":1,"c":["R"],"z":"C","t":"2023-04-06T11:54:26.838232225Z"}',
            b'{"T":"q","S":"AMD"}',
        ),
        (
            AlpacaBar,
            b'{"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,"vw":389.062639,"t":"2021-02-22T19:15:00Z"}',
            b'{"T":"b","S":"SPY","o":2,"h":1,"l":1,"c":1,"v":1,"n":1,"t":"2021-02-22T19:15:00Z"}',
        ),
        (CoinbaseTrade, json.dumps(coinbase_match(1)).encode(), b'{"type":"match","price":"1"}'),
        (
            CoinbaseQuote,
            b'{"type":"ticker","sequence":37475248783,"product_id":"ETH-USD","price":"1285.22","best_bid":"1285.04","best_bid_size":"0.46688654","best_ask":"1285.27","best_ask_size":"1.56637040","time":"2022-10-19T23:28:22.061769Z","trade_id":370843401}',
            b'{"type":"ticker"}',
        ),
        (
            Gap,
            b'{"id":"p-1","revision":1,"feed":"coinbase","producer":"p","symbol":"BTC-USD","from":null,"to":"2026-01-02T15:00:00.000000000Z","last_sequence":null,"next_sequence":null,"missing":null,"cause":"started","filled":false}',
            b"{}",
        ),
    ],
    ids=["trade", "quote", "bar", "match", "ticker", "gap"],
)
def test_contracts_take_what_feeds_send(kept: type, value: bytes, wrong: bytes):
    """The built-in contracts take messages as the exchanges document them, and not others."""
    assert not isinstance(row(Contract.of(kept), value), Rejected)
    assert isinstance(row(Contract.of(kept), wrong), Rejected)


# ---- in a pipeline --------------------------------------------------------------------------------------------


@pytest.fixture
def exchange() -> Iterator[CoinbaseExchange]:
    with CoinbaseExchange() as made:
        yield made


def coins(exchange: CoinbaseExchange, **settings) -> FeedSource:
    return Registry.discover().source(
        f"coinbase://BTC-USD?address={exchange.address}" + "".join(f"&{n}={v}" for n, v in settings.items())
    )


def lines(lake: Path, stream: str) -> list[dict]:
    """What a lake holds of a stream, by hand."""
    found = [
        json.loads(line)
        for path in sorted(lake.glob(f"{stream}/partition=0/*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert list(range(len(found))) == [line["offset"] for line in found]
    return found


def test_feed_into_a_lake(exchange: CoinbaseExchange, tmp_path: Path):
    """Run after run the offsets go on; what was received is stored when a run is stopped, and the time between is a gap."""
    for number in range(2):
        source = coins(exchange, producer="p")
        sink = LakeSink(store=FileStore(root=tmp_path))
        running = Running(Pipeline(source=source, sink=sink, flush=FlushPolicy(age_s=0.05))).begin()
        exchange.wait_for_clients()
        exchange.publish(*(coinbase_match(n) for n in range(1 + 100 * number, 101 + 100 * number)))
        exchange.wait(lambda: bool(exchange._open))
        while source._supervisor.gaps._numbers.get("BTC-USD") != 100 * number + 100:
            threading.Event().wait(0.01)
        assert running.stop() is None
    trades = lines(tmp_path, "coinbase.trades")
    assert [*range(1, 101), 100, *range(101, 201)] == [line["value"]["trade_id"] for line in trades]
    gaps = {g["id"]: g for g in (line["value"] for line in lines(tmp_path, "coinbase.gaps"))}
    assert ["started", "stopped", "started", "stopped"] == [g["cause"] for g in gaps.values()]
    assert {"p"} == {gap["producer"] for gap in gaps.values()}  # and no id is used twice
    assert [False, True, False, True] == [gap["from"] is not None for gap in gaps.values()]


def test_refused_and_run_again(exchange: CoinbaseExchange, tmp_path: Path):
    """A run that was refused is told by `headrace status`, until another one brings the feed: neither has a name."""
    store = FileStore(root=tmp_path)
    exchange.refuses = [401]
    refused = Running(Pipeline(source=coins(exchange), sink=LakeSink(store=store))).begin()
    refused.thread.join(20)
    assert isinstance(refused.stop(), ConfigError)
    (problem,) = Look(store=store)().problems
    assert "coinbase is not heard since its producer began (started, then refused): BTC-USD" == problem.what
    running = Running(
        Pipeline(source=coins(exchange), sink=LakeSink(store=store), flush=FlushPolicy(age_s=0.05))
    ).begin()
    until(lambda: len(lines(tmp_path, "coinbase.gaps")) == 4)  # open and ended
    found = Look(store=store)()
    assert ([], 0) == (list(found.problems), found.exit_code)
    assert running.stop() is None


def as_of_a_log(holding: Holding, found: Position, **_: bool) -> str:
    """Take what is found where a draft ends for that draft, as is right where the same offset is the same record."""
    return LOOKED_UP(holding, found)


LOOKED_UP = Holding.looked_up


@pytest.mark.parametrize("looked_up", [LOOKED_UP, as_of_a_log])
def test_two_processes_into_one_lake(
    exchange: CoinbaseExchange, tmp_path: Path, looked_up: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """
    Both hear all, and where both held just as many one is refused (B26): what it does not store lies in a gap of its own.

    A feed's offsets are its process's own: with the rule for logs it takes the other's records for its own, and nobody tells.
    """
    monkeypatch.setattr(Holding, "looked_up", looked_up)
    sources = {name: coins(exchange, producer=name) for name in "ab"}
    flush = FlushPolicy(records=1)
    runs = [
        Running(Pipeline(source=source, sink=LakeSink(store=FileStore(root=tmp_path)), flush=flush)).begin()
        for source in sources.values()
    ]
    exchange.wait_for_clients(2)
    sent: dict[int, tuple[str, str]] = {}
    for n in range(1, 61):
        before = datetime.now(UTC)
        exchange.publish(coinbase_match(n))
        until(lambda n=n: all(s._supervisor.gaps._numbers.get("BTC-USD") == n for s in sources.values()))
        sent[n] = iso(before), iso(datetime.now(UTC) + timedelta(milliseconds=1))
    assert [None, None] == [run.stop() for run in runs]
    trades, gaps = lines(tmp_path, "coinbase.trades"), lines(tmp_path, "coinbase.gaps")
    untold = refused = 0
    for name in sources:
        stored = {t["value"]["trade_id"] for t in trades if connection(t).startswith(f"{name}.")}
        told = [g["value"] for g in gaps if g["value"]["producer"] == name and "not stored" in g["value"]["cause"]]
        refused += len(sent.keys() - stored)
        for before, after in (sent[n] for n in sent.keys() - stored):
            untold += not any(g["from"] <= after and before <= g["to"] for g in told)
    assert refused
    assert (looked_up is as_of_a_log) == bool(untold), (refused, untold)


def connection(line: dict[str, Any]) -> str:
    return next(h["value"] for h in line["headers"] if h["key"] == "headrace.connection")


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class Refusing(Sink):
    """Takes no record of one stream."""

    def __init__(self, inner: Sink, stream: str) -> None:
        self.inner, self.stream = inner, stream

    def bind(self, extents):
        return self.inner.bind(extents)

    def positions(self, hints):
        return self.inner.positions(hints)

    def draft(self, partition: Partition, position: int, buffer_bytes: int):
        if partition.stream == self.stream:
            raise DataError("not this one")
        return self.inner.draft(partition, position, buffer_bytes)


def test_stopped_partition_ends_the_run(exchange: CoinbaseExchange, tmp_path: Path):
    """A stream of a feed that cannot be stored ends the run, which says why: the others are stored before."""
    sink = Refusing(LakeSink(store=FileStore(root=tmp_path)), "coinbase.trades")
    running = Running(Pipeline(source=coins(exchange), sink=sink)).begin()
    exchange.wait_for_clients()
    exchange.publish(coinbase_match(1))
    assert running.thread is not None
    running.thread.join(30)
    assert isinstance(running.error, DataError)
    assert ["started", "started", "stopped"] == [line["value"]["cause"] for line in lines(tmp_path, "coinbase.gaps")]


class Away(FileStore):
    """A folder in which a stream cannot be stored while *away* is set."""

    def __init__(self, root: Path, stream: str) -> None:
        super().__init__(root=root)
        self.stream, self.away = stream, threading.Event()

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if self.away.is_set() and key.startswith(f"{self.stream}/"):
            raise SinkUnavailableError("away")
        return super().create(key, body, metadata)


def into(store: FileStore, feed: FeedSource, **more: Any) -> Running:
    return Running(Pipeline(source=feed, sink=LakeSink(store=store), flush=FlushPolicy(age_s=0.05), **more)).begin()


def ids(lake: Path) -> list[int]:
    return [line["value"]["trade_id"] for line in lines(lake, "coinbase.trades")]


def test_stopped_while_the_sink_is_away(exchange: CoinbaseExchange, tmp_path: Path):
    """What a feed had sent when it was stopped, and the sink did not take, ends the run with an error: it is gone."""
    store = Away(tmp_path, "coinbase.trades")
    running = into(store, coins(exchange), release_timeout_s=0.5)
    exchange.wait_for_clients()
    exchange.publish(coinbase_match(1))
    until(lambda: ids(tmp_path) == [1])
    store.away.set()
    exchange.publish(coinbase_match(2), coinbase_match(3))
    until(lambda: running.pipeline.progress.records >= 5)  # with two gap records
    error = running.stop()
    assert isinstance(error, SinkUnavailableError)
    assert "2 records or more were received and are not stored" in str(error)


def test_a_gap_is_stored_before_what_follows_it_at_the_end_too(exchange: CoinbaseExchange, tmp_path: Path):
    """Where a gap could not be stored at the end, nothing behind it is: the next run's first gap begins before it."""
    store = Away(tmp_path, "coinbase.gaps")
    running = into(store, coins(exchange), release_timeout_s=0.5)
    exchange.wait_for_clients()
    exchange.publish(coinbase_match(1))
    until(lambda: ids(tmp_path) == [1] and lines(tmp_path, "coinbase.gaps")[-1]["value"]["to"] is not None)
    store.away.set()
    exchange.publish(coinbase_match(5))
    until(lambda: len(running.pipeline.source._held) == 1)  # behind the gap of 2 to 4
    assert isinstance(running.stop(), SinkUnavailableError)
    assert [1] == ids(tmp_path)


def test_stopped_in_a_pause(exchange: CoinbaseExchange, tmp_path: Path):
    """What waits while the memory is full is stored at the end as all else is, when the sink takes it again."""
    store = Away(tmp_path, "coinbase.trades")
    feed = attrs.evolve(coins(exchange), queue_bytes=200_000)
    running = into(store, feed, memory_bytes=500_000)
    exchange.wait_for_clients()
    store.away.set()
    sent = 0
    while not (running.pipeline._paused and len(feed._backlog) > 100):
        exchange.publish(*(coinbase_match(sent := sent + 1) for _ in range(100)))
        threading.Event().wait(0.005)
    threading.Timer(0.5, store.away.clear).start()
    assert running.stop() is None
    assert list(range(1, sent + 1)) == ids(tmp_path)
    assert "stopped" == lines(tmp_path, "coinbase.gaps")[-1]["value"]["cause"]


def test_a_feed_has_no_end(exchange: CoinbaseExchange, tmp_path: Path):
    """A bounded run of a feed would never end, and is refused before it begins."""
    with pytest.raises(ConfigError, match="a live feed has none"):
        Pipeline(source=coins(exchange), sink=LakeSink(store=FileStore(root=tmp_path)), until_end=True)


def test_identity_is_the_same_every_time(exchange: CoinbaseExchange):
    """A feed is the same stream in every run: a lake that is pinned to it takes it again."""
    first, second = (coins(exchange).extents() for _ in range(2))
    assert first == second
    assert Identity("feed", "coinbase.trades", "read_committed", 1) == first[Partition("coinbase.trades", 0)].identity
    assert isinstance(first[Partition("coinbase.gaps", 0)], Extent)


# ---- New York -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-02T14:29:59", False),
        ("2026-01-02T14:30:00", True),
        ("2026-01-02T20:59:59", True),
        ("2026-01-02T21:00:00", False),
        ("2026-01-03T15:00:00", False),  # Saturday
        ("2026-01-01T15:00:00", False),  # New Year
        ("2026-04-03T15:00:00", False),  # Good Friday
        ("2026-07-03T15:00:00", False),  # the Fourth is a Saturday
        ("2026-11-27T17:59:59", True),  # the day after Thanksgiving closes at 13:00
        ("2026-11-27T18:00:00", False),
        ("2026-12-24T17:30:00", True),
        ("2026-12-24T18:30:00", False),
        ("2026-03-06T14:29:00", False),  # winter time still
        ("2026-03-09T13:30:00", True),  # summer time: an hour earlier in UTC
        ("2026-03-09T13:29:59", False),
        ("2026-10-30T13:30:00", True),
        ("2026-11-02T13:30:00", False),  # winter time again
        ("2026-11-02T14:30:00", True),
        ("2026-01-03T02:00:00", False),  # Friday evening in New York, Saturday in UTC
    ],
)
def test_hours(moment: str, expected: bool):
    """Regular hours by New York's clock and the exchange's calendar: weekends, holidays, half days, both changes of the clock."""
    assert expected == is_open(datetime.fromisoformat(moment).replace(tzinfo=UTC))


def test_opening():
    """The opening is told in UTC, and none outside of hours."""
    assert datetime(2026, 3, 9, 13, 30, tzinfo=UTC) == opened(datetime(2026, 3, 9, 19, 0, tzinfo=UTC))
    assert opened(datetime(2026, 3, 8, 19, 0, tzinfo=UTC)) is None


def test_exchange_refuses_another_key(monkeypatch: pytest.MonkeyPatch):
    """The negative control of the exchange itself: another key is refused by it."""
    monkeypatch.setenv("APCA_API_KEY_ID", "another")
    with AlpacaExchange() as exchange:
        source = AlpacaSource(feed=Alpaca(address=exchange.address))
        source._thread = threading.Thread(target=source._supervisor.run)
        source._thread.start()
        source._thread.join(20)
        assert isinstance(source._supervisor.error, ConfigError)

"""Live feeds against an exchange on this machine: what comes is kept to the byte, what may be missing is a gap record."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest
from market_following import Clock, Following, begun, products, stocks, until

from headrace.errors import ConfigError, PluginError
from headrace.plugins.market.alpaca import Alpaca
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.feed import Dialogue, Feed, FeedLostError, FeedRefusedError, Heard, Messages
from headrace.plugins.market.gaps import Gaps
from headrace.plugins.market.json_feed import JsonFeed
from headrace.records import Partition, Start
from headrace.testing.servers.exchange import (
    AlpacaExchange,
    CoinbaseExchange,
    Exchange,
    PlainExchange,
    alpaca_trade,
    coinbase_match,
)


@pytest.fixture
def alpaca() -> Iterator[AlpacaExchange]:
    with AlpacaExchange() as exchange:
        yield exchange


@pytest.fixture
def coinbase() -> Iterator[CoinbaseExchange]:
    with CoinbaseExchange() as exchange:
        yield exchange


@pytest.fixture
def plain() -> Iterator[PlainExchange]:
    with PlainExchange() as exchange:
        yield exchange


def any_feed(exchange: Exchange, **more: Any) -> JsonFeed:
    given = {
        "name": "any",
        "symbols": ("A", "B"),
        "send": ('{"follow":{symbols}}',),
        "symbol": "s",
        "shown_by": "ping",
        **more,
    }
    return JsonFeed(address=exchange.address, **given)


# ---- what is kept ---------------------------------------------------------------------------------------------


def test_messages_are_kept_to_the_byte(alpaca: AlpacaExchange, follow):
    """A record is a message exactly as it stands in its frame; key, time and headers say of what, when, where and as which."""
    following = begun(follow(stocks(alpaca, "AAPL", "MSFT")), alpaca)
    odd = b'{"T":"t" , "S":"MSF\\u0054","p":1.50,"p":2, "x":{"y":[1,{}]}}'
    quote, bar = b'{"T":"q","S":"AAPL","bp":1}', b'{"T":"u","S":"AAPL","n":2}'
    cancel, new = b'{"T":"x","S":"AAPL","i":1}', b'{"T":"zz","S":"AAPL"}'
    following.clock.pass_s(1)
    alpaca.send(b"[ " + b" ,\n".join([odd, quote, bar, cancel, new]) + b" ]")
    following.until(lambda: all(following.values(k) for k in ("trades", "quotes", "bars", "corrections", "other")))
    assert [[odd], [quote], [bar], [cancel], [new]] == [
        following.values(k) for k in ("trades", "quotes", "bars", "corrections", "other")
    ]
    (trade,) = following.said["trades"]
    assert (0, b"MSFT", "create") == (trade.offset, trade.key, trade.timestamp_type)
    received = following.clock.ns()
    assert received // 1_000_000 == trade.timestamp_ms
    assert {
        "headrace.received_ns": b"%d" % received,
        "headrace.connection": b"p-1",
        "headrace.sequence": b"1",
    } == dict(trade.headers)


def test_numbered_as_they_stand_in_the_frame(plain: PlainExchange, follow):
    """Records of a connection are numbered in the order of its frames over all kinds, and what is not kept has no number."""
    kinds = {"kind": "T", "streams": {"t": "trades", "q": "quotes"}, "control": ("hb",)}
    following = begun(follow(any_feed(plain, **kinds)), plain)
    for frame in ("tqtq", "qq", ("q", "hb", "t", "new", "t"), "t"):
        plain.send(json.dumps([{"T": kind, "s": "A"} for kind in frame]).encode())
    of_kinds = ("trades", "quotes", "other")
    following.until(lambda: sum(len(following.values(kind)) for kind in of_kinds) == 11)
    assert [[1, 3, 8, 10, 11], [2, 4, 5, 6, 7], [9]] == [
        [int(dict(r.headers)["headrace.sequence"]) for r in following.said[kind]] for kind in of_kinds
    ]


def test_a_frame_is_taken_whole():
    """Of one frame no kind is taken before another, however many records are asked for."""
    backlog = Backlog(limit_bytes=100)
    frames = [[Chunk(kind, 0, [None] * 3, [b"{}"] * 3, [()] * 3, 6) for kind in kinds] for kinds in ("tq", "t", "qtx")]
    for frame in frames:
        backlog.put(frame)
    assert (18, 36) == (len(backlog), backlog.held_bytes)
    assert [frames[0], frames[1] + frames[2], []] == [backlog.take(count, 0.0) for count in (1, 4, 1)]
    assert (0, 0) == (len(backlog), backlog.held_bytes)


def test_one_count_over_several_kinds(plain: PlainExchange, follow):
    """A feed that counts over all kinds of messages is counted in the order of its frames: a gap is what is missing there."""
    kinds = {"kind": "T", "streams": {"t": "trades", "q": "quotes"}, "sequence": "n"}
    following = begun(follow(any_feed(plain, symbols=("A",), **kinds)), plain)
    number, before = iter(range(1, 100)), len(following.values("gaps"))
    for _ in range(10):
        plain.send(json.dumps([{"T": kind, "s": "A", "n": next(number)} for kind in "qtqtt"]).encode())
    missing = next(number)
    plain.send(json.dumps([{"T": kind, "s": "A", "n": next(number)} for kind in "tq"]).encode())
    following.until(lambda: len(following.values("trades")) + len(following.values("quotes")) == 52)
    found = [json.loads(value) for value in following.values("gaps")[before:]]
    assert [("numbers are missing", missing - 1, missing + 1)] == [
        (g["cause"], g["last_sequence"], g["next_sequence"]) for g in found
    ]


POISON = [
    b"",
    b"{",
    b"[1,",
    b"null",
    b"[]",
    b"[null,7]",
    b"\xff\xfe",
    b'{"T":7}',
    b'[{"T":"t","S":7}]',
    b"[[1]]",
    b'"a"',
    b"[" * 2000,
]

ARRAYS = {b"[null,7]": [b"null", b"7"], b'[{"T":"t","S":7}]': [b'{"T":"t","S":7}'], b"[[1]]": [b"[1]"]}
"""What is an array of messages, though none of them is one."""


def test_poison_is_kept(alpaca: AlpacaExchange, coinbase: CoinbaseExchange, plain: PlainExchange, follow):
    """Whatever an exchange sends is kept to the byte, and the connection goes on: as messages where it is an array of them."""
    for exchange, feed in (
        (alpaca, stocks(alpaca)),
        (coinbase, products(coinbase)),
        (plain, any_feed(plain, kind="T", items="data", sequence="n")),
    ):
        following = begun(follow(feed), exchange)
        for frame in POISON:
            exchange.send(frame, text=False)
        exchange.send(b'{"end":1}')
        following.until(lambda f=following: f.values("other")[-1:] == [b'{"end":1}'])
        assert [m for frame in POISON for m in ARRAYS.get(frame, [frame])] == following.values("other")[:-1]
        assert 1 == exchange.connections


TRADE, NEWS = b'{"s":"A","n":1}', b'{"k":"n"}'
KIND = b'{"k":"t","s":"A","n":1}'


@pytest.mark.parametrize(
    ("frame", "trades", "other"),
    [
        (b'{"k":"t","data":[%s, %s]}' % (TRADE, TRADE), [TRADE, TRADE], []),
        (b'{"k":"t","data":%s}' % TRADE, [TRADE], []),
        (b'{"k":"t","data":[["A",1],2]}', [b'["A",1]', b"2"], []),
        (b'{"k":"t","s":"A"}', [b'{"k":"t","s":"A"}'], []),
        (b'{"stream":"A@t","data":{"k":"t"}}', [b'{"k":"t"}'], []),
        (b'{"k":"t","data":[{"k":"t"},%s]}' % NEWS, [b'{"k":"t"}'], [NEWS]),
        (b'{"k":"t","data":[ ]}', [], []),
        (b'{"k":"t", "data":null}', [], [b'{"k":"t", "data":null}']),
        (b'{"k":"t","data":[%s]}' % NEWS, [], [b'{"k":"t","data":[%s]}' % NEWS]),
        (b'{"k":"n","id":9, "data":[%s]}' % TRADE, [], [b'{"k":"n","id":9, "data":[%s]}' % TRADE]),
        (b'{"k":"e","data":null,"msg":"too many"}', [], [b'{"k":"e","data":null,"msg":"too many"}']),
        (b'{"k":"n","data":[]}', [], [b'{"k":"n","data":[]}']),
        (b'[{"k":"n","data":{}},{"k":"t","data":[%s]}]' % TRADE, [TRADE], [b'{"k":"n","data":{}}']),
        (b'{"k":"hb","data":[%s]}' % TRADE, [], []),
        (b'{"k":"hb","data":[%s,%s]}' % (TRADE, KIND), [KIND], []),
        (b'{"k":"hb","data":[%s,%s]}' % (NEWS, KIND), [KIND], [NEWS]),
        (b'{"k":"hb","data":[%s]}' % NEWS, [], []),
        (b'{"k":"ok","s":"A","data":[%s,%s]}' % (TRADE, KIND), [KIND], []),
        (b'{"k":"ok","data":[%s,{"s":"A"}]}' % KIND, [KIND], []),
        (b'{"k":"ping","data":%s}' % KIND, [KIND], []),
        (b'{"k":"ack","data":[%s,%s]}' % (TRADE, KIND), [TRADE, KIND], []),
        (b'{"k":"ack","data":null}', [], [b'{"k":"ack","data":null}']),
    ],
)
def test_envelopes(frame: bytes, trades: list[bytes], other: list[bytes]):
    """Of an envelope the items are records where they are of a stream; what nobody understood is kept as it came, as a whole."""
    feed = JsonFeed(
        name="any",
        address="ws://x",
        symbols=("A",),
        kind="k",
        symbol="s",
        items="data",
        streams={"t": "trades", "ack": "trades"},
        control=("hb",),
        subscribed="ok",
        replies={"ping": "pong", "ack": "got it"},
    )
    found = {messages.kind: list(messages.values) for messages in feed.dialogue().hear(frame).messages}
    assert {kind: values for kind, values in (("trades", trades), ("other", other)) if values} == found


def test_envelopes_that_are_no_messages():
    """A confirmation is one, however many items it has, unless each names a symbol itself; one answer is for all of a ping."""
    more = {"items": "data", "replies": {"ping": "pong", "trade": "got it"}, "lost": ("error",)}
    feed = JsonFeed(name="any", address="ws://x", symbols=("A", "B", "C"), **{**CONFIRMED, **more})
    (dialogue := feed.dialogue()).begin()
    assert [["B", "C"], ["A"]] == [
        list(dialogue.hear(b'{"type":"subscribed","data":%s}' % data).held)
        for data in (b'[{"s":"B"},{"s":"C"}]', b"[1,2]")
    ]
    assert ["pong"] == dialogue.hear(b'{"type":"ping","data":[1,2]}').replies
    assert ["pong", "pong"] == dialogue.hear(b'{"type":"ping","data":[{"type":"ping"},2]}').replies
    assert [["got it"], ["got it"]] == [
        dialogue.hear(b'{"type":"trade","data":%s}' % data).replies for data in (b"[1,2]", b"[]")
    ]
    with pytest.raises(FeedLostError, match="error"):
        dialogue.hear(b'{"type":"error","data":{"type":"subscribed"}}')
    of_two = JsonFeed(
        name="any", address="ws://x", symbols=("A",), **{**CONFIRMED, **more, "send": ("t.{symbol}", "q.{symbol}")}
    )
    (dialogue := of_two.dialogue()).begin()
    assert [[], ["A"]] == [
        list(dialogue.hear(b'{"type":"subscribed","s":"A","data":[{"id":1},{"id":2}]}').held) for _ in range(2)
    ]


@pytest.mark.parametrize(
    "frame",
    ['{"data":[%s]}', '{"data":%s}', '{"type":"news","data":[{"type":"news"},%s]}', '{"type":"hb","data":[%s]}'],
)
def test_what_an_envelope_holds_is_obeyed(frame: str):
    """What an exchange says to us counts in an envelope of whatever kind: it ends the connection or the run, or is answered."""
    feed = JsonFeed(
        name="any",
        address="ws://x",
        symbols=("A",),
        kind="type",
        items="data",
        streams={"trade": "trades"},
        control=("hb",),
        refused=("denied",),
        lost=("error",),
        replies={"ping": "pong"},
    )
    dialogue = feed.dialogue()
    with pytest.raises(FeedLostError, match="error"):
        dialogue.hear((frame % '{"type":"error"}').encode())
    with pytest.raises(FeedRefusedError, match="denied"):
        dialogue.hear((frame % '{"type":"denied"}').encode())
    assert ["pong"] == dialogue.hear((frame % '{"type":"ping"}').encode()).replies


def test_a_confirmation_that_brings_a_snapshot():
    """The first messages may come in the confirmation's envelope: they are records, and the gap ends with it."""
    feed = JsonFeed(
        name="any", address="ws://x", symbols=("A", "B"), items="data", **{**CONFIRMED, "send": ("{symbol}",)}
    )
    (dialogue := feed.dialogue()).begin()
    trade = b'{"type":"trade","s":"A","p":1}'
    of_one = dialogue.hear(b'{"type":"subscribed","s":"A","data":[%s]}' % trade)
    of_itself = dialogue.hear(b'{"type":"subscribed","data":[%s,{"s":"B"}]}' % trade)
    assert [["A"], ["B"]] == [list(heard.held) for heard in (of_one, of_itself)]
    for heard in (of_one, of_itself):
        (messages,) = heard.messages
        assert ("trades", [trade], ["A"]) == (messages.kind, messages.values, messages.symbols)


@pytest.mark.parametrize(
    ("number", "counted"),
    [
        (b"7", 7),
        (b'"7"', 7),
        (b"7.0", 7),
        (b"7e2", 700),
        (b"7.5", None),
        (b"1e300", None),
        (b"true", None),
        (b'"7.0"', None),
        (b'"' + b"9" * 5_000 + b'"', None),
        (b"[7]", None),
        (b"{}", None),
        (b"null", None),
    ],
)
def test_forms_of_a_number(number: bytes, counted: int | None):
    """A number that is none hides nothing else of its message: the record keeps its key and its stream."""
    feed = JsonFeed(
        name="any", address="ws://x", symbols=("A",), kind="k", symbol="s", sequence="n", streams={"t": "trades"}
    )
    (messages,) = feed.dialogue().hear(b'{"k":"t","s":"A","n":%s}' % number).messages
    assert ("trades", ["A"], [counted]) == (messages.kind, messages.symbols, messages.numbers)


def test_flood(alpaca: AlpacaExchange, follow):
    """100,000 messages in arrays of 100 all come, in order, through a backlog of a hundredth of them; nobody is dropped."""
    following = begun(follow(stocks(alpaca), queue_bytes=200_000), alpaca)
    frames = [json.dumps([alpaca_trade(i * 100 + j) for j in range(100)]).encode() for i in range(50)]
    sending = threading.Thread(target=lambda: [alpaca.send(frame) for frame in frames * 20])
    sending.start()
    following.until(lambda: len(following.said.get("trades", ())) == 100_000)
    sending.join()
    assert [json.loads(v)["i"] for v in following.values("trades")[:7_000]] == [*range(5_000), *range(2_000)]
    assert [r.offset for r in following.said["trades"]] == list(range(100_000))
    assert 1 == alpaca.connections


# ---- connections that end -------------------------------------------------------------------------------------


def lost_and_back(following: Following, exchange: Exchange, cause: str, *, wait_s: float = 1.0) -> dict[str, Any]:
    """Wait until a gap of this cause is open, let the wait pass, and return the gap when it has ended."""
    following.until(lambda: cause in [g["cause"] for g in following.gaps() if g["to"] is None])
    following.until(lambda: bool(following.clock.waits))
    assert wait_s == following.clock.waits[-1]
    exchange.wait(lambda: not exchange._open)  # it has forgotten the one before
    seen = exchange.connections
    following.clock.pass_s(wait_s)
    following.until(lambda: exchange.connections > seen and not following.open_gaps())
    exchange.wait_for_clients()
    return following.gaps()[-1]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda e: e.drop(), "broken off"),
        (lambda e: e.close(1012, "maintenance"), "closed (1012: maintenance)"),
        (lambda e: e.close(1000, ""), "closed (1000)"),
        (lambda e: e.send(b"x" * (1 << 20)), "oversized frame"),
        (lambda e: e.error(407, "slow client"), "error 407: slow client"),
    ],
    ids=["dropped", "maintenance", "normal", "oversized", "slow"],
)
def test_lost_connection(alpaca: AlpacaExchange, follow, fault: Callable, cause: str):
    """A connection that ends in any way is followed by another one, subscribed alike; what may be missing between is a gap."""
    following = begun(follow(stocks(alpaca), max_message_bytes=1 << 19), alpaca)
    following.clock.pass_s(5)
    alpaca.publish(alpaca_trade(1))
    following.until(lambda: bool(following.values("trades")))
    following.until(lambda: following.source._supervisor._heard_ns == following.clock.ns())  # it is not taken for late
    following.clock.pass_s(5)
    fault(alpaca)
    gap = lost_and_back(following, alpaca, cause)
    assert ("AAPL", "2026-01-02T15:00:05.000000000Z", "2026-01-02T15:00:11.000000000Z") == (
        gap["symbol"],
        gap["from"],
        gap["to"],
    )
    assert (cause, False, None, 2) == (gap["cause"], gap["filled"], gap["missing"], gap["revision"])
    assert alpaca.heard[1] == alpaca.heard[3] == {
        "action": "subscribe", "trades": ["AAPL"], "quotes": ["AAPL"], "bars": ["AAPL"], "updatedBars": ["AAPL"]
    }  # fmt: skip
    alpaca.publish(alpaca_trade(2))
    following.until(lambda: len(following.values("trades")) == 2)
    assert b"p-2" == dict(following.said["trades"][1].headers)["headrace.connection"]


def test_first_gap(alpaca: AlpacaExchange, follow):
    """What came before a producer began is not known: its first gap has no beginning, one for each symbol."""
    following = begun(follow(stocks(alpaca, "AAPL", "MSFT")), alpaca)
    assert [("AAPL", None, "started"), ("MSFT", None, "started")] == [
        (g["symbol"], g["from"], g["cause"]) for g in following.gaps()
    ]
    assert [b"AAPL", b"MSFT"] * 2 == [r.key for r in following.said["gaps"]]


def test_waits_grow(alpaca: AlpacaExchange, follow):
    """A server that accepts and closes is called less and less often; only a connection that lasted makes waits short again."""
    alpaca.accepts_and_closes = 3
    alpaca.refuses = [503]
    following = follow(stocks(alpaca), reconnect_most_s=4.0, steady_s=10.0)
    for number, most in enumerate([1.0, 2.0, 4.0, 4.0], 1):
        following.until(lambda n=number: len(following.clock.waits) == n)
        assert number == alpaca.connections
        following.clock.pass_s(most - 0.001)
        following.poll()
        assert number == alpaca.connections
        following.clock.pass_s(0.001)
    begun(following, alpaca)
    alpaca.drop()  # after no time at all
    following.until(lambda: len(following.clock.waits) == 5)
    lost_and_back(following, alpaca, "broken off", wait_s=4.0)
    following.clock.pass_s(10.0)
    alpaca.drop()
    following.until(lambda: len(following.clock.waits) == 6)
    assert [1.0, 2.0, 4.0, 4.0, 4.0, 1.0] == following.clock.waits


def test_unanswered(alpaca: AlpacaExchange, plain: PlainExchange, follow):
    """
    Not before the first connection is subscribed, and not once an attempt at another one has failed, or has not come in the time
    that a subscription may take, is a feed answered; between two connections it is.
    """
    following = follow(stocks(alpaca), subscribe_timeout_s=10.0)
    assert "not connected yet" == following.source.unanswered()
    begun(following, alpaca)
    assert "" == following.source.unanswered()
    alpaca.refuses = [503]
    alpaca.drop()
    following.until(lambda: len(following.clock.waits) == 1)
    assert "" == following.source.unanswered()
    following.clock.pass_s(1.0)
    following.until(lambda: following.source.unanswered() == "HTTP 503")
    following.until(lambda: len(following.clock.waits) == 2)
    following.clock.pass_s(following.clock.waits[-1])
    following.until(lambda: not following.source.unanswered() and not following.open_gaps())
    alpaca.wait_for_clients()
    # not tried again for a while
    alpaca.error(406, "connection limit exceeded")
    following.until(lambda: len(following.clock.waits) == 3)
    following.clock.pass_s(9.999)
    assert "" == following.source.unanswered()
    following.clock.pass_s(0.001)
    assert "error 406: connection limit exceeded" == following.source.unanswered()
    # an exchange that confirms nothing answers by taking the connection, though the gap lasts until a message
    quiet = follow(any_feed(plain, shown_by="message"))
    quiet.until(lambda: not quiet.source.unanswered())
    assert ["A", "B"] == quiet.open_gaps()


def test_half_open_connection(alpaca: AlpacaExchange, follow):
    """A connection that is up and answers no ping is given up; without the ping nobody would ever notice."""
    following = begun(follow(stocks(alpaca), ping_every_s=20.0, ping_timeout_s=15.0), alpaca)
    alpaca.frozen = True
    following.clock.pass_s(20)
    following.until(lambda: following.source._supervisor.connections == 1)
    for _ in range(4):
        following.poll()  # the ping is out
    following.clock.pass_s(15)
    following.until(lambda: following.open_gaps() == ["AAPL"])
    assert "no answer for 15 s" == following.gaps()[-1]["cause"]
    alpaca.frozen = False
    following.clock.pass_s(1)
    following.until(lambda: not following.open_gaps())
    # the negative control: who does not ask never notices
    alpaca.most = 3
    careless = begun(follow(stocks(alpaca), clock=Clock(day_ns=1_767_409_200_000_000_000), ping_every_s=1e9), alpaca)
    alpaca.frozen = True
    careless.clock.pass_s(3600)
    for _ in range(5):
        careless.poll()
    assert ["started"] == [g["cause"] for g in careless.gaps()]
    alpaca.frozen = False
    # the other one, silent at night but answering, stays
    night = Clock(day_ns=1_767_366_000_000_000_000 + 12 * 3600 * 10**9)
    quiet = begun(follow(stocks(alpaca), clock=night), alpaca)
    for _ in range(6):
        night.pass_s(19)
        for _ in range(3):
            quiet.poll()
    assert ["started"] == [g["cause"] for g in quiet.gaps()]


def test_silent_while_the_market_is_open(alpaca: AlpacaExchange, follow):
    """While New York is open a connection that answers pings and sends nothing is a fault; before, at the opening, it is not."""
    opening = Clock(day_ns=1_767_366_000_000_000_000 - 1_801 * 10**9)  # 09:29:59 in New York
    following = begun(follow(stocks(alpaca, silence_s=120.0), clock=opening), alpaca)
    for _ in range(4):  # until 09:31:59
        opening.pass_s(30)
        for _ in range(3):
            following.poll()
    assert ["started"] == [g["cause"] for g in following.gaps()]
    opening.pass_s(1)
    lost_and_back(following, alpaca, "silent for 120 s while the market is open")


@pytest.mark.parametrize(
    ("feed", "opens", "closes"), [("sip", "14:32:00", "21:00:00"), ("delayed_sip", "14:47:00", "21:15:00")]
)
def test_session_of_a_delayed_feed(feed: str, opens: str, closes: str):
    """Data that come a quarter of an hour late begin and end so much later than New York does; silence is no fault outside."""
    stream = Alpaca(feed=feed, silence_s=120.0)
    for edge, before, behind in ((opens, None, 120.0), (closes, 120.0, None)):
        moment = datetime.fromisoformat(f"2026-01-02T{edge}+00:00")
        assert (before, behind) == (stream.quiet_s(moment - timedelta(seconds=1)), stream.quiet_s(moment))


def test_missing_heartbeat(coinbase: CoinbaseExchange, follow):
    """Coinbase says something each second: nothing for ten of them is a dead connection, whatever pings say."""
    following = begun(follow(products(coinbase)), coinbase)
    for _ in range(3):
        following.clock.pass_s(9)
        coinbase.beat()
        following.until(lambda: following.source._supervisor._heard_ns == following.clock.ns())
    following.clock.pass_s(10)
    gap = lost_and_back(following, coinbase, "no heartbeat for 10 s")
    assert "2026-01-02T15:00:27.000000000Z" == gap["from"]


def test_slow_subscription(alpaca: AlpacaExchange, follow):
    """A server that accepts a connection and confirms no subscription is left."""
    alpaca.frozen = True
    following = follow(stocks(alpaca), open_timeout_s=0.2, reconnect_first_s=0.001)
    following.until(lambda: len(following.clock.waits) >= 1)  # even the handshake does not come through
    alpaca.frozen = False
    plain = any_feed(alpaca, subscribed="never")
    other = follow(plain)
    other.until(lambda: alpaca.heard[-1:] == [{"follow": ["A", "B"]}])
    other.clock.pass_s(10)
    other.until(lambda: bool(other.clock.waits))
    assert ["started"] * 2 == [g["cause"] for g in other.gaps()]


def test_gap_lasts_until_our_words_were_read(plain: PlainExchange, follow):
    """
    Where an exchange confirms no subscription, the gap lasts until a message shows that it has read our words. The negative
    control takes its answer to a ping for that: it comes from the WebSocket library, and what is sent meanwhile is in no gap.
    """
    plain.reading.clear()
    following = follow(any_feed(plain, shown_by="message"), subscribe_timeout_s=2.0)
    hasty = follow(any_feed(plain, shown_by="ping"))
    hasty.poll()
    following.until(lambda: len(plain._open) == 2)
    hasty.until(lambda: bool(hasty.gaps()) and not hasty.open_gaps())
    plain.publish({"s": "A", "n": 1})  # to nobody
    for one in (following, hasty):
        one.clock.pass_s(5)
        for _ in range(3):
            one.poll()
    assert ["A", "B"] == following.open_gaps()  # and it is not left for that
    plain.reading.set()
    plain.wait_for_clients(2)
    plain.publish({"s": "A", "n": 2})
    following.until(lambda: bool(following.values("messages")) and not following.open_gaps())
    assert [[b'{"s":"A","n":2}']] * 2 == [
        (one.until(lambda o=one: bool(o.values("messages"))), one.values("messages"))[1] for one in (following, hasty)
    ]
    covered = [{g["to"] for g in one.gaps()} for one in (following, hasty)]
    assert [{"2026-01-02T15:00:05.000000000Z"}, {"2026-01-02T15:00:00.000000000Z"}] == covered
    assert 2 == plain.connections


CONFIRMED = {
    "send": ('{"sub":"{symbol}"}',),
    "kind": "type",
    "symbol": "s",
    "streams": {"trade": "trades"},
    "subscribed": "subscribed",
}


def confirmation(symbol: str | None) -> bytes:
    """One that names a symbol, or none."""
    return json.dumps({"type": "subscribed", **({} if symbol is None else {"s": symbol})}).encode()


def confirm(following: Following, exchange: Exchange, symbol: str) -> None:
    """Let the exchange confirm one, when it has heard of it."""
    following.until(lambda: bool(exchange.subscribed()))
    exchange.send(confirmation(symbol))


def test_a_confirmation_ends_the_gap_of_its_symbol(plain: PlainExchange, follow):
    """Where symbols are asked for and confirmed one by one, each one's gap ends when it is confirmed, on each connection."""
    following = follow(any_feed(plain, **CONFIRMED))
    for cause, begun_s in (("started", 0), ("broken off", 10)):
        for symbol, others in (("A", ["B"]), ("B", [])):
            confirm(following, plain, "C")  # none of ours: it says nothing
            confirm(following, plain, symbol)
            following.until(lambda o=others: following.open_gaps() == o)
            following.clock.pass_s(3)
        ends = {g["symbol"]: g["to"][17:19] for g in following.gaps() if g["cause"] == cause}
        assert {"A": f"{begun_s:02}", "B": f"{begun_s + 3:02}"} == ends
        until(lambda: following.source._supervisor._gap_from_ns is None)
        following.clock.pass_s(3)
        plain.drop()
        following.until(lambda: len(following.open_gaps()) == 2 and bool(following.clock.waits))
        following.clock.pass_s(following.clock.waits.pop())


def test_symbol_that_is_never_confirmed(plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture):
    """
    For a symbol that the exchange never confirms the connection is not left while it has others: the gap of that one lasts, one
    warning and `unanswered` name it. What is lost later of the others is a gap from there on, not since the start.
    """
    following = follow(any_feed(plain, **CONFIRMED), subscribe_timeout_s=10.0, steady_s=5.0, ping_every_s=1e9)
    confirm(following, plain, "A")
    following.until(lambda: following.open_gaps() == ["B"])
    assert "not connected yet" == following.source.unanswered()
    following.clock.pass_s(10)
    following.until(lambda: following.source.unanswered() == "not confirmed within 10 s: B")
    supervisor = following.source._supervisor
    following.until(lambda: supervisor._heard_ns == following.clock.ns())
    for number in range(3):
        following.clock.pass_s(10)
        plain.publish({"type": "trade", "s": "A", "n": number})
        following.until(lambda n=number: len(following.values("trades")) == n + 1)
        following.until(lambda: supervisor._heard_ns == following.clock.ns())
    assert (1, ["B"]) == (plain.connections, following.open_gaps())
    assert [("any", "B")] == [
        (r.fields["feed"], r.fields["symbols"]) for r in caplog.records if r.what == "symbols are not confirmed"
    ]
    following.clock.pass_s(1)
    plain.drop()
    following.until(lambda: following.open_gaps() == ["B", "A"] and following.clock.waits == [1.0])
    (lost,) = (g for g in following.gaps() if g["symbol"] == "A" and g["to"] is None)
    assert ("broken off", "2026-01-02T15:00:40.000000000Z") == (lost["cause"], lost["from"])
    # it is there after all
    following.clock.pass_s(1)
    for symbol in "AB":
        confirm(following, plain, symbol)
    following.until(lambda: not following.open_gaps() and not following.source.unanswered())


@pytest.mark.parametrize(
    ("send", "confirmed", "held"),
    [
        (["{symbol}"], [None, None, None], [["A"], ["B"], ["C"]]),
        (["{symbol}"], ["C", None, "A", "C", "X", None], [["C"], ["A"], [], [], [], ["B"]]),
        (["{symbol}"], ["B", "B", "A", "C"], [["B"], [], ["A"], ["C"]]),
        (["hello", "t.{symbol}", "q.{symbol}"], [*"ABC", None, *"CB"], [[], [], [], ["A"], ["C"], ["B"]]),
        (["{symbols}"], [None], [["A", "B", "C"]]),
        (["{symbols}"], ["B", None], [["B"], ["A", "C"]]),
        (["t:{symbols}", "q:{symbols}"], [None, None], [[], ["A", "B", "C"]]),
        (["a", "b", "c"], [None], [["A", "B", "C"]]),
        ([], [*"ABC"], [["A"], ["B"], ["C"]]),
    ],
)
def test_what_a_confirmation_is_of(send: list[str], confirmed: list[str | None], held: list[list[str]]):
    """Of the symbol that it names, in one text that asks for it; without a name of the first text that has none yet."""
    feed = JsonFeed(name="any", address="ws://x", symbols=("A", "B", "C"), **{**CONFIRMED, "send": tuple(send)})
    dialogue = feed.dialogue()
    assert not dialogue.begin().asked
    heard = [dialogue.hear(confirmation(symbol)) for symbol in confirmed]
    assert held == [list(h.held) for h in heard]
    assert [False] * (len(confirmed) - 1) + [True] == [h.subscribed for h in heard]
    assert not any(h.messages for h in heard)


def test_confirmations_of_all():
    """Who asks for all gets one confirmation, whatever it names."""
    feed = JsonFeed(name="any", address="ws://x", symbols=("*",), **CONFIRMED)
    (dialogue := feed.dialogue()).begin()
    assert dialogue.hear(b'{"type":"subscribed","s":"everything"}').subscribed


@pytest.mark.parametrize("named", ["btc", "BTC,ETH"])
def test_confirmation_that_is_spelt_otherwise(
    plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture, named: str
):
    """
    One that names none of ours ends no gap, and one warning a connection names it and what is not confirmed yet. One of ours that
    comes again is no reason for a warning.
    """
    following = follow(any_feed(plain, **CONFIRMED, symbols=("BTC", "ETH", "XRP")), subscribe_timeout_s=10.0)

    def warned() -> list[tuple[str, str]]:
        records = [r for r in caplog.records if r.what == "confirmation names another symbol"]
        return [(r.fields["found"], r.fields["symbols"]) for r in records]

    for count, symbol in enumerate(("XRP", "XRP", named, "other"), 1):
        assert (symbol == "other") == bool(warned())
        confirm(following, plain, symbol)
        plain.publish({"type": "trade", "s": "XRP"})
        following.until(lambda n=count: len(following.values("trades")) == n)
    assert [(named, "BTC, ETH")] == warned()
    assert ["BTC", "ETH"] == following.open_gaps()
    plain.drop()
    following.until(lambda: bool(following.clock.waits))
    plain.wait(lambda: not plain._open)
    following.clock.pass_s(following.clock.waits[-1])
    for symbol in ("ETH", named):
        confirm(following, plain, symbol)
    following.until(lambda: len(warned()) == 2)
    assert (named, "BTC, XRP") == warned()[-1]
    for symbol in ("other", "BTC", "XRP"):
        confirm(following, plain, symbol)
    following.until(lambda: not following.open_gaps())
    assert 2 == len(warned())


def test_words_are_read_in_their_order():
    """Words that are sent for each symbol: a message shows that its symbol's were read, and those before it."""
    feed = JsonFeed(
        name="any",
        address="ws://x",
        symbols=("A", "B", "C"),
        send=("{symbol}",),
        symbol="s",
        kind="k",
        streams={"t": "trades"},
    )
    dialogue = feed.dialogue()
    assert (True, False, ("A", "B", "C")) == ((begun := dialogue.begin()).asked, begun.subscribed, begun.replies)
    heard = [
        dialogue.hear(b'{"k":"%s","s":"%s"}' % said)
        for said in ((b"hello", b"C"), (b"t", b"B"), (b"t", b"A"), (b"t", b"C"), (b"t", b"C"))
    ]
    assert [[], ["A", "B"], [], ["C"], []] == [list(h.held) for h in heard]
    assert [False, False, False, True, False] == [h.subscribed for h in heard]


def test_symbol_that_is_spelt_otherwise(plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture):
    """
    A feed that is asked for `btcusdt` and sends BTCUSDT: what it means is not guessed, the gap lasts, and one warning names both.
    What is spelt alike, is none of ours or is not kept is no reason for one.
    """
    words = {"send": ('{"follow":"{symbol}"}',), "kind": "k", "streams": {"t": "trades"}, "shown_by": "message"}
    following = follow(any_feed(plain, symbols=("ETH", "btcusdt", "eth"), **words))
    following.until(lambda: len(plain.heard) == 3)
    told = [("x", "BTCUSDT"), ("t", "ETH"), ("t", "XRP"), ("t", "BTCUSDT"), ("t", "BTCUSDT")]
    for count, (kind, symbol) in enumerate(told):
        plain.publish({"k": kind, "s": symbol})
        following.until(lambda n=count: len(following.values("trades")) == n)
        warned = [r for r in caplog.records if r.what == "symbol is spelt otherwise"]
        assert (count >= 3) == len(warned)
    assert [("btcusdt", "BTCUSDT")] == [(r.fields["symbol"], r.fields["found"]) for r in warned]
    assert ["btcusdt", "eth"] == following.open_gaps()


def ended(following: Following, message: str) -> str:
    """Poll and store until the source has nothing more to say than why it ended."""
    following.storing = False
    following.until(lambda: following.source._supervisor.error is not None)
    while len(following.source._backlog) or following.source._held:
        following.poll()
        following.store("gaps")
    following.store()
    with pytest.raises(ConfigError, match=message) as caught:
        following.poll()
    return str(caught.value)


# ---- dialogues that are at fault ------------------------------------------------------------------------------


@attrs.define
class Lines(Dialogue):
    """Says what a test lets it say of a frame."""

    heard: Callable[[bytes], Sequence[Messages]]

    def begin(self) -> Heard:
        return Heard(replies=("{}",), asked=True)

    def hear(self, frame: bytes) -> Heard:
        return Heard(self.heard(frame), subscribed=True)


@attrs.define
class LineFeed(Feed):
    """Of one kind, and of one symbol."""

    safe_url: str
    heard: Callable[[bytes], Sequence[Messages]]
    name, symbols, kinds = "lines", ("A",), ("lines",)

    def url(self) -> str:
        return self.safe_url

    def dialogue(self) -> Dialogue:
        return Lines(self.heard)


def lines(*, kind: str = "lines", **columns: Any) -> Callable[[bytes], Sequence[Messages]]:
    """Each frame is a message, but "wrong" makes these."""
    wrong = {"values": [b"1", b"2"], "symbols": ["A", "A"], **columns}
    return lambda frame: [Messages(kind, **wrong) if frame == b"wrong" else Messages("lines", [frame], ["A"])]


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        (lines(symbols=["A"]), "'lines': found 2 values and 1 symbols, expected one for each"),
        (lines(numbers=[1, 2, 3]), "found 2 values and 3 numbers"),
        (lines(places=[]), "found 2 values and 0 places"),
        (
            lines(kind="quotes"),
            "'lines': found messages of kind 'quotes', expected one of its kinds .lines. or 'other'",
        ),
        (lines(kind="gaps"), "found messages of kind 'gaps'"),
    ],
)
def test_dialogue_at_fault(plain: PlainExchange, follow, heard: Callable, message: str):
    """Messages that cannot be the feed's end the run, with what is wrong; what came before is stored, the gap begins there."""
    following = follow(LineFeed(plain.address, heard))
    following.until(lambda: bool(plain.subscribed()))
    for frame in (b"1", b"2", b"wrong", b"3"):
        plain.send(frame)
    following.until(lambda: following.source._supervisor.error is not None)
    with pytest.raises(PluginError, match=message):
        following.until(following.store)
    assert [b"1", b"2"] == following.values("lines")
    assert [("started", False), ("failed", True)] == [(g["cause"], g["to"] is None) for g in following.gaps()]


def test_empty_messages(plain: PlainExchange, follow):
    """Messages that hold none are none, of whatever kind, and nothing comes to a halt."""
    following = follow(
        LineFeed(
            plain.address,
            lambda frame: [Messages("quotes", [], []), Messages("lines", [frame] * 2, ["A"] * 2)][: int(frame)],
        )
    )
    following.until(lambda: bool(plain.subscribed()))
    for frame in (b"1", b"2", b"1", b"0"):
        plain.send(frame)
    following.until(lambda: len(following.values("lines")) == 2)
    plain.send(b"2")
    following.until(lambda: len(following.values("lines")) == 4)
    assert [b"1", b"2", b"3", b"4"] == [dict(r.headers)["headrace.sequence"] for r in following.said["lines"]]


@attrs.define
class OneByOne(Dialogue):
    """A frame confirms the symbol that it is."""

    def begin(self) -> Heard:
        return Heard(replies=("{}",))

    def hear(self, frame: bytes) -> Heard:
        return Heard(held=[frame.decode()])


@attrs.define
class TwoByOne(LineFeed):
    symbols = ("A", "B")

    def dialogue(self) -> Dialogue:
        return OneByOne()


def test_all_that_is_held_is_subscribed(plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture):
    """A dialogue may confirm symbol by symbol and nothing else: with the last one the feed is subscribed."""
    following = follow(TwoByOne(plain.address, lines()))
    following.until(lambda: bool(plain.subscribed()))
    plain.send(b"A")
    following.until(lambda: following.open_gaps() == ["B"] and len(following.gaps()) == 2)
    connected = {m.name: m.value for m in following.source.metrics()}["headrace_feed_connected"]
    assert (0, "not connected yet") == (connected, following.source.unanswered())
    plain.send(b"B")
    following.until(lambda: not following.open_gaps())
    following.clock.pass_s(10)
    plain.send(b"A")
    following.until(lambda: following.source._supervisor._heard_ns == following.clock.ns())
    connected = {m.name: m.value for m in following.source.metrics()}["headrace_feed_connected"]
    assert (1, "") == (connected, following.source.unanswered())
    assert "not confirmed" not in caplog.text


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "feed", "message"),
    [
        (
            lambda e: setattr(e, "key", "another"),
            stocks,
            r"refused our credentials \(402: auth failed\).*APCA_API_KEY_ID",
        ),
        (lambda e: e.refuses.append(401), stocks, r"refused our credentials \(HTTP 401\).*APCA_API_SECRET_KEY"),
        (lambda e: e.refuses.append(404), stocks, r"no WebSocket there \(HTTP 404\)"),
    ],
    ids=["message", "status", "address"],
)
def test_refused(alpaca: AlpacaExchange, follow, prepare: Callable, feed: Callable, message: str):
    """Who is refused for good is told so, with what to do, and does not call again; the gap that lasts says so, too."""
    prepare(alpaca)
    following = follow(feed(alpaca))
    assert "secret" not in ended(following, message)
    assert 1 == alpaca.connections
    assert [("started, then refused", None)] == [(g["cause"], g["to"]) for g in following.gaps()]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("feed", [products, any_feed])
def test_forbidden_without_credentials(coinbase: CoinbaseExchange, plain: PlainExchange, follow, feed, status: int):
    """
    A feed without credentials that was connected before is forbidden in passing: it is tried again, ever later. At its first
    connection the run ends, and no word is of credentials that it does not have.
    """
    exchange = coinbase if feed is products else plain
    exchange.refuses = [status]
    assert "credentials" not in ended(
        follow(feed(exchange)), rf"does not let us in \(HTTP {status}\).*check the address"
    )
    following = begun(follow(feed(exchange)), exchange)
    exchange.refuses = [status] * 2
    exchange.drop()
    for number, wait_s in enumerate([1.0, 2.0, 4.0], 1):
        following.until(lambda n=number: len(following.clock.waits) == n)
        assert wait_s == following.clock.waits[-1]
        following.clock.pass_s(wait_s)
    following.until(lambda: not following.open_gaps())
    assert "broken off" == following.gaps()[-1]["cause"]


def test_forbidden_with_credentials(plain: PlainExchange, follow):
    """Whose credentials are refused later is not to call again."""
    following = begun(follow(any_feed(plain, http={"X-Key": "${APCA_API_SECRET_KEY}"})), plain)
    plain.refuses = [403]
    plain.drop()
    following.until(lambda: bool(following.clock.waits))
    following.clock.pass_s(1.0)
    with pytest.raises(ConfigError, match=r"refused our credentials \(HTTP 403\); check APCA_API_SECRET_KEY"):
        following.until(lambda: False)


def test_refused_product(coinbase: CoinbaseExchange, follow):
    """A product that does not exist ends the run; one that is not confirmed does, too."""
    following = follow(products(coinbase, "BTC-USD", "XXX-USD"))
    ended(following, "XXX-USD is not a valid product")


def test_refused_later(alpaca: AlpacaExchange, follow):
    """Credentials that are taken away: what was received is stored first, and only then the run ends."""
    following = begun(follow(stocks(alpaca)), alpaca)
    alpaca.publish(alpaca_trade(1))
    following.until(lambda: bool(following.values("trades")))
    alpaca.key = "another"
    alpaca.drop()
    following.until(lambda: bool(following.clock.waits))
    following.clock.pass_s(1)
    following.until(lambda: following.source._supervisor.error is not None)
    for _ in range(3):
        following.poll()  # nothing was stored yet, so nothing is raised
    following.store()
    with pytest.raises(ConfigError, match="402"):
        following.poll()
    assert "broken off, then refused" == following.gaps()[-1]["cause"]
    assert following.open_gaps()


@pytest.mark.parametrize(
    ("status", "headers", "least_s"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"Retry-After": "Fri, 02 Jan 2026 15:02:00 GMT"}, 120.0),
        (429, {"X-RateLimit-Reset": "1767366012000"}, 12.0),
        (429, {"Retry-After": "soon"}, 60.0),
        (429, {}, 60.0),
        (503, {"Retry-After": "7"}, 7.0),
        (503, {"X-RateLimit-Reset": "3600"}, 0.0),  # the state of a quota, which is told with every answer
        (503, {}, 0.0),
    ],
)
def test_asked_to_wait(alpaca: AlpacaExchange, follow, caplog, status: int, headers: dict, least_s: float):
    """An exchange that has too many connections, or is away, is called again after the wait that it asks for; it is logged."""
    alpaca.refuses, alpaca.answers = [status], headers
    following = follow(stocks(alpaca))
    following.until(lambda: bool(following.clock.waits))
    following.clock.pass_s(least_s + 0.999)
    for _ in range(3):
        following.poll()
    assert 1 == alpaca.connections
    assert [least_s + 1.0] == [r.fields["again_in_s"] for r in caplog.records if r.what == "feed lost"]
    following.clock.pass_s(0.001)
    begun(following, alpaca)


@pytest.mark.parametrize("said", ["99999999999", "Sat, 03 Jan 2026 15:00:00 GMT", "9" * 400])
def test_asked_to_wait_for_long(alpaca: AlpacaExchange, follow, caplog, said: str):
    """Whoever wants to be left alone for more than an hour is called again after an hour, and the log says what he wanted."""
    alpaca.refuses, alpaca.answers = [429], {"Retry-After": said}
    following = follow(stocks(alpaca))
    following.until(lambda: bool(following.clock.waits))
    (lost,) = [r.fields for r in caplog.records if r.what == "feed lost"]
    assert 3601.0 == lost["again_in_s"]
    assert lost["cause"].startswith("too many connections (HTTP 429); it wants to be left alone for ")
    following.clock.pass_s(3601)
    begun(following, alpaca)


def test_connection_limit(alpaca: AlpacaExchange, follow):
    """One connection at a time: who finds the limit reached waits until the server has forgotten the one before."""
    first = begun(follow(stocks(alpaca)), alpaca)
    second = follow(stocks(alpaca), run="q")
    second.until(lambda: bool(second.clock.waits))
    first.source.finish()
    second.clock.pass_s(90.999)
    for _ in range(3):
        second.poll()
    assert 2 == alpaca.connections
    second.clock.pass_s(0.001)
    begun(second, alpaca)


def test_credentials_are_not_told(alpaca: AlpacaExchange, follow, caplog: pytest.LogCaptureFixture, monkeypatch):
    """Neither a log line of any level nor a representation shows a credential; without them it is said which is missing."""
    monkeypatch.setenv("APCA_API_KEY_ID", "kkk-id")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "sss-key")
    alpaca.key, alpaca.secret = "kkk-id", "sss-key"
    with caplog.at_level(logging.DEBUG):
        following = begun(follow(stocks(alpaca)), alpaca)
    told = caplog.text + repr(following.source) + repr(following.source.feed.dialogue())
    assert "sss-key" not in told
    assert "kkk-id" not in told
    assert ["fine", "fine", "fine"] == [f.state for f in following.source.check()]
    wrong = JsonFeed(name="any", address="ws://127.0.0.1#x?token=${APCA_API_SECRET_KEY}", symbols=("A",))
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(ConfigError, match=r"found the address 'ws://127\.0\.0\.1'.*nothing is behind a '#'") as refused,
    ):
        follow(wrong).poll()
    assert "sss-key" not in caplog.text + "".join(traceback.format_exception(refused.value))
    monkeypatch.delenv("APCA_API_SECRET_KEY")
    with pytest.raises(ConfigError, match="APCA_API_SECRET_KEY is not in the environment"):
        follow(stocks(alpaca)).poll()


@pytest.mark.parametrize("said", ["the key {} is unknown", "x" * 160 + "{}"])
@pytest.mark.parametrize("how", ["refused", "lost", "closed"])
def test_credentials_that_an_exchange_repeats(
    plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture, monkeypatch, how: str, said: str
):
    """What it says of a refusal or a close may hold our key, whole or cut off: the variable's name stands in its place."""
    monkeypatch.setenv("ANY_TOKEN", "tok-4711-0815-2342-1234")
    kinds = {"kind": "type", "refused": ("no",), "lost": ("bye",)}
    following = begun(follow(any_feed(plain, send=('{"token":"${ANY_TOKEN}"}',), **kinds)), plain)
    said = said.format("tok-4711-0815-2342-1234")
    with caplog.at_level(logging.DEBUG):
        if how == "refused":
            plain.publish(json.dumps({"type": "no", "text": said}).encode())
            ended(following, r"\$\{ANY_TOKEN\}")
            error = following.source._supervisor.error
            assert "tok-4711" not in "".join(traceback.format_exception(error))
        else:
            if how == "closed":
                plain.close(1008, said[-100:])
            else:
                plain.publish(json.dumps({"type": "bye", "text": said}).encode())
            following.until(lambda: bool(following.clock.waits) and bool(following.open_gaps()))
    assert "tok-4711" not in caplog.text + json.dumps(following.gaps())
    if how == "closed":
        assert "closed (1008: " in following.gaps()[-1]["cause"]
        assert "${ANY_TOKEN}" in following.gaps()[-1]["cause"]


# ---- numbers --------------------------------------------------------------------------------------------------


def numbered(following: Following) -> list[tuple[object, ...]]:
    """What the gaps of numbers say: cause, last, next, missing, filled."""
    names = ("cause", "last_sequence", "next_sequence", "missing", "filled")
    return [tuple(g[n] for n in names) for g in following.gaps() if g["cause"] != "started"]


def test_missing_numbers(coinbase: CoinbaseExchange, follow):
    """Numbers that are left out are a gap; those that come late fill it; repeated and reversed ones are kept and are none."""
    following = begun(follow(products(coinbase, "BTC-USD", "ETH-USD")), coinbase)
    order = [7, 8, 8, 11, 9, 9, 12, 11, 10, 13, 7, 20]
    for count, n in enumerate(order, 1):
        following.clock.pass_s(1)
        coinbase.publish(coinbase_match(n), coinbase_match(count, "ETH-USD"))
        following.until(lambda count=count: len(following.values("trades")) == 2 * count)
        following.store()
    following.poll()
    assert order == [json.loads(r.value)["trade_id"] for r in following.said["trades"] if r.key == b"BTC-USD"]
    cause = "numbers are missing"
    assert [(cause, 8, 11, 0, True), (cause, 13, 20, 6, False)] == numbered(following)
    first, last = following.gaps()[-2:]
    # not from when the last number was repeated: the one behind it was due by then
    assert ["BTC-USD", "2026-01-02T15:00:02.000000000Z", "2026-01-02T15:00:04.000000000Z", 3] == [
        first[n] for n in ("symbol", "from", "to", "revision")
    ]
    assert "2026-01-02T15:00:10.000000000Z" == last["from"]


def test_announced_numbers(coinbase: CoinbaseExchange, follow):
    """A heartbeat names the last trade: what was not sent by then is a gap, told within a second, and 0 says nothing."""
    following = begun(follow(products(coinbase)), coinbase)
    coinbase.beat(last_trade_id=41)
    coinbase.publish(coinbase_match(42))
    coinbase.beat(last_trade_id=42)
    coinbase.beat(last_trade_id=0)
    coinbase.beat(last_trade_id=45)
    coinbase.publish(coinbase_match(46))
    following.until(lambda: len(following.values("trades")) == 2)
    assert [("announced and not sent", 42, 46, 3, False)] == numbered(following)


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [([], (42, 43, 0, True)), ([43, 44, 45], (42, 45, 2, False))],
    ids=["nothing missed", "three trades"],
)
def test_numbers_after_a_loss(coinbase: CoinbaseExchange, follow, meanwhile: list[int], expected: tuple):
    """Behind a lost connection the numbers say how much is missing: nothing, it may turn out."""
    following = begun(follow(products(coinbase)), coinbase)
    coinbase.publish(coinbase_match(41), coinbase_match(42))
    following.until(lambda: len(following.values("trades")) == 2)
    coinbase.drop()
    coinbase.publish(*(coinbase_match(n) for n in meanwhile))  # to nobody
    lost_and_back(following, coinbase, "broken off")
    if not meanwhile:
        coinbase.beat(last_trade_id=42)
    following.until(lambda: following.gaps()[-1]["next_sequence"] is not None)
    following.until(lambda: len(following.values("trades")) == 3)
    assert [("broken off", *expected)] == numbered(following)
    # what is sent again on subscribing is a record as any: its contract's key says that it is the same trade
    assert [41, 42, (meanwhile or [42])[-1]] == [json.loads(v)["trade_id"] for v in following.values("trades")]


def test_a_gap_is_stored_before_what_follows_it(coinbase: CoinbaseExchange, follow):
    """Nothing behind a gap is said before its record is stored: a process that is killed leaves no hole that nobody tells of."""
    following = begun(follow(products(coinbase)), coinbase)
    coinbase.publish(coinbase_match(1))
    following.until(lambda: len(following.values("trades")) == 1)
    following.storing = False
    coinbase.publish(coinbase_match(4))
    following.until(lambda: numbered(following) == [("numbers are missing", 1, 4, 2, False)])
    coinbase.publish(coinbase_match(5))
    for _ in range(20):
        following.poll()
    assert 1 == len(following.values("trades"))
    following.store("gaps")
    following.until(lambda: len(following.values("trades")) == 3)


def test_what_comes_late_is_stored_before_a_gap_says_so(coinbase: CoinbaseExchange, follow):
    """That less is missing is said when what came late is stored, and holds up nothing else."""
    following = begun(follow(products(coinbase)), coinbase)
    coinbase.publish(coinbase_match(1), coinbase_match(3), coinbase_match(2), coinbase_match(4))
    following.until(lambda: len(following.values("trades")) == 4)
    for _ in range(20):
        following.poll()
    assert [("numbers are missing", 1, 3, 1, False)] == numbered(following)
    following.store()
    following.until(lambda: numbered(following) == [("numbers are missing", 1, 3, 0, True)])


def test_numbers_before_the_confirmation():
    """A message that comes before the subscription is confirmed counts: it is not missing."""
    gaps = Gaps(feed="f", symbols=("A",), producer="p", run="p")
    gaps.begin("started", None)
    gaps.count(["A"], [42], 1)
    gaps.end(2)
    gaps.count(["A"], [43], 3)
    gaps.begin("broken off", 4)
    gaps.count(["A", "A"], [43, 46], 5)  # one that was sent before, and the first new one
    gaps.end(6)
    gaps.count(["A"], [47], 7)
    gaps.begin("broken off", 8)
    gaps.begin("broken off again", 9)  # it is open
    gaps.end(10)
    gaps.count(["A"], [48], 11)
    gaps.begin("counted anew", 12)
    gaps.end(13)
    gaps.count(["A", "A"], [-5000, -4999], 14)
    last = {gap["id"]: gap for gap in (json.loads(value) for _, value, _ in gaps.out)}
    assert [("started", None, None, None), ("broken off", 43, 46, 2), ("broken off", 47, 48, 0)] == [
        (gap["cause"], gap["last_sequence"], gap["next_sequence"], gap["missing"]) for gap in last.values()
    ][:3]
    assert [("counted anew", 48, -5000, None)] == [
        (gap["cause"], gap["last_sequence"], gap["next_sequence"], gap["missing"]) for gap in last.values()
    ][3:]


def test_gap_of_a_gap(coinbase: CoinbaseExchange, follow):
    """Connections that fail one after the other are one gap, from the last message to the first subscription."""
    following = begun(follow(products(coinbase)), coinbase)
    following.clock.pass_s(1)
    coinbase.publish(coinbase_match(1))
    following.until(lambda: bool(following.values("trades")))
    coinbase.refuses = [503, 503]
    coinbase.drop()
    for n in (1, 2, 3):
        following.until(lambda n=n: len(following.clock.waits) == n)
        following.clock.pass_s(following.clock.waits[-1])
    following.until(lambda: not following.open_gaps())
    (_, gap) = following.gaps()
    assert ("broken off", "2026-01-02T15:00:01.000000000Z", "2026-01-02T15:00:08.000000000Z") == (
        gap["cause"], gap["from"], gap["to"]
    )  # fmt: skip


# ---- a slow sink, and ends ------------------------------------------------------------------------------------


def test_back_pressure(plain: PlainExchange, follow, caplog: pytest.LogCaptureFixture):
    """
    What is not taken stays with the exchange: memory is bounded, nothing is dropped, and it is said.

    When the exchange drops us for it, that is a gap, and what was received before is still there.
    """
    following = begun(follow(any_feed(plain, sequence="n"), queue_bytes=10_000), plain)
    backlog, message = following.source._backlog, b'{"s":"A","n":%d,"x":"' + b"x" * 1000 + b'"}'
    following.source.move(dict.fromkeys(following.source._kinds.values()))  # the pipeline has no memory left
    sent = 0
    while not backlog.full:
        plain.send(message % (sent := sent + 1))
    for _ in range(100):
        plain.send(message % (sent := sent + 1))
    following.poll()
    assert backlog.held_bytes < 10_000 + 1_200
    assert "messages" not in following.said
    following.source.move({p: Start(n, None, 1) for p, n in following.source._next.items()})
    following.until(lambda: len(following.values("messages")) == sent)
    assert list(range(1, sent + 1)) == [json.loads(v)["n"] for v in following.values("messages")]
    assert "feed comes faster than it is stored" in caplog.text
    following.source.move(dict.fromkeys(following.source._kinds.values()))
    while not backlog.full:
        plain.send(message % (sent := sent + 1))
    plain.drop()
    following.source.move({p: Start(n, None, 1) for p, n in following.source._next.items()})
    following.until(lambda: bool(following.clock.waits))
    following.until(lambda: len(following.open_gaps()) == 2)
    assert {"broken off (behind)"} == {g["cause"] for g in following.gaps() if g["to"] is None}
    assert list(range(1, len(following.values("messages")) + 1)) == [
        json.loads(v)["n"] for v in following.values("messages")
    ]


@pytest.mark.parametrize("away_s", [0, 600])
def test_what_waited_does_not_say_when_a_gap_begins(alpaca: AlpacaExchange, follow, away_s: float):
    """
    What is taken long after it came says nothing of the time since. Where the exchange dropped us meanwhile the gap begins when
    all was taken last: with the moment at which we came back, what was sent in between would be in no gap, nor fetched.
    """
    following = begun(follow(stocks(alpaca, silence_s=1e9), queue_bytes=5_000), alpaca)
    backlog = following.source._backlog
    following.clock.pass_s(1)
    alpaca.publish(*(alpaca_trade(n) for n in range(2_000)))
    until(lambda: backlog.full)  # and nobody polls
    alpaca.drop()
    following.clock.pass_s(away_s)
    following.until(lambda: following.open_gaps() == ["AAPL"])
    gap = following.gaps()[-1]
    assert ("broken off (behind)", "2026-01-02T15:00:01.000000000Z") == (gap["cause"], gap["from"])
    following.until(lambda: len(following.values("trades")) == 2_000)  # and what had come is there


def test_a_process_that_stood_still(alpaca: AlpacaExchange, follow):
    """Who wakes up asks again, and takes nothing for new before the answer, which comes behind all that waited."""
    following = begun(follow(stocks(alpaca, silence_s=1e9), ping_every_s=1e9), alpaca)
    following.clock.pass_s(60)
    alpaca.frozen = True
    supervisor, before_ns = following.source._supervisor, following.clock.day_ns
    for _ in range(4):
        following.poll()
    assert before_ns == supervisor._heard_ns
    alpaca.frozen = False
    following.clock.pass_s(1)
    alpaca.drop()
    gap = lost_and_back(following, alpaca, "broken off")
    assert "2026-01-02T15:00:00.000000000Z" == gap["from"]
    following.clock.pass_s(60)
    following.until(lambda: supervisor._heard_ns == following.clock.ns())


def test_end(alpaca: AlpacaExchange, follow):
    """At the end nothing that was received is left behind, and the log says from when on nobody listened."""
    following = begun(follow(stocks(alpaca)), alpaca)
    alpaca.publish(*(alpaca_trade(n) for n in range(500)))
    while len(following.source._backlog) < 500:
        following.source._backlog.wait_for_room(lambda: True)
    following.finish()
    assert 500 == len(following.values("trades"))
    assert [("stopped", None)] == [(g["cause"], g["to"]) for g in following.gaps() if g["cause"] != "started"]
    assert () == tuple(following.source.finish())


def test_end_in_a_gap(coinbase: CoinbaseExchange, follow):
    """A gap that lasts when the run is stopped says so, a symbol that was complete until then has one of its own."""
    following = begun(follow(products(coinbase, "BTC-USD", "ETH-USD"), backfill=False), coinbase)
    coinbase.refuses = [503] * 9
    coinbase.drop()
    following.until(lambda: bool(following.clock.waits))
    gaps = following.source._supervisor.gaps
    gaps.end(following.clock.ns(), ["ETH-USD"])
    gaps._be_unsure(gaps._open["BTC-USD"])  # a number of it came late, on a connection that was not complete yet
    following.finish()
    assert [("BTC-USD", "broken off, then stopped"), ("ETH-USD", "stopped")] == [
        (g["symbol"], g["cause"]) for g in following.gaps() if g["to"] is None
    ]


@pytest.mark.parametrize("at", [500, 1])
def test_sink_that_stands_elsewhere(alpaca: AlpacaExchange, follow, at: int):
    """
    What a sink refused, because another one wrote there, is gone, and is told as a gap; numbers go on from where it stands.

    So it is where the other one wrote just as many: the assignment is another one then.
    """
    following = begun(follow(stocks(alpaca)), alpaca)
    following.clock.pass_s(1)
    alpaca.publish(alpaca_trade(1))
    following.until(lambda: bool(following.values("trades")))
    following.clock.pass_s(1)
    following.storing = False
    stored = len(following.values("gaps"))
    following.source.move({Partition("alpaca.iex.trades", 0): Start(at, None, 2)})
    alpaca.publish(alpaca_trade(2))
    following.until(lambda: len(following.values("gaps")) > stored)
    gap = following.gaps()[-1]
    assert ("2026-01-02T15:00:01.000000000Z", "2026-01-02T15:00:02.000000000Z") == (gap["from"], gap["to"])
    assert "not stored" in gap["cause"]
    # gap records themselves are said again, behind what is there
    said = following.values("gaps")[stored:]
    gaps_at = 70 if at == 500 else following.source._next[Partition("alpaca.iex.gaps", 0)]
    following.source.move({Partition("alpaca.iex.gaps", 0): Start(gaps_at, None, 3)})
    following.until(lambda: len(following.values("gaps")) == stored + 2 * len(said))
    assert said == following.values("gaps")[stored + len(said) :]
    assert gaps_at == following.said["gaps"][-len(said)].offset
    following.store("gaps")
    following.until(lambda: len(following.values("trades")) == 2)
    assert [0, at] == [r.offset for r in following.said["trades"]]
    following.store()
    following.source.move({Partition("alpaca.iex.gaps", 0): Start(90, None, 4)})
    following.poll()
    assert len(following.values("gaps")) == stored + 2 * len(said)

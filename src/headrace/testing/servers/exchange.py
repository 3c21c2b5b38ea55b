"""
An exchange on this machine: speaks as Alpaca's and Coinbase's streams do, and fails as they do.

It was written from the exchanges' documentation and from recorded messages; no real exchange was asked. What it sends, it sends
when it is told to: there is no timer in it, so that a test decides about every message.
"""

from __future__ import annotations

import contextlib
import http
import json
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

import attrs
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

_PATIENCE_S = 30.0
_SILENT = logging.Logger("headrace.testing.exchange", logging.CRITICAL + 1)  # noqa: LOG001 - a line a frame is too much of a flood


@attrs.frozen
class Answer:
    """What the history says: an HTTP status, what becomes JSON, and headers."""

    status: int
    content: object
    headers: Mapping[str, str] = attrs.field(factory=dict)


class _Connection(ServerConnection):
    """A connection that can go silent as one whose other end has lost its power: nothing is sent, nothing is closed."""

    exchange: Exchange

    def send_data(self) -> None:
        if self.exchange.frozen:
            self.protocol.data_to_send()
        else:
            super().send_data()


@attrs.define(kw_only=True, eq=False)
class Exchange(ABC):
    """
    Listens on a port of 127.0.0.1; use it as a context.

    Attributes:
        port: 0 takes a free one; the same port may be given to the next one.

        refuses: HTTP statuses for the next handshakes, one each; they are used up.

        answers: Headers of such a refusal.

        frozen: Connections are up, and nothing comes out of them any more, not even answers to pings.

        accepts_and_closes: So many connections are closed as soon as they are there.

        keeps: What is published is kept, and can be asked for over HTTP, as the exchange's history: `history_address`.

        page: Messages in one page of it, at the most.

        faults: For the next questions to the history, one each; they are used up: an HTTP status, "cut" (the body breaks off),
            "late" (the newest message is not there yet), "wrong" (something else than what was asked for), "hold" (no answer
            before `held` is set); "" is none.

        limits: Headers of such a refusal.

        held: Lets answers go that are held.

        asked: The questions to the history, oldest first.

        connections: How many there have been.

        heard: What clients have sent, oldest first.
    """

    port: int = 0
    refuses: list[int] = attrs.field(factory=list)
    answers: Mapping[str, str] = attrs.field(factory=dict)
    frozen: bool = False
    accepts_and_closes: int = 0
    keeps: bool = False
    page: int = 1_000
    faults: list[int | str] = attrs.field(factory=list)
    limits: Mapping[str, str] = attrs.field(factory=dict)
    held: threading.Event = attrs.field(factory=threading.Event)
    published: list[dict[str, Any]] = attrs.field(factory=list, init=False)
    asked: list[str] = attrs.field(factory=list, init=False)
    connections: int = attrs.field(default=0, init=False)
    heard: list[Any] = attrs.field(factory=list, init=False)
    _open: dict[ServerConnection, set[str]] = attrs.field(factory=dict, init=False)  # what each is subscribed to
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _server: Server | None = attrs.field(default=None, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._server = serve(
            self._handle,
            "127.0.0.1",
            self.port,
            process_request=self._refuse,
            create_connection=type("Connection", (_Connection,), {"exchange": self}),
            ping_interval=None,
            close_timeout=1,
            max_size=1 << 20,
            logger=_SILENT,
        )
        self.port = int(self._server.socket.getsockname()[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="exchange", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self.held.set()
        self.drop()
        self._server.shutdown()
        self._thread.join(_PATIENCE_S)

    @property
    def address(self) -> str:
        """Where a client connects to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def history_address(self) -> str:
        """Where a client asks for what was published."""
        return f"http://127.0.0.1:{self.port}"

    # ---- what a test does ---------------------------------------------------------------------------------

    def publish(self, *messages: Mapping[str, Any] | bytes) -> None:
        """Send messages to every client that has subscribed to their symbols, framed as this exchange frames them."""
        if self.keeps:
            self.published += [dict(m) for m in messages if not isinstance(m, bytes)]
        encoded = [m if isinstance(m, bytes) else json.dumps(m, separators=(",", ":")).encode() for m in messages]
        for frame in self.frames(encoded):
            self.send(frame)

    def send(self, frame: bytes | str, *, text: bool = True) -> None:
        """Send one frame, whatever is in it, to every client that has subscribed."""
        for connection in self.subscribed():
            with contextlib.suppress(ConnectionClosed):
                connection.send(frame, text=text)

    def drop(self) -> None:
        """Break all connections off, without a word: the next one is a new one."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        self.wait(lambda: not self._open)

    def close(self, code: int = 1012, reason: str = "scheduled maintenance") -> None:
        """Close all connections as an exchange does before a maintenance."""
        for connection in list(self._open):
            connection.close(code, reason)
        self.wait(lambda: not self._open)

    def subscribed(self) -> list[ServerConnection]:
        """The connections that have subscribed to something."""
        with self._changed:
            return [c for c, symbols in self._open.items() if symbols]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until it is true; it is asked again whenever a client came, went or said something."""
        with self._changed:
            if not self._changed.wait_for(condition, _PATIENCE_S):
                raise TimeoutError(f"it did not come true in {_PATIENCE_S:g} s; clients said {self.heard[-5:]}")

    def wait_for_clients(self, count: int = 1) -> None:
        """Wait until so many clients are subscribed."""
        self.wait(lambda: len([s for s in self._open.values() if s]) >= count)

    # ---- what an exchange is ------------------------------------------------------------------------------

    @abstractmethod
    def frames(self, messages: Sequence[bytes]) -> Iterable[bytes]:
        """Put messages into frames."""

    @abstractmethod
    def talk(self, connection: ServerConnection, said: Iterator[Any]) -> None:
        """Speak with one client, until it has nothing more to say."""

    def subscribe(self, connection: ServerConnection, symbols: Iterable[str]) -> None:
        """This client gets these symbols from now on."""
        with self._changed:
            self._open[connection] |= set(symbols)
            self._changed.notify_all()

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], kept: int) -> Answer:
        """Answer a question to the history; of what was published the first *kept* are there."""
        raise NotImplementedError

    # ---- history ------------------------------------------------------------------------------------------

    def _history(self, connection: ServerConnection, request: Request) -> Response:
        with self._changed:
            self.asked.append(request.path)
            fault = self.faults.pop(0) if self.faults else ""
            self._changed.notify_all()
        if fault == "hold":
            self.held.wait(_PATIENCE_S)
        url = urlsplit(request.path)
        kept = len(self.published) - (fault == "late")
        if isinstance(fault, int):
            answer = Answer(fault, {"message": "refused"}, self.limits)
        else:
            query = {} if fault == "wrong" else dict(parse_qsl(url.query))
            path = "/nothing" if fault == "wrong" else url.path
            answer = self.answer(path, query, request.headers, kept)
        response = connection.respond(http.HTTPStatus(answer.status), "")
        body = json.dumps(answer.content, separators=(",", ":")).encode()
        response.body = body[: len(body) // 2] if fault == "cut" else body
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **answer.headers,
        }.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response

    # ---- connections --------------------------------------------------------------------------------------

    def _refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.keeps and "Upgrade" not in request.headers:
            return self._history(connection, request)
        if not self.refuses:
            return None
        response = connection.respond(http.HTTPStatus(self.refuses.pop(0)), "refused\n")
        for name, value in self.answers.items():
            response.headers[name] = value
        with self._changed:
            self.connections += 1
            self._changed.notify_all()
        return response

    def _handle(self, connection: ServerConnection) -> None:
        with self._changed:
            self.connections += 1
            self._open[connection] = set()
            self._changed.notify_all()
        try:
            if self.accepts_and_closes:
                self.accepts_and_closes -= 1
                connection.close(1013, "try again later")
                return
            self.talk(connection, self._said(connection))
        except ConnectionClosed:
            pass
        finally:
            with self._changed:
                del self._open[connection]
                self._changed.notify_all()

    def _said(self, connection: ServerConnection) -> Iterator[Any]:
        for frame in connection:
            said = json.loads(frame)
            with self._changed:
                self.heard.append(said)
                self._changed.notify_all()
            yield said


@attrs.define(kw_only=True, eq=False)
class AlpacaExchange(Exchange):
    """
    Speaks as ``wss://stream.data.alpaca.markets/v2/iex`` does: frames are arrays.

    Attributes:
        key: The right one.

        secret: The right one.

        most: Connections at a time; one more gets error 406 and is closed.

        array: Messages in one frame, at the most.

        assets: What it lists.
    """

    key: str = "key"
    secret: str = "secret"  # noqa: S105 - of this server alone
    most: int = 1
    array: int = 100
    assets: Sequence[str] = ("AAPL", "AMD", "MSFT")

    def frames(self, messages: Sequence[bytes]) -> Iterator[bytes]:
        for i in range(0, len(messages), self.array):
            yield b"[" + b",".join(messages[i : i + self.array]) + b"]"

    def talk(self, connection: ServerConnection, said: Iterator[Any]) -> None:
        self._say(connection, T="success", msg="connected")
        channels: dict[str, list[str]] = {}
        for words in said:
            if words.get("action") == "auth":
                if (words.get("key"), words.get("secret")) != (self.key, self.secret):
                    self._say(connection, T="error", code=402, msg="auth failed")
                    return
                if len(self.subscribed()) >= self.most:
                    self._say(connection, T="error", code=406, msg="connection limit exceeded")
                    return
                self._say(connection, T="success", msg="authenticated")
            elif words.get("action") == "subscribe":
                for channel, symbols in words.items():
                    if channel != "action":
                        channels[channel] = sorted({*channels.get(channel, ()), *symbols})
                also = {"corrections": channels.get("trades", []), "cancelErrors": channels.get("trades", [])}
                self._say(connection, T="subscription", **{**channels, **also})
                self.subscribe(connection, (s for symbols in channels.values() for s in symbols))
            else:
                self._say(connection, T="error", code=400, msg="invalid syntax")

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], kept: int) -> Answer:
        """As ``/v2/stocks/{symbol}/trades``, ``quotes`` and ``bars`` do: pages in the order of time; and ``/v2/assets``."""
        if (headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")) != (self.key, self.secret):
            return Answer(401, {"message": "unauthorized."})
        if path == "/v2/assets":
            return Answer(200, [{"symbol": symbol, "status": query["status"]} for symbol in self.assets])
        *_, symbol, kind = path.split("/")
        if kind not in (types := {"trades": "t", "quotes": "q", "bars": "b"}):
            return Answer(200, {"trades": [{}], "symbol": "ZZZZ", "next_page_token": None})
        begin = query.get("page_token", "0")
        if not begin.isdecimal():
            return Answer(400, {"message": "invalid page_token"})
        found = sorted(
            (
                m
                for m in self.published[:kept]
                if (m.get("T"), m.get("S")) == (types[kind], symbol) and _within(m["t"], query)
            ),
            key=lambda m: m["t"],
        )
        shown = found[int(begin) : int(begin) + min(self.page, int(query["limit"]))]
        following = int(begin) + len(shown)
        values = [{n: v for n, v in m.items() if n not in ("T", "S")} for m in shown]
        token = str(following) if following < len(found) else None
        return Answer(200, {kind: values or None, "symbol": symbol, "next_page_token": token})

    def error(self, code: int, text: str) -> None:
        """Tell every client of an error, as 407 "slow client"."""
        for connection in self.subscribed():
            self._say(connection, T="error", code=code, msg=text)

    @staticmethod
    def _say(connection: ServerConnection, **words: object) -> None:
        connection.send(json.dumps([words]))


@attrs.define(kw_only=True, eq=False)
class CoinbaseExchange(Exchange):
    """
    Speaks as ``wss://ws-feed.exchange.coinbase.com`` does: a frame is one message.

    Attributes:
        products: Those that it has; others are refused.

        last: By product its last trade, which is sent again to whoever subscribes.
    """

    products: Sequence[str] = ("BTC-USD", "ETH-USD")
    last: dict[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def frames(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        return messages

    def talk(self, connection: ServerConnection, said: Iterator[Any]) -> None:
        for words in said:
            products, channels = words["product_ids"], words["channels"]
            wrong = [p for p in products if p not in self.products]
            if wrong:
                reason = f"{wrong[0]} is not a valid product"
                connection.send(json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason}))
                return
            given = [{"name": channel, "product_ids": products} for channel in channels]
            connection.send(json.dumps({"type": "subscriptions", "channels": given}))
            for product in products:
                if product in self.last:
                    connection.send(json.dumps({**self.last[product], "type": "last_match"}))
            self.subscribe(connection, products)

    def publish(self, *messages: Mapping[str, Any] | bytes) -> None:
        self.last |= {m["product_id"]: m for m in messages if not isinstance(m, bytes) and m.get("type") == "match"}
        super().publish(*messages)

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], kept: int) -> Answer:
        """As ``/products/{product}/trades`` does: the newest page first, older ones by a cursor; and ``/products``."""
        if path == "/products":
            return Answer(200, [{"id": product, "status": "online"} for product in self.products])
        if not path.endswith("/trades"):
            return Answer(200, {"message": "NotFound"})
        product = path.split("/")[-2]
        if product not in self.products:
            return Answer(404, {"message": "NotFound"})
        before = int(query.get("after", 1 << 62))
        known = {
            m["trade_id"]: m
            for m in self.published[:kept]
            if (m.get("type"), m.get("product_id")) == ("match", product)
        }
        ids = sorted((n for n in known if n < before), reverse=True)[: min(self.page, int(query["limit"]))]
        names = ("trade_id", "side", "size", "price", "time")
        found = [{name: known[n][name] for name in names} for n in ids]
        return Answer(200, found, {"CB-AFTER": str(ids[-1]), "CB-BEFORE": str(ids[0])} if ids else {})

    def beat(self, product: str = "BTC-USD", last_trade_id: int = 0) -> None:
        """Send a heartbeat, as is done each second."""
        time = "2026-01-02T15:00:00.000000Z"
        beat = {
            "type": "heartbeat",
            "sequence": last_trade_id * 3,
            "last_trade_id": last_trade_id,
            "product_id": product,
        }
        self.publish({**beat, "time": time})


@attrs.define(kw_only=True, eq=False)
class PlainExchange(Exchange):
    """
    Speaks no language of its own: whoever says something gets everything, a message a frame.

    Attributes:
        reading: While it is not set nothing that clients say is read, though pings are answered: as by most servers' libraries.

        confirms: What it answers when it has subscribed a client; "": nothing.
    """

    confirms: str = ""
    reading: threading.Event = attrs.field(factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self.reading.set()

    def frames(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        return messages

    def talk(self, connection: ServerConnection, said: Iterator[Any]) -> None:
        self.reading.wait(_PATIENCE_S)
        for _ in said:
            self.subscribe(connection, ("*",))
            if self.confirms:
                connection.send(self.confirms)


def _within(time: str, query: Mapping[str, str]) -> bool:
    return query["start"] <= time <= query["end"]


def alpaca_trade(number: int, symbol: str = "AAPL", **other: object) -> dict[str, Any]:
    """Make a trade as Alpaca documents it; its id is the number, its time so many milliseconds behind 15:00."""
    time = f"2026-01-02T15:{number // 60_000 % 60:02d}:{number // 1000 % 60:02d}.{number % 1000:03d}838225Z"
    trade = {"T": "t", "S": symbol, "i": number, "x": "K", "p": 162.92, "s": 3, "c": ["@", "F", "T", "I"], "z": "C"}
    return {**trade, "t": time, **other}


def coinbase_match(number: int, product: str = "BTC-USD", **other: object) -> dict[str, Any]:
    """Make a match as it was recorded of Coinbase; its trade_id is the number."""
    time = f"2026-01-02T15:{number // 60_000 % 60:02d}:{number // 1000 % 60:02d}.{number % 1000:03d}000Z"
    match = {"type": "match", "trade_id": number, "side": "sell", "size": "985", "price": "0.00001305"}
    return {**match, "product_id": product, "sequence": number * 3, "time": time, **other}

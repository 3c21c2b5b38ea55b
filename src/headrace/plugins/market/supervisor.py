"""Keeps one connection to a feed, and says of every moment without one that something may be missing."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.backoff import Backoff
from headrace.plugins.market.feed import GAPS, Feed, FeedLostError, FeedRefusedError, Heard, Messages
from headrace.plugins.market.gaps import Gaps

_log = logging.getLogger("headrace.market")

_SILENT = logging.Logger("headrace.market.websocket", logging.CRITICAL + 1)  # noqa: LOG001 - of nobody's tree
"""The client library writes frames and headers into its log, and with them credentials: it gets one that nobody reads."""

_TICK_S = 0.05
"""A connection that says nothing is looked at so often."""

_TOO_MANY = 429
_CREDENTIALS = (401, 403)
_WRONG_PLACE = (400, 404, 405, 410, 426)
_TOO_MANY_WAIT_S = 60.0


@attrs.define(eq=False)
class _Connection:
    """What is known of one connection."""

    id: bytes
    now_s: float
    heard_s: float = attrs.field(init=False)  # when anything came last, by the clock
    data_s: float = attrs.field(init=False)  # when a message that is kept came last
    pinged_s: float = attrs.field(init=False)
    looked_s: float = attrs.field(init=False)
    subscribed_s: float | None = attrs.field(default=None, init=False)
    pong: threading.Event | None = attrs.field(default=None, init=False)
    pinged_ns: int = attrs.field(default=0, init=False)
    answered_ns: int | None = attrs.field(default=None, init=False)  # when a ping was sent whose answer came
    records: int = attrs.field(default=0, init=False)
    behind: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.heard_s = self.data_s = self.pinged_s = self.looked_s = self.now_s


@attrs.define(kw_only=True, eq=False)
class Supervisor:
    """
    Connects, subscribes, receives into a backlog, and connects again: for ever, unless the exchange refuses us.

    One connection at a time. `run` is for a thread of its own; `stop` may be called from any.

    Attributes:
        feed: What is followed.

        backlog: Where the records go. While it is full nothing is received: the exchange sees a slow client.

        gaps: What may be missing.

        backoff: When to connect again.

        open_timeout_s: How long a connection may take to be there.

        subscribe_timeout_s: How long it may take from there until the exchange has taken the subscription.

        ping_every_s: A quiet connection is asked so often whether it is still there.

        ping_timeout_s: How long the answer may take.

        max_message_bytes: A frame of more ends the connection.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.

        error: Why it ended, if it did not end by `stop`.
    """

    feed: Feed
    backlog: Backlog
    gaps: Gaps
    backoff: Backoff
    open_timeout_s: float
    subscribe_timeout_s: float
    ping_every_s: float
    ping_timeout_s: float
    max_message_bytes: int
    clock: Callable[[], float] = time.monotonic
    now_ns: Callable[[], int] = time.time_ns
    error: BaseException | None = attrs.field(default=None, init=False)
    connections: int = attrs.field(default=0, init=False)
    _stopping: threading.Event = attrs.field(factory=threading.Event, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)  # of the gaps
    _heard_ns: int | None = attrs.field(default=None, init=False)  # nothing that was sent before is missing
    _ever: bool = attrs.field(default=False, init=False)  # a connection was there before
    _id: bytes = attrs.field(default=b"", init=False)

    def run(self) -> None:
        """Receive until `stop`, or until the exchange refuses us: then `error` says why."""
        try:
            self._begin_gap("started")
            failures = 0
            while not self._stopping.is_set():
                lost, useful = self._connect()
                failures = 1 if useful else failures + 1
                if not self._stopping.is_set():
                    self._rest(lost, failures)
            self._begin_gap("stopped")
        except BaseException as error:  # noqa: BLE001 - whoever polls raises it
            self._begin_gap("refused" if isinstance(error, ConfigError) else "failed")
            self.error = error

    def stop(self) -> None:
        """End soon. What was received stays in the backlog."""
        self._stopping.set()

    def tell_gap(self, cause: str, from_ns: int | None) -> None:
        """Record that something is missing up to now that was received, and could not be kept."""
        with self._lock:
            self.gaps.between(cause, from_ns, self.now_ns())
            self._put_gaps()

    # ---- one connection -----------------------------------------------------------------------------------

    def _connect(self) -> tuple[FeedLostError, bool]:
        """Have one connection for as long as it lasts. Return why it ended, and whether it was of use for a while."""
        self.connections += 1
        self._id = f"{self.gaps.producer}-{self.connections}".encode()
        state = _Connection(self._id, self.clock())
        try:
            self._converse(state)
            lost = FeedLostError("stopped")
        except FeedLostError as error:
            lost = error
        except ConnectionClosed as error:
            lost = FeedLostError(_closed(error))
        except InvalidStatus as error:
            lost = self._status(error)
        except InvalidURI as error:
            raise FeedRefusedError(f"{self.feed.safe_url}: no address of a WebSocket: ws://… or wss://…") from error
        except ssl.SSLCertVerificationError as error:
            if not self._ever:
                raise FeedRefusedError(
                    f"{self.feed.safe_url}: its certificate cannot be verified ({error.verify_message}); check the address"
                    " and this machine's certificates"
                ) from error
            lost = FeedLostError("its certificate cannot be verified")
        except (OSError, EOFError, WebSocketException) as error:
            lost = FeedLostError(f"not reached: {type(error).__name__}" if state.subscribed_s is None else "broken off")
            log_event(_log, logging.DEBUG, "connection failed", feed=self.feed.name, error=repr(error)[:200])
        if state.behind:
            lost = FeedLostError(f"{lost.cause} (behind)", lost.wait_s)
        useful = state.subscribed_s is not None and self.clock() - state.subscribed_s >= self.backoff.steady_s
        if not self._stopping.is_set():
            self._begin_gap(lost.cause)
        return lost, useful

    def _converse(self, state: _Connection) -> None:
        with connect(
            self.feed.url(),
            additional_headers=dict(self.feed.headers()),
            open_timeout=self.open_timeout_s,
            close_timeout=1.0,
            ping_interval=None,  # here it is done by a clock that tests can turn
            max_size=self.max_message_bytes,
            logger=_SILENT,
        ) as socket:
            self._ever = True
            dialogue = self.feed.dialogue()
            state.heard_s = state.data_s = state.pinged_s = state.now_s = self.clock()
            self._take(state, socket, dialogue.begin())
            while not self._stopping.is_set():
                if self.backlog.full and not self._wait_for_room(state):
                    return
                frame = _received(socket)
                if frame is None and state.answered_ns is not None:
                    # all that came before the answer was taken: what was sent before the ping is here
                    self._heard_ns, state.answered_ns = state.answered_ns, None
                elif frame is not None:
                    self._take(state, socket, dialogue.hear(frame))
                self._look(state, socket)

    def _take(self, state: _Connection, socket: ClientConnection, heard: Heard) -> None:
        """Answer; put what came into the backlog, and what its numbers say of what did not."""
        heard_ns, state.heard_s = self.now_ns(), self.clock()
        for words in heard.replies:
            socket.send(words)
        if heard.messages:
            state.data_s = state.heard_s
            self.backlog.put([self._chunk(state, m, heard_ns) for m in heard.messages])
        with self._lock:
            if heard.subscribed and state.subscribed_s is None:
                state.subscribed_s = state.heard_s
                self.gaps.end(heard_ns)
                log_event(_log, logging.INFO, "subscribed", feed=self.feed.name, connection=state.id.decode())
            for m in heard.messages:
                if m.numbers is not None:
                    self.gaps.count(m.symbols, m.numbers, heard_ns)
            if heard.latest:
                self.gaps.latest(heard.latest, heard_ns)
            if state.subscribed_s is not None:
                self._heard_ns = heard_ns
            self._put_gaps()

    def _chunk(self, state: _Connection, messages: Messages, heard_ns: int) -> Chunk:
        received = ("headrace.received_ns", b"%d" % heard_ns)
        connection = ("headrace.connection", state.id)
        first, count = state.records + 1, len(messages.values)
        state.records += count
        keys = [None if symbol is None else symbol.encode() for symbol in messages.symbols]
        numbers = [b"%d" % n for n in range(first, first + count)]
        headers = [(received, connection, ("headrace.sequence", n)) for n in numbers]
        names = len("headrace.received_ns") + len("headrace.connection") + len("headrace.sequence")
        nbytes = count * (names + len(received[1]) + len(state.id)) + sum(map(len, numbers))
        nbytes += sum(map(len, messages.values)) + sum(len(k) for k in keys if k is not None)
        return Chunk(messages.kind, heard_ns, keys, messages.values, headers, nbytes)

    # ---- whether it is alive ------------------------------------------------------------------------------

    def _look(self, state: _Connection, socket: ClientConnection) -> None:
        """FeedLostError where the connection is dead, or up and silent when it should not be."""
        now_s = self.clock()
        if now_s - state.looked_s < _TICK_S:
            return
        state.looked_s = now_s
        if state.subscribed_s is None and now_s - state.now_s >= self.subscribe_timeout_s:
            raise FeedLostError(f"not subscribed within {self.subscribe_timeout_s:g} s")
        if state.pong is not None and state.pong.is_set():
            state.pong, state.pinged_s = None, now_s
            state.answered_ns = state.pinged_ns if state.subscribed_s is not None else None
        if state.pong is not None and now_s - state.pinged_s >= self.ping_timeout_s:
            raise FeedLostError(f"no answer for {self.ping_timeout_s:g} s")
        if state.pong is None and now_s - max(state.pinged_s, state.heard_s) >= self.ping_every_s:
            state.pinged_ns, state.pinged_s = self.now_ns(), now_s
            state.pong = socket.ping()
        beat_s = self.feed.heartbeat_s
        if beat_s is not None and now_s - state.heard_s >= beat_s:
            raise FeedLostError(f"no heartbeat for {beat_s:g} s")
        if state.subscribed_s is not None:
            quiet_s = self.feed.quiet_s(datetime.fromtimestamp(self.now_ns() / 1e9, UTC))
            if quiet_s is not None and now_s - state.data_s >= quiet_s:
                raise FeedLostError(f"silent for {quiet_s:g} s while the market is open")

    def _wait_for_room(self, state: _Connection) -> bool:
        """Receive nothing until there is room; False where the end came first."""
        if not state.behind:
            state.behind = True
            log_event(
                _log,
                logging.WARNING,
                "feed comes faster than it is stored",
                feed=self.feed.name,
                held_bytes=self.backlog.held_bytes,
                advice="the exchange may drop us; what is lost then is a gap",
            )
        room = self.backlog.wait_for_room(self._stopping.is_set)
        # what did not come while nobody listened says nothing
        state.heard_s = state.data_s = state.pinged_s = self.clock()
        state.pong = None
        return room

    # ---- between connections ------------------------------------------------------------------------------

    def _status(self, error: InvalidStatus) -> FeedLostError:
        """What an HTTP status of the handshake means."""
        status = error.response.status_code
        if status in _CREDENTIALS:
            raise FeedRefusedError(
                f"{self.feed.safe_url}: refused our credentials (HTTP {status}); check {_variables(self.feed)}"
            ) from error
        if status in _WRONG_PLACE and not self._ever:
            raise FeedRefusedError(
                f"{self.feed.safe_url}: no WebSocket there (HTTP {status}); check the address"
            ) from error
        if status == _TOO_MANY:
            after = error.response.headers.get("Retry-After", "")
            return FeedLostError(
                "too many connections (HTTP 429)", float(after) if after.isdecimal() else _TOO_MANY_WAIT_S
            )
        return FeedLostError(f"HTTP {status}")

    def _rest(self, lost: FeedLostError, failures: int) -> None:
        """Wait before the next connection."""
        now_s = self.clock()
        wait_s = self.backoff.wait_s(failures, lost.wait_s)
        log_event(_log, logging.WARNING, "feed lost", feed=self.feed.name, cause=lost.cause, again_in_s=f"{wait_s:.1f}")
        until_s = now_s + wait_s
        while self.clock() < until_s and not self._stopping.is_set():
            self._stopping.wait(min(_TICK_S, max(0.0, until_s - self.clock())))

    def _begin_gap(self, cause: str) -> None:
        with self._lock:
            self.gaps.begin(cause, self._heard_ns)
            self._put_gaps()

    def _put_gaps(self) -> None:
        now_ns = self.now_ns()
        headers = (("headrace.received_ns", b"%d" % now_ns), ("headrace.connection", self._id))
        while self.gaps.out:
            symbol, value = self.gaps.out.pop(0)
            key = symbol.encode()
            nbytes = len(key) + len(value) + sum(len(name) + len(said) for name, said in headers)
            self.backlog.put([Chunk(GAPS, now_ns, [key], [value], [headers], nbytes)])


def _received(socket: ClientConnection) -> bytes | None:
    """The next frame; None where none comes for a moment."""
    try:
        return socket.recv(timeout=_TICK_S, decode=False)
    except TimeoutError:
        return None


def _closed(error: ConnectionClosed) -> str:
    """Why a connection ended, in few words."""
    if error.sent is not None and not error.rcvd_then_sent:
        return {1009: "oversized frame", 1007: "a frame that is no UTF-8", 1002: "broken protocol"}.get(
            error.sent.code, f"closed by us ({error.sent.code})"
        )
    if error.rcvd is None:
        return "broken off"
    reason = " ".join(error.rcvd.reason.split())[:100]
    return f"closed ({error.rcvd.code}{': ' + reason if reason else ''})"


def _variables(feed: Feed) -> str:
    return " and ".join(name for name, _ in feed.credentials()) or "the settings"

"""One connection: what came of it, whether it is alive, and why it ended."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.uri import parse_uri

from headrace.errors import PluginError
from headrace.plugins.market.backlog import Chunk
from headrace.plugins.market.backoff import MOST_SAID_S, left_alone, said_wait_s
from headrace.plugins.market.feed import OTHER, Feed, FeedLostError, FeedRefusedError, Messages

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

SILENT = logging.Logger("headrace.market.websocket", logging.CRITICAL + 1)  # noqa: LOG001 - of nobody's tree
"""The client library writes frames and headers into its log, and with them credentials: it gets one that nobody reads."""

TICK_S = 0.05
"""A connection that says nothing is looked at so often."""

_LATE_S = 1.0
"""Where not all that had come was taken for so long, nobody knows when that came which is taken now."""

_TOO_MANY = 429
_FORBIDDEN = (401, 403)
_WRONG_PLACE = (400, 404, 405, 410, 426)
_TOO_MANY_WAIT_S = 60.0
_RECEIVED, _CONNECTION, _SEQUENCE = "headrace.received_ns", "headrace.connection", "headrace.sequence"


@attrs.frozen(kw_only=True)
class Patience:
    """
    How long things may take, in seconds.

    Attributes:
        open_timeout_s: Until a connection is there.

        subscribe_timeout_s: From there until the exchange has taken the subscription.

        ping_every_s: A quiet connection is asked so often whether it is still there.

        ping_timeout_s: Until the answer.
    """

    open_timeout_s: float
    subscribe_timeout_s: float
    ping_every_s: float
    ping_timeout_s: float


@attrs.define(eq=False)
class Connection:
    """
    What is known of one connection.

    Attributes:
        feed: What it is to.

        id: Its own, for headers.

        patience: How long things may take.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.

        heard_s: When anything came last.

        data_s: When a message that is kept came last.

        held_s: Since when of one symbol at the least nothing is missing; None: not yet.

        subscribed_s: Since when nothing is missing; None: not yet.

        overdue: Not all is confirmed in the time that it may take, but some of it is.

        answered_ns: When a ping was sent whose answer came since; whoever has used that sets it to None.

        asked: It is up, and only a message will show that the exchange has read our words.

        behind: We were too slow for it.
    """

    feed: Feed
    id: bytes
    patience: Patience
    clock: Callable[[], float]
    now_ns: Callable[[], int]
    heard_s: float = attrs.field(default=0.0, init=False)
    data_s: float = attrs.field(default=0.0, init=False)
    held_s: float | None = attrs.field(default=None, init=False)
    subscribed_s: float | None = attrs.field(default=None, init=False)
    overdue: bool = attrs.field(default=False, init=False)
    answered_ns: int | None = attrs.field(default=None, init=False)
    asked: bool = attrs.field(default=False, init=False)
    behind: bool = attrs.field(default=False, init=False)
    _began_s: float | None = attrs.field(default=None, init=False)
    _looked_s: float = attrs.field(default=0.0, init=False)
    _pinged_s: float = attrs.field(default=0.0, init=False)
    _pinged_ns: int = attrs.field(default=0, init=False)
    _pong: threading.Event | None = attrs.field(default=None, init=False)
    _read: threading.Event | None = attrs.field(default=None, init=False)  # the answer to a ping behind our words
    _records: int = attrs.field(default=0, init=False)
    _taken_s: float = attrs.field(default=0.0, init=False)  # when all that had come was taken, last
    _caught: threading.Event | None = attrs.field(default=None, init=False)  # the answer to a ping behind what waits
    _caught_ns: int = attrs.field(default=0, init=False)  # when that was sent

    def listen(self) -> None:
        """Whatever did not come until now says nothing: from now on it does."""
        self.heard_s = self.data_s = self._pinged_s = self._looked_s = self.clock()
        if self._began_s is None:
            self._began_s = self._taken_s = self.heard_s
        self._pong = None

    def chunks(self, messages: Sequence[Messages], heard_ns: int) -> list[Chunk]:
        """Make records of the messages of a frame that came at this moment, numbered as they stand there."""
        first = self._records + 1
        chunks: list[Chunk] = []
        for of_kind in messages:
            behind = self._records + 1
            self._records += len(of_kind.values)
            places = of_kind.places
            numbers = range(behind, self._records + 1) if places is None else [first + place for place in places]
            chunks.append(self._chunk(of_kind, numbers, heard_ns))
        return chunks

    def _chunk(self, messages: Messages, sequence: Sequence[int], heard_ns: int) -> Chunk:
        received, connection = (_RECEIVED, b"%d" % heard_ns), (_CONNECTION, self.id)
        count = len(messages.values)
        keys = [None if symbol is None else symbol.encode() for symbol in messages.symbols]
        numbers = [b"%d" % n for n in sequence]
        headers = [(received, connection, (_SEQUENCE, n)) for n in numbers]
        of_each = len(_RECEIVED) + len(received[1]) + len(_CONNECTION) + len(self.id) + len(_SEQUENCE)
        nbytes = count * of_each + sum(map(len, numbers)) + sum(map(len, messages.values))
        nbytes += sum(len(key) for key in keys if key is not None)
        return Chunk(messages.kind, heard_ns, keys, messages.values, headers, nbytes)

    def ask(self, socket: ClientConnection) -> None:
        """Send a ping behind our words."""
        self._read = socket.ping()

    @property
    def read(self) -> bool:
        """Whether the ping behind our words was answered, and nobody has used that yet."""
        if self._read is None or not self._read.is_set():
            return False
        self._read = None
        return True

    def look(self, socket: ClientConnection) -> None:
        """FeedLostError where the connection is dead, or up and silent when it should not be."""
        now_s = self.clock()
        if now_s - self._looked_s < TICK_S:
            return
        self._looked_s = now_s
        limit_s = self.patience.subscribe_timeout_s
        if self.subscribed_s is None and not self.asked and now_s - (self._began_s or 0.0) >= limit_s:
            if self.held_s is None:
                raise FeedLostError(f"not subscribed within {limit_s:g} s")
            self.overdue = True
        self._ping(socket, now_s)
        beat_s = self.feed.heartbeat_s
        if beat_s is not None and now_s - self.heard_s >= beat_s:
            raise FeedLostError(f"no heartbeat for {beat_s:g} s")
        if self.held_s is not None or self.asked:
            quiet_s = self.feed.quiet_s(datetime.fromtimestamp(self.now_ns() / 1e9, UTC))
            if quiet_s is not None and now_s - self.data_s >= quiet_s:
                raise FeedLostError(f"silent for {quiet_s:g} s while the market is open")

    def _ping(self, socket: ClientConnection, now_s: float) -> None:
        """Ask a quiet connection whether it is still there, and take the answer."""
        if self._pong is not None and self._pong.is_set():
            self._pong, self._pinged_s = None, now_s
            self.answered_ns = self._pinged_ns if self.held_s is not None else None
        if self._pong is not None and now_s - self._pinged_s >= self.patience.ping_timeout_s:
            raise FeedLostError(f"no answer for {self.patience.ping_timeout_s:g} s")
        if self._pong is None and now_s - max(self._pinged_s, self.heard_s) >= self.patience.ping_every_s:
            self._pinged_ns, self._pinged_s = self.now_ns(), now_s
            self._pong = socket.ping()

    @property
    def late(self) -> bool:
        """Whether what is taken now may have come long ago: what was sent since then may be lost with the connection."""
        return self._caught is not None

    def received(self, socket: ClientConnection) -> bytes | None:
        """Return the next frame; None where none comes for a moment."""
        self._be_late(socket)
        answered = self._caught is not None and self._caught.is_set()  # what came before the answer waits by now
        frame = _next(socket, 0.0)
        if frame is None:
            if answered:
                self._caught = None
                self.answered_ns = self._caught_ns if self.held_s is not None else None
            if self._caught is None:  # else the system may hold more
                self._taken_s = self.clock()
            frame = _next(socket, TICK_S)
        self._be_late(socket)  # the process may have stood still meanwhile
        return frame

    def _be_late(self, socket: ClientConnection) -> None:
        """Find out that nobody was here, and ask for an answer, which comes behind all that waits for us."""
        if self._caught is not None or self.clock() - self._taken_s <= _LATE_S:
            return
        self._caught_ns = self.now_ns()
        try:
            self._caught = socket.ping()
        except ConnectionClosed:
            self._caught = threading.Event()  # what came before the end is taken all the same


def kept(messages: Sequence[Messages], feed: Feed) -> list[Messages]:
    """Leave out what is empty; PluginError where a dialogue brings a kind that its feed does not name."""
    found = [of_kind for of_kind in messages if len(of_kind.values)]
    for of_kind in found:
        if of_kind.kind not in feed.kinds and of_kind.kind != OTHER:
            raise PluginError(
                f"feed {feed.name!r}: found messages of kind {of_kind.kind!r}, expected one of its kinds"
                f" ({', '.join(feed.kinds)}) or {OTHER!r}; name it in the feed's kinds, or bring what is of none as {OTHER!r}"
            )
    return found


def _next(socket: ClientConnection, timeout_s: float) -> bytes | None:
    try:
        return socket.recv(timeout=timeout_s, decode=False)
    except TimeoutError:
        return None


def address(feed: Feed) -> str:
    """Return where to connect to. FeedRefusedError where no WebSocket can be; other errors as for `Feed.url`."""
    url = feed.url()
    try:
        parse_uri(url)
    except (InvalidURI, ValueError):
        raise FeedRefusedError(
            f"feed {feed.name!r}: found the address {feed.safe_url!r}, expected ws://HOST:PORT/PATH or wss://…, where a port is"
            " at most 65535 and nothing is behind a '#'"
        ) from None  # the cause has the whole address, and so perhaps a key
    return url


def reason(error: Exception, feed: Feed, *, first: bool, subscribed: bool, now_ns: int) -> FeedLostError:
    """
    Say why a connection ended, in few words.

    Args:
        error: What the client library or the system raised.

        feed: What it was to.

        first: There was none before: what is wrong may be the address.

        subscribed: It was of use.

        now_ns: Nanoseconds since the epoch.

    Raises:
        FeedRefusedError: Connecting again does not help.
    """
    if isinstance(error, ConnectionClosed):
        return FeedLostError(_closed(error))
    if isinstance(error, InvalidStatus):
        return _status(error, feed, first=first, now_ns=now_ns)
    if isinstance(error, ssl.SSLCertVerificationError):
        if first:
            raise FeedRefusedError(
                f"{feed.safe_url}: its certificate cannot be verified ({error.verify_message}); check the address and this"
                " machine's certificates"
            ) from error
        return FeedLostError("its certificate cannot be verified")
    return FeedLostError("broken off" if subscribed else f"not reached: {type(error).__name__}")


def _status(error: InvalidStatus, feed: Feed, *, first: bool, now_ns: int) -> FeedLostError:
    """What an HTTP status of the handshake means."""
    status, headers = error.response.status_code, error.response.headers
    if status in _FORBIDDEN and (variables := " and ".join(name for name, _ in feed.credentials())):
        raise FeedRefusedError(
            f"{feed.safe_url}: refused our credentials (HTTP {status}); check {variables}"
        ) from error
    if status in _FORBIDDEN and first:  # later it passes: what stands before an exchange says so, too
        raise FeedRefusedError(
            f"{feed.safe_url}: does not let us in (HTTP {status}), and we have no key to show: check the address, whether it"
            " wants one, and whether it serves this machine's network"
        ) from error
    if status in _WRONG_PLACE and first:
        raise FeedRefusedError(f"{feed.safe_url}: no WebSocket there (HTTP {status}); check the address") from error
    after, reset = (next(iter(headers.get_all(name)), "") for name in ("Retry-After", "X-RateLimit-Reset"))
    reset = reset if status == _TOO_MANY else ""  # many servers tell the state of a quota with every answer
    said_s = said_wait_s(after, reset, now_ns)
    wait_s = said_s if said_s is not None else _TOO_MANY_WAIT_S if status == _TOO_MANY else 0.0
    cause = f"too many connections (HTTP {status})" if status == _TOO_MANY else f"HTTP {status}"
    return FeedLostError(left_alone(cause, wait_s), min(wait_s, MOST_SAID_S))


def _closed(error: ConnectionClosed) -> str:
    """Why a connection was closed, by whom."""
    if error.sent is not None and not error.rcvd_then_sent:
        words = {1009: "oversized frame", 1007: "a frame that is no UTF-8", 1002: "broken protocol"}
        return words.get(error.sent.code, f"closed by us ({error.sent.code})")
    if error.rcvd is None:
        return "broken off"
    said = " ".join(error.rcvd.reason.split())[:100]
    return f"closed ({error.rcvd.code}{': ' + said if said else ''})"

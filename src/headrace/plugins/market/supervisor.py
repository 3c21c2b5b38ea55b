"""Keeps one connection to a feed, and says of every moment without one that something may be missing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import attrs
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.metric import Metric
from headrace.plugins.market.backfill import Backfill, Reach
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.backoff import Backoff
from headrace.plugins.market.connection import SILENT, TICK_S, Connection, Patience, address, kept, reason
from headrace.plugins.market.environment import hidden
from headrace.plugins.market.feed import GAPS, Feed, FeedLostError, FeedRefusedError, Heard
from headrace.plugins.market.fetching import Fetcher
from headrace.plugins.market.frames import counted
from headrace.plugins.market.gaps import Gaps

_log = logging.getLogger("headrace.market")
_AT_ONCE = float("-inf")


@attrs.define(kw_only=True, eq=False)
class Supervisor:
    """
    Connects, subscribes, receives into a backlog, and connects again: for ever, unless the exchange refuses us.

    One connection at a time. `run` is for a thread of its own; `stop` may be called from any.

    Attributes:
        feed: What is followed.

        name: What the ids of connections begin with.

        backlog: Where the records go. While it is full nothing is received: the exchange sees a slow client.

        gaps: What may be missing.

        backoff: When to connect again.

        patience: How long things may take.

        max_message_bytes: A frame of more ends the connection.

        reach: What is fetched of the exchange's history; None: nothing.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.

        error: Why it ended, if it did not end by `stop`.
    """

    feed: Feed
    name: str
    backlog: Backlog
    gaps: Gaps
    backoff: Backoff
    patience: Patience
    max_message_bytes: int
    reach: Reach | None = None
    clock: Callable[[], float] = time.monotonic
    now_ns: Callable[[], int] = time.time_ns
    error: BaseException | None = attrs.field(default=None, init=False)
    connections: int = attrs.field(default=0, init=False)
    _stopping: threading.Event = attrs.field(factory=threading.Event, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)  # of the gaps
    _heard_ns: int | None = attrs.field(default=None, init=False)  # nothing that was sent before is missing
    _ever: bool = attrs.field(default=False, init=False)  # a connection was there before
    _id: bytes = attrs.field(default=b"", init=False)
    _gap_from_ns: int | None = attrs.field(default=None, init=False)  # since when no connection is complete
    _gap_ns: int = attrs.field(default=0, init=False)  # how long there was none, up to then
    _gap_records: int = attrs.field(default=0, init=False)
    _backfill: Backfill | None = attrs.field(default=None, init=False)
    _silent: tuple[float, str] | None = attrs.field(default=(_AT_ONCE, "not connected yet"), init=False)
    """From when on it is told that the exchange does not answer, and why; None: it does."""

    def run(self) -> None:
        """Receive until `stop`, or until the exchange refuses us: then `error` says why."""
        filling = self._begin_backfill()
        try:
            self._begin_gap("started")
            failures = 0
            while not self._stopping.is_set():
                lost, useful = self._connect()
                failures = 1 if useful else failures + 1
                if not self._stopping.is_set():
                    self._rest(lost, failures)
            self._leave("stopped")
        except BaseException as error:  # noqa: BLE001 - whoever polls raises it
            cause = "refused" if isinstance(error, ConfigError) else "failed"
            self._leave(cause)
            self._silent = _AT_ONCE, cause
            refused = isinstance(error, FeedRefusedError) and self._hidden(str(error)) != str(error)
            self.error = FeedRefusedError(self._hidden(str(error))) if refused else error
        finally:
            self._stopping.set()
            if filling is not None:
                filling.join()

    def stop(self) -> None:
        """End soon. What was received stays in the backlog."""
        self._stopping.set()

    def dropped(self, cause: str, from_ns: int | None) -> dict[str, int]:
        """Record that something is missing up to now that was received, and could not be kept. Returns as `Gaps.dropped`."""
        with self._lock:
            self.gaps.between(cause, from_ns, self.now_ns())
            void = self.gaps.dropped()
            self._put_gaps()
        return void

    def stored(self, gap: str, revision: int) -> None:
        """All that came before this revision of a gap is stored."""
        with self._lock:
            self.gaps.stored(gap, revision)

    def metrics(self) -> Iterator[Metric]:
        """Yield what is known of the feed's connections and gaps, for `Source.metrics`."""
        with self._lock:
            since_ns, gap_ns = self._gap_from_ns, self._gap_ns
        open_ns = 0 if since_ns is None else max(0, self.now_ns() - since_ns)
        for name, text, value in (
            ("connected", "1: subscribed, nothing is missing now.", float(since_ns is None and self._ever)),
            ("connections_total", "Connections that were begun.", self.connections),
            ("gap_seconds_total", "Time without a complete connection, that of now too.", (gap_ns + open_ns) / 1e9),
            ("gap_records_total", "Records of the gaps that were written, revisions too.", self._gap_records),
            (
                "backfilled_total",
                "Records from the exchange's history.",
                self._backfill.records if self._backfill else 0,
            ),
            ("heard_timestamp_seconds", "Nothing is missing that was sent before.", (self._heard_ns or 0) / 1e9),
        ):
            yield Metric(f"headrace_feed_{name}", text, value, {"feed": self.feed.name})

    def unanswered(self) -> str:
        """
        Say why the exchange does not answer; "" where it does, for `Source.unanswered`.

        It does while a connection is subscribed (of an exchange that confirms nothing: is there), and while it is being made
        again: until an attempt fails, or for as long as a subscription may take.
        """
        silent = self._silent
        return "" if silent is None or self.clock() < silent[0] else silent[1]

    def _begin_backfill(self) -> threading.Thread | None:
        history = None if self.reach is None else self.feed.history()
        if history is None or self.reach is None:
            return None
        self._backfill = Backfill(
            history=history,
            kinds=self.feed.kinds,
            name=self.name,
            backlog=self.backlog,
            gaps=self.gaps,
            lock=self._lock,
            tell=partial(self._put_gaps, behind=True),
            reach=self.reach,
            backoff=self.backoff,
            fetcher=Fetcher(most_bytes=self.max_message_bytes, now_ns=self.now_ns),
            clock=self.clock,
            now_ns=self.now_ns,
            stopping=self._stopping,
        )
        thread = threading.Thread(target=self._backfill.run, name="headrace-backfill", daemon=True)
        thread.start()
        return thread

    # ---- one connection -----------------------------------------------------------------------------------

    def _connect(self) -> tuple[FeedLostError, bool]:
        """Have one connection for as long as it lasts. Return why it ended, and whether it was of use for a while."""
        self.connections += 1
        self._id = f"{self.name}-{self.connections}".encode()
        state = Connection(self.feed, self._id, self.patience, self.clock, self.now_ns)
        try:
            self._converse(state)
            lost = FeedLostError("stopped")
        except FeedLostError as error:
            lost = error
        except (OSError, EOFError, WebSocketException) as error:
            # not its text: that may hold the address, and so a key
            log_event(_log, logging.DEBUG, "connection failed", feed=self.feed.name, error=type(error).__name__)
            held = state.held_s is not None
            lost = reason(error, self.feed, first=not self._ever, subscribed=held, now_ns=self.now_ns())
        cause = self._hidden(lost.cause)
        lost = FeedLostError(f"{cause} (behind)" if state.behind else cause, lost.wait_s)
        useful = state.held_s is not None and self.clock() - state.held_s >= self.backoff.steady_s
        if not self._stopping.is_set():
            self._begin_gap(lost.cause)
        answered = state.asked or state.subscribed_s is not None
        self._silent = (self.clock() + self.patience.subscribe_timeout_s if answered else _AT_ONCE), lost.cause
        return lost, useful

    def _hidden(self, text: str) -> str:
        """A text that an exchange may have put our credentials into, without them."""
        return hidden(text, [name for name, _ in self.feed.credentials()])

    def _converse(self, state: Connection) -> None:
        with connect(
            address(self.feed),
            additional_headers=dict(self.feed.headers()),
            open_timeout=self.patience.open_timeout_s,
            close_timeout=1.0,
            ping_interval=None,  # here it is done by a clock that tests can turn
            max_size=self.max_message_bytes,
            logger=SILENT,
        ) as socket:
            self._ever = True
            dialogue = self.feed.dialogue()
            state.listen()
            self._take(state, socket, dialogue.begin())
            told = False
            while not self._stopping.is_set():
                if self.backlog.full and not self._wait_for_room(state):
                    return
                frame = state.received(socket)
                if frame is not None:
                    self._take(state, socket, dialogue.hear(frame))
                elif state.answered_ns is not None:
                    # all that came before the answer was taken: what was sent before the ping is here
                    self._heard_ns, state.answered_ns = max(self._heard_ns or 0, state.answered_ns), None
                if state.read:
                    self._take(state, socket, Heard(subscribed=True))
                state.look(socket)
                if state.overdue and not told:
                    self._tell_unconfirmed()
                    told = True

    def _take(self, state: Connection, socket: ClientConnection, heard: Heard) -> None:
        """Answer; put what came into the backlog, behind what its numbers say is missing, and before what is missing no more."""
        messages = kept(heard.messages, self.feed)
        heard_ns, state.heard_s = self.now_ns(), self.clock()
        for words in heard.replies:
            socket.send(words)
        if heard.ping:
            state.ask(socket)
        state.asked = state.asked or heard.asked
        if state.asked:
            self._silent = None
        with self._lock:
            if state.held_s is None and (heard.held or heard.subscribed):
                state.held_s = state.heard_s
            if heard.held:
                self.gaps.end(heard_ns, heard.held)
            subscribed = heard.subscribed or (bool(heard.held) and not self.gaps.open)
            if subscribed and state.subscribed_s is None:
                self._silent = None
                state.subscribed_s = state.heard_s
                self.gaps.end(heard_ns)
                if self._gap_from_ns is not None:
                    self._gap_ns += max(0, heard_ns - self._gap_from_ns)
                    self._gap_from_ns = None
                log_event(_log, logging.INFO, "subscribed", feed=self.feed.name, connection=state.id.decode())
            self.gaps.count(*counted(messages), heard_ns)
            if heard.latest:
                self.gaps.latest(heard.latest, heard_ns)
            if state.held_s is not None and not state.late:
                self._heard_ns = heard_ns  # symbols that are not held have their gap since before
            self._put_gaps()
            if messages:
                state.data_s = state.heard_s
                self.backlog.put(state.chunks(messages, heard_ns))
            self._put_gaps(behind=True)  # whoever fetches history writes gaps, too: not in between

    def _tell_unconfirmed(self) -> None:
        """Say what the exchange has not confirmed: the gap lasts, and for what it has the connection stays."""
        with self._lock:
            symbols = self.gaps.open
        named = ", ".join(symbols[:10]) + (", …" if len(symbols) > 10 else "")
        self._silent = _AT_ONCE, f"not confirmed within {self.patience.subscribe_timeout_s:g} s: {named}"
        log_event(
            _log,
            logging.WARNING,
            "symbols are not confirmed",
            feed=self.feed.name,
            count=len(symbols),
            symbols=named,
            advice="the others go on, and the gap of these lasts: name in symbols what the exchange has, as it confirms it",
        )

    def _wait_for_room(self, state: Connection) -> bool:
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
        state.listen()  # what did not come while nobody did says nothing
        return room

    # ---- between connections ------------------------------------------------------------------------------

    def _rest(self, lost: FeedLostError, failures: int) -> None:
        """Wait before the next connection."""
        now_s = self.clock()
        wait_s = self.backoff.wait_s(failures, lost.wait_s)
        log_event(
            _log, logging.WARNING, "feed lost", feed=self.feed.name, cause=lost.cause, again_in_s=round(wait_s, 1)
        )
        until_s = now_s + wait_s
        while self.clock() < until_s and not self._stopping.is_set():
            self._stopping.wait(min(TICK_S, max(0.0, until_s - self.clock())))

    def _begin_gap(self, cause: str) -> None:
        with self._lock:
            self.gaps.begin(cause, self._heard_ns)
            if self._gap_from_ns is None:
                self._gap_from_ns = self._heard_ns or self.now_ns()
            self._put_gaps()

    def _leave(self, cause: str) -> None:
        """The run ends: what is missing already lasts for good, and the rest is missing from now on."""
        with self._lock:
            self.gaps.leave(cause)
        self._begin_gap(cause)
        with self._lock:
            self._put_gaps(behind=True)  # nothing comes any more that could be before them

    def _put_gaps(self, *, behind: bool = False) -> None:
        if self._backfill is not None:
            self._backfill.add(self.gaps.fillable)
        self.gaps.fillable.clear()
        now_ns = self.now_ns()
        headers = (("headrace.received_ns", b"%d" % now_ns), ("headrace.connection", self._id))
        out, self.gaps.out = self.gaps.out, []
        for symbol, value, less in out:
            if less and not behind:
                self.gaps.out.append((symbol, value, less))
                continue
            self._gap_records += 1
            key = symbol.encode()
            nbytes = len(key) + len(value) + sum(len(name) + len(said) for name, said in headers)
            self.backlog.put([Chunk(GAPS, now_ns, [key], [value], [headers], nbytes, less)])

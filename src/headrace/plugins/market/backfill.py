"""Fetches from an exchange's history what a connection did not bring."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import attrs

from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.backoff import MOST_SAID_S, Backoff, left_alone
from headrace.plugins.market.fetching import Fetcher
from headrace.plugins.market.gaps import NOT_STORED, Gaps, Missing, moment
from headrace.plugins.market.history import History, HistoryLostError, HistoryRefusedError, Page, Wanted

_log = logging.getLogger("headrace.market")
_TICK_S = 0.05
_WAITING = 10_000
"""So many gaps wait at a time; the oldest one of more is told as not fetched."""

_PAGES = 10_000
"""So many pages of a gap and kind are asked for: a history that goes on behind them has no end."""

_IDLE_PAGES = 1_000
"""So many pages in a row may bring nothing that is missing: newer ones than the gap may stand before it."""


@attrs.frozen(kw_only=True)
class Reach:
    """
    What is fetched, and how patiently.

    Attributes:
        after_s: So long behind its end a gap is fetched: an exchange's history is a little late.

        back_s: Of a gap whose beginning is not known, so much before its end.

        attempts: A request, numbers that are not there yet, and a gap of which what came is not stored, are tried so often.
    """

    after_s: float
    back_s: float
    attempts: int = 6


@attrs.define(kw_only=True, eq=False)
class Backfill:
    """
    Fetches gap after gap into the backlog, in a thread of its own (`run`), and says in each gap's record what came of it.

    The live stream goes first: one page is held at a time, until the backlog is less than half full.

    Attributes:
        history: Where it is asked for.

        kinds: The streams that are wanted.

        name: What the records' connection is called.

        backlog: Where the records go.

        gaps: What is missing.

        lock: Of the gaps.

        tell: Writes the records of gaps; called with the lock.

        reach: What is fetched.

        backoff: When to ask again.

        fetcher: Asks.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.

        stopping: Ends it.
    """

    history: History
    kinds: Sequence[str]
    name: str
    backlog: Backlog
    gaps: Gaps
    lock: threading.Lock
    tell: Callable[[], None]
    reach: Reach
    backoff: Backoff
    fetcher: Fetcher
    clock: Callable[[], float]
    now_ns: Callable[[], int]
    stopping: threading.Event
    records: int = attrs.field(default=0, init=False)
    _due: OrderedDict[str, tuple[float, Missing]] = attrs.field(factory=OrderedDict, init=False)  # by gap, each once
    _left_alone: tuple[float, str] | None = attrs.field(default=None, init=False)
    """Until when the exchange is not asked for anything, and why."""

    def add(self, found: Iterable[Missing]) -> None:
        """
        Fetch these, too; called with the lock.

        One that waits already is not fetched twice for that. One that is being fetched waits once more: what came of it so far
        may be what was dropped. One of which that was so `Reach.attempts` times is left.
        """
        for gap in found:
            if gap.from_ns is None and gap.last is None and not self.reach.back_s:
                continue  # where it begins is not known, and nothing is to be fetched of such a one
            if gap.dropped < self.reach.attempts:
                self._due.setdefault(gap.id, (self.clock() + self.reach.after_s, gap))
            else:
                self.gaps.settle(gap, f"not available: {NOT_STORED}")
                log_event(_log, logging.WARNING, "gap left", gap=gap.id, symbol=gap.symbol, attempts=gap.dropped)
        while len(self._due) > _WAITING:
            self.gaps.settle(self._first(), "not available: too many gaps at a time")

    def run(self) -> None:
        """Fetch until `stopping`; what was not fetched by then says so."""
        while not self.stopping.is_set():
            with self.lock:
                due_s = next(iter(self._due.values()))[0] if self._due else None
                gap = None if due_s is None or due_s > self.clock() else self._first()
            if gap is None:
                self.stopping.wait(_TICK_S)
            else:
                self._filled(gap)
        with self.lock:
            while self._due:
                self.gaps.settle(self._first(), "not available: stopped before")
            self.tell()

    def _first(self) -> Missing:
        """Take the gap that waits for the longest time."""
        return self._due.popitem(last=False)[1][1]

    # ---- one gap ------------------------------------------------------------------------------------------

    def _filled(self, gap: Missing) -> None:
        """Fill it; a history that is somebody else's may fail as it likes, the feed goes on."""
        try:
            self._fill(gap)
        except Exception as error:  # noqa: BLE001 - it is plugins' code, as much as ours
            _log.exception("backfill failed gap=%s", gap.id)
            with self.lock:
                self.gaps.settle(gap, f"not available: {type(error).__name__}")
                self.tell()

    def _fill(self, gap: Missing) -> None:
        with self.lock:
            if gap.missing == 0:
                return  # it came late
            if gap.left is None:
                gap.fetched = 0  # of it all is fetched, the second time too
            before, dropped = gap.fetched, gap.dropped
        wanted = self._wanted(gap)
        if wanted is None:
            failures = ["the feed counts anew" if gap.counts_anew else "history is asked for by symbol"]
        else:
            failures = [f for kind in self.history.kinds if kind in self.kinds for f in self._tried(kind, gap, wanted)]
        with self.lock:
            if gap.missing and not failures:  # else nobody knows what it has
                failures.append(f"{gap.missing:,} are not in the history")
            if gap.dropped > dropped and gap.missing != 0:
                failures.append(NOT_STORED)
            short = [f"{kind} are not in the history" for kind in self.kinds if kind not in self.history.kinds]
            if wanted is not None and gap.last is None and gap.from_ns is None:
                short.insert(0, f"from {moment(wanted.from_ns)} on")
            state = "not available" if failures and gap.fetched == before else "partly" if failures or short else "done"
            said = failures if state == "not available" else [*failures, *short]
            self.gaps.settle(gap, f"{state}: {'; '.join(said)}" if said else state)
            self.tell()
        level = logging.WARNING if state == "not available" else logging.INFO
        log_event(_log, level, "gap fetched", gap=gap.id, symbol=gap.symbol, result=gap.fill, records=gap.fetched)

    def _tried(self, kind: str, gap: Missing, wanted: Wanted) -> list[str]:
        """Fetch one kind; why that ended too early, if it did."""
        try:
            self._fetch(kind, gap, wanted)
        except HistoryRefusedError as error:
            return [f"{kind}: {error}"]
        except ConfigError:
            return [f"{kind}: no credentials"]
        return []

    def _wanted(self, gap: Missing) -> Wanted | None:
        """What to ask for; None where that cannot be said."""
        to_ns = self.now_ns() if gap.to_ns is None else gap.to_ns
        from_ns = gap.from_ns
        if gap.symbol == "*" or gap.counts_anew:
            return None
        if from_ns is None:
            from_ns = to_ns - int(self.reach.back_s * 1e9)
        return Wanted(symbol=gap.symbol, from_ns=from_ns, to_ns=to_ns, last=gap.last, next=gap.next)

    def _fetch(self, kind: str, gap: Missing, wanted: Wanted) -> None:
        """Bring all pages into the backlog; of numbers that are not there yet, several times."""
        for attempt in range(1, self.reach.attempts + 1):
            self._pages(kind, gap, wanted)
            with self.lock:
                if not gap.missing or gap.left is None:  # of numbers that are not listed none is taken twice
                    return
            if attempt < self.reach.attempts:
                self._rest(self.backoff.wait_s(attempt))

    def _pages(self, kind: str, gap: Missing, wanted: Wanted) -> None:
        """Bring page after page; HistoryRefusedError where they go round, or on and on."""
        address, asked, idle = self.history.first(kind, wanted), set[str](), 0
        while address:
            if address in asked:
                raise HistoryRefusedError("the same page again and again")
            if len(asked) >= _PAGES or idle >= _IDLE_PAGES:
                raise HistoryRefusedError("pages without an end")
            asked.add(address)
            page = self._page(kind, wanted, address)
            idle = 0 if self._put(kind, gap, page) else idle + 1
            address = page.following

    def _page(self, kind: str, wanted: Wanted, address: str) -> Page:
        for attempt in range(1, self.reach.attempts + 1):
            if self.stopping.is_set():
                break
            if self._left_alone is not None and self.clock() < self._left_alone[0]:
                raise HistoryRefusedError(self._left_alone[1])
            try:
                headers, body = self.fetcher.get(address, self.history.headers())
                return self.history.page(kind, wanted, address, headers, body)
            except HistoryLostError as error:
                lost = error
                if error.wait_s > MOST_SAID_S:  # as good as no history, for all gaps; but it may be a mistake
                    self._left_alone = self.clock() + MOST_SAID_S, left_alone(str(error), error.wait_s)
                    log_event(
                        _log, logging.WARNING, "history left alone", cause=self._left_alone[1], again_in_s=MOST_SAID_S
                    )
                    continue
                log_event(_log, logging.DEBUG, "history not had", kind=kind, cause=str(error), attempt=attempt)
                if attempt < self.reach.attempts:
                    self._rest(self.backoff.wait_s(attempt, error.wait_s))
        raise HistoryRefusedError("stopped before" if self.stopping.is_set() else str(lost))

    def _put(self, kind: str, gap: Missing, page: Page) -> int:
        """Put what of a page is missing into the backlog, and return how many records that is."""
        while self.backlog.held_bytes > self.backlog.limit_bytes // 2 and not self.stopping.is_set():
            self.stopping.wait(_TICK_S)
        with self.lock:
            values = self.gaps.fetched(gap, page.values, page.numbers)
            if not values:
                return 0
            now_ns = self.now_ns()
            shared = (
                ("headrace.received_ns", b"%d" % now_ns),
                ("headrace.connection", f"{self.name}-history".encode()),
                ("headrace.backfilled", gap.id.encode()),
            )
            first = self.records + 1
            self.records += len(values)
            headers = [(*shared, ("headrace.sequence", b"%d" % n)) for n in range(first, first + len(values))]
            key = gap.symbol.encode()
            nbytes = sum(map(len, values)) + len(values) * len(key)
            nbytes += sum(len(name) + len(said) for of_one in headers for name, said in of_one)
            self.backlog.put([Chunk(kind, now_ns, [key] * len(values), values, headers, nbytes)])
            return len(values)

    def _rest(self, wait_s: float) -> None:
        until_s = self.clock() + wait_s
        while self.clock() < until_s and not self.stopping.is_set():
            self.stopping.wait(_TICK_S)

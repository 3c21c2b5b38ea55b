"""A live feed as a source: it numbers what it receives, and can never go back."""

from __future__ import annotations

import random
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.finding import Finding
from headrace.logs import marked
from headrace.metric import Metric
from headrace.plugins.market.backfill import Reach
from headrace.plugins.market.backlog import Backlog, Chunk
from headrace.plugins.market.backoff import MOST_SAID_S, Backoff
from headrace.plugins.market.connection import Patience, address
from headrace.plugins.market.feed import GAPS, OTHER, Feed
from headrace.plugins.market.fetching import Fetcher
from headrace.plugins.market.gaps import Gaps, revision_of
from headrace.plugins.market.history import HistoryLostError, HistoryRefusedError
from headrace.plugins.market.supervisor import Supervisor
from headrace.records import Batch, Event, Extent, Hint, Identity, Partition, Start
from headrace.source import Owner, Source
from headrace.uri import URI

_CHUNK_RECORDS = 5_000
_NO_END = 1 << 62
"""A feed's end is not known: as far as a position may ever reach."""

_STREAM = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What a topic of Kafka may be called (org.apache.kafka.common.internals.Topic): a feed goes there first."""

_END_S = 10.0
_HELD_TICK_S = 0.01


@attrs.define(kw_only=True, eq=False)
class FeedSource(Source):
    """
    What a feed sends, as streams of one partition each: one for each kind of message, one for what nobody understands
    (``NAME.other``), and one for what may be missing (``NAME.gaps``).

    A record's value is the message to the byte, its key the symbol, its time and its headers say when it was received, on which
    connection, and as which one there. Offsets are given here, from where the sink stands on: what is not stored cannot be had
    again, and is told as a gap.

    Attributes:
        feed: What is followed.

        stream: What the streams' names begin with; the feed's name unless given.

        producer: Who receives, in the ids of connections and gaps, from run to run; made up unless given. Two processes that run
            at a time have different ones.

        queue_bytes: Received and not yet taken. When it is full nothing is received until there is room.

        reconnect_first_s: The longest first wait before another connection; it doubles from failure to failure.

        reconnect_most_s: The longest wait.

        steady_s: For so long a connection must have lasted to count as a success.

        open_timeout_s: How long a connection may take to be there.

        subscribe_timeout_s: How long the exchange may take from there until it has subscribed us.

        ping_every_s: A connection on which nothing comes is asked so often whether it is still there.

        ping_timeout_s: How long the answer may take.

        max_message_bytes: A larger frame ends the connection, and is told as a gap.

        backfill: Fetch from the exchange's history what is missing, where it has one.

        backfill_after_s: So long behind its end a gap is fetched: a history is a little late.

        backfill_reach_s: What came before the process began is fetched so far back; 0: not at all.

        uniform: Makes the waits random.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.
    """

    rereadable = False

    feed: Feed
    stream: str = ""
    producer: str = ""
    _run: str = attrs.field(factory=lambda: marked(secrets.token_hex(4)))  # in all ids, so that none is ever used twice
    queue_bytes: int = attrs.field(default=32 << 20, validator=attrs.validators.gt(0))
    reconnect_first_s: float = 1.0
    reconnect_most_s: float = 60.0
    steady_s: float = 10.0
    open_timeout_s: float = 10.0
    subscribe_timeout_s: float = 10.0
    ping_every_s: float = 20.0
    ping_timeout_s: float = 20.0
    max_message_bytes: int = 16 << 20
    backfill: bool = True
    backfill_after_s: float = 5.0
    backfill_reach_s: float = 300.0
    uniform: Callable[[float, float], float] = random.uniform
    clock: Callable[[], float] = time.monotonic
    now_ns: Callable[[], int] = time.time_ns
    _kinds: Mapping[str, Partition] = attrs.field(init=False)
    _backlog: Backlog = attrs.field(init=False)
    _supervisor: Supervisor = attrs.field(init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _unlisted: tuple[float, str] | None = attrs.field(default=None, init=False)
    """Until when the list of symbols is not asked for again, and why."""

    _starts: dict[Partition, Start | None] = attrs.field(factory=dict, init=False)
    _assignments: dict[Partition, int] = attrs.field(factory=dict, init=False)  # the last one, in a pause too
    _next: dict[Partition, int] = attrs.field(factory=dict, init=False)
    _stored: dict[Partition, int] = attrs.field(factory=dict, init=False)
    _said: dict[Partition, deque[tuple[int, int]]] = attrs.field(factory=dict, init=False)
    """Of each batch that is not stored yet its end, and when its first record was received."""

    _held: list[Chunk] = attrs.field(factory=list, init=False)  # taken, and not said yet
    _late: deque[tuple[dict[Partition, int], Chunk]] = attrs.field(factory=deque, init=False)
    """Gaps that are smaller once so much is stored."""

    _void: dict[str, int] = attrs.field(factory=dict, init=False)
    """By gap: what this revision and those before it say of less that is missing is not true any more."""

    _gaps: deque[tuple[int, Chunk]] = attrs.field(factory=deque, init=False)  # said and not stored, each with its end

    def __attrs_post_init__(self) -> None:
        name = self.stream or self.feed.name
        for part in (name, *(f"{name}.{kind}" for kind in self.feed.kinds)):
            if not _STREAM.fullmatch(part):
                raise ConfigError(
                    f"feed {self.feed.name!r}: found the name {part!r} of a stream, expected 1 to 249 letters, digits, '.',"
                    " '_' and '-', as topics have them; it is made of the feed's name (or stream=) and that of a kind"
                )
        run = f"{self.producer}.{self._run}" if self.producer else self._run
        self._kinds = {kind: Partition(f"{name}.{kind}", 0) for kind in (*self.feed.kinds, OTHER, GAPS)}
        self._backlog = Backlog(limit_bytes=self.queue_bytes)
        self._supervisor = Supervisor(
            feed=self.feed,
            backlog=self._backlog,
            name=run,
            gaps=Gaps(
                feed=self.feed.name,
                symbols=self.feed.symbols,
                producer=self.producer or self._run,
                run=run,
                numbers=self.feed.numbers(),
            ),
            backoff=Backoff(
                first_s=self.reconnect_first_s,
                most_s=self.reconnect_most_s,
                steady_s=self.steady_s,
                uniform=self.uniform,
            ),
            patience=Patience(
                open_timeout_s=self.open_timeout_s,
                subscribe_timeout_s=self.subscribe_timeout_s,
                ping_every_s=self.ping_every_s,
                ping_timeout_s=self.ping_timeout_s,
            ),
            max_message_bytes=self.max_message_bytes,
            reach=Reach(after_s=self.backfill_after_s, back_s=self.backfill_reach_s) if self.backfill else None,
            clock=self.clock,
            now_ns=self.now_ns,
        )

    # ---- the source's interface ---------------------------------------------------------------------------

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if self._thread is None:
            self._begin(owner)
        if any(start is None for start in self._starts.values()):
            threading.Event().wait(timeout_s)  # paused: what comes stays in the backlog
            return []
        self._backlog.limit_bytes = self.queue_bytes
        if not self._held:
            self._held = self._backlog.take(_CHUNK_RECORDS, timeout_s)
        events = self._sayable()
        if not events and self._held:
            threading.Event().wait(min(timeout_s, _HELD_TICK_S))
        elif not events and self._supervisor.error is not None and not len(self._backlog) and self._all_stored():
            raise self._supervisor.error
        return events

    def finish(self) -> Sequence[Event]:
        self._close()
        self._held += self._backlog.take(_NO_END, 0.0)
        return self._sayable() or self._sayable()  # what is late is known when no message is before it

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        for partition, start in starts.items():
            known = self._next.get(partition)
            if start is not None and known is not None and self._is_elsewhere(partition, start, known):
                self._dropped(partition, start.offset or 0)
            elif start is not None and known is None:
                self._next[partition] = self._stored[partition] = start.offset or 0
            self._starts[partition] = start
            if start is not None:
                self._assignments[partition] = start.assignment

    def extents(self) -> Mapping[Partition, Extent]:
        return {
            partition: Extent(0, _NO_END, _NO_END, Identity("feed", partition.stream, "read_committed", 1))
            for partition in self._kinds.values()
        }

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        for partition, hint in hints.items():
            self._stored[partition] = max(self._stored.get(partition, 0), hint.offset)
            said = self._said.get(partition)
            while said and said[0][0] <= hint.offset:
                said.popleft()
            while partition == self._kinds[GAPS] and self._gaps and self._gaps[0][0] <= hint.offset:
                self._gaps.popleft()

    def metrics(self) -> Iterable[Metric]:
        return [*self._supervisor.metrics(), *self._backlog_metrics()]

    def unanswered(self) -> str:
        return self._supervisor.unanswered()

    def check(self) -> Iterable[Finding]:
        """Say whether the credentials are there. Nothing is connected: exchanges count connections."""
        for name, there in self.feed.credentials():
            if there:
                yield Finding(name, "fine", "it is in the environment")
            else:
                yield Finding(name, "wrong", "it is not in the environment", f"export {name}=…")
        symbols = ", ".join(self.feed.symbols[:10]) + (", …" if len(self.feed.symbols) > 10 else "")
        yield Finding(
            "feed", "fine", f"{self.feed.safe_url} for {symbols}; not connected to, exchanges count connections"
        )

    def close(self) -> None:
        self._close()

    # ---- the rest -----------------------------------------------------------------------------------------

    def _backlog_metrics(self) -> Iterable[Metric]:
        feed = {"feed": self.feed.name}
        held, limit = self._backlog.held_bytes, self.queue_bytes
        yield Metric("headrace_feed_backlog_bytes", "Received, and not taken yet.", held, feed)
        yield Metric("headrace_feed_backlog_limit_bytes", "When so much is held nothing is received.", limit, feed)

    def _begin(self, owner: Owner) -> None:
        address(self.feed)  # one that is wrong, or a credential that is missing, is told before anything begins
        self.feed.dialogue()
        feed = self._supervisor.feed = self._resolved()
        self._supervisor.gaps.symbols = feed.symbols
        self.move(owner.assigned(dict.fromkeys(self._kinds.values())))
        self._thread = threading.Thread(target=self._supervisor.run, name="headrace-feed", daemon=True)
        self._thread.start()

    def _resolved(self) -> Feed:
        """The feed with symbols in the place of patterns; not asked for before the exchange wants to be."""
        if self._unlisted is not None and self.clock() < self._unlisted[0]:
            raise SourceUnavailableError(self._unlisted[1])
        fetcher = Fetcher(most_bytes=self.max_message_bytes, now_ns=self.now_ns)
        try:
            return self.feed.resolved(lambda address, headers: fetcher.get(address, headers)[1])
        except HistoryRefusedError as error:
            raise ConfigError(
                f"{self.feed.name}: its list of symbols is not to be had ({error}); name them instead"
            ) from error
        except HistoryLostError as error:
            wait = f"; it wants to be left alone for {error.wait_s:g} s" if error.wait_s else ""
            why = f"{self.feed.name}: its list of symbols could not be read ({error}){wait}"
            self._unlisted = self.clock() + min(error.wait_s, MOST_SAID_S), why
            raise SourceUnavailableError(why) from error

    def _sayable(self) -> list[Event]:
        """
        Take what may be said now.

        Whoever reads the streams after this process was killed shall find no hole that no gap tells of. The streams are stored
        apart from each other, so a gap is stored before anything behind it is said; and that less is missing is said when what
        came late is stored.
        """
        late = self._smaller()
        first = [c for c in self._held if c.kind == GAPS and not c.behind]
        if first:
            self._held = [c for c in self._held if c.kind != GAPS or c.behind]
            return self._batches(first + late)
        if any(not gap.behind for _, gap in self._gaps):
            return self._batches(late)
        messages: list[Chunk] = []
        ends = {p: end for p, end in self._next.items() if p != self._kinds[GAPS]}
        for chunk in self._held:
            if chunk.kind == GAPS:
                self._late.append((ends.copy(), chunk))  # it needs what came before it, and no more
            else:
                messages.append(chunk)
                ends[self._kinds[chunk.kind]] += len(chunk.values)
        self._held = []
        return self._batches(late + messages)

    def _smaller(self) -> list[Chunk]:
        """Take the records of gaps that are smaller by what is stored by now."""
        taken: list[Chunk] = []
        while self._late and all(self._stored.get(p, 0) >= end for p, end in self._late[0][0].items()):
            chunk = self._late.popleft()[1]
            gap, revision = revision_of(chunk.values[0])
            if revision > self._void.get(gap, 0):
                self._void.pop(gap, None)  # a gap's revisions come in their order: no lower one is behind it
                self._supervisor.stored(gap, revision)
                taken.append(chunk)
        return taken

    def _batches(self, chunks: Sequence[Chunk]) -> list[Event]:
        by_kind: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            by_kind.setdefault(chunk.kind, []).append(chunk)
        return [self._batch(self._kinds[kind], of_kind) for kind, of_kind in by_kind.items()]

    def _batch(self, partition: Partition, chunks: Sequence[Chunk]) -> Batch:
        start = self._next[partition]
        count = sum(len(c.values) for c in chunks)
        end = self._next[partition] = start + count
        self._said.setdefault(partition, deque()).append((end, chunks[0].received_ns))
        if partition == self._kinds[GAPS]:
            self._gaps += [(start + number, chunk) for number, chunk in enumerate(chunks, 1)]  # one record each
        stamps: list[int] = []
        for chunk in chunks:
            stamps += [chunk.received_ns // 1_000_000] * len(chunk.values)
        one = len(chunks) == 1
        return Batch(
            partition=partition,
            assignment=self._assignments.get(partition, -1),
            leader_epoch=None,
            start=start,
            end=end,
            offsets=range(start, end),
            timestamps_ms=stamps,
            keys=chunks[0].keys if one else [k for c in chunks for k in c.keys],
            values=chunks[0].values if one else [v for c in chunks for v in c.values],
            headers=chunks[0].headers if one else [h for c in chunks for h in c.headers],
            timestamp_types=None,
            nbytes=sum(c.nbytes for c in chunks),
            urgent=partition == self._kinds[GAPS],
        )

    def _is_elsewhere(self, partition: Partition, start: Start, known: int) -> bool:
        """Whether what was said and is not stored is gone: another one's records may as well end where ours would have."""
        again = start.assignment != self._assignments.get(partition)
        return start.offset not in (None, known) or (again and bool(self._said.get(partition)))

    def _dropped(self, partition: Partition, position: int) -> None:
        """
        The sink stands elsewhere: what was said and not stored is gone, and the numbers go on from there.

        Not so gap records, which are kept until they are stored: those are said again. A gap that was smaller by what is gone is
        as large as before, and another one says since when what is gone was received.
        """
        said = self._said.pop(partition, ())
        from_ns = said[0][1] if said else None
        self._next[partition] = self._stored[partition] = position
        if partition == self._kinds[GAPS]:
            again = [chunk for _, chunk in self._gaps]
            self._gaps.clear()
            self._held[:0] = again
            return
        cause = f"not stored: the sink of {partition.stream} stands elsewhere"
        self._void |= self._supervisor.dropped(cause, from_ns)
        # the old position may never be reached, and who is not void needs nothing of what is gone
        self._late = deque(({}, chunk) for _, chunk in self._late)

    def _all_stored(self) -> bool:
        return all(self._stored.get(p, 0) >= n for p, n in self._next.items())

    def _close(self) -> None:
        self._supervisor.stop()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_END_S)


def settings(
    uri: URI, source: type, feed: type, *, more: tuple[str, ...], unsettable: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Take a URI's settings apart: those of the source, and those of the feed. ConfigError where neither has one, or it names a
    user or a password.

    Args:
        uri: With all of them.

        source: The source's class.

        feed: The feed's class.

        more: Settings that the caller reads itself.

        unsettable: Fields of the feed that a URI sets by its other parts, or not at all.
    """
    if uri.user or uri.password:
        raise ConfigError(
            f"found a user or a password in {uri.scheme}://, expected neither; a feed has its key from the environment:"
            " Alpaca from APCA_API_KEY_ID and APCA_API_SECRET_KEY, a feed by a description from what it names"
        )
    names = {
        of: tuple(f.name for f in attrs.fields(of) if f.init and f.name not in ("feed", *unsettable))
        for of in (source, feed)
    }
    leave = {of: (*more, *found, *(n.replace("_", "-") for n in found)) for of, found in names.items()}
    return (
        uri.fields(source, leave=leave[feed], unsettable=("feed",)),
        uri.fields(feed, leave=leave[source], unsettable=unsettable),
    )

"""
Deletes old segments, the only safe way: oldest first, never a partition's newest, never a young one.

A name protects a segment's place only while it is taken. A writer that saw the chain before a segment was stored may come
late with a write of the same name; so a segment must be there for longer than any write can be on its way, which is a
little more than an hour (B15). A day is the least that is accepted here, by the store's own clock.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import attrs
import msgspec

from headrace.chain import Chain
from headrace.errors import ConfigError, ExpiredError, GapError, HeadraceError
from headrace.loader import Line, Loader
from headrace.logs import event as log_event
from headrace.records import Partition
from headrace.retry import Retry
from headrace.segment import Segment
from headrace.store import Store, StoredObject

_log = logging.getLogger("headrace.expire")

DAY_S = 86_400.0
"""No younger segment is deleted: far above what a write may be late, a clock be off, or a machine be suspended."""

_GROUP = 1000
"""So many segments stand in one note."""

_PARTITIONS_AT_ONCE = 8


@attrs.frozen
class Expiry:
    """
    What goes of one partition, or is gone.

    Attributes:
        partition: Which.

        start: Where the first segment that goes starts.

        end: Where the first one that stays starts. Nothing goes where *end* is *start*.

        segments: How many go.

        nbytes: Together.

        stays: Why the segment at *end* stays.
    """

    partition: Partition
    start: int
    end: int
    segments: int
    nbytes: int
    stays: str


@attrs.define(kw_only=True, eq=False)
class Expire:
    """
    Deletes the old segments of one dataset. A run that is killed at any moment leaves a chain, and is simply run again.

    What goes is noted in the lake before it is deleted (``_headrace/expired/``), so that whoever finds the head missing can
    tell that it was meant. `plan` only looks.

    Attributes:
        chain: The dataset.

        older_than_s: Segments that were put there longer ago go; at least a day.

        keep: So many of the newest stay in each partition, whatever their age; at least one.

        ledgers: Targets that are loaded from this dataset, each with a name for messages: what one of them still lacks
            stays. Closed by `run`.

        without_ledger: No target counts: must be asked for by name where *ledgers* is empty.

        retry_for_s: How long a store or a warehouse that does not answer is tried again.

        observe: Called after each deletion, with its segment.

        clock: Seconds since the Unix epoch. Only `plan` believes it; a run asks the store.
    """

    chain: Chain
    older_than_s: float
    keep: int = 1
    ledgers: Mapping[str, Loader] = attrs.field(factory=dict)
    without_ledger: bool = False
    retry_for_s: float = 600.0
    observe: Callable[[Segment], None] | None = None
    clock: Callable[[], float] = time.time
    done: dict[int, Expiry] = attrs.field(factory=dict, init=False)
    """What this run has deleted, by partition; also after an error."""
    _retry: Retry = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._retry = Retry(self.retry_for_s)
        if not self.older_than_s >= DAY_S:
            raise ConfigError(
                f"found an age of {self.older_than_s:.0f} s, expected at least a day: a write that was sent before may"
                " still come, and would be stored again under a name that was deleted too soon"
            )
        if self.keep < 1:
            raise ConfigError(
                f"found keep={self.keep}, expected 1 or more: a partition's newest segment is its position"
            )
        if bool(self.ledgers) == self.without_ledger:
            raise ConfigError(
                "found ledgers and without_ledger at once: leave one out"
                if self.ledgers
                else "found no ledger: name the targets that are loaded from here, so that nothing goes that one of them"
                " still lacks, or say that there is none with without_ledger=True (--without-ledger)"
            )

    def plan(self) -> list[Expiry]:
        """
        Say what would go, partition by partition. Only lists, and asks the ledgers; by the clock of this machine.

        Raises:
            ConfigError: The store does not say when objects were put there.
            SinkUnavailableError: Store or warehouse did not answer for `retry_for_s`.
        """
        numbers = self._retry(self.chain.partitions)
        limits = self._limits(numbers)
        now_s = self.clock()
        return [self._retry(partial(self._plan, n, now_s, limits.get(n))) for n in numbers]

    def run(self) -> list[Expiry]:
        """
        Delete what goes.

        Returns:
            What was deleted, partition by partition.

        Raises:
            GapError: Segments are missing behind the head. What lies before was deleted; the next run begins behind.
            DataError: Segments overlap, or one is damaged: nothing behind it was deleted, the other partitions were done.
            ConfigError: The store does not say when objects were put there, or may not be deleted from.
            SinkUnavailableError: Store or warehouse did not answer for `retry_for_s`.
        """
        try:
            numbers = self._retry(self.chain.partitions)
            limits = self._limits(numbers)
            now_s = self._retry(self._store_now)
            with ThreadPoolExecutor(_PARTITIONS_AT_ONCE, thread_name_prefix="headrace-expire") as pool:
                errors = [
                    e for e in pool.map(lambda n: self._attempt(n, now_s, limits.get(n)), numbers) if e is not None
                ]
        finally:
            for loader in self.ledgers.values():
                loader.close()
        if errors:
            first, *others = errors
            for other in others:
                first.add_note(f"and: {other}")
            raise first
        return [self.done[number] for number in numbers]

    def stop(self) -> None:
        """End after the deletions under way. May be called from a signal handler or a thread."""
        self._retry.hurry.set()

    # ---- what goes ----------------------------------------------------------------------------------------

    def _limits(self, numbers: list[int]) -> dict[int, tuple[int, str]]:
        """How far each partition is loaded by the target that is furthest behind, and which one that is."""
        found: dict[int, tuple[int, str]] = {}
        dataset = self.chain.dataset
        for name, loader in self.ledgers.items():
            lines = {n: Line(dataset.id, Partition(dataset.stream, n), loader.target) for n in numbers}
            positions = self._retry(partial(loader.positions, list(lines.values())))
            for number, line in lines.items():
                reached = (positions[line] or 0, name)
                found[number] = min(found.get(number, reached), reached)
        return found

    def _plan(self, number: int, now_s: float, limit: tuple[int, str] | None) -> Expiry:
        """From the names alone: in a chain that is whole a segment ends where the next one starts."""
        partition = Partition(self.chain.dataset.stream, number)
        ahead: deque[StoredObject] = deque()
        start, end, segments, nbytes = None, 0, 0, 0
        stays = f"the newest {self.keep} stay" if self.keep > 1 else "the newest stays"
        for item in self.chain.objects(number):
            ahead.append(item)
            end = _start(ahead[0])
            start = end if start is None else start
            if len(ahead) <= self.keep:
                continue
            reason = self._why_it_stays(ahead[0], _start(ahead[1]), now_s, limit)
            if reason:
                stays = reason
                break
            nbytes += ahead.popleft().size
            segments += 1
            end = _start(ahead[0])
        return Expiry(partition, start or 0, end, segments, nbytes, stays)

    def _why_it_stays(self, item: StoredObject, end: int, now_s: float, limit: tuple[int, str] | None) -> str:
        if item.modified_s is None:
            raise ConfigError(
                f"{self.chain.store.place} does not say when {item.key} was put there: without it nobody can tell whether"
                " it may be deleted. Delete by hand, as the operator's duties say"
            )
        age_s = now_s - item.modified_s
        if age_s < self.older_than_s:
            return f"it was put there {_ago(age_s)}"
        if limit is not None and end > limit[0]:
            return f"{limit[1]} is at {limit[0]}"
        return ""

    def _store_now(self) -> float:
        now_s = store_time_s(self.chain.store, self.chain.layout.probes)
        if now_s is None:
            raise ConfigError(
                f"{self.chain.store.place} does not say when an object was put there: without it nobody can tell which"
                " segments may be deleted. Delete by hand, as the operator's duties say"
            )
        return now_s

    # ---- deleting -----------------------------------------------------------------------------------------

    def _attempt(self, number: int, now_s: float, limit: tuple[int, str] | None) -> HeadraceError | None:
        """Delete what goes of one partition; it stops alone."""
        try:
            plan = self._retry(lambda: self._plan(number, now_s, limit))
            self.done[number] = attrs.evolve(plan, end=plan.start, segments=0, nbytes=0, stays="stopped")
            if plan.segments:
                for group in self._groups(number, plan):
                    self._note(number, group)
                    self._delete(number, group)
            if not self._retry.hurry.is_set():
                self.done[number] = attrs.evolve(self.done[number], stays=plan.stays)
        except ExpiredError:  # another run is at work, and was faster
            self.done[number] = attrs.evolve(self.done[number], stays="another run deletes here")
        except HeadraceError as error:
            log_event(_log, logging.ERROR, "partition stopped", partition=number, error=error)
            return error
        return None

    def _groups(self, number: int, plan: Expiry) -> Iterator[list[Segment]]:
        """The segments that go, each held against the next one: a note says only what is true."""
        group: list[Segment] = []
        try:
            for segment in self.chain.walk_on(number, plan.start, self._retry):
                if segment.start >= plan.end or self._retry.hurry.is_set():
                    break
                if len(group) == _GROUP:
                    yield group
                    group = []
                group.append(segment)
        except GapError:
            if group:
                yield group  # they end where the gap begins
            raise
        if group:
            yield group

    def _note(self, number: int, group: list[Segment]) -> None:
        """Say what goes, before it goes. Refused: a run that was killed has said it already."""
        start, end = group[0].start, group[-1].end
        body = {
            "dataset": self.chain.dataset.id,
            "stream": self.chain.dataset.stream,
            "partition": number,
            "from": start,
            "to": end,
            "segments": len(group),
            "records": sum(s.trailer.records for s in group),
            "bytes": sum(s.size for s in group),
            "newest_put_at": _iso(max(s.modified_s or 0.0 for s in group)),
            "older_than_s": self.older_than_s,
            "keep": self.keep,
            "loaded_by": sorted(self.ledgers),
            "noted_at": _iso(self.clock()),
            "writer": f"{socket.gethostname()[:32]}/{os.getpid()}",
        }
        content = msgspec.json.format(msgspec.json.encode(body), indent=2)
        self._retry(lambda: self.chain.store.create(self.chain.layout.expiry(number, start, end), content, {}))

    def _delete(self, number: int, group: list[Segment]) -> None:
        """Oldest first, one after the other: whenever it ends, what is left is a chain."""
        for segment in group:
            if self._retry.hurry.is_set():
                return
            self._retry(partial(self.chain.store.delete, segment.key))
            before = self.done[number]
            self.done[number] = attrs.evolve(
                before, end=segment.end, segments=before.segments + 1, nbytes=before.nbytes + segment.size
            )
            if self.observe is not None:
                self.observe(segment)
        log_event(
            _log,
            logging.INFO,
            "segments expired",
            stream=self.chain.dataset.stream,
            partition=number,
            start=group[0].start,
            end=group[-1].end,
            segments=len(group),
        )


def store_time_s(store: Store, folder: str) -> float | None:
    """
    Ask a store what time it is, by putting an object under *folder*, looking at it and deleting it.

    Returns:
        Seconds since the Unix epoch by the clock that `StoredObject.modified_s` is told by; None where it tells none.

    Raises:
        ConfigError: The place may not be written to, listed or deleted from.
        SinkUnavailableError: It did not answer; CommitUnknownError: as well. An object may be left behind, which harms nothing.
    """
    key = f"{folder}{secrets.token_hex(16)}.time"
    store.create(key, b"what time is it?", {})
    try:
        return next((item.modified_s for item in store.list(key).objects if item.key == key), None)
    finally:
        store.delete(key)


def _start(item: StoredObject) -> int:
    """Where a segment of a chain starts: its key says so (B1)."""
    return int(item.key.rpartition("/")[2][:20])


def _ago(seconds: float) -> str:
    if seconds < 0:
        return "in the future, by its clock"
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Stands around a run's source, sink, store and loader, and counts what they answer. The run itself knows nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from headrace.errors import CommitUnknownError, HeadraceError, PositionConflictError, TransientError
from headrace.layout import parse_segment
from headrace.loader import LoadableSegment, Loader, LoadResult
from headrace.records import Batch, Event, Extent, Hint, Identity, Partition, Position, Start
from headrace.sink import Draft, Sink
from headrace.source import Owner, Source
from headrace.store import Page, Store
from headrace.watching.health import Health
from headrace.watching.meters import Meters

T = TypeVar("T")


class _Around:
    """All but what a subclass says is that of the thing inside, attributes that are set too."""

    __slots__ = ("_health", "_inside", "_meters")

    def __init__(self, inside: object, meters: Meters, health: Health) -> None:
        object.__setattr__(self, "_inside", inside)
        object.__setattr__(self, "_meters", meters)
        object.__setattr__(self, "_health", health)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inside, name, value)

    def _ask(self, what: str, call: Callable[[], T], *, beats: bool = True) -> T:
        """Call, on the thread that runs the loop unless it *beats* not, and take how *what* answered."""
        if beats:
            self._health.beat()
        try:
            answer = call()
        except TransientError as error:
            self._health.failed(what, error)
            self._meters.failures.labels(what).inc()
            raise
        self._health.answered(what)
        if beats:
            self._health.beat()
        return answer


class _Source(_Around):
    """A source whose every poll is a sign of life."""

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        watched = cast("Owner", _Owner(owner, self._meters, self._health))
        return self._ask("source", lambda: self._inside.poll(watched, timeout_s))

    def extents(self) -> Mapping[Partition, Extent]:
        return self._ask("source", self._inside.extents, beats=False)

    def identities(self) -> Mapping[str, Identity]:
        return self._ask("source", self._inside.identities, beats=False)


class _Owner(_Around):
    """The pipeline, as the source sees it: who comes and goes is counted."""

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        starts: Mapping[Partition, Start | None] = self._inside.assigned(hints)
        self._meters.rebalances.labels("assigned").inc()
        self._meters.owned.update(hints)
        self._health.begun = True
        return starts

    def release(self, partitions: Iterable[Partition]) -> None:
        self._gone("released", partitions, self._inside.release)

    def lost(self, partitions: Iterable[Partition]) -> None:
        self._gone("lost", partitions, self._inside.lost)

    def _gone(self, kind: str, partitions: Iterable[Partition], tell: Callable[[list[Partition]], None]) -> None:
        known = list(partitions)
        tell(known)
        self._meters.rebalances.labels(kind).inc()
        self._meters.owned.difference_update(known)


class _Sink(_Around):
    """A sink whose commits are counted."""

    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        return self._ask("sink", lambda: self._inside.bind(extents))

    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        return self._ask("sink", lambda: self._inside.positions(hints))

    def draft(self, partition: Partition, position: int, buffer_bytes: int) -> Draft:
        inside = self._inside.draft(partition, position, buffer_bytes)
        return _Draft(inside, partition, self._meters, self._health)


class _Draft(Draft):
    """A draft that knows of what time its records are, and how long its commit takes."""

    __slots__ = ("_first_ms", "_health", "_inside", "_last_ms", "_meters", "_partition", "_records", "position")

    def __init__(self, inside: Draft, partition: Partition, meters: Meters, health: Health) -> None:
        self._inside, self._partition, self._meters, self._health = inside, partition, meters, health
        self.position = inside.position
        self._first_ms = self._last_ms = -1
        self._records = 0

    @property
    def held_bytes(self) -> int:
        return self._inside.held_bytes

    @property
    def end(self) -> int:
        return self._inside.end

    def add(self, batch: Batch) -> None:
        if not self._records:
            self._first_ms = batch.timestamps_ms[0]
        self._records += len(batch)
        self._last_ms = batch.timestamps_ms[-1]
        self._inside.add(batch)

    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        with _timed(self._meters.commit_seconds) as ended:
            try:
                position = self._inside.commit(base, at, identity)
            except TransientError as error:
                ended.append("unknown" if isinstance(error, CommitUnknownError) else "unavailable")
                self._health.failed("sink", error)
                self._meters.failures.labels("commit").inc()
                raise
            except PositionConflictError:
                ended.append("refused")
                self._meters.refusals.inc()
                raise
            ended.append("stored")
        self._health.answered("sink")
        self._stored()
        return position

    def _stored(self) -> None:
        stream = self._partition.stream
        self._meters.stored_records.labels(stream).inc(self._records)
        self._meters.stored_segments.labels(stream).inc()
        if self._last_ms >= 0:
            self._meters.stored_ms[self._partition] = self._last_ms
        if self._first_ms >= 0:
            age_s = max(0.0, self._meters.clock() - self._first_ms / 1000)
            self._meters.freshness.labels("bronze").observe(age_s)

    def discard(self) -> None:
        self._inside.discard()


class _Store(_Around):
    """A store whose requests are counted; of segments the PUTs are timed."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        self._meters.requests.labels("create").inc()
        if parse_segment(key.rpartition("/")[2]) is None:
            return bool(self._inside.create(key, body, metadata))
        with _timed(self._meters.put_seconds) as ended:
            try:
                created: bool = self._inside.create(key, body, metadata)
            except CommitUnknownError:
                ended.append("unknown")
                raise
            except TransientError:
                ended.append("unavailable")
                raise
            ended.append("stored" if created else "refused")
        if created:
            self._meters.segment_bytes.observe(len(body))
        return created

    def list(self, prefix: str, after: str = "") -> Page:
        self._meters.requests.labels("list").inc()
        return cast("Page", self._inside.list(prefix, after))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self._meters.requests.labels("read").inc()
        return cast("bytes | None", self._inside.read(key, start, end))


class _LakeOfLoad(_Store):
    """The store that a load walks: there each request is a sign of life."""

    def list(self, prefix: str, after: str = "") -> Page:
        return self._ask("lake", lambda: super(_LakeOfLoad, self).list(prefix, after))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        return self._ask("lake", lambda: super(_LakeOfLoad, self).read(key, start, end))


class _Loader(_Around):
    """A loader whose transactions are timed, and how old is what they make visible."""

    def positions(self, lines: Sequence[Any]) -> Mapping[Any, int | None]:
        found: Mapping[Any, int | None] = self._ask("warehouse", lambda: self._inside.positions(lines))
        self._health.begun = True
        return found

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        with _timed(self._meters.load_seconds) as ended:
            try:
                done: LoadResult = self._ask("warehouse", lambda: self._inside.load(segments))
            except HeadraceError as error:
                conflict = isinstance(error, PositionConflictError)
                ended.append("refused" if conflict else "failed")
                if conflict:
                    self._meters.refusals.inc()
                raise
            ended.append("loaded")
        self._health.beat()
        for trailer in (each.segment.trailer for each in segments):
            if trailer.min_ms >= 0:
                age_s = max(0.0, self._meters.clock() - trailer.min_ms / 1000)
                self._meters.freshness.labels("silver").observe(age_s)
            if trailer.max_ms >= 0:
                self._meters.loaded_ms[trailer.partition] = trailer.max_ms
        return done


@contextmanager
def _timed(histogram: Any) -> Iterator[list[str]]:
    """Observe how long the block took; it appends how it ended."""
    began_s, ended = time.perf_counter(), list[str]()
    try:
        yield ended
    finally:
        histogram.labels(ended[0] if ended else "failed").observe(time.perf_counter() - began_s)


def around_source(source: Source, meters: Meters, health: Health) -> Source:
    """Return the source, watched."""
    return cast("Source", _Source(source, meters, health))


def around_sink(sink: Sink, meters: Meters, health: Health) -> Sink:
    """Return the sink, watched, and the store inside it, where it has one."""
    if isinstance(store := getattr(sink, "store", None), Store):
        cast("Any", sink).store = _Store(store, meters, health)
    return cast("Sink", _Sink(sink, meters, health))


def around_lake(store: Store, meters: Meters, health: Health) -> Store:
    """Return the store that a load reads, watched."""
    return cast("Store", _LakeOfLoad(store, meters, health))


def around_loader(loader: Loader, meters: Meters, health: Health) -> Loader:
    """Return the loader, watched."""
    return cast("Loader", _Loader(loader, meters, health))

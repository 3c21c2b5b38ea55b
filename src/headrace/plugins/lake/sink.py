"""
The bronze sink: one conditional write per segment, and nothing else that could disagree with it.

What `LakeDraft.commit` does is the whole commit: no lock, no rename, no local state, no coordinator. The key is made of the
position alone, the store lets one writer create it, and whoever is refused looks up where the chain stands. What a writer
must hold before it may do so is kept by `headrace.commit`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import attrs
import msgspec

from headrace.chain import Chain
from headrace.commit import check_commit, check_identity
from headrace.dataset import LAYOUT_VERSION, Dataset
from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    DataError,
    HeadraceError,
    PluginError,
    PositionConflictError,
    TransientError,
)
from headrace.finding import Finding
from headrace.formats import COMPRESSIONS, Content, Format, Workers, format_of
from headrace.logs import run_id
from headrace.plugins.lake.doctor import check_lake
from headrace.plugins.lake.pin import pin
from headrace.plugins.lake.probe import probe
from headrace.records import Batch, Extent, Hint, Identity, Partition, Position
from headrace.segment import Trailer
from headrace.sink import Draft, Guarantee, Sink
from headrace.store import Store

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_LOOKUPS_AT_ONCE = 16


def boot_clock() -> float:
    """Seconds of a clock that counts suspended time, where the system has one (B15)."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@attrs.define(kw_only=True, eq=False)
class LakeSink(Sink):
    """
    Commits segments to a lake. Readers who glob ``partition=*/*`` see each record exactly once, at every moment.

    Attributes:
        store: Keeps the objects.

        format: Of the objects: lines of JSON, or Parquet with the same columns.

        compression: Of JSON lines "gzip", which every reader takes, or "zstd"; of Parquet "zstd" or "snappy". The first one
            unless it is given.

        epoch: The name of a new beginning for streams that the lake has already; "" for the first (B9).

        guarantee: "at-least-once" lets a store pass that does not refuse to overwrite; it must be asked for by name.

        position_max_age_s: An older position is looked up again before it is written to (B15).

        compress_threads: How many blocks are compressed at once.

        clock: Seconds, counting suspended time.
    """

    store: Store
    format: Literal["jsonl", "parquet"] = attrs.field(
        default="jsonl", validator=attrs.validators.in_(tuple(COMPRESSIONS))
    )
    compression: Literal["gzip", "zstd", "snappy"] = attrs.field()
    epoch: str = ""
    guarantee: Guarantee = attrs.field(
        default="exactly-once", validator=attrs.validators.in_(("exactly-once", "at-least-once"))
    )
    # half a day at most: what is a day old may be deleted (headrace.expire)
    position_max_age_s: float = attrs.field(
        default=3600.0, validator=(attrs.validators.ge(1.0), attrs.validators.le(43_200.0))
    )
    compress_threads: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    clock: Callable[[], float] = boot_clock
    _chains: dict[str, Chain] = attrs.field(factory=dict, init=False)
    _ends: dict[Partition, int] = attrs.field(factory=dict, init=False)
    _notes: set[tuple[Partition, int, int]] = attrs.field(factory=set, init=False)
    _format: Format = attrs.field(init=False)
    _workers: Workers = attrs.field(init=False)

    @compression.default
    def _usual_compression(self) -> str:
        return COMPRESSIONS[self.format][0]

    def __attrs_post_init__(self) -> None:
        self._format = format_of(self.format, self.compression)
        self._format.require()  # before anything is pinned
        self._workers = Workers(self.compress_threads)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> LakeSink:
        """Make the sink of ``file:///folder?compression=zstd&epoch=b``; other settings are the store's."""
        ours = {a.name for a in attrs.fields(cls) if a.init} - {"store", "clock"}
        mine = {n: v for n, v in uri.settings.items() if n.replace("-", "_") in ours}
        theirs = {n: v for n, v in uri.settings.items() if n not in mine}
        try:
            store = registry.store(attrs.evolve(uri, settings=theirs))
        except ConfigError as exc:
            if not theirs:
                raise
            raise ConfigError(f"{exc}; a lake that is written to has {', '.join(sorted(ours))} as well") from exc
        return cls(store=store, **attrs.evolve(uri, settings=mine).fields(cls))

    # ---- opening ------------------------------------------------------------------------------------------

    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        identities = {partition.stream: extent.identity for partition, extent in extents.items()}
        for partition, extent in extents.items():
            self._ends[partition] = extent.high
        for stream, identity in identities.items():
            if stream not in self._chains:
                self._chains[stream] = self._open(stream, identity)
        return {stream: self._chains[stream].dataset.identity for stream in identities}

    def _open(self, stream: str, identity: Identity) -> Chain:
        wanted = Dataset(
            id="",
            stream=stream,
            layout=LAYOUT_VERSION,
            format=self.format,
            compression=self.compression,
            isolation=identity.isolation,
            cluster=identity.cluster,
            topic=identity.topic,
            partitions=identity.partitions,
            epoch=self.epoch,
        )
        if self.guarantee == "exactly-once":
            probe(self.store, wanted.keys)
        return Chain(self.store, pin(self.store, wanted))

    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        if len(hints) == 1:
            return {p: self._position(p, hint) for p, hint in hints.items()}
        with ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="headrace-lookup") as pool:
            return dict(zip(hints, pool.map(self._position, hints.keys(), hints.values()), strict=True))

    def _position(self, partition: Partition, hint: Hint | None) -> Position | Exception:
        try:
            return self._look_up(partition, hint)
        except TransientError:
            raise
        except HeadraceError as error:
            return error

    def _look_up(self, partition: Partition, hint: Hint | None) -> Position:
        """Find the chain's end; its age counts from here, before the first request (B11, B15)."""
        began_s = self.clock()
        chain = self._chain(partition.stream)
        # metadata of another dataset is no metadata (B12)
        segment = hint.segment if hint is not None and hint.dataset_id == chain.dataset.id else None
        newest = chain.newest(partition.number, segment[0] if segment else None, self._ends.get(partition))
        if newest is None:
            if segment is not None:
                raise DataError(
                    f"{self.store.place} ({partition}): the chain is empty, expected at least the segment"
                    f" [{segment[0]}, {segment[1]}), which was acknowledged; it was deleted: restore it, or begin a new epoch"
                )  # B13
            return Position(0, None, chain.dataset.id, None, began_s)  # B2
        trailer = newest.trailer
        return Position(
            newest.end, (newest.start, newest.end), chain.dataset.id, trailer.leader_epoch, began_s, trailer.digest
        )

    def _look_again(self, partition: Partition, at: Position) -> Position:
        """Look up from where the chain was known to reach; a chain that is gone since is an error, not a new one (B13)."""
        return self._look_up(partition, Hint(at.offset, at.segment, at.dataset_id))

    def _chain(self, stream: str) -> Chain:
        try:
            return self._chains[stream]
        except KeyError as exc:
            raise ConfigError(f"{stream!r} is not bound to {self.store.place}: call bind() before positions()") from exc

    def check(self) -> Iterator[Finding]:
        return check_lake(self.store)

    # ---- writing ------------------------------------------------------------------------------------------

    def draft(self, partition: Partition, position: int, buffer_bytes: int) -> LakeDraft:
        content = self._format.content(self._workers, buffer_bytes)
        return LakeDraft(sink=self, partition=partition, position=position, content=content)

    def note(self, partition: Partition, start: int, end: int) -> None:
        chain = self._chain(partition.stream)
        body = {"dataset": chain.dataset.id, "stream": partition.stream, "partition": partition.number}
        content = msgspec.json.encode({**body, "from": start, "to": end, "writer": writer_name()})
        self.store.create(chain.layout.gap(partition.number, start, end), content, {})  # refused: it is noted already
        self._notes.add((partition, start, end))

    def close(self) -> None:
        self._workers.close()
        self.store.close()

    def _put(
        self, draft: LakeDraft, base: int, at: Position, identity: Identity, body: Callable[[], bytes]
    ) -> Position:
        """
        The commit: one create-only write at the position, or none at all.

        Whatever happened to earlier attempts, this one can only succeed where nothing is, and only if what is held covers
        everything from there on. So it may be repeated at will, and come late (B25).
        """
        chain, partition, p = self._chain(draft.partition.stream), draft.partition, draft.position
        check_commit(partition, p, base, at, noted=(partition, p, base) in self._notes)
        check_identity(partition, identity, chain.dataset.identity)
        payload = body()
        self._check_age(partition, at)  # last, just before the request (B15)
        began_s = self.clock()
        key = chain.layout.segment(partition.number, p, self._format.extension)
        metadata = {"dataset": chain.dataset.id, "start": str(p), "end": str(draft.end), "records": str(draft.records)}
        if self.store.create(key, payload, metadata):
            return Position(draft.end, (p, draft.end), chain.dataset.id, draft.leader_epoch, began_s, draft.digest)
        found = self._look_again(partition, at)
        if found.offset == p:
            raise CommitUnknownError(
                f"{partition}: the write at {p} was refused, and then nothing was there; try again"
            )
        raise PositionConflictError(
            f"{partition}: expected the chain to end at {p}, found {found.offset}; another writer was first",
            expected=p,
            found=found,
        )

    def _check_age(self, partition: Partition, at: Position) -> None:
        if self.clock() - at.looked_up_s <= self.position_max_age_s:
            return
        found = self._look_again(partition, at)
        raise PositionConflictError(
            f"{partition}: the position {at.offset} was looked up too long ago, now it is {found.offset}",
            expected=at.offset,
            found=found,
        )


@attrs.define(kw_only=True, eq=False)
class LakeDraft(Draft):
    """A segment on its way: records are encoded as they come, and nothing is kept of them but that."""

    sink: LakeSink
    partition: Partition
    position: int
    content: Content
    records: int = 0
    leader_epoch: int | None = None
    digest: str | None = attrs.field(default=None, init=False)
    _first: int | None = None
    _end: int | None = None
    _min_ms: int = 0
    _max_ms: int = 0
    _body: bytes | None = None
    _closed: bool = False
    _discarded: bool = False

    @property
    def held_bytes(self) -> int:
        return self.content.held_bytes

    @property
    def end(self) -> int:
        return self.position if self._end is None else self._end

    def add(self, batch: Batch) -> None:
        assert not self._closed, "a draft is closed before its first commit"  # noqa: S101 - our own state
        low, high = min(batch.timestamps_ms), max(batch.timestamps_ms)
        if self._first is None:
            self._first, self._min_ms, self._max_ms = batch.offsets[0], low, high
        self._min_ms, self._max_ms = min(self._min_ms, low), max(self._max_ms, high)
        self._end, self.leader_epoch = batch.end, batch.leader_epoch  # last record's offset + 1 (B3)
        self.records += len(batch)
        self.content.add(batch)

    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        return self.sink._put(self, base, at, identity, self._object)

    def discard(self) -> None:
        self._closed = self._discarded = True
        self._body = None
        self.content.discard()

    def _object(self) -> bytes:
        """The object's bytes: made once, so that every attempt sends the same (B25)."""
        if self._discarded:  # a trailer that says what is not there would be a silent loss
            raise PluginError(f"{self.partition}: the draft of {self.position} was discarded, it cannot be committed")
        if self._body is None:
            self._closed = True
            self._body = self.content.finish(self._trailer)
        return self._body

    def _trailer(self, digest: str) -> Trailer:
        assert self._first is not None, "a draft that is committed holds a record"  # noqa: S101 - our own state
        self.digest = digest
        return Trailer(
            dataset_id=self.sink._chain(self.partition.stream).dataset.id,
            partition=self.partition,
            start=self.position,
            end=self.end,
            first=self._first,
            records=self.records,
            min_ms=self._min_ms,
            max_ms=self._max_ms,
            digest=digest,
            leader_epoch=self.leader_epoch,
            writer=writer_name(),
        )


def writer_name() -> str:
    """Who writes, for people who read a trailer or a note: host and process, and the run by which its log is found."""
    run = run_id()
    return f"{socket.gethostname()[:32]}/{os.getpid()}" + (f" run={run[:64]}" if run else "")

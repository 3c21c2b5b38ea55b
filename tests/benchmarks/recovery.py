"""What a restart costs where the history is long: requests and time of a look-up, by what the hint knows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
from servers import servers
from sides import Sheet

from headrace.chain import Chain
from headrace.formats import Workers, format_of
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Extent, Hint, Identity, Partition, Record
from headrace.registry import Registry
from headrace.segment import Trailer
from headrace.store import Page, Store
from headrace.testing.store import MemoryStore

_STREAM = "ticks"
_PARTITION = Partition(_STREAM, 0)
_SEGMENT_RECORDS = 10
_WRITERS = 16


@attrs.define(eq=False)
class CountingStore(Store):
    """Counts what a lake asks of its store: one request each."""

    store: Store
    requests: Counter[str] = attrs.field(factory=Counter)

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.store.place

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        self.requests["PUT"] += 1
        return self.store.create(key, body, metadata)

    def list(self, prefix: str, after: str = "") -> Page:
        self.requests["LIST"] += 1
        return self.store.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self.requests["GET"] += 1
        return self.store.read(key, start, end)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def identity(self) -> str:
        return self.store.identity()


@contextmanager
def look_up(folder: Path, _records: int, segments: int) -> Iterator[list[Sheet]]:
    """A history on MinIO of as many segments as asked for, and one of 100,000 in memory, by the same sink."""
    with servers(folder) as service:
        registry, lake = Registry.discover(), service.lake("s3+obstore")
        history = History(registry.store(lake), segments)
        history.write()
        s3 = CountingStore(registry.store(lake.replace("s3+obstore", "s3", 1)))
        memory = History(MemoryStore(), _IN_MEMORY)
        memory.write()

        rows: dict[str, Callable[[], Sequence[object]]] = {}
        for label, counted, found in (
            (f"MinIO, {segments:,}", s3, history),
            (f"in memory, {_IN_MEMORY:,}", CountingStore(memory.store), memory),
        ):
            for name, hint in found.hints().items():
                rows[f"{label}: {name}"] = partial(_look_up, counted, found, hint)
        yield [
            Sheet(
                "the position of a chain",
                ("requests", "LIST", "GET", "ms"),
                rows,
                {"segments": segments, "writing_s": history.wrote_s, "repeat": _REPEAT},
            )
        ]
        s3.store.close()
        history.store.close()


_IN_MEMORY = 100_000
_REPEAT = 20


def _look_up(store: CountingStore, history: History, hint: Hint | None) -> Sequence[object]:
    sink = LakeSink(store=store)
    sink.bind({_PARTITION: history.extent})
    times = []
    for _ in range(_REPEAT):
        store.requests.clear()
        began_s = time.perf_counter()
        found = sink.positions({_PARTITION: hint})[_PARTITION]
        times.append(time.perf_counter() - began_s)
        if isinstance(found, Exception):
            raise found
        if found.offset != history.end:
            raise RuntimeError(f"found {found}, expected {history.end}")
    return [store.requests.total(), store.requests["LIST"], store.requests["GET"], sorted(times)[_REPEAT // 2] * 1000]


@attrs.define(eq=False)
class History:
    """
    A chain of one partition, of small segments.

    The last ones are whole; what stands in those before is never read by a look-up, so they hold a few bytes under their names.
    """

    store: Store
    segments: int
    wrote_s: float = 0.0
    dataset_id: str = ""

    @property
    def end(self) -> int:
        return self.segments * _SEGMENT_RECORDS

    @property
    def extent(self) -> Extent:
        return Extent(0, self.end, self.end, Identity("bench", "ticks", "read_committed", 1))

    def hints(self) -> Mapping[str, Hint | None]:
        """What Kafka may have kept: the truth, what was true one flush ago, long ago, nothing."""
        return {
            "the hint is right": self._hint(self.segments - 1),
            "one segment behind": self._hint(self.segments - 2),
            "half of the history behind": self._hint(self.segments // 2),
            "no hint": None,
        }

    def _hint(self, number: int) -> Hint:
        start = number * _SEGMENT_RECORDS
        return Hint(start + _SEGMENT_RECORDS, (start, start + _SEGMENT_RECORDS), self.dataset_id)

    def write(self) -> None:
        began_s = time.perf_counter()
        sink = LakeSink(store=self.store)
        sink.bind({_PARTITION: self.extent})
        chain = Chain.open(self.store, _STREAM)
        self.dataset_id = chain.dataset.id

        def put(number: int) -> None:
            start = number * _SEGMENT_RECORDS
            body = self._body(start) if number >= self.segments - 2 else b"nothing"
            self.store.create(chain.layout.segment(0, start, "jsonl.gz"), body, {})

        if isinstance(self.store, MemoryStore):
            for number in range(self.segments):
                put(number)
        else:
            with ThreadPoolExecutor(_WRITERS) as pool:
                for _ in pool.map(put, range(self.segments)):
                    pass
        self.wrote_s = time.perf_counter() - began_s

    def _body(self, start: int) -> bytes:
        workers, end = Workers(1), start + _SEGMENT_RECORDS
        content = format_of("jsonl", "gzip").content(workers, 1 << 20)
        records = [Record(offset, 0, None, b"{}") for offset in range(start, end)]
        content.add(Batch.of(_PARTITION, records, assignment=1))
        body = content.finish(
            lambda digest: Trailer(
                self.dataset_id, _PARTITION, start, end, start, _SEGMENT_RECORDS, 0, 0, digest, None, "bench"
            )
        )
        workers.close()
        return body

"""
One run of a pipeline in a process of its own, as `headrace stream` makes it, watched from outside of the library.

It takes an order as JSON, says "ready" when all is imported, begins at the first byte of its input, stops at the second (a
bounded run ends by itself), and prints what it saw.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka.source import KafkaSource
from headrace.records import Event, Hint, Partition, Start
from headrace.registry import Registry
from headrace.source import Owner
from headrace.store import Page, Store
from headrace.uri import URI


@attrs.define(eq=False)
class Watch:
    """What happened when, seconds since the epoch."""

    joined_s: float = 0.0
    assigned_s: float = 0.0
    looked_up_s: float = 0.0
    first_s: float = 0.0
    partitions: int = 0
    commits: list[tuple[str, float, float, int, int]] = attrs.field(factory=list)


@attrs.define(eq=False)
class WatchedOwner(Owner):
    owner: Owner
    watch: Watch

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        began_s = time.time()
        found = self.owner.assigned(hints)
        if hints and not self.watch.assigned_s:
            self.watch.assigned_s, self.watch.looked_up_s = began_s, time.time()
        self.watch.partitions += len(hints)
        return found

    def release(self, partitions: Iterable[Partition]) -> None:
        partitions = list(partitions)
        self.watch.partitions -= len(partitions)
        self.owner.release(partitions)

    def lost(self, partitions: Iterable[Partition]) -> None:
        self.owner.lost(partitions)


@attrs.define(kw_only=True, eq=False)
class WatchedSource(KafkaSource):
    watch: Watch = attrs.field(factory=Watch)

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if not self.watch.joined_s:
            self.watch.joined_s = time.time()
        events = super().poll(WatchedOwner(owner, self.watch), timeout_s)
        if events and not self.watch.first_s:
            self.watch.first_s = time.time()
        return events


@attrs.define(eq=False)
class WatchedStore(Store):
    """Notes when each segment was durable."""

    store: Store
    watch: Watch

    @property
    def place(self) -> str:  # type: ignore[override]
        return self.store.place

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        began_s = time.time()
        done = self.store.create(key, body, metadata)
        if done and "records" in metadata:
            self.watch.commits.append((key, began_s, time.time(), int(metadata["records"]), len(body)))
        return done

    def list(self, prefix: str, after: str = "") -> Page:
        return self.store.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        return self.store.read(key, start, end)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def identity(self) -> str:
        return self.store.identity()

    def close(self) -> None:
        self.store.close()


def memory_bytes(name: str) -> int:
    """Say how much memory this process has, or had at the most; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))
    except OSError:
        return 0


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    registry, watch = Registry.discover(), Watch()
    memory = order.get("memory_bytes", 256 << 20)
    reader = URI.parse(order["source"])
    source = WatchedSource.from_uri(reader, registry)
    source.watch = watch
    if "queue_bytes" not in reader.settings:
        source.queue_bytes = max(1 << 20, min(32 << 20, memory // 8))  # as the command line has it
    sink = registry.sink(URI.parse(order["sink"]))
    sink.store = WatchedStore(sink.store, watch)  # type: ignore[attr-defined]
    flush = FlushPolicy(bytes=order.get("flush_bytes", 64 << 20), age_s=order.get("flush_age_s", 60.0))
    pipeline = Pipeline(
        source=source,
        sink=sink,
        flush=flush,
        memory_bytes=memory,
        until_end=order.get("until_end", True),
        puts_in_flight=order.get("puts_in_flight", 8),
    )
    began = memory_bytes("VmRSS")
    print("ready", flush=True)
    os.read(0, 1)
    threading.Thread(target=lambda: os.read(0, 1) and pipeline.stop(), daemon=True).start()
    cpu_s = time.process_time()
    done = pipeline.run()
    found = attrs.asdict(watch)
    found |= {"cpu_s": time.process_time() - cpu_s, "rss_began": began, "rss_peak": memory_bytes("VmHWM")}
    print(json.dumps({**found, "records": done.stored_records, "segments": done.segments}))


if __name__ == "__main__":
    main()

"""A feed's source that is polled by a test, by a clock that the test turns."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from headrace.pipeline import Pipeline
from headrace.plugins.market.alpaca import Alpaca
from headrace.plugins.market.coinbase import Coinbase
from headrace.plugins.market.source import FeedSource
from headrace.records import Batch, Hint, Partition, Record, Start
from headrace.testing.servers.exchange import Exchange


@attrs.define
class Clock:
    """Passes only when a test says so; the time of day goes with it."""

    now_s: float = 1000.0
    day_ns: int = 1_767_366_000_000_000_000  # 2026-01-02T15:00:00Z, a Friday: New York is open
    waits: list[float] = attrs.field(factory=list)

    def __call__(self) -> float:
        return self.now_s

    def ns(self) -> int:
        return self.day_ns + int((self.now_s - 1000.0) * 1e9)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds

    def most(self, least: float, most: float) -> float:
        """A wait that is as long as it may be, so that a test knows it."""
        self.waits.append(most)
        return most


@attrs.define(eq=False)
class Following:
    """A source that is polled here, as a pipeline would, with all that it has said."""

    source: FeedSource
    clock: Clock
    said: dict[str, list[Record]] = attrs.field(factory=dict)
    starts: dict[Partition, int] = attrs.field(factory=dict)
    storing: bool = True  # gap records, as soon as they are said

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        return {p: Start(self.starts.get(p), None, 1) for p in hints}

    def release(self, partitions) -> None:
        raise AssertionError("a feed is never taken away")

    lost = release

    def poll(self, timeout_s: float = 0.05) -> None:
        self.take(self.source.poll(self, timeout_s))
        if self.storing:
            self.store("gaps")

    def take(self, events) -> None:
        for batch in events:
            assert isinstance(batch, Batch)
            assert batch.nbytes == sum(
                len(r.key or b"") + len(r.value or b"") + sum(len(n) + len(v or b"") for n, v in r.headers)
                for r in batch.records()
            )
            self.said.setdefault(batch.partition.stream.rpartition(".")[2], []).extend(batch.records())

    def finish(self) -> None:
        """End, and store step by step what is said at the end."""
        while events := self.source.finish():
            self.take(events)
            self.store()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.gaps(), {k: len(v) for k, v in self.said.items()})
            self.poll()

    def values(self, kind: str) -> list[bytes | None]:
        return [r.value for r in self.said.get(kind, [])]

    def store(self, *kinds: str) -> None:
        """Acknowledge all that was said, of these kinds or of all."""
        ends = {p: n for p, n in self.source._next.items() if not kinds or p.stream.rpartition(".")[2] in kinds}
        self.source.acknowledge({p: Hint(n) for p, n in ends.items()})

    def gaps(self) -> list[dict[str, Any]]:
        """The gaps, each as its last revision says."""
        found = {g["id"]: g for g in map(json.loads, self.values("gaps"))}
        return list(found.values())

    def open_gaps(self) -> list[str]:
        return [g["symbol"] for g in self.gaps() if g["to"] is None]


def stocks(exchange: Exchange, *symbols: str, **more: Any) -> Alpaca:
    return Alpaca(symbols=symbols or ("AAPL",), address=exchange.address, **more)


def products(exchange: Exchange, *symbols: str, **more: Any) -> Coinbase:
    return Coinbase(symbols=symbols or ("BTC-USD",), address=exchange.address, **more)


def begun(following: Following, exchange: Exchange) -> Following:
    """Poll until the exchange has it as a client, and the gap of its beginning has ended."""
    following.until(lambda: bool(following.gaps()) and not following.open_gaps())
    exchange.wait_for_clients()
    return following


@attrs.define(eq=False)
class Running:
    """A pipeline in a thread of its own."""

    pipeline: Pipeline
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def begin(self) -> Running:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def stop(self) -> BaseException | None:
        self.pipeline.stop()
        assert self.thread is not None
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.error


def values(lake: Path, stream: str) -> list[dict[str, Any]]:
    """What a lake holds of a stream, by hand."""
    objects = sorted(lake.glob(f"{stream}/partition=0/*.jsonl.gz"))
    return [json.loads(line)["value"] for o in objects for line in gzip.decompress(o.read_bytes()).splitlines()]


def until(condition: Callable[[], bool], shown: Callable[[], object] = str) -> None:
    """Wait for it; where that is in vain, *shown* says what is there instead."""
    for _ in range(6_000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise TimeoutError(f"it did not come true in 60 s: {shown()}")

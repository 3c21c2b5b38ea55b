"""A feed's trades and its gap records in a lake, as one or two producers wrote them: what the tests of its numbers look at."""

from __future__ import annotations

import random
from pathlib import Path

import attrs

from headrace.auditing.result import AuditResult
from headrace.auditing.run import Audit
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market.gaps import Gaps
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource

LONG_AGO_NS = 1_767_225_600_000_000_000  # 2026-01-01
SECOND_NS = 10**9


@attrs.define
class FeedWorld:
    """Two topics and a lake; time is a count of seconds."""

    folder: Path
    logs: dict[str, MemoryLog] = attrs.field(
        factory=lambda: {kind: MemoryLog(stream=f"coinbase.{kind}", partitions=2) for kind in ("trades", "gaps")}
    )
    seconds: int = 0
    lost: set[int] = attrs.field(factory=set)
    """Numbers that are received and never stored."""

    def now_ns(self) -> int:
        self.seconds += 1
        return LONG_AGO_NS + self.seconds * SECOND_NS

    def stream(self, kinds: tuple[str, ...] = ("gaps", "trades"), records: int = 6) -> None:
        for kind in kinds:
            sink = LakeSink(store=FileStore(root=self.folder))
            source = MemorySource(log=self.logs[kind], idle=lambda _: None)
            Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=records)).run()

    def audit(self, **more: object) -> AuditResult:
        settings = {"deep": True, "retry_for_s": 0.0, "workers": 1, **more}
        return Audit(store=FileStore(root=self.folder), stream="coinbase.trades", **settings).run()

    def said(self, **more: object) -> list[tuple[str, str, int | None, int, int]]:
        return [(f.kind, f.where, f.partition, f.start, f.end) for f in self.audit(**more).findings]


@attrs.define
class Producer:
    """Receives, and publishes what it holds when it is told to."""

    world: FeedWorld
    run: str
    symbols: tuple[str, ...] = ("BTC-USD",)
    counts: bool = True
    gaps: Gaps = attrs.field(init=False)
    held: list[tuple[str, bytes, int]] = attrs.field(factory=list)
    heard_ns: int | None = None
    in_order: dict[tuple[str, int], bool] = attrs.field(factory=dict)
    connection: int = 0

    def __attrs_post_init__(self) -> None:
        numbers = {"trades": "trade_id"} if self.counts else {}
        self.gaps = Gaps(feed="coinbase", symbols=self.symbols, producer=self.run, run=self.run, numbers=numbers)
        self.gaps.begin("started", None)
        self.connect()

    def connect(self) -> None:
        self.connection += 1
        self.gaps.end(self.world.now_ns())
        self._tell()

    def lose(self, cause: str = "broken off") -> None:
        self.gaps.begin(cause, self.heard_ns)
        self._tell()

    def receive(self, *numbers: int, symbol: str = "BTC-USD") -> None:
        for number in numbers:
            now_ns = self.heard_ns = self.world.now_ns()
            self.gaps.count([symbol], [number], now_ns)
            self.held.append((symbol, b'{"product_id":"%s","trade_id":%d}' % (symbol.encode(), number), now_ns))
            self._tell()

    def drop(self) -> None:
        """What is held is not stored: the sink stands elsewhere."""
        self.gaps.between(
            "not stored: the sink of coinbase.trades stands elsewhere", self.held[0][2], self.world.now_ns()
        )
        self.held.clear()
        self._tell()

    def fetch(self, gap: str, *numbers: int) -> None:
        """Publish what was had from the exchange's history for a gap."""
        for number in numbers:
            value = b'{"product_id":"BTC-USD","trade_id":%d}' % number
            fetched = ("headrace.backfilled", gap.encode())
            self._produce("trades", "BTC-USD", value, self.world.now_ns(), fetched)

    def publish(self) -> None:
        for symbol, value, ns in self.held:
            if int(value.rpartition(b":")[2].rstrip(b"}")) in self.world.lost:
                continue
            self._produce("trades", symbol, value, ns)
        self.held.clear()

    def kill(self) -> None:
        self.held.clear()

    def stop(self) -> None:
        self.publish()
        self.lose("stopped")

    def _tell(self) -> None:
        while self.gaps.out:
            symbol, value, _ = self.gaps.out.pop(0)
            self._produce("gaps", symbol, value, self.world.now_ns())

    def _produce(self, kind: str, symbol: str, value: bytes, ns: int, *more: tuple[str, bytes]) -> None:
        headers = (
            *more,
            ("headrace.received_ns", b"%d" % ns),
            ("headrace.connection", b"%s-%d" % (self.run.encode(), self.connection)),
        )
        self.world.logs[kind].produce(
            value, key=symbol.encode(), partition=sum(symbol.encode()) % 2, timestamp_ms=ns // 10**6, headers=headers
        )


def healthy_feed(folder: Path) -> FeedWorld:
    """Numbers that never came, one that came late, a connection that was lost, and a second producer from the middle on."""
    world = FeedWorld(folder)
    one = Producer(world, "one")
    one.receive(1, 2, 3, 4, 8, 9, 6, 10)  # 5 and 7 never come
    one.lose()
    one.connect()
    one.receive(13, 14, 15, 16, 17, 18)
    one.publish()
    two = Producer(world, "two")
    two.receive(16, 17, 18, 19, 20, 21, 23)
    two.publish()
    one.receive(19, 22, 23, 24, 25)  # 20 and 21 the other one has, 22 only this one
    one.publish()
    one.stop()
    world.stream()
    return world


@attrs.define
class History:
    """A random one: what an exchange sends, and what becomes of it; all of it healthy."""

    world: FeedWorld
    chance: random.Random
    sent: int = 0
    runs: int = 0
    there: list[Producer] = attrs.field(factory=list)
    down: set[str] = attrs.field(factory=set)
    steady: list[int] = attrs.field(factory=list)
    """Numbers that a producer got in their order with those around them."""

    def play(self, steps: int = 120) -> History:
        for _ in range(steps):
            self._step()
        for producer in self.there:
            producer.publish()
        return self

    def _step(self) -> None:
        chance = self.chance.random()
        if not self.there or (chance < 0.02 and len(self.there) < 2):
            self.runs += 1
            self.there.append(Producer(self.world, f"run{self.runs}"))
        elif chance < 0.04:
            producer = self.there.pop(self.chance.randrange(len(self.there)))
            producer.kill() if self.chance.random() < 0.5 else producer.stop()
        elif chance < 0.1:
            producer = self.chance.choice(self.there)
            if producer.run in self.down:
                self.down.discard(producer.run)
                producer.connect()
            else:
                self.down.add(producer.run)
                producer.lose()
        elif chance < 0.3:
            self.chance.choice(self.there).publish()
        elif chance < 0.33:
            self.world.stream(self.chance.choice([("trades",), ("gaps",)]), records=self.chance.randint(1, 9))
        else:
            self._send()

    def _send(self) -> None:
        count = self.chance.randint(1, 6)
        numbers = list(range(self.sent + 1, self.sent + 1 + count))
        self.sent += count
        for producer in self.there:
            if producer.run in self.down:
                continue
            kept = [n for n in numbers if self.chance.random() > 0.1]
            if self.chance.random() < 0.2:
                self.chance.shuffle(kept)
            elif kept == numbers and count > 2:
                self.steady += numbers[1:-1]
            producer.receive(*kept)

"""A log in memory, a lake on disk and two tables in a DuckDB file: what the tests of the audit look at."""

from __future__ import annotations

import copy
import shutil
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import attrs
import duckdb
from feed_world import healthy_feed

from headrace.auditing.result import AuditResult
from headrace.auditing.run import Audit
from headrace.chain import Chain
from headrace.contract import column, contract
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.loader import Loader
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.store import Store
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource


@contract(version=1)
class Tick:
    """A tick."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None
    time: datetime = column(record="timestamp", unit="ms")


@contract(version=1, key=("symbol",), order=("time", "price"))
class Last:
    """The last tick of each symbol."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None
    time: datetime = column(record="timestamp", unit="ms")


@contract(version=1)
class Narrow:
    """Refuses what is below zero."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None = column(minimum=0)


@contract(version=1)
class Small:
    """Refuses what is above fifteen."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None = column(maximum=15)


@contract(version=2)
class Tick2:
    """Takes it."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None


@attrs.define
class World:
    """A log of two partitions, its lake, and two tables that are loaded from it."""

    folder: Path
    log: MemoryLog = attrs.field(factory=lambda: MemoryLog(stream="ticks", partitions=2))
    kind: tuple[str, str] = ("jsonl", "gzip")

    @property
    def store(self) -> Store:
        return FileStore(root=self.folder / "lake")

    def produce(self, count: int, number: int = 0, **more: object) -> None:
        """Append records; every seventh breaks the contract."""
        for _ in range(count):
            n = self.log.logs[number].high
            value = b'{"symbol":"%s","price":%d.25,"size":%d}' % (b"ABC"[n % 3 : n % 3 + 1], n, n)
            self.log.produce(
                b"spoilt" if n % 7 == 5 else value, key=b"k", partition=number, timestamp_ms=1000 + n, **more
            )

    def stream(self, records: int = 5, on_gap: str = "stop") -> None:
        source = MemorySource(log=self.log, idle=lambda _: None)
        sink = LakeSink(store=self.store, format=self.kind[0], compression=self.kind[1])
        Pipeline(source=source, sink=sink, until_end=True, on_gap=on_gap, flush=FlushPolicy(records=records)).run()

    def loader(self, kept: type = Tick, target: str = "") -> Loader:
        name = target or ("last" if kept is Last else "ticks")
        return DuckDBLoader(database=self.folder / "silver.duckdb", target=name, contract=kept, threads=1)

    def load(self, kept: type = Tick, **more: object) -> None:
        Load(chain=Chain.open(self.store, "ticks"), loader=self.loader(kept), group_segments=2, **more).run()

    def audit(self, kept: type | None = Tick, **more: object) -> AuditResult:
        settings = {
            "store": self.store,
            "stream": "ticks",
            "source": MemorySource(log=self.log),
            "loader": None if kept is None else self.loader(kept),
            "retry_for_s": 0.0,
            "workers": 1,
            **more,
        }
        return Audit(**settings).run()

    def sql(self, statement: str) -> None:
        with duckdb.connect(str(self.folder / "silver.duckdb")) as connection:
            connection.execute(statement)


def healthy(folder: Path, kind: tuple[str, str] = ("jsonl", "gzip")) -> World:
    """A world with everything that a healthy one has: quarantine, aborted transactions, markers, compaction, a tombstone."""
    world = World(folder, kind=kind)
    world.produce(12)
    world.produce(7, 1)
    world.produce(3, fate="open")
    world.log.settle(abort=True)
    world.produce(4, fate="open")
    world.log.settle(abort=False)
    world.log.compact(2)
    world.log.compact(17)
    world.produce(6)
    world.log.produce(None, key=b"gone", partition=1)
    world.stream()
    world.load()
    world.load(Last)
    healthy_feed(folder / "feed")
    return world


def copied(world: World, folder: Path) -> World:
    """Make another one like it, of which nothing is shared."""
    shutil.copytree(world.folder, folder / "copy")
    return World(folder / "copy", log=copy.deepcopy(world.log), kind=world.kind)

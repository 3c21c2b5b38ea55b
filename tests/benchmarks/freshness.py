"""From the exchange's send to what can be queried: a feed, a broker, MinIO and a table of DuckDB, nothing of it broken."""

from __future__ import annotations

import bisect
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import duckdb
from servers import Servers, servers
from sides import Sheet
from workers import Worker

from headrace.cli.lake import open_chain
from headrace.contract import column, contract
from headrace.load import Load
from headrace.loader import LoadableSegment, LoadResult
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.registry import Registry

_PER_S = 2000
_FEED_S = 12.0
_WARM_S = 4.0
_WAIT_S = 60.0
_HERE = Path(__file__).parent
_FEED = """\
name = "{name}"
address = "ws://127.0.0.1:{port}"
symbols = ["AAPL"]
send = ['{{"follow":{{symbols}}}}']
kind = "T"
symbol = "S"
sequence = "n"
subscribed = "subscribed"
control = ["subscribed"]
streams = {{t = "trades"}}
"""


@contract(version=1)
class Tick:
    symbol: str = column(source="S")
    number: int = column(source="n")
    price: Decimal = column(source="p", precision=18, scale=2)
    sent_ns: int = column(source="at")


@attrs.define(kw_only=True, eq=False)
class TimedLoader(DuckDBLoader):
    """Notes when the rows of each segment could be queried: the file is closed again."""

    ends: dict[int, list[tuple[int, float]]] = attrs.field(factory=lambda: defaultdict(list))
    rows: int = 0

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        done = super().load(segments)
        now_s = time.time()
        for each in segments:
            trailer = each.segment.trailer
            self.ends[trailer.partition.number].append((trailer.end, now_s))
        self.rows += done.inserted
        return done


@contextmanager
def freshness(folder: Path, _records: int) -> Iterator[list[Sheet]]:
    """By how often bronze stores and silver looks."""
    with servers(folder) as service:
        settings = ((1.0, 5.0), (1.0, 1.0))
        yield [
            Sheet(
                "sent by the exchange to queryable, s",
                ("bronze p50", "bronze p99", "silver p50", "silver p99", "records"),
                {
                    f"flush age {age:g} s, load every {every:g} s": partial(_row, folder, service, age, every)
                    for age, every in settings
                },
                {"records_per_s": _PER_S, "seconds": _FEED_S},
            )
        ]


def _row(folder: Path, service: Servers, age_s: float, every_s: float) -> Sequence[object]:
    name = f"fresh-{age_s:g}-{every_s:g}"
    topic, lake = service.topics.make(f"{name}.trades", partitions=4), service.lake()
    loader = TimedLoader(database=folder / f"{name}.duckdb", target="trades", contract=Tick)
    order = {"source": service.source(topic, start="earliest"), "sink": lake, "flush_age_s": age_s, "until_end": False}
    with ExitStack() as running:
        bronze = running.enter_context(Worker(order))
        bronze.say()
        market = running.enter_context(_process("market.py", str(_PER_S), str(_WARM_S + _FEED_S)))
        assert market.stdout is not None
        feed = folder / f"{name}.toml"
        feed.write_text(_FEED.format(name=name, port=int(market.stdout.readline())), encoding="utf-8")
        sink = f"kafka://{service.bootstrap}/{{stream}}?create_partitions=4&compression.type=lz4"
        running.enter_context(_process("-m", "headrace", "stream", f"websocket://{feed}?producer=bench", sink))
        chain = open_chain(Registry.discover(), lake, topic, "", wait_s=0.5)
        load = Load(chain=chain, loader=loader, follow=True, look_every_s=every_s)
        thread = threading.Thread(target=load.run, daemon=True)
        thread.start()
        running.callback(load.stop)
        sent = int(market.stdout.readline())
        deadline_s = time.monotonic() + _WAIT_S
        while loader.rows < sent:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"found {loader.rows} rows in silver, expected {sent}")
            time.sleep(0.1)
        load.stop()
        thread.join(_WAIT_S)
        bronze.say()
        stored = _stored(bronze.found()["commits"])
    with duckdb.connect(str(loader.database), read_only=True) as silver:
        (begun_ns,) = silver.execute("SELECT min(sent_ns) FROM trades").fetchall()[0]
        rows = silver.execute(
            "SELECT _partition, _offset, sent_ns / 1e9 FROM trades WHERE sent_ns >= ?", [begun_ns + int(_WARM_S * 1e9)]
        ).fetchall()
    cells: list[float] = []
    for ends in (stored, loader.ends):
        waits = sorted(_queryable_s(ends[partition], offset) - sent_s for partition, offset, sent_s in rows)
        cells += [waits[int(len(waits) * share)] for share in (0.5, 0.99)]
    return [*cells, len(rows)]


def _stored(commits: Sequence[Sequence[Any]]) -> dict[int, list[tuple[int, float]]]:
    """By partition where each segment ends, and when it was durable."""
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for key, _, durable_s, records, _ in commits:
        _, partition, segment = key.rsplit("/", 2)
        start = int(segment.partition(".")[0])
        found[int(partition.partition("=")[2])].append((start + records, durable_s))
    return {number: sorted(ends) for number, ends in found.items()}


def _queryable_s(ends: Sequence[tuple[int, float]], offset: int) -> float:
    """Say when the segment with this offset was there."""
    return ends[bisect.bisect_right(ends, (offset, float("inf")))][1]


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=_HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)

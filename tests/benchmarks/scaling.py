"""What more of each brings: partitions in one process, processes of one group, tables that are loaded at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from material import write_lake
from servers import PARTITIONS, servers
from sides import Comparison, Goal, Side, Stopwatch
from workers import Worker

import services

_MIB = 1 << 20
_COUNTS = (1, 4, 16, 64)
_TABLES = 4


def several(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


@contextmanager
def partitions(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """As many records in topics of 1, 4, 16 and 64 partitions, to S3 by one process."""
    records = records // max(_COUNTS) * max(_COUNTS)
    with servers(folder) as service:
        topics = {count: service.topic(records, count) for count in _COUNTS}

        def run(count: int, watch: Stopwatch) -> int:
            return services.stream(service, topics[count], service.lake(), records, watch)

        yield [
            Comparison(
                "partitions, one process",
                [Side(several(count, "partition"), partial(run, count)) for count in _COUNTS],
                [Goal(several(count, "partition"), "1 partition") for count in _COUNTS[1:]],
                {"records": records, "flush_bytes": services.FLUSH_BYTES},
            )
        ]


@contextmanager
def processes(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """A topic of 16 partitions to S3, by one group of one, two and four processes: from the first record to the last segment."""
    with servers(folder) as service:
        topic = service.topic(records)

        def run(count: int, watch: Stopwatch) -> int:
            order = {"source": service.source(topic), "sink": service.lake(), "flush_bytes": _MIB}
            with ExitStack() as running:
                workers = [running.enter_context(Worker(order)) for _ in range(count)]
                for worker in workers:
                    worker.say()
                found = [worker.found() for worker in workers]
            shared = [f for f in found if f["commits"]]
            begun_s, ended_s = min(f["first_s"] for f in shared), max(c[2] for f in shared for c in f["commits"])
            watch.tell(ended_s - begun_s, sum(f["cpu_s"] for f in found))
            return sum(f["records"] for f in found)

        yield [
            Comparison(
                "processes of one group",
                [Side(several(count, "process"), partial(run, count)) for count in (1, 2, 4)],
                [Goal(several(count, "process"), "1 process") for count in (2, 4)],
                {"partitions": PARTITIONS, "flush_bytes": _MIB},
            )
        ]


@contextmanager
def tables(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """Four tables of a quarter of the records each, every one a DuckDB file of its own, by one, two and four processes."""
    lake = folder / "lake"
    write_lake(lake, records // _TABLES)

    def run(at_once: int, watch: Stopwatch) -> int:
        files = [str(folder / f"table-{number}.duckdb") for number in range(_TABLES)]
        for file in files:
            Path(file).unlink(missing_ok=True)
        with ExitStack() as running:
            orders = [{"lake": str(lake), "files": files[number::at_once]} for number in range(at_once)]
            loaders = [running.enter_context(Worker(order, "loads.py")) for order in orders]
            began_s = time.perf_counter()
            for loader in loaders:
                loader.say()
            found = [loader.found() for loader in loaders]
            watch.tell(time.perf_counter() - began_s, sum(f["cpu_s"] for f in found))
        return sum(f["records"] for f in found)

    yield [
        Comparison(
            "tables loaded at once",
            [Side(several(count, "loader"), partial(run, count)) for count in (1, 2, 4)],
            [Goal(several(count, "loader"), "1 loader") for count in (2, 4)],
            {"tables": _TABLES, "segments_of_each": len(list(lake.rglob("*.jsonl.gz")))},
        )
    ]

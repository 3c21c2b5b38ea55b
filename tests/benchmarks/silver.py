"""The lake to DuckDB: exact, under a contract, with quarantine and ledger, against DuckDB's own typed INSERT."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb
from material import PARTITIONS, fresh, write_lake
from sides import Comparison, Goal, Side, Stopwatch

from headrace.chain import Chain
from headrace.demo.contracts import Trade
from headrace.load import Load
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore

_TABLE = (
    'CREATE TABLE ticks(symbol VARCHAR, "time" TIMESTAMP_NS, price DECIMAL(18,6), size DECIMAL(18,6), exchange VARCHAR,'
    ' conditions VARCHAR, suspicious BOOLEAN, "partition" INTEGER, "offset" BIGINT, timestamp_ms BIGINT)'
)
_VALUE = (
    'STRUCT(symbol VARCHAR, "time" TIMESTAMP_NS, price DECIMAL(18,6), size DECIMAL(18,6), exchange VARCHAR, conditions VARCHAR,'
    " suspicious BOOLEAN)"
)
_SHARES = {"1 % bad": 100, "all bad": 1}
_MANY_SEGMENTS = 200
"""In each partition, for the memory: as many records in a few segments and in many."""


@contextmanager
def duckdb_loads(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """All records good, each hundredth bad, all bad."""
    good = folder / "good"
    write_lake(good, records)
    lakes = {f"Load, {share}": (folder / share, every) for share, every in _SHARES.items()}
    for lake, every in lakes.values():
        write_lake(lake, records, bad_every=every)

    def own(_: Stopwatch) -> int:
        return _own(good, fresh(folder / "own"))

    def ours(lake: Path, bad: int, _: Stopwatch) -> int:
        return _ours(lake, fresh(folder / "ours"), bad)

    bad_sides = [Side(name, partial(ours, lake, records // every)) for name, (lake, every) in lakes.items()]
    yield [
        Comparison(
            "silver",
            [Side("INSERT … FROM read_json", own), Side("Load", partial(ours, good, 0)), *bad_sides],
            [
                Goal("Load", "INSERT … FROM read_json", "0.80 | 1.0"),
                *(Goal(side.name, "INSERT … FROM read_json") for side in bad_sides),
            ],
            {
                "objects": len(list(good.rglob("*.jsonl.gz"))),
                "bytes": sum(f.stat().st_size for f in good.rglob("*.gz")),
                **_memory(folder, good, records),
            },
        )
    ]


def _memory(folder: Path, few: Path, records: int) -> dict[str, int]:
    """The most that a process held which loads the same records from a few segments, and from many."""
    many = folder / "many"
    write_lake(many, records, segment_records=max(1, records // PARTITIONS // _MANY_SEGMENTS))
    found = {}
    for lake in (few, many):
        segments = len(list(lake.rglob("*.jsonl.gz")))
        code = f"import silver; from pathlib import Path; silver.measured(Path({str(lake)!r}), Path({str(folder)!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=Path(__file__).parent)
        found[f"peak_bytes_with_{segments}_segments"] = int(done.stdout)
    return found


def measured(lake: Path, folder: Path) -> None:
    """Load in this process, and print the most that it held, in bytes."""
    _ours(lake, fresh(folder / "measured"), 0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _own(lake: Path, folder: Path) -> int:
    """What DuckDB does by itself: no contract, no ledger, silent casts."""
    folder.mkdir()
    columns = f"{{\"offset\": 'BIGINT', timestamp_ms: 'BIGINT', value: '{_VALUE}'}}"
    with duckdb.connect(str(folder / "silver.duckdb")) as connection:
        connection.execute(_TABLE)
        [(count,)] = connection.execute(
            'INSERT INTO ticks SELECT value.symbol, value."time", value.price, value.size, value.exchange, value.conditions,'
            ' value.suspicious, "partition", "offset", timestamp_ms'
            f" FROM read_json('{lake}/ticks/partition=*/*.jsonl.gz', format = 'newline_delimited', columns = {columns},"
            " hive_partitioning = true)"
        ).fetchall()
    return int(count)


def _ours(lake: Path, folder: Path, bad: int) -> int:
    folder.mkdir()
    loader = DuckDBLoader(database=folder / "silver.duckdb", target="ticks", contract=Trade)
    done = Load(chain=Chain.open(FileStore(root=lake), "ticks"), loader=loader, max_rejected=1).run()
    if abs(done.rejected - bad) > 4 or done.inserted + done.rejected != done.records:  # a partition's share is rounded
        raise RuntimeError(f"found {done}, expected {bad} refused")
    return done.records

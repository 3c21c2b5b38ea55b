"""The lake to DuckDB: exact, under a contract, with quarantine and ledger, against DuckDB's own typed INSERT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
from material import fresh, write_lake
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
_BAD_EVERY = 1000


@contextmanager
def duckdb_loads(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """All records good, and each thousandth bad."""
    good, bad = folder / "good", folder / "bad"
    write_lake(good, records)
    write_lake(bad, records, bad_every=_BAD_EVERY)

    def own(_: Stopwatch) -> int:
        return _own(good, fresh(folder / "own"))

    def ours(_: Stopwatch) -> int:
        return _ours(good, fresh(folder / "ours"), 0)

    def ours_bad(_: Stopwatch) -> int:
        return _ours(bad, fresh(folder / "ours"), records // _BAD_EVERY)

    yield [
        Comparison(
            "silver",
            [Side("INSERT … FROM read_json", own), Side("Load", ours), Side("Load, 1 in 1,000 bad", ours_bad)],
            [
                Goal("Load", "INSERT … FROM read_json", "0.80 | 1.0"),
                Goal("Load, 1 in 1,000 bad", "INSERT … FROM read_json"),
            ],
            {
                "objects": len(list(good.rglob("*.jsonl.gz"))),
                "bytes": sum(f.stat().st_size for f in good.rglob("*.gz")),
            },
        )
    ]


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

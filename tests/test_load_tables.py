"""Several tables from one lake: each has its own position, its own lock and its own end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import duckdb
import pytest

from headrace.chain import Chain
from headrace.contract import contract
from headrace.errors import HeadraceError, TooManyRejectedError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.sink import LakeSink
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore

RECORDS = 120


@contract(version=1)
class Tick:
    n: int


@contract(version=1, key=("n",))
class Newest:
    n: int


@contract(version=1)
class Other:
    symbol: str


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


def test_five_tables_of_two_streams_at_once(tmp_path: Path):
    """Loaded side by side into one file: each adds up, one that is refused stops no other; one has both streams."""
    store = MemoryStore()
    for stream in ("trades", "quotes"):
        log = MemoryLog(stream=stream, partitions=2)
        for n in range(RECORDS):
            log.produce(b'{"n":%d}' % (n % 7), partition=n % 2)
        source = MemorySource(log=log, hints={}, chunk=20, idle=lambda _: None)
        Pipeline(source=source, sink=LakeSink(store=store), until_end=True, flush=FlushPolicy(records=20)).run()
    wanted = {
        "trades": ("trades", Tick),
        "newest": ("trades", Newest),
        "quotes": ("quotes", Tick),
        "refused": ("quotes", Other),
        "both": ("trades", Tick),
    }
    errors: dict[str, HeadraceError] = {}

    def load(target: str, stream: str, kept: type) -> None:
        loader = DuckDBLoader(database=tmp_path / "w.duckdb", target=target, contract=kept, threads=1)
        try:
            Load(chain=Chain.open(store, stream), loader=loader, group_segments=1).run()
        except HeadraceError as error:
            errors[target] = error

    threads = [Thread(target=load, args=(target, *what)) for target, what in wanted.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    load("both", "quotes", Tick)
    assert {"refused": TooManyRejectedError} == {target: type(error) for target, error in errors.items()}
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        counts = {t: connection.execute(f'SELECT count(*) FROM "{t}"').fetchall()[0][0] for t in wanted}
        assert {"trades": RECORDS, "newest": 7, "quotes": RECORDS, "refused": 0, "both": 2 * RECORDS} == counts
        assert [
            ("both", 240, 240),
            ("newest", 120, 7),
            ("quotes", 120, 120),
            ("trades", 120, 120),
        ] == connection.execute(
            "SELECT target, sum(records)::INTEGER, sum(inserted)::INTEGER FROM headrace_ledger WHERE target <> 'refused'"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()

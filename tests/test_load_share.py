"""The share of bad records that stops a load: it stops the partitions that are so bad, and no trickle slips by below it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pytest

from headrace.chain import Chain
from headrace.contract import contract
from headrace.errors import TooManyRejectedError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.loader import LoadResult
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Partition
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore

GOOD, BAD = b'{"n":1}', b'{"n":"x"}'


@contract(version=1)
class Tick:
    n: int


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


def lake(partitions: Mapping[int, list[bytes]], per_segment: int) -> MemoryStore:
    store, log = MemoryStore(), MemoryLog(partitions=len(partitions))
    for number, values in partitions.items():
        for value in values:
            log.produce(value, partition=number)
    source = MemorySource(log=log, hints={}, chunk=10, idle=lambda _: None)
    Pipeline(source=source, sink=LakeSink(store=store), until_end=True, flush=FlushPolicy(records=per_segment)).run()
    return store


def load(store: MemoryStore, tmp_path: Path, **settings: object) -> LoadResult:
    loader = DuckDBLoader(database=tmp_path / "w.duckdb", target="ticks", contract=Tick)
    return Load(chain=Chain.open(store, "log"), loader=loader, **settings).run()


def loaded(tmp_path: Path) -> list[tuple[int, int]]:
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        return connection.execute(
            'SELECT "partition", sum(records)::INTEGER FROM headrace_ledger GROUP BY 1 ORDER BY 1'
        ).fetchall()


@pytest.mark.parametrize("group_segments", [1, 4, 500])
def test_a_bad_partition_stops_alone(tmp_path: Path, group_segments: int):
    """Nothing of it is written, however its segments were grouped, and the others do not wait for it."""
    store = lake({0: [GOOD] * 100, 1: [BAD] * 400, 2: [GOOD] * 100}, 200)
    for _ in range(2):
        with pytest.raises(TooManyRejectedError, match="400 of" if group_segments > 1 else "200 of 200") as told:
            load(store, tmp_path, group_segments=group_segments)
        assert {Partition("log", 1)} == told.value.partitions
        assert [(0, 100), (2, 100)] == loaded(tmp_path)
    assert 400 == load(store, tmp_path, max_rejected=1).rejected
    assert [(0, 100), (1, 400), (2, 100)] == loaded(tmp_path)


def test_few_bad_records_in_many_partitions(tmp_path: Path):
    """They stop all of these, though each has too few to stop anything alone; and each is told once."""
    store = lake({0: [BAD] * 40, 1: [GOOD] * 10, 2: [BAD] * 40, 3: [BAD] * 40}, 1000)
    with pytest.raises(TooManyRejectedError) as told:
        load(store, tmp_path)
    assert {Partition("log", n) for n in (0, 2, 3)} == told.value.partitions
    assert [(1, 10)] == loaded(tmp_path)
    assert [] == getattr(told.value, "__notes__", [])


def test_a_trickle_is_added_up(tmp_path: Path):
    """Transactions too small to be judged alone are judged together: a quarantine does not fill by the few for ever."""
    store = lake({0: [BAD] * 600}, 30)
    for number in (1, 2):
        with pytest.raises(TooManyRejectedError, match="120 of the last 120 records, of 4 segments"):
            load(store, tmp_path, group_segments=1)
        assert [(0, 120 * number)] == loaded(tmp_path)
    assert 360 == load(store, tmp_path, group_segments=1, max_rejected=1).rejected


def test_a_trickle_among_good_records(tmp_path: Path):
    """It stops nothing, and what was judged once is not held against what comes later."""
    store = lake({0: ([GOOD] * 20 + [BAD] * 10) * 30}, 30)
    done = load(store, tmp_path, group_segments=1)
    assert (600, 300) == (done.inserted, done.rejected)

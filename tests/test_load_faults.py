"""A load over a lake that fails for a while, or in a part: the rest is loaded, and nothing is taken for "nothing to do"."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import attrs
import duckdb
import pytest

from headrace.chain import Chain
from headrace.contract import column, contract
from headrace.errors import ConfigError, CorruptSegmentError, DataError, PositionConflictError, SinkUnavailableError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.loader import LoadableSegment, LoadResult, Selection
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.sink import LakeSink
from headrace.store import Page
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore


@contract(version=1)
class Tick:
    n: int
    price: Decimal = column(precision=10, scale=2)


@contract(version=2)
class FinerTick:
    n: int
    price: Decimal = column(precision=18, scale=6)


VALUES = [b'{"n":%d,"price":1.25}' % n for n in range(6)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


def write(store: MemoryStore, log: MemoryLog, epoch: str = "") -> None:
    """Bring the log to the lake, two records a segment."""
    source = MemorySource(log=log, hints={}, idle=lambda _: None)
    sink = LakeSink(store=store, epoch=epoch)
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=2)).run()


def lake(partitions: int = 1, store: MemoryStore | None = None) -> tuple[MemoryStore, MemoryLog]:
    store, log = store or MemoryStore(), MemoryLog(partitions=partitions)
    for number in range(partitions):
        for value in VALUES:
            log.produce(value, partition=number)
    write(store, log)
    return store, log


def loader(tmp_path: Path, kept: type = Tick) -> DuckDBLoader:
    return DuckDBLoader(database=tmp_path / "w.duckdb", target="ticks", contract=kept)


def load(store: MemoryStore, tmp_path: Path, epoch: str = "", **settings: object) -> LoadResult:
    return Load(chain=Chain.open(store, "log", epoch), loader=loader(tmp_path), **settings).run()


def loaded(tmp_path: Path) -> dict[int, int]:
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        found = connection.execute("SELECT _partition, count(DISTINCT _offset) FROM ticks GROUP BY 1").fetchall()
    return dict(found)


def segment_key(store: MemoryStore, number: int, start: int) -> str:
    return next(k for k in store.objects if k.endswith(f"partition={number}/{start:020}.jsonl.gz"))


def test_a_damaged_segment_stops_its_partition_alone(tmp_path: Path):
    """What lies before it is loaded, and so are the others, in the same run, and by the next one nothing twice."""
    store, _ = lake(3)
    key = segment_key(store, 1, 2)
    store.objects[key] = store.objects[key][:20] + b"\0" + store.objects[key][21:]
    for _ in range(2):
        with pytest.raises(CorruptSegmentError, match="partition=1"):
            load(store, tmp_path)
        assert {0: 6, 1: 2, 2: 6} == loaded(tmp_path)


def test_a_chain_that_is_gone_is_missed(tmp_path: Path):
    """It is an error, not an empty partition (B29); the others are loaded."""
    store, log = lake(2)
    load(store, tmp_path)
    for value in VALUES:
        log.produce(value, partition=0)
    write(store, log)
    for key in [k for k in store.objects if "partition=1/" in k]:
        del store.objects[key]
    with pytest.raises(DataError, match=r"log/1.*is empty"):
        load(store, tmp_path)
    assert {0: 12, 1: 6} == loaded(tmp_path)


@attrs.define(eq=False)
class Tired(MemoryStore):
    """Answers no listing the first time."""

    asked: set[tuple[str, str]] = attrs.field(factory=set)

    def list(self, prefix: str, after: str = "") -> Page:
        if (prefix, after) not in self.asked:
            self.asked.add((prefix, after))
            raise SinkUnavailableError("slow down")
        return super().list(prefix, after)


def test_a_listing_that_fails_is_asked_again(tmp_path: Path):
    """In the middle of a walk as well: it goes on where it had got to."""
    store, _ = lake(2)
    tired = Tired(objects=store.objects, page_size=1)
    assert 12 == Load(chain=Chain.open(tired, "log"), loader=loader(tmp_path)).run().records
    assert {0: 6, 1: 6} == loaded(tmp_path)


def test_two_epochs_of_one_topic_do_not_meet(tmp_path: Path):
    """They hold the same records: both in one table would be every record twice (B9)."""
    store, log = lake()
    write(store, log, "b")
    load(store, tmp_path)
    with pytest.raises(ConfigError, match="every record twice"):
        load(store, tmp_path, "b")
    assert {0: 6} == loaded(tmp_path)
    load(store, tmp_path)  # the first one may go on


@pytest.mark.parametrize("folder", ["a b~x y", "~x", "lost+found", "x" * 300, "%2E"])
def test_foreign_folders_stop_nothing(tmp_path: Path, folder: str):
    """What else lies in a lake's root is not ours to judge."""
    store, _ = lake()
    store.objects[f"{folder}/x"] = b"x"
    assert 6 == load(store, tmp_path).records


def test_epochs_of_two_topics_may_meet(tmp_path: Path):
    """A topic that was made again has other records."""
    store, log = lake()
    log.recreate()
    for value in VALUES:
        log.produce(value)
    write(store, log, "b")
    assert (6, 6) == (load(store, tmp_path).records, load(store, tmp_path, "b").records)


class Rivalled(DuckDBLoader):
    """Another loader is first, every other time."""

    calls = 0

    def load(self, segments: list[LoadableSegment]) -> LoadResult:
        type(self).calls += 1
        if self.calls % 2:
            raise PositionConflictError("another", expected=0, found=None)
        return super().load(segments)


def test_rivals_that_go_on_are_no_reason_to_give_up(tmp_path: Path):
    """However often another loader was first, as long as the ledger moves; where it stands still, that is told."""
    store, log = lake()
    for _ in range(40):
        log.produce(VALUES[0])
    write(store, log)
    rivalled = Rivalled(database=tmp_path / "w.duckdb", target="ticks", contract=Tick)
    assert 46 == Load(chain=Chain.open(store, "log"), loader=rivalled, group_bytes=1).run().records

    class Refused(DuckDBLoader):
        def load(self, segments: list[LoadableSegment]) -> LoadResult:
            raise PositionConflictError("another", expected=0, found=None)

    refused = Refused(database=tmp_path / "v.duckdb", target="ticks", contract=Tick)
    with pytest.raises(PositionConflictError):
        Load(chain=Chain.open(store, "log"), loader=refused).run()


def test_nothing_is_rounded_into_a_narrower_column(tmp_path: Path):
    """A contract whose columns are not the table's is refused, by load and redrive alike: DuckDB would round in silence."""
    store, log = MemoryStore(), MemoryLog()
    log.produce(b'{"n":1,"price":1.23456}')
    write(store, log)
    load(store, tmp_path)
    finer = loader(tmp_path, FinerTick)
    with pytest.raises(ConfigError, match=r"price is DECIMAL\(10,2\) NOT NULL, expected DECIMAL\(18,6\) NOT NULL"):
        finer.redrive(Selection())
    assert {} == loaded(tmp_path)
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("ALTER TABLE ticks ALTER price TYPE DECIMAL(18, 6)")
    finer.redrive(Selection())
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        assert [(Decimal("1.234560"),)] == connection.execute("SELECT price FROM ticks").fetchall()


def test_a_bad_record_needs_little_memory(tmp_path: Path):
    """One poison record among many good ones is decided within a small limit of DuckDB's."""
    store, log = MemoryStore(), MemoryLog()
    for value in [*VALUES * 200, b"poison"]:
        log.produce(value)
    source = MemorySource(log=log, hints={}, idle=lambda _: None)
    Pipeline(source=source, sink=LakeSink(store=store), until_end=True).run()
    small = DuckDBLoader(database=tmp_path / "w.duckdb", target="ticks", contract=Tick, memory="256MB", threads=1)
    result = Load(chain=Chain.open(store, "log"), loader=small, retry_for_s=1).run()
    assert (1200, 1) == (result.inserted, result.rejected)

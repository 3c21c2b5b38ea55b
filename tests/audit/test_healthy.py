"""Healthy histories of the rarer kinds: nothing of them is called wrong, and what nobody looked into is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_faults import at, both, noted, removed, sql
from audit_world import Narrow, Tick, Tick2, World, copied, healthy

from headrace.auditing.result import AuditResult
from headrace.chain import Chain
from headrace.contract import contract
from headrace.errors import ConfigError
from headrace.load import Load
from headrace.loader import Selection
from headrace.plugins.lake.local import FileStore
from headrace.store import Page
from headrace.testing.log import PartitionLog
from headrace.testing.source import MemorySource


@contract(version=1)
class Symbols:
    """What else a record has the stream brings."""

    symbol: str


@contract(version=1, key=("symbol",))
class LastSymbols:
    """The same, the newest of each."""

    symbol: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return healthy(tmp_path_factory.mktemp("healthy"))


def said(result: AuditResult) -> list[tuple[str, str, int | None, int, int]]:
    return [(f.kind, f.where, f.partition, f.start, f.end) for f in result.findings]


@pytest.mark.parametrize(("kept", "wrong"), [(Symbols, (8, 9)), (LastSymbols, (24, 25))])
def test_columns_that_the_stream_has_brought(world: World, tmp_path: Path, kept: type, wrong: tuple[int, int]):
    """They are looked into as those of the contract are; rows from before they came have NULL there."""
    world = copied(world, tmp_path)
    how = {"chain": Chain.open(world.store, "ticks"), "loader": world.loader(kept, "brought"), "max_rejected": 1.0}
    Load(**how, begin_at={1: 5}).run()
    world.produce(2)
    world.stream()
    Load(**how, evolve=True).run()
    asked = {"kept": kept, "loader": world.loader(kept, "brought"), "deep": True}
    assert [] == said(world.audit(**asked))
    world.sql(f"UPDATE brought SET price = 1 WHERE _partition = 0 AND (price IS NOT NULL OR _offset = {wrong[0]})")
    changed = world.audit(**asked)
    assert ("changed", "rows") in [f[:2] for f in said(changed)]
    assert all("price" in f.evidence for f in changed.findings)


def test_a_stream_of_uncommitted_records(tmp_path: Path):
    """What was pinned as read uncommitted may hold records of aborted transactions: they are compared like others."""
    world = World(tmp_path)
    world.log.isolation = "read_uncommitted"
    world.produce(3, fate="open")
    world.log.settle(abort=True)
    world.produce(2)
    world.stream()
    result = world.audit(None, deep=True)

    assert ([], 5) == (said(result), result.partitions[0].compared)


def test_a_partition_that_only_the_log_has_yet(world: World, tmp_path: Path):
    """Partitions that were added to the topic are behind, like everything that is on its way."""
    world = copied(world, tmp_path)
    world.log.logs[2] = PartitionLog()
    world.log.partitions = 3
    world.produce(3, 2)

    assert ([], 3) == (said(world.audit(deep=True)), world.audit().partitions[2].behind_log)
    assert [("behind", "lake", 2, 0, 3)] == said(world.audit(caught_up=True))


def test_a_redrive_in_the_middle(tmp_path: Path):
    """A record that leaves quarantine while the audit reads was typed by whoever took it."""
    world = World(tmp_path)
    for n in range(4):
        world.log.produce(b'{"symbol":"A","price":%d,"size":%d}' % (n, -n))
    world.stream()
    Load(chain=Chain.open(world.store, "ticks"), loader=world.loader(Narrow, "ticks"), max_rejected=1.0).run()
    taken: list[int] = []

    class Redriving(FileStore):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
            if "partition=" in key and start == 0 and not taken:
                taken.append(world.loader(Tick2, "ticks").redrive(Selection()).inserted)
            return FileStore.read(self, key, start, end)

    store = Redriving(root=tmp_path / "lake")
    assert [] == said(world.audit(Tick2, deep=True, earlier=[Narrow], store=store))
    assert [3] == taken


def test_a_load_and_an_expiry_in_the_middle(world: World, tmp_path: Path):
    """What was expired after a load that the look at the ledger was too early for was not expired too early."""
    world = copied(world, tmp_path)
    of_ledger = "target = 'ticks' AND \"partition\" = 0 AND start_offset"
    rows = [f"DELETE FROM {table} WHERE _partition = 0 AND _offset >= 6" for table in ("ticks", "ticks_quarantine")]
    sql(*rows, f"DELETE FROM headrace_ledger WHERE {of_ledger} >= 6")(world)
    done: list[bool] = []

    class Expiring(FileStore):
        def list(self, prefix: str, after: str = "") -> Page:
            if "/partition=0/" in prefix and not done:
                done.append(True)
                world.load()
                both(noted("expired", 0, 11), removed(0), removed(6))(world)
            return FileStore.list(self, prefix, after)

    assert [] == said(world.audit(store=Expiring(root=world.folder / "lake")))
    result = world.audit(deep=True)
    assert [] == said(result)
    assert ["partition 0: rows below 11 were counted and not looked into: their segments were expired"] == [
        *result.remarks
    ]


def test_what_the_log_has_no_more(world: World, tmp_path: Path):
    """How many records retention took, so that nobody can compare them, is said."""
    world = copied(world, tmp_path)
    world.log.retain(20)
    result = world.audit(deep=True)

    assert ([], 6) == (said(result), result.partitions[0].compared)
    assert ["14 of the records no more" in remark for remark in result.remarks] == [True]


def test_a_log_that_cannot_be_read_again(world: World):
    """Who asked for a comparison that cannot be made is not told that all is there."""

    class Once(MemorySource):
        def reread(self, partition, start, end, *, aborted=False):
            raise ConfigError("it is gone")

    source = Once(log=world.log)
    assert "complete" == world.audit(source=source).verdict
    result = world.audit(deep=True, source=source)
    assert ([("unknown", "source", None, 0, 0)], 2) == (said(result), result.exit_code)
    assert "it is gone" in result.findings[0].evidence


def test_an_audit_of_nothing(world: World):
    """Offsets without records prove nothing, unless the log says that it has none; an empty part is a mistake."""
    for part in ({"since": 1000}, {"since": 1000, "until": "2099-01-01T00:00:00Z"}):
        assert [("unknown", "lake", None, 0, 0)] == said(world.audit(source=None, **part))
    assert [] == said(world.audit(since=1000))
    assert [("unknown", "lake", None, 0, 0)] == said(world.audit(None, source=None, caught_up=True))
    with pytest.raises(ConfigError, match="a part that is not empty"):
        world.audit(since=9, until=9)


@pytest.mark.parametrize("part", [{"since": "2099-01-01T00:00:00Z"}, {"until": "1960-01-01T00:00:00Z"}])
def test_an_audit_of_a_time_in_which_nothing_came(world: World, part: dict[str, str]):
    """It is complete, and says that there was nothing: a nightly gate that fails each Sunday would be turned off."""
    result = world.audit(source=None, **part)
    assert [] == said(result)
    (remark,) = (remark for remark in result.remarks if "nothing to look at" in remark)
    assert next(iter(part.values()))[:10] in remark
    assert "unknown" == world.audit(None, source=None, stream="none", **part).verdict


def test_what_lies_beside_is_told(world: World, tmp_path: Path):
    """Rows of other datasets in the same table, and other epochs of the stream: that they are there, and not looked at."""
    world = copied(world, tmp_path)
    sql(
        "INSERT INTO ticks SELECT * REPLACE ('other' AS _dataset) FROM ticks WHERE _partition = 0 AND _offset BETWEEN 6 AND 10",
        "INSERT INTO headrace_ledger SELECT * REPLACE ('other' AS dataset) FROM headrace_ledger WHERE target = 'ticks' AND"
        ' "partition" = 0 AND start_offset = 6',
    )(world)
    epoch = world.folder / "lake/ticks~b/partition=0"
    epoch.mkdir(parents=True)
    (epoch / at(6)(world).name).write_bytes(b"")
    result = world.audit(Tick, deep=True)

    assert [] == said(result)
    assert [
        "5 rows of ticks are of other streams or datasets: they were only counted",
        "epochs of this stream: b; each is audited by itself (--epoch)",
    ] == list(result.remarks)

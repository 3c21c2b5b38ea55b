"""The audit: healthy streams are complete, what is on its way is behind, and what does not answer is never complete."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import attrs
import audit_world
import pytest
from audit_world import Last, Narrow, Tick, Tick2, World, copied, healthy

import headrace
from headrace.auditing.joining import joined
from headrace.auditing.result import AuditFinding, AuditResult
from headrace.chain import Chain
from headrace.cli.app import run
from headrace.errors import ConfigError, SinkUnavailableError, SourceUnavailableError
from headrace.expire import Expire
from headrace.load import Load
from headrace.loader import Selection
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.store import Page
from headrace.testing.source import MemorySource


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return healthy(tmp_path_factory.mktemp("audit"))


def place(finding: AuditFinding) -> tuple[str, str, int | None, int, int]:
    return finding.kind, finding.where, finding.partition, finding.start, finding.end


def said(result: AuditResult) -> list[str]:
    return [str(finding) for finding in result.findings]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kept", [None, Tick, Last])
def test_a_healthy_stream_is_complete(world: World, kept: type | None, deep: bool):
    """All that was written is found again, counted alike everywhere, and nothing is said of it."""
    result = world.audit(kept, deep=deep, workers=3)

    assert [] == said(result)
    assert ("complete", 0) == (result.verdict, result.exit_code)
    first, second = result.partitions
    assert (0, first.log_end, 2) == (first.low, world.log.logs[0].end, len(result.partitions))
    records = sum(1 for entry in world.log.logs[0].entries if entry.fate == "record")
    assert (records, 8) == (first.records, second.records)
    if kept is Tick:
        assert first.records == first.rows + first.quarantined == first.ledger_records
    if deep:
        assert records == first.compared
        assert {"aborted": 3, "no record": 4} == dict(first.holes)
    json.dumps(result.document(), default=str)


@pytest.mark.parametrize("kind", [("jsonl", "zstd"), ("parquet", "zstd")])
def test_every_format_is_read(tmp_path: Path, kind: tuple[str, str]):
    """A lake of zstd or of Parquet is read to the last record as one of gzip is."""
    result = healthy(tmp_path, kind).audit(deep=True)

    assert [] == said(result)
    assert result.partitions[0].records == result.partitions[0].compared == 20


def test_what_is_on_its_way_is_behind(world: World, tmp_path: Path):
    """Neither what the lake lacks of the log nor what the table lacks of the lake is wrong; who asks for all is told."""
    world = copied(world, tmp_path)
    world.produce(3)
    world.stream()
    world.produce(2)
    result = world.audit(deep=True)
    first = result.partitions[0]

    assert ("complete", 2, 3) == (result.verdict, first.behind_log, first.behind_lake)
    assert ["loaded", "in the lake", "in the log"] == list(dict.fromkeys(span.state for span in first.spans))
    late = world.audit(caught_up=True)
    assert [("behind", "rows", 0, 27, 30), ("behind", "lake", 0, 30, 32)] == [
        (f.kind, f.where, f.partition, f.start, f.end) for f in late.findings
    ]
    assert 1 == late.exit_code
    world.stream()
    world.load()
    assert "complete" == world.audit(caught_up=True).verdict


def test_holes_at_the_end_are_not_behind(tmp_path: Path):
    """A topic that ends with a transaction's marker is caught up though its last offset is stored nowhere."""
    world = World(tmp_path)
    world.produce(3, fate="open")
    world.log.settle(abort=False)
    world.stream()
    result = world.audit(None, caught_up=True)

    assert ("complete", 1) == (result.verdict, result.partitions[0].behind_log)


def test_expired_segments_are_no_gap(world: World, tmp_path: Path):
    """What was deleted on purpose, and noted, is told as that; a table that was loaded before is as complete as it was."""
    world = copied(world, tmp_path)

    class Aged(FileStore):
        def list(self, prefix: str, after: str = "") -> Page:
            page = FileStore.list(self, prefix, after)
            old = [attrs.evolve(o, modified_s=o.modified_s - 9e6 * ("/partition=" in o.key)) for o in page.objects]
            return Page(old, page.truncated)

    chain = Chain.open(Aged(root=world.folder / "lake"), "ticks")
    Expire(chain=chain, older_than_s=86_400.0, keep=2, without_ledger=True).run()
    result = world.audit(deep=True)

    assert [] == said(result)
    assert (11, 27) == (result.partitions[0].chain_start, result.partitions[0].chain_end)
    assert "expired" == result.partitions[0].spans[0].state


def test_losses_are_told_apart(tmp_path: Path):
    """What was noted as lost, what was before the first segment, and what retention took the evidence of, are counted apart."""
    world = World(tmp_path)
    world.produce(4)
    world.log.retain(2)
    world.produce(2, 1)
    world.stream()
    world.produce(6)
    world.log.retain(8)
    world.stream(on_gap="note")
    world.produce(2, fate="open")
    world.log.settle(abort=True)
    world.produce(2)
    world.stream()
    assert {"before the first segment": 2, "noted loss": 4, "not looked at": 3} == dict(
        world.audit(None).partitions[0].holes
    )
    world.log.retain(12)
    result = world.audit(None, deep=True)

    assert [] == said(result)
    assert {"before the first segment": 2, "noted loss": 4, "unverifiable": 2, "no record": 1} == dict(
        result.partitions[0].holes
    )


def test_a_redriven_table_is_complete(tmp_path: Path):
    """Records that left quarantine are rows, and the ledger's sums say so; the contract of then and now may differ."""
    world = World(tmp_path)
    for n in range(9):
        world.log.produce(b'{"symbol":"A","price":%d,"size":%d}' % (n, -n), partition=n % 2)
    world.stream()
    Load(chain=Chain.open(world.store, "ticks"), loader=world.loader(Narrow, "ticks"), max_rejected=1.0).run()
    before = world.audit(Narrow, deep=True)
    world.loader(Tick2, "ticks").redrive(Selection())
    after = world.audit(Tick2, deep=True, earlier=[Narrow])

    assert ([], []) == (said(before), said(after))
    assert (8, 0) == (sum(p.quarantined for p in before.partitions), sum(p.quarantined for p in after.partitions))
    world.sql("UPDATE ticks SET price = price + 1 WHERE _offset = 3 AND _partition = 1")
    (changed,) = world.audit(Tick2, deep=True, earlier=[Narrow]).findings
    assert ("changed", "rows", 1, 3, 4) == place(changed)
    assert "price is 8.000000, expected 7.000000" in changed.evidence
    world.sql("DELETE FROM ticks WHERE _offset = 2 AND _partition = 1")
    assert ["missing"] == [f.kind for f in world.audit(Tick2).findings]


def test_a_table_may_begin_behind_the_head(tmp_path: Path):
    """What a line was told to begin behind is not missing in it."""
    world = World(tmp_path)
    world.produce(12)
    world.stream()
    world.load(begin_at={0: 5})

    assert [] == said(world.audit(deep=True))


def test_a_part_may_be_asked_for(world: World):
    """Only what is between two offsets or times is looked at, in whole segments; what is wrong elsewhere is not told."""
    by_offset = world.audit(deep=True, since=6, until=11)
    assert ("complete", "from 6 until 11") == (by_offset.verdict, by_offset.scope)
    assert (5, 5) == (by_offset.partitions[0].records, by_offset.partitions[0].compared)
    by_time = world.audit(deep=True, since="1970-01-01T00:00:01.021+00:00")
    assert [] == said(by_time)
    with pytest.raises(ConfigError, match="expected an offset, or a time with its zone"):
        world.audit(since="yesterday")


def test_what_is_wrong_elsewhere_is_not_told(world: World, tmp_path: Path):
    """A gap at [6, 11) is none of the business of who asks for what is behind it."""
    world = copied(world, tmp_path)
    (world.folder / f"lake/ticks/partition=0/{6:020d}.jsonl.gz").unlink()

    assert [] == said(world.audit(since=11, deep=True))
    assert ["gap"] == [f.kind for f in world.audit(until=12).findings]


# ---- what does not answer -----------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class Broken(FileStore):
    """A disk that fails from its n-th read on."""

    reads: int

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self.reads -= 1
        if self.reads < 0:
            raise SinkUnavailableError("the disk is away")
        return FileStore.read(self, key, start, end)


@pytest.mark.parametrize("reads", [0, 1, 3, 8, 10])
def test_a_store_that_fails_is_never_complete(world: World, reads: int):
    """Wherever it fails, in the pin, a trailer or an object, the verdict is that it could not be told."""
    result = world.audit(deep=True, store=Broken(root=world.folder / "lake", reads=reads), workers=1)

    assert ("unknown", 2) == (result.verdict, result.exit_code)
    assert "the disk is away" in result.findings[0].evidence


class Away(MemorySource):
    """A source whose brokers do not answer."""

    def extents(self):
        raise SourceUnavailableError("no broker answers")


class Unreadable(MemorySource):
    """A source that says what it has, and then not what that is."""

    def reread(self, partition, start, end, *, aborted=False):
        yield from ()
        if end > start:
            raise SourceUnavailableError("no broker answers")


@pytest.mark.parametrize("kind", [Away, Unreadable])
def test_a_source_that_fails_is_never_complete(world: World, kind: type[MemorySource]):
    """What lake and table say of each other is told all the same."""
    result = world.audit(deep=True, source=kind(log=world.log))

    assert ("unknown", 2) == (result.verdict, result.exit_code)
    assert "no broker answers" in result.findings[0].evidence


def test_a_target_that_is_not_there_is_never_complete(world: World, tmp_path: Path):
    """A mistaken name is no empty table."""
    for loader in (
        world.loader(target="tics"),
        DuckDBLoader(database=tmp_path / "no.duckdb", target="ticks", contract=Tick),
    ):
        result = world.audit(loader=loader)
        assert ("unknown", ["unknown"]) == (result.verdict, [f.kind for f in result.findings])
    assert [] == list(tmp_path.iterdir())


def test_a_lake_that_is_not_there_is_never_complete(world: World, tmp_path: Path):
    """Nor is a mistaken path an empty lake."""
    assert "unknown" == world.audit(None, store=FileStore(root=tmp_path)).verdict


@attrs.define(kw_only=True, eq=False)
class Unlisted(FileStore):
    """A disk that fails from its n-th listing on."""

    lists: int

    def list(self, prefix: str, after: str = "") -> Page:
        self.lists -= 1
        if self.lists < 0:
            raise SinkUnavailableError("the disk is away")
        return FileStore.list(self, prefix, after)


@pytest.mark.parametrize("lists", [0, 1, 2, 3])
def test_a_listing_that_fails_where_there_is_no_pin(world: World, tmp_path: Path, lists: int):
    """Whichever fails is told as a finding, and no error of the store leaves the audit."""
    shutil.copytree(world.folder / "lake", tmp_path / "lake", ignore=lambda *_: ["dataset.json"])
    result = world.audit(None, store=Unlisted(root=tmp_path / "lake", lists=lists))

    assert ("unknown" if lists < 3 else "incomplete") == result.verdict
    assert 1 == len(result.findings)


# ---- looking twice (B30) ------------------------------------------------------------------------------------------


@attrs.define(kw_only=True, eq=False)
class Overtaken(FileStore):
    """A listing that somebody overtakes: an object that was there is not named, once."""

    hidden: str
    times: int = 1

    def list(self, prefix: str, after: str = "") -> Page:
        page = FileStore.list(self, prefix, after)
        if self.times and any(o.key.endswith(self.hidden) for o in page.objects):
            self.times -= 1
            return Page([o for o in page.objects if not o.key.endswith(self.hidden)], page.truncated)
        return page


@pytest.mark.parametrize(("times", "kinds"), [(1, []), (99, ["gap"])])
def test_what_looks_wrong_is_looked_at_again(world: World, times: int, kinds: list[str]):
    """A gap that was there for one look only is none; one that stays is told."""
    store = Overtaken(root=world.folder / "lake", hidden=f"partition=0/{6:020d}.jsonl.gz", times=times)

    assert kinds == [f.kind for f in world.audit(store=store).findings]


def test_reading_with_the_flow_would_cry_wolf(world: World, tmp_path: Path):
    """The table is asked first: were it asked after the lake, a load in between would put the ledger ahead."""
    world = copied(world, tmp_path)

    @attrs.define(kw_only=True, eq=False)
    class Growing(FileStore):
        """Whenever somebody lists, more is produced, stored and loaded first."""

        growing: bool = True

        def list(self, prefix: str, after: str = "") -> Page:
            if self.growing and "/partition=0" in prefix:
                self.growing = False
                world.produce(4)
                world.stream()
                world.load()
                world.produce(1)
            return FileStore.list(self, prefix, after)

    result = world.audit(deep=True, store=Growing(root=world.folder / "lake"))
    assert [] == said(result)
    assert 4 == result.partitions[0].behind_lake


def test_findings_that_touch_are_one():
    """A finding of each of many rows in a row is one with their range; what holds a closer one of its kind is left out."""

    def finding(start: int, end: int, kind: str = "missing") -> AuditFinding:
        return AuditFinding(kind, "rows", 0, start, end, f"at {start}", "load it")

    found = joined([finding(0, 9), finding(5, 6), finding(3, 4), finding(4, 5), finding(0, 9, "changed")])
    assert [(0, 9, "at 0"), (3, 6, "at 3 (and the 2 behind it)")] == [(f.start, f.end, f.evidence) for f in found]


# ---- the command --------------------------------------------------------------------------------------------------


def called(capfd, *words: object) -> tuple[int, str, str]:
    capfd.readouterr()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    code = run([str(word) for word in words])
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command(world: World, tmp_path: Path, capfd):
    """A table and a verdict for people, one document for machines, and an exit code for whoever waits for it."""
    (tmp_path / "contracts.py").write_text(Path(audit_world.__file__).read_text(encoding="utf-8"))
    lake, table = f"file://{world.folder}/lake", f"duckdb://{world.folder}/silver.duckdb?table=ticks"
    code, out, err = called(capfd, "audit", lake, table, "--deep", "--contract", f"{tmp_path}/contracts.py:Tick")
    assert (0, "0\t\t[0, 27)\t27\t20\t17\t3\t0\t0\t7 not looked at") == (code, out.splitlines()[1])
    assert "complete: 28 records in 6 segments, 23 rows, 5 quarantined, 0 findings" in err
    code, out, _ = called(capfd, "audit", lake, table, "--json", "--since", 6)
    document = json.loads(out)
    assert (0, "complete", "from 6") == (code, document["verdict"], document["scope"])
    assert 2 == called(capfd, "audit", f"file://{tmp_path}/none", "--stream", "ticks", "--retry-for", "0")[0]
    shutil.copytree(world.folder / "lake", tmp_path / "lake")
    (tmp_path / f"lake/ticks/partition=0/{6:020d}.jsonl.gz").unlink()
    code, _, err = called(capfd, "audit", f"file://{tmp_path}/lake", table)
    assert 1 == code
    assert "gap in the lake ticks/0 [6, 11): no segment covers it" in err


def test_in_python(world: World):
    """`headrace.audit` takes the same URIs and returns the same result; without the contract no deep one is complete."""
    places = (f"file://{world.folder}/lake", f"duckdb://{world.folder}/silver.duckdb?table=ticks")
    result = headrace.audit(*places, deep=True, contract=Tick)
    assert ("complete", "ticks") == (result.verdict, result.stream)

    result = headrace.audit(*places, deep=True)
    assert ("unknown", 2) == (result.verdict, result.exit_code)
    assert [("unknown", "rows", None, 0, 0)] == [place(f) for f in result.findings]
    assert "loaded by version 1" in result.findings[0].evidence
    assert "--contract" in result.findings[0].advice
    with pytest.raises(ConfigError, match="contracts of different versions"):
        headrace.audit(*places, deep=True, contract=[Tick, Narrow])


def test_a_file_is_compared_record_by_record(tmp_path: Path, capfd):
    """A lake made from a file of JSON lines is held against the lines, it says how many, and names one that differs."""
    lines = [b'{"n":%d}\n' % n for n in range(2500)]
    lines[7] = b"\n"  # an empty line has a number and no record
    file = tmp_path / "ticks.jsonl"
    file.write_bytes(b"".join(lines))
    assert 0 == called(capfd, "stream", f"jsonl://{file}", f"file://{tmp_path}/lake", "--until-end")[0]
    asked = ("audit", f"file://{tmp_path}/lake", "--source", f"jsonl://{file}", "--deep", "--json")
    code, out, _ = called(capfd, *asked)
    document = json.loads(out)
    assert (0, [], []) == (code, document["findings"], document["remarks"])
    assert [(2499, {"no record": 1})] == [(p["compared"], p["holes"]) for p in document["partitions"]]

    file.write_bytes(b"".join([*lines[:2000], b'{"n":-1}\n', *lines[2001:]]))
    code, out, _ = called(capfd, *asked)
    assert [("changed", 2000, 2001)] == [(f["kind"], f["start"], f["end"]) for f in json.loads(out)["findings"]]

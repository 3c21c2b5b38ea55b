"""Where a load begins and where it ends, when it is told to: `--begin-at` and `--until`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import attrs
import duckdb
import pytest

from headrace.chain import Chain
from headrace.cli.app import run
from headrace.errors import ConfigError
from headrace.load import Load
from headrace.plugins.lake.local import FileStore
from headrace.store import Page

pytestmark = pytest.mark.usefixtures("logging_restored")

CONTRACT = """
from headrace.contract import contract

@contract(version=1)
class Tick:
    n: int
"""
FIRST_MS = 1_700_000_000_000


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """Four segments of five records, a record a second: [0, 5), [5, 10), [10, 15), [15, 20)."""
    lines = [{"n": n, "at": FIRST_MS + 1000 * n} for n in range(20)]
    (tmp_path / "ticks.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "contracts.py").write_text(CONTRACT)
    place = f"file://{tmp_path}/lake"
    words = ["--until-end", "--flush-records", "5", "--log-level", "error"]
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl?timestamp=at", place, *words])
    return place


@pytest.fixture
def expired(lake: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The lake without its first two segments, which were expired."""
    listed = FileStore.list

    def aged(self: FileStore, prefix: str, after: str = "") -> Page:
        page = listed(self, prefix, after)
        old = [attrs.evolve(o, modified_s=o.modified_s - 40 * 86_400 * ("/partition=" in o.key)) for o in page.objects]
        return Page(old, page.truncated)

    monkeypatch.setattr(FileStore, "list", aged)
    words = ["--older-than", "30d", "--keep", "2", "--without-ledger", "--yes", "--log-level", "error"]
    assert 0 == run(["expire", lake, *words])
    return lake


def load(capfd, tmp_path: Path, lake: str, *more: str, table: str = "ticks") -> tuple[int, dict, str]:
    capfd.readouterr()
    target = f"duckdb://{tmp_path}/silver.duckdb?table={table}"
    words = ["load", lake, target, "--contract", f"{tmp_path}/contracts.py:Tick", "--json", "--log-level", "error"]
    code = run([*words, *more])
    out, err = capfd.readouterr()
    return code, json.loads(out), err


def query(tmp_path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(tmp_path / "silver.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def at(second: float) -> str:
    return datetime.fromtimestamp(FIRST_MS / 1000 + second, UTC).isoformat()


# ---- until ------------------------------------------------------------------------------------------------


def test_until_an_offset(capfd, tmp_path, lake):
    """All records below it are loaded, by whole segments; the same again does nothing, and a later load goes on."""
    for until, records in (("0", 0), ("1", 5), ("5", 0), ("6", 5), ("10", 0), ("1000", 10)):
        code, done, _ = load(capfd, tmp_path, lake, "--until", until)
        assert (0, records) == (code, done["records"]), until
    assert [(20, 20)] == query(tmp_path, "SELECT count(*), count(DISTINCT _offset) FROM ticks")


def test_until_a_time(capfd, tmp_path, lake):
    """Up to the first segment of which all records are of then or later; what is before that time is loaded."""
    for second, records in ((-1, 0), (0, 0), (0.0004, 5), (5, 0), (5.001, 5), (14, 5), (10**6, 5)):
        code, done, _ = load(capfd, tmp_path, lake, "--until", at(second))
        assert (0, records) == (code, done["records"]), second
    zoned = at(3).replace("+00:00", "Z")
    assert (0, 0) == (load(capfd, tmp_path, lake, "--until", zoned)[0], load(capfd, tmp_path, lake)[1]["records"])


@pytest.mark.parametrize("until", ["yesterday", "2024-03-01", "2024-03-01T00:00:00", "-5"])
def test_no_end(capfd, tmp_path, lake, until):
    """What is neither an offset nor a time with its zone is refused before anything is opened; so is --follow with an end."""
    code, _, err = load(capfd, tmp_path, lake, f"--until={until}")
    assert (2, True) == (code, "a time with its zone" in err)
    assert 2 == load(capfd, tmp_path, lake, "--until", "5", "--follow")[0]
    assert not (tmp_path / "silver.duckdb").exists()


# ---- begin ------------------------------------------------------------------------------------------------


def test_begin_behind_what_was_expired(capfd, tmp_path, expired):
    """By name only; the ledger says where, and from then on the option does not matter."""
    code, done, err = load(capfd, tmp_path, expired)
    assert (1, "ExpiredError") == (code, done["error"]["type"])
    assert "--begin-at oldest" in err
    for more, records in ((("--begin-at", "oldest"), 10), ((), 0), (("--begin-at", "oldest"), 0)):
        code, done, _ = load(capfd, tmp_path, expired, *more)
        assert (0, records) == (code, done["records"])
    rows = "SELECT kind, start_offset, end_offset, records FROM headrace_ledger ORDER BY start_offset"
    assert [("begin_at", 0, 10, 0), ("load", 10, 15, 5), ("load", 15, 20, 5)] == query(tmp_path, rows)
    assert [(10, 19, 10)] == query(tmp_path, "SELECT min(_offset), max(_offset), count(*) FROM ticks")


def test_oldest_is_the_beginning_of_a_whole_chain(capfd, tmp_path, lake):
    """Where nothing is missing the option changes nothing."""
    code, done, _ = load(capfd, tmp_path, lake, "--begin-at", "oldest")
    assert (0, 20) == (code, done["records"])
    assert [("load",)] == query(tmp_path, "SELECT DISTINCT kind FROM headrace_ledger")


def test_oldest_goes_over_no_loss(capfd, tmp_path, expired):
    """What somebody deleted without a note is a gap; it takes the offset to begin behind it."""
    (tmp_path / "lake/ticks/partition=0" / f"{10:020}.jsonl.gz").unlink()
    code, done, _ = load(capfd, tmp_path, expired, "--begin-at", "oldest")
    assert (1, "GapError") == (code, done["error"]["type"])
    code, done, _ = load(capfd, tmp_path, expired, "--begin-at", "0:15")
    assert (0, 5) == (code, done["records"])


def test_begin_at_an_offset(capfd, tmp_path, lake):
    """A table may hold the newer part alone; the offset must be a segment's start, and a partition not named begins at 0."""
    code, done, err = load(capfd, tmp_path, lake, "--begin-at", "0:7")
    assert (2, True) == (code, "the next one starts at 10" in err)
    assert 2 == load(capfd, tmp_path, lake, "--begin-at", "0:20")[0]
    code, done, _ = load(capfd, tmp_path, lake, "--begin-at", "0:15", "--begin-at", "3:7")
    assert (0, 5) == (code, done["records"])
    code, done, _ = load(capfd, tmp_path, lake, "--begin-at", "3:7", table="others")
    assert (0, 20) == (code, done["records"])


@pytest.mark.parametrize("words", [["newest"], ["5"], ["0:x"], ["oldest", "0:5"], ["0:5", "0:10"]], ids=str)
def test_no_beginning(capfd, tmp_path, lake, words):
    """What names neither is refused before anything is opened."""
    code, _, err = load(capfd, tmp_path, lake, *(f"--begin-at={word}" for word in words))
    assert (2, True) == (code, "expected 'oldest' alone, or PARTITION:OFFSET" in err)
    assert not (tmp_path / "silver.duckdb").exists()


@pytest.mark.usefixtures("lake")
def test_follow_has_no_end(tmp_path):
    """In Python too."""
    with pytest.raises(ConfigError, match="has none"):
        Load(chain=Chain.open(FileStore(root=tmp_path / "lake"), "ticks"), loader=None, follow=True, until=5)  # type: ignore[arg-type]

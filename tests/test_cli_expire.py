"""`headrace expire`: says what would go, deletes it when it is told to, and never what a table still lacks."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

pytest.importorskip("duckdb")

from headrace.cli.app import run
from headrace.plugins.lake.local import FileStore
from headrace.store import Page

pytestmark = pytest.mark.usefixtures("logging_restored")

CONTRACT = """
from headrace.contract import contract

@contract(version=1)
class Tick:
    n: int
"""


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lake of four segments: [0, 5), [5, 10), [10, 15), [15, 20), which its store says are 40 days old."""
    (tmp_path / "ticks.jsonl").write_text("".join(f'{{"n":{n}}}\n' for n in range(20)))
    place = f"file://{tmp_path}/lake"
    words = ["--until-end", "--flush-records", "5", "--log-level", "error"]
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl", place, *words])
    listed = FileStore.list

    def aged(self: FileStore, prefix: str, after: str = "") -> Page:
        page = listed(self, prefix, after)
        old = [attrs.evolve(o, modified_s=o.modified_s - 40 * 86_400 * ("/partition=" in o.key)) for o in page.objects]
        return Page(old, page.truncated)

    monkeypatch.setattr(FileStore, "list", aged)
    return place


def starts(tmp_path: Path) -> list[int]:
    return sorted(int(path.name[:20]) for path in (tmp_path / "lake/ticks/partition=0").iterdir())


def called(capfd, *words: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out, err


def load(tmp_path: Path, lake: str) -> str:
    (tmp_path / "contracts.py").write_text(CONTRACT)
    target = f"duckdb://{tmp_path}/silver.duckdb?table=ticks"
    assert 0 == run(["load", lake, target, "--contract", f"{tmp_path}/contracts.py:Tick", "--log-level", "error"])
    return target


def test_without_yes_nothing_is_deleted(tmp_path, lake, capfd):
    """It says what would go and why the rest stays, and what to add."""
    code, out, err = called(capfd, "expire", lake, "--older-than", "30d", "--keep", 2, "--without-ledger")
    assert 0 == code
    names, row = (line.split("\t") for line in out.splitlines())
    assert ["partition", "from", "to", "segments", "bytes", "what follows stays because"] == names
    assert ["0", "0", "10", "2"] == row[:4]
    assert "the newest 2 stay" == row[5]
    assert "--yes" in err
    assert [0, 5, 10, 15] == starts(tmp_path)
    assert not (tmp_path / "lake/ticks/_headrace/expired").exists()


def test_what_a_table_lacks_stays(tmp_path, lake, capfd):
    """Its ledger is asked, without its contract; a table that was never loaded keeps everything, and is not made."""
    never = f"duckdb://{tmp_path}/never.duckdb?table=ticks"
    code, out, _ = called(capfd, "expire", lake, "--older-than", "30d", "--loaded-by", never, "--yes", "--json")
    assert 0 == code
    (partition,) = json.loads(out)["partitions"]
    assert (0, 0) == (partition["end"], partition["segments"])
    assert f"{never} is at 0" == partition["stays"]
    assert not (tmp_path / "never.duckdb").exists()

    target = load(tmp_path, lake)
    other = f"duckdb://{tmp_path}/silver.duckdb?table=others"
    both = ["--loaded-by", target, "--loaded-by", other]
    code, out, _ = called(capfd, "expire", lake, "--older-than", "30d", *both, "--json")
    assert (0, f"{other} is at 0") == (code, json.loads(out)["partitions"][0]["stays"])

    code, out, _ = called(capfd, "expire", lake, "--older-than", "30d", "--loaded-by", target, "--yes", "--json")
    found = json.loads(out)
    assert (0, True, 3) == (code, found["deleted"], found["segments"])
    assert [15] == starts(tmp_path)
    (note,) = (tmp_path / "lake/ticks/_headrace/expired/partition=0").iterdir()
    assert [target] == json.loads(note.read_text())["loaded_by"]


def test_what_is_gone_is_told(tmp_path, lake, capfd):
    """`show` tells what was expired from what somebody deleted; a table that is past it is loaded on, a new one is refused."""
    target = load(tmp_path, lake)
    assert 0 == run(["expire", lake, "--older-than", "30d", "--keep", "2", "--without-ledger", "--yes"])
    code, out, _ = called(capfd, "show", lake, "--json")
    (partition,) = json.loads(out)["datasets"][0]["partitions"]
    assert (0, [{"start": 0, "end": 10}], []) == (code, partition["expired"], partition["broken"])
    code, out, _ = called(capfd, "show", lake, "--partition", 0)
    assert (0, ["expired", "ok", "ok"]) == (code, [line.split("\t")[-1] for line in out.splitlines()[1:]])
    code, _, err = called(capfd, "show", lake, "--offset", 3)
    assert 1 == code
    assert "its segment was expired" in err

    words = ["--contract", f"{tmp_path}/contracts.py:Tick", "--json"]
    code, out, _ = called(capfd, "load", lake, target, *words)
    assert (0, 0) == (code, json.loads(out)["segments"])
    code, out, _ = called(capfd, "load", lake, target.replace("=ticks", "=late"), *words)
    assert (1, "ExpiredError", 0, 10) == (code, *(json.loads(out)["error"][name] for name in ("type", "start", "end")))

    (tmp_path / "lake/ticks/partition=0" / f"{10:020}.jsonl.gz").unlink()
    code, out, _ = called(capfd, "show", lake, "--json")
    (partition,) = json.loads(out)["datasets"][0]["partitions"]
    assert (1, [{"start": 0, "end": 10}]) == (code, partition["expired"])
    assert [("gap", 10, 15)] == [(b["state"], b["start"], b["end"]) for b in partition["broken"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--older-than", "23h", "--without-ledger"], "expected at least a day"),
        (["--older-than", "30d"], "--without-ledger"),
        (["--without-ledger"], "older-than"),
        (["--older-than", "30d", "--loaded-by", "jsonl:///x"], "not a loader"),
    ],
)
def test_what_is_not_safe_is_refused(tmp_path, lake, capfd, words, message):
    """With code 2, before anything is deleted."""
    code, _, err = called(capfd, "expire", lake, *words, "--yes")
    assert 2 == code
    assert message in err
    assert [0, 5, 10, 15] == starts(tmp_path)


def test_young_segments_stay(tmp_path, lake, capfd):
    """What the store says is younger than asked for."""
    code, out, _ = called(capfd, "expire", lake, "--older-than", "41d", "--without-ledger", "--yes", "--json")
    found = json.loads(out)
    assert (0, 0, "it was put there 40 days ago") == (code, found["segments"], found["partitions"][0]["stays"])
    assert [0, 5, 10, 15] == starts(tmp_path)

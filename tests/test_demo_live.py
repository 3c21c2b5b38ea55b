"""``headrace demo --live``: every number that the exchange sent is a row or told, and were it not so it would be seen."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from headrace.demo import live
from headrace.demo.account import accounts
from headrace.demo.tape import PRODUCTS, UNKEPT
from headrace.errors import HeadraceError


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run of the real command, in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo") / "here"
    command = [sys.executable, "-m", "headrace", "demo", "--live", "--folder", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def told(process: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """By product what its line of the table says."""
    rows = [line.split("\t") for line in process.stdout.splitlines() if "\t" in line]
    return {row[0]: row[1:] for row in rows[1:]}


def values(folder: Path, stream: str) -> Iterator[dict]:
    for path in sorted((folder / "lake" / stream).glob("partition=*/*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            yield json.loads(line)["value"]


def test_every_number_is_a_row_or_told(shown):
    """
    It ends with 0, and what it claims holds for a reader of a few lines: what the outage took came from the exchange's history of
    one product, and is told by a gap record of the other.
    """
    folder, process = shown
    assert (0, "") == (process.returncode, process.stderr), process.stdout
    assert "The audit says complete." in process.stdout
    gaps = {value["id"]: value for value in values(folder, "coinbase.gaps")}  # of each the last one
    assert set(PRODUCTS) == set(told(process))
    for product, (sent, bronze, fetched, silver, quarantined, missing, by_gaps, verdict) in told(process).items():
        there = [v["trade_id"] for v in values(folder, "coinbase.trades") if v["product_id"] == product]
        (lost,) = [g for g in gaps.values() if g["symbol"] == product and g["cause"] == "broken off"]
        absent = set(range(1, int(sent) + 1)) - set(there)
        within = range(lost["last_sequence"] + 1, lost["next_sequence"])
        assert (0 if product == UNKEPT else len(within), product != UNKEPT) == (int(fetched), lost["filled"])
        assert absent == (set(within) if product == UNKEPT else set())
        assert 0 < len(within) < int(sent)
        assert (len(absent), len(absent), "0", "yes") == (int(missing), int(by_gaps), quarantined, verdict)
        assert (len(there), len(set(there))) == (int(bronze), int(silver))
        if absent:
            line = f"{product} {min(absent)} to {max(absent)}: {len(absent)} messages missing, broken off"
            assert line in process.stdout
            assert "; history: not available: trades: no history (HTTP 404)" in process.stdout


def test_next_commands(shown):
    """What it proposes runs."""
    proposed = [line.strip() for line in shown[1].stdout.partition("Look at it:")[2].splitlines() if line.strip()]
    page, show, _, query = proposed
    assert "broken off" in Path(page).read_text(encoding="utf-8")
    for line in (show, query):
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (done.returncode, done.stderr), line


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (None, ""),
        ("DELETE FROM gaps WHERE missing > 0", "numbers are missing and in no gap record"),
        ("DELETE FROM trades WHERE id = 7", "1 numbers are missing and in no gap record"),
        ("INSERT INTO trades SELECT * FROM trades WHERE id = 7", "1 rows too many"),
        ("UPDATE trades SET id = 0 WHERE id = 7", "1 rows that were never sent"),
        ("UPDATE gaps SET missing = missing + 1 WHERE missing > 0", "gap records say"),
    ],
)
def test_a_fault_is_seen(shown, tmp_path: Path, fault: str | None, problem: str):
    """The counts pass as they are; a row or a gap record less, more or changed is told."""
    folder, process = shown
    silver = tmp_path / "silver.duckdb"
    shutil.copy(folder / "silver.duckdb", silver)
    if fault is not None:
        with duckdb.connect(str(silver)) as connection:
            connection.execute(fault)
    sent = {product: int(row[0]) for product, row in told(process).items()}
    found = [each for a in accounts(folder / "lake", silver, "coinbase.trades", sent) for each in a.problems]
    assert bool(fault) == bool(found)
    assert any(problem in each for each in found) or fault is None


def test_why_a_process_ended():
    """What waits for a process that ends by itself raises what that one said, and leaves nothing open."""
    with (
        pytest.raises(HeadraceError, match=r"headrace stream ended with 2: .*nonsense"),
        live._child("stream", "nonsense://here", "file:///nowhere") as child,
    ):
        live._until(child, lambda: False)
    assert child.stderr.closed

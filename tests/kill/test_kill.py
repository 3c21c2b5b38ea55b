"""Processes that are killed at every step and at any moment, that sleep and wake up: each record once, to the byte."""

from __future__ import annotations

import base64
import contextlib
import gzip
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from headrace.testing.processes import kill_at_every_io, zombie_at_every_io

pytestmark = pytest.mark.kill

_spec = importlib.util.spec_from_file_location("lake_job", Path(__file__).with_name("lake_job.py"))
assert _spec is not None
assert _spec.loader is not None
_jobs = importlib.util.module_from_spec(_spec)  # other processes import it as well
_spec.loader.exec_module(_jobs)
carry = _jobs.carry

DRIVER = Path(__file__).with_name("driver.py")
KILLS = 10


def lines_of(count: int) -> list[bytes]:
    """Lines that differ in length and content, a few of them no JSON; the same in every run."""
    chance = random.Random(17)
    made = [
        json.dumps({"n": i, "price": chance.randrange(10**6) / 100, "note": "x" * chance.randrange(40)})
        for i in range(count)
    ]
    for i in range(0, count, 997):
        made[i] = made[i][:-1]
    return [line.encode() for line in made]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"\n".join(lines_of(100)) + b"\n")
    return path


def stored(lake: Path) -> list[bytes]:
    """All values of the lake in the order of their names, by gzip and JSON alone; those of Parquet by DuckDB."""
    if lake.suffix == ".parquet":
        query = f"""SELECT coalesce(encode(value), value_bytes) FROM '{lake}/ticks/partition=0/*.parquet' ORDER BY "offset" """
        return [value for (value,) in duckdb.sql(query).fetchall()]
    values = []
    for path in sorted(lake.glob("ticks/partition=0/*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            record = json.loads(line)
            values.append(
                line.partition(b'"value":')[2][:-1] if "value" in record else base64.b64decode(record["value_b64"])
            )
    return values


@contextlib.contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test, whatever happens."""
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has stopped itself."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
        if status.rpartition(")")[2].split()[0] == "T":
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        time.sleep(0.01)
    raise AssertionError("it did not stop")


@pytest.mark.parametrize(("play", "every", "least"), [(kill_at_every_io, 1, 60), (zombie_at_every_io, 25, 3)])
def test_every_step(tmp_path: Path, file: Path, play: Callable[..., list[Path]], every: int, least: int):
    """Killed before any call of the system, or asleep there while another one does the work: the next run completes the lake."""
    assert file.exists()
    folders = play(carry, tmp_path, every=every, timeout_s=300)
    assert len(folders) > least
    assert [] == [folder.name for folder in folders if stored(folder / "lake") != lines_of(100)]


@pytest.mark.parametrize("kind", ["", ".parquet"])
def test_every_write(tmp_path: Path, file: Path, kind: str):
    """Killed with half a file written: the next run completes the lake."""
    if kind:
        pytest.importorskip("pyarrow")
    with started(DRIVER, "every-write", file, tmp_path / "lakes", 34, kind) as process:
        out, told = process.communicate(timeout=120)
    assert (0, b"") == (process.returncode, told)
    steps = int(out)
    assert steps >= 4
    lakes = [tmp_path / "lakes" / f"write-{n}{kind}" for n in range(1, steps + 2)]
    assert [] == [lake.name for lake in lakes if stored(lake) != lines_of(100)]


def test_random_moments(tmp_path: Path):
    """The command, killed ten times at moments drawn at random, carries 60,000 lines; each run goes on from the last."""
    lines = lines_of(60_000)
    (tmp_path / "ticks.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    command = ["-m", "headrace", "stream", f"jsonl://{tmp_path}/ticks.jsonl", f"file://{tmp_path}/lake", "--until-end"]
    command += ["--flush-records", "1000", "--puts-in-flight", "1", "--log-level", "error"]
    folder, chance = tmp_path / "lake/ticks/partition=0", random.Random(5)
    kills, code = 0, None
    while code is None:
        with started(*command) as process:
            before = len(list(folder.glob("*")))
            goal = before + chance.randint(1, 5) if kills < KILLS else 10**9
            while process.poll() is None and len(list(folder.glob("*"))) < goal:
                time.sleep(0.001)
            time.sleep(chance.random() / 200)  # anywhere in a segment
            process.kill()
            process.wait()
            kills += process.returncode == -signal.SIGKILL
            code = None if process.returncode == -signal.SIGKILL else process.returncode
    assert (0, KILLS) == (code, kills)
    assert lines == stored(tmp_path / "lake")


def test_zombie(tmp_path: Path, file: Path):
    """A writer sleeps with its segment ready, another one finishes, the first wakes up: its write is refused, and it joins in."""
    with started(DRIVER, "zombie", file, tmp_path / "lake", 40) as asleep:
        stopped(asleep)
        with started(DRIVER, "run", file, tmp_path / "lake", 30) as awake:
            assert 0 == awake.wait(30)
        assert lines_of(100) == stored(tmp_path / "lake")
        os.kill(asleep.pid, signal.SIGCONT)
        assert 0 == asleep.wait(30)
    assert lines_of(100) == stored(tmp_path / "lake")


def test_zombie_without_the_condition(tmp_path: Path, file: Path):
    """The negative control: where a write takes a name that is taken, the same sleep doubles records."""
    with started(DRIVER, "zombie", file, tmp_path / "lake", 40, "replacing") as asleep:
        stopped(asleep)
        with started(DRIVER, "run", file, tmp_path / "lake", 30, "replacing") as awake:
            assert 0 == awake.wait(30)
        assert lines_of(100) == stored(tmp_path / "lake")
        os.kill(asleep.pid, signal.SIGCONT)
        asleep.wait(30)
    found = stored(tmp_path / "lake")
    assert {2} == set(Counter(found[:50]).values()) - {1}


def test_two_at_once(tmp_path: Path, file: Path):
    """Writers that run at the same time, each believing that the partition is its own, make one line."""
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(started(DRIVER, "run", file, tmp_path / "lake", n)) for n in (7, 11, 13)]
        assert [0, 0, 0] == [run.wait(60) for run in runs]
    assert lines_of(100) == stored(tmp_path / "lake")


def test_clock_that_jumps(tmp_path: Path, file: Path):
    """The wall clock has no say: a run under a clock that jumps by a day at every look stores what it should."""
    with started(DRIVER, "jumping", file, tmp_path / "lake", 9) as run:
        assert 0 == run.wait(30)
    assert lines_of(100) == stored(tmp_path / "lake")


CONTRACT = """
from decimal import Decimal
from headrace.contract import column, contract

@contract(version=1)
class Tick:
    n: int
    price: Decimal = column(precision=10, scale=2)
"""


def test_load_at_random_moments(tmp_path: Path):
    """A load that is killed again and again ends with every record once, as a row or in quarantine, and the ledger agrees."""
    lines = lines_of(60_000)
    (tmp_path / "ticks.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "tick.py").write_text(CONTRACT)
    with started(DRIVER, "run", tmp_path / "ticks.jsonl", tmp_path / "lake", 1500) as run:
        assert 0 == run.wait(60)
    command = ["-m", "headrace", "load", f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/w.duckdb?table=t"]
    command += ["--contract", f"{tmp_path}/tick.py:Tick", "--group", "64KiB", "--log-level", "error"]
    chance, kills, code, warehouse = random.Random(3), 0, None, tmp_path / "w.duckdb"
    while code is None:
        with started(*command) as process:
            deadline = time.monotonic() + 30
            while not warehouse.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            if kills < KILLS // 2:
                time.sleep(chance.uniform(0.2, 0.7))
                process.kill()
            process.wait(60)
            kills += process.returncode == -signal.SIGKILL
            if process.returncode == 0 and kills < KILLS // 2:
                raise AssertionError(f"it was done after {kills} kills: give it more to do")
            code = None if process.returncode == -signal.SIGKILL else process.returncode
    assert 0 == code
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute("SELECT count(*), count(DISTINCT _offset), count(DISTINCT n) FROM t").fetchall()[0]
        (refused,) = connection.execute("SELECT count(*) FROM t_quarantine").fetchall()[0]
        ledger = connection.execute(
            "SELECT sum(records), sum(inserted), sum(rejected) FROM headrace_ledger"
        ).fetchall()[0]
    bad = len(range(0, 60_000, 997))
    assert (60_000 - bad,) * 3 == rows
    assert bad == refused
    assert (60_000, 60_000 - bad, bad) == tuple(map(int, ledger))

"""A redrive that is killed at any moment, while a load runs: each record goes where it belongs, once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

pytestmark = pytest.mark.kill

DRIVER = Path(__file__).with_name("redrive_driver.py")
KILLS = 5
RECORDS = 3_000
CONTRACTS = """
from decimal import Decimal
from headrace.contract import column, contract

@contract(version=1)
class Narrow:
    n: int
    price: Decimal = column(precision=10, scale=2, maximum=100)

@contract(version=2)
class Wide:
    n: int
    price: Decimal = column(precision=10, scale=2)
"""


def line_of(n: int) -> str:
    """Two in three are refused by the narrow contract, one in 37 by both."""
    return "broken" if n % 37 == 0 else json.dumps({"n": n, "price": 1 if n % 3 == 0 else 200})


BAD = len(range(0, RECORDS, 37))


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headrace", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(*words: object) -> None:
    with started(*words) as process:
        _, told = process.communicate(timeout=60)
    assert 0 == process.returncode, told


def append(tmp_path: Path, numbers: Sequence[int]) -> None:
    with (tmp_path / "ticks.jsonl").open("a") as file:
        file.writelines(f"{line_of(n)}\n" for n in numbers)
    lake = f"file://{tmp_path}/lake"
    done(
        "stream", f"jsonl://{tmp_path}/ticks.jsonl", lake, "--until-end", "--flush-records", 500, "--log-level", "error"
    )


@pytest.fixture
def silver(tmp_path: Path) -> Path:
    """A table of which two thirds are in quarantine; as much again is in the lake and not loaded yet."""
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    append(tmp_path, range(RECORDS // 2))
    done(*load(tmp_path, "Narrow"), "--max-rejected", "100%")
    append(tmp_path, range(RECORDS // 2, RECORDS))
    return tmp_path / "silver.duckdb"


def load(tmp_path: Path, contract: str) -> list[object]:
    words = ["load", f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/silver.duckdb?table=t", "--group", "1KiB"]
    return [*words, "--contract", f"{tmp_path}/contracts.py:{contract}", "--log-level", "error"]


def redrive(tmp_path: Path) -> list[object]:
    words = ["redrive", f"duckdb://{tmp_path}/silver.duckdb?table=t", "--group", 30, "--log-format", "json"]
    return [*words, "--contract", f"{tmp_path}/contracts.py:Wide"]


def found(silver: Path) -> tuple[int, ...]:
    """Records by the ledger, rows, rows that differ, rows that are what the line says, quarantined; by SQL alone."""
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = duckdb.connect(str(silver), read_only=True)
            break
        except duckdb.IOException:  # the load has it
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with connection:
        return connection.execute(
            "SELECT (SELECT sum(records)::BIGINT FROM headrace_ledger), (SELECT count(*) FROM t),"
            " (SELECT count(DISTINCT (_dataset, _stream, _partition, _offset)) FROM t),"
            " (SELECT count(*) FROM t WHERE n = _offset AND price = CASE WHEN n % 3 = 0 THEN 1 ELSE 200 END),"
            " (SELECT count(*) FROM t_quarantine)"
        ).fetchall()[0]


def test_redrive_at_random_moments(tmp_path: Path, silver: Path):
    """Killed between and inside its transactions, beside a load of as many records: nothing is lost or doubled."""
    chance, kills, code = random.Random(11), 0, None
    with started(*load(tmp_path, "Wide")) as loading:
        while code is None:
            with started(*redrive(tmp_path)) as process:
                assert process.stderr is not None
                goal = chance.randint(1, 6) if kills < KILLS else 10**9
                told = []
                while len(told) < goal and (line := process.stderr.readline()):  # it ends when the process does
                    told += [line] if '"redriving"' in line else []
                if kills < KILLS and process.poll() is None:
                    try:
                        process.wait(chance.random() / 20)  # anywhere in the transaction that comes
                    except subprocess.TimeoutExpired:
                        process.kill()
                process.communicate(timeout=60)
            kills += process.returncode == -signal.SIGKILL
            code = None if process.returncode == -signal.SIGKILL else process.returncode
            records, rows, distinct, right, refused = found(silver)
            assert records == rows + refused
            assert rows == distinct == right
        _, told_by_load = loading.communicate(timeout=60)
        assert 0 == loading.returncode, told_by_load
    assert (0, KILLS) == (code, kills)
    done(*redrive(tmp_path))
    assert (RECORDS, RECORDS - BAD, RECORDS - BAD, RECORDS - BAD, BAD) == found(silver)


def test_redrive_without_a_transaction(tmp_path: Path, silver: Path):
    """The negative control: where rows are committed before they leave quarantine, the next redrive doubles them."""
    contract = f"{tmp_path}/contracts.py:Wide"
    killed = subprocess.run([sys.executable, DRIVER, silver, contract], check=False, timeout=60)
    assert -signal.SIGKILL == killed.returncode
    done(*redrive(tmp_path))
    records, rows, distinct, *_ = found(silver)
    assert rows > distinct
    assert records < rows

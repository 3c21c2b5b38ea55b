"""A load of real ticks that is killed again and again, also inside of COMMIT: each record once, with all its digits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kill

DRIVER = Path(__file__).with_name("silver.py")


def driven(folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("duckdb")
    command = [sys.executable, DRIVER, "run", folder, f"duckdb://{folder}/w.duckdb?table={{table}}", *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240, check=False)
    print(done.stdout, done.stderr)
    return done


def test_killed(tmp_path: Path):
    """Killed at random moments and inside of COMMIT: rows + quarantine + superseded = records, and every row is the vendor's."""
    done = driven(tmp_path, "--records", 20_000, "--segment-records", 400, "--kills", 4, "--seed", 1)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "4 kills" in done.stdout
    assert "bars: 2,096 records = 1,048 rows + 2 quarantined + 1,046 superseded" in done.stdout


def test_without_the_ledger(tmp_path: Path):
    """The negative control: a loader that does not ask its ledger doubles what was there before the kill, and it is seen."""
    done = driven(tmp_path, "--records", 3000, "--segment-records", 100, "--kills", 1, "--seed", 1, "--without-ledger")
    assert "rows are missing, added, doubled or changed" in done.stdout
    assert 1 == done.returncode

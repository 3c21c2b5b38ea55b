"""From an exchange to silver while everything breaks, for some seconds; and the same with gap records that are lost."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.servers import kafka, minio, toxiproxy
from headrace.testing.servers.cache import ServerMissing

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.kill]

RUN = Path(__file__).parents[1] / "live/run.py"
RATE = 3_000
TIMEOUT_S = 400
FAULTS = ("leaves numbers out", "out of order", "breaks off", "producer: kill -9", "bronze: kill -9")


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """How a run ended, what it found and what it told; its seed is told too."""
    try:
        for need in (kafka.jars, toxiproxy.binary, minio.binary):
            need()
    except ServerMissing as exc:
        pytest.skip(str(exc))
    command = [sys.executable, RUN, "--rate", str(RATE), "--rest", "0.5", "--seed", str(secrets.randbelow(10**6))]
    command += ["--folder", folder / "run", "--json", folder / "found.json", *arguments]
    with (folder / "told").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            process.wait(TIMEOUT_S)
        finally:
            process.terminate()  # it ends its servers
    told = (folder / "told").read_text()
    assert (folder / "found.json").exists(), told
    return process.returncode, json.loads((folder / "found.json").read_text()), told


def test_what_is_missing_is_told(tmp_path: Path):
    """Every number that the exchange sent is one row of silver, or missing and told by a gap record; the audit is complete."""
    faults = [argument for name in FAULTS for argument in ("--fault", name)]
    code, found, told = run(tmp_path, "--minutes", "0.25", "--deep", *faults)
    assert 0 == code, told
    verdict = found["verdict"]
    assert verdict["missing"] == sum(verdict[name] for name in ("by_numbers", "by_start", "open")) > 0, told
    assert verdict["rows"] + verdict["missing"] == verdict["sent"] > 10 * RATE, told
    assert set(found["faults"]) == {name for name in found["faults"] if any(part in name for part in FAULTS)}
    assert found["starts"]["producer"] > 1


def test_without_gap_records_it_is_noticed(tmp_path: Path):
    """The negative control: where gap records are lost on their way, what is missing is found to be told by nobody."""
    code, found, told = run(tmp_path, "--minutes", "0.1", "--without", "gaps", "--fault", "leaves numbers out")
    assert 0 == code, told
    assert found["verdict"]["unexplained"] > 0

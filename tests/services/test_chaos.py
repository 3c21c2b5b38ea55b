"""A few minutes of chaos: real brokers and lakes that break at random, and the same without a protection each."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.servers import kafka, minio, toxiproxy, versity
from headrace.testing.servers.cache import ServerMissing

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.kill]

RUN = Path(__file__).parents[1] / "chaos/run.py"
MINUTES = 1.2
TIMEOUT_S = 900


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run found; its seed and its story are printed, and shown when a test fails."""
    folder = tmp_path_factory.mktemp("chaos")
    try:
        for need in (kafka.jars, toxiproxy.binary, minio.binary, versity.binary):
            need()
    except ServerMissing as exc:
        pytest.skip(str(exc))
    command = [sys.executable, RUN, "--minutes", str(MINUTES), "--seed", str(secrets.randbelow(10**6)), "--controls"]
    command += ["--folder", folder / "run", "--json", folder / "found.json"]
    with (folder / "told").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as run:
        try:
            run.wait(TIMEOUT_S)
        finally:
            run.terminate()  # it ends its servers
    told = (folder / "told").read_text()
    print(told)
    assert (folder / "found.json").exists(), told
    return {"code": run.returncode, "told": told, **json.loads((folder / "found.json").read_text())}


def test_nothing_is_lost_doubled_or_changed(found: dict[str, Any]):
    """Whatever broke, the lake holds what the brokers hold, record by record, and each object is what its name says."""
    wrong = {name: found[name] for name in ("lost", "duplicated", "changed", "disordered", "broken", "bad_rounds")}
    assert {"lost": 0, "duplicated": 0, "changed": 0, "disordered": 0, "broken": 0, "bad_rounds": []} == wrong, found[
        "told"
    ]
    assert found["records"] > 1000


def test_no_reader_saw_a_record_twice(found: dict[str, Any]):
    """Somebody who reads the glob while all this goes on counts each record once."""
    assert found["looks"] > 5
    assert 0 == found["looks_with_a_record_twice"]


def test_every_fault_took_effect(found: dict[str, Any]):
    """A fault that was drawn and did nothing would prove nothing."""
    assert len(found["faults"]) >= 5
    assert [] == found["never_took_effect"], found["told"]


@pytest.mark.parametrize("rule", ["condition", "hint", "base"])
def test_without_a_protection_it_is_noticed(found: dict[str, Any], rule: str):
    """Take one protection away, and the same faults lose or double records: the run can fail."""
    without = found["controls"][rule]
    assert without["passed_over"] + without["duplicated"] > 0


def test_the_run_passed(found: dict[str, Any]):
    """And it says so itself."""
    assert 0 == found["code"], found["told"]

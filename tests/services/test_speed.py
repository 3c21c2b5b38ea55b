"""What a segment costs a store, by the store's own count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.testing.servers import kafka, minio
from headrace.testing.servers.cache import ServerMissing

pytestmark = pytest.mark.services

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"
PARTITIONS = 16
PROBE_AND_PIN = {"LIST": 2, "GET": 4}


def test_a_segment_is_one_request(tmp_path: Path) -> None:
    """One PUT a segment and no other request; besides, a LIST a partition to begin, and a GET where it has a segment already."""
    pytest.importorskip("rich")
    pytest.importorskip("pyarrow")
    try:
        kafka.jars()
        minio.binary()
    except ServerMissing as exc:
        pytest.skip(str(exc))
    arguments = ["--only", "process", "--records", "16000", "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, check=True, timeout=240)
    (kept,) = tmp_path.glob("*.json")
    (sheet,) = json.loads(kept.read_text())["measurements"]
    assert len(sheet["rows"]) >= 5
    for name, *cells in sheet["rows"]:
        row = dict(zip(sheet["headings"], cells, strict=True))
        assert row["segments"] >= PARTITIONS, name
        assert row["PUT a segment"] == 1.0, name
        again = "next run" in name
        assert row["LIST"] == PARTITIONS + (0 if again else PROBE_AND_PIN["LIST"]), name
        assert row["GET"] == (PARTITIONS + 2 if again else PROBE_AND_PIN["GET"]), name
        assert row["other"] == ("" if again else "1 DELETE"), name

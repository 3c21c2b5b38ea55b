"""The benchmark runs, and keeps what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("confluent_kafka")
pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")
pytest.importorskip("rich")
pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")

RUN = Path(__file__).parent / "benchmarks" / "run.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """What a run of tiny numbers prints and keeps."""
    out = tmp_path_factory.mktemp("bench")
    arguments = ["--records", "4000", "--repeat", "2", "--out", str(out)]
    printed = subprocess.run(
        [sys.executable, str(RUN), *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    (kept,) = out.glob("*.json")
    return printed, json.loads(kept.read_text())


def test_everything_is_measured_in_turns(done: tuple[str, dict[str, object]]) -> None:
    """Each side as often as was asked, with its spread; each ratio with what it compares."""
    _, kept = done
    names = [
        "bronze from Kafka",
        "bronze from a file",
        "encode 84 B",
        "encode 1000 B",
        "segments of trades",
        "silver",
        "import",
    ]
    assert names == [found["name"] for found in kept["measurements"]]
    for found in kept["measurements"]:
        sides = {side["name"] for side in found["sides"]}
        for side in found["sides"]:
            assert (2, 2) == (len(side["records"]), len(side["wall_s"]))
            assert {"median", "min", "max"} == set(side["records_per_s"]) == set(side["cpu_s_per_million"])
            assert 0 < side["records_per_s"]["min"] <= side["records_per_s"]["median"] <= side["records_per_s"]["max"]
        for ratio in found["ratios"]:
            assert {ratio["of"], ratio["to"]} <= sides
            assert ratio["rate"]["min"] > 0


def test_a_run_says_what_was_measured_where(done: tuple[str, dict[str, object]]) -> None:
    """Numbers without versions and machine would mean nothing later."""
    _, kept = done
    assert {"made_at", "commit", "uncommitted", "cpus", "machine", "python", "versions", "arguments"} < set(kept)
    assert kept["cpus"]
    assert all(kept["versions"][name] for name in ("headrace", "confluent-kafka", "duckdb", "msgspec"))
    assert 4000 == kept["arguments"]["records"]


def test_the_table_shows_ratios_beside_their_goals(done: tuple[str, dict[str, object]]) -> None:
    """What a person reads is what is kept."""
    printed, _ = done
    assert "0.80 | 1.0" in printed
    assert "0.65 | 0.85" in printed
    assert "INSERT … FROM read_json" in printed
    assert "client_libraries none" in printed


def test_an_import_brings_no_client_library(done: tuple[str, dict[str, object]]) -> None:
    """As the benchmark tells it; `test_imports` is the one that insists."""
    _, kept = done
    assert [] == kept["measurements"][-1]["facts"]["client_libraries"]

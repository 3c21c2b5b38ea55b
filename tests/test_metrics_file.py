"""Numbers of commands that end, in a file; and alerts that are made of numbers which exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from headrace.cli.app import run
from headrace.errors import ConfigError
from headrace.watching.ended import write_ended

pytestmark = pytest.mark.usefixtures("logging_restored")

ROOT = Path(__file__).parent.parent
RULES = (ROOT / "examples" / "prometheus" / "headrace.rules.yml").read_text(encoding="utf-8")
CONTRACT = "from headrace.contract import contract\n\n@contract(version=1)\nclass Tick:\n    n: int\n"


def numbers(file: Path) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(file.read_text()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_a_load_and_an_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is in the file is what is in the tables, and when it last went well survives a failure."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept_ticks.py").write_text(CONTRACT)
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps({'n': n})}\n" for n in [*range(9), "no number"]))
    lake, table, file = f"file://{tmp_path}/lake", f"duckdb:///{tmp_path}/w.duckdb?table=ticks", tmp_path / "h.prom"
    load = ["--metrics-file", str(file), "load", lake, table, "--contract", "kept_ticks.py:Tick"]
    assert 0 == run(["stream", f"jsonl://{tmp_path}/t.jsonl", lake, "--until-end"])
    assert 0 == run(load)
    found = numbers(file)
    with duckdb.connect(str(tmp_path / "w.duckdb")) as db:
        counts = db.execute("SELECT sum(records), sum(inserted), sum(rejected) FROM headrace_ledger").fetchone()
    assert counts == tuple(found[f"headrace_last_load_{n}{{target=ticks}}"] for n in ("records", "rows", "quarantined"))
    succeeded = found["headrace_command_last_success_timestamp_seconds{command=load}"]
    assert 2 == run([*load[:3], "file:///nowhere", *load[4:]])
    found = numbers(file)
    assert 2 == found["headrace_command_exit_code{command=load}"]
    assert succeeded == pytest.approx(found["headrace_command_last_success_timestamp_seconds{command=load}"], abs=1e-3)
    assert 0 == run(["--metrics-file", str(file), "audit", lake, table])
    found = numbers(file)
    verdicts = [found[f"headrace_audit_verdict{{stream=t,verdict={v}}}"] for v in ("complete", "incomplete", "unknown")]
    assert [1, 0, 0] == verdicts
    assert (10, 1, 0) == tuple(
        found[f"headrace_audit_{n}{{stream=t}}"] for n in ("records", "quarantined_records", "findings")
    )
    assert not list(tmp_path.glob(".h.prom*"))


def test_a_file_that_cannot_be_written(tmp_path: Path):
    """It is an error that names the file, and leaves nothing behind."""
    with pytest.raises(ConfigError, match="cannot be written"):
        write_ended(tmp_path / "none" / "h.prom", "load", 0, {})


def test_alerts_are_made_of_numbers_that_exist():
    """The rules are YAML, each says what to do, and each name in an expression is one that the code makes."""
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "headrace").rglob("*.py"))
    rules = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
    assert len(rules) == len({rule["alert"] for rule in rules}) == 14
    used = set()
    for rule in rules:
        assert {"summary", "action"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["expr"].count("(") == rule["expr"].count(")")
        used |= set(re.findall(r"\bheadrace_[a-z_]+", rule["expr"]))
    assert set() == {name for name in used if not made(name, code)}
    assert not made("headrace_no_such_thing_seconds", code)
    assert not made("headrace_load_no_such_thing_total", code)


FAMILIES = ("last_load_", "load_", "feed_", "bronze_", "silver_", "audit_")
"""What a loop puts before a name's last words."""


def made(name: str, code: str) -> bool:
    """Whether the code makes a metric: by its name, or by its last words behind a family's."""
    whole = re.sub(r"_(bucket|count|sum)$", "", name).removeprefix("headrace_")
    family = next((f for f in FAMILIES if whole.startswith(f)), "")
    words = whole.removeprefix(family)
    wanted = {whole, words, whole.removesuffix("_total"), words.removesuffix("_total")}
    return any(f'"{word}"' in code or f"headrace_{word}" in code or f"}}_{word}" in code for word in wanted)

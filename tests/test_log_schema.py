"""The log of every command keeps one schema, and leads from a row of silver to the run that received its record."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import duckdb
import jsonschema
import pytest

from headrace.chain import Chain
from headrace.cli.app import run
from headrace.logs import SCHEMA, configure
from headrace.plugins.lake.local import FileStore
from headrace.registry import Registry

pytestmark = pytest.mark.usefixtures("logging_restored")

VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
CONTRACT = """
from headrace.contract import contract

@contract(version=1)
class Tick:
    n: int
"""


def call(name: str, *words: str, expected: int = 0) -> list[dict]:
    """Run a command as the run *name*, and return its log; each line keeps the schema."""
    err = io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("HEADRACE_RUN", name)
        code = run([*words, "--log-format", "json", "--log-level", "debug"])
    assert expected == code, err.getvalue()
    lines = [json.loads(line) for line in err.getvalue().splitlines() if line.startswith("{")]
    for line in lines:
        VALIDATOR.validate(line)
        assert name == line["run"]
    return lines


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log_ticks.py").write_text(CONTRACT)
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps({'n': n})}\n" for n in [*range(9), "no number"]))
    return tmp_path


def test_log_of_every_command(place: Path):
    """Every command that works on a deployment writes lines of the schema, an error that ends it too."""
    lake, table = f"file://{place}/lake", f"duckdb:///{place}/w.duckdb?table=ticks"
    kept = ("--contract", "log_ticks.py:Tick")
    logs = {
        "stream": call("s1", "stream", f"jsonl://{place}/t.jsonl", lake, "--until-end", "--flush-records", "5"),
        "load": call("l1", "load", lake, table, *kept),
        "redrive": call("r1", "redrive", table, *kept),
        "audit": call("a1", "audit", lake, table),
        "expire": call("e1", "expire", lake, "--older-than", "30d", "--loaded-by", table, "--yes"),
        "status": call("st", "status", lake, table),
        "reload": call("x1", "reload", lake, table, *kept),
        "failed": call("f1", "stream", f"jsonl://{place}/none.jsonl", lake, "--until-end", expected=2),
    }
    for name in ("stream", "load", "redrive", "reload", "failed"):
        assert logs[name], name
    assert "command failed" in {line["event"] for line in logs["failed"]}
    events = {line["event"] for lines in logs.values() for line in lines}
    assert {"run begins", "segment stored", "run ends", "load begins", "segment loaded", "load ends"} <= events


def test_from_a_row_to_the_runs_that_brought_it(place: Path):
    """A row's place finds its ledger row, whose attempt names the load's run; the segment's trailer names the writer's."""
    lake, table = f"file://{place}/lake", f"duckdb:///{place}/w.duckdb?table=ticks"
    stored = call("bronze-run", "stream", f"jsonl://{place}/t.jsonl", lake, "--until-end", "--flush-records", "5")
    loaded = call("silver-run", "load", lake, table, "--contract", "log_ticks.py:Tick")
    with duckdb.connect(str(place / "w.duckdb")) as db:
        [(start, attempt)] = db.execute(
            "SELECT l.start_offset, l.attempt FROM headrace_ledger l JOIN ticks r ON r._partition = l.partition AND"
            " r._offset >= l.start_offset AND r._offset < l.end_offset WHERE r.n = 7"
        ).fetchall()
    assert attempt.startswith("silver-run.")
    segment = Chain.open(FileStore(root=place / "lake"), "t").covering(0, start)
    assert segment is not None
    assert segment.trailer.writer.endswith(" run=bronze-run")
    # the place finds both in the log, and the load's line names the run before it
    same = [line for line in (*stored, *loaded) if (line.get("partition"), line.get("start")) == (0, start)]
    assert [("bronze-run", "segment stored"), ("silver-run", "segment loaded")] == [
        (x["run"], x["event"]) for x in same
    ]
    assert "run=bronze-run" in same[1]["writer"]


def test_a_feed_s_connections_name_the_run_that_received():
    """The ids in the headers of a feed's records begin with the run of the process that received them."""
    configure(run="feed-run", stream=io.StringIO())
    assert Registry.discover().source("coinbase://BTC-USD")._supervisor.name.startswith("feed-run.")


def test_a_line_that_breaks_the_schema():
    """The schema refuses what is no line of ours: a field is missing, or has another type."""
    line = {"ts": "2026-01-31T12:00:00.000Z", "level": "info", "logger": "a", "event": "b", "run": "c"}
    assert VALIDATOR.is_valid(line)
    for wrong in ({"level": "loud"}, {"ts": "today"}, {"run": ""}, {"partition": "3"}, {"other": {}}):
        assert not VALIDATOR.is_valid(line | wrong)
    assert not VALIDATOR.is_valid({name: value for name, value in line.items() if name != "run"})

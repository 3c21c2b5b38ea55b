"""
The example DAGs under a whole Airflow, from a real Kafka through MinIO into DuckDB and an emulated Snowflake, while its processes
are killed, frozen, paused and cleared.

`nox -s airflow -- --standalone` runs it, in some minutes; HEADRACE_AIRFLOW_SHOTS names a folder for screenshots of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from standalone import until
from world import DUCKDB, FULL, PIECES, SNOWFLAKE, WAREHOUSES, World, say, world

from headrace import audit
from headrace.demo.contracts import Bar, Trade

HERE = Path(__file__).parent
ALL = ("bars", "bronze_to_silver", "nightly_audit", "redrive_quarantine")
NIGHTS = ("2026-10-01", "2026-10-03")


@pytest.fixture(scope="module", name="world")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


def test_task_killed(world: World):
    """A task that is killed is run again, and loads."""
    loads = []
    for load in world.held(*WAREHOUSES):
        os.kill(load["pid"], signal.SIGKILL)
        until(
            lambda ti=load: world.tries(ti) > 1 or world.airflow.instances("bronze_to_silver", state="up_for_retry"),
            "retried",
        )
        loads.append(load)
    world.settled(*loads)


def test_scheduler_killed(world: World):
    """A scheduler that comes back after half a minute starts a second attempt beside the first one: no row is doubled."""
    loads = []
    for load in world.held(*WAREHOUSES):
        os.kill(world.airflow.scheduler(), signal.SIGKILL)
        time.sleep(35)  # so long that the new one believes that the task was lost
        world.airflow.start("scheduler")
        until(lambda ti=load: second(world, ti) and alive(ti["pid"]), "a second attempt is at work beside the first")
        loads.append(load)
    world.settled(*loads)


def test_task_frozen(world: World):
    """A task that stands still is taken for dead and run again; it wakes beside the second attempt: no row is doubled."""
    loads = []
    for load in world.held(SNOWFLAKE):
        pids = (supervisor(load["pid"]), load["pid"])
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda ti=load: second(world, ti), "a second attempt is at work")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        loads.append(load)
    world.settled(*loads)


def test_cleared(world: World):
    """Who clears a load that is at work has it ended and run again; who clears a run that is over has nothing done twice."""
    loads = []
    for load in world.held(DUCKDB):
        index = [["load", load["map_index"]]]
        world.airflow.clear("bronze_to_silver", load["dag_run_id"], task_ids=index, only_running=True)
        until(lambda ti=load: world.tries(ti) > 1, "it is run again")
        loads.append(load)
    world.settled(*loads)
    before = {warehouse: world.rows(warehouse) for warehouse in WAREHOUSES}
    oldest = min(world.airflow.runs("bronze_to_silver"), key=lambda run: run["queued_at"])["dag_run_id"]
    world.airflow.clear("bronze_to_silver", oldest)
    until(lambda: not world.airflow.quiet("bronze_to_silver"), "it is run again")
    world.settled()
    assert {warehouse: world.rows(warehouse) for warehouse in WAREHOUSES} == before


def test_paused(world: World):
    """What came while the DAG was paused, rung for or not, is loaded by the first run after; no triggerer is needed."""
    world.settled()
    for part in ("triggerer", "dag-processor"):
        os.kill(world.airflow.part(part), signal.SIGKILL)
    world.airflow.pause("bronze_to_silver")
    before = world.rows(SNOWFLAKE)
    for _ in range(3):
        world.airflow.ring("headrace_lake_grew")
    world.stream()
    world.airflow.unpause("bronze_to_silver")
    until(lambda: world.rows(SNOWFLAKE)["trades"] > before["trades"], "what came meanwhile is loaded")
    world.settled()


def test_all_killed(world: World):
    """All processes are killed at once; those that are started then go on where the ledger is."""
    loads = []
    for load in world.held(*WAREHOUSES):
        world.airflow.kill_all()
        until(lambda: not world.airflow.alive(), "nothing of it is left")
        loads.append(load)
        world.airflow.start()
    world.settled(*loads)


def test_complete(world: World):
    """At the end each record is there once in each warehouse, and every task of every run ended well."""
    airflow = world.airflow
    world.settled()
    while world.sent < PIECES:
        world.stream()
    for _ in range(5):
        airflow.ring("headrace_lake_grew")  # a burst: some of these reach no run, and all is found nevertheless
    for warehouse in WAREHOUSES:
        until(lambda name=warehouse: world.rows(name) == FULL, "all is in silver")
    world.settled()
    airflow.unpause("nightly_audit")
    airflow.backfill("nightly_audit", *NIGHTS)
    airflow.trigger("nightly_audit", since="", source="headrace_source")
    until(lambda: len(airflow.runs("nightly_audit")) > 3 and airflow.quiet("nightly_audit"), "all is audited", 600)
    airflow.unpause("redrive_quarantine")
    for warehouse in WAREHOUSES:
        airflow.trigger("redrive_quarantine", dry_run=False, warehouse=warehouse)
    until(lambda: airflow.quiet(*ALL), "all runs are over", 600)

    for warehouse in WAREHOUSES:
        for stream, contract in {"trades": Trade, "bars": Bar}.items():
            found = audit(
                world.lake(),
                world.warehouse(warehouse, stream),
                source=f"kafka://{world.kafka.bootstrap}/{stream}?group=audit",
                stream=stream,
                contract=contract,
                deep=True,
                caught_up=True,
            )
            assert found.verdict == "complete", found.findings
    states = Counter(each["state"] for dag in ALL for each in airflow.instances(dag))
    runs = Counter(run["state"] for dag in ALL for run in airflow.runs(dag))
    say(runs, "runs,", states, "task instances")
    assert set(runs) == {"success"}
    assert set(states) <= {"success", "skipped", "removed"}  # of a run that was cleared: there was less to load
    assert sorted(p.name for p in (world.folder / "files").glob("*.parquet")) == ["2013-10-07.parquet"]
    kept = {str(path.relative_to(world.folder / "reports")) for path in (world.folder / "reports").rglob("*.*")}
    nights = {f"202610{day:02}T023000.{kind}" for day in (1, 2, 3) for kind in ("html", "json")}
    assert {f"{stream}/{w}/{name}" for stream in FULL for w in WAREHOUSES for name in nights} <= kept


def test_secrets(world: World):
    """Nothing that is left holds a password of a connection: no log, no table of Airflow's, no report."""
    assert world.told() == []
    leak = world.folder / "airflow" / "logs" / "leak.log"
    with closing(psycopg2.connect(f"postgresql://{world.postgres.url}")) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE leak (said json, kept bytea)")
        for secret in world.secrets:  # the negative control: what is looked for would be found
            leak.write_text(f"connecting as {secret}")
            for column, value in {
                "said": json.dumps({"uri": f"s3://key:{secret}@bucket"}),
                "kept": secret.encode(),
            }.items():
                cursor.execute(f"INSERT INTO leak ({column}) VALUES (%s)", [value])
                assert world.told() == [str(leak), "leak"]
                cursor.execute("TRUNCATE leak")
        cursor.execute("DROP TABLE leak")
    leak.unlink()


@pytest.mark.skipif(
    "HEADRACE_AIRFLOW_SHOTS" not in os.environ,
    reason="remakes the pictures of the docs; HEADRACE_AIRFLOW_SHOTS names their folder",
)
def test_shots(world: World):
    """The screenshots of the page on Airflow are made of this run."""
    report = max(
        (world.folder / "reports" / "trades" / SNOWFLAKE).glob("*.html")
    )  # the one that was held against Kafka too
    command = [sys.executable, str(HERE / "shots.py"), world.airflow.base, world.airflow.password, str(report)]
    subprocess.run([*command, os.environ["HEADRACE_AIRFLOW_SHOTS"]], check=True)


def second(world: World, first: dict) -> bool:
    """Whether another attempt than the first is at work."""
    (now,) = world.airflow.instances(
        "bronze_to_silver", first["dag_run_id"], task_id="load", map_index=first["map_index"]
    )
    return bool(now["state"] == "running" and now["pid"] not in {None, first["pid"]} and alive(now["pid"]))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def supervisor(pid: int) -> int:
    """Who sends a task's heartbeats: its parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

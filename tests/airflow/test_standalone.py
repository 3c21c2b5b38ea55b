"""
The example DAGs under a whole Airflow, from a real Kafka through MinIO into DuckDB, while its processes are killed.

`nox -s airflow -- --standalone` runs it, in some minutes; HEADRACE_AIRFLOW_SHOTS names a folder for screenshots of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import duckdb
import pytest
from standalone import Airflow, until

from conftest import DAGS, SECRET
from headrace import FlushPolicy, Pipeline, Registry, audit
from headrace.demo.contracts import Trade
from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.topics import Topics
from headrace.testing.ticks import real_bars, real_ticks

HERE = Path(__file__).parent
ALL = ("bars", "bronze_to_silver", "nightly_audit", "redrive_quarantine")
OPEN_MS = 1_381_152_600_000  # 7 October 2013, 09:30 in New York
CUTS_MS = [0, *(OPEN_MS + hour * 3_600_000 for hour in (1, 2, 4, 5)), 1 << 60]
"""Where the day is cut: it comes in pieces, and while each of them is loaded something is killed."""
FULL = {"trades": 24_293, "bars": 453}


@attrs.define(kw_only=True)
class World:
    """Kafka, MinIO, a DuckDB file, and Airflow, which knows them by its connections."""

    folder: Path
    kafka: Kafka
    lake: str
    airflow: Airflow
    connections: dict[str, dict[str, object]] = attrs.field(repr=False)
    sent: int = 0

    @property
    def silver(self) -> Path:
        return self.folder / "silver.duckdb"

    def uri(self, name: str, **more: str) -> str:
        """As `headrace_places.place` makes it."""
        known = self.connections[name]
        scheme, _, rest = str(known["extra"]["uri"]).partition("://")  # type: ignore[index]
        user = f"{known['login']}:{known['password']}@" if "password" in known else ""
        more_ = "&".join(f"{key}={value}" for key, value in more.items())
        return f"{scheme}://{user}{rest}{'&' if '?' in rest and more_ else '?' if more_ else ''}{more_}"

    def stream(self) -> None:
        """Publish the next part of the day to Kafka, whole minutes of it, and carry it to the lake."""
        registry = Registry.discover()
        begin, end = (CUTS_MS[self.sent + n] for n in (0, 1))
        both = {"trades": real_ticks(), "bars": real_bars(symbol="IBM")}
        parts = {name: [r for r in records if begin <= r.timestamp_ms < end] for name, records in both.items()}
        self.sent += 1
        for name, records in parts.items():
            file = self.folder / f"{name}-{self.sent}.jsonl"
            if lines := b"".join((record.value or b"") + b"\n" for record in records):
                file.write_bytes(lines)
                source = registry.source(f"jsonl://{file}?key=symbol&timestamp=time&stream={name}")
                sink = registry.sink(f"kafka://{self.kafka.bootstrap}/{name}")
                Pipeline(source=source, sink=sink, until_end=True).run()
            source = registry.source(f"kafka://{self.kafka.bootstrap}/{name}?group=bronze-{name}")
            Pipeline(
                source=source, sink=registry.sink(self.uri("lake")), until_end=True, flush=FlushPolicy(records=1_000)
            ).run()

    def running(self, task: str) -> dict[str, object] | None:
        """A task instance of `bronze_to_silver` that is at work."""
        return next(iter(self.airflow.instances("bronze_to_silver", task_id=task, state="running")), None)

    @contextmanager
    def load_held(self) -> Iterator[dict[str, object]]:
        """New records, and the load of them: at work, and kept from its end, for the warehouse is held by somebody else."""
        until(lambda: self.airflow.quiet("bronze_to_silver"), "the last run is over")
        before = {run["dag_run_id"] for run in self.airflow.runs("bronze_to_silver")}
        self.stream()
        self.airflow.ring("headrace_lake_grew")

        def found_work() -> bool:
            found = self.airflow.instances("bronze_to_silver", task_id="find_work", state="success")
            return bool({each["dag_run_id"] for each in found} - before)

        until(found_work, "work is found", every_s=0.05)
        holder = until(self._hold, "the file is held", 10, every_s=0.02)
        try:
            yield until(lambda: self.running("load"), "a load is at work")
        finally:
            holder.close()

    def _hold(self) -> duckdb.DuckDBPyConnection | None:
        try:
            return duckdb.connect(str(self.silver))
        except duckdb.IOException:
            return None

    def tries(self, load: dict[str, object]) -> int:
        """How many attempts a load had."""
        found = len(self.airflow.tries(load))
        say(load["dag_run_id"], "had", found, "attempts at load")
        return found

    def settled(self) -> None:
        """Wait until nothing runs any more."""
        until(lambda: self.airflow.quiet("bronze_to_silver", "bars"), "all runs are over")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with ExitStack() as stack:
        kafka = stack.enter_context(Kafka(folder=folder / "kafka"))
        minio = stack.enter_context(Minio(folder=folder / "minio"))
        topics = Topics(bootstrap=kafka.bootstrap)
        topics.make("trades", 2)
        topics.make("bars", 1)
        endpoint = minio.endpoint
        bucket = endpoint.bucket()
        connections: dict[str, dict[str, object]] = {
            "lake": {
                "login": endpoint.access_key,
                "password": endpoint.secret_key,
                "extra": {"uri": f"s3://{bucket}/lake?endpoint_url={endpoint.url}&region=us-east-1"},
            },
            "source": {"extra": {"uri": f"kafka://{kafka.bootstrap}/{{stream}}?group=audit"}},
            "silver": {"extra": {"uri": f"duckdb://{folder}/silver.duckdb", "note": {"password": SECRET}}},
            "reports": {"extra": {"uri": f"file://{folder}/reports"}},
            "bars": {"extra": {"uri": f"file://{folder}/files"}},
        }
        environment = {
            f"AIRFLOW_CONN_HEADRACE_{name.upper()}": json.dumps({"conn_type": "generic", **of})
            for name, of in connections.items()
        }
        airflow = stack.enter_context(Airflow(home=folder / "airflow", dags=DAGS, environment=environment))
        made = World(folder=folder, kafka=kafka, lake=bucket, airflow=airflow, connections=connections)
        made.stream()
        for dag in ("bars", "bronze_to_silver"):
            airflow.unpause(dag)  # the clock starts the first run at once
        made.settled()
        yield made
        airflow.stop()
        assert not airflow.alive()


def test_task_killed(world: World):
    """A task that is killed is run again, and loads."""
    with world.load_held() as load:
        os.kill(load["pid"], signal.SIGKILL)
        until(
            lambda: world.tries(load) > 1 or world.airflow.instances("bronze_to_silver", state="up_for_retry"),
            "retried",
        )
    world.settled()
    assert world.tries(load) > 1


def test_scheduler_killed(world: World):
    """A scheduler that comes back after half a minute starts a second attempt beside the first one: no row is doubled."""
    with world.load_held() as load:
        os.kill(world.airflow.scheduler(), signal.SIGKILL)
        time.sleep(35)  # so long that the new one believes that the task was lost
        world.airflow.start("scheduler")

        def both() -> bool:
            other = world.running("load")
            return bool(
                other and other["pid"] not in {None, load["pid"]} and alive(other["pid"]) and alive(load["pid"])
            )

        until(both, "a second attempt is at work beside the first")
    world.settled()
    assert world.tries(load) > 1


def test_all_killed(world: World):
    """All processes are killed at once; those that are started then go on where the ledger is."""
    with world.load_held() as load:
        world.airflow.kill_all()
        until(lambda: not world.airflow.alive(), "nothing of it is left")
    world.airflow.start()
    world.settled()
    assert world.tries(load) > 1


def test_complete(world: World):
    """At the end each record is there once, every task of every run ended well, and no secret is in what is left."""
    airflow = world.airflow
    until(lambda: airflow.quiet("bronze_to_silver"), "the last run is over")
    while world.sent + 1 < len(CUTS_MS):
        world.stream()
    for _ in range(5):
        airflow.ring("headrace_lake_grew")  # a burst: some of these reach no run, and all is found nevertheless
    until(lambda: rows(world.silver) == FULL, "all is in silver")
    world.settled()
    airflow.unpause("nightly_audit")
    airflow.trigger("nightly_audit", since="", source="headrace_source")
    airflow.unpause("redrive_quarantine")
    airflow.trigger("redrive_quarantine", dry_run=False)
    until(lambda: airflow.quiet(*ALL), "all runs are over")

    for stream in FULL:
        source, silver = f"kafka://{world.kafka.bootstrap}/{stream}?group=audit", world.uri("silver", table=stream)
        contract = Trade if stream == "trades" else None
        found = audit(
            world.uri("lake"), silver, source=source, stream=stream, contract=contract, deep=True, caught_up=True
        )
        assert found.verdict == "complete", found.findings
    states = [each["state"] for dag in ALL for each in airflow.instances(dag)]
    say(len(states), "tasks:", {state: states.count(state) for state in set(states)})
    assert set(states) <= {"success", "skipped"}
    assert {run["state"] for dag in ALL for run in airflow.runs(dag)} == {"success"}
    assert sorted(p.name for p in (world.folder / "files").iterdir()) == ["2013-10-07.parquet"]
    assert {".html", ".json"} == {p.suffix for p in (world.folder / "reports").rglob("*.*")}
    assert told(world) == []

    if shots := os.environ.get("HEADRACE_AIRFLOW_SHOTS"):
        subprocess.run([sys.executable, str(HERE / "shots.py"), airflow.base, airflow.password, shots], check=True)


def say(*words: object) -> None:
    print(*words, flush=True)


def alive(pid: object) -> bool:
    return Path(f"/proc/{pid}").exists()


def rows(silver: Path) -> dict[str, int]:
    try:
        connection = duckdb.connect(str(silver), read_only=True)
    except duckdb.IOException:  # a load has it
        return {}
    with connection:
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in FULL}


def told(world: World) -> list[str]:
    """Files of Airflow's that hold a secret: its logs, its database, what it printed."""
    secret = re.compile("|".join(map(re.escape, (SECRET, str(world.connections["lake"]["password"])))).encode())
    files = [path for path in (world.folder / "airflow").rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    return [str(path) for path in files if secret.search(path.read_bytes())]

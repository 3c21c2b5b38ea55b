"""
The image of Airflow: the steps of its Dockerfile, nothing left out, and the service of docker-compose.yml in it, without Docker.

It takes minutes, most of them to install Airflow: `nox -s compose -- --airflow`, and no part of CI.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from project import ROOT, Service
from steps import Image
from world import World, open_folder, started, trades, until

from headrace.testing.servers.postgres import Postgres
from headrace.testing.servers.process import free_ports

TRADES = 500
LISTENS = (
    "AIRFLOW__API__PORT",
    "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT",
    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT",
)
"""Ports that are its own in a container, and here are shared with the machine."""
START_S, RUN_S = 600.0, 900.0
patiently = partial(until, every_s=2.0)


@pytest.fixture
def world() -> Iterator[World]:
    with open_folder() as folder:
        image = Image(ROOT, folder / "image")
        with started(folder, image, {}, lambda: image.build("airflow")[0]) as made:
            yield made


@attrs.define
class Asked:
    """Airflow's interface, asked by its administrator."""

    base: str
    token: str = ""

    def ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(self.base + path, method=method, data=body and json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def states(self, dag: str) -> list[str]:
        return [run["state"] for run in self.ask("GET", f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]]


def end_session(leader: int) -> list[str]:
    """End what a process left behind, as a container's end does; return it."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,sid=,args="], check=True, capture_output=True, text=True).stdout
    found = [line.split(maxsplit=2) for line in listed.splitlines()]
    left = {int(pid): args for pid, session, args in found if int(session) == leader}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return list(left.values())


def stream(world: World, *command: str) -> None:
    """Run a command of headrace's, which is in this image as well, to its end."""
    stage = attrs.evolve(world.stage, entrypoint=["headrace"])
    said = {**world.services["bronze"], "command": list(command)}
    code, told = attrs.evolve(world.service("bronze"), stage=stage, said=said).once()
    assert code == 0, told


def test_airflow_loads_what_bronze_stored(world: World):
    """
    Log and lake hold trades. The service becomes healthy, its log has the password, every DAG is imported; by the page's own
    words the DAGs are started, and the runs that follow end in success with all trades in the table and a deep audit of them.
    Told to stop it ends in its grace period, and is healthy no longer. No secret stands in what it wrote.
    """
    source = Path(world.image.inside("/srv/headrace/coinbase.trades.jsonl"))
    source.write_text("".join(json.dumps(trade) + "\n" for trade in trades(range(1, TRADES + 1))))
    stream(world, "stream", f"jsonl://{source}?key=product_id", "kafka://kafka:19092/coinbase.trades", "--until-end")
    stream(world, *world.services["bronze"]["command"], "--until-end")

    ports = free_ports(len(LISTENS))
    plain = world.service("airflow")
    password = world.services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    postgres = Postgres(folder=world.image.folder / "postgres", password=password)
    environment = plain.said["environment"] | {name: str(port) for name, port in zip(LISTENS, ports, strict=True)}
    # the image knows its user's name, and this machine does not: without one Airflow does not run
    environment["LOGNAME"] = re.findall(r"(?m)^(\w+):x:10001:", (world.image.root / "etc/passwd").read_text())[0]
    airflow = attrs.evolve(
        plain,
        said={**plain.said, "command": plain.stage.command, "environment": environment},
        places={**plain.places, "8080": str(ports[0]), "postgres:5432": f"127.0.0.1:{postgres.port}"},
    )
    with postgres, airflow:
        leader = airflow.start().process.pid
        try:
            patiently(lambda: alive(airflow) and airflow.healthy(), "Airflow is healthy", START_S)
            (word,) = passwords(airflow)
            asked = Asked(f"http://127.0.0.1:{ports[0]}")
            admin = {"username": "admin", "password": word}
            asked.token = asked.ask("POST", "/auth/token", admin)["access_token"]
            patiently(lambda: asked.ask("GET", "/api/v2/dags")["total_entries"] == 4, "all DAGs are known", START_S)
            assert 0 == asked.ask("GET", "/api/v2/importErrors")["total_entries"]
            airflow.told(timeout_s=START_S)
            asked.ask("POST", "/api/v2/dags/bronze_to_silver/dagRuns", {"logical_date": None})
            patiently(lambda: "success" in asked.states("bronze_to_silver"), "bronze_to_silver is done", RUN_S)
            asked.ask("POST", "/api/v2/dags/nightly_audit/dagRuns", {"logical_date": None})
            patiently(lambda: "success" in asked.states("nightly_audit"), "nightly_audit is done", RUN_S)
            assert not {"failed"} & {*asked.states("bronze_to_silver"), *asked.states("nightly_audit")}
            assert airflow.stop() == 0
        finally:
            left = end_session(leader)
    assert not left
    assert not airflow.healthy()
    assert 2 * TRADES == world.rows()
    written = [path for path in airflow.image.root.glob("opt/airflow/logs/**/*") if path.is_file()]
    secrets = [world.minio.secret_key, password, environment["AIRFLOW__API_AUTH__JWT_SECRET"]]
    assert written
    assert not [path.name for path in [*written, airflow.log] if any(s in path.read_text() for s in secrets)]


def alive(airflow: Service) -> bool:
    assert airflow.running, f"it ended with {airflow.process.returncode}"
    return True


def passwords(airflow: Service) -> list[str]:
    """What `docker compose logs airflow | grep Password` shows."""
    return re.findall(r"Password for user 'admin': (\w+)", airflow.log.read_text(encoding="utf-8"))

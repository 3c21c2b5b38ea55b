"""A whole Airflow: its processes, started in a session of their own, asked over REST, killed one by one or all at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import attrs

from headrace.testing.servers.process import free_ports

BIN = Path(sys.executable).parent
DAGS = Path(__file__).parents[2] / "examples" / "dags"
SECRET = "xK7-never-to-be-seen"  # stands in a connection, and in no file that is left


def until(condition: Callable[[], Any], what: str, timeout_s: float = 300.0, every_s: float = 0.5) -> Any:
    """Wait for a condition, with a bound, and return what it returned. An Airflow that does not answer now is asked again."""
    deadline, found = time.monotonic() + timeout_s, None
    while not found:
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s still not: {what}"
        try:
            found = condition()
        except (TimeoutError, ConnectionError):
            continue
        if not found:
            time.sleep(every_s)
    return found


def processes(session: int) -> dict[int, str]:
    """The living processes of a session, with their command lines."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,sid=,stat=,args="], check=True, capture_output=True, text=True
    ).stdout
    found = [line.split(maxsplit=3) for line in listed.splitlines()]
    return {int(pid): args for pid, sid, stat, args in found if int(sid) == session and not stat.startswith("Z")}


@attrs.define(kw_only=True, eq=False)
class Airflow:
    """
    `airflow standalone`, with a home that outlives its processes.

    Attributes:
        database: Where it keeps its state. Not SQLite: while a backfill begins there nobody else is served, and requests fail.
    """

    home: Path
    dags: Path
    environment: Mapping[str, str] = attrs.field(repr=False)
    database: str = attrs.field(repr=False)
    _ports: list[int] = attrs.field(factory=lambda: free_ports(3), init=False)
    _sessions: list[int] = attrs.field(factory=list, init=False)
    _token: str = attrs.field(default="", init=False, repr=False)
    base: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.base = f"http://127.0.0.1:{self._ports[0]}"
        self.home.mkdir(parents=True, exist_ok=True)

    def settings(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        api, worker, trigger = map(str, self._ports)
        return {
            **kept,
            "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": api,
            "AIRFLOW__API__BASE_URL": self.base,  # without it every task asks port 8080, and fails
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "for-the-tests-alone-" * 4,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": worker,
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": trigger,
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",  # by default five minutes until a lost task is seen
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",  # and five until one that stands still is
            **self.environment,
        }

    def start(self, *command: str) -> int:
        """Start `airflow standalone`, or another command of Airflow's; return its session."""
        with (self.home / "standalone.log").open("ab") as log:
            started = subprocess.Popen(
                [str(BIN / "airflow"), *(command or ("standalone",))],
                env=self.settings(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.append(started.pid)
        if not command:
            until(self._healthy, "Airflow is up", 600)
            self._token = self.login()
        return started.pid

    def scheduler(self) -> int:
        """The scheduler's own process."""
        return self.part("scheduler")

    def part(self, name: str) -> int:
        """The process of a part: scheduler, triggerer, dag-processor, api_server."""
        found = {pid: args for session in self._sessions for pid, args in processes(session).items()}
        return min(pid for pid, args in found.items() if f"airflow {name}" in args)

    def kill_all(self) -> None:
        """End every process at once, as a machine does that loses its power."""
        for session in self._sessions:
            for pid in processes(session):
                _signal(pid, signal.SIGKILL)

    def stop(self) -> list[str]:
        """End all; return what had to be killed."""
        for session in self._sessions:
            for pid in processes(session):
                _signal(pid, signal.SIGTERM)  # to each: the parent alone would leave its children
        deadline = time.monotonic() + 30
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.kill_all()
        until(lambda: not self.alive(), "every process is gone", 10)
        return left

    def alive(self) -> list[str]:
        return [args for session in self._sessions for args in processes(session).values()]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- asking -------------------------------------------------------------------------------------------

    @property
    def password(self) -> str:
        return json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())["admin"]

    def login(self) -> str:
        return self.ask("POST", "/auth/token", {"username": "admin", "password": self.password})["access_token"]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(self.base + path, method=method, data=body and json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)

    def _healthy(self) -> bool:
        try:
            found = self.ask("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(found[name]["status"] == "healthy" for name in ("scheduler", "dag_processor"))

    def unpause(self, dag: str) -> None:
        def done() -> bool:
            try:
                return not self.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})["is_paused"]
            except urllib.error.HTTPError:  # its file was not parsed yet
                return False

        until(done, f"{dag} is known")

    def pause(self, dag: str) -> None:
        assert self.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": True})["is_paused"]

    def clear(self, dag: str, run: str, **which: object) -> None:
        """Have tasks of a run run again; all of them, where none is named."""
        of = {"dry_run": False, "dag_run_id": run, "only_failed": False, "reset_dag_runs": True, **which}
        self.ask("POST", f"/api/v2/dags/{dag}/clearTaskInstances", of)

    def backfill(self, dag: str, begin: str, end: str) -> None:
        """Have a DAG run for the days between, both too, two at a time."""
        days = {"from_date": f"{begin}T00:00:00Z", "to_date": f"{end}T23:59:59Z"}
        self.ask("POST", "/api/v2/backfills", {"dag_id": dag, **days, "max_active_runs": 2})

    def trigger(self, dag: str, **conf: object) -> str:
        return self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]

    def ring(self, asset: str) -> None:
        """Make an event of an asset, as whoever writes the lake would."""
        known = self.ask("GET", f"/api/v2/assets?name_pattern={asset}")["assets"]
        self.ask("POST", "/api/v2/assets/events", {"asset_id": known[0]["id"]})

    def runs(self, dag: str) -> list[dict[str, Any]]:
        return self.ask("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100")["dag_runs"]

    def instances(self, dag: str, run: str = "~", **of: object) -> list[dict[str, Any]]:
        found = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{quote(run)}/taskInstances?limit=1000")["task_instances"]
        return [each for each in found if all(each[name] == value for name, value in of.items())]

    def returned(self, instance: Mapping[str, Any], task: str) -> Any:
        """What a task of the same run returned."""
        run = quote(instance["dag_run_id"])
        where = f"/api/v2/dags/{instance['dag_id']}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        found = self.ask("GET", where)["value"]
        return json.loads(found) if isinstance(found, str) else found

    def tries(self, instance: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every attempt of a task instance, also those that were lost."""
        where = f"/api/v2/dags/{instance['dag_id']}/dagRuns/{quote(instance['dag_run_id'])}/taskInstances/{instance['task_id']}"
        index = f"/{instance['map_index']}" if instance["map_index"] >= 0 else ""
        return self.ask("GET", f"{where}{index}/tries")["task_instances"]

    def quiet(self, *dags: str) -> bool:
        """Whether no run of these is under way, and each had one."""
        found = {dag: [run["state"] for run in self.runs(dag)] for dag in dags}
        return all(states and not {"queued", "running"} & set(states) for states in found.values())


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return

"""
The Dockerfile and the services of docker-compose.yml, run without Docker: the same steps in a clean folder, the same commands.

What a container would add is not here: the base image, a network of its own, a root that nobody can write to (the user that runs
here has no right to write there, which is as good), limits of memory.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
from project import ROOT, Service, composed
from steps import Image, Stage

from headrace.testing.servers.cache import program
from headrace.testing.servers.exchange import CoinbaseExchange, coinbase_match
from headrace.testing.servers.kafka import Kafka, jars
from headrace.testing.servers.minio import Minio

TRADES = 1_000
PRODUCTS = ("BTC-USD", "ETH-USD")
SESSION_MS = "5000"
"""How long Kafka waits for a process that was killed: nine times as long by default, and this waits with it."""
MEGABYTES = 300
"""What the image may have besides its base; docs/pages/deploy.md has what it is."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """Wait for a condition, with a bound; return what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s still not: {what}"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user can get to."""
    made = Path(tempfile.mkdtemp(prefix="headrace-image-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    return Image(ROOT, folder / "image", {"REVISION": "0123abc"}, rehearsed={"airflow-installed"})


@pytest.fixture(scope="module")
def building(image: Image) -> Iterator[Future[list[Stage]]]:
    """Airflow's image and headrace's, made while servers start."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(image.build, "airflow", "headrace")


@pytest.fixture(scope="module")
def stage(building: Future[list[Stage]]) -> Stage:
    return building.result()[1]


@attrs.define
class World:
    """Servers of this machine, and the services on them."""

    kafka: Kafka
    minio: Minio
    exchange: CoinbaseExchange
    services: dict[str, Any]
    image: Image
    stage: Stage

    def service(self, name: str) -> Service:
        places = {"kafka:19092": self.kafka.bootstrap, "minio:9000": f"127.0.0.1:{self.minio.port}"}
        return Service(name, self.services[name], self.image, self.stage, places)

    def make_topics(self) -> None:
        """By the command of the service `topics`, with Kafka's own tool from its jars."""
        tool = self.image.folder / "bin/kafka-topics.sh"
        tool.write_text(
            f"#!/bin/sh\nexec {program('java', 'Kafka runs on it')} -XX:TieredStopAtLevel=1"
            f' -cp "{jars()}/libs/*" org.apache.kafka.tools.TopicCommand "$@"\n'
        )
        tool.chmod(0o755)
        said = self.services["topics"]
        script = (
            said["command"][0].replace("/opt/kafka/bin", str(tool.parent)).replace("kafka:19092", self.kafka.bootstrap)
        )
        environment = {**said["environment"], "PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            [*said["entrypoint"], script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def make_bucket(self) -> None:
        self.minio.endpoint.client().create_bucket(Bucket=self.services["bucket"]["environment"]["BUCKET"])

    def rows(self) -> int:
        """Count the table by the image's own DuckDB; 0 while it is not there, or is being written."""
        program = (
            "import duckdb, sys\n"
            "try:\n"
            "    connection = duckdb.connect(sys.argv[1], read_only=True)\n"
            "    print(connection.sql('SELECT count(*) FROM \"coinbase.trades\"').fetchall()[0][0])\n"
            "except duckdb.Error:\n"
            "    print(0)\n"
        )
        python, file = self.image.inside("/opt/headrace/bin/python"), self.image.inside("/srv/headrace/silver.duckdb")
        done = subprocess.run([python, "-I", "-c", program, file], capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr)  # whoever waits asks again, and this is shown when it was in vain
            return 0
        return int(done.stdout)

    def publish(self, numbers: range) -> None:
        self.exchange.publish(*(coinbase_match(n, product) for n in numbers for product in PRODUCTS))

    def segments(self) -> int:
        return sum("/partition=" in key for key in self.minio.endpoint.objects("lake", "coinbase.trades/"))


@pytest.fixture(scope="module")
def world(folder: Path, image: Image, building: Future[list[Stage]]) -> Iterator[World]:
    with ExitStack() as stack:
        exchange = stack.enter_context(CoinbaseExchange())
        settings = {"FEED": f"coinbase://BTC-USD,ETH-USD?address={exchange.address}&heartbeat_s=900", "FLUSH_AGE": "1h"}
        services = composed(folder / "project", settings)
        access = services["minio"]["environment"]
        minio = Minio(
            folder=folder / "minio", access_key=access["MINIO_ROOT_USER"], secret_key=access["MINIO_ROOT_PASSWORD"]
        )
        stack.enter_context(minio)
        sessions = {f"group.consumer.{least}session.timeout.ms": SESSION_MS for least in ("", "min.")}
        kafka = stack.enter_context(Kafka(folder=folder / "kafka", settings=sessions))
        made = World(kafka, minio, exchange, services, image, building.result()[1])
        made.make_bucket()
        made.make_topics()
        yield made


def tree(root: Path) -> set[tuple[str, int]]:
    """All files of the image but those of its one volume, with their times."""
    return {
        (str(path), path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_relative_to(root / "srv") and not path.is_dir()
    }


def test_the_pipeline_runs_and_stops_well(world: World):
    """
    Feed, bronze and silver are started at once, and are ready. Bronze holds a thousand trades, of which the lake has none; told
    to stop, it puts all into the lake in its grace period, and they come into the table. Killed instead, it puts nothing there:
    that is what the signal is good for. Started again it brings what was lost with it. The audit finds log, lake and table
    complete while the table is loaded, all end well, and nothing but the volume was written to.
    """
    before = tree(world.image.root)
    feed, bronze, silver, audit = map(world.service, ("feed", "bronze", "silver", "audit"))

    def held(records: int, behind: float) -> float:
        """Wait until the feed has published so many trades and bronze has read all that is not in the lake; return how many."""

        def read() -> bool:
            published = feed.metric("headrace_records_stored_total")
            trades = feed.metric("headrace_records_stored_total", stream="coinbase.trades")
            return trades == records and bronze.metric("headrace_records_read_total") == published - behind > 0

        until(read, "bronze holds all that was published")
        return feed.metric("headrace_records_stored_total")

    with feed, bronze, silver, audit:
        for each in (feed, bronze, silver):
            each.start()
        world.exchange.wait_for_clients()
        until(world.exchange.subscribed, "the feed is followed")
        world.publish(range(1, TRADES // 2 + 1))
        published = held(TRADES, behind=0)
        assert feed.healthy()
        assert bronze.healthy()
        assert world.segments() == 0
        assert bronze.stop() == 0
        assert not bronze.healthy()
        assert world.segments() > 0
        until(lambda: silver.metric("headrace_load_rows_total") == TRADES, "the trades are in the table")
        until(lambda: world.rows() == TRADES, "the table is to be read")
        assert silver.healthy()

        bronze.start()
        world.publish(range(TRADES // 2 + 1, TRADES + 1))
        held(2 * TRADES, behind=published)
        shown, ready = bronze.told()
        assert shown.splitlines()[1].startswith("coinbase.trades\t"), shown
        assert ready.strip() == "ok"
        there = world.segments()
        bronze.kill()
        assert world.segments() == there
        bronze.start()
        held(2 * TRADES, behind=published)
        assert [0, 0] == [each.stop() for each in (feed, bronze)]
        until(lambda: silver.metric("headrace_load_rows_total") == 2 * TRADES, "the others are in the table, too")
        code, told = audit.once()
        assert code == 0, told
        assert silver.stop() == 0
        assert world.rows() == 2 * TRADES
        (table,) = silver.told()
        assert re.findall(r"-USD\s*│\s*(\d+)", table) == [str(TRADES)] * 2, table
    assert before == tree(world.image.root)
    secret = world.minio.secret_key
    assert not [log.name for log in world.image.folder.glob("*.log") if secret in log.read_text()]


def test_the_image_has_what_was_asked_for(image: Image, stage: Stage):
    """
    A user with a number, a signal, labels; besides the base one environment, ready to run, and three empty folders that are the
    user's: nothing of the builder, no installer, no compiler, no cache.
    """
    assert ("10001:10001", "SIGTERM", ["headrace"]) == (stage.user, stage.stop_signal, stage.entrypoint)
    assert "0123abc" == stage.labels["org.opencontainers.image.revision"]
    assert {"etc/passwd", "etc/group"} == files_beside_the_environment(image.root)
    assert not (image.root / "build").exists()
    programs = {path.name for path in (image.root / "opt/headrace/bin").iterdir()}
    assert "headrace" in programs
    assert not {name for name in programs if re.match(r"pip|uv|hatch|cc$|gcc|g\+\+|cargo|rustc|make$", name)}
    modules = image.root.glob("opt/headrace/lib/python*/site-packages/headrace/*.py")
    uncompiled = [path.name for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))]
    assert not uncompiled, "nobody may write there later"
    size = sum(path.lstat().st_size for path in (image.root / "opt/headrace").rglob("*")) / 1e6
    print(f"{size:.0f} MB besides the base")
    assert size < MEGABYTES


def files_beside_the_environment(root: Path) -> set[str]:
    """The others, from the root; but for those that the services of the pipeline left in their volume."""
    apart = [root / "opt/headrace", root / "srv/headrace"]
    found = (path for path in root.rglob("*") if not any(path.is_relative_to(folder) for folder in apart))
    return {str(path.relative_to(root)) for path in found if not path.is_dir()}


def test_the_image_of_airflow_would_be_its_lock(image: Image, building: Future[list[Stage]]):
    """
    Every package that its lock names is there for this Python as a wheel, and fits: with headrace it is all that would be
    installed. The DAGs are in the folder that it is told of, and it runs as the same user.
    """
    airflow, headrace = building.result()
    assert ("10001:10001", ["airflow"], ["standalone"]) == (airflow.user, airflow.entrypoint, airflow.command)
    told = image.stages["airflow-installed"].told
    would = dict(re.findall(r"(?m)^ \+ ([\w.-]+)==(\S+)", told))
    lock = (ROOT / "tests/airflow/lock").read_text(encoding="utf-8")
    named = dict(re.findall(r"(?m)^([\w.-]+)==([^ ;\n]+)", lock))
    always = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", lock))
    assert f"/headrace-{headrace.labels['org.opencontainers.image.version']}-py3-none-any.whl" in told
    assert always.items() <= would.items() <= named.items()
    dags = airflow.root / airflow.environment["AIRFLOW__CORE__DAGS_FOLDER"].lstrip("/")
    assert {path.name for path in (ROOT / "examples/dags").glob("*.py")} == {path.name for path in dags.iterdir()}
    assert {"etc/passwd", "etc/group"} == {
        name for name in files_beside_the_environment(airflow.root) if not name.startswith("opt/dags/")
    }


def test_compose_reads_the_file(tmp_path: Path):
    """As `docker compose config` does: with .env, every profile, references checked; without a secret it says which."""
    services = composed(tmp_path / "with", {})
    assert {"feed", "bronze", "silver", "audit", "airflow"} < set(services)
    extra = json.loads(services["airflow"]["environment"]["AIRFLOW_CONN_HEADRACE_LAKE"])["extra"]
    assert extra["uri"] == services["bronze"]["command"][2]
    with pytest.raises(AssertionError, match=r"AIRFLOW_SECRET is missing a value: put it into \.env"):
        composed(tmp_path / "without", {"AIRFLOW_SECRET": ""})

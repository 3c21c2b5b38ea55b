"""
The Dockerfile and the services of docker-compose.yml, run without Docker: the same steps in a clean folder, the same commands.

What a container would add is not here: the base image, a network of its own, a root that nobody can write to (the user that runs
here has no right to write there, which is as good), limits of memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
from project import ROOT, Service, composed
from steps import Image, Stage

from headrace.testing.servers.exchange import CoinbaseExchange, coinbase_match
from headrace.testing.servers.kafka import Kafka, jars
from headrace.testing.servers.minio import Minio

TRADES = 1_000
PRODUCTS = ("BTC-USD", "ETH-USD")


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
    return Image(ROOT, folder / "image", {"REVISION": "0123abc"})


@pytest.fixture(scope="module")
def stage(image: Image) -> Stage:
    return image.build("headrace")


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
            f'#!/bin/sh\nexec java -XX:TieredStopAtLevel=1 -cp "{jars()}/libs/*" org.apache.kafka.tools.TopicCommand "$@"\n'
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
def world(folder: Path, image: Image, stage: Stage) -> Iterator[World]:
    with ExitStack() as stack:
        exchange = stack.enter_context(CoinbaseExchange())
        settings = {"FEED": f"coinbase://BTC-USD,ETH-USD?address={exchange.address}&heartbeat_s=120", "FLUSH_AGE": "1h"}
        services = composed(folder / "project", settings)
        access = services["minio"]["environment"]
        minio = Minio(
            folder=folder / "minio", access_key=access["MINIO_ROOT_USER"], secret_key=access["MINIO_ROOT_PASSWORD"]
        )
        stack.enter_context(minio)
        kafka = stack.enter_context(Kafka(folder=folder / "kafka"))
        made = World(kafka, minio, exchange, services, image, stage)
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
    that is what the signal is good for. Started again it brings what was lost with it. All end well, the audit finds log, lake
    and table complete, and nothing but the volume was written to.
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
        until(lambda: world.rows() == TRADES, "the trades are in the table")
        assert silver.healthy()

        bronze.start()
        world.publish(range(TRADES // 2 + 1, TRADES + 1))
        held(2 * TRADES, behind=published)
        there = world.segments()
        bronze.kill()
        assert world.segments() == there
        bronze.start()
        held(2 * TRADES, behind=published)
        assert [0, 0] == [each.stop() for each in (feed, bronze)]
        until(lambda: world.rows() == 2 * TRADES, "the others are in the table, too")
        assert silver.stop() == 0

        code, told = audit.once()
        assert code == 0, told
    assert before == tree(world.image.root)
    secret = world.minio.secret_key
    assert not [log.name for log in world.image.folder.glob("*.log") if secret in log.read_text()]


def test_the_image_has_what_was_asked_for(image: Image, stage: Stage):
    """A user with a number, nothing of the builder, no pip, labels; hatch made the wheel of this checkout."""
    assert "10001:10001" == stage.user
    assert {"headrace"} == set(stage.entrypoint)
    assert "0123abc" == stage.labels["org.opencontainers.image.revision"]
    there = {path.name for path in (image.root / "opt").iterdir()}
    assert {"headrace", "airflow"} == there
    programs = {path.name for path in (image.root / "opt/headrace/bin").iterdir()}
    assert "headrace" in programs
    assert not {name for name in programs if name.startswith(("pip", "uv", "hatch"))}
    assert not list(image.root.rglob(".env*"))


def test_compose_reads_the_file(tmp_path: Path):
    """As `docker compose config` does: with .env, every profile, references checked; without a secret it says which."""
    services = composed(tmp_path / "with", {})
    assert {"feed", "bronze", "silver", "audit", "airflow"} < set(services)
    extra = json.loads(services["airflow"]["environment"]["AIRFLOW_CONN_HEADRACE_LAKE"])["extra"]
    assert extra["uri"] == services["bronze"]["command"][2]
    with pytest.raises(AssertionError, match=r"AIRFLOW_SECRET is missing a value: put it into \.env"):
        composed(tmp_path / "without", {"AIRFLOW_SECRET": ""})

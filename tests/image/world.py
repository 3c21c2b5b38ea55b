"""Servers of this machine under the services of docker-compose.yml, which are processes of an image that is a folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from project import Service, composed
from steps import Image, Stage

from headrace.testing.servers.cache import program
from headrace.testing.servers.exchange import coinbase_match
from headrace.testing.servers.kafka import Kafka, jars
from headrace.testing.servers.minio import Minio

PRODUCTS = ("BTC-USD", "ETH-USD")
SESSION_MS = "5000"
"""How long Kafka waits for a process that was killed: nine times as long by default, and a test waits with it."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """Wait for a condition, with a bound; return what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s still not: {what}"
        time.sleep(every_s)
    return found


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can get to."""
    made = Path(tempfile.mkdtemp(prefix="headrace-image-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@attrs.define
class World:
    """Servers of this machine, and the services on them."""

    kafka: Kafka
    minio: Minio
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

    def segments(self) -> int:
        return sum("/partition=" in key for key in self.minio.endpoint.objects("lake", "coinbase.trades/"))


@contextmanager
def started(folder: Path, image: Image, settings: Mapping[str, str], built: Callable[[], Stage]) -> Iterator[World]:
    """The servers, with topics and bucket; *built* is asked for the image when they are up."""
    services = composed(folder / "project", settings)
    access = services["minio"]["environment"]
    keys = {"access_key": access["MINIO_ROOT_USER"], "secret_key": access["MINIO_ROOT_PASSWORD"]}
    sessions = {f"group.consumer.{least}session.timeout.ms": SESSION_MS for least in ("", "min.")}
    with Minio(folder=folder / "minio", **keys) as minio, Kafka(folder=folder / "kafka", settings=sessions) as kafka:
        made = World(kafka, minio, services, image, built())
        made.make_bucket()
        made.make_topics()
        yield made


def trades(numbers: range) -> list[dict[str, Any]]:
    """As many of each product."""
    return [coinbase_match(number, product) for number in numbers for product in PRODUCTS]

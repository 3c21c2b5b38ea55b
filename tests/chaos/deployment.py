"""The servers of a run: three brokers and the lakes, each behind a proxy that can spoil its connections."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.records import Record
from headrace.testing.servers.kafka import Kafka, jars
from headrace.testing.servers.process import Server, free_port
from headrace.testing.servers.toxiproxy import Proxy, Toxiproxy

HERE = Path(__file__).parent
DISK_MB = 512
SESSION_TIMEOUT_S = 6.0
"""How soon the group believes that a member is gone: the shortest that Kafka's own defaults allow."""


def wait(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(KafkaException):
            if condition():
                return
        time.sleep(0.1)
    raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")


@attrs.define(kw_only=True)
class Brokers:
    """Three brokers, which talk to each other directly and to headrace through proxies."""

    cluster: Kafka
    proxies: list[Proxy]
    admin: AdminClient

    @classmethod
    def make(cls, folder: Path, toxiproxy: Toxiproxy) -> Brokers:
        settings = {
            "min.insync.replicas": "2",
            "group.consumer.session.timeout.ms": str(int(SESSION_TIMEOUT_S * 1000)),
            "group.consumer.min.session.timeout.ms": str(int(SESSION_TIMEOUT_S * 1000)),
            "group.consumer.heartbeat.interval.ms": "1000",
            "group.consumer.min.heartbeat.interval.ms": "1000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        }
        cluster = Kafka(folder=folder, count=3, settings=settings)
        proxies = []
        for broker in cluster.brokers:
            port = free_port()
            proxy = toxiproxy.proxy(f"broker-{broker.number}", port)
            proxies.append(proxy)
            broker.start_timeout_s = 300.0
            direct, controller = (
                f"PLAINTEXT://127.0.0.1:{broker.port}",
                f"CONTROLLER://127.0.0.1:{broker.controller_port}",
            )
            broker.settings = {
                **settings,
                "listeners": f"{direct},{controller},PROXIED://127.0.0.1:{port}",
                "advertised.listeners": f"{direct},PROXIED://127.0.0.1:{proxy.port}",
                "inter.broker.listener.name": "PLAINTEXT",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
            }
        cluster.start()
        return cls(
            cluster=cluster,
            proxies=proxies,
            admin=AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0}),
        )

    @property
    def direct(self) -> str:
        return self.cluster.bootstrap

    @property
    def proxied(self) -> str:
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def make_topic(self, name: str, partitions: int) -> None:
        def made() -> bool:
            if name not in self.admin.list_topics(timeout=10).topics:
                self.admin.create_topics([NewTopic(name, partitions, 3)])[name].result(20)
            return -1 not in self.leaders(name).values() and len(self.leaders(name)) == partitions

        wait(made, 60, f"topic {name}")

    def leaders(self, topic: str) -> dict[int, int]:
        found = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        return {number: about.leader for number, about in found.items()}

    def in_sync(self, topic: str) -> bool:
        """Whether every replica of every partition has caught up."""
        found = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        return bool(found) and all(len(about.isrs) == 3 for about in found.values())

    def stable(self, topic: str) -> bool:
        """Whether no transaction is open: a reader of committed records sees all there is."""
        from confluent_kafka import IsolationLevel  # noqa: PLC0415
        from confluent_kafka.admin._listoffsets import OffsetSpec  # noqa: PLC0415

        places = {TopicPartition(topic, number): OffsetSpec.latest() for number in self.leaders(topic)}
        ends = []
        for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            asked = self.admin.list_offsets(places, isolation_level=level, request_timeout=10)
            ends.append({tp.partition: answer.result(15).offset for tp, answer in asked.items()})
        return ends[0] == ends[1]

    def dump(self, topic: str) -> dict[tuple[int, int], Record]:
        """Read the topic by Kafka's own client."""
        command = ["java", "-Xmx512m", "-cp", f"{jars()}/libs/*", str(HERE / "Dump.java"), self.direct, topic]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        *lines, last = done.stdout.splitlines()
        assert last == "end", done.stderr
        return dict(map(_record, lines))

    def close(self) -> None:
        self.cluster.stop()


def _record(line: str) -> tuple[tuple[int, int], Record]:
    partition, offset, timestamp, key, value, *headers = line.split("\t")
    pairs = tuple(
        ((_bytes(name) or b"").decode(), _bytes(content))
        for name, content in zip(headers[::2], headers[1::2], strict=True)
    )
    record = Record(int(offset), int(timestamp), _bytes(key), _bytes(value), pairs, "create")
    return (int(partition), int(offset)), record


def _bytes(text: str) -> bytes | None:
    return None if text == "-" else base64.b64decode(text, validate=True)


@attrs.define(kw_only=True)
class Lake:
    """
    Where bronze goes in a round.

    Attributes:
        kind: "disk", "minio" or "versity".

        uri: As headrace is given it.

        glob: What a reader lists, without its extension.

        environment: What headrace needs besides.

        disk: The small file system under it.

        server: What serves it; None for a disk.

        proxy: What headrace talks through.

        direct_endpoint: Where the reader asks, past the proxy; None for a disk.

        objects: Reads all objects of a topic, around headrace.
    """

    kind: str
    uri: str
    glob: str
    disk: Disk
    environment: dict[str, str] = attrs.field(factory=dict)
    server: Server | None = None
    proxy: Proxy | None = None
    direct_endpoint: str | None = None
    objects: Callable[[str], Mapping[str, bytes]]


@attrs.define(kw_only=True)
class Disk:
    """A file system that is small enough to be filled, where one can be mounted."""

    folder: Path
    mounted: bool = False
    was_mounted: bool = False

    @classmethod
    def make(cls, folder: Path) -> Disk:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "headrace-chaos", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if sys.platform == "linux" else None
        mounted = done is not None and done.returncode == 0
        return cls(folder=folder, mounted=mounted, was_mounted=mounted)

    @classmethod
    def possible(cls) -> bool:
        """Whether this process may mount one."""
        with tempfile.TemporaryDirectory() as folder:
            disk = cls.make(Path(folder) / "disk")
            disk.close()
            return disk.was_mounted

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Nothing more fits."""
        filler = self.folder / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * (1 << 16))
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(b"\0" * 512)
            yield
        finally:
            filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
            self.mounted = False


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}

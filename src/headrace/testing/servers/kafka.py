"""Apache Kafka without a container: its jars from a Maven repository, KRaft, as many brokers as asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from headrace.testing.servers.cache import ServerMissing, program, provided, run
from headrace.testing.servers.process import Server, ServerFailed, answers, free_port

VERSION = "4.1.0"
_LOG4J = "2.24.3"
_CLUSTER_ID = "aGVhZHJhY2UtLXRlc3RzLQ"  # 16 bytes, as base64 without padding: what its tools take
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headrace</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies>{dependencies}</dependencies></project>
"""
_JARS = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),  # its own readers, as independent oracles
    ("org.apache.logging.log4j", "log4j-slf4j-impl", _LOG4J),  # without a binding the broker is silent
    ("org.apache.logging.log4j", "log4j-core", _LOG4J),
)
_LOGGING = """<Configuration status="error"><Appenders><Console name="out" target="SYSTEM_OUT">
<PatternLayout pattern="%d{HH:mm:ss.SSS} %-5p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""


def jars() -> Path:
    """Return the folder with Kafka's jars, fetched the first time; ServerMissing where Java or Maven is not there."""
    program("java", "Kafka runs on Java 17 or newer")

    def fetch(folder: Path) -> None:
        maven = program("mvn", "Maven fetches Kafka")
        entries = "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
            for group, name, version in _JARS
        )
        (folder / "pom.xml").write_text(_POM.format(dependencies=entries), encoding="utf-8")
        (folder / "log4j2.xml").write_text(_LOGGING, encoding="utf-8")
        run([maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"], cwd=folder)

    return provided(f"kafka-{VERSION}", fetch)


@attrs.define(kw_only=True, eq=False)
class Broker(Server):
    """
    One broker, which is a controller too.

    Attributes:
        number: Its id, from 1.

        port: Where clients reach it, on 127.0.0.1.

        voters: All controllers of the cluster, ``id@host:port``.

        settings: Properties that it is given besides.

        heap: Of the JVM.
    """

    number: int
    port: int
    controller_port: int
    voters: str
    settings: Mapping[str, str] = attrs.field(factory=dict)
    heap: str = "512m"

    def command(self) -> list[str]:
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{k}={v}\n" for k, v in self._properties().items()), encoding="utf-8")
        if not (self.folder / "data").exists():
            self._format(properties)
        return [*self._java(f"-Xmx{self.heap}"), "kafka.Kafka", str(properties)]

    def ready(self) -> bool:
        return answers(self.port)

    def _java(self, *options: str) -> list[str]:
        home = jars()
        logging = f"-Dlog4j2.configurationFile={home}/log4j2.xml"
        return [program("java", "Kafka runs on it"), *options, logging, "-cp", f"{home}/libs/*"]

    def _format(self, properties: Path) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
        try:
            run(command, cwd=self.folder)
        except ServerMissing as exc:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            raise ServerFailed(f"the storage of broker {self.number} cannot be formatted: {exc}") from exc

    def _properties(self) -> dict[str, str]:
        several = min(3, self.voters.count("@"))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": str(several),
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": str(several),
            "transaction.state.log.min.isr": str(max(1, several - 1)),
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            **self.settings,
        }


@attrs.define(kw_only=True, eq=False)
class Kafka:
    """
    A cluster of brokers; use it as a context.

    Attributes:
        folder: Where they keep everything.

        count: How many brokers.

        settings: Properties of each.

        brokers: One after another; each can be stopped, killed, paused and started again.
    """

    folder: Path
    count: int = 1
    settings: Mapping[str, str] = attrs.field(factory=dict)
    brokers: list[Broker] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        ports = [(free_port(), free_port()) for _ in range(self.count)]
        voters = ",".join(f"{n}@127.0.0.1:{port}" for n, (_, port) in enumerate(ports, start=1))
        self.brokers = [
            Broker(
                folder=self.folder / f"broker-{n}",
                number=n,
                port=port,
                controller_port=controller,
                voters=voters,
                settings=self.settings,
            )
            for n, (port, controller) in enumerate(ports, start=1)
        ]

    @property
    def bootstrap(self) -> str:
        """Its addresses, as every client takes them."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers at once: alone none of several would be ready."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only where there are servers

        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(Broker.start, self.brokers))

    def stop(self) -> None:
        """End all."""
        for broker in self.brokers:
            broker.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

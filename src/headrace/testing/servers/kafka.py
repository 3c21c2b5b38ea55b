"""Apache Kafka without a container: its jars from a Maven repository, KRaft, as many brokers as asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from headrace.testing.servers.cache import ServerMissing, program, provided, run, verify_files
from headrace.testing.servers.listeners import PROTOCOLS, ListenerName, Security
from headrace.testing.servers.process import Server, ServerFailed, answers, free_ports

VERSION = "4.1.0"
_LOG4J = "2.24.3"
CLUSTER_ID = "aGVhZHJhY2UtLXRlc3RzLQ"  # 16 bytes, as base64 without padding: what its tools take
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
_CHECKSUMS = Path(__file__).with_name("kafka.sha256")
"""Of these and of all that they need: made by `sha256sum` in the folder, anew with each version."""

_LOGGING = """<Configuration status="error"><Appenders><Console name="out" target="SYSTEM_OUT">
<PatternLayout pattern="%d{HH:mm:ss.SSS} %-5p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""

_QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def jars() -> Path:
    """
    Return the folder with Kafka's jars, fetched the first time.

    Raises:
        ServerMissing: Java or Maven is not there, or could not.
        NotWhatWasPinnedError: A jar is not the one that it was, or another one came.
    """
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
        verify_files(folder / "libs", _CHECKSUMS)

    return provided(f"kafka-{VERSION}", fetch)


@attrs.define(kw_only=True, eq=False)
class Broker(Server):
    """
    One broker, which is a controller too.

    Attributes:
        number: Its id, from 1.

        ports: Where clients reach it, on 127.0.0.1, by listener.

        controller_port: Where the other controllers reach it.

        voters: All controllers of the cluster, ``id@host:port``.

        cluster_id: Of the cluster that it is formatted for.

        security: What clients must prove; None: nothing.

        settings: Properties that it is given besides.

        heap: Of the JVM.

        quick: Compile quickly and not well: half the CPU time of a short life. False for measurements.
    """

    number: int
    ports: Mapping[str, int]
    controller_port: int
    voters: str
    cluster_id: str = CLUSTER_ID
    security: Security | None = None
    settings: Mapping[str, str] = attrs.field(factory=dict)
    heap: str = "512m"
    quick: bool = True

    @property
    def port(self) -> int:
        """Where it is reached without credentials."""
        return self.ports["plain"]

    def command(self) -> list[str]:
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{k}={v}\n" for k, v in self._properties().items()), encoding="utf-8")
        if not (self.folder / "data").exists():
            self._format(properties)
        options = (f"-Xmx{self.heap}", *(_QUICK if self.quick else ()))
        return [*self._java(*options), "kafka.Kafka", str(properties)]

    def ready(self) -> bool:
        return all(answers(port) for port in self.ports.values())

    def _java(self, *options: str) -> list[str]:
        home = jars()
        logging = f"-Dlog4j2.configurationFile={home}/log4j2.xml"
        return [program("java", "Kafka runs on it"), *options, logging, "-cp", f"{home}/libs/*"]

    def _format(self, properties: Path) -> None:
        scram = [] if self.security is None else self.security.scram()
        tool = [*self._java(*_QUICK), "kafka.tools.StorageTool", "format"]
        command = [*tool, "-t", self.cluster_id, "-c", str(properties), *scram]
        try:
            run(command, cwd=self.folder)
        except ServerMissing as exc:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            raise ServerFailed(f"the storage of broker {self.number} cannot be formatted: {exc}") from exc

    def _properties(self) -> dict[str, str]:
        several = min(3, self.voters.count("@"))
        addresses = ",".join(f"{name.upper()}://127.0.0.1:{port}" for name, port in self.ports.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters,
            "listeners": f"{addresses},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": addresses,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:PLAINTEXT", *(f"{name.upper()}:{PROTOCOLS[name]}" for name in self.ports)]
            ),
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": str(several),
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": str(several),
            "transaction.state.log.min.isr": str(max(1, several - 1)),
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            # what a test waits for comes soon: compaction (15 s), a group's new shares (5 s)
            "log.cleaner.backoff.ms": "500",
            "group.consumer.min.heartbeat.interval.ms": "500",
            "group.consumer.heartbeat.interval.ms": "500",
            **({} if self.security is None else self.security.properties(self.number, self.folder)),
            **self.settings,
        }


@attrs.define(kw_only=True, eq=False)
class Kafka:
    """
    A cluster of brokers; use it as a context.

    Attributes:
        folder: Where they keep everything.

        count: How many brokers.

        security: What clients must prove; None: nothing.

        cluster_id: 16 bytes as base64 without padding; every cluster of these tests has the same unless told.

        ports: Of the brokers' open listeners, where they must be known beforehand; free ones otherwise.

        settings: Properties of each.

        quick: As `Broker.quick`.

        brokers: One after another; each can be stopped, killed, paused and started again.
    """

    folder: Path
    count: int = 1
    security: Security | None = None
    cluster_id: str = CLUSTER_ID
    ports: Sequence[int] = ()
    settings: Mapping[str, str] = attrs.field(factory=dict)
    quick: bool = True
    brokers: list[Broker] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        names = ("plain", *(() if self.security is None else self.security.names))
        several = free_ports((len(names) + 1) * self.count)
        controllers = [several.pop() for _ in range(self.count)]
        voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, start=1))
        ports = [{name: several.pop() for name in names} for _ in range(self.count)]
        for named, port in zip(ports, self.ports, strict=False):
            named["plain"] = port
        self.brokers = [
            Broker(
                folder=self.folder / f"broker-{n}",
                number=n,
                ports=named,
                controller_port=controller,
                voters=voters,
                cluster_id=self.cluster_id,
                security=self.security,
                settings=self.settings,
                quick=self.quick,
            )
            for n, (named, controller) in enumerate(zip(ports, controllers, strict=True), start=1)
        ]

    @property
    def bootstrap(self) -> str:
        """Its addresses, as every client takes them."""
        return self.address("plain")

    def address(self, listener: ListenerName) -> str:
        """Return the addresses of a listener."""
        return ",".join(f"127.0.0.1:{broker.ports[listener]}" for broker in self.brokers)

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

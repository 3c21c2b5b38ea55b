"""What runs: a broker, a store and an exchange behind proxies, and headrace's processes, each started again when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.topics import Topics
from headrace.testing.servers.toxiproxy import Proxy, Toxiproxy

HERE = Path(__file__).parent
FEED = "live"
RESTART_S = 0.5
UNAVAILABLE = 3
"""The exit code of a run whose service did not answer for long."""

TOML = """\
name = "{name}"
address = "ws://127.0.0.1:{port}"
symbols = {symbols}
send = ['{{"follow":{{symbols}}}}']
kind = "T"
symbol = "S"
sequence = "n"
subscribed = "subscribed"
control = ["subscribed"]
streams = {{t = "trades"}}
"""


def wait(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.1)


@attrs.define(kw_only=True, eq=False)
class Service:
    """
    A process that is started again when it ends, as a service manager does.

    Attributes:
        name: Of its logs.

        command: After ``python``.

        folder: Of its logs.

        environment: What it needs besides.

        wanted: False: it is let be.

        ended_ns: When it was seen to have ended.

        unexplained: How it ended by itself.

        memory: Seconds since the beginning, and resident MiB then.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = attrs.field(factory=dict)
    wanted: bool = True
    starts: int = 0
    ended_by_us: bool = False
    ended_ns: list[int] = attrs.field(factory=list)
    unexplained: list[str] = attrs.field(factory=list)
    memory: list[tuple[float, float]] = attrs.field(factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        self.ended_by_us = False
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment, "PYTHONPATH": _path()},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.running:
            self.ended_by_us = self.ended_by_us or number in (signal.SIGKILL, signal.SIGTERM)
            os.killpg(self.process.pid, number)

    def tend(self) -> None:
        """Start it again where it has ended."""
        if self.process is None or self.running or not self.wanted:
            return
        self.ended_ns.append(time.time_ns())
        if not self.ended_by_us and self.process.returncode != UNAVAILABLE:
            lines = (self.folder / f"{self.name}.log").read_text(errors="replace").splitlines()[-3:]
            self.unexplained.append(f"{self.name} ended with {self.process.returncode}: {' | '.join(lines)[-1000:]}")
        time.sleep(RESTART_S)
        self.start()

    def weigh(self, since_s: float) -> None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) if self.process else 0
            if pages:
                self.memory.append((time.monotonic() - since_s, pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)))

    def end(self, timeout_s: float = 120.0) -> int | None:
        """Stop it for good by SIGTERM, and return how it ended."""
        self.wanted = False
        if self.process is None:
            return None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.unexplained.append(f"{self.name} did not end within {timeout_s:.0f} s")
            self.signal(signal.SIGKILL)
            return self.process.wait(30)


def _path() -> str:
    return os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])


@attrs.define(kw_only=True, eq=False)
class Market:
    """The exchange's process; orders go to it a line each."""

    process: subprocess.Popen[str]
    port: int
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, rate: int) -> Market:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "exchange.py"), str(folder), str(rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "exchange.log").open("w"),
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        return cls(process=process, port=json.loads(process.stdout.readline())["port"])

    def say(self, order: str) -> dict[str, Any]:
        with self.lock:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
            return dict(json.loads(self.process.stdout.readline()))


@attrs.define(kw_only=True, eq=False)
class Deployment:
    """Everything that a run needs, from the exchange to silver."""

    folder: Path
    market: Market
    feed_proxy: Proxy
    broker: Kafka
    minio: Minio
    store_proxy: Proxy
    lake: str
    services: dict[str, Service]
    secret: dict[str, str]
    streams: tuple[str, ...] = ("trades", "gaps")
    began_s: float = attrs.field(factory=time.monotonic)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, rate: int, symbols: Sequence[str], *, guarded: bool = True) -> Iterator[Deployment]:
        with contextlib.ExitStack() as stack:
            toxiproxy = stack.enter_context(Toxiproxy(folder=folder / "toxiproxy"))
            settings = {"log.segment.bytes": str(256 << 20), "group.consumer.min.session.timeout.ms": "6000"}
            settings |= {"group.consumer.session.timeout.ms": "6000", "group.consumer.heartbeat.interval.ms": "1000"}
            settings |= {"group.consumer.min.heartbeat.interval.ms": "1000"}
            broker = stack.enter_context(Kafka(folder=folder / "kafka", settings=settings))
            broker.brokers[0].start_timeout_s = 120.0
            minio = stack.enter_context(Minio(folder=folder / "minio"))
            bucket = minio.endpoint.bucket()
            store_proxy = toxiproxy.proxy("store", minio.port)
            through = attrs.evolve(minio.endpoint, url=f"http://127.0.0.1:{store_proxy.port}")
            market = Market.open(folder, rate)
            stack.callback(market.process.wait, 30)
            stack.callback(market.process.kill)
            feed_proxy = toxiproxy.proxy("feed", market.port)
            toml = folder / "feed.toml"
            names = json.dumps(list(symbols))
            toml.write_text(TOML.format(name=FEED, port=feed_proxy.port, symbols=names), encoding="utf-8")
            one = cls(
                folder=folder,
                market=market,
                feed_proxy=feed_proxy,
                broker=broker,
                minio=minio,
                store_proxy=store_proxy,
                lake=through.uri(bucket, request_timeout_s="5s", connect_timeout_s="5s"),
                services={},
                secret={"AWS_ACCESS_KEY_ID": minio.access_key, "AWS_SECRET_ACCESS_KEY": minio.secret_key},
            )
            one._define(toml, guarded=guarded)
            stack.callback(one._kill)
            yield one

    def _define(self, toml: Path, *, guarded: bool) -> None:
        self.streams = ("trades", "gaps") if guarded else ("trades",)
        quick = "reconnect_first_s=0.2s&reconnect_most_s=2s&steady_s=1s&ping_every_s=1s&ping_timeout_s=2s"
        sink = f"kafka://{self.broker.bootstrap}/{{stream}}?compression.type=lz4"
        names = [f"{FEED}.{kind}" for kind in ("trades", "gaps", "other")]
        for name in names:  # else bronze ends at once where it is the first to ask for them
            Topics(bootstrap=self.broker.bootstrap).make(name, 4)
        topics = ",".join(names)
        source = f"kafka://{self.broker.bootstrap}/{topics}?group=bronze&start=earliest"
        program = [str(HERE / "producer.py"), *([] if guarded else ["--forget-gaps"])]
        options = ["--log-format", "json", "--retry-for", "3m"]
        feed = ["stream", f"websocket://{toml}?producer=p&{quick}", sink]
        self._add("producer", [*program, *feed, *options], PYTHONMALLOC="malloc")  # as docker-compose.yml has it
        self._add("bronze", ["-m", "headrace", "stream", source, self.lake, "--flush-age", "1s", *options])
        self._add("loader", ["-m", "headrace", "load", *self.loading("trades"), "--follow", "--every", "5s", *options])

    def _add(self, name: str, command: Sequence[str], **environment: str) -> Service:
        given = {**self.secret, **environment}
        service = Service(name=name, command=command, folder=self.folder, environment=given)
        self.services[name] = service
        return service

    def loading(self, kind: str) -> list[str]:
        """The arguments of ``headrace load`` and, but for the contract's name, of ``headrace audit``."""
        contract = {"trades": f"{HERE}/tick.py:Tick", "gaps": "headrace.plugins.market:Gap"}[kind]
        return [
            self.lake,
            f"{self.warehouse(kind)}?table={kind}&memory=2GB",
            "--stream",
            f"{FEED}.{kind}",
            "--contract",
            contract,
        ]

    def warehouse(self, kind: str) -> str:
        """A file for each table: a database has one writer at a time."""
        return f"duckdb://{self.folder}/{kind}.duckdb"

    def second_bronze(self) -> Service:
        """Start another member of the group, which nobody starts again."""
        first = self.services["bronze"]
        other = Service(
            name="bronze-2", command=first.command, folder=self.folder, environment=self.secret, wanted=False
        )
        other.start()
        return other

    def run(self, *command: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a command of headrace to its end."""
        environment = {**os.environ, **self.secret, "PYTHONPATH": _path()}
        return subprocess.run(
            [sys.executable, "-m", "headrace", *command],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )

    def _kill(self) -> None:
        for service in self.services.values():
            service.wanted = False
            service.signal(signal.SIGCONT)
            service.signal(signal.SIGKILL)

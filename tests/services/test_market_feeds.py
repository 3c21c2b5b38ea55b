"""Feeds into a real Kafka, through a proxy that breaks connections, by producers that are killed."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import duckdb
import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.chain import Chain
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market.contracts import Gap
from headrace.plugins.market.json_feed import JsonFeed
from headrace.plugins.market.source import FeedSource
from headrace.plugins.market.venues import CoinbaseTrade
from headrace.registry import Registry
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.exchange import CoinbaseExchange, PlainExchange, coinbase_match
from headrace.testing.servers.toxiproxy import Toxiproxy

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services


def came_true(condition: Callable[[], object], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    assert came_true(condition, timeout_s), "it did not come true"


# ---- a proxy in between ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    try:
        with Toxiproxy(folder=tmp_path_factory.mktemp("toxiproxy")) as server:
            yield server
    except ServerMissing as exc:
        pytest.skip(f"no Toxiproxy: {exc}")


def test_what_a_broken_network_takes_is_in_a_gap(toxiproxy: Toxiproxy, tmp_path: Path, running):
    """
    Frames in pieces, connections reset, cut inside of a frame and half open: what comes is whole and in order, and of all
    that was sent what is not there is in a gap record, to the number.
    """
    with PlainExchange() as exchange:
        proxy = toxiproxy.proxy(f"feed-{secrets.token_hex(4)}", exchange.port)
        feed = JsonFeed(
            name="any",
            address=f"ws://127.0.0.1:{proxy.port}",
            symbols=("A",),
            send=('{"follow":{symbols}}',),
            symbol="s",
            sequence="n",
        )
        source = FeedSource(
            feed=feed, reconnect_first_s=0.05, reconnect_most_s=0.2, ping_every_s=0.3, ping_timeout_s=0.3
        )
        running(Pipeline(source=source, sink=LakeSink(store=FileStore(root=tmp_path)), flush=FlushPolicy(age_s=0.1)))
        exchange.wait_for_clients()
        sent = 0

        def send(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                sent += 1
                exchange.send(b'{"s":"A","n":%d,"x":"%s"}' % (sent, os.urandom(250).hex().encode()))

        def here() -> bool:
            return source._supervisor.gaps._numbers.get("A") == sent

        def send_until_one_is_here() -> None:
            """This exchange confirms no subscription: what it sends before it has read ours goes to nobody."""
            until(lambda: send(1) or came_true(here, timeout_s=0.5))

        send(50)
        until(here)
        until(lambda: not source._supervisor.gaps._open)
        with proxy.toxic("slicer", average_size=60, size_variation=30, delay=1):
            send(50)
            until(here)
        for toxic in (
            {"kind": "reset_peer", "timeout": 0},
            {"kind": "limit_data", "bytes": 2_000},
            {"kind": "timeout", "timeout": 0},
        ):
            before = source._supervisor.connections
            with proxy.toxic(**toxic):
                send(20)
                until(lambda before=before: source._supervisor.connections > before)
                send(20)  # to nobody
            send_until_one_is_here()
        until(lambda: len(values(tmp_path, "any.messages")) > 0)
        until(lambda: values(tmp_path, "any.messages")[-1]["n"] == sent)
        until(lambda: values(tmp_path, "any.gaps")[-1]["next_sequence"] is not None)
        messages, gaps = (values(tmp_path, f"any.{kind}") for kind in ("messages", "gaps"))
    numbers = [message["n"] for message in messages]
    assert sorted(set(numbers)) == numbers
    last = {gap["id"]: gap for gap in gaps}.values()
    missing = {n for gap in last if gap["missing"] for n in range(gap["last_sequence"] + 1, gap["next_sequence"])}
    assert set(range(1, sent + 1)) - set(numbers) == missing
    assert missing  # the negative control: the network did take something
    assert {"no answer for 0.3 s", "broken off"} <= {gap["cause"] for gap in last}


def values(lake: Path, stream: str) -> list[dict]:
    """What a lake holds of a stream, by hand."""
    found = [
        json.loads(line)
        for path in sorted(lake.glob(f"{stream}/partition=0/*.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
    assert list(range(len(found))) == [line["offset"] for line in found]
    return [line["value"] for line in found]


# ---- two producers --------------------------------------------------------------------------------------------


@attrs.define
class Producers:
    """Processes that publish one feed into the same topics."""

    kafka: str
    exchange: CoinbaseExchange
    prefix: str
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def start(self, name: str) -> None:
        feed = f"coinbase://BTC-USD?address={self.exchange.address}&stream={self.prefix}&producer={name}"
        more = "reconnect_first_s=0.1s&steady_s=0s"
        sink = f"kafka://{self.kafka}/{{stream}}?create_partitions=2&linger.ms=1"
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "headrace", "stream", f"{feed}&{more}", sink, "--log-format", "json"],
            stdout=log,
            stderr=log,
            env={**os.environ},
        )
        log.close()

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait(20)

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(40)


def count(kafka: str, topic: str) -> int:
    """Records of a topic, by the client alone."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": secrets.token_hex(4), "log_level": 0})
    with contextlib.closing(consumer):
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, n), 20)[1] for n in range(2))


@pytest.mark.kill
def test_killed_producers_end_in_silver_once(kafka: str, tmp_path: Path):
    """
    Two producers of one feed, each killed with SIGKILL once while the other goes on: the table has every trade once, and
    whatever one of them lacks is in its own gaps.
    """
    prefix, total, sent = f"coins-{secrets.token_hex(4)}", 3_000, 0
    with CoinbaseExchange() as exchange:
        producers = Producers(kafka, exchange, prefix, tmp_path)
        try:
            for name in ("a1", "b1"):
                producers.start(name)
            exchange.wait_for_clients(2)
            exchange.publish(*(coinbase_match(n) for n in range(1, 11)))
            until(lambda: count(kafka, f"{prefix}.trades") >= 20)  # both have published: what is killed is at work
            sent = 10
            for turn, (dies, comes) in enumerate((("a1", "a2"), ("b1", "b2"), (None, None)), 1):
                while sent < turn * total // 3:
                    exchange.publish(*(coinbase_match(n) for n in range(sent + 1, sent + 11)))
                    sent += 10
                    if dies and sent == turn * total // 3 - total // 10:
                        producers.kill(dies)  # in the midst of it
                if dies:
                    exchange.wait(lambda: len(exchange._open) == 1)
                    producers.start(comes)
                    exchange.wait_for_clients(2)
            assert [0, 0] == [producers.stop(name) for name in ("a2", "b2")]
        finally:
            for process in producers.processes.values():
                process.kill()
                process.wait(20)
    findings = Registry.discover().sink(f"kafka://{kafka}/{{stream}}").check()
    assert {("brokers", "fine"), ("topics", "fine")} == {(f.subject, f.state) for f in findings}
    records = count(kafka, f"{prefix}.trades")
    lake = tmp_path / "lake"
    for kind in ("trades", "gaps"):
        source = Registry.discover().source(f"kafka://{kafka}/{prefix}.{kind}?group={prefix}&start=earliest")
        Pipeline(source=source, sink=LakeSink(store=FileStore(root=lake)), until_end=True).run()
        loader = DuckDBLoader(
            database=tmp_path / "w.duckdb", target=kind, contract={"trades": CoinbaseTrade, "gaps": Gap}[kind]
        )
        Load(chain=Chain.open(FileStore(root=lake), f"{prefix}.{kind}"), loader=loader).run()
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as silver:
        assert list(range(1, total + 1)) == [
            n for (n,) in silver.execute("SELECT id FROM trades ORDER BY id").fetchall()
        ]
        assert [(0,)] == silver.execute("SELECT count(*) FROM trades_quarantine").fetchall()
        causes = {c for (c,) in silver.execute("SELECT cause FROM gaps").fetchall()}
        producers_seen = {p for (p,) in silver.execute("SELECT producer FROM gaps").fetchall()}
        ledger = "SELECT sum(superseded) FROM headrace_ledger WHERE target = 'trades'"
        ((superseded,),) = silver.execute(ledger).fetchall()
    # the negative control: without the contract's key these would be rows
    assert records > total + total // 10
    assert superseded == records - total
    assert {"started", "stopped"} <= causes
    assert {"a1", "a2", "b1", "b2"} == producers_seen

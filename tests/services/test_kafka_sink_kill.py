"""Runs into Kafka that are killed at every step and at any moment, that sleep and wake up, that are two: each record once."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.kafka.sink import KafkaSink
from headrace.registry import Registry
from headrace.testing.servers.kafka import Kafka

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = [pytest.mark.services, pytest.mark.kill]

DRIVER = Path(__file__).with_name("kafka_sink_driver.py")


def lines_of(count: int) -> list[bytes]:
    return [b'{"n":%d,"pad":"%s"}' % (n, b"x" * (n % 40)) for n in range(count)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"\n".join(lines_of(40)) + b"\n")
    return path


@pytest.fixture(scope="module")
def admin(kafka: str) -> Iterator[AdminClient]:
    with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as client:
        yield client


@pytest.fixture
def topic(admin: AdminClient) -> str:
    name = f"t-{secrets.token_hex(4)}"
    make(admin, name)
    return name


def make(admin: AdminClient, *names: str, partitions: int = 1) -> None:
    for made in admin.create_topics([NewTopic(name, partitions, 1) for name in names]).values():
        made.result(60)
    deadline = time.monotonic() + 90
    while not admin.list_topics(timeout=60).topics.keys() >= set(names):  # brokers know of them a moment later
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read(bootstrap: str, admin: AdminClient, topic: str, partition: int = 0) -> list[bytes | None]:
    """The values of a partition that are committed, by the client alone; an open transaction is waited for."""
    place, found = TopicPartition(topic, partition, 0), []
    end = admin.list_offsets({place: OffsetSpec.latest()})[place].result(60).offset
    settings = {"bootstrap.servers": bootstrap, "group.id": topic, "isolation.level": "read_committed", "log_level": 0}
    consumer = Consumer({**settings, "enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer.assign([place])
    reached, deadline = 0, time.monotonic() + 270
    while reached < end:
        assert time.monotonic() < deadline, f"a transaction is open at {reached}"
        message = consumer.poll(1)
        if message is not None:
            reached = message.offset() if message.error() else message.offset() + 1
            found += [] if message.error() else [message.value()]
    consumer.close()
    return found


@contextlib.contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test, whatever happens."""
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has stopped itself."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8")
        if status.rpartition(")")[2].split()[0] == "T":
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it did not stop")


def test_every_step(kafka: str, admin: AdminClient, tmp_path: Path):
    """Killed before and after each step of a transaction, a run leaves what the next one completes: each record once."""
    short, topic = tmp_path / "short.jsonl", f"t-{secrets.token_hex(4)}"
    short.write_bytes(b"\n".join(lines_of(3)) + b"\n")
    make(admin, *(f"{topic}-{n}" for n in range(1, 24)))
    with started(DRIVER, "every-step", short, kafka, topic, 2) as run:
        told, errors = run.communicate(timeout=360)
    assert 0 == run.returncode, errors
    steps = told.decode().splitlines()
    every = {"take over", "taken over", "begin", "position", "record", "commit", "committed"}
    assert every == set(steps)
    for n in range(1, len(steps) + 2):
        assert lines_of(3) == read(kafka, admin, f"{topic}-{n}"), f"killed at {steps[:n][-1]}, the step {n}"


@pytest.mark.parametrize("step", ["begin", "commit"])
def test_zombie(kafka: str, admin: AdminClient, topic: str, file: Path, step: str):
    """A run sleeps with its draft ready, another one finishes, the first wakes up: it is fenced, and joins in."""
    with started(DRIVER, "zombie", file, kafka, topic, 15, step) as asleep:
        stopped(asleep)
        with started(DRIVER, "run", file, kafka, topic, 11) as awake:
            assert 0 == awake.wait(180), awake.communicate()
        assert lines_of(40) == read(kafka, admin, topic)
        os.kill(asleep.pid, signal.SIGCONT)
        assert 0 == asleep.wait(180), asleep.communicate()
    assert lines_of(40) == read(kafka, admin, topic)


def test_zombie_without_fencing(kafka: str, admin: AdminClient, topic: str, file: Path):
    """The negative control: where nobody is fenced, the same sleep doubles records."""
    with started(DRIVER, "zombie", file, kafka, topic, 15, "begin", "without-fencing") as asleep:
        stopped(asleep)
        with started(DRIVER, "run", file, kafka, topic, 11, "without-fencing") as awake:
            assert 0 == awake.wait(180), awake.communicate()
        os.kill(asleep.pid, signal.SIGCONT)
        asleep.wait(180)
    found = Counter(read(kafka, admin, topic))
    assert {2: 40} == Counter(found.values())


def test_without_the_position_in_the_transaction(kafka: str, admin: AdminClient, topic: str):
    """The negative control: where the position is the group's, what was published before it was told comes again."""
    source = f"{topic}-source"
    make(admin, source)
    producer = Producer({"bootstrap.servers": kafka})
    for n in range(10):
        producer.produce(source, b"%d" % n)
    assert 0 == producer.flush(60)
    with started(DRIVER, "by-group", source, kafka, topic, 10) as run:
        assert -signal.SIGKILL == run.wait(180), run.communicate()
    registry = Registry.discover()
    reader = registry.source(f"kafka://{kafka}/{source}?group={source}&group_protocol=classic&instance=one")
    Pipeline(source=reader, sink=registry.sink(f"kafka://{kafka}/{topic}"), until_end=True).run()
    assert {2} == set(Counter(read(kafka, admin, topic)).values())


def test_two_at_once(kafka: str, admin: AdminClient, topic: str, file: Path):
    """Runs at the same time, each believing that the partition is its own, make one line."""
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(started(DRIVER, "run", file, kafka, topic, n)) for n in (7, 11)]
        assert [0, 0] == [run.wait(270) for run in runs], [run.communicate() for run in runs]
    assert lines_of(40) == read(kafka, admin, topic)


def test_broker_killed(tmp_path: Path):
    """A broker that is killed and started again under a run costs no record and doubles none."""
    file = tmp_path / "ticks.jsonl"
    file.write_bytes(b"\n".join(lines_of(3000)) + b"\n")
    with Kafka(folder=tmp_path / "kafka") as cluster:
        sink = KafkaSink(bootstrap=cluster.bootstrap, topic="t", guarantee="exactly-once", create_partitions=1)
        killed = []

        def kill_once(progress: object) -> None:
            if progress.stored_records >= 1000 and not killed:  # type: ignore[attr-defined]
                killed.append(progress)
                cluster.brokers[0].kill()
                cluster.brokers[0].start()

        run = Pipeline(
            source=JsonlSource(path=str(file)),
            sink=sink,
            flush=FlushPolicy(records=100),
            until_end=True,
            observe=kill_once,
            observe_every_s=0.0,
        )
        run.run()
        assert killed
        with AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0}) as admin:
            assert lines_of(3000) == read(cluster.bootstrap, admin, "t")

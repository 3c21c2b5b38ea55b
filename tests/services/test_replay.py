"""A topic that is made again from bronze: to the byte, once, whoever is killed on the way; read by Kafka's own consumer too."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.records import Batch, Extent, Identity, Partition, Record
from headrace.registry import Registry
from headrace.testing.contracts.values import HEADERS, KEYS
from headrace.testing.servers.kafka import jars
from headrace.testing.servers.s3 import S3Endpoint

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = [pytest.mark.services, pytest.mark.kill]

KILLS = 4
PARTITIONS = 3
IDENTITY = Identity("cluster", "topic", "read_committed", PARTITIONS)
SETTINGS = "retention.ms=-1,message.timestamp.after.max.ms=9223372036854775807"
VALUES = (
    None,
    b"",
    b"null",
    b"not json",
    b'{"a":1}\n{"a":2}',
    b"\xff\xfe\x00",
    b'{"value":null,"offset":7}',
    b"x" * 5000,
)


def records_of(partition: int, count: int) -> list[Record]:
    """Text and hostile records in turn, with holes between their offsets."""
    made = []
    for n in range(count):
        text = b'{"n":%d,"p":%d}' % (n, partition)
        made.append(
            Record(
                offset=n + n // 7,
                timestamp_ms=1_400_000_000_000 + 1000 * n if n % 5 else 1 + n,
                key=b"k%d" % n if n % 3 else KEYS[n % len(KEYS)],
                value=text if n % 2 else VALUES[n // 2 % len(VALUES)],
                headers=HEADERS[n % len(HEADERS)],
            )
        )
    return made


def fill(lake: Path | str, count: int, segment: int = 100) -> None:
    """Store the records as a lake, in many segments."""
    extents = {Partition("trades", n): Extent(0, 10**6, 10**6, IDENTITY) for n in range(PARTITIONS)}
    with Registry.discover().sink(uri_of(lake)) as sink:
        sink.bind(extents)
        for partition in extents:
            records, at = records_of(partition.number, count), sink.positions({partition: None})[partition]
            for first in range(0, count, segment):
                draft = sink.draft(partition, at.offset, 1 << 20)
                part = records[first : first + segment]
                draft.add(Batch.of(partition, part, assignment=1, start=at.offset))
                at = draft.commit(draft.position, at, IDENTITY)


def uri_of(lake: Path | str) -> str:
    return f"file://{lake}" if isinstance(lake, Path) else lake


def command(lake: Path | str, kafka: str, topic: str) -> list[str]:
    sink = f"kafka://{kafka}/{topic}?guarantee=exactly-once&partition=keep"
    sink += f"&create_partitions={PARTITIONS}&create_settings={SETTINGS}"
    options = ["--until-end", "--flush-records", "40", "--log-level", "error"]
    return [sys.executable, "-m", "headrace", "stream", uri_of(lake), sink, *options]


def published(kafka: str, topic: str) -> dict[int, list[tuple[object, ...]]]:
    """Time, key, value and headers of every committed record, in order, by the client alone."""
    places = [TopicPartition(topic, n, 0) for n in range(PARTITIONS)]
    with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as admin:
        answers = admin.list_offsets({place: OffsetSpec.latest() for place in places})
        ends = {place.partition: answer.result(20).offset for place, answer in answers.items()}
    settings = {"bootstrap.servers": kafka, "group.id": topic, "isolation.level": "read_committed", "log_level": 0}
    consumer = Consumer({**settings, "enable.partition.eof": True, "fetch.wait.max.ms": 10})
    consumer.assign(places)
    found: dict[int, list[tuple[object, ...]]] = {n: [] for n in ends}
    reached, deadline = dict.fromkeys(ends, 0), time.monotonic() + 90
    while any(reached[n] < end for n, end in ends.items()):
        assert time.monotonic() < deadline, f"a transaction is open at {reached}"
        message = consumer.poll(1)
        if message is None:
            continue
        n, offset = message.partition(), message.offset()
        reached[n] = max(reached[n], offset if message.error() else offset + 1)
        if message.error() is None:
            headers = tuple(message.headers() or ())
            found[n].append((message.timestamp()[1], message.key(), message.value(), headers))
    consumer.close()
    return found


def lines_of(kafka: str, topic: str, partition: int, count: int) -> list[str]:
    """What Kafka's own console consumer prints of the first so many committed records of a partition, those that are text."""
    shown = [f"print.{what}=true" for what in ("timestamp", "key")]
    java = ["java", "-Xmx128m", "-cp", f"{jars()}/libs/*", "org.apache.kafka.tools.consumer.ConsoleConsumer"]
    java += ["--bootstrap-server", kafka, "--topic", topic, "--partition", str(partition), "--offset", "earliest"]
    java += ["--isolation-level", "read_committed", "--max-messages", str(count), "--timeout-ms", "60000"]
    java += [part for each in shown for part in ("--property", each)]
    done = subprocess.run(java, capture_output=True, timeout=120, check=False)
    printed = done.stdout.decode(errors="replace").splitlines()
    return [line for line in printed if line.startswith("CreateTime:") and '\t{"n":' in line]


def test_replay_that_is_killed(kafka: str, tmp_path: Path):
    """A replay that is killed again and again ends with every record once, in its partition and order, and as it was."""
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    chance, topic, count, kills = random.Random(seed), f"t-{secrets.token_hex(4)}", 900, 0
    fill(tmp_path / "lake", count)
    run = command(tmp_path / "lake", kafka, topic)
    ends = []
    with AdminClient({"bootstrap.servers": kafka, "log_level": 0}) as admin:
        while kills < KILLS:
            before = high(admin, topic)
            with subprocess.Popen(run) as process:
                goal = before + chance.randrange(1, PARTITIONS * count // (2 * KILLS))
                deadline = time.monotonic() + 60
                while process.poll() is None and high(admin, topic) < goal and time.monotonic() < deadline:
                    time.sleep(0.002)
                process.kill()
            assert -signal.SIGKILL == process.returncode, f"seed {seed}: it was done after {kills} kills"
            kills += 1
            ends.append(high(admin, topic))
    assert 0 == subprocess.run(run, timeout=120, check=False).returncode
    expected = {
        n: [(r.timestamp_ms, r.key, r.value, r.headers) for r in records_of(n, count)] for n in range(PARTITIONS)
    }
    found = published(kafka, topic)
    assert expected == found, f"seed {seed}, killed at {ends}"
    last = PARTITIONS - 1
    text = [
        f"CreateTime:{ms}\t{'null' if key is None else key.decode()}\t{value.decode()}"
        for ms, key, value, _ in expected[last]
        if value is not None and value.startswith(b'{"n":') and (key is None or (key.isascii() and b"\n" not in key))
    ]
    assert text
    assert text == [line for line in lines_of(kafka, topic, last, count) if line in set(text)]


def high(admin: AdminClient, topic: str) -> int:
    """How much is in the topic, committed or not; 0 where there is none yet."""
    if topic not in admin.list_topics(timeout=20).topics:
        return 0
    places = {TopicPartition(topic, n): OffsetSpec.latest() for n in range(PARTITIONS)}
    try:
        return sum(answer.result(20).offset for answer in admin.list_offsets(places).values())
    except KafkaException:  # a topic that was just made has no leader yet
        return 0


def test_replay_again(kafka: str, tmp_path: Path):
    """A replay that is done has nothing to do, and goes on when the lake has grown; a new epoch publishes all once more."""
    topic = f"t-{secrets.token_hex(4)}"
    fill(tmp_path, 50)
    for _ in range(2):
        assert 0 == subprocess.run(command(tmp_path, kafka, topic), timeout=60, check=False).returncode
    assert {50} == {len(records) for records in published(kafka, topic).values()}
    again = [part.replace("&partition", "&epoch=again&partition") for part in command(tmp_path, kafka, topic)]
    assert 0 == subprocess.run(again, timeout=60, check=False).returncode
    expected = [(r.timestamp_ms, r.key, r.value, r.headers) for r in records_of(0, 50)]
    assert expected * 2 == published(kafka, topic)[0]


def test_replay_from_s3(kafka: str, minio: S3Endpoint):
    """A lake on S3 is replayed as one on a disk is."""
    topic, lake = f"t-{secrets.token_hex(4)}", minio.uri(f"{minio.bucket()}/lake")
    fill(lake, 50, segment=20)
    for _ in range(2):
        assert 0 == subprocess.run(command(lake, kafka, topic), timeout=60, check=False).returncode
    expected = {n: [(r.timestamp_ms, r.key, r.value, r.headers) for r in records_of(n, 50)] for n in range(PARTITIONS)}
    assert expected == published(kafka, topic)

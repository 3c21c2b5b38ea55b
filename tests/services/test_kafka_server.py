"""Apache Kafka itself: what the embedded broker cannot show."""

from __future__ import annotations

import gzip
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from headrace.errors import ConfigError, GapError, IdentityError, SourceUnavailableError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka.source import KafkaSource
from headrace.registry import Registry
from headrace.testing.servers.kafka import Kafka

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services


@pytest.fixture
def admin(kafka: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka, "log_level": 0})


@pytest.fixture
def topic(admin: AdminClient) -> str:
    """A topic of this test alone, with two partitions."""
    name = f"t-{secrets.token_hex(4)}"
    make(admin, name)
    return name


def make(admin: AdminClient, name: str) -> None:
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(20)
    wait(lambda: admin.describe_topics(TopicCollection([name]))[name].result(20).topic_id is not None)


def wait(condition: Callable[[], bool]) -> None:
    """Ask until it is true, for a minute at most."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (KafkaException, SourceUnavailableError):  # a topic that was just made may not be known yet
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come true")


def publish(kafka: str, topic: str, values: Iterator[bytes] | list[bytes], partition: int = 0, **settings: str) -> None:
    # idempotent: a batch that a broker refuses for a moment would otherwise be sent again behind the one after it
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "log_level": 0, **settings})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert 0 == producer.flush(20)


def stream(kafka: str, topic: str, lake: Path, more: str = "") -> None:
    registry = Registry.discover()
    source = registry.source(f"kafka://{kafka}/{topic}?group={secrets.token_hex(4)}{more}")
    Pipeline(source=source, sink=registry.sink(f"file://{lake}"), until_end=True).run()


def stored(lake: Path) -> dict[tuple[int, int], bytes]:
    """By partition and offset, read by hand; twice at one place is an error."""
    found: dict[tuple[int, int], bytes] = {}
    for path in sorted(lake.glob("*/partition=*/*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            place = (int(path.parent.name.partition("=")[2]), json.loads(line)["offset"])
            assert place not in found
            found[place] = line.partition(b'"value":')[2][:-1]
    return found


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_round_trip(kafka: str, topic: str, tmp_path: Path, protocol: str):
    """Records come into the lake once, over several runs, by both group protocols; topic ids are pinned."""
    for run in range(3):
        for partition in (0, 1):
            publish(kafka, topic, [b"%d" % (run * 100 + i) for i in range(100)], partition)
        stream(kafka, topic, tmp_path, f"&group_protocol={protocol}")
    assert {(p, i): b"%d" % i for p in (0, 1) for i in range(300)} == stored(tmp_path)
    pin = json.loads((tmp_path / topic / "_headrace/dataset.json").read_bytes())
    assert "off" not in str(pin["topic"])


def test_transactions(kafka: str, topic: str, tmp_path: Path):
    """Aborted records are not read, markers are no records, and a run after them finds nothing to do."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(20)
    for commit in (True, False, True, False):
        producer.begin_transaction()
        for i in range(3):
            producer.produce(topic, b"%d" % i if commit else b'"aborted"', partition=0)
        producer.flush(20)
        (producer.commit_transaction if commit else producer.abort_transaction)(20)
    stream(kafka, topic, tmp_path)
    assert [b"0", b"1", b"2"] * 2 == [value for _, value in sorted(stored(tmp_path).items())]
    stream(kafka, topic, tmp_path)
    assert 6 == len(stored(tmp_path))


def test_topic_made_again(kafka: str, admin: AdminClient, topic: str, tmp_path: Path):
    """A topic that was deleted and made again is another one: it is refused, and nothing of it is stored (B7, B20)."""
    publish(kafka, topic, [b"1", b"2"])
    stream(kafka, topic, tmp_path)
    admin.delete_topics([topic])[topic].result(20)
    wait(lambda: topic not in admin.list_topics(timeout=10).topics)
    make(admin, topic)
    publish(kafka, topic, [b"3", b"4", b"5"])
    with pytest.raises(IdentityError, match="topic"):
        stream(kafka, topic, tmp_path)
    assert [b"1", b"2"] == list(stored(tmp_path).values())


def test_without_topic_ids_it_would_be_mixed(kafka: str, admin: AdminClient, topic: str, tmp_path: Path):
    """The negative control of the test before: with topic ids off, a record of the new topic follows those of the old."""
    publish(kafka, topic, [b"1", b"2"])
    stream(kafka, topic, tmp_path, "&topic_id=off")
    admin.delete_topics([topic])[topic].result(20)
    wait(lambda: topic not in admin.list_topics(timeout=10).topics)
    make(admin, topic)
    publish(kafka, topic, [b"3", b"4", b"5"])
    stream(kafka, topic, tmp_path, "&topic_id=off")
    assert [b"1", b"2", b"5"] == list(stored(tmp_path).values())


def test_retention(kafka: str, admin: AdminClient, topic: str, tmp_path: Path):
    """Records that are deleted before they were read stop their partition with the range; with a note it goes on (B18)."""
    publish(kafka, topic, [b"0", b"1"])
    stream(kafka, topic, tmp_path)
    publish(kafka, topic, [b"2", b"3", b"4"])
    for future in admin.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(20)
    with pytest.raises(GapError, match=r"\[2, 4\)"):
        stream(kafka, topic, tmp_path)
    registry = Registry.discover()
    source = registry.source(f"kafka://{kafka}/{topic}?group=noted-{topic}")
    Pipeline(source=source, sink=registry.sink(f"file://{tmp_path}"), until_end=True, on_gap="note").run()
    assert [b"0", b"1", b"4"] == [value for _, value in sorted(stored(tmp_path).items())]


def test_broker_killed(tmp_path: Path):
    """A broker that is killed and started again under a running stream costs no record."""
    lake = tmp_path / "lake"
    with Kafka(folder=tmp_path / "kafka") as cluster:
        make(AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0}), "t")
        publish(cluster.bootstrap, "t", [b"%d" % i for i in range(10_000)], acks="all")
        command = [
            sys.executable,
            "-m",
            "headrace",
            "stream",
            f"kafka://{cluster.bootstrap}/t?group=g",
            f"file://{lake}",
        ]
        command += ["--flush-records", "1000", "--flush-age", "1s"]
        told = tmp_path / "told"  # a file: a pipe that nobody reads would stop it
        with told.open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                wait(lambda: any(lake.glob("t/partition=0/*.gz")))
                cluster.brokers[0].kill()
                cluster.brokers[0].start()
                publish(cluster.bootstrap, "t", [b"%d" % i for i in range(10_000, 20_000)], acks="all")
                wait(lambda: 20_000 == len(stored(lake)))
                process.terminate()
                process.wait(60)
            finally:
                process.kill()
    assert 0 == process.returncode, told.read_text()
    assert [] == [place for place, value in stored(lake).items() if place != (0, int(value))]


def test_source_says_what_it_is(kafka: str, topic: str):
    """Extents have the cluster's and the topic's ids, and both ends of the log."""
    publish(kafka, topic, [b"1", b"2"], partition=1)
    source = Registry.discover().source(f"kafka://{kafka}/{topic}?group=g")
    assert isinstance(source, KafkaSource)
    extents = {p.number: (e.low, e.end, e.high) for p, e in source.extents().items()}
    assert {0: (0, 0, 0), 1: (0, 2, 2)} == extents
    assert 1 == len({e.identity for e in source.extents().values()})
    source.close()


def test_a_topic_is_made_with_its_settings(kafka: str, admin: AdminClient, tmp_path: Path):
    """Whoever publishes records that are years old can keep the broker from dropping them at once."""
    name, file = f"t-{secrets.token_hex(4)}", tmp_path / "old.jsonl"
    file.write_bytes(b'{"time":"2014-06-05T13:30:00Z","n":1}\n')
    registry = Registry.discover()
    settings = "create_partitions=3&create_settings=retention.ms=-1,segment.bytes=1048576"
    sink = registry.sink(f"kafka://{kafka}/{name}?{settings}")
    Pipeline(source=registry.source(f"jsonl://{file}?timestamp=time"), sink=sink, until_end=True).run()

    about = ConfigResource(ConfigResource.Type.TOPIC, name)
    found = admin.describe_configs([about])[about].result(20)
    assert ("-1", "1048576") == (found["retention.ms"].value, found["segment.bytes"].value)
    assert 3 == len(admin.list_topics(name, timeout=20).topics[name].partitions)


def test_demo(kafka: str, tmp_path: Path):
    """The demo shows the same on a broker of yours."""
    command = [sys.executable, "-m", "headrace", "demo", "--kafka", kafka, "--folder", tmp_path / "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert json.loads(done.stdout)["exactly_once"] is True


def test_a_topic_that_is_not_there(kafka: str, admin: AdminClient):
    """One that never was is a mistake, told at once; one that was a moment ago may come back, and is asked for again."""
    name = f"t-{secrets.token_hex(4)}"
    source = KafkaSource(bootstrap=kafka, topics=(name,), group="g")
    with pytest.raises(ConfigError, match="does not exist"):
        source.extents()
    make(admin, name)
    wait(lambda: len(source.extents()) == 2)
    admin.delete_topics([name])[name].result(20)
    wait(lambda: name not in admin.list_topics(timeout=10).topics)
    with pytest.raises(SourceUnavailableError):
        source.extents()


def test_another_topic_goes_on(kafka: str, admin: AdminClient, topic: str, tmp_path: Path):
    """Of several topics one is deleted: the others are stored all the same (B20)."""
    gone = f"t-{secrets.token_hex(4)}"
    make(admin, gone)
    publish(kafka, topic, [b"1"])
    publish(kafka, gone, [b"1"])
    registry = Registry.discover()
    source = registry.source(f"kafka://{kafka}/{topic},{gone}?group={secrets.token_hex(4)}")
    run = Pipeline(source=source, sink=registry.sink(f"file://{tmp_path}"), flush=FlushPolicy(age_s=0.1))
    thread = threading.Thread(target=run.run)
    thread.start()
    try:
        wait(lambda: run.progress.stored_records == 2)
        admin.delete_topics([gone])[gone].result(20)
        wait(lambda: gone not in admin.list_topics(timeout=10).topics)
        publish(kafka, topic, [b"2"])
        wait(lambda: run.progress.stored_records == 3)
        assert {} == run.stopped
    finally:
        run.stop()
        thread.join(30)
    assert not thread.is_alive()

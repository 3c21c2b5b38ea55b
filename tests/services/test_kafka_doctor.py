"""`headrace doctor` on a real Kafka: topics, groups, lag, and what retention is about to take."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from headrace.doctor import Examination, examine, verdict
from headrace.registry import Registry
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.listeners import Security
from headrace.testing.servers.process import free_port
from headrace.testing.servers.tls import Authority

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

HOUR_MS = 3_600_000
PASSWORD = secrets.token_hex(8)


def wait(condition: Callable[[], bool]) -> None:
    """Ask until it is true, for a minute at most."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except KafkaException:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not come true")


@pytest.fixture(scope="module")
def admin(kafka: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka, "log_level": 0})


@pytest.fixture
def topic(admin: AdminClient) -> str:
    """A topic of this test alone with two partitions, which keeps a day."""
    name = f"d-{secrets.token_hex(4)}"
    admin.create_topics([NewTopic(name, 2, 1, config={"retention.ms": str(24 * HOUR_MS)})])[name].result(20)
    wait(lambda: all(p.leader >= 0 for p in admin.list_topics(name, timeout=10).topics[name].partitions.values()))
    return name


def publish(kafka: str, topic: str, records: int, age_ms: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    now_ms = int(time.time() * 1000)
    for number in range(records):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=now_ms - age_ms)
    assert 0 == producer.flush(20)


def commit(kafka: str, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    wait(lambda: bool(consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)))
    consumer.close()


def source(kafka: str, topic: str, group: str = "") -> Examination:
    return examine(Registry.discover(), f"kafka://{kafka}/{topic}?group={group or topic}&request_timeout_s=5")


def told(found: Examination, subject: str) -> tuple[str, str]:
    """State and text of a subject; the worst where there are several."""
    fitting = [f for f in found.findings if f.subject.startswith(subject)]
    worst = max(fitting, key=lambda f: ("fine", "unknown", "wrong").index(f.state))
    assert worst.state == "fine" or worst.advice
    return worst.state, worst.found


def test_a_source_that_is_fit(kafka: str, topic: str, admin: AdminClient):
    """Brokers, topic, id, group and lag; nothing is joined, committed or made."""
    publish(kafka, topic, 5)
    found = source(kafka, topic)
    assert ("source", 0) == (found.kind, verdict([found]))
    assert ("fine", "nothing was committed yet: it begins with start=earliest, of 5 offsets") == told(found, "lag")
    assert ("fine", "it is not there yet: the first member makes it") == told(found, "group")
    groups = admin.list_consumer_groups(request_timeout=10).result(20).valid
    assert topic not in {group.group_id for group in groups}

    commit(kafka, topic, topic, 3)
    found = source(kafka, topic)
    assert 0 == verdict([found])
    assert ("fine", "2 offsets in 1 partitions") == told(found, "lag")
    assert "fine" == told(found, f"retention of {topic}")[0]
    assert "kept are 24 h" in told(found, f"retention of {topic}")[1]


def test_what_retention_is_about_to_take(kafka: str, topic: str):
    """The oldest record that is not read is looked at, by its own time."""
    publish(kafka, topic, 2, age_ms=23 * HOUR_MS)
    publish(kafka, topic, 2)
    commit(kafka, topic, topic, 1)
    found = source(kafka, topic)
    assert 1 == verdict([found])
    state, text = told(found, f"retention of {topic}")
    assert "wrong" == state
    assert f"the oldest record that is not read is 23 h old ({topic}/0), kept are 24 h" == text
    commit(kafka, topic, topic, 2)
    assert 0 == verdict([source(kafka, topic)])


def test_what_retention_took(kafka: str, topic: str, admin: AdminClient):
    """A group that stands below the log's beginning has lost records, one beyond its end reads another log."""
    publish(kafka, topic, 6)
    commit(kafka, topic, topic, 2)
    wait(
        lambda: (
            admin.delete_records([TopicPartition(topic, 0, 4)])[TopicPartition(topic, 0, 4)].result(20).low_watermark
            == 4
        )
    )
    found = source(kafka, topic)
    assert "wrong" == told(found, "lag")[0]
    assert f"retention took what was not read: {topic}/0 at 2, the log begins at 4" == told(found, "lag")[1]
    commit(kafka, topic, topic, 99)
    assert f"beyond the log's end: {topic}/0 at 99, the log ends at 6" == told(source(kafka, topic), "lag")[1]


def test_members_are_told(kafka: str, topic: str):
    """Who is in the group, and where."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic, "client.id": "me"})
    consumer.subscribe([topic])
    try:
        wait(lambda: consumer.poll(0.1) is None and bool(consumer.assignment()))
        state, text = told(source(kafka, topic), "group")
    finally:
        consumer.close()
    assert "fine" == state
    assert text.startswith("stable, 1 members: me at ")


def test_topics_that_are_not_there(kafka: str, topic: str):
    """Those that are there are examined all the same."""
    found = source(kafka, f"{topic},nowhere-{topic}", group="g")
    assert ("wrong", "it is not there") == told(found, f"topic nowhere-{topic}")
    assert "fine" == told(found, f"topic {topic}")[0]
    assert "fine" == told(found, "log")[0]


def test_a_sink(kafka: str, topic: str):
    """A URI without a group is examined as what is written to; a topic that is to be made is no fault."""
    registry = Registry.discover()
    found = examine(registry, f"kafka://{kafka}/{topic}")
    assert ("sink", 0) == (found.kind, verdict([found]))
    assert ("fine", "min.insync.replicas=1 of 1 replicas, 1 in sync") == told(found, "durability")
    assert "24 h ago are deleted" in told(found, "retention")[1]
    assert 1 == verdict([examine(registry, f"kafka://{kafka}/nowhere-{topic}")])
    assert 0 == verdict([examine(registry, f"kafka://{kafka}/nowhere-{topic}?create_partitions=2")])


def test_more_is_asked_than_is_in_sync(kafka: str, admin: AdminClient):
    """Every write would be refused."""
    name = f"d-{secrets.token_hex(4)}"
    admin.create_topics([NewTopic(name, 1, 1, config={"min.insync.replicas": "2"})])[name].result(20)
    wait(lambda: name in admin.list_topics(timeout=10).topics)
    found = examine(Registry.discover(), f"kafka://{kafka}/{name}")
    assert ("wrong", "min.insync.replicas=2 of 1 replicas, 1 in sync") == told(found, "durability")


@pytest.mark.parametrize("more", ["?group=g&request_timeout_s=1", "?request_timeout_s=1"])
def test_brokers_that_do_not_answer(more: str):
    """That is a finding, within the time that a question waits."""
    began_s = time.monotonic()
    found = examine(Registry.discover(), f"kafka://127.0.0.1:{free_port()}/t{more}")
    assert ["wrong"] == [f.state for f in found.findings]
    assert "reachable" == found.findings[0].subject
    assert time.monotonic() - began_s < 60


# ---- who may do what ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that refuses whoever has no right."""
    folder = tmp_path_factory.mktemp("guarded")
    try:
        security = Security(
            users={"ann": PASSWORD}, authority=Authority(tmp_path_factory.mktemp("authority")), acls=True
        )
        with Kafka(folder=folder, security=security) as cluster:
            yield cluster
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: {exc}")


def test_rights_that_are_missing(guarded: Kafka):
    """Each right that a reader or a writer needs is named until it is there, and a wrong password as what it is."""
    admin = AdminClient({"bootstrap.servers": guarded.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("t", 1, 1)])["t"].result(20)

    def examined(group: str = "", password: str = PASSWORD) -> Examination:
        more = "security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&request_timeout_s=5"
        address = guarded.address("sasl")
        return examine(Registry.discover(), f"kafka://ann:{password}@{address}/t?{more}{group and f'&group={group}'}")

    def allow(kind: ResourceType, name: str, operation: AclOperation) -> None:
        right = AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ann", "*", operation, AclPermissionType.ALLOW)
        admin.create_acls([right])[right].result(20)

    assert ("wrong", "Broker: Topic authorization failed") == told(examined("g"), "topic t")
    allow(ResourceType.TOPIC, "t", AclOperation.DESCRIBE_CONFIGS)
    allow(ResourceType.TOPIC, "t", AclOperation.DESCRIBE)
    wait(lambda: told(examined("g"), "topic t")[1].endswith("and not read"))
    assert told(examined(), "topic t")[1].endswith("and not write")
    allow(ResourceType.TOPIC, "t", AclOperation.READ)
    wait(lambda: told(examined("g"), "topic t")[0] == "fine")
    assert "wrong" == told(examined("g"), "group g")[0]
    allow(ResourceType.GROUP, "g", AclOperation.READ)
    wait(lambda: verdict([examined("g")]) == 0)
    allow(ResourceType.TOPIC, "t", AclOperation.WRITE)
    wait(lambda: verdict([examined()]) == 0)

    found = examined("g", password="other")
    assert ["wrong"] == [f.state for f in found.findings]
    assert "authentication" in found.findings[0].found.lower()
    assert "other" not in repr(found)

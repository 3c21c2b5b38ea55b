"""Three brokers that fail: leaders that move, a log that is cut back, a cluster that is not the same any more."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.errors import ConfigError, IdentityError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka.source import KafkaSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.testing.servers.kafka import Broker, Kafka
from headrace.testing.servers.topics import Topics, wait

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

Stored = Callable[[Path], Mapping[tuple[str, int, int], bytes]]


@pytest.fixture
def brokers(kafka_cluster: Kafka) -> Iterator[Kafka]:
    """The cluster; whatever a test killed serves again when it ends."""
    yield kafka_cluster
    killed = [broker for broker in kafka_cluster.brokers if not broker.running]
    with ThreadPoolExecutor(len(kafka_cluster.brokers)) as pool:
        list(pool.map(Broker.start, killed))


@pytest.fixture
def topics(brokers: Kafka) -> Topics:
    return Topics(bootstrap=brokers.bootstrap)


def pipeline(bootstrap: str, name: str, lake: Path, **settings: object) -> Pipeline:
    reader = KafkaSource(bootstrap=bootstrap, topics=(name,), group=secrets.token_hex(4), **settings)
    sink = LakeSink(store=FileStore(root=lake))
    return Pipeline(source=reader, sink=sink, flush=FlushPolicy(age_s=0.1), retry_for_s=60)


def test_leaders_move(brokers: Kafka, topics: Topics, tmp_path: Path, stored: Stored, running: Callable):
    """A broker that is killed under load: other leaders take over, nothing is lost, and the stream does not stop."""
    name = topics.make(partitions=3, replicas=3, config={"min.insync.replicas": "2"})
    run = running(pipeline(brokers.bootstrap, name, tmp_path)).pipeline
    stop, counts = threading.Event(), [0, 0, 0]

    def load() -> None:
        while not stop.is_set():
            for number in range(3):
                values = [b"%d" % n for n in range(counts[number], counts[number] + 20)]
                topics.publish(name, values, number)
                counts[number] += 20

    thread = threading.Thread(target=load)
    thread.start()
    try:
        wait(lambda: run.progress.stored_records >= 60, "something is stored before")
        killed = topics.leader(name)
        brokers.brokers[killed - 1].kill()
        wait(lambda: topics.leader(name) not in (killed, -1), "another leader")
        before = counts[0]
        wait(lambda: counts[0] >= before + 60, "it is published on")
    finally:
        stop.set()
        thread.join(60)
    wait(lambda: sum(counts) == run.progress.stored_records, "all is stored")
    assert {} == run.stopped
    assert {(name, p, n): b"%d" % n for p in range(3) for n in range(counts[p])} == dict(stored(tmp_path))


def test_unclean_election(brokers: Kafka, topics: Topics, tmp_path: Path, stored: Stored, running: Callable):
    """
    A log that an unclean election cut back is refused where it has grown past the position again, with other records.

    The follower is down, the leader takes more records and dies, the follower comes back and leads without them.
    """
    unclean = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
    name = topics.make(partitions=1, replicas=2, config=unclean)
    topics.publish(name, [b"0", b"1"])
    leader = topics.leader(name)
    follower = next(n for n in topics.replicas(name) if n != leader)
    run = running(pipeline(brokers.bootstrap, name, tmp_path, lag_timeout_s=5))
    wait(lambda: 2 == run.pipeline.progress.stored_records, "what both have is stored")
    brokers.brokers[follower - 1].kill()
    topics.publish(name, [b"lost"] * 3)
    wait(lambda: 5 == run.pipeline.progress.stored_records, "what only the leader has is stored")
    brokers.brokers[leader - 1].kill()
    brokers.brokers[follower - 1].start()
    wait(lambda: topics.leader(name) == follower, "the follower leads")
    topics.publish(name, [b"other"] * 6)
    wait(lambda: run.pipeline.stopped, "the partition stops")
    error = run.ended()
    assert isinstance(error, IdentityError)
    assert "cut back" in str(error)
    again = running(pipeline(brokers.bootstrap, name, tmp_path, lag_timeout_s=5))
    error = again.ended()  # its only partition stopped
    assert isinstance(error, IdentityError)
    assert "cut back" in str(error)
    assert 5 == len(stored(tmp_path))


def test_another_cluster_behind_the_same_address(tmp_path: Path, stored: Stored, running: Callable):
    """A new cluster on the old one's port is refused by its id, by a stream that runs and by the next one."""
    name, lake = "t", tmp_path / "lake"
    with Kafka(folder=tmp_path / "old") as old:
        Topics(bootstrap=old.bootstrap).make(name, partitions=1)
        Topics(bootstrap=old.bootstrap).publish(name, [b"1", b"2"])
        run = running(pipeline(old.bootstrap, name, lake, lag_timeout_s=5))
        wait(lambda: 2 == run.pipeline.progress.stored_records, "the old cluster's records are stored")
    port = old.brokers[0].port
    with Kafka(folder=tmp_path / "new", cluster_id="bmV3LWNsdXN0ZXItLWhlcg", ports=[port]) as new:
        assert new.bootstrap == old.bootstrap
        topics = Topics(bootstrap=new.bootstrap)
        topics.make(name, partitions=1)
        topics.publish(name, [b"3", b"4", b"5"])
        with pytest.raises(IdentityError, match="cluster"):
            pipeline(new.bootstrap, name, lake).run()
        wait(lambda: run.pipeline.stopped or run.error, "the stream that ran notices")
        run.pipeline.stop()
        assert isinstance(run.ended(), IdentityError)
    assert {(name, 0, 0): b"1", (name, 0, 1): b"2"} == dict(stored(lake))


def test_a_broker_where_kip_848_is_switched_off(tmp_path: Path, stored: Stored):
    """By "auto" the older protocol is taken; whoever asked for the newer one by name is told."""
    with Kafka(folder=tmp_path / "kafka", settings={"group.coordinator.rebalance.protocols": "classic"}) as cluster:
        topics = Topics(bootstrap=cluster.bootstrap)
        name = topics.make(partitions=1)
        topics.publish(name, [b"1", b"2"])
        run = pipeline(cluster.bootstrap, name, tmp_path / "lake")
        run.until_end = True
        run.run()
        assert 2 == len(stored(tmp_path / "lake"))
        with pytest.raises(ConfigError, match="group_protocol=classic"):
            pipeline(cluster.bootstrap, name, tmp_path / "other", group_protocol="consumer").run()

"""An audit beside a real broker: it disturbs nobody, and tells holes apart as Kafka's own DumpLogSegments does."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

import headrace
from headrace.auditing.run import Audit
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.records import Partition
from headrace.registry import Registry
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.kafka import Kafka, jars
from headrace.testing.servers.topics import Topics, wait

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

_BATCH = re.compile(
    r"baseOffset: (\d+) lastOffset: (\d+) .*producerId: (-?\d+) .*isTransactional: (\w+) isControl: (\w+)"
)
_RECORD = re.compile(r"\| offset: (\d+) ")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker whose files the tests may look into."""
    try:
        with Kafka(folder=tmp_path_factory.mktemp("audited")) as cluster:
            yield cluster
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: {exc}")


def dumped(broker: Kafka, *topics: str) -> dict[str, dict[int, str]]:
    """What Kafka's own tool says of each offset of partition 0: "record", "aborted", or "marker"; what is not there, nothing."""
    logs = [str(log) for t in topics for log in sorted((broker.folder / f"broker-1/data/{t}-0").glob("*.log"))]
    command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{jars()}/libs/*", "kafka.tools.DumpLogSegments"]
    command += ["--deep-iteration", "--files", ",".join(logs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    every: dict[str, dict[int, str]] = {topic: {} for topic in topics}
    found = every[topics[0]]
    pending: dict[str, list[int]] = {}
    producer, transactional, control = "", False, False
    for line in done.stdout.splitlines():
        if line.startswith("Dumping "):
            found = every[Path(line.split()[1]).parent.name.removesuffix("-0")]
        elif batch := _BATCH.match(line):
            producer, transactional, control = batch[3], batch[4] == "true", batch[5] == "true"
        elif record := _RECORD.match(line):
            offset = int(record[1])
            found[offset] = "marker" if control else "record"
            if control and "endTxnMarker: ABORT" in line:
                found |= dict.fromkeys(pending.get(producer, ()), "aborted")
            if control:
                pending.pop(producer, None)
            elif transactional:
                pending.setdefault(producer, []).append(offset)
    assert all(every.values()), done.stdout[-2000:] + done.stderr[-2000:]
    return every


def streamed(broker: Kafka, topic: str, lake: Path) -> None:
    registry = Registry.discover()
    source = registry.source(f"kafka://{broker.bootstrap}/{topic}?group={secrets.token_hex(4)}")
    sink = registry.sink(f"file://{lake}")
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=4, age_s=60.0)).run()


def test_holes_are_told_apart_as_kafka_tells_them(broker: Kafka, tmp_path: Path):
    """Aborted records, markers and what compaction took: counted alike by the audit and by Kafka's own tool."""
    topics = Topics(bootstrap=broker.bootstrap)
    quick = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
    }
    transactions, compacted = topics.make(partitions=1), topics.make(partitions=1, config=quick)
    for fate in "cacaac":
        topics.transaction(transactions, [b"1", b"2", b"3"], 0, commit=fate == "c")
    topics.publish(compacted, [b"%d" % n for n in range(12)], keys=[b"abc"[n % 3 : n % 3 + 1] for n in range(12)])

    source = Registry.discover().source(f"kafka://{broker.bootstrap}/{compacted}?group=nobody")
    place = Partition(compacted, 0)

    def cleaned() -> bool:
        topics.publish(compacted, [b"-1"], keys=[b"beat"])
        end = source.extents()[place].end
        return sum(map(len, source.reread(place, 0, end))) < end - 5

    wait(cleaned, "the cleaner has taken something away")
    # and then nothing more, so that everybody sees the same
    entry = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, compacted, incremental_configs=[entry])
    for answer in topics.admin.incremental_alter_configs([resource]).values():
        answer.result(10)
    known = dumped(broker, transactions, compacted)
    for topic, fate_of in known.items():
        lake = tmp_path / topic
        streamed(broker, topic, lake)
        result = headrace.audit(
            f"file://{lake}", source=f"kafka://{broker.bootstrap}/{topic}", deep=True, caught_up=True
        )
        [partition] = result.partitions
        fates = Counter(fate_of.get(offset, "gone") for offset in range(partition.chain_end))
        first = min(offset for offset, fate in fate_of.items() if fate == "record")
        before = {"before the first segment": first} if first else {}
        expected = Counter(
            {"aborted": fates["aborted"], "no record": fates["marker"] + fates["gone"] - first, **before}
        )

        assert [] == list(map(str, result.findings))
        assert +expected == Counter(partition.holes)
        assert fates["record"] == partition.records == partition.compared


def test_a_reader_is_not_disturbed(broker: Kafka, tmp_path: Path):
    """It asks and reads while a stream runs, and no group has a member more than before; what comes in meanwhile is behind."""
    topics = Topics(bootstrap=broker.bootstrap)
    topic = topics.make(partitions=2)
    topics.fill(topic, [b"%d" % n for n in range(20)], 2)
    streamed(broker, topic, tmp_path)
    topics.fill(topic, [b"%d" % n for n in range(6)], 2)
    source = Registry.discover().source(f"kafka://{broker.bootstrap}/{topic}?group=nobody")
    with source:
        result = Audit(
            store=Registry.discover().store(f"file://{tmp_path}"), stream=topic, source=source, deep=True
        ).run()

    assert [] == list(map(str, result.findings))
    assert (40, 12) == (sum(p.compared for p in result.partitions), sum(p.behind_log for p in result.partitions))
    groups = topics.admin.list_consumer_groups(request_timeout=10).result(10).valid
    assert not {"nobody", "headrace-audit"} & {group.group_id for group in groups}

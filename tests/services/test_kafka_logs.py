"""Logs that are not as simple as they look: transactions, compaction, retention, topics that are made again."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.errors import GapError, IdentityError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.registry import Registry
from headrace.testing.servers.topics import Topics, wait

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

Stored = Callable[[Path], Mapping[tuple[str, int, int], bytes]]


@pytest.fixture
def topics(kafka: str) -> Topics:
    return Topics(bootstrap=kafka)


def pipeline(topics: Topics, names: str, lake: str | Path, more: str = "", **settings: object) -> Pipeline:
    registry = Registry.discover()
    source = registry.source(f"kafka://{topics.bootstrap}/{names}?group={secrets.token_hex(4)}{more}")
    settings = {"flush": FlushPolicy(age_s=0.1), **settings}
    return Pipeline(source=source, sink=registry.sink(f"file://{lake}"), **settings)


def by_offset(found: Mapping[tuple[str, int, int], bytes], number: int = 0) -> dict[int, bytes]:
    return {offset: value for (_, n, offset), value in found.items() if n == number}


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_aborted_records_at_head_middle_and_tail(topics: Topics, tmp_path: Path, stored: Stored, protocol: str):
    """A bounded run ends wherever aborted records and markers lie, and stores what was committed, at its own offsets."""
    name, more = topics.make(partitions=4), f"&group_protocol={protocol}"
    for number, fates in enumerate(("ac", "cac", "ca", "aa")):
        for fate in fates:
            topics.transaction(name, [b"1", b"2"], number, commit=fate == "c")
    for _ in range(2):
        assert 0 <= pipeline(topics, name, tmp_path, more, until_end=True).run().offsets_done
        found = stored(tmp_path)
        assert {3: b"1", 4: b"2"} == by_offset(found, 0)
        assert {0: b"1", 1: b"2", 6: b"1", 7: b"2"} == by_offset(found, 1)
        assert {0: b"1", 1: b"2"} == by_offset(found, 2)
        assert {} == by_offset(found, 3)


def test_an_open_transaction_is_waited_for(topics: Topics, tmp_path: Path, stored: Stored, running: Callable):
    """Nothing behind an open transaction is stored before it has ended; then all of it is, in order."""
    name = topics.make(partitions=1)
    producer = Producer({"bootstrap.servers": topics.bootstrap, "transactional.id": name, "log_level": 0})
    producer.init_transactions(20)
    topics.publish(name, [b"0"])
    producer.begin_transaction()
    producer.produce(name, b"1", partition=0)
    producer.flush(20)
    topics.publish(name, [b"2"])
    run = running(pipeline(topics, name, tmp_path)).pipeline
    wait(lambda: 1 == run.progress.stored_records, "what lies before it is stored")
    assert 1 == pipeline(topics, name, tmp_path / "bounded", until_end=True).run().records
    producer.commit_transaction(20)
    wait(lambda: 3 == run.progress.stored_records, "all are stored")
    assert {0: b"0", 1: b"1", 2: b"2"} == by_offset(stored(tmp_path))


def test_uncommitted_by_name(topics: Topics, tmp_path: Path, stored: Stored):
    """Whoever asks for it reads aborted records too; the lake is then pinned to that, and no other reader mixes in."""
    name = topics.make(partitions=1)
    topics.transaction(name, [b"1"], commit=False)
    pipeline(topics, name, tmp_path, "&isolation=read_uncommitted", until_end=True).run()
    assert {0: b"1"} == by_offset(stored(tmp_path))
    with pytest.raises(IdentityError, match="isolation"):
        pipeline(topics, name, tmp_path, until_end=True).run()


def test_compaction(topics: Topics, tmp_path: Path, stored: Stored):
    """The log's own cleaner takes records away before and after they were read: what is left comes once, and runs end."""
    quick = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
        "delete.retention.ms": "100",
    }
    name = topics.make(partitions=1, config=quick)

    def fill(turn: int) -> None:
        keys = [b"a", b"b", b"a", b"c", b"a", b"b"]
        topics.publish(name, [b"%d" % (10 * turn + i) for i in range(5)] + [None], keys=keys)

    fill(0)
    pipeline(topics, name, tmp_path / "early", until_end=True).run()
    for turn in range(1, 4):
        fill(turn)

    def compacted() -> bool:
        topics.publish(name, [b"-1"], keys=[b"beat"])  # segments roll when something is appended
        lake = tmp_path / secrets.token_hex(4)
        pipeline(topics, name, lake, until_end=True).run()
        return len([v for v in stored(lake).values() if v != b"-1"]) < 12

    wait(compacted, "the cleaner has taken something away")
    for lake in ("early", "late"):
        pipeline(topics, name, tmp_path / lake, until_end=True).run()
    early, late = by_offset(stored(tmp_path / "early")), by_offset(stored(tmp_path / "late"))
    assert [b"0", b"1", b"2", b"3", b"4", b"null"] == [early[n].strip() for n in range(6)]
    assert late.items() <= early.items()
    assert b"34" == late[22]  # the newest of its key is never taken
    assert 2 not in late


def test_retention_overtakes_a_running_stream(topics: Topics, tmp_path: Path, stored: Stored, running: Callable):
    """A partition whose next records are deleted while it is away stops with their range; the others go on (B18)."""
    name = topics.make()
    for number in (0, 1):
        topics.publish(name, [b"0", b"1"], number)
    pipeline(topics, name, tmp_path, until_end=True).run()
    topics.publish(name, [b"2", b"3", b"4"])
    topics.forget(name, 4)
    run = running(pipeline(topics, name, tmp_path))
    wait(lambda: run.pipeline.stopped, "partition 0 stops")
    topics.publish(name, [b"2"], 1)
    wait(lambda: 1 == run.pipeline.progress.stored_records, "partition 1 goes on")
    run.pipeline.stop()
    error = run.ended()
    assert isinstance(error, GapError)
    assert (2, 4) == (error.start, error.end)

    noted = running(pipeline(topics, name, tmp_path, on_gap="note")).pipeline
    wait(lambda: 1 == noted.progress.stored_records, "what is left is stored")
    assert {0: b"0", 1: b"1", 4: b"4"} == by_offset(stored(tmp_path))
    assert [f"{2:020d}-{4:020d}.json"] == [p.name for p in tmp_path.glob("*/_headrace/gaps/partition=0/*")]


def test_made_again_while_it_runs(topics: Topics, tmp_path: Path, stored: Stored, running: Callable):
    """A topic that is deleted and made again under a running stream is refused; a new epoch takes it, beside the old (B20)."""
    name = topics.make(partitions=1)
    topics.publish(name, [b"1", b"2"])
    run = running(pipeline(topics, name, tmp_path, "&lag_timeout_s=3"))
    wait(lambda: 2 == run.pipeline.progress.stored_records, "the old topic is stored")
    topics.delete(name)
    topics.make(name, partitions=1)
    topics.publish(name, [b"3", b"4", b"5", b"6"])
    wait(lambda: run.pipeline.stopped, "it is refused")
    assert isinstance(run.ended(), IdentityError)
    assert {0: b"1", 1: b"2"} == by_offset(stored(tmp_path))
    with pytest.raises(IdentityError, match="epoch"):
        pipeline(topics, name, tmp_path, until_end=True).run()

    pipeline(topics, name, f"{tmp_path}?epoch=b", until_end=True).run()
    found = stored(tmp_path)
    assert [b"3", b"4", b"5", b"6"] == [v for (stream, _, _), v in found.items() if stream == f"{name}~b"]
    assert [b"1", b"2"] == [v for (stream, _, _), v in found.items() if stream == name]


def test_schema_registry_framing(topics: Topics, tmp_path: Path):
    """What a schema registry's serializers write, magic byte, id, Avro, is no JSON: it is kept, and published, to the byte."""
    name, again = topics.make(partitions=1), topics.make(partitions=1)
    framed = [b"\x00" + n.to_bytes(4, "big") + b"\x02\x0cAAPL\x00\xff" + bytes([n]) for n in range(1, 4)]
    topics.publish(name, framed, keys=[b"\x00\x00\x00\x00\x07k"] * 3)
    pipeline(topics, name, tmp_path / "lake", until_end=True).run()
    registry = Registry.discover()
    back = registry.source(f"file://{tmp_path}/lake"), registry.sink(f"kafka://{topics.bootstrap}/{again}")
    Pipeline(source=back[0], sink=back[1], until_end=True).run()
    pipeline(topics, again, tmp_path / "again", until_end=True).run()
    lines = [
        [
            json.loads(line)
            for path in (tmp_path / lake).glob("*/partition=0/*.gz")
            for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
        for lake in ("lake", "again")
    ]
    assert lines[0] == lines[1]
    assert framed == [base64.b64decode(line["value_b64"]) for line in lines[0]]
    assert [b"\x00\x00\x00\x00\x07k"] * 3 == [(line["key"] or "").encode() for line in lines[0]]

"""Members of a group, by both of Kafka's protocols: who reads what, who leaves, what is added."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest

from headrace.errors import ConfigError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka.source import KafkaSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Hint, Partition, Start
from headrace.source import Owner
from headrace.testing.servers.topics import Topics, wait

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

Stored = Callable[[Path], Mapping[tuple[str, int, int], bytes]]
PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])


@pytest.fixture
def topics(kafka: str) -> Topics:
    return Topics(bootstrap=kafka)


def source(topics: Topics, *names: str, group: str = "", **settings: object) -> KafkaSource:
    group = group or secrets.token_hex(4)
    if settings.get("group_protocol") == "classic":  # of KIP-848 the broker says how often
        settings["client_settings"] = {"heartbeat.interval.ms": "500", **settings.get("client_settings", {})}
    return KafkaSource(bootstrap=topics.bootstrap, topics=names, group=group, **settings)


def pipeline(reader: KafkaSource, lake: Path, **settings: object) -> Pipeline:
    settings = {"flush": FlushPolicy(age_s=0.1), **settings}
    return Pipeline(source=reader, sink=LakeSink(store=FileStore(root=lake)), **settings)


def reads(run: object, count: int) -> bool:
    """Whether a run reads so many partitions, each from where it was told to."""
    places = run.pipeline.source._places
    return len(places) == count and all(map(places.read, list(places._at)))


@PROTOCOLS
def test_two_members_share_and_hand_over(
    topics: Topics, tmp_path: Path, stored: Stored, running: Callable, protocol: str
):
    """A second member takes its share, and gives it back when it leaves; every record is stored once throughout."""
    name, group = topics.make(partitions=4), secrets.token_hex(4)
    made = iter(range(1_000_000))

    def fill() -> None:
        for number in range(4):
            topics.publish(name, [b"%d" % next(made) for _ in range(50)], number)

    def all_stored(turns: int) -> bool:
        return 200 * turns == sum(r.pipeline.progress.stored_records for r in runs)

    fill()
    runs = [running(pipeline(source(topics, name, group=group, group_protocol=protocol), tmp_path))]
    wait(lambda: all_stored(1), "one member stores all")
    runs.append(running(pipeline(source(topics, name, group=group, group_protocol=protocol), tmp_path)))
    wait(lambda: all(reads(run, 2) for run in runs), "each has two partitions")
    fill()
    wait(lambda: all_stored(2), "both store their share")
    runs[1].pipeline.stop()
    assert runs[1].ended() is None
    wait(lambda: reads(runs[0], 4), "what the second had is handed back")
    fill()
    wait(lambda: all_stored(3), "one member stores all again")
    assert 600 == len(stored(tmp_path))


@PROTOCOLS
def test_static_member_restarts_without_a_rebalance(
    topics: Topics, tmp_path: Path, stored: Stored, running: Callable, protocol: str
):
    """A member with a name of its own has its partitions again after a restart; the other one is not disturbed meanwhile."""
    name, group = topics.make(partitions=2), secrets.token_hex(4)

    def start(instance: str) -> object:
        reader = source(topics, name, group=group, instance=instance, group_protocol=protocol)
        return running(pipeline(reader, tmp_path))

    first, second = start("a"), start("b")
    wait(lambda: reads(first, 1) and reads(second, 1), "each has a partition")
    had, kept = (next(iter(r.pipeline.source._places._at)) for r in (first, second))
    assignment = second.pipeline.source._places.cursor(kept).assignment
    first.pipeline.stop()
    assert first.ended() is None
    topics.publish(name, [b"1", b"2"], had.number)
    topics.publish(name, [b"3"], kept.number)
    again = start("a")
    wait(lambda: 2 == again.pipeline.progress.stored_records, "it reads its own partition again")
    wait(lambda: 1 == second.pipeline.progress.stored_records, "the other one goes on")
    assert [had] == list(again.pipeline.source._places._at)
    assert assignment == second.pipeline.source._places.cursor(kept).assignment
    assert 3 == len(stored(tmp_path))


@PROTOCOLS
def test_two_members_with_one_name(topics: Topics, tmp_path: Path, running: Callable, protocol: str):
    """Of two members with the same name one is refused, and its error says what to do; the other goes on."""
    name, group = topics.make(partitions=2), secrets.token_hex(4)
    runs = []
    for _ in range(2):
        reader = source(topics, name, group=group, instance="same", group_protocol=protocol)
        runs.append(running(pipeline(reader, tmp_path)))
        if len(runs) == 1:
            wait(lambda: 2 == len(runs[0].pipeline.source._places), "the first one has the partitions")
    wait(lambda: any(r.error is not None for r in runs), "one of the two is refused")
    refused, left = sorted(runs, key=lambda r: r.error is None)
    assert isinstance(refused.error, ConfigError)
    assert "instance=" in str(refused.error)
    topics.publish(name, [b"1"])
    wait(lambda: 1 == left.pipeline.progress.stored_records, "the other goes on")


@PROTOCOLS
def test_several_topics_into_one_lake(topics: Topics, tmp_path: Path, stored: Stored, protocol: str):
    """Each topic has its own prefix, pin and chain."""
    names = sorted(topics.make() for _ in range(3))
    for i, name in enumerate(names):
        topics.publish(name, [b"%d" % i])
    pipeline(source(topics, *names, group_protocol=protocol), tmp_path, until_end=True).run()
    assert {(name, 0, 0): b"%d" % i for i, name in enumerate(names)} == dict(stored(tmp_path))
    assert names == [p.parent.parent.name for p in sorted(tmp_path.glob("*/_headrace/dataset.json"))]


@PROTOCOLS
@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_partitions_are_added(
    topics: Topics, tmp_path: Path, stored: Stored, running: Callable, protocol: str, start: str
):
    """Every record of a partition that is added is stored, also those from before it was noticed, and with "latest" (B22)."""
    name = topics.make(partitions=1)
    topics.publish(name, [b"0"])
    often = {"topic.metadata.refresh.interval.ms": "500"}
    reader = source(topics, name, group_protocol=protocol, start=start, client_settings=often)
    begun = running(pipeline(reader, tmp_path))
    run = begun.pipeline
    wait(lambda: reads(begun, 1), "it reads")
    topics.grow(name, 3)
    for number in (1, 2):
        topics.publish(name, [b"1", b"2"], number)
    wait(lambda: len(reader._places) == 3, "the new partitions are noticed")
    topics.publish(name, [b"3"], 2)
    before = {(name, 0, 0): b"0"} if start == "earliest" else {}
    wait(lambda: 5 + len(before) == run.progress.stored_records, "all is stored")
    added = {(name, n, i): b"%d" % (i + 1) for n, count in ((1, 2), (2, 3)) for i in range(count)}
    assert {**before, **added} == dict(stored(tmp_path))


@PROTOCOLS
def test_first_record_and_leaving_are_quick(topics: Topics, tmp_path: Path, running: Callable, protocol: str):
    """A member reads its first record soon after it joins, and leaves at once: another one need not wait for a time-out."""
    name, group = topics.make(partitions=4), secrets.token_hex(4)
    for number in range(4):
        topics.publish(name, [b"1"], number)
    for turn in range(2):
        began = time.monotonic()
        run = running(pipeline(source(topics, name, group=group, group_protocol=protocol), tmp_path / str(turn)))
        wait(lambda: run.pipeline.progress.records, "a first record")  # noqa: B023 - called at once
        first_s = time.monotonic() - began
        wait(lambda: 4 == run.pipeline.progress.stored_records, "all are stored")  # noqa: B023
        began = time.monotonic()
        run.pipeline.stop()
        assert run.ended() is None
        print(f"{protocol}: first record after {first_s:.2f} s, left in {time.monotonic() - began:.2f} s")
        assert first_s < 20
        assert time.monotonic() - began < 20


def test_lag_and_age_are_numbers(topics: Topics, tmp_path: Path, running: Callable):
    """What the log has and the lake has not is counted by partition, without a question; at the end nothing is left."""
    name, group = topics.make(), secrets.token_hex(4)
    never = {"flush": FlushPolicy(age_s=1000), "observe": lambda _: None}
    run = running(pipeline(source(topics, name, group=group), tmp_path, **never))
    topics.publish(name, [b"1"] * 5)
    wait(
        lambda: 5 == run.pipeline.progress.lag and run.pipeline.progress.oldest_s > 0,
        "the lag is known, and all is read",
    )
    now = run.pipeline.progress
    assert {Partition(name, 0): 5, Partition(name, 1): 0} == {Partition(name, 1): 0, **now.lags}
    run.pipeline.stop()
    assert run.ended() is None
    now = run.pipeline.progress
    assert (0, 0.0, 5) == (now.lag, now.oldest_s, now.stored_records)
    assert 5 == topics.committed(group, name)


def test_a_start_that_is_a_time(topics: Topics, tmp_path: Path, stored: Stored):
    """An empty lake begins at the first record of that time or later; where there is none so late, at the end."""
    name = topics.make(partitions=1)
    topics.publish(name, [b"0", b"1"])
    time_ms = int(time.time() * 1000) + 1
    wait(lambda: time.time() * 1000 > time_ms + 1, "the next moment")
    from_then = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time_ms // 1000))}.{time_ms % 1000:03d}Z"
    topics.publish(name, [b"2", b"3"])
    pipeline(source(topics, name, start=from_then), tmp_path, until_end=True).run()
    assert [b"2", b"3"] == list(stored(tmp_path).values())
    assert (
        0 == pipeline(source(topics, name, start="2999-01-01T00:00:00Z"), tmp_path / "b", until_end=True).run().records
    )


def test_the_command_takes_it_all(topics: Topics, tmp_path: Path, stored: Stored):
    """The settings of the group are settings of the URI."""
    name = topics.make(partitions=1)
    topics.publish(name, [b"0"])
    more = "group=g&instance=a&group_protocol=consumer&start=earliest&topic.metadata.refresh.interval.ms=1000"
    command = [sys.executable, "-m", "headrace", "stream", f"kafka://{topics.bootstrap}/{name}?{more}"]
    done = subprocess.run(
        [*command, f"file://{tmp_path}", "--until-end", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert [b"0"] == list(stored(tmp_path).values())
    told = json.loads(done.stdout)
    assert (0, {f"{name}/0": 0}) == (told["lag"], told["lags"])
    assert told["records_per_s"] > 0


def test_partitions_that_rested_are_read_again(topics: Topics):
    """After each of many pauses every partition is read from where it is moved to; none is forgotten by the client."""
    name, count = topics.make(partitions=16), 16
    for number in range(count):
        topics.publish(name, [b"{}"], number)
    places = [Partition(name, number) for number in range(count)]
    reader = source(topics, name, client_settings={"fetch.wait.max.ms": "20"})
    owner = AtZero(numbers=itertools.count())
    with contextlib.closing(reader):
        for turn in range(1 + _TURNS):
            if turn:
                reader.move(dict.fromkeys(places))
                reader.move({place: Start(0, None, next(owner.numbers)) for place in places})
            missing = set(places)

            def all_read(missing: set[Partition] = missing) -> bool:
                missing -= {event.partition for event in reader.poll(owner, 0.1) if isinstance(event, Batch)}
                return not missing

            wait(all_read, f"turn {turn}: all are read")


_TURNS = 40
"""With pauses that are taken back behind the assignment, 3 of 123 such turns of a bare client left a partition standing."""


@attrs.define
class AtZero(Owner):
    numbers: Iterator[int]

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        return {partition: Start(0, None, next(self.numbers)) for partition in hints}

    def release(self, partitions: Iterable[Partition]) -> None: ...
    def lost(self, partitions: Iterable[Partition]) -> None: ...

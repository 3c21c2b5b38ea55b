"""One round: a topic, a lake, a deployment of headrace, faults, and what was found at the end."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from deployment import HERE, Brokers, Lake, environment, wait
from fleet import Fleet, Member
from verdict import Verdict, judge

TRIES = 3
"""A fault that did not take effect is tried again so often."""

SETTLE_S = 240.0
LAST_LINES = 40
QUIET_S = 6.0
"""A protection that is taken away may lose records: once no more of them arrive for so long, none is waited for."""


@attrs.frozen
class Fault:
    """
    Attributes:
        name: In tables.

        fire: Makes it happen, and takes it back.

        lakes: Where it can happen.
    """

    name: str
    fire: Callable[[Round], str | None]
    lakes: tuple[str, ...] = ("disk", "minio", "versity")


@attrs.define(kw_only=True, eq=False)
class Round:
    """
    One topic, one lake, one deployment of headrace.

    Attributes:
        chance: The only source of randomness.

        fired: Each fault that took effect, with its evidence.
    """

    chance: random.Random
    brokers: Brokers
    lake: Lake
    fleet: Fleet
    topic: str
    group: str
    partitions: int
    fired: list[tuple[str, str]] = attrs.field(factory=list)
    missed: list[str] = attrs.field(factory=list)
    notes: Counter[str] = attrs.field(factory=Counter)

    def note(self, what: str, count: int) -> None:
        self.notes[what] += count

    def ends(self) -> dict[int, int]:
        from confluent_kafka import TopicPartition  # noqa: PLC0415
        from confluent_kafka.admin._listoffsets import OffsetSpec  # noqa: PLC0415

        places = {TopicPartition(self.topic, n): OffsetSpec.latest() for n in range(self.partitions)}
        asked = self.brokers.admin.list_offsets(places, request_timeout=10)
        return {tp.partition: answer.result(15).offset for tp, answer in asked.items()}

    def partitions_of(self, member: Member) -> set[int]:
        """Those of which it stored something lately."""
        return {int(line["partition"]) for line in member.said("segment stored")[-2 * self.partitions :]}

    @contextlib.contextmanager
    def lake_slowed(self, latency_ms: int) -> Iterator[None]:
        """A PUT takes so long; on a disk they are quick, and a moment in the middle of one is a matter of chance."""
        if self.lake.proxy is None or not latency_ms:
            yield
            return
        with self.lake.proxy.toxic("latency", up=True, latency=latency_ms, jitter=latency_ms // 2):
            yield

    def fire(self, fault: Fault) -> None:
        """Make it happen, until it takes effect."""
        for _ in range(TRIES):
            self.fleet.tend()
            with contextlib.suppress(TimeoutError):
                self.fleet.wait_for_work(1, 60)
            if not self.fleet.working():
                continue
            try:
                evidence = fault.fire(self)
            except TimeoutError as exc:
                print(f"    {fault.name}: {exc}", flush=True)
                continue
            if evidence is not None:
                self.fired.append((fault.name, evidence))
                return
        self.missed.append(fault.name)


class Looks:
    """A reader in a process of its own, that looks at the lake all the time."""

    def __init__(self, lake: Lake, topic: str, folder: Path) -> None:
        self.looks: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "reader.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "reader.log").open("wb"),
            env={**environment(), **lake.environment},
        )
        assert self._process.stdin is not None
        where = {"glob": f"{lake.glob}/{topic}/partition=*/*.jsonl.gz", "endpoint": lake.direct_endpoint}
        self._process.stdin.write(json.dumps(where).encode() + b"\n")
        self._process.stdin.flush()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.looks.append(json.loads(line))

    @property
    def good(self) -> list[dict[str, Any]]:
        return [look for look in self.looks if "rows" in look]

    @property
    def doubled(self) -> list[dict[str, Any]]:
        return [look for look in self.good if look["rows"] != look["distinct"]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(10)


@attrs.frozen(kw_only=True)
class Outcome:
    """What a round found."""

    lake: str
    protocol: str
    verdict: Verdict
    fired: list[tuple[str, str]]
    missed: list[str]
    unexplained: list[str]
    looks: int
    doubled_looks: int
    failed_looks: int
    look_errors: list[str]
    notes: Mapping[str, int]
    settled: bool
    told: list[str]
    took_s: float

    @property
    def good(self) -> bool:
        return self.verdict.clean and self.settled and not (self.unexplained or self.doubled_looks)


def play(
    chance: random.Random, brokers: Brokers, lake: Lake, folder: Path, faults: list[Fault], without: str | None
) -> Outcome:
    """One round."""
    began_s = time.monotonic()
    topic, group = f"chaos-{secrets.token_hex(4)}", f"g-{secrets.token_hex(4)}"
    partitions, rate = chance.randint(4, 8), chance.choice((200, 600))
    protocol = chance.choice(("consumer", "classic"))
    brokers.make_topic(topic, partitions)
    folder.mkdir(parents=True)
    session = "&session.timeout.ms=6000&heartbeat.interval.ms=1000" if protocol == "classic" else ""
    source = (
        f"kafka://{brokers.proxied}/{topic}?group={group}&group_protocol={protocol}&socket.timeout.ms=10000{session}"
    )
    source += (
        "&group.instance.id={instance}" if chance.random() < 0.4 or any("identity" in f.name for f in faults) else ""
    )
    fleet = Fleet(
        folder=folder,
        source=source,
        sink=lake.uri,
        environment=lake.environment,
        more=["--flush-age", chance.choice(("300ms", "1s")), "--retry-for", "120s"],
        without=without,
    )
    world = Round(
        chance=chance, brokers=brokers, lake=lake, fleet=fleet, topic=topic, group=group, partitions=partitions
    )
    with contextlib.ExitStack() as stack:
        publisher = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "publish.py"),
                brokers.direct,
                topic,
                str(partitions),
                str(rate),
                str(chance.randrange(10**6)),
            ],
            stdout=(folder / "publisher.log").open("wb"),
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        stack.callback(publisher.kill)
        looks = Looks(lake, topic, folder)
        stack.callback(looks.close)
        stack.callback(fleet.close)
        for _ in range(chance.randint(1, 3)):
            fleet.add()
        fleet.wait_for_work(1, 90)
        for fault in faults:
            world.fire(fault)
        publisher.send_signal(signal.SIGTERM)
        publisher.wait(120)
        wait(
            lambda: brokers.in_sync(topic) and brokers.stable(topic), 120, "the log is whole and no transaction is open"
        )
        published = brokers.dump(topic)
        settled = _settle(fleet, looks, published)
        # of a partition that stands still somebody must have said something
        told = [] if settled else [f"{m.name}: {line}" for m in fleet.members for line in m.lines()[-LAST_LINES:]]
        while fleet.members:
            fleet.remove(fleet.members[0])
        verdict = judge(published, lake.objects(topic), topic)
    return Outcome(
        lake=lake.kind,
        protocol=protocol,
        verdict=verdict,
        fired=world.fired,
        missed=world.missed,
        unexplained=fleet.unexplained,
        looks=len(looks.good),
        doubled_looks=len(looks.doubled),
        failed_looks=len(looks.looks) - len(looks.good),
        look_errors=[look["error"] for look in looks.looks if "error" in look][-1:],
        notes=dict(world.notes),
        settled=settled,
        told=told,
        took_s=time.monotonic() - began_s,
    )


def _settle(fleet: Fleet, looks: Looks, published: Mapping[tuple[int, int], object]) -> bool:
    """Wait until the reader has seen as many different records as were published."""
    if not fleet.members:
        fleet.add()

    most, since_s = 0, time.monotonic()

    def all_there() -> bool:
        nonlocal most, since_s
        fleet.tend()
        distinct = looks.good[-1]["distinct"] if looks.good else 0
        if distinct != most:
            most, since_s = distinct, time.monotonic()
        return distinct >= len(published)

    def enough() -> bool:
        return all_there() or (fleet.without is not None and time.monotonic() - since_s > QUIET_S)

    with contextlib.suppress(TimeoutError):
        wait(enough, SETTLE_S, "all records are in the lake")
    return all_there()

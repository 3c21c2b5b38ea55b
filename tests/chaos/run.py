"""
Breaks a real deployment at random and counts what is lost: ``python run.py --minutes N [--seed S]``.

A run is made of rounds. In each, a fresh topic is published to, headrace carries it into a fresh lake, faults are drawn from the
printed seed, and a reader looks at the lake all the while. Then the faults end, and what the brokers hold, read by Kafka's own
client, is compared record by record with what the lake holds, read by a parser of its own.

Ends with 0 if nothing was lost, doubled or changed, every fault that was drawn took effect, and the reader never saw a record twice.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from deployment import HERE, Brokers, Lake, environment, wait
from faults import FAULTS, Fault
from fleet import Fleet, Member
from lakes import KINDS, Lakes
from verdict import Verdict, judge

from headrace.testing.servers.toxiproxy import Toxiproxy

TRIES = 3
"""A fault that did not take effect is tried again so often."""

FAULTS_A_ROUND = 5
SETTLE_S = 240.0
SETTLE_WITHOUT_S = 20.0
"""A protection that is taken away may lose records: what is not there soon is not waited for."""

CONTROLS = {
    "condition": ("minio", "second deployment"),
    "hint": ("disk", "forged"),
    "base": ("disk", "second deployment"),
}
"""What is taken away, and where and by which fault that shows; see stream.py."""


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
    took_s: float

    @property
    def good(self) -> bool:
        return self.verdict.clean and self.settled and not (self.missed or self.unexplained or self.doubled_looks)


def play(
    chance: random.Random, brokers: Brokers, lake: Lake, folder: Path, faults: list[Fault], without: str | None
) -> Outcome:
    """One round."""
    began_s = time.monotonic()
    topic, group = f"chaos-{secrets.token_hex(4)}", f"g-{secrets.token_hex(4)}"
    partitions, rate = chance.randint(3, 8), chance.choice((200, 600))
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
        took_s=time.monotonic() - began_s,
    )


def _settle(fleet: Fleet, looks: Looks, published: Mapping[tuple[int, int], object]) -> bool:
    """Wait until the reader has seen as many different records as were published."""
    if not fleet.members:
        fleet.add()

    def all_there() -> bool:
        fleet.tend()
        return bool(looks.good) and looks.good[-1]["distinct"] >= len(published)

    try:
        wait(all_there, SETTLE_S if fleet.without is None else SETTLE_WITHOUT_S, "all records are in the lake")
    except TimeoutError:
        return False
    return True


class Deck:
    """Faults in an order drawn at random, each once before any comes again."""

    def __init__(self, chance: random.Random, faults: list[Fault]) -> None:
        self._chance = chance
        self._faults = faults
        self._left: list[Fault] = []

    def draw(self, kind: str, count: int) -> list[Fault]:
        drawn: list[Fault] = []
        while len(drawn) < count:
            fit = [f for f in self._left if kind in f.lakes and f not in drawn]
            if not fit:
                more = [f for f in self._faults if f not in self._left]
                self._chance.shuffle(more)
                self._left += more
                continue
            drawn.append(fit[0])
            self._left.remove(fit[0])
        return drawn


# ---- the run --------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins after this")
    parser.add_argument("--rounds", type=int, default=10**6, help="at most so many")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--lake", choices=KINDS, action="append", help="only there; may be given again")
    parser.add_argument(
        "--fault", action="append", default=[], help="only those whose name holds this; may be given again"
    )
    parser.add_argument("--faults", type=int, default=FAULTS_A_ROUND, help="in a round")
    parser.add_argument(
        "--without", choices=("condition", "hint", "base"), help="a negative control: must find something"
    )
    parser.add_argument("--all", action="store_true", help="fail also where a fault was never drawn")
    parser.add_argument("--folder", type=Path, help="keep all logs there")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    faulthandler.register(signal.SIGUSR1)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    chosen = [f for f in FAULTS if not given.fault or any(part in f.name for part in given.fault)]
    kinds = given.lake or list(KINDS)
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        toxiproxy = stack.enter_context(Toxiproxy(folder=folder / "toxiproxy"))
        brokers = Brokers.make(folder / "kafka", toxiproxy)
        stack.callback(brokers.close)
        lakes = Lakes(folder=folder, toxiproxy=toxiproxy)
        stack.callback(lakes.close)
        deck, began_s = Deck(chance, chosen), time.monotonic()
        while time.monotonic() - began_s < given.minutes * 60 and len(outcomes) < given.rounds:
            kind = kinds[len(outcomes) % len(kinds)]
            drawn = deck.draw(kind, min(given.faults, len([f for f in chosen if kind in f.lakes])))
            number = len(outcomes) + 1
            outcome = play(chance, brokers, lakes.get(kind), folder / f"round-{number:03}", drawn, given.without)
            outcomes.append(outcome)
            tell(number, outcome)
            report(outcomes, given, seed, {}, quiet=True)
        controls = {}
        for rule in CONTROLS if given.controls else ():
            controls[rule] = control(rule, chance, brokers, lakes, folder / f"without-{rule}")
    return report(outcomes, given, seed, controls)


def control(rule: str, chance: random.Random, brokers: Brokers, lakes: Lakes, folder: Path) -> Verdict:
    """Take a protection away and play until something is found; a few rounds at the most."""
    kind, wanted = CONTROLS[rule]
    faults = [f for f in FAULTS if wanted in f.name]
    for attempt in range(1, TRIES + 1):
        outcome = play(chance, brokers, lakes.get(kind), folder / f"{attempt}", faults, rule)
        found = outcome.verdict
        if not found.clean:
            break
    print(
        f"without {rule} ({kind}): lost {found.lost}, duplicated {found.duplicated}, changed {found.changed}, broken objects"
        f" {found.broken}; the reader saw a record twice at {outcome.doubled_looks} of {outcome.looks} looks",
        flush=True,
    )
    return found


def tell(number: int, outcome: Outcome) -> None:
    verdict = outcome.verdict
    print(
        f"round {number} ({outcome.lake}, {outcome.protocol}, {outcome.took_s:.0f} s): {verdict.records} records in"
        f" {verdict.segments} segments; lost {verdict.lost}, duplicated {verdict.duplicated}, changed {verdict.changed}, out of"
        f" order {verdict.disordered}, broken objects {verdict.broken}; reader: {outcome.looks} looks, {outcome.doubled_looks}"
        f" with a record twice, {outcome.failed_looks} without an answer"
    )
    for name, evidence in outcome.fired:
        print(f"    {name}: {evidence}")
    for name in outcome.missed:
        print(f"    {name}: DID NOT TAKE EFFECT")
    for line in outcome.look_errors:
        print(f"    a look without an answer: {line[:200]}")
    for line in (*verdict.examples, *outcome.unexplained):
        print(f"    ! {line}")
    if not outcome.settled:
        print(f"    ! not all records were in the lake after {SETTLE_S:.0f} s")
    sys.stdout.flush()


def report(
    outcomes: list[Outcome], given: argparse.Namespace, seed: int, controls: Mapping[str, Verdict], *, quiet: bool = False
) -> int:
    """Write the results, and say whether all is well."""
    fired = Counter(name for o in outcomes for name, _ in o.fired)
    never = sorted({f.name for f in FAULTS if set(f.lakes) & set(given.lake or KINDS)} - fired.keys())
    found = Counter(
        {
            name: sum(getattr(o.verdict, name) for o in outcomes)
            for name in ("records", "segments", "lost", "duplicated", "changed", "disordered", "broken")
        }
    )
    notes: Counter[str] = Counter()
    for o in outcomes:
        notes.update(o.notes)
    document = {
        "seed": seed,
        "rounds": len(outcomes),
        "minutes": round(sum(o.took_s for o in outcomes) / 60, 1),
        **found,
        "looks": sum(o.looks for o in outcomes),
        "looks_with_a_record_twice": sum(o.doubled_looks for o in outcomes),
        "lakes": dict(Counter(o.lake for o in outcomes)),
        "protocols": dict(Counter(o.protocol for o in outcomes)),
        "faults": dict(sorted(fired.items())),
        "never_drawn": never,
        "notes": dict(notes),
        "without": given.without,
        "controls": {rule: attrs.asdict(found, filter=attrs.filters.exclude("examples")) for rule, found in controls.items()},
        "bad_rounds": [n for n, o in enumerate(outcomes, 1) if not o.good],
    }
    if given.json:
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if quiet:
        return 0
    print(json.dumps(document, indent=2))
    if given.without:
        wrong = found["lost"] + found["duplicated"] + found["broken"] + found["changed"]
        print(f"without the protection {given.without!r}: {'found' if wrong else 'NOTHING WAS FOUND'}")
        return 0 if wrong else 1
    bad = [n for n, o in enumerate(outcomes, 1) if not o.good]
    if bad:
        print(f"FAILED: rounds {bad}")
    if given.all and never:
        print(f"FAILED: never fired: {never}")
    blind = [rule for rule, found_ in controls.items() if found_.clean]
    if blind:
        print(f"FAILED: nothing was found without {blind}")
    return 1 if bad or blind or not outcomes or (given.all and never) else 0


if __name__ == "__main__":
    sys.exit(main())

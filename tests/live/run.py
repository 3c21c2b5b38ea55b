"""
From an exchange to silver for an hour, while everything breaks: ``python run.py --minutes N [--rate R] [--seed S]``.

A local exchange sends numbered trades through a proxy to ``headrace stream``, which publishes them to a broker; another one
carries them to MinIO, through a proxy too; ``headrace load`` brings them into DuckDB, and ``headrace audit`` looks on. Faults are
drawn from the printed seed. At the end silver is compared with what the exchange sent, number by number.

Ends with 0 if every number is one row, or told as missing by a gap record; if the audit says complete, and never said anything
else; and if memory is flat.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import itertools
import json
import random
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
from deployment import FEED, Deployment, wait
from exchange import SYMBOLS
from faults import ENDS_A_PROCESS, FAULTS, listening
from verdict import Sent, Verdict, judge

from headrace.testing.servers.process import ServerFailed

ENDING_SHARE = 0.6
"""In this first part of a run processes are ended; in the rest their memory is looked at."""

REST_S = (2.0, 9.0)
AUDIT_EVERY_S = 60.0
GROWTH = 1.1
GROWTH_MIB = 16.0
SETTLING_S = 30.0
"""When nothing comes any more: all is stored by then, and what was freed is given back."""

LONG_MINUTES = 15.0
"""Only in a run of so long the memory has come to rest."""

WATCHED = ("producer", "bronze")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=20_000, help="messages a second")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--fault", action="append", default=[], help="only those whose name holds this")
    parser.add_argument("--rest", type=float, help="at most so many seconds between two faults")
    parser.add_argument("--without", choices=("gaps",), help="the negative control: gap records are lost on their way")
    parser.add_argument("--deep", action="store_true", help="let the last audit read everything")
    parser.add_argument("--folder", type=Path, help="keep all logs there")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser.parse_args()


@attrs.define
class Watch:
    """What is looked at while it runs, in threads of their own."""

    world: Deployment
    audits: Counter[int] = attrs.field(factory=Counter)
    alarms: list[str] = attrs.field(factory=list)
    stuck: list[str] = attrs.field(factory=list)
    numbers: list[tuple[float, int]] = attrs.field(factory=list)
    stopping: threading.Event = attrs.field(factory=threading.Event)
    threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self) -> None:
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._tend, self._audit)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(300)

    def _tend(self) -> None:
        weighed_s = 0.0
        while not self.stopping.wait(0.2):
            for service in self.world.services.values():
                service.tend()
            if time.monotonic() - weighed_s >= 1:
                weighed_s = time.monotonic()
                for name in WATCHED:
                    self.world.services[name].weigh(self.world.began_s)
                number = self.world.market.say("look")["number"]
                self.numbers.append((time.monotonic() - self.world.began_s, number))

    def _audit(self) -> None:
        while not self.stopping.wait(AUDIT_EVERY_S):
            done = self.world.run("audit", *self.world.loading("trades"), "--retry-for", "60s", "--json")
            self.audits[done.returncode] += 1
            if done.returncode == 1:
                self.alarms.append(done.stdout[-3000:])


def main() -> int:
    given = arguments()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and all that runs with it
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-live-")))
        folder.mkdir(parents=True, exist_ok=True)
        world = stack.enter_context(Deployment.open(folder, given.rate, SYMBOLS, guarded=given.without is None))
        return play(world, given, seed)


def play(world: Deployment, given: argparse.Namespace, seed: int) -> int:
    chance = random.Random(seed)
    names = [name for name in FAULTS if not given.fault or any(part in name for part in given.fault)]
    for service in world.services.values():
        service.start()
    wait(lambda: listening(world), 60, "the producer has subscribed")
    watch = Watch(world)
    world.began_s = time.monotonic()
    world.market.say("begin")
    watch.start()
    fired: Counter[str] = Counter()
    until_s, deck = given.minutes * 60, []
    while (past_s := time.monotonic() - world.began_s) < until_s:
        if not deck:
            deck = chance.sample(names, len(names))
        name = deck.pop()
        if name in ENDS_A_PROCESS and past_s > ENDING_SHARE * until_s:
            continue
        print(f"{past_s:7.1f} s  {name}", flush=True)
        try:
            FAULTS[name](world, chance)
            wait(lambda: listening(world), 180, f"the feed is up again after: {name}")
        except (TimeoutError, ServerFailed) as exc:
            watch.stuck.append(f"{past_s:.0f} s, {name}: {exc}")
        fired[name] += 1
        time.sleep(chance.uniform(REST_S[0], REST_S[1]) if given.rest is None else chance.uniform(0, given.rest))
    sent_s = time.monotonic() - world.began_s
    last = _finish(world, watch, settling_s=0.0 if given.minutes < LONG_MINUTES else SETTLING_S)
    sent = Sent(world.folder / "sent")
    verdict = judge(
        world.folder / "trades.duckdb",
        world.folder / "gaps.duckdb",
        sent,
        world.services["producer"].ended_ns,
        fired["exchange: sends numbers out of order"],
    )
    audits = {kind: _audited(world, kind, deep=given.deep) for kind in world.streams}
    return report(
        world, watch, verdict, audits, fired, given, {"seed": seed, "sent_s": sent_s, "late_s": last["late_s"]}
    )


def _finish(world: Deployment, watch: Watch, settling_s: float) -> dict[str, Any]:
    """End the tape, and let everything arrive."""
    wait(lambda: listening(world), 120, "the feed is up")
    time.sleep(3)  # what is sent last tells what was not there before
    last = world.market.say("stop")
    time.sleep(3 + settling_s)
    world.services["producer"].wanted = False
    watch.stop()
    for name in ("producer", "bronze", "loader"):
        code = world.services[name].end()
        if code != 0:
            world.services[name].unexplained.append(f"{name} ended with {code} when it was stopped")
    bronze = list(world.services["bronze"].command)
    done = world.run(*bronze[2:], "--until-end")
    if done.returncode != 0:
        world.services["bronze"].unexplained.append(f"the last run ended with {done.returncode}: {done.stderr[-2000:]}")
    for kind in world.streams:
        done = world.run("load", *world.loading(kind), timeout_s=1800)
        if done.returncode != 0:
            world.services["loader"].unexplained.append(f"loading {kind}: {done.returncode}: {done.stderr[-2000:]}")
    return last


def _audited(world: Deployment, kind: str, *, deep: bool) -> dict[str, Any]:
    source = f"kafka://{world.broker.bootstrap}/{FEED}.{kind}"
    done = world.run(
        "audit",
        *world.loading(kind),
        "--source",
        source,
        "--caught-up",
        "--json",
        *(["--deep"] if deep else []),
        timeout_s=1800,
    )
    found = {"code": done.returncode, "deep": deep}
    if done.returncode != 0:
        found["said"] = f"{done.stdout[-2000:]} {done.stderr[-1000:]}"
    return found


def flat(memory: list[tuple[float, float]], minutes: float, sent_s: float) -> dict[str, Any]:
    """
    The resident memory in the last part of a run, where nobody ended a process: the last third of it against the first.

    A process that holds more because it cannot keep up has not grown: what it takes when all is stored counts then, against the
    least that it took in the first third.
    """
    began_s, ended_s = (ENDING_SHARE * 1.05) * minutes * 60, minutes * 60
    third_s = (ended_s - began_s) / 3
    parts = [
        [mib for at_s, mib in memory if began_s + n * third_s <= at_s < began_s + (n + 1) * third_s] for n in range(3)
    ]
    if not all(parts):
        return {"flat": False, "why": "not measured"}
    first, last = statistics.median(parts[0]), statistics.median(parts[2])
    least, rest = min(parts[0]), min((mib for at_s, mib in memory if at_s >= sent_s), default=last)
    peak = max(mib for _, mib in memory)
    return {
        "first_mib": round(first),
        "last_mib": round(last),
        "peak_mib": round(peak),
        "first_least_mib": round(least),
        "rest_mib": round(rest),
        "flat": _same(first, last) or _same(least, rest),
        "mib_by_minute": [round(mib) for at_s, mib in memory[::60]],
    }


def _same(before_mib: float, after_mib: float) -> bool:
    return after_mib <= max(before_mib * GROWTH, before_mib + GROWTH_MIB)


def report(
    world: Deployment,
    watch: Watch,
    verdict: Verdict,
    audits: dict[str, Any],
    fired: Counter[str],
    given: argparse.Namespace,
    more: dict[str, Any],
) -> int:
    """Write the results, and say whether all is well."""
    unexplained = [line for service in world.services.values() for line in service.unexplained] + watch.stuck
    seconds = [n for _, n in watch.numbers]
    rates = [(b - a) * len(SYMBOLS) for a, b in itertools.pairwise(seconds)]
    document = {
        "minutes": round(more["sent_s"] / 60, 1),
        "rate_wanted": given.rate,
        "rate": round(verdict.sent / more["sent_s"]),
        "rate_median_of_seconds": round(statistics.median(rates)) if rates else None,
        **more,
        "verdict": attrs.asdict(verdict),
        "audits": audits,
        "audits_meanwhile": {str(code): count for code, count in sorted(watch.audits.items())},
        "alarms": watch.alarms,
        "faults": dict(sorted(fired.items())),
        "starts": {name: service.starts for name, service in world.services.items()},
        "memory": {name: flat(world.services[name].memory, given.minutes, more["sent_s"]) for name in WATCHED},
        "ended_by_themselves": unexplained,
        "without": given.without,
    }
    if given.json:
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))
    if given.without:
        print("found" if verdict.unexplained else "NOTHING WAS FOUND")
        return 0 if verdict.unexplained else 1
    short = given.minutes < LONG_MINUTES
    wrong = [
        *([f"silver: {verdict}"] if not verdict.clean else []),
        *(f"audit of {kind}: {found}" for kind, found in audits.items() if found["code"] != 0),
        *(f"false alarm: {alarm[:500]}" for alarm in watch.alarms),
        *unexplained,
        *(f"memory of {name}: {about}" for name, about in document["memory"].items() if not (about["flat"] or short)),
    ]
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

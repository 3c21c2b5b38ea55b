"""
Breaks a real deployment at random and counts what is lost: ``python run.py --minutes N [--seed S]``.

A run is made of rounds. In each, a fresh topic is published to, headrace carries it into a fresh lake, faults are drawn from the
printed seed, and a reader looks at the lake all the while. Then the faults end, and what the brokers hold, read by Kafka's own
client, is compared record by record with what the lake holds, read by a parser of its own.

Ends with 0 if nothing was lost, doubled or changed, every fault that was drawn took effect, and the reader never saw a record
twice.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import attrs
from deployment import Brokers, Disk
from faults import FAULTS
from lakes import KINDS, Lakes
from rounds import SETTLE_S, TRIES, Fault, Outcome, play
from verdict import Verdict

from headrace.testing.servers.toxiproxy import Toxiproxy

FAULTS_A_ROUND = 5
EXTRA_S = 300.0

CONTROLS = {
    "condition": ("minio", "second deployment"),
    "hint": ("disk", "forged"),
    "base": ("disk", "second deployment"),
}
"""What is taken away, and where and by which fault that shows; see stream.py."""


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

    def again(self, names: list[str]) -> None:
        """Put those that did not take effect on top: they are drawn again, wherever they fit."""
        self._left = [f for f in self._faults if f.name in names] + [f for f in self._left if f.name not in names]


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
    parser.add_argument("--without", choices=tuple(CONTROLS), help="a negative control: must find something")
    parser.add_argument("--controls", action="store_true", help="play each negative control as well, at the end")
    parser.add_argument("--all", action="store_true", help="fail also where a fault was never drawn")
    parser.add_argument("--folder", type=Path, help="keep all logs there")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and all servers with it
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    chosen = [f for f in FAULTS if not given.fault or any(part in f.name for part in given.fault)]
    if not Disk.possible():
        print("no file system can be mounted here: no disk will be full")
        chosen = [f for f in chosen if f.name != "disk full"]
    kinds = chance.sample(given.lake or list(KINDS), len(given.lake or KINDS))
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
        more = True
        while more:
            kind = kinds[len(outcomes) % len(kinds)]
            drawn = deck.draw(kind, min(given.faults, len([f for f in chosen if kind in f.lakes])))
            number = len(outcomes) + 1
            outcome = play(chance, brokers, lakes.get(kind), folder / f"round-{number:03}", drawn, given.without)
            outcomes.append(outcome)
            tell(number, outcome)
            deck.again(outcome.missed)
            past_s = time.monotonic() - began_s
            # what did not take effect yet gets a few more rounds
            more = past_s < given.minutes * 60 or (bool(missing(outcomes)) and past_s < given.minutes * 60 + EXTRA_S)
            more = more and len(outcomes) < given.rounds
            report(outcomes, given, seed, {}, quiet=True)
        controls = {}
        for rule in CONTROLS if given.controls else ():
            controls[rule] = control(rule, chance, brokers, lakes, folder / f"without-{rule}")
    return report(outcomes, given, seed, controls)


def missing(outcomes: list[Outcome]) -> list[str]:
    """The faults that were drawn, and took effect in no round."""
    fired = {name for o in outcomes for name, _ in o.fired}
    return sorted({name for o in outcomes for name in o.missed} - fired)


def control(rule: str, chance: random.Random, brokers: Brokers, lakes: Lakes, folder: Path) -> Verdict:
    """Take a protection away and play until something is found; a few rounds at the most."""
    kind, wanted = CONTROLS[rule]
    faults = [f for f in FAULTS if wanted in f.name]
    for attempt in range(1, TRIES + 1):
        outcome = play(chance, brokers, lakes.get(kind), folder / f"{attempt}", faults, rule)
        found = outcome.verdict
        if found.passed_over or found.duplicated:
            break
    print(
        f"without {rule} ({kind}): lost {found.lost}, of which passed over {found.passed_over}, duplicated"
        f" {found.duplicated}, changed {found.changed}, broken objects {found.broken};"
        f" the reader saw a record twice at {outcome.doubled_looks} of {outcome.looks} looks",
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
        print(f"    ! not all records were in the lake after {SETTLE_S:.0f} s; the last that was said then:")
        for line in outcome.told:
            print(f"      {line}")
    sys.stdout.flush()


def report(
    outcomes: list[Outcome],
    given: argparse.Namespace,
    seed: int,
    controls: Mapping[str, Verdict],
    *,
    quiet: bool = False,
) -> int:
    """Write the results, and say whether all is well."""
    fired = Counter(name for o in outcomes for name, _ in o.fired)
    never = sorted({f.name for f in FAULTS if set(f.lakes) & set(given.lake or KINDS)} - fired.keys())
    found = Counter(
        {
            name: sum(getattr(o.verdict, name) for o in outcomes)
            for name in ("records", "segments", "lost", "passed_over", "duplicated", "changed", "disordered", "broken")
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
        "missed": dict(Counter(name for o in outcomes for name in o.missed)),
        "never_took_effect": missing(outcomes),
        "notes": dict(notes),
        "without": given.without,
        "controls": {
            rule: attrs.asdict(found, filter=attrs.filters.exclude("examples")) for rule, found in controls.items()
        },
        "bad_rounds": [n for n, o in enumerate(outcomes, 1) if not o.good],
    }
    if given.json:
        given.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if quiet:
        return 0
    print(json.dumps(document, indent=2))
    if given.without:
        wrong = found["passed_over"] + found["duplicated"] + found["broken"] + found["changed"]
        print(f"without the protection {given.without!r}: {'found' if wrong else 'NOTHING WAS FOUND'}")
        return 0 if wrong else 1
    bad = [n for n, o in enumerate(outcomes, 1) if not o.good]
    if bad:
        print(f"FAILED: rounds {bad}")
    if given.all and never:
        print(f"FAILED: never fired: {never}")
    if left := missing(outcomes):
        print(f"FAILED: did not take effect: {left}")
    blind = [rule for rule, seen in controls.items() if not (seen.passed_over or seen.duplicated)]
    if blind:
        print(f"FAILED: nothing was found without {blind}")
    return 1 if bad or blind or left or not outcomes or (given.all and never) else 0


if __name__ == "__main__":
    sys.exit(main())

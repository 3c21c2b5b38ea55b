"""Looks at warehouse, lake and log, in the order that lets nothing that comes in meanwhile look wrong (B30)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import attrs

from headrace.auditing.chains import View, dataset_of, known_digests, view
from headrace.auditing.examining import examine_all
from headrace.auditing.facts import Facts
from headrace.auditing.feed_gaps import beside, read_gaps
from headrace.auditing.judging import apart, compared, late, unseen
from headrace.auditing.numbers import Numbers
from headrace.auditing.objects import Pin, beside_folders, folders, number_of, read_pin
from headrace.auditing.result import AuditFinding
from headrace.auditing.unexplained import Judgement
from headrace.auditing.walking import judge
from headrace.errors import HeadraceError

T = TypeVar("T")
A = TypeVar("A")


@attrs.define(eq=False)
class Look:
    """
    One look at everything.

    Attributes:
        facts: Filled by `run`.

        pool: Reads several objects at once; None: the caller's thread does.
    """

    facts: Facts
    pool: ThreadPoolExecutor | None

    def run(self) -> None:
        """Warehouse, lake, log; then what looks wrong once more; then, where it was asked for, every byte."""
        facts = self.facts
        pin = facts.pin = self._find_pin()
        if pin is None:
            return
        if not facts.told(self._count, "rows", "the warehouse"):
            facts.tally = None
        if not facts.told(partial(self._walk, pin), "lake", "the lake"):
            return
        facts.told(self._ask, "source", "the source")
        if not facts.told(partial(self._walk_new, pin), "lake", "the lake"):
            return
        found = compared(facts, pin)
        suspects = {f.partition for f in found if f.kind != "unknown" and f.partition is not None}
        if suspects and facts.told(partial(self._look_again, pin, suspects), "lake", "the lake"):
            found = compared(facts, pin)
        facts.findings += self._still(found)
        facts.findings += late(facts)
        facts.findings += unseen(facts)
        facts.remarks += apart(facts)
        facts.told(self._beside, "lake", "the lake")
        facts.told(self._gaps, "numbers", "the lake")
        if facts.audit.deep and facts.told(self._read, "lake", "the lake"):
            facts.told(self._number, "numbers", "the lake")
        if facts.gaps is not None:
            facts.findings += facts.gaps.findings
            facts.remarks += facts.gaps.remarks

    # ---- the pin ------------------------------------------------------------------------------------------

    def _find_pin(self) -> Pin | None:
        facts = self.facts
        try:
            pin = facts.asked(lambda: read_pin(facts.audit.store, facts.root))
        except ValueError as exc:
            facts.find("corrupt", "pin", f"_headrace/dataset.json cannot be read: {exc}", "restore it from a copy")
            return None
        except HeadraceError as exc:
            facts.find("unknown", "pin", f"the lake did not answer: {exc}", "see that it can be read, and ask again")
            return None
        if pin is None:
            facts.told(self._miss_pin, "pin", "the lake")
        return pin

    def _miss_pin(self) -> None:
        facts = self.facts
        if facts.asked(lambda: folders(facts.audit.store, facts.root)):
            evidence = f"{facts.root} holds segments and no _headrace/dataset.json"
            facts.find("missing", "pin", evidence, "restore it from a copy")
        else:
            evidence = f"{facts.audit.store.place} has no stream {facts.root!r}"
            facts.find("unknown", "pin", evidence, "check the lake and the name")

    def _beside(self) -> None:
        """Who names no epoch may not know that there are several."""
        facts = self.facts
        if facts.audit.epoch:
            return
        name = facts.root[:-1]
        found = facts.asked(lambda: folders(facts.audit.store, "", f"{name}~"))
        if found:
            epochs = ", ".join(folder[len(name) + 1 :] for folder in found)
            facts.remarks.append(f"epochs of this stream: {epochs}; each is audited by itself (--epoch)")

    # ---- warehouse, lake, log -----------------------------------------------------------------------------

    def _count(self) -> None:
        facts, loader = self.facts, self.facts.audit.loader
        if loader is None:
            return
        facts.tally = facts.asked(lambda: loader.tally(facts.dataset, facts.audit.stream))
        if facts.tally is None:
            evidence = f"the warehouse has no table {loader.target}"
            facts.find("unknown", "rows", evidence, "check its name, or load it first")

    def _walk(self, pin: Pin) -> None:
        facts = self.facts
        names = facts.asked(lambda: folders(facts.audit.store, facts.root))
        numbers = {number_of(name) for name in names} - {None}
        for name in names:
            if number_of(name) is None:
                evidence = f"{facts.root}{name} is no partition's folder"
                facts.find("foreign", "lake", evidence, "move it out of the lake")
        known = set() if facts.tally is None else facts.tally.partitions
        for key in facts.asked(lambda: beside_folders(facts.audit.store, facts.root, pin.extension)):
            evidence = f"{key} lies beside the partitions' folders: who globs all of the stream reads it as well"
            facts.find("foreign", "lake", evidence, "move it out of the lake")
        for number in sorted({*(n for n in numbers if n is not None), *range(pin.partitions), *known}):
            facts.views[number] = self._view(number)
        self._judge(pin)

    def _view(self, number: int) -> View:
        facts = self.facts
        return facts.asked(lambda: view(facts.audit.store, facts.root, number, self._each, facts.scope.offsets))

    def _each(self, work: Callable[[A], T], things: Iterable[A]) -> Iterator[T]:
        for found in map(work, things) if self.pool is None else self.pool.map(work, things):
            self.facts.audit.observe(found)
            yield found

    def _judge(self, pin: Pin) -> None:
        facts = self.facts
        dataset = dataset_of(facts.views.values()) or pin.id
        homes = known_digests(facts.views.values())
        for number, seen in facts.views.items():
            facts.wanted[number] = facts.scope.range_of(seen.links)
            first = seen.listing.segments[0].start if seen.listing.segments else 0
            whole = facts.scope.start in (0, first) or facts.scope.start < first
            facts.judged[number] = judge(seen, dataset, facts.audit.stream, pin.extension, homes, whole=whole)

    def _ask(self) -> None:
        facts, source = self.facts, self.facts.audit.source
        if source is not None:
            found = facts.asked(source.extents)
            facts.extents = {p: extent for p, extent in found.items() if p.stream == facts.audit.stream}

    def _walk_new(self, pin: Pin) -> None:
        """Partitions that only the log knows: the lake has none of their records yet, or no more."""
        facts = self.facts
        new = {partition.number for partition in facts.extents or ()} - facts.views.keys()
        for number in sorted(new):
            facts.views[number] = self._view(number)
        if new:
            self._judge(pin)
            self._ask()

    def _look_again(self, pin: Pin, numbers: Iterable[int]) -> None:
        """What is wrong must still be wrong: a listing may have been overtaken by a writer, or by `expire`."""
        facts = self.facts
        for number in numbers:
            if number in facts.views:
                facts.views[number] = self._view(number)
        self._judge(pin)
        if facts.audit.source is not None and facts.extents is not None:
            self._ask()

    def _still(self, found: Sequence[AuditFinding]) -> list[AuditFinding]:
        """Without what was expired only after a load that came behind the look at the ledger."""
        facts, loader = self.facts, self.facts.audit.loader
        behind = [f for f in found if f.kind == "gap" and f.where == "ledger"]
        if not behind or loader is None:
            return list(found)
        now = facts.asked(lambda: loader.tally(facts.dataset, facts.audit.stream))
        gone = [
            f for f in behind if now is not None and (now.position(facts.partition(f.partition or 0)) or 0) >= f.end
        ]
        return [f for f in found if f not in gone]

    # ---- deep ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        facts = self.facts
        loader = facts.audit.loader
        if facts.contracts is not None and facts.tally is not None and loader is not None:
            facts.contracts = facts.contracts.of_table(facts.asked(loader.described))
        numbers = facts.numbers = Numbers(facts.gaps.field if facts.gaps is not None and facts.scope.whole else "")
        facts.deep = examine_all(
            facts.audit,
            facts.judged,
            facts.views,
            facts.extents or {},
            facts.tally,
            facts.wanted,
            facts.contracts,
            numbers,
            self.pool,
        )
        for deep in facts.deep.values():
            facts.findings += deep.findings
            facts.remarks += deep.remarks

    # ---- what a feed did not send -------------------------------------------------------------------------

    def _gaps(self) -> None:
        self.facts.gaps = read_gaps(self.facts.audit)

    def _number(self) -> None:
        """Gaps are read again: what came in meanwhile may have one of its own, and a record may fill one."""
        facts, numbers = self.facts, self.facts.numbers
        if numbers is None:
            return
        if facts.gaps is None:
            if numbers.of_a_feed and (name := beside(facts.audit)):
                facts.remarks.append(f"what the feed did not send: the lake has no stream {name}")
            return
        if facts.gaps.field and not facts.scope.whole:
            facts.remarks.append("numbers that the feed left out: they are looked for only in all of a stream")
        self._gaps()
        if not numbers.field:
            return
        judgement = Judgement(numbers, facts.gaps, facts.audit.now_ns)
        judgement.judge()
        facts.findings += judgement.findings
        facts.remarks += judgement.remarks
        facts.absent = judgement.absent

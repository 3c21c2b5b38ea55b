"""An audit as an object: what it looks at, in which order, and what it makes of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import attrs

import headrace
from headrace.auditing.asked import Asked
from headrace.auditing.chains import Judged, View, dataset_of, judge, known_digests, view
from headrace.auditing.deep import Deep, examine_all
from headrace.auditing.logs import identity_findings, log_findings
from headrace.auditing.objects import Pin, folders, number_of, read_pin, root_of
from headrace.auditing.result import AuditFinding, AuditResult, Kind, PartitionAudit, Where, joined
from headrace.auditing.scope import Scope
from headrace.auditing.spans import spans
from headrace.auditing.tables import partition_findings, target_findings
from headrace.errors import HeadraceError, TransientError
from headrace.records import Extent, Partition
from headrace.retry import Retry
from headrace.tally import Tally

T = TypeVar("T")
A = TypeVar("A")


@attrs.define(kw_only=True, eq=False)
class Audit(Asked):
    """
    Compares log, lake and warehouse. Safe while everything runs: it writes nothing, and joins no consumer group.

    Attributes:
        store: Under the lake.

        stream: Whose.

        epoch: Of the stream; "" for the first one.

        source: The log that it was made from; None: it is not compared with one.

        loader: Of the target; None: there is none.

        source_name: The source's, for people.

        loader_name: The target's.

        typed: With `deep`, rows are compared cell by cell by the loader's contract. False: the contract is not known.

        deep: Read every object, line by line; compare with the log record by record, as far as it still has them, and with the
            warehouse row by row.

        since: Only from this offset on, or from this time on, ISO-8601 with a zone.

        until: Only up to there.

        caught_up: What is on its way makes the stream incomplete.

        workers: How many objects are read at once; 1: no thread but the caller's takes part.

        retry_for_s: How long what does not answer is tried.

        observe: Called with each object or range that was looked at.

        clock: Monotonic seconds.
    """

    def run(self) -> AuditResult:
        """
        Look at everything and say what was found.

        What does not answer is a finding of the kind "unknown", never an error.

        Raises:
            ConfigError: `since` or `until` is neither an offset nor a time.
        """
        began, moment = self.clock(), datetime.now(UTC).isoformat(timespec="seconds")
        with ExitStack() as stack:
            pool = None
            if self.workers > 1:
                pool = stack.enter_context(ThreadPoolExecutor(self.workers, thread_name_prefix="headrace-audit"))
            found = _Run(self, Scope.of(self.since, self.until), pool)
            found.look()
        return attrs.evolve(found.result(), began_at=moment, elapsed_s=round(self.clock() - began, 3))


@attrs.define
class _Run:
    audit: Audit
    scope: Scope
    pool: ThreadPoolExecutor | None
    root: str = attrs.field(init=False)
    pin: Pin | None = attrs.field(default=None, init=False)
    dataset: str = attrs.field(default="", init=False)
    tally: Tally | None = attrs.field(default=None, init=False)
    views: dict[int, View] = attrs.field(factory=dict, init=False)
    judged: dict[int, Judged] = attrs.field(factory=dict, init=False)
    wanted: dict[int, tuple[int, int | None]] = attrs.field(factory=dict, init=False)
    extents: Mapping[Partition, Extent] | None = attrs.field(default=None, init=False)
    deep: dict[int, Deep] = attrs.field(factory=dict, init=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    remarks: list[str] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.root = root_of(self.audit.stream, self.audit.epoch)

    # ---- looking, against the flow (B30) ------------------------------------------------------------------

    def look(self) -> None:
        """Warehouse, lake, log; then what looks wrong once more."""
        pin = self.pin = self._find_pin()
        if pin is None:
            return
        self.dataset = pin.id
        if not self._told(self._count, "rows", "the warehouse"):
            self.tally = None
        if not self._told(partial(self._walk, pin), "lake", "the lake"):
            return
        self._told(self._ask, "source", "the source")
        found = self._compared(pin)
        suspects = {f.partition for f in found if f.kind != "unknown" and f.partition is not None}
        if suspects and self._told(partial(self._look_again, pin, suspects), "lake", "the lake"):
            found = self._compared(pin)
        self.findings += found
        self.findings += self._late()
        if self.audit.deep:
            self._told(self._read, "lake", "the lake")

    def _find_pin(self) -> Pin | None:
        try:
            pin = self._asked(lambda: read_pin(self.audit.store, self.root))
        except ValueError as exc:
            self._find("corrupt", "pin", f"_headrace/dataset.json cannot be read: {exc}", "restore it from a copy")
            return None
        except HeadraceError as exc:
            self._find("unknown", "pin", f"the lake did not answer: {exc}", "see that it can be read, and ask again")
            return None
        if pin is None:
            self._told(self._miss_pin, "pin", "the lake")
        return pin

    def _miss_pin(self) -> None:
        if self._asked(lambda: folders(self.audit.store, self.root)):
            evidence = f"{self.root} holds segments and no _headrace/dataset.json"
            self._find("missing", "pin", evidence, "restore it from a copy")
        else:
            evidence = f"{self.audit.store.place} has no stream {self.root!r}"
            self._find("unknown", "pin", evidence, "check the lake and the name")

    def _count(self) -> None:
        loader = self.audit.loader
        if loader is None:
            return
        self.tally = self._asked(lambda: loader.tally(self.dataset, self.audit.stream))
        if self.tally is None:
            self._find(
                "unknown", "rows", f"the warehouse has no table {loader.target}", "check its name, or load it first"
            )

    def _walk(self, pin: Pin) -> None:
        names = self._asked(lambda: folders(self.audit.store, self.root))
        numbers = {number_of(name) for name in names} - {None}
        for name in names:
            if number_of(name) is None:
                self._find("foreign", "lake", f"{self.root}{name} is no partition's folder", "move it out of the lake")
        every = sorted({*(n for n in numbers if n is not None), *range(pin.partitions)})
        for number in every:
            self.views[number] = self._view(number)
        self._judge(pin)

    def _view(self, number: int) -> View:
        return self._asked(lambda: view(self.audit.store, self.root, number, self._each, self.scope.offsets))

    def _each(self, work: Callable[[A], T], things: Iterable[A]) -> Iterator[T]:
        for found in map(work, things) if self.pool is None else self.pool.map(work, things):
            self.audit.observe(found)
            yield found

    def _judge(self, pin: Pin) -> None:
        dataset = dataset_of(self.views.values()) or pin.id
        homes = known_digests(self.views.values())
        for number, seen in self.views.items():
            self.wanted[number] = self.scope.range_of(seen.links)
            self.judged[number] = judge(
                seen, dataset, self.audit.stream, pin.extension, homes, whole=self.scope.start == 0
            )

    def _ask(self) -> None:
        source = self.audit.source
        if source is not None:
            found = self._asked(source.extents)
            self.extents = {p: extent for p, extent in found.items() if p.stream == self.audit.stream}

    def _look_again(self, pin: Pin, numbers: Iterable[int]) -> None:
        """What is wrong must still be wrong: a listing may have been overtaken by a writer, or by `expire`."""
        for number in numbers:
            if number in self.views:
                self.views[number] = self._view(number)
        self._judge(pin)
        if self.audit.source is not None and self.extents is not None:
            self._ask()

    # ---- judging ------------------------------------------------------------------------------------------

    def _compared(self, pin: Pin) -> list[AuditFinding]:
        found = list(self._pinned(pin))
        if self.extents is not None:
            found += identity_findings(pin, self.extents)
        if self.tally is not None and self.scope.whole:
            found += target_findings(self.tally)
        for number, judged in self.judged.items():
            partition, wanted = Partition(self.audit.stream, number), self.wanted[number]
            found += [f for f in judged.findings if f.end > wanted[0] and (wanted[1] is None or f.start < wanted[1])]
            if self.extents:
                count = max(extent.identity.partitions for extent in self.extents.values())
                found += log_findings(judged, self.extents.get(partition), count)
            if self.tally is not None:
                found += partition_findings(self.tally, partition, judged, wanted)
        return found

    def _pinned(self, pin: Pin) -> Iterator[AuditFinding]:
        """Whether the pin is the one that the segments were written under."""
        dataset = dataset_of(self.views.values())
        if dataset is not None and dataset != pin.id:
            evidence = f"the pin says dataset {pin.id}, every segment says {dataset}"
            yield AuditFinding(
                "changed", "pin", None, 0, 0, evidence, "restore the pin from a copy: its id never changes"
            )
        if pin.fields.get("stream") != self.audit.stream:
            evidence = f"the pin says stream {pin.fields.get('stream')!r}, its place {self.audit.stream!r}"
            yield AuditFinding("changed", "pin", None, 0, 0, evidence, "restore the pin from a copy")
        if pin.fields.get("layout") != 1 or not pin.extension:
            evidence = (
                f"layout {pin.fields.get('layout')!r}, format {pin.fields.get('format')!r}: not what this audit reads"
            )
            yield AuditFinding("unknown", "pin", None, 0, 0, evidence, "audit it with a newer headrace")

    def _late(self) -> list[AuditFinding]:
        """What is behind, where everything was asked to have arrived."""
        if not self.audit.caught_up:
            return []
        found = []
        for number, judged in self.judged.items():
            partition, (_, until) = Partition(self.audit.stream, number), self.wanted[number]
            extent = (self.extents or {}).get(partition)
            end = None if extent is None else extent.end if until is None else min(extent.end, until)
            if extent is not None and end is not None and max(extent.low, judged.end) < end:
                start = max(extent.low, judged.end)
                if self._has_record(partition, start, end):
                    evidence = f"the chain ends at {judged.end}, the log at {extent.end}"
                    advice = "let the stream run until it is through (headrace stream --until-end)"
                    found.append(AuditFinding("behind", "lake", number, start, end, evidence, advice))
            if self.tally is not None:
                position = max(self.tally.position(partition) or 0, judged.start)
                last = judged.end if until is None else min(judged.end, until)
                if position < last:
                    evidence = f"the ledger is at {position}, the chain ends at {judged.end}"
                    found.append(AuditFinding("behind", "rows", number, position, last, evidence, "run headrace load"))
        return found

    def _has_record(self, partition: Partition, start: int, end: int) -> bool:
        """Whether a record is there and not only holes; where the source cannot say it counts as one."""
        source = self.audit.source
        try:
            return source is None or next(iter(source.reread(partition, start, end)), None) is not None
        except HeadraceError:
            return True

    # ---- deep ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self.deep = examine_all(
            self.audit, self.judged, self.views, self.extents or {}, self.tally, self.wanted, self.pool
        )
        for deep in self.deep.values():
            self.findings += deep.findings
            self.remarks += deep.remarks

    # ---- what comes of it ---------------------------------------------------------------------------------

    def result(self) -> AuditResult:
        """Put it together."""
        audit, pin = self.audit, self.pin
        return AuditResult(
            stream=audit.stream,
            lake=audit.store.place,
            epoch=audit.epoch,
            dataset_id=self.dataset,
            pin={} if pin is None else {k: v for k, v in pin.fields.items() if k not in ("id", "stream", "epoch")},
            source="" if audit.source is None else audit.source_name or type(audit.source).__name__,
            warehouse="" if audit.loader is None else audit.loader_name or audit.loader.target,
            deep=audit.deep,
            scope=str(self.scope),
            partitions=[self._partition(number) for number in sorted(self.judged)],
            findings=joined(self.findings),
            remarks=list(dict.fromkeys(self.remarks)),
            versions={"headrace": headrace.__version__, "Python": platform.python_version()},
        )

    def _partition(self, number: int) -> PartitionAudit:
        judged, partition = self.judged[number], Partition(self.audit.stream, number)
        extent, tally, deep = (self.extents or {}).get(partition), self.tally, self.deep.get(number)
        said = [link.said for link in judged.links]
        loads = [] if tally is None else [r for r in tally.ledger if r.partition == partition]
        return PartitionAudit(
            number=number,
            low=None if extent is None else extent.low,
            log_end=None if extent is None else extent.end,
            chain_start=judged.start,
            chain_end=judged.end,
            segments=len(said),
            records=sum(s.records for s in said),
            nbytes=sum(link.named.item.size for link in judged.links),
            min_ms=min((s.min_ms for s in said), default=None),
            max_ms=max((s.max_ms for s in said), default=None),
            digest=judged.digest if said else "",
            ledger_end=None if tally is None else tally.position(partition) or 0,
            ledger_records=None if tally is None else sum(r.records for r in loads),
            rows=None if tally is None else tally.of.get(partition, 0),
            quarantined=None if tally is None else tally.refused.get(partition, 0),
            superseded=None if tally is None else sum(r.superseded for r in loads),
            compared=None if deep is None else deep.compared,
            holes=judged.holes if deep is None else deep.holes,
            spans=spans(judged, extent, tally, partition),
        )

    # ---- asking -------------------------------------------------------------------------------------------

    def _asked(self, call: Callable[[], T]) -> T:
        return Retry(for_s=self.audit.retry_for_s)(call)

    def _told(self, work: Callable[[], object], where: Where, who: str) -> bool:
        """Do it; what did not answer is a finding. Says whether it was done."""
        try:
            work()
        except TransientError as exc:
            self._find("unknown", where, f"{who} did not answer: {exc}", "see that it is there, and ask again")
            return False
        except HeadraceError as exc:
            self._find("unknown", where, f"{who} could not be read: {exc}", "do what the message says, and ask again")
            return False
        return True

    def _find(self, kind: Kind, where: Where, evidence: str, advice: str) -> None:
        self.findings.append(AuditFinding(kind, where, None, 0, 0, evidence, advice))


def audit(
    lake: str,
    warehouse: str = "",
    *,
    source: str = "",
    stream: str = "",
    epoch: str = "",
    contract: type | None = None,
    deep: bool = False,
    since: int | str | None = None,
    until: int | str | None = None,
    caught_up: bool = False,
) -> AuditResult:
    """
    Compare what URIs name, from the log's offsets to the warehouse's rows, and say what is wrong, where, and what to do.

    Args:
        lake: Such as ``file:///lake``.

        warehouse: Such as ``duckdb:///silver.duckdb?table=trades``; "" for none.

        source: Such as ``kafka://127.0.0.1:9092/trades``; "" for none. No group is joined.

        stream: Its name, where the lake has several.

        epoch: As for `headrace.Chain.open`.

        contract: What a row is: with *deep*, rows are compared cell by cell.

        deep: As for `headrace.Audit`, and so are the next three.

        since: From there on.

        until: Up to there.

        caught_up: What is on its way counts as not complete.

    Raises:
        ConfigError: A URI is wrong, or the lake has several streams and none is named.
    """
    from headrace.auditing.making import made, unanswered  # noqa: PLC0415 - plugins are found when a URI is to be made

    with ExitStack() as stack:
        try:
            run = made(stack, lake, warehouse, source=source, stream=stream, epoch=epoch, contract=contract)
        except TransientError as error:
            return unanswered(lake, stream, error)
        run.deep, run.since, run.until, run.caught_up = deep, since, until, caught_up
        return run.run()

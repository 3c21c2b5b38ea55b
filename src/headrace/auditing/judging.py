"""What the pin, the chains, the log and the tables say of each other, by names, trailers and counts."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.auditing.chains import Judged, dataset_of
from headrace.auditing.facts import Facts
from headrace.auditing.logs import identity_findings, identity_remarks, log_findings
from headrace.auditing.objects import Pin
from headrace.auditing.result import AuditFinding
from headrace.auditing.tables import partition_findings, target_findings
from headrace.errors import HeadraceError
from headrace.records import Extent


def compared(facts: Facts, pin: Pin) -> list[AuditFinding]:
    """Hold everything against everything else."""
    found = list(_pinned(facts, pin))
    if facts.extents is not None:
        found += identity_findings(pin, facts.extents)
    if facts.tally is not None and facts.scope.whole:
        found += target_findings(facts.tally)
    for number, judged in facts.judged.items():
        wanted = facts.wanted[number]
        found += [f for f in judged.findings if f.end > wanted[0] and (wanted[1] is None or f.start < wanted[1])]
        if facts.extents:
            count = max(extent.identity.partitions for extent in facts.extents.values())
            found += log_findings(judged, facts.extent(number), count)
        if facts.tally is not None:
            found += partition_findings(facts.tally, facts.partition(number), judged, wanted)
    return found


def _pinned(facts: Facts, pin: Pin) -> Iterator[AuditFinding]:
    """Whether the pin is the one that the segments were written under."""
    dataset = dataset_of(facts.views.values())
    if dataset is not None and dataset != pin.id:
        evidence = f"the pin says dataset {pin.id}, every segment says {dataset}"
        yield AuditFinding("changed", "pin", None, 0, 0, evidence, "restore the pin from a copy: its id never changes")
    for what, place in (("stream", facts.audit.stream), ("epoch", facts.audit.epoch)):
        if pin.fields.get(what, "") != place:
            evidence = f"the pin says {what} {pin.fields.get(what)!r}, its place {place!r}"
            yield AuditFinding("changed", "pin", None, 0, 0, evidence, "restore the pin from a copy")
    if pin.fault:
        evidence = f"_headrace/dataset.json says {pin.fault}: that cannot be"
        yield AuditFinding("corrupt", "pin", None, 0, 0, evidence, "restore it from a copy")
    if pin.fields.get("layout") != 1 or not pin.extension:
        evidence = (
            f"layout {pin.fields.get('layout')!r}, format {pin.fields.get('format')!r}: not what this audit reads"
        )
        yield AuditFinding("unknown", "pin", None, 0, 0, evidence, "audit it with a newer headrace")


def unseen(facts: Facts) -> list[AuditFinding]:
    """An audit of nothing proves nothing, unless the log says that there is nothing; and so for a table that was never loaded."""
    if facts.findings:
        return []
    found = []
    if not _is_anything_seen(facts) and not _is_quiet_time(facts):
        extents = [facts.extent(number) for number in facts.judged]
        held = facts.extents is None or any(
            extent is None or _is_behind(facts, judged, extent)
            for extent, judged in zip(extents, facts.judged.values(), strict=True)
        )
        if held:
            what = "this stream" if facts.scope.whole else f"the part that was asked for, {facts.scope}"
            evidence = f"{facts.audit.store.place} has no segment of {what}: there was nothing to look at"
            advice = "check the name and the part, and that the stream runs; were there segments, look who deleted them"
            found.append(AuditFinding("unknown", "lake", None, 0, 0, evidence, advice))
    elif facts.tally is not None and not facts.tally.ledger:
        evidence = f"{facts.tally.target} was never loaded from this stream (dataset {facts.dataset})"
        found.append(AuditFinding("unknown", "rows", None, 0, 0, evidence, "check its name, or load it first"))
    if facts.audit.caught_up and facts.audit.source is None and facts.audit.loader is None:
        evidence = "whether all has arrived is told by a source or a table, and none was given"
        found.append(AuditFinding("unknown", "lake", None, 0, 0, evidence, "name the source (--source), or the table"))
    return found


def _is_anything_seen(facts: Facts) -> bool:
    return any(facts.is_wanted(link) for judged in facts.judged.values() for link in judged.links)


def _is_quiet_time(facts: Facts) -> bool:
    """Whether a time was asked for in which nothing came, as of a market on a Sunday; offsets that are not there are no such."""
    chained = any(judged.links for judged in facts.judged.values())
    return facts.scope.timed and chained and not _is_anything_seen(facts)


def apart(facts: Facts) -> Iterator[str]:
    """What lies beside all this, and was not looked at."""
    if facts.extents:
        yield from identity_remarks(facts.extents)
    if _is_quiet_time(facts):
        yield f"no segment holds a record {facts.scope}: of that part there was nothing to look at"
    if facts.tally is not None and (others := facts.tally.rows - sum(facts.tally.of.values())) > 0:
        yield f"{others:,} rows of {facts.tally.target} are of other streams or datasets: they were only counted"


def late(facts: Facts) -> list[AuditFinding]:
    """What is behind, where everything was asked to have arrived."""
    if not facts.audit.caught_up:
        return []
    return [finding for number, judged in facts.judged.items() for finding in _late(facts, number, judged)]


def _late(facts: Facts, number: int, judged: Judged) -> Iterator[AuditFinding]:
    _, until = facts.wanted[number]
    extent = facts.extent(number)
    if extent is not None:
        start, end = max(extent.low, judged.end), extent.end if until is None else min(extent.end, until)
        if _is_behind(facts, judged, extent):
            evidence = f"the chain ends at {judged.end}, the log at {extent.end}"
            advice = "let the stream run until it is through (headrace stream --until-end)"
            yield AuditFinding("behind", "lake", number, start, end, evidence, advice)
    if facts.tally is not None:
        position = max(facts.tally.position(facts.partition(number)) or 0, judged.start)
        last = judged.end if until is None else min(judged.end, until)
        if position < last:
            evidence = f"the ledger is at {position}, the chain ends at {judged.end}"
            yield AuditFinding("behind", "rows", number, position, last, evidence, "run headrace load")


def _is_behind(facts: Facts, judged: Judged, extent: Extent) -> bool:
    _, until = facts.wanted[judged.number]
    start, end = max(extent.low, judged.end), extent.end if until is None else min(extent.end, until)
    return start < end and _has_record(facts, judged.number, start, end)


def _has_record(facts: Facts, number: int, start: int, end: int) -> bool:
    """Whether a record is there and not only holes; where the source cannot say it counts as one."""
    source = facts.audit.source
    try:
        return source is None or next(iter(source.reread(facts.partition(number), start, end)), None) is not None
    except HeadraceError:
        return True

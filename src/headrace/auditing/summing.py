"""Puts what was seen into one result."""

from __future__ import annotations

import platform

import attrs

import headrace
from headrace.auditing.facts import Facts
from headrace.auditing.joining import joined
from headrace.auditing.result import AuditResult, FeedGap, PartitionAudit
from headrace.auditing.spans import spans

_OF_THE_RESULT = ("id", "stream", "epoch")
"""What of a pin the result says in fields of its own."""


def summed(facts: Facts) -> AuditResult:
    """Return the result of a look that is through; its times are whoever's who looked at a clock."""
    audit, pin = facts.audit, facts.pin
    return AuditResult(
        stream=audit.stream,
        lake=audit.store.place,
        epoch=audit.epoch,
        dataset_id=facts.dataset,
        pin={} if pin is None else {k: v for k, v in pin.fields.items() if k not in _OF_THE_RESULT},
        source="" if audit.source is None else audit.source_name or type(audit.source).__name__,
        warehouse="" if audit.loader is None else audit.loader_name or audit.loader.target,
        deep=audit.deep,
        scope=str(facts.scope),
        partitions=[_partition(facts, number) for number in sorted(facts.judged)],
        findings=joined(facts.findings),
        remarks=list(dict.fromkeys(facts.remarks)),
        gaps=_gaps(facts),
        gaps_of="" if facts.gaps is None else facts.gaps.stream,
        counted=facts.numbers.counted if facts.numbers is not None and facts.numbers.field else None,
        versions={"headrace": headrace.__version__, "Python": platform.python_version()},
    )


def _gaps(facts: Facts) -> list[FeedGap]:
    """Those of the time that was asked for, each with what of it is not there."""
    told = [] if facts.gaps is None else facts.gaps.told
    low, high = facts.scope.times_ns
    return [
        attrs.evolve(each.gap, absent=facts.absent.get(id(each)))
        for each in told
        if each.ended_ns >= low and (high is None or each.began_ns < high)
    ]


def _partition(facts: Facts, number: int) -> PartitionAudit:
    judged, partition = facts.judged[number], facts.partition(number)
    extent, tally, deep = facts.extent(number), facts.tally, facts.deep.get(number)
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

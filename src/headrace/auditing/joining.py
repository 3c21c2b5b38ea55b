"""Findings as they are told: sorted, each once, and what touches and says the same as one."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from headrace.auditing.result import AuditFinding


def joined(findings: Iterable[AuditFinding]) -> list[AuditFinding]:
    """Sort findings, leave out what another one says more closely, and make one of those that touch and say the same."""
    once = {(*_kind(f), f.start, f.end): f for f in reversed(list(findings))}
    found: list[AuditFinding] = []
    count = 1
    for finding in sorted(_closest(once.values()), key=_place):
        last = found[-1] if found else None
        if (
            last is not None
            and last.end == finding.start
            and last.where != "numbers"
            and (_kind(last), last.advice) == (_kind(finding), finding.advice)
        ):
            count += 1
            first = last.evidence.rpartition(" (and the ")[0] or last.evidence
            found[-1] = attrs.evolve(last, end=finding.end, evidence=f"{first} (and the {count - 1:,} behind it)")
        else:
            count = 1
            found.append(finding)
    return found


def _closest(findings: Iterable[AuditFinding]) -> Iterable[AuditFinding]:
    """Without those that hold another one of their kind: a range in which a row is missing, where the row is known."""
    by_kind: dict[tuple[object, ...], list[AuditFinding]] = {}
    for finding in findings:
        by_kind.setdefault((finding.kind, finding.where), []).append(finding)
    yield from by_kind.pop(("missing", "numbers"), ())  # ranges of different symbols lie across each other
    for alike in by_kind.values():
        apart = sorted((f for f in alike if f.partition is not None), key=lambda f: (f.partition, f.start, -f.end))
        yield from (f for f in alike if f.partition is None and (not apart or f.kind not in _SUMMED))
        for i, finding in enumerate(apart):
            inside = apart[i + 1] if i + 1 < len(apart) else None
            if inside is None or inside.partition != finding.partition or inside.end > finding.end:
                yield finding


_SUMMED = ("missing", "duplicate")
"""What of a table with a key is known as a sum first."""


def _kind(finding: AuditFinding) -> tuple[object, ...]:
    return finding.kind, finding.where, finding.partition


def _place(finding: AuditFinding) -> tuple[object, ...]:
    return -1 if finding.partition is None else finding.partition, finding.start, finding.where, finding.kind

"""Compares what the brokers hold with what the lake holds: both read by others than the library under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from headrace.records import Record
from headrace.testing.oracle import StoredPartition, read_lake


@attrs.frozen(kw_only=True)
class Verdict:
    """
    What was found; all but records and segments must be 0.

    Attributes:
        records: Published, committed and still in the log.

        segments: Objects in the lake.

        lost: Published and not stored.

        passed_over: Those of them behind which something of their partition is stored: no waiting brings them.

        duplicated: Stored again.

        changed: Stored otherwise than published, or never published.

        disordered: Places where an offset does not rise within its partition.

        broken: Objects that do not fit their name, their trailer or the chain.

        examples: Of what is wrong.
    """

    records: int
    segments: int
    lost: int
    passed_over: int
    duplicated: int
    changed: int
    disordered: int
    broken: int
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.changed or self.disordered or self.broken)


def judge(published: Mapping[tuple[int, int], Record], objects: Mapping[str, bytes], stream: str) -> Verdict:
    """Compare record by record, object by object."""
    lake = read_lake(objects, stream)
    stored = [((number, r.offset), r) for number, about in lake.items() for r in about.records]
    times = Counter(place for place, _ in stored)
    lost = [place for place in published if place not in times]
    last = {number: max(r.offset for r in about.records) for number, about in lake.items() if about.records}
    duplicated = [place for place, count in times.items() if count > 1]
    changed = [place for place, record in stored if published.get(place) != record]
    broken = [fault for number, about in lake.items() for fault in _faults(number, about)]
    disordered = [
        (number, b.offset)
        for number, about in lake.items()
        for a, b in zip(about.records, about.records[1:], strict=False)
        if b.offset <= a.offset
    ]
    examples = [
        *(f"lost: {place}" for place in lost[:5]),
        *(f"duplicated: {place}" for place in duplicated[:5]),
        *(f"changed: {place}: {published.get(place)}" for place in changed[:3]),
        *broken[:5],
    ]
    return Verdict(
        records=len(published),
        segments=sum(len(about.segments) for about in lake.values()),
        lost=len(lost),
        passed_over=sum(offset < last.get(number, -1) for number, offset in lost),
        duplicated=sum(times[place] - 1 for place in duplicated),
        changed=len(changed),
        disordered=len(disordered),
        broken=len(broken),
        examples=tuple(examples),
    )


def _faults(number: int, about: StoredPartition) -> list[str]:
    found, position = [], 0
    for segment in about.segments:
        if segment.fault:
            found.append(f"partition {number}: {segment.key}: {segment.fault}")
        if segment.start != position:
            found.append(f"partition {number}: {segment.key} does not begin at {position}")
        position = segment.end
    return found

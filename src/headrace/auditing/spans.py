"""The picture of a partition: ranges of offsets, and how far each is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from headrace.auditing.chains import Judged
from headrace.auditing.result import Span
from headrace.records import Extent, Partition
from headrace.tally import Tally

_MOST = 400


def spans(judged: Judged, extent: Extent | None, tally: Tally | None, partition: Partition) -> Sequence[Span]:
    """Draw it, with at most a few hundred ranges: what says the same and touches is one."""
    found = sorted(_every(judged, extent, tally, partition), key=lambda span: span.start)
    return found if len(found) <= _MOST else list(_merged(found))


def _every(judged: Judged, extent: Extent | None, tally: Tally | None, partition: Partition) -> Iterator[Span]:
    if judged.expired is not None:
        yield Span("expired", *judged.expired)
    for start, end in judged.damaged:
        yield Span("missing", start, end)
    loads = {} if tally is None else {r.start: r for r in tally.ledger if r.partition == partition and r.kind == "load"}
    for link in judged.links:
        said = link.said
        if judged.is_damaged(said.start, said.end):
            continue
        load = loads.get(said.start)
        if load is None:
            yield Span("in the lake", said.start, said.end, said.records)
        else:
            yield Span("loaded", said.start, said.end, said.records, load.distinct_quarantined)
    if extent is not None and extent.end > max(extent.low, judged.end):
        yield Span("in the log", max(extent.low, judged.end), extent.end)


def _merged(found: Iterable[Span]) -> Iterator[Span]:
    last: Span | None = None
    for span in found:
        if last is not None and (last.state, last.end) == (span.state, span.start):
            records, quarantined = last.records + span.records, last.quarantined + span.quarantined
            last = attrs.evolve(last, end=span.end, records=records, quarantined=quarantined)
        else:
            if last is not None:
                yield last
            last = span
    if last is not None:
        yield last

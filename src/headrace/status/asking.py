"""Asks log, lake and warehouse how far they are. Nothing is written, no group is joined, no record is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from headrace.chain import Chain
from headrace.errors import DataError, HeadraceError
from headrace.loader import Line, Loader
from headrace.records import Extent, Partition
from headrace.segment import Segment
from headrace.status.result import PartitionStatus
from headrace.store import Page, Store

_AT_ONCE = 8


class CountedStore(Store):
    """A store that knows how often it was asked."""

    def __init__(self, inside: Store) -> None:
        self._inside = inside
        self.place = inside.place
        self.requests = 0

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        raise AssertionError("a look writes nothing")

    def list(self, prefix: str, after: str = "") -> Page:
        self.requests += 1
        return self._inside.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self.requests += 1
        return self._inside.read(key, start, end)

    def close(self) -> None:
        self._inside.close()


@attrs.frozen
class Asked:
    """
    What the places said of one stream.

    Attributes:
        partitions: Ascending.

        errors: By partition what could not be told of its chain.
    """

    partitions: Sequence[PartitionStatus]
    errors: Mapping[int, HeadraceError]


def ask(
    chain: Chain,
    loader: Loader | None,
    extents: Mapping[Partition, Extent],
    before: Mapping[int, int],
    *,
    alone: bool,
) -> Asked:
    """
    Ask about a stream's partitions, those of the log as well.

    Args:
        chain: Of the stream.

        loader: Of the table; None: there is none.

        extents: Of the log; empty where none was named.

        before: Where each partition's last segment started at the last look: one LIST finds it from there.

        alone: The table is this stream's: where it was never loaded it lacks all. Otherwise it is another one's.

    Raises:
        HeadraceError: Lake or warehouse did not answer.
    """
    stream = chain.dataset.stream
    ours = {p.number: extent for p, extent in extents.items() if p.stream == stream and made_from(chain, extent)}
    numbers = sorted({*chain.partitions(), *ours})
    errors: dict[int, HeadraceError] = {}

    def newest(number: int) -> Segment | None:
        high = ours[number].high if number in ours else None
        try:
            return chain.newest(number, before.get(number), high)
        except DataError as error:
            errors[number] = error
            return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="headrace-status") as pool:
        last = dict(zip(numbers, pool.map(newest, numbers), strict=True))
    ledger: Mapping[Line, int | None] = {}
    lines = {number: Line(chain.dataset.id, Partition(stream, number), loader.target) for number in numbers if loader}
    if loader is not None:
        ledger = loader.positions(list(lines.values()))
    known = alone or any(position is not None for position in ledger.values())

    def one(number: int) -> PartitionStatus:
        segment, extent = last[number], ours.get(number)
        end = 0 if segment is None and number not in errors else None if segment is None else segment.end
        status = PartitionStatus(
            number,
            log_low=None if extent is None else extent.low,
            log_end=None if extent is None else extent.end,
            bronze_end=end,
            bronze_record_ms=None if segment is None else segment.trailer.max_ms,
            bronze_put_s=None if segment is None else segment.modified_s,
            bronze_start=None if segment is None else segment.start,
        )
        if loader is None or end is None or not known:
            return status
        loaded = ledger.get(lines[number]) or 0
        return attrs.evolve(status, silver_end=loaded, **_silver(chain, number, loaded, segment))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="headrace-status") as pool:
        return Asked(list(pool.map(one, numbers)), errors)


def made_from(chain: Chain, extent: Extent) -> bool:
    """Whether a chain was made from this log, and not from one that had its name before."""
    pin = chain.dataset.identity
    return (pin.cluster, pin.topic) == (extent.identity.cluster, extent.identity.topic)


def _silver(chain: Chain, number: int, loaded: int, newest: Segment | None) -> dict[str, Any]:
    """How new is what is loaded, and since when does waiting what is not."""
    if newest is None or loaded >= newest.end:
        return {"silver_record_ms": None if newest is None else newest.trailer.max_ms}
    waiting = next(chain.objects(number, loaded), None)
    try:
        last = chain.covering(number, loaded - 1) if loaded else None
    except DataError:
        last = None  # the chain's own problem, told where it stands
    return {
        "silver_record_ms": None if last is None else last.trailer.max_ms,
        "waiting_s": None if waiting is None else waiting.modified_s,
    }

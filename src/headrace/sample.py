"""A bounded sample of a dataset: records from the first, the last and some segments between, of each partition."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from headrace.chain import Chain
from headrace.errors import DataError
from headrace.segment import Segment

_SEGMENTS = 5
"""Of a partition: the first, the last, and three between."""

_BYTES = 64 << 20


@attrs.frozen
class Sample:
    """
    What was read.

    Attributes:
        values: Of the records; None is a tombstone.

        segments: They are from so many.

        partitions: Of so many partitions.
    """

    values: list[bytes | None] = attrs.field(repr=False)
    segments: int
    partitions: int


def sample(chain: Chain, records: int = 20_000) -> Sample:
    """
    Read a sample; it costs the same whatever the length of the chain.

    Args:
        chain: Of the dataset.

        records: At most so many; also at most 64 MiB. Each segment gives the same share, from its beginning.

    Raises:
        CorruptSegmentError: A segment is not what its key says.
        SinkUnavailableError: The store did not answer.
    """
    numbers = chain.partitions()
    segments = [segment for number in numbers for segment in _spread(chain, number)]
    values: list[bytes | None] = []
    for left, segment in zip(range(len(segments), 0, -1), segments, strict=True):
        values += _beginning(chain, segment, (records - len(values)) // left, _BYTES // len(segments))
    return Sample(values, len(segments), len(numbers))


def _spread(chain: Chain, number: int) -> list[Segment]:
    last = chain.newest(number)
    first = None
    with contextlib.suppress(DataError):  # where the head is missing, the sample begins behind it
        first = next(chain.from_start(number), None)
    if last is None:
        return []
    start = last.start if first is None else first.start
    step = (last.end - start) // (_SEGMENTS - 1)
    between = [chain.covering(number, start + i * step) for i in range(1, _SEGMENTS - 1)]
    found = {segment.start: segment for segment in (first, *between, last) if segment is not None}
    return [found[key] for key in sorted(found)]


def _beginning(chain: Chain, segment: Segment, records: int, nbytes: int) -> Iterator[bytes | None]:
    for batch in chain.batches(segment):
        for value in batch.values:
            if records <= 0 or nbytes <= 0:
                return
            yield value
            records -= 1
            nbytes -= len(value or b"")

"""A partition's chain as it is, with what is wrong at the place where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import attrs

from headrace.chain import Chain, ranges
from headrace.errors import CorruptSegmentError, DataError, GapError
from headrace.layout import parse_segment
from headrace.segment import Segment

State = Literal["ok", "expired", "gap", "overlap", "corrupt", "broken"]


@attrs.frozen
class Link:
    """
    A segment of a chain, or what is wrong between two.

    Attributes:
        state: "ok"; "expired" where segments were deleted on purpose; or what is wrong.

        start: Where it begins.

        end: Where it ends; None where that cannot be told.

        segment: None where there is none that can be read.

        words: What is wrong; "" where nothing is.
    """

    state: State
    start: int
    end: int | None
    segment: Segment | None = None
    words: str = ""

    @property
    def broken(self) -> bool:
        """Whether something is wrong here."""
        return self.state not in ("ok", "expired")


def links(chain: Chain, number: int, *, deep: bool = False) -> Iterator[Link]:
    """
    Walk the whole chain; where it is broken say how, and go on behind.

    Args:
        chain: Of the dataset.

        number: Of the partition.

        deep: Read every object and compare it with its digest.
    """
    position = 0
    begun = 0  # where the last segment that was seen starts
    more = True
    while more:
        try:
            for segment in chain.walk(number, position):
                yield _read(chain, segment) if deep else _ok(segment)
                begun, position = segment.start, segment.end
            return
        except GapError as gap:
            yield from _gone(chain, number, gap)
            more, position = gap.end > position, gap.end
        except CorruptSegmentError as error:
            start = _start(error.key, position)
            following = _next_start(chain, number, start + 1)
            yield Link("corrupt", start, following, words=str(error))
            more, position = following is not None, following or 0
        except DataError as error:
            known = begun
            for link in _inside(chain, number, begun, position, str(error)):
                yield link
                begun, position = link.start, max(position, link.end or 0)
            if begun == known:
                yield Link("broken", position, None, words=str(error))
                return
            more = _next_start(chain, number, position) is not None


def _gone(chain: Chain, number: int, gap: GapError) -> Iterator[Link]:
    """Yield what was expired of a gap, and what nobody has noted."""
    position = gap.start
    for start, end in chain.expired(number, gap.start, gap.end):
        if start > position:
            yield Link("gap", position, start, words=str(gap))
        yield Link("expired", start, end)
        position = end
    if position < gap.end or gap.start == gap.end:
        yield Link("gap", position, gap.end, words=str(gap))


def _ok(segment: Segment) -> Link:
    return Link("ok", segment.start, segment.end, segment)


def _read(chain: Chain, segment: Segment) -> Link:
    try:
        chain.read(segment)
    except DataError as error:
        return Link("corrupt", segment.start, segment.end, segment, str(error))
    return _ok(segment)


def _start(key: str, otherwise: int) -> int:
    found = parse_segment(key.rpartition("/")[2])
    return found[0] if found else otherwise


def _next_start(chain: Chain, number: int, position: int) -> int | None:
    found = next(chain.objects(number, position), None)
    return None if found is None else _start(found.key, position)


def _inside(chain: Chain, number: int, begun: int, position: int, words: str) -> Iterator[Link]:
    """Yield the segments after *begun* that start before what is known ends, which they may move on."""
    while (start := _next_start(chain, number, begun + 1)) is not None and start < position:
        segment = None
        with contextlib.suppress(DataError):  # it may be a copy of another one: its trailer says so
            segment = next(chain.from_start(number, start), None)
        yield Link("overlap", start, None if segment is None else segment.end, segment, words)
        begun, position = start, position if segment is None else max(position, segment.end)


def noted_losses(chain: Chain, number: int) -> list[tuple[int, int]]:
    """List the accepted losses of a partition as (start, end)."""
    return list(ranges(chain.store, chain.layout.gaps(number)))

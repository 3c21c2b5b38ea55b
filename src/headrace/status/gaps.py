"""Reads what a feed tells of its gaps, from the end of their stream: which last, and of which nobody can tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import msgspec

from headrace.chain import Chain, start_of
from headrace.status.result import OpenGap
from headrace.store import StoredObject

_AT_ONCE = 8
_STEP = 64
"""So many objects are read before it is looked whether that is enough."""


@attrs.frozen
class Lasting:
    """
    The gaps that nothing has ended.

    Attributes:
        gaps: Those that last, by feed and symbol.

        doubtful: Those that a producer without a name has left open before another producer of the feed began, without a word of
            its end: it was killed, or it still runs.

        from_ms: The time of the first gap record that was looked at, milliseconds since the Unix epoch; None: all were.
    """

    gaps: Sequence[OpenGap]
    doubtful: Sequence[OpenGap]
    from_ms: int | None


@attrs.define(kw_only=True)
class GapRecords:
    """
    Knows what the records of one stream say. At each look it reads what is new: at the first the end of the stream, as far back
    as it may.

    Attributes:
        most_segments: So many segments of a partition are read at a look, those at its end. A gap record is stored at once, so
            most hold one or two.

        most_bytes: Or so many bytes, as they are stored.

        most_s: Or for so long.

        clock: Monotonic seconds.
    """

    most_segments: int = 1_000
    most_bytes: int = 4 << 20
    most_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _ends: dict[int, int] = attrs.field(factory=dict, init=False)  # by partition up to where it was read
    _from_ms: int | None = attrs.field(default=None, init=False)
    _count: int = attrs.field(default=0, init=False)
    _newest: dict[str, tuple[int, dict[str, Any] | None]] = attrs.field(factory=dict, init=False)
    """By gap its newest revision, and what that says while the gap lasts."""

    _runs: dict[tuple[str, str, str], str] = attrs.field(factory=dict, init=False)
    """By feed, producer and symbol the last run that said something."""

    _spoke: dict[tuple[str, str, str], int] = attrs.field(factory=dict, init=False)
    """By feed, run and symbol as which record it said something last."""

    _began: dict[tuple[str, str], tuple[int, str]] = attrs.field(factory=dict, init=False)
    """By feed and symbol as which record the last run began, and which one that was."""

    def read(self, chain: Chain, ends: Mapping[int, int]) -> Lasting:
        """
        Read what is new, and say which gaps last: of each its newest revision counts.

        Args:
            chain: Of the stream.

            ends: Where each partition ends.

        Raises:
            HeadraceError: It could not be read; the next look reads all of it again.
        """
        found = [self._tail(chain, number, end) for number, end in ends.items()]
        for values, from_ms in found:
            self._from_ms = max((ms for ms in (self._from_ms, from_ms) if ms is not None), default=None)
            for value in values:
                self._hear(value)
        self._ends |= ends
        return self._lasting()

    # ---- reading ------------------------------------------------------------------------------------------

    def _tail(self, chain: Chain, number: int, end: int) -> tuple[list[bytes | None], int | None]:
        """The values at a partition's end in their order, and the time of the first where some before it were not read."""
        began_s, size, read = self.clock(), 0, list[tuple[list[bytes | None], int]]()
        objects = _from_end(chain, number, self._ends.get(number, 0), end)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="headrace-status") as pool:
            while step := list(self._step(objects, len(read), size)):
                size += sum(item.size for item in step)
                read += filter(None, pool.map(lambda item: _values(chain, number, item), step))
                if self.clock() - began_s >= self.most_s:
                    break
        cut = next(objects, None) is not None
        return [value for values, _ in reversed(read) for value in values], read[-1][1] if cut and read else None

    def _step(self, objects: Iterator[StoredObject], count: int, size: int) -> Iterator[StoredObject]:
        """The next objects, as far as there may be more."""
        for _ in range(min(_STEP, self.most_segments - count)):
            if size >= self.most_bytes or (item := next(objects, None)) is None:
                return
            size += item.size
            yield item

    def _hear(self, value: bytes | None) -> None:
        told = _gap(value)
        if told is None:
            return
        self._count += 1
        at, run, of = self._count, _run(told), (told["feed"], told["symbol"])
        if _revision(told) >= self._newest.get(told["id"], (0, None))[0]:
            self._newest[told["id"]] = _revision(told), told if told.get("to") is None else None
        self._runs[told["feed"], told["producer"], told["symbol"]] = run
        self._spoke[told["feed"], run, told["symbol"]] = at
        if told.get("cause") == "started" and _revision(told) <= 1 and self._began.get(of, (0, ""))[1] != run:
            self._began[of] = at, run

    # ---- judging ------------------------------------------------------------------------------------------

    def _lasting(self) -> Lasting:
        gaps, doubtful = list[OpenGap](), list[OpenGap]()
        for _, told in self._newest.values():
            if told is None or _run(told) != self._runs[told["feed"], told["producer"], told["symbol"]]:
                continue  # it has ended, or its producer runs again
            gap = OpenGap(told["feed"], told["symbol"], told.get("from"), str(told.get("cause")))
            if not self._is_replaced(told):
                gaps.append(gap)
            elif not gap.end:
                doubtful.append(gap)
        gaps.sort(key=_of)
        doubtful.sort(key=_of)
        return Lasting(gaps, doubtful, self._from_ms)

    def _is_replaced(self, told: Mapping[str, Any]) -> bool:
        """Whether another producer began behind the last word of this one, which has no name by which it would be known again."""
        run, (began, other) = _run(told), self._began.get((told["feed"], told["symbol"]), (0, ""))
        return told["producer"] == run != other and began > self._spoke[told["feed"], run, told["symbol"]]


def _of(gap: OpenGap) -> tuple[str, str]:
    return gap.feed, gap.symbol


def _from_end(chain: Chain, number: int, known: int, end: int) -> Iterator[StoredObject]:
    """Yield a chain's objects from its end back to where it is known, listing ever longer parts of it."""
    back = 1_000  # so many names has a page, and a segment has a record or more
    while end > known:
        start = max(known, end - back)
        part: list[StoredObject] = []
        for item in chain.objects(number, start):
            if start_of(item) >= end:
                break
            part.append(item)
        yield from reversed(part)
        end, back = start, back * 2


def _values(chain: Chain, number: int, item: StoredObject) -> tuple[list[bytes | None], int] | None:
    """A segment's values, and the time of its first record; None where it is gone."""
    segment = chain.segment(number, item)
    if segment is None:
        return None
    return [value for batch in chain.batches(segment) for value in batch.values], segment.trailer.min_ms


def _run(told: Mapping[str, Any]) -> str:
    run: str = told["id"].rpartition("-")[0]
    return run


def _revision(told: Mapping[str, Any]) -> int:
    found = told.get("revision")
    return found if isinstance(found, int) else 0


def _gap(value: bytes | None) -> dict[str, Any] | None:
    try:
        told = msgspec.json.decode(value or b"")
    except msgspec.DecodeError:
        return None
    named = isinstance(told, dict) and all(isinstance(told.get(n), str) for n in ("id", "feed", "producer", "symbol"))
    return told if named else None

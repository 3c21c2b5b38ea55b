"""Which part of a stream an audit is about: offsets, or times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import attrs

from headrace.auditing.chains import Link
from headrace.errors import ConfigError

_EPOCH = datetime.fromtimestamp(0, UTC)


@attrs.frozen
class Scope:
    """
    A part of each partition; segments that hold some of it are looked at whole.

    Attributes:
        start: From this offset on.

        end: Before this one; None: to the end.

        start_ms: Only segments that hold a record of then or later.

        end_ms: Only segments that hold a record from before then.
    """

    start: int = 0
    end: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def of(cls, since: int | str | None, until: int | str | None) -> Scope:
        """Read two ends, each an offset or a time with its zone. ConfigError where one is neither, or nothing is between."""
        (start, start_ms), (end, end_ms) = _end(since), _end(until)
        if (end is not None and (start or 0) >= end) or (
            start_ms is not None and end_ms is not None and start_ms >= end_ms
        ):
            raise ConfigError(f"found from {since} until {until}, expected a part that is not empty")
        return cls(start or 0, end, start_ms, end_ms)

    @property
    def whole(self) -> bool:
        """Whether it is all there is."""
        return self == Scope()

    @property
    def timed(self) -> bool:
        """Whether it is about times, and about no offset."""
        return self.offsets == (0, None) and not self.whole

    @property
    def offsets(self) -> tuple[int, int | None]:
        """What of it names alone can tell."""
        return self.start, self.end

    @property
    def times_ns(self) -> tuple[int, int | None]:
        """Its times, in nanoseconds since the epoch; 0 and None where it has none."""
        return (self.start_ms or 0) * 1_000_000, None if self.end_ms is None else self.end_ms * 1_000_000

    def range_of(self, links: Iterable[Link]) -> tuple[int, int | None]:
        """The offsets of one partition that are meant, as its trailers tell."""
        start, end = self.start, self.end
        for link in links:
            said = link.said
            if said is None:
                continue
            if self.start_ms is not None and said.max_ms < self.start_ms:
                start = max(start, said.end)
            if self.end_ms is not None and said.min_ms >= self.end_ms and (end is None or link.start < end):
                end = link.start
                break
        return start, end

    def __str__(self) -> str:
        ends = [
            f"from {_time(self.start_ms) if self.start_ms is not None else self.start}"
            if self.start or self.start_ms is not None
            else "",
            f"until {_time(self.end_ms) if self.end_ms is not None else self.end}"
            if self.end is not None or self.end_ms is not None
            else "",
        ]
        return " ".join(filter(None, ends))


def _end(text: int | str | None) -> tuple[int | None, int | None]:
    if text is None or text == "":
        return None, None
    if isinstance(text, int) or text.isdecimal():
        return int(text), None
    try:
        when: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise ConfigError(f"found {text!r}, expected an offset, or a time with its zone, such as 2024-03-01T00:00:00Z")
    return None, -((_EPOCH - when) // timedelta(milliseconds=1))


def _time(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat()

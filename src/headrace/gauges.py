"""How fast a run is, and how far behind: measured now and then, cheaply enough for a thousand partitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import attrs

from headrace.commit import Holding
from headrace.records import Partition

_WINDOW_S = 5.0
_LAG_EVERY_S = 1.0


class Rate:
    """Growth a second of some sums, over the last seconds: what it is now, not what it was on average."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[float, ...]]] = deque()

    def __call__(self, now_s: float, *sums: float) -> list[float]:
        """Take the sums at *now_s*; return each one's growth a second."""
        self._seen.append((now_s, sums))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()
        then_s, then = self._seen[0] if len(self._seen) > 1 else (0.0, (0.0,) * len(sums))
        return [(a - b) / max(now_s - then_s, 1e-9) for a, b in zip(sums, then, strict=True)]


@attrs.define(eq=False)
class Lags:
    """How many offsets of each partition are in the log and not in the sink; at most a second old."""

    _found: dict[Partition, int] = attrs.field(factory=dict)
    _counted_s: float | None = None

    def due(self, now_s: float) -> bool:
        """Whether they are to be counted again."""
        return self._counted_s is None or now_s - self._counted_s >= _LAG_EVERY_S

    def count(self, now_s: float, holdings: Iterable[Holding], ends: Mapping[Partition, int]) -> None:
        """
        Count them, of the partitions that are held and whose end is known.

        Args:
            now_s: When.

            holdings: What is held.

            ends: Where the log ends, as far as the source knows.
        """
        self._counted_s = now_s
        self._found = {
            h.partition: max(0, ends[h.partition] - h.hint().offset) for h in holdings if h.partition in ends
        }

    @property
    def found(self) -> Mapping[Partition, int]:
        """As last counted."""
        return self._found

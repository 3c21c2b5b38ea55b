"""When a record of a replayed file is due."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from headrace.records import Batch


@attrs.define
class Pace:
    """
    Replays records at a multiple of the pace at which they were made, beginning now with the first that has a time.

    A record without a time is due with the one before it. A late one is due at once.

    Attributes:
        times: How many times as fast; 0: everything is due.

        clock: Monotonic seconds.
    """

    times: float
    clock: Callable[[], float]
    _began: tuple[float, int] | None = None  # seconds of the clock, and the record's own time

    def wait_s(self, batch: Batch) -> float:
        """How long until the first record of *batch* is due, in seconds; 0 or less when it is."""
        if not self.times:
            return 0.0
        return (batch.timestamps_ms[0] - self._now_ms(batch)) / 1000 / self.times

    def due(self, batch: Batch) -> int:
        """How many records of *batch* are due, from its first on."""
        if not self.times:
            return len(batch)
        now_ms = self._now_ms(batch)
        return next((i for i, ms in enumerate(batch.timestamps_ms) if ms > now_ms), len(batch))

    def _now_ms(self, batch: Batch) -> float:
        """What time it is in the file."""
        if self._began is None:
            first_ms = next((ms for ms in batch.timestamps_ms if ms >= 0), None)
            if first_ms is None:
                return 0.0
            self._began = (self.clock(), first_ms)
        began_s, first_ms = self._began
        return first_ms + (self.clock() - began_s) * 1000 * self.times

"""Whether a process is alive and ready: what `/live` and `/ready` answer."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class Health:
    """
    Signs of life of one loop. Written by its thread, read by any.

    Alive is a loop that turns, or that tries again what does not answer: a restart mends neither a broker nor a store. Ready is
    one that was given its work, and whose last answer from each side was one; a side that goes on connecting by itself says so
    itself.

    Attributes:
        stall_s: So long without a sign of life is not alive any more, in seconds.

        clock: Monotonic seconds.
    """

    stall_s: float
    clock: Callable[[], float] = time.monotonic
    begun: bool = attrs.field(default=False, init=False)
    """The loop was given its work, be it none for now."""

    _beat_s: float = attrs.field(init=False)
    _silent: dict[str, str] = attrs.field(factory=dict, init=False)
    _looks: dict[str, Callable[[], str]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._beat_s = self.clock()

    def beat(self) -> None:
        """The loop turns."""
        self._beat_s = self.clock()

    def answered(self, what: str) -> None:
        """Take that *what* has answered."""
        self._silent.pop(what, None)

    def failed(self, what: str, error: Exception) -> None:
        """Take that *what* did not answer."""
        self._silent[what] = type(error).__name__

    def look(self, what: str, unanswered: Callable[[], str]) -> None:
        """Ask *unanswered*, whenever somebody asks here, why *what* does not answer; it says "" where it does."""
        self._looks[what] = unanswered

    @property
    def quiet_s(self) -> float:
        """Seconds since the last sign of life."""
        return self.clock() - self._beat_s

    def not_alive(self) -> str:
        """Say why it is not alive; "" where it is."""
        quiet_s = self.quiet_s
        if quiet_s <= self.stall_s:
            return ""
        return f"no sign of life for {quiet_s:.0f} s, expected one in {self.stall_s:g} s: end it, nothing is lost"

    def not_ready(self) -> str:
        """Say why it is not ready; "" where it is."""
        silent = dict(self._silent)
        if self.begun:
            said = ((what, look()) for what, look in self._looks.items() if what not in silent)
            silent.update((what, why) for what, why in said if why)
        found = [f"the {what} does not answer ({error})" for what, error in silent.items()]
        if not self.begun:
            found.insert(0, "nothing was assigned to it yet")
        return "; ".join([*filter(None, [self.not_alive()]), *found])

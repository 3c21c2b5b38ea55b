"""How long to wait before the next connection or request: by our own rule, and by what an exchange says."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

import attrs

MOST_SAID_S = 3600.0
"""An exchange that says more is waited for no longer: it may be a mistake, and nobody would find out."""

_EPOCH_S, _EPOCH_MS = 1e9, 1e11
"""From here on a number is a moment in seconds, and from there on one in milliseconds; a smaller one is an interval."""


def said_wait_s(after: str, reset: str, now_ns: int) -> float | None:
    """
    Return for how long an exchange asks to be left alone, in seconds; None where it does not say.

    Args:
        after: ``Retry-After``: seconds or a date (RFC 9110, 10.2.3); "" where it is not there.

        reset: ``X-RateLimit-Reset``: an interval in seconds, or a moment in seconds or milliseconds since the epoch, as exchanges
            please; "" where it is not there.

        now_ns: Nanoseconds since the epoch.
    """
    if after.isdecimal():
        return float(after)
    moment_s = None
    if after:
        try:
            date = parsedate_to_datetime(after)
            moment_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass  # as if it were not there
    if moment_s is None and reset.isdecimal():
        said = float(reset)
        if said < _EPOCH_S:
            return said
        moment_s = said if said < _EPOCH_MS else said / 1e3
    return None if moment_s is None else max(0.0, moment_s - now_ns / 1e9)


def left_alone(why: str, wait_s: float) -> str:
    """Say why, and where it is more than is waited for, how long the exchange wants to be left alone."""
    return why if wait_s <= MOST_SAID_S else f"{why}; it wants to be left alone for {wait_s:,.0f} s"


@attrs.frozen(kw_only=True)
class Backoff:
    """
    Exponential waits with full jitter: of many clients that lose a server at once, no two come back together.

    A connection counts as a success only when it brought messages for a while: a server that accepts and closes is not
    called again at once.

    Attributes:
        first_s: The longest first wait.

        most_s: The longest wait.

        steady_s: For so long a connection must have been of use, so that the next failure is the first again.

        uniform: Returns a number between two.
    """

    first_s: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    most_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    steady_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    uniform: Callable[[float, float], float] = random.uniform

    def wait_s(self, failures: int, least_s: float = 0.0) -> float:
        """How long to wait after so many failures in a row, from 1 on; never less than the exchange asked for."""
        longest = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return least_s + self.uniform(0.0, longest)

"""How long to wait before the next connection."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs


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

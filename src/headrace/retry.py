"""Repeats what may succeed later."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import attrs

from headrace.errors import TransientError
from headrace.logs import event as log_event

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_log = logging.getLogger("headrace.retry")


@attrs.frozen
class Retry:
    """
    Calls again while a `TransientError` is raised: exponential waits with full jitter.

    Attributes:
        for_s: For how long, in seconds: the last attempt begins then, and its error is raised.

        hurry: When it is set, no more waits: a call under way is the last one.
    """

    for_s: float
    hurry: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what *call* returns. Only for calls that may be repeated at will, as all of headrace's writes may."""
        import tenacity as t  # noqa: PLC0415 - takes three times as long as `import headrace`

        jitter = t.wait_random_exponential(multiplier=0.1, max=20)

        def wait(state: RetryCallState) -> float:
            return min(jitter(state), max(0.0, self.for_s - (state.seconds_since_start or 0.0)))

        return t.Retrying(
            retry=t.retry_if_exception_type(TransientError),
            wait=wait,
            stop=t.stop_after_delay(self.for_s) | t.stop_when_event_set(self.hurry),
            sleep=t.sleep_using_event(self.hurry),
            before_sleep=_tell,
            reraise=True,
        )(call)


def _tell(state: RetryCallState) -> None:
    """A run that waits says for what: otherwise it looks as if it hung."""
    error = state.outcome.exception() if state.outcome is not None else None
    log_event(
        _log,
        logging.WARNING,
        "trying again",
        attempt=state.attempt_number,
        wait_s=round(state.upcoming_sleep, 1),
        error=error,
    )

"""Retries: how long, how far apart, and after which errors."""

from __future__ import annotations

import threading
import time

import pytest

from headrace.errors import CommitUnknownError, ConfigError, SinkUnavailableError
from headrace.retry import Retry


def failing(*errors: Exception):
    """A call that raises these, one after the other, and then returns how often it was called."""
    left, calls = list(errors), []

    def call() -> int:
        calls.append(time.monotonic())
        if left:
            raise left.pop(0)
        return len(calls)

    call.calls = calls
    return call


def test_transient_errors_are_tried_again():
    """Whichever of them it was."""
    assert 3 == Retry(30)(failing(SinkUnavailableError("a"), CommitUnknownError("b")))


def test_other_errors_are_not():
    """A setting does not mend itself."""
    call = failing(ConfigError("no"))
    with pytest.raises(ConfigError):
        Retry(30)(call)
    assert 1 == len(call.calls)


def test_time_is_what_ends_it():
    """The last attempt begins when the time is over, not a whole wait later, and its own error is raised."""
    call = failing(*(SinkUnavailableError(str(n)) for n in range(1000)))
    began = time.monotonic()
    with pytest.raises(SinkUnavailableError, match=r"\d+") as raised:
        Retry(0.5)(call)
    assert str(len(call.calls) - 1) == str(raised.value)
    assert 0.5 <= call.calls[-1] - began < 5


def test_no_time_is_one_attempt():
    """Of 0 seconds."""
    call = failing(SinkUnavailableError("a"))
    with pytest.raises(SinkUnavailableError):
        Retry(0)(call)
    assert 1 == len(call.calls)


def test_hurry_ends_the_waits():
    """Whoever stops is not kept waiting: what is under way is the last attempt."""
    hurry = threading.Event()
    hurry.set()
    call = failing(SinkUnavailableError("a"), SinkUnavailableError("b"))
    with pytest.raises(SinkUnavailableError):
        Retry(600, hurry)(call)
    assert 1 == len(call.calls)


def test_waits_are_drawn_from_the_whole_width():
    """Full jitter, up to 20 seconds: two writers that were refused together do not come back together."""
    waits: list[float] = []

    class Recorded(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    Retry(10_000, Recorded())(failing(*(SinkUnavailableError("a") for _ in range(500))))
    assert all(wait <= 0.1 * 2**n for n, wait in enumerate(waits[:7]))
    late = waits[8:]
    assert min(late) < 2
    assert 18 < max(late) <= 20

"""A first SIGTERM or SIGINT asks a run to end well; a second one ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@attrs.define
class Stop:
    """
    What came.

    Attributes:
        signal: The first signal's number; None while none came.
    """

    signal: int | None = None


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Stop]:
    """
    Call *stop* at the first signal. Nothing is lost at a second one either: what was not committed is read again.

    The signals are taken by a thread of their own. Python runs a handler on the main thread, between two of its
    instructions: it would wait for a client library's long call to return, and *stop* must not take a lock that the
    main thread may hold at that very moment.
    """
    came = Stop()
    read, write = os.pipe()
    os.set_blocking(write, False)
    thread = threading.Thread(target=_watch, args=(read, came, stop), name="headrace-signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, _nothing) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield came
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)  # the thread reads the end
        thread.join()
        os.close(read)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor has told the thread already."""


def _watch(read: int, came: Stop, stop: Callable[[], None]) -> None:
    while number := os.read(read, 1):
        if number[0] not in SIGNALS:
            continue  # another library's signal comes here too
        if came.signal is not None:
            _end(number[0])
        came.signal = number[0]
        _say("stopping: what is held is committed; once more ends it at once, nothing is lost either way")
        stop()


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}\n")
        sys.stderr.flush()


def _end(number: int) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\r\x1b[K\x1b[?25h")  # a progress bar hides the cursor
    os._exit(128 + number)

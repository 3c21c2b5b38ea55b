"""Gives memory back to the system that was freed and that the C library keeps for itself."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

import attrs

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 4 << 20


def trimmer() -> Callable[[], object] | None:
    """
    Return what gives back all pages that nothing is on: glibc's ``malloc_trim``; None where the C library has none.

    It may be called from any thread, and takes milliseconds. What is in use is not touched.

    That leaves the end of each arena, and a thread that allocates has one: glibc keeps there up to twice the largest block that
    was ever freed, 64 MiB. From this call on it keeps 4 MiB, unless a variable of the environment, ``MALLOC_…_``, says what to
    keep.
    """
    try:
        libc = ctypes.CDLL(None)
        trim, option = libc.malloc_trim, libc.mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows knows no library without a name
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    option.argtypes, option.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    if not any(name.startswith("MALLOC_") for name in os.environ):
        option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        option(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    return lambda: trim(0)


@attrs.define
class Trimming:
    """
    Calls the trimmer now and then; its calls are for one thread.

    Clients in C, librdkafka first of all, free what they fetched in another order than they took it. The C library gives only
    what lies at an end back, so that a process would stay as large as it was in its worst moment, and a little larger after
    each.

    Attributes:
        every_s: At most so often, in seconds.

        trim: None: nothing is done.

        clock: Monotonic seconds.
    """

    every_s: float = 10.0
    trim: Callable[[], object] | None = attrs.field(factory=trimmer)
    clock: Callable[[], float] = time.monotonic
    _last_s: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._last_s = self.clock()

    def __call__(self) -> None:
        """Trim, if it was not done for so long."""
        now_s = self.clock()
        if self.trim is not None and now_s - self._last_s >= self.every_s:
            self._last_s = now_s
            self.trim()

"""What was freed and what the C library keeps is given back to the system, measured in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from headrace.trimming import Trimming, trimmer

FREED_MIB = 32

FREE = """
    import ctypes, json, sys, threading
    from headrace.trimming import Trimming

    def resident_mib():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS"))

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    now, last = [0.0], int(sys.argv[1])
    taken = (ctypes.c_void_p * ({mib} << 6))()  # here, so that nothing else lies in the thread's arena
    trimming = Trimming(clock=lambda: now[0])
    before = resident_mib()

    def work():
        libc.free(libc.malloc(24 << 20))
        for n in range(len(taken)):
            taken[n] = libc.malloc(16 << 10)
            ctypes.memset(taken[n], 1, 16 << 10)
        for n in range(len(taken) - last):
            libc.free(taken[n])
        freed.set()
        end.wait()  # the arena is the thread's as long as it lives

    freed, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    freed.wait()
    found = [resident_mib() - before]
    for now[0] in (9.0, 10.0):
        trimming()
        found.append(resident_mib() - before)
    end.set()
    thread.join()
    print(json.dumps(found))
"""


def resident(kept: int, **environment: str) -> list[int]:
    """MiB more than at first: when all but the last of some blocks were freed in a thread, after 9 s and after 10 s."""
    program = textwrap.dedent(FREE).replace("{mib}", str(FREED_MIB))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env={**clean, **environment})
    return list(json.loads(done.stdout))


@pytest.mark.skipif(trimmer() is None, reason="only glibc can be asked for it")
def test_freed_memory_goes_back():
    """Below something that is in use it is kept until it was trimmed, ten seconds later; at an end it is not kept at all."""
    freed, early, after = resident(1)
    assert min(freed, early) >= FREED_MIB * 3 // 4  # the negative control: what is kept where nobody asks
    assert after <= FREED_MIB // 4
    assert max(resident(0)) <= FREED_MIB // 4


@pytest.mark.skipif(trimmer() is None, reason="only glibc can be asked for it")
def test_who_says_what_is_kept_is_obeyed():
    """With a variable of its own the C library keeps what it likes at an end, which no trimming gives back: also the control."""
    assert resident(0, MALLOC_ARENA_TEST="2")[-1] >= FREED_MIB * 3 // 4


def test_now_and_then():
    """It is called no more often than it was told, and not at all where the C library cannot do it."""
    now, called = [0.0], []
    trimming = Trimming(every_s=10.0, trim=lambda: called.append(now[0]), clock=lambda: now[0])
    for now[0] in (0.0, 9.9, 10.0, 10.1, 19.9, 25.0, 34.9, 35.0):
        trimming()
    assert [10.0, 25.0, 35.0] == called
    Trimming(every_s=0.0, trim=None)()

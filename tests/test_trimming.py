"""What was freed and what the C library keeps is given back to the system, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from headrace.trimming import Trimming, trimmer

FREED_MIB = 64

FREE = """
    import ctypes, json
    from headrace.trimming import Trimming

    def resident_mib():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmRSS"))

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    now = [0.0]
    trimming = Trimming(clock=lambda: now[0])
    before = resident_mib()
    taken = [libc.malloc(16 << 10) for _ in range({mib} << 6)]
    for address in taken:
        ctypes.memset(address, 1, 16 << 10)
    for address in taken[:-1]:  # the last one lies at the end, and what is below it stays
        libc.free(address)
    kept = resident_mib() - before
    now[0] = 9.0
    trimming()
    early = resident_mib() - before
    now[0] = 10.0
    trimming()
    print(json.dumps([kept, early, resident_mib() - before]))
"""


@pytest.mark.skipif(trimmer() is None, reason="only glibc can be asked for it")
def test_freed_memory_goes_back():
    """Without it a process stays as large as it once was; with it, after ten seconds, it is as before."""
    program = textwrap.dedent(FREE).replace("{mib}", str(FREED_MIB))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    kept, early, after = json.loads(done.stdout)
    assert min(kept, early) >= FREED_MIB * 3 // 4  # the negative control: what is kept where nobody asks
    assert after <= FREED_MIB // 8


def test_now_and_then():
    """It is called no more often than it was told, and not at all where the C library cannot do it."""
    now, called = [0.0], []
    trimming = Trimming(every_s=10.0, trim=lambda: called.append(now[0]), clock=lambda: now[0])
    for now[0] in (0.0, 9.9, 10.0, 10.1, 19.9, 25.0, 34.9, 35.0):
        trimming()
    assert [10.0, 25.0, 35.0] == called
    Trimming(every_s=0.0, trim=None)()

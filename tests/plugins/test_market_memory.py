"""What a feed's process takes when all is stored is what it took before, however often it had to hold what came."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.plugins.market.alpaca import Alpaca
from headrace.plugins.market.source import FeedSource
from headrace.records import Batch, Hint, Start
from headrace.testing.servers.exchange import AlpacaExchange, alpaca_trade
from headrace.trimming import trimmer

TIMES = 5
QUEUE_BYTES = 32 << 20


# asked of the file: `trimmer()` would set up the memory of pytest's own process. Other C libraries give back as they see fit
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("allocator", ["malloc", "pymalloc"])
def test_at_rest(allocator: str):
    """
    The queue of 32 MiB is filled to its limit and emptied again, time after time. With PYTHONMALLOC=malloc, as docker-compose.yml
    has it, the process is then as large as it was after the first time. The control is Python's own allocator: it gives an area
    of 1 MiB back only when nothing at all lies in it.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        "PYTHONMALLOC": allocator,
        "APCA_API_KEY_ID": "key",
        "APCA_API_SECRET_KEY": "secret",
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    before, *bases = [float(line) for line in done.stdout.split()]
    assert TIMES == len(bases)
    if allocator == "malloc":
        assert bases[-1] - bases[0] < 6, (before, bases)
    else:
        assert bases[-1] - before > 30, (before, bases)


def sizes() -> Iterator[float]:
    """What this process takes, MiB resident: before all, and whenever the queue was filled and emptied."""
    trim = trimmer()
    assert trim is not None

    class Owner:
        def assigned(self, hints):
            return dict.fromkeys(hints, Start(0, None, 1))

        def release(self, partitions):
            raise AssertionError("a feed is never taken away")

        lost = release

    def resident() -> float:
        trim()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    with AlpacaExchange(array=100) as exchange:
        feed = Alpaca(symbols=("*",), address=exchange.address, silence_s=1e9)
        source, owner = FeedSource(feed=feed, queue_bytes=QUEUE_BYTES), Owner()

        def taken() -> bool:
            batches = [event for event in source.poll(owner, 0.05) if isinstance(event, Batch)]
            source.acknowledge({batch.partition: Hint(batch.end) for batch in batches})
            return bool(batches)

        (frame,) = exchange.frames([json.dumps(alpaca_trade(n)).encode() for n in range(100)])
        while not exchange.subscribed() or taken():
            taken()
        yield resident()
        for _ in range(TIMES):
            while not source._backlog.full:
                exchange.send(frame)
            while taken():
                pass
            yield resident()
        source.close()


if __name__ == "__main__":
    for mib in sizes():
        print(mib, flush=True)

"""Streams to bronze in another process, which is killed while it works, and started again until it is done."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from headrace.chain import Chain
from headrace.demo.place import failed, started
from headrace.errors import SinkUnavailableError
from headrace.layout import Layout
from headrace.plugins.lake.local import FileStore

_GIVE_UP_S = 60.0


@attrs.frozen
class Kill:
    """
    One SIGKILL that hit a run at work.

    Attributes:
        stream: What it was streaming.

        pid: The process that died.

        ends: How far each partition was stored at that moment.

        segments: How many segments there were.
    """

    stream: str
    pid: int
    ends: dict[int, int]
    segments: int


def stream_to_bronze(
    source: str, lake: Path, stream: str, *, kill_at: list[int], flush_records: int, watch: Callable[[int], None]
) -> list[Kill]:
    """
    Run ``headrace stream`` until it ends by itself, killing it whenever the lake has reached the next number of segments.

    Args:
        source: The source's URI; ``{run}`` stands for the number of the start: a new consumer group each time, so that
            nothing is remembered anywhere but in the lake.

        lake: The folder.

        stream: What is streamed.

        kill_at: Numbers of segments, ascending.

        flush_records: Records in a segment.

        watch: Called with the number of segments while it runs.

    Raises:
        HeadraceError: A run failed by itself; the message is its own.
    """
    kills: list[Kill] = []
    for run in range(len(kill_at) + 1):
        bounds = ("--until-end", "--flush-records", str(flush_records), "--puts-in-flight", "1")
        goal = kill_at[run] if run < len(kill_at) else None
        with started("stream", source.format(run=run), f"file://{lake}", *bounds) as child:
            try:
                _watch(child, lambda: _count(lake, stream), goal, watch)
            finally:
                child.kill()  # one that is over hears nothing
            if child.returncode == -signal.SIGKILL:
                ends = dict(_ends(lake, stream))
                kills.append(Kill(stream, child.pid, ends, _count(lake, stream)))
            elif child.returncode != 0:
                raise failed(child)
    return kills


def _watch(
    child: subprocess.Popen[bytes], count: Callable[[], int], goal: int | None, watch: Callable[[int], None]
) -> None:
    deadline = time.monotonic() + _GIVE_UP_S
    while child.poll() is None:
        now = count()
        watch(now)
        if goal is not None and now >= goal:
            child.kill()
            child.wait()
            return
        if time.monotonic() > deadline:
            raise SinkUnavailableError(f"headrace stream did not end within {_GIVE_UP_S:.0f} s")
        time.sleep(0.002)


def _count(lake: Path, stream: str) -> int:
    return sum(1 for _ in (lake / Layout(stream).root).glob("partition=*/*.jsonl.gz"))


def _ends(lake: Path, stream: str) -> Iterator[tuple[int, int]]:
    if _count(lake, stream):
        chain = Chain.open(FileStore(root=lake), stream)
        for number in chain.partitions():
            newest = chain.newest(number)
            yield number, newest.end if newest else 0

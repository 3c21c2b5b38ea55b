"""Brings segments to where DuckDB reads them fastest: their lines as files, decompressed on the way."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from headrace.errors import SinkUnavailableError
from headrace.loader import LoadableSegment

_PREFIX = "headrace-load-"
_FRESH_S = 60.0
"""A folder that was made just now may not be locked yet."""

_AT_ONCE = 8
"""Segments that are read at the same time: while one waits for its store another one is decompressed."""


@contextmanager
def workspace() -> Iterator[Path]:
    """
    Make a folder for files on their way, gone when the block ends; those that killed loaders left behind go, too.

    A folder belongs to whoever holds the lock of the file in it; the system lets go of that when a process dies.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError), _locked(left, os.O_RDWR) as ours:  # its owner may end meanwhile
            if ours and time.time() - left.stat().st_mtime > _FRESH_S:
                shutil.rmtree(left, ignore_errors=True)
    made = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    with made as folder, _locked(Path(folder), os.O_RDWR | os.O_CREAT):
        yield Path(folder)


@contextmanager
def _locked(folder: Path, flags: int) -> Iterator[bool]:
    """Hold the folder's lock; False where another process does, or where we may not."""
    try:
        descriptor = os.open(folder / ".lock", flags | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _takes(descriptor)
    finally:
        os.close(descriptor)


def _takes(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


@attrs.frozen
class Spooled:
    """
    Files of JSON lines.

    Attributes:
        files: One a segment, in their order.

        longest_line: Bytes of the longest line, or more.
    """

    files: Sequence[Path]
    longest_line: int


def spool(segments: Sequence[LoadableSegment], folder: Path) -> Spooled:
    """
    Write the lines of segments, verified against their trailers, into *folder*.

    DuckDB could read the objects as they are; isal and zstd in threads of ours take a third of the time that it takes,
    and a file that is not compressed is parsed by all its threads.

    Raises:
        CorruptSegmentError: A segment's bytes are not those that its trailer names.
        SinkUnavailableError: The folder's disk is full.
    """
    files = [folder / f"{number}.jsonl" for number in range(len(segments))]
    with ThreadPoolExecutor(min(_AT_ONCE, len(segments)), thread_name_prefix="headrace-spool") as pool:
        return Spooled(files, max(pool.map(_write, segments, files)))


def _write(segment: LoadableSegment, path: Path) -> int:
    """Return how long a line may be."""
    longest = running = 0
    try:
        with path.open("wb") as file:
            for piece in segment.lines():
                file.write(piece)
                ends = piece.find(b"\n")
                if ends < 0:
                    running += len(piece)
                else:  # a line that lies inside is not longer than its piece
                    longest = max(longest, running + ends, len(piece))
                    running = len(piece) - piece.rfind(b"\n") - 1
    except OSError as exc:
        raise no_room(path.parent, exc) from exc
    return max(longest, running) + 1


def no_room(folder: Path, error: OSError) -> SinkUnavailableError:
    """Say that a temporary folder cannot be written to."""
    return SinkUnavailableError(
        f"{folder}: cannot be written: {error}; make room, or point TMPDIR to another disk; nothing was loaded"
    )

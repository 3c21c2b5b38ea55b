"""Jobs for processes that are killed or overtaken: one carries out its work in one atomic step, the others do not."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from headrace.testing.faults import Gate

BODY = b"x" * 1000


def one_step(folder: Path, gate: Gate) -> None:
    """Write a file of one's own, then give it the name, which can be done once; who did it says so in it."""
    own = folder / f"own-{os.getpid()}"
    gate("write")
    own.write_bytes(BODY)
    gate("link")
    with contextlib.suppress(FileExistsError):
        os.link(own, folder / "object")
    gate("unlink")
    own.unlink()


def in_place(folder: Path, gate: Gate) -> None:
    """Write under the name itself, in two parts."""
    if (folder / "object").exists():
        return
    gate("write")
    with (folder / "object").open("wb") as file:
        file.write(BODY[:500])
        file.flush()
        gate("write the rest")
        file.write(BODY[500:])


def look_then_write(folder: Path, gate: Gate) -> None:
    """Look whether the name is free, and then write: each writer leaves a line in the object."""
    if (folder / "object").exists():
        return
    gate("write")
    with (folder / "object").open("ab") as file:
        file.write(BODY)

"""A job for processes that are killed or overtaken: a file goes into a lake on the disk, whose system calls ask the gate."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.testing.faults import Gate, asking

CALLS = ("open", "fsync", "link", "unlink", "mkdir", "scandir", "close")
"""What the lake asks of the system on its way to a segment; a read needs no kill of its own."""


def carry(folder: Path, gate: Gate) -> None:
    """Carry ``ticks.jsonl`` of the folder above; with other segments than the run before: the chain may not depend on them."""
    lake = folder / "lake"
    source, sink = JsonlSource(path=str(folder.parent / "ticks.jsonl")), LakeSink(store=FileStore(root=lake))
    flush = FlushPolicy(records=34 + lake.exists())
    with asking(os, CALLS, gate):
        Pipeline(source=source, sink=sink, flush=flush, until_end=True, retry_for_s=5.0).run()

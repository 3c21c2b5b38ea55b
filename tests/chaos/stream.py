"""
headrace's own command line with its log set to show each segment: ``python stream.py [--without RULE] stream SOURCE SINK …``.

A negative control names the protection that is taken away:

========= ===========================================================================================
condition A segment is written whether its name is free or not (B6)
hint      The group's committed offset is taken for the position (B11, B12)
base      After a refusal the end that was found is adopted, without fetching from there (B17, B26)
========= ===========================================================================================
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

import s3fs

from headrace.cli import main
from headrace.commit import Holding
from headrace.logs import event as log_event
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.remote import RemoteStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Hint, Partition, Position
from headrace.store import Store


def without_condition() -> None:
    real = FileStore.create

    def create(self: FileStore, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if "/partition=" in key:
            (self.root / key).unlink(missing_ok=True)
        return real(self, key, body, metadata)

    FileStore.create = create

    call = s3fs.S3FileSystem._call_s3

    async def call_s3(self: s3fs.S3FileSystem, method: str, *arguments: object, **request: object) -> object:
        if method == "put_object" and "/partition=" in str(request["Key"]):
            del request["IfNoneMatch"]
        return await call(self, method, *arguments, **request)

    s3fs.S3FileSystem._call_s3 = call_s3


def without_look_up() -> None:
    def look_up(self: LakeSink, partition: Partition, hint: Hint | None) -> Position:
        chain, offset = self._chain(partition.stream), 0 if hint is None else hint.offset
        segment = None if hint is None else hint.segment
        return Position(offset, segment, chain.dataset.id, None, self.clock())

    LakeSink._look_up = look_up


def without_base() -> None:
    def looked_up(self: Holding, found: Position, **_: bool) -> Literal["go on", "fetch again"]:
        """Read on where reading was, and put it behind what was found."""
        if found.offset != self.position.offset:
            self.forget()
        self.position, self.base = found, found.offset
        return "go on"

    Holding.looked_up = looked_up


RULES = {"condition": without_condition, "hint": without_look_up, "base": without_base}


def sleep_or_die_at_a_put() -> None:
    """After SIGUSR1 the process stops itself in front of its next PUT; after SIGUSR2 it dies behind its next one."""
    sleep, die = threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: sleep.set())
    signal.signal(signal.SIGUSR2, lambda *_: die.set())

    def hooked(real: Callable[..., bool]) -> Callable[..., bool]:
        def create(self: Store, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            segment = "/partition=" in key and "_headrace" not in key
            slept = segment and sleep.is_set()
            if slept:
                sleep.clear()
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.05)  # a process that is told to stop may run on for a moment
            stored = real(self, key, body, metadata)
            if slept:
                log_event(logging.getLogger("headrace.chaos"), logging.INFO, "put after sleep", key=key, stored=stored)
            if segment and stored and die.is_set():
                os.kill(os.getpid(), signal.SIGKILL)
            return stored

        return create

    for kind in (FileStore, RemoteStore):
        kind.create = hooked(kind.create)


if __name__ == "__main__":
    sleep_or_die_at_a_put()
    if sys.argv[1:2] == ["--without"]:
        RULES[sys.argv[2]]()
        del sys.argv[1:3]
    logging.getLogger("headrace").setLevel(logging.DEBUG)
    main()

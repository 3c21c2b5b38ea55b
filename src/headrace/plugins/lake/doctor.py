"""Tries out what a lake needs of its store, and takes away what it has put there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

from headrace.chain import Chain, streams
from headrace.errors import ConfigError, HeadraceError, TransientError
from headrace.expire import store_time_s
from headrace.finding import Finding
from headrace.layout import Layout
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.probe import WRITERS, race
from headrace.store import Store

_SKEW_S = 60.0
"""A clock that is further off than that is off; S3 refuses signatures at 15 minutes."""

_SCRATCH = "_headrace/probes/"
"""In a lake without streams: no name of a stream, so nobody reads there."""


def check_lake(store: Store, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """
    List, create, race, read, delete; and look at what is pinned. Nothing is pinned, and nothing is left behind.

    Args:
        store: Of the lake.

        clock: Seconds since the Unix epoch, of this machine.
    """
    yield from store.check()
    there = streams(store)  # what cannot be listed ends the examination
    yield Finding("list", "fine", f"{len(there)} streams in {store.place}")
    yield from _pins(store, there)
    scratch = Layout(*there[0]).probes if there else _SCRATCH
    try:
        yield _conditional_create(store, scratch)
        yield _clock(store, scratch, clock)
    except TransientError:
        raise
    except ConfigError as error:
        yield Finding(
            "write", "wrong", str(error), "a writer creates, reads, lists, and deletes its own probes: allow it"
        )
    finally:
        if isinstance(store, FileStore):
            for folder in ("_headrace/probes", "_headrace/tmp"):
                store.prune(folder)


def _pins(store: Store, there: list[tuple[str, str]]) -> Iterator[Finding]:
    for stream, epoch in there:
        subject = f"stream {stream}" + (f", epoch {epoch}" if epoch else "")
        try:
            pin = Chain.open(store, stream, epoch).dataset
        except TransientError:
            raise
        except HeadraceError as error:
            yield Finding(subject, "wrong", str(error), "restore the pin from a copy, or begin a new epoch")
        else:
            about = f"{pin.format}, {pin.compression}, {pin.isolation}, {pin.partitions} partitions when it was made"
            yield Finding(subject, "fine", about)


def _conditional_create(store: Store, scratch: str) -> Finding:
    key = f"{scratch}{secrets.token_hex(16)}.probe"
    try:
        wrong = race(store, key)
    finally:
        store.delete(key)
    if wrong:
        advice = "exactly once cannot be had here: another store, one that keeps If-None-Match"
        return Finding("conditional create", "wrong", wrong, advice)
    return Finding("conditional create", "fine", f"of {WRITERS} writers at once one won, and it is listed and read")


def _clock(store: Store, scratch: str, clock: Callable[[], float]) -> Finding:
    before_s = clock()
    told_s = store_time_s(store, scratch)
    after_s = clock()
    if told_s is None:
        return Finding(
            "clock",
            "unknown",
            "the store does not say when an object was put there",
            "`headrace expire` cannot work here",
        )
    # a store may cut off its seconds, and takes its time between the two looks
    skew_s = max(before_s - 1 - told_s, told_s - after_s, 0.0)
    if skew_s > _SKEW_S:
        off = f"the store's clock and this machine's are {skew_s:.0f} s apart"
        return Finding("clock", "wrong", off, "set the one that is wrong (NTP); at 15 minutes S3 refuses every request")
    return Finding("clock", "fine", f"the store's clock is this machine's, within {skew_s + after_s - before_s:.1f} s")

"""Finds out whether a store really refuses to overwrite, before anything relies on it (B10)."""

from __future__ import annotations

import hashlib
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from headrace.errors import ConfigError
from headrace.layout import Layout
from headrace.store import Store

WRITERS = 8
"""Racing at once: a store that checks and then writes, in two steps, is not found by one write after the other."""


def probe(store: Store, layout: Layout) -> None:
    """
    Race for a fresh key, unless this store was found good before; remember the verdict in the lake.

    Raises:
        ConfigError: The store let more than one writer win, or lost the winner's bytes, or does not list them.
    """
    mark = f"{layout.probes}{hashlib.sha256(store.identity().encode()).hexdigest()[:32]}.json"
    if store.read(mark) is not None:
        return
    key = f"{layout.probes}{secrets.token_hex(16)}.probe"
    try:
        verdict = race(store, key)
    finally:
        store.delete(key)
    if verdict:
        raise ConfigError(
            f"{store.place} cannot hold exactly-once: {verdict}. Use a store with an atomic create-only write"
            " (If-None-Match: *), or ask for guarantee=at-least-once by name"
        )
    store.create(mark, msgspec.json.encode({"store": store.identity(), "writers": WRITERS}), {})


def race(store: Store, key: str) -> str:
    """Say what is wrong with the store; "" where nothing is."""
    bodies = [secrets.token_bytes(64) for _ in range(WRITERS + 1)]
    together = threading.Barrier(WRITERS)

    def write(body: bytes) -> bool:
        together.wait()
        return store.create(key, body, {})

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, bodies[:WRITERS]))
    if sum(won) != 1:
        return f"of {WRITERS} writers that created one key at once, {sum(won)} were told that they did, expected 1"
    if store.create(key, bodies[-1], {}):
        return "a key that exists was created again"
    if store.read(key) != bodies[won.index(True)]:
        return "the object does not hold the bytes of the writer that was told it had created it"
    if key not in [o.key for o in store.list(key).objects]:
        return "an object that was created is not listed"
    return ""

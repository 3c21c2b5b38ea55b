"""Objects in memory: one store that keeps its word, and three that do not; and what loses the answers of any store."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from headrace.errors import CommitUnknownError, SinkUnavailableError
from headrace.store import Page, Store, StoredObject
from headrace.testing.faults import Gate


@attrs.define(kw_only=True, eq=False)
class MemoryStore(Store):
    """
    Objects in a dictionary. `create` is one atomic step.

    Attributes:
        place: For messages.

        page_size: How many objects one listing returns; small, so that a test meets many pages.

        objects: By key, for whoever reads around the library.

        clock: What the store says of an object's age, seconds since the Unix epoch; ages count from here for what was put
            into `objects` around the store.
    """

    place: str = "memory://lake"
    page_size: int = 1000
    objects: dict[str, bytes] = attrs.field(factory=dict)
    clock: Callable[[], float] = time.time
    _created_s: dict[str, float] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        with self._lock:
            if key in self.objects:
                return False
            self.objects[key] = bytes(body)
            self._created_s[key] = self.clock()
            return True

    def list(self, prefix: str, after: str = "") -> Page:
        with self._lock:
            keys = sorted(self.objects, key=str.encode)
            first = bisect.bisect_right(keys, after.encode(), key=str.encode)
            found = [k for k in keys[first:] if k.startswith(prefix) and self._listed(k)]
            objects = [
                StoredObject(k, len(self.objects[k]), self._created_s.setdefault(k, self.clock()))
                for k in found[: self.page_size]
            ]
            return Page(objects, truncated=len(found) > self.page_size)

    def _listed(self, key: str) -> bool:
        return True

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        with self._lock:
            body = self.objects.get(key)
            return None if body is None else body[start:end]

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)
            self._created_s.pop(key, None)


class OverwritingStore(MemoryStore):
    """Ignores the condition, as a store does that does not know the header: every write wins. A negative control."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        with self._lock:
            self.objects[key] = bytes(body)
            return True


@attrs.define(kw_only=True, eq=False)
class CheckThenWriteStore(MemoryStore):
    """
    Looks whether the key is free, and then writes: two steps. A negative control.

    Attributes:
        between_s: The time between the two, in seconds.
    """

    between_s: float = 0.005

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if key in self.objects:
            return False
        threading.Event().wait(self.between_s)
        self.objects[key] = bytes(body)
        return True


@attrs.define(kw_only=True, eq=False)
class LaggingStore(MemoryStore):
    """
    Lists an object late. A negative control.

    Attributes:
        lag: How many of the newest objects are not listed yet.
    """

    lag: int = 1

    def _listed(self, key: str) -> bool:
        return key not in list(self.objects)[-self.lag :]


@attrs.define(kw_only=True)
class DeafStore(Store):
    """
    Never hears the answer to a write of the store behind it.

    Attributes:
        inner: The store.

        written: Whether a write is carried out before its answer is lost.
    """

    inner: Store
    written: bool
    place: str = "deaf://"

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if self.written:
            self.inner.create(key, body, metadata)
        raise CommitUnknownError(f"{key}: no answer")

    def list(self, prefix: str, after: str = "") -> Page:
        return self.inner.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        return self.inner.read(key, start, end)


@attrs.define(kw_only=True)
class GatedStore(Store):
    """
    Any store, whose caller asks a gate before each request, and loses the request or its answer where the gate says so.

    Attributes:
        inner: The store.

        gate: Whom to ask.
    """

    inner: Store
    gate: Gate

    @property
    def place(self) -> str:  # type: ignore[override]  # the inner one's
        return self.inner.place

    def identity(self) -> str:
        return self.inner.identity()

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        fate = self.gate(f"PUT {key}")
        if fate == "lose the statement":
            raise CommitUnknownError(f"{key}: no answer")
        created = self.inner.create(key, body, metadata)
        if fate == "lose the answer":
            raise CommitUnknownError(f"{key}: no answer")
        return created

    def list(self, prefix: str, after: str = "") -> Page:
        self._ask(f"LIST {prefix}")
        return self.inner.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self._ask(f"GET {key}")
        return self.inner.read(key, start, end)

    def delete(self, key: str) -> None:
        fate = self.gate(f"DELETE {key}")
        if fate != "lose the statement":
            self.inner.delete(key)
        if fate != "do":
            raise SinkUnavailableError(f"{key}: no answer")

    def _ask(self, what: str) -> None:
        if self.gate(what) != "do":
            raise SinkUnavailableError(f"{what}: no answer")


@contextmanager
def answers_lost(holder: Any, *, written: bool) -> Iterator[None]:
    """Lose the answers to all writes of ``holder.store``, a lake's sink as a rule, as long as the context lasts."""
    store = holder.store
    holder.store = DeafStore(inner=store, written=written)
    try:
        yield
    finally:
        holder.store = store

"""What all stores behind a network share: names under a prefix, slices by one request, reads that are tried again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from headrace.errors import ConfigError
from headrace.retry import Retry
from headrace.store import Page, Store

T = TypeVar("T")

SLOWEST_BYTES_PER_S = 256 << 10
"""A request may take this much longer than its time-out for what it carries: a large segment is not a dead connection."""


def _cut(prefix: str) -> str:
    return prefix.strip("/")


@attrs.frozen
class Part:
    """
    A part of an object.

    Attributes:
        body: Its bytes.

        first: Where they begin in the object.

        size: Of the whole object.
    """

    body: bytes
    first: int
    size: int


@attrs.define(kw_only=True, eq=False)
class RemoteStore(Store):
    """
    A bucket, or a prefix in one, as a store.

    Attributes:
        bucket: Its name.

        prefix: What every name begins with, without the slash at its end; "" for the bucket itself.

        page_size: How many objects one listing returns at the most.

        request_timeout_s: How long one request may take, besides a second for each 256 KiB that it carries; and how long
            nothing may come while a large object is read.

        connect_timeout_s: How long it may take until a connection is there.

        connections: How many requests may be under way at once.

        retry_reads_s: For how long reads and listings are tried again. A write is sent once.
    """

    bucket: str = attrs.field()
    prefix: str = attrs.field(default="", converter=_cut)
    page_size: int = attrs.field(default=1000, validator=[attrs.validators.ge(1), attrs.validators.le(1000)])
    request_timeout_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    connect_timeout_s: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    connections: int = attrs.field(default=32, validator=attrs.validators.ge(1))
    retry_reads_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))

    @bucket.validator
    def _named(self, _: object, bucket: str) -> None:
        if not bucket or any(c in bucket for c in "/@:? "):
            raise ValueError(f"found bucket {bucket!r}, expected a name, as in {self._scheme()}://bucket/prefix")

    @property
    def place(self) -> str:  # type: ignore[override]  # derived here, a field elsewhere
        return f"{self._scheme()}://{self.bucket}{'/' + self.prefix if self.prefix else ''}"

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        return self._put(self._full(key), body, metadata)

    def list(self, prefix: str, after: str = "") -> Page:
        """
        Return a page of what the store lists; it must do so in the order of the names' bytes (B11).

        *after* goes to the store only where it lies inside the prefix: servers differ in what they make of the rest.
        """
        root = f"{self.prefix}/" if self.prefix else ""
        if not after.startswith(prefix):
            if after.encode() > prefix.encode():
                return Page([], truncated=False)
            after = ""
        page = self._again(lambda: self._list(root + prefix, root + after if after else ""))
        previous = after
        objects = []
        for found in page.objects:
            key = found.key[len(root) :]
            if not found.key.startswith(root + prefix) or (previous and key.encode() <= previous.encode()):
                raise ConfigError(
                    f"{self.place} lists {found.key!r} behind {previous!r}, expected ascending names; a lake's position is"
                    " found by them: use another kind of bucket or store"
                )
            objects.append(attrs.evolve(found, key=key))
            previous = key
        return Page(objects, page.truncated)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Ask for what the slice needs in one request; its ends are cut here, where the size is known."""
        if start >= 0 and end is not None and 0 <= end <= start:
            start = end = 0
        wanted = f"bytes=-{-start}" if start < 0 else f"bytes={start}-"
        if start >= 0 and end is not None and end >= 0:
            wanted += str(max(end - 1, start))
        if (start, end) == (0, None):
            wanted = ""
        part = self._again(lambda: self._get(self._full(key), wanted))
        if part is None:
            return None
        first, last, _ = slice(start, end).indices(part.size)
        return part.body[max(0, first - part.first) : max(0, last - part.first)]

    def delete(self, key: str) -> None:
        self._again(lambda: self._delete(self._full(key)))

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _again(self, call: Callable[[], T]) -> T:
        return Retry(self.retry_reads_s)(call)

    def _allowed_s(self, carried_bytes: int = 0) -> float:
        return self.request_timeout_s + carried_bytes / SLOWEST_BYTES_PER_S

    @abstractmethod
    def _scheme(self) -> str:
        """Of the URI that makes it."""

    @abstractmethod
    def _put(self, name: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        """Send one create-only PUT, once; see `Store.create`."""

    @abstractmethod
    def _list(self, prefix: str, after: str) -> Page:
        """Send one LIST; full names."""

    @abstractmethod
    def _get(self, name: str, wanted: str) -> Part | None:
        """Send one GET of this range, a header of HTTP; "": of all. An empty part where nothing is in the range."""

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Send one DELETE."""

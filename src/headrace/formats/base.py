"""What a format is: how to write a segment's content while records come, and how to read it and its trailer back."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar, TypeVar

from headrace.records import Batch, Partition
from headrace.segment import Trailer

T = TypeVar("T")


class Workers:
    """Threads that compress what the reader's thread hands over; it waits where too much is waiting already."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="headrace-compress")
        self._room = threading.Semaphore(4 * threads)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run *work* in a thread, as soon as there is room."""
        self._room.acquire()
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._room.release())
        return future

    def close(self) -> None:
        """End; what has not begun is dropped. A second call does nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Content(ABC):
    """
    The bytes of a segment on their way: records are encoded as they come, blocks compressed by workers.

    `add` and `discard` are called by the reader's thread, `finish` by a worker's; never two at a time.
    """

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Memory that is held now, in bytes."""

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Encode *batch*; no record is refused."""

    @abstractmethod
    def finish(self, trailer: Callable[[str], Trailer]) -> bytes:
        """Return the whole object, from at least one record; *trailer* makes its trailer from the digest. Called once."""

    @abstractmethod
    def discard(self) -> None:
        """Give the memory back."""


class Format(ABC):
    """
    One way to keep the records of a segment in an object. Holds no state: every method may be called from any thread.

    Attributes:
        name: In the dataset's pin: "jsonl" or "parquet".

        compression: In the dataset's pin, too.

        extension: Of the object's key.

        tail_bytes: How much of an object's end to read first: as a rule its whole trailer is in it.
    """

    name: ClassVar[str]
    tail_bytes: ClassVar[int]

    @property
    @abstractmethod
    def compression(self) -> str: ...

    @property
    @abstractmethod
    def extension(self) -> str: ...

    def require(self) -> None:
        """Find out now whether records can be written and read. MissingExtraError: a library is not installed."""

    # ---- writing ------------------------------------------------------------------------------------------

    @abstractmethod
    def content(self, workers: Workers, buffer_bytes: int) -> Content:
        """Begin a segment. *buffer_bytes* is about how much it may hold before it compresses."""

    # ---- the trailer --------------------------------------------------------------------------------------

    @abstractmethod
    def seal_bytes(self, tail: bytes) -> int:
        """Say how many bytes from an object's end on its digest does not cover, from its last ones: at least 8 of them."""

    @abstractmethod
    def trailer(self, seal: bytes, *, key: str) -> Trailer:
        """
        Read what the object at *key* says of itself, from its last `seal_bytes`.

        Raises:
            CorruptSegmentError: They are no trailer, or one that is damaged or of a newer format; the message says which.
        """

    def holds(self, body: bytes, trailer: Trailer, *, key: str) -> bool:
        """Whether *body* is, to the last bit, the object that *trailer* is of; errors as for `trailer`."""
        cut = len(body) - self.seal_bytes(body[-8:])
        if cut < 0 or self.trailer(body[cut:], key=key) != trailer:
            return False
        return hashlib.sha256(memoryview(body)[:cut]).hexdigest() == trailer.digest

    # ---- reading ------------------------------------------------------------------------------------------

    @abstractmethod
    def batches(self, body: bytes, partition: Partition, assignment: int, start: int) -> Iterator[Batch]:
        """
        Yield the records of an object, about 1 MiB at a time.

        Raises:
            DataError: They are not ours, or damaged; what was yielded before is not to be trusted.
            MissingExtraError: What reads this format is not installed.
        """

    @abstractmethod
    def lines(self, body: bytes) -> Iterator[bytes]:
        """Yield the records as JSON lines (`headrace.envelope`), in pieces that end anywhere; errors as for `batches`."""

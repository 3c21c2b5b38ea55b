"""Segments of JSON lines, in blocks that are compressed each on its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import ClassVar

import attrs

from headrace.compression import TRAILER_BYTES, Block, Compression, compression
from headrace.envelope import decode_batch, encode, whole_lines
from headrace.formats.base import Content, Format, Workers
from headrace.records import Batch, Partition
from headrace.segment import Trailer
from headrace.trailer import decode as decode_trailer
from headrace.trailer import encode as encode_trailer

_BLOCK_BYTES = (32 << 10, 512 << 10)
"""A block is compressed by itself: 256 KiB to 1 MiB cost no ratio, smaller ones cost some, and none costs memory later."""


@attrs.frozen
class JsonLines(Format):
    """One record a line (`headrace.envelope`), in a frame of its compression; the trailer is the last 1,024 bytes."""

    name: ClassVar[str] = "jsonl"
    tail_bytes: ClassVar[int] = TRAILER_BYTES

    codec: Compression

    @classmethod
    def of(cls, name: str) -> JsonLines:
        """Make the format with the compression called *name*; errors as for `headrace.compression.compression`."""
        return cls(compression(name))

    @property
    def compression(self) -> str:
        return self.codec.name

    @property
    def extension(self) -> str:
        return self.codec.extension

    def content(self, workers: Workers, buffer_bytes: int) -> Content:
        smallest, largest = _BLOCK_BYTES
        return _Lines(self.codec, workers, max(smallest, min(largest, buffer_bytes)))

    def seal_bytes(self, tail: bytes) -> int:
        return TRAILER_BYTES

    def trailer(self, seal: bytes, *, key: str) -> Trailer:
        return decode_trailer(seal, self.codec, key=key)

    def batches(self, body: bytes, partition: Partition, assignment: int, start: int) -> Iterator[Batch]:
        for block in whole_lines(self.codec.decompress(body)):
            batch = decode_batch(block, partition, assignment, start)
            start = batch.end
            yield batch

    def lines(self, body: bytes) -> Iterator[bytes]:
        return self.codec.decompress(body)


@attrs.define(eq=False)
class _Lines(Content):
    """Lines are encoded as they come, blocks compressed by themselves, nothing is kept raw."""

    _codec: Compression
    _workers: Workers
    _block_bytes: int
    _raw: list[bytes] = attrs.field(factory=list, init=False)
    _raw_bytes: int = attrs.field(default=0, init=False)
    _blocks: list[Future[Block]] = attrs.field(factory=list, init=False)
    _compressing_bytes: int = attrs.field(default=0, init=False)
    _compressed_bytes: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _discarded: bool = attrs.field(default=False, init=False)

    @property
    def held_bytes(self) -> int:
        return self._raw_bytes + self._compressing_bytes + self._compressed_bytes

    def add(self, batch: Batch) -> None:
        lines = encode(batch)
        self._raw.append(lines)
        self._raw_bytes += len(lines)
        if self._raw_bytes >= self._block_bytes:
            self._cut()

    def finish(self, trailer: Callable[[str], Trailer]) -> bytes:
        if self._raw:
            self._cut()
        content = self._codec.join([block.result() for block in self._blocks])
        body = content + encode_trailer(trailer(hashlib.sha256(content).hexdigest()), self._codec)
        self._blocks.clear()
        self._compressed_bytes = len(body)
        return body

    def discard(self) -> None:
        for block in self._blocks:
            block.cancel()
        with self._lock:
            self._discarded = True
            self._raw, self._blocks = [], []
            self._raw_bytes = self._compressing_bytes = self._compressed_bytes = 0

    def _cut(self) -> None:
        """Hand what is raw to a worker."""
        raw, size = self._raw, self._raw_bytes
        self._raw, self._raw_bytes = [], 0
        with self._lock:
            self._compressing_bytes += size
        self._blocks.append(self._workers.submit(lambda: self._compress(raw, size)))

    def _compress(self, raw: list[bytes], size: int) -> Block:
        block = self._codec.block(b"".join(raw))
        with self._lock:
            if not self._discarded:
                self._compressing_bytes -= size
                self._compressed_bytes += len(block.data)
        return block

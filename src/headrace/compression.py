"""
How bronze objects are compressed: blocks that know nothing of each other, joined into what every reader takes.

No compressor lives between two blocks, so thousands of open partitions cost no memory but their blocks, and any thread may
compress any block. Each object ends in a frame of 1,024 bytes that readers pass over: the trailer's place.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar

import attrs

from headrace.errors import ConfigError, DataError, MissingExtraError

TRAILER_BYTES = 1024
"""Size of the frame that ends an object."""

PAYLOAD_BYTES = 998
"""Room for the trailer inside the frame."""

_CHUNK_BYTES = 1 << 20
_FEED_BYTES = 1 << 16


@attrs.frozen
class Block:
    """
    Some lines, compressed on their own.

    Attributes:
        data: Compressed.

        crc: CRC-32 of the bytes before compression.

        raw_bytes: How many there were.
    """

    data: bytes
    crc: int
    raw_bytes: int


class Compression(ABC):
    """
    One way to compress an object. Holds no state: every method may be called from any thread.

    Attributes:
        name: In the dataset's pin: "gzip" or "zstd".

        extension: Of the object's key.
    """

    name: ClassVar[str]
    extension: ClassVar[str]

    @abstractmethod
    def block(self, raw: bytes) -> Block:
        """Compress *raw* on its own; the GIL is released meanwhile."""

    @abstractmethod
    def join(self, blocks: Sequence[Block]) -> bytes:
        """Make all bytes of an object before its trailer, from at least one block."""

    @abstractmethod
    def decompress(self, body: bytes) -> Iterator[bytes]:
        """
        Yield what *body* holds, with or without its trailer, in pieces of at most 1 MiB; they end anywhere.

        Raises:
            DataError: It is damaged or cut off; what was yielded before is not to be trusted.
        """

    @property
    @abstractmethod
    def _frame(self) -> tuple[bytes, bytes]:
        """What stands before and after the trailer's payload."""

    def frame(self, payload: bytes) -> bytes:
        """Wrap *payload*, `PAYLOAD_BYTES` long, so that readers pass over it: `TRAILER_BYTES` in all."""
        if len(payload) != PAYLOAD_BYTES:
            raise ValueError(f"found a payload of {len(payload)} bytes, expected {PAYLOAD_BYTES}")
        head, foot = self._frame
        return head + payload + foot

    def unframe(self, tail: bytes) -> bytes:
        """Take the payload out of the last `TRAILER_BYTES` of an object; ValueError if they are no frame of ours."""
        head, foot = self._frame
        if len(tail) != TRAILER_BYTES:
            raise ValueError(f"found {len(tail)} bytes, expected {TRAILER_BYTES}")
        if not (tail.startswith(head) and tail.endswith(foot)):
            raise ValueError(f"found other bytes around the trailer than {self.name} objects of headrace have")
        return tail[len(head) : -len(foot)]


def compression(name: str) -> Compression:
    """
    Return the compression called *name*.

    Raises:
        ConfigError: There is none of this name.
        MissingExtraError: Its library is not installed.
    """
    if name == "gzip":
        return Gzip()
    if name == "zstd":
        return Zstd()
    raise ConfigError(f"found compression {name!r}, expected 'gzip' or 'zstd'")


def _deflate() -> ModuleType:
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


@attrs.frozen
class Gzip(Compression):
    """
    One gzip member put together from deflate blocks that end byte-aligned and refer to nothing before them.

    That is how pigz works: even a reader that stops after the first member sees every line. The trailer is a second,
    empty member whose header carries the payload as an extra field (RFC 1952, 2.3.1.1).

    Attributes:
        deflate: `isal.isal_zlib` where it is installed (extra "fast"), else `zlib`.
    """

    name: ClassVar[str] = "gzip"
    extension: ClassVar[str] = "jsonl.gz"
    # no name, no time, unknown system: the same records make the same bytes
    _header: ClassVar[bytes] = b"\x1f\x8b\x08\x00\0\0\0\0\x00\xff"
    _end: ClassVar[bytes] = b"\x03\x00"

    deflate: Any = attrs.field(factory=_deflate, repr=False)

    def block(self, raw: bytes) -> Block:
        compressor = self.deflate.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = compressor.compress(raw) + compressor.flush(zlib.Z_FULL_FLUSH)
        return Block(data, self.deflate.crc32(raw), len(raw))

    def join(self, blocks: Sequence[Block]) -> bytes:
        combine = getattr(self.deflate, "crc32_combine", crc32_combine)
        crc = size = 0
        for block in blocks:
            crc = combine(crc, block.crc, block.raw_bytes)
            size += block.raw_bytes
        checks = crc.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
        return b"".join([self._header, *(block.data for block in blocks), self._end, checks])

    def decompress(self, body: bytes) -> Iterator[bytes]:
        member, feed = None, memoryview(body)
        try:
            for at in range(0, len(feed), _FEED_BYTES):
                rest: bytes | memoryview = feed[at : at + _FEED_BYTES]
                while rest:
                    member = member or self.deflate.decompressobj(zlib.MAX_WBITS | 16)
                    piece = member.decompress(rest, _CHUNK_BYTES)
                    if piece:
                        yield piece
                    rest = member.unused_data if member.eof else member.unconsumed_tail
                    member = None if member.eof else member
        except (zlib.error, self.deflate.error) as exc:
            raise DataError(f"found damaged gzip data: {exc}") from exc
        if member is not None:
            raise DataError("found gzip data that is cut off")

    @property
    def _frame(self) -> tuple[bytes, bytes]:
        size = (PAYLOAD_BYTES + 4).to_bytes(2, "little") + b"HR" + PAYLOAD_BYTES.to_bytes(2, "little")
        return b"\x1f\x8b\x08\x04\0\0\0\0\x00\xff" + size, self._end + bytes(8)


def _zstd() -> ModuleType:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise MissingExtraError(f"compression 'zstd' needs {name}: pip install 'headrace[zstd]'") from exc


@attrs.frozen
class Zstd(Compression):
    """
    A zstd frame a block, each with its size and checksum; the trailer is a skippable frame (RFC 8878, 3.1.2).

    A quarter smaller than gzip; readers built on airlift's aircompressor (Trino, Athena) refuse the trailer.

    Attributes:
        zstd: The standard library's module, or its backport before Python 3.14.
    """

    name: ClassVar[str] = "zstd"
    extension: ClassVar[str] = "jsonl.zst"

    zstd: Any = attrs.field(factory=_zstd, repr=False)

    def block(self, raw: bytes) -> Block:
        parameter = self.zstd.CompressionParameter
        options = {parameter.compression_level: 1, parameter.content_size_flag: 1, parameter.checksum_flag: 1}
        return Block(self.zstd.compress(raw, options=options), zlib.crc32(raw), len(raw))

    def join(self, blocks: Sequence[Block]) -> bytes:
        return b"".join(block.data for block in blocks)

    def decompress(self, body: bytes) -> Iterator[bytes]:
        frame, feed = None, memoryview(body)
        try:
            for at in range(0, len(feed), _FEED_BYTES):
                rest: bytes | memoryview = feed[at : at + _FEED_BYTES]
                while rest or (frame is not None and not frame.needs_input):
                    frame = frame or self.zstd.ZstdDecompressor()
                    piece = frame.decompress(rest, _CHUNK_BYTES)
                    if piece:
                        yield piece
                    rest = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
        except self.zstd.ZstdError as exc:
            raise DataError(f"found damaged zstd data: {exc}") from exc
        if frame is not None:
            raise DataError("found zstd data that is cut off")

    @property
    def _frame(self) -> tuple[bytes, bytes]:
        size = TRAILER_BYTES - 8
        return b"\x50\x2a\x4d\x18" + size.to_bytes(4, "little"), bytes(size - PAYLOAD_BYTES)


_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def crc32_combine(first: int, second: int, size: int) -> int:
    """
    Return the CRC-32 of two runs of bytes from the CRC-32 of each and the *size* of the second.

    A CRC-32 is a polynomial over GF(2), its highest power in the lowest bit: *size* zero bytes after the first run
    multiply it by x^(8 size), modulo the CRC's polynomial (Mark Adler's way in zlib, ``crc32_combine``).
    """
    shift, power = _ONE, _ONE >> 8
    while size:
        if size & 1:
            shift = _multiply(shift, power)
        power = _multiply(power, power)
        size >>= 1
    return _multiply(shift, first) ^ second


def _multiply(a: int, b: int) -> int:
    product, bit = 0, _ONE
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product

"""
Segments as Parquet, and their trailer: in the footer, found and checked by plain bytes.

The trailer is the value of the key ``headrace`` in the footer's key-value metadata: the same text as in the other formats,
of a fixed size. Its digest covers all bytes before the footer. Its checksum covers the footer, the trailer and the last
eight bytes, with zeros in the place of its own digits: so a single bit that is flipped anywhere is noticed, and a position
can be looked up where pyarrow is not installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import attrs

from headrace.compression import PAYLOAD_BYTES
from headrace.errors import MissingExtraError
from headrace.formats.base import Content, Format, Workers
from headrace.records import Batch, Partition
from headrace.segment import Trailer
from headrace.trailer import MAGIC, SEALED, decode_payload, encode_payload, unreadable

_END = b"PAR1"
END_BYTES = 8
"""The footer's length, little-endian, and the magic word (Parquet's file format)."""

KEY = b"headrace"
PLACEHOLDER = MAGIC.ljust(PAYLOAD_BYTES, b"-")
"""What stands in the footer until the digest is known, as long as the trailer will be."""

_ROW_GROUP_BYTES = (64 << 10, 4 << 20)
"""Before compression. Larger ones read no faster and cost memory; each costs about 1 kB of footer."""


@attrs.frozen
class Parquet(Format):
    """
    The columns of the JSON line, in row groups that are written while records come.

    Attributes:
        codec: "zstd" or "snappy", of the pages.
    """

    name: ClassVar[str] = "parquet"
    tail_bytes: ClassVar[int] = (
        32 << 10
    )  # a longer footer, of more row groups than a segment usually has, takes a second read

    codec: str = "zstd"

    @property
    def compression(self) -> str:
        return self.codec

    @property
    def extension(self) -> str:
        return "parquet"

    def require(self) -> None:
        _arrow()

    def content(self, workers: Workers, buffer_bytes: int) -> Content:
        smallest, largest = _ROW_GROUP_BYTES
        found: Content = _arrow().Columns(self.codec, workers, max(smallest, min(largest, buffer_bytes)))
        return found

    def seal_bytes(self, tail: bytes) -> int:
        return seal_bytes(tail)

    def trailer(self, seal: bytes, *, key: str) -> Trailer:
        try:
            at = _place(seal, MAGIC)
        except ValueError as exc:
            raise unreadable(exc, key) from exc
        return decode_payload(seal[at : at + PAYLOAD_BYTES], _checksum(seal, at), key=key)

    def batches(self, body: bytes, partition: Partition, assignment: int, start: int) -> Iterator[Batch]:
        found: Iterator[Batch] = _arrow().batches(body, partition, assignment, start)
        return found

    def lines(self, body: bytes) -> Iterator[bytes]:
        found: Iterator[bytes] = _arrow().lines(body)
        return found


def seal_bytes(tail: bytes) -> int:
    """Say how long footer and end are, by an object's last eight bytes; 8 where they are not those of a Parquet file."""
    return END_BYTES + (int.from_bytes(tail[-END_BYTES:-4], "little") if tail.endswith(_END) else 0)


def seal(footer: bytes, trailer: Trailer) -> bytes:
    """Put *trailer* into the place that was kept for it in the end of an object; ConfigError as for the other formats."""
    at = _place(footer, PLACEHOLDER)
    payload = encode_payload(trailer, _checksum(footer, at))
    return footer[:at] + payload + footer[at + PAYLOAD_BYTES :]


def _place(seal: bytes, word: bytes) -> int:
    """Find where the trailer begins. What stands before it in a footer is the schema and numbers, nothing of a record."""
    if not seal.endswith(_END):
        raise ValueError(f"found {seal[-4:]!r} at its end, expected {_END!r}")
    if len(seal) != seal_bytes(seal):
        raise ValueError(f"found {len(seal)} bytes, its end says that its footer is longer than the object")
    at = seal.find(word)
    if at < 0 or at + PAYLOAD_BYTES > len(seal) - END_BYTES:
        raise ValueError("its footer has no value of headrace")
    return at


def _checksum(seal: bytes, at: int) -> Callable[[bytes], str]:
    """Make the trailer's checksum: of the whole end of the object, as if its own digits were zeros."""

    def checksum(text: bytes) -> str:
        return hashlib.sha256(seal[:at] + SEALED + text + seal[at + PAYLOAD_BYTES :]).hexdigest()

    return checksum


def _arrow() -> ModuleType:
    try:
        return import_module("headrace.formats.arrow")
    except ImportError as exc:
        raise MissingExtraError(f"format 'parquet' needs pyarrow: pip install 'headrace[parquet]' ({exc})") from exc

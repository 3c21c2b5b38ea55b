"""
The trailer: the last 1,024 bytes of a bronze object, in which it says what it is (B4, B5).

The frame around it is the compression's (`headrace.compression`), so that readers of lines pass over it. Inside is text,
which ``tail -c 1024`` shows: a magic word with the format's version, the SHA-256 of all that follows, the fields as JSON,
spaces up to a fixed size, a line end. A single bit that is flipped anywhere is noticed. In Parquet the same text stands in
the footer, and its checksum is of the whole footer (`headrace.formats.parquet`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from headrace.compression import PAYLOAD_BYTES, TRAILER_BYTES, Compression
from headrace.errors import ConfigError, CorruptSegmentError
from headrace.records import Partition
from headrace.segment import Trailer

__all__ = ["MAGIC", "SEALED", "TRAILER_BYTES", "decode", "decode_payload", "encode", "encode_payload", "unreadable"]

MAGIC = b"headrace segment "
_VERSION = b"1"
_HASH_BYTES = 64
SEALED = MAGIC + _VERSION + b" " + b"0" * _HASH_BYTES + b" "
"""How a trailer begins, with zeros for the digits of its checksum."""

_JSON_BYTES = PAYLOAD_BYTES - len(SEALED) - 1
_STREAM_BYTES = 249
_WRITER_LENGTH = 128

_Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Natural = Annotated[int, Meta(ge=0)]


class _Fields(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    dataset: _Hex32
    partition: _Natural
    start: _Natural
    end: _Natural
    first: _Natural
    records: Annotated[int, Meta(ge=1)]
    min_ms: int
    max_ms: int
    sha256: _Hex64
    leader_epoch: int | None
    writer: str
    # one of the two: escaped, a name of control characters would not fit
    stream: str | UnsetType = UNSET
    stream_b64: bytes | UnsetType = UNSET


def encode(trailer: Trailer, compression: Compression) -> bytes:
    """
    Make the last `TRAILER_BYTES` of an object. A long `writer` is cut to the room that is left.

    Raises:
        ConfigError: The stream's name is longer than 249 bytes, or is not text.
    """
    return compression.frame(encode_payload(trailer, _checksum))


def decode(tail: bytes, compression: Compression, *, key: str) -> Trailer:
    """
    Read what the object at *key* says of itself, from its last `TRAILER_BYTES`.

    Raises:
        CorruptSegmentError: They are not a trailer, or one that is damaged or of a newer format; the message says which.
    """
    try:
        payload = compression.unframe(tail)
    except ValueError as exc:
        raise unreadable(exc, key) from exc
    return decode_payload(payload, _checksum, key=key)


def encode_payload(trailer: Trailer, checksum: Callable[[bytes], str]) -> bytes:
    """
    Make a trailer without a frame, `PAYLOAD_BYTES` long. Errors as for `encode`.

    Args:
        trailer: What it says.

        checksum: Makes the 64 digits that stand before the text, from the text.
    """
    text = _json(trailer).ljust(_JSON_BYTES) + b"\n"
    return MAGIC + _VERSION + b" " + checksum(text).encode() + b" " + text


def decode_payload(payload: bytes, checksum: Callable[[bytes], str], *, key: str) -> Trailer:
    """Read what `encode_payload` made, with the same *checksum*. Errors as for `decode`."""
    try:
        return _trailer(_fields(payload, checksum))
    except (ValueError, RecursionError, msgspec.DecodeError) as exc:
        raise unreadable(exc, key) from exc


def unreadable(why: Exception, key: str) -> CorruptSegmentError:
    """Say that the object at *key* has no trailer, and what to do."""
    return CorruptSegmentError(
        f"object {key!r} has no trailer that can be read: {why}; if it is not an object of headrace, move it away; "
        f"if it is, restore it from a copy",
        key=key,
    )


def _checksum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _json(trailer: Trailer) -> bytes:
    fields = _Fields(
        dataset=trailer.dataset_id,
        partition=trailer.partition.number,
        start=trailer.start,
        end=trailer.end,
        first=trailer.first,
        records=trailer.records,
        min_ms=trailer.min_ms,
        max_ms=trailer.max_ms,
        sha256=trailer.digest,
        leader_epoch=trailer.leader_epoch,
        writer=trailer.writer.encode("utf-8", "replace").decode()[:_WRITER_LENGTH],
    )
    name = _stream(trailer.partition.stream)
    if len(msgspec.json.encode(trailer.partition.stream)) > len(msgspec.json.encode(name)):
        fields.stream_b64 = name
    else:
        fields.stream = trailer.partition.stream
    while len(text := msgspec.json.encode(fields)) > _JSON_BYTES and fields.writer:
        fields.writer = fields.writer[:-1]
    return text


def _stream(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"found stream name {name!r}, expected text that can be written as UTF-8") from exc
    if len(encoded) > _STREAM_BYTES:
        raise ConfigError(f"found a stream name of {len(encoded)} bytes, expected at most {_STREAM_BYTES}: {name!r}")
    return encoded


def _fields(payload: bytes, checksum: Callable[[bytes], str]) -> _Fields:
    if not payload.startswith(MAGIC):
        raise ValueError(f"found {payload[: len(MAGIC)]!r}, expected {MAGIC!r}")
    version, _, rest = payload[len(MAGIC) :].partition(b" ")
    if version != _VERSION:
        raise ValueError(f"found format version {version!r}, expected {_VERSION!r}; a newer headrace may read it")
    digest, space, text = rest[:_HASH_BYTES], rest[_HASH_BYTES : _HASH_BYTES + 1], rest[_HASH_BYTES + 1 :]
    found = checksum(text).encode()
    if space != b" " or digest != found:
        raise ValueError(f"its checksum says {digest!r}, its bytes give {found!r}")
    return msgspec.json.decode(text, type=_Fields)


def _trailer(fields: _Fields) -> Trailer:
    if (fields.stream is UNSET) == (fields.stream_b64 is UNSET):
        raise ValueError("expected one of stream and stream_b64")
    span = fields.end - fields.first
    if not (fields.start <= fields.first < fields.end and fields.records <= span and fields.min_ms <= fields.max_ms):
        raise ValueError(f"its fields contradict each other: {fields}")
    stream = fields.stream_b64.decode() if isinstance(fields.stream_b64, bytes) else str(fields.stream)
    return Trailer(
        dataset_id=fields.dataset,
        partition=Partition(stream, fields.partition),
        start=fields.start,
        end=fields.end,
        first=fields.first,
        records=fields.records,
        min_ms=fields.min_ms,
        max_ms=fields.max_ms,
        digest=fields.sha256,
        leader_epoch=fields.leader_epoch,
        writer=fields.writer,
    )

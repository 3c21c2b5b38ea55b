"""The records of an object, from its bytes: the published format (docs, "The format of a lake"), read anew."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import attrs

from headrace.errors import MissingExtraError
from headrace.records import Record

_CHUNK = 1 << 20
_FEED = 1 << 16
_HEADERS = b'"headers":'
_VALUE = b',"value":'
_VALUE_B64 = b',"value_b64":'
_NAMES = {"offset", "timestamp_ms", "timestamp_type", "key", "key_b64", "headers"}


class DamagedError(ValueError):
    """Bytes that hold no lines, and why."""


@attrs.frozen
class Line:
    """
    A record with the line that it stands in.

    Attributes:
        record: Rebuilt to the byte.

        raw: The line, without its end; empty where the format has no lines.
    """

    record: Record
    raw: bytes = attrs.field(default=b"", repr=False)


def lines_of(body: bytes, extension: str) -> Iterator[Line]:
    """
    Yield an object's records, a few at a time in memory.

    Raises:
        DamagedError: What was not yielded cannot be read.
        MissingExtraError: What reads this format is not installed.
    """
    if extension == "parquet":
        yield from _rows(body)
        return
    rest = b""
    for piece in _inflated(body) if extension == "jsonl.gz" else _zstd(body):
        *whole, rest = (rest + piece).split(b"\n")
        for raw in whole:
            yield Line(line(raw), raw)
    if rest:
        raise DamagedError(f"its last line is not ended, {len(rest)} bytes of it are there")


def line(raw: bytes) -> Record:
    """
    Rebuild the record of one line. DamagedError where it is none.

    Nor is one that other readers may read otherwise: with a field twice, with one that is none of ours, with a value that is no
    strict JSON.
    """
    try:
        at = _end_of_headers(raw)
        fields, value = _object(raw[:at] + b"}"), raw[at:]
        if unknown := fields.keys() - _NAMES:
            raise ValueError(f"fields that are none of ours: {', '.join(sorted(unknown))}")
        return Record(
            offset=_integer(fields["offset"]),
            timestamp_ms=_integer(fields["timestamp_ms"]),
            key=_content(fields, "key"),
            value=_value(value),
            headers=tuple((_name(h), _content(h, "value")) for h in fields["headers"] or ()),
            timestamp_type=fields.get("timestamp_type", "create"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DamagedError(f"a line that is none of ours: {exc!r:.200}") from exc


def _end_of_headers(raw: bytes) -> int:
    """Where the value's field begins: whatever follows it, what stands before is of a fixed shape."""
    at = raw.index(_HEADERS) + len(_HEADERS)  # in a text its quotes would be escaped
    if raw.startswith(b"null", at):
        return at + 4
    text = raw[at:].decode()
    _, end = _DECODER.raw_decode(text)
    return at + len(text[:end].encode())


def _object(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = _OURS.decode(text.decode())
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _integer(found: object) -> int:
    if type(found) is not int:
        raise ValueError(f"found {found!r}, expected a number")
    return found


def _content(fields: Mapping[str, Any], name: str) -> bytes | None:
    if f"{name}_b64" in fields:
        if name in fields:
            raise ValueError(f"both {name} and {name}_b64")
        return base64.b64decode(fields[f"{name}_b64"], validate=True)
    text = fields[name]
    return None if text is None else str.encode(text)


def _name(header: Mapping[str, Any]) -> str:
    return (_content(header, "key") or b"").decode("utf-8", "surrogatepass")


def _value(field: bytes) -> bytes | None:
    if field.startswith(_VALUE_B64):
        fields = _object(b"{" + field[1:])
        if len(fields) != 1:
            raise ValueError("something stands behind its value")
        return base64.b64decode(fields["value_b64"], validate=True)
    if not field.startswith(_VALUE) or not field.endswith(b"}"):
        raise ValueError("its fields are not in their order")
    value = field[len(_VALUE) : -1]
    if value == b"null":
        return None
    _VALUES.decode(value.decode())
    return value


def _none_of_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder()
_OURS = json.JSONDecoder(object_pairs_hook=_once)
_VALUES = json.JSONDecoder(parse_constant=_none_of_json)


def _inflated(body: bytes) -> Iterator[bytes]:
    member: Any = None
    feed = memoryview(body)
    try:
        for at in range(0, len(feed), _FEED):
            rest: bytes | memoryview = feed[at : at + _FEED]
            while rest:
                member = member or zlib.decompressobj(zlib.MAX_WBITS | 16)
                piece = member.decompress(rest, _CHUNK)
                if piece:
                    yield piece
                rest = member.unused_data if member.eof else member.unconsumed_tail
                member = None if member.eof else member
    except zlib.error as exc:
        raise DamagedError(f"its gzip data is damaged ({exc})") from exc
    if member is not None:
        raise DamagedError("its gzip data is cut off")


def _zstd(body: bytes) -> Iterator[bytes]:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        zstd = import_module(name)
    except ImportError as exc:
        raise MissingExtraError(f"to read zstd objects {name} is needed: pip install 'headrace[zstd]'") from exc
    frame: Any = None
    feed = memoryview(body)
    try:
        for at in range(0, len(feed), _FEED):
            rest: bytes | memoryview = feed[at : at + _FEED]
            while rest or (frame is not None and not frame.needs_input):
                frame = frame or zstd.ZstdDecompressor()
                piece = frame.decompress(rest, _CHUNK)
                if piece:
                    yield piece
                rest = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstd.ZstdError as exc:
        raise DamagedError(f"its zstd data is damaged ({exc})") from exc
    if frame is not None:
        raise DamagedError("its zstd data is cut off")


def _rows(body: bytes) -> Iterator[Line]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as exc:
        raise MissingExtraError(
            f"to read Parquet objects pyarrow is needed: pip install 'headrace[parquet]' ({exc})"
        ) from exc
    try:
        for batch in parquet.ParquetFile(arrow.BufferReader(body), page_checksum_verification=True).iter_batches(2000):
            for row in batch.to_pylist():
                yield Line(_record(row))
    except (arrow.ArrowException, OSError, KeyError) as exc:
        raise DamagedError(f"its Parquet pages are damaged ({exc})") from exc


def _record(row: Mapping[str, Any]) -> Record:
    headers = tuple(
        ((_bytes(h, "key") or b"").decode("utf-8", "surrogatepass"), _bytes(h, "value")) for h in row["headers"] or ()
    )
    stamp: Any = row["timestamp_type"] or "create"
    return Record(row["offset"], row["timestamp_ms"], _bytes(row, "key"), _bytes(row, "value"), headers, stamp)


def _bytes(row: Mapping[str, Any], name: str) -> bytes | None:
    found: bytes | None = row[f"{name}_bytes"]
    return found if row[name] is None else row[name].encode()

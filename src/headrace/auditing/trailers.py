"""What an object says of itself, from its last bytes: the published format (docs, "The format of a lake"), read anew."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import attrs

from headrace.store import Store, StoredObject

_BYTES = 1024
_WORD = b"headrace segment "
_HEADS = {
    "jsonl.gz": (b"\x1f\x8b\x08\x04\0\0\0\0\x00\xff\xea\x03HR\xe6\x03", 16, 10),
    "jsonl.zst": (b"\x50\x2a\x4d\x18\xf8\x03\0\0", 8, 18),
}
"""How the frame begins, how long that is, and how long what stands behind the payload is."""

_PARQUET_TAIL = 32 << 10
_DIGITS = set("0123456789abcdef")


class UnreadableError(ValueError):
    """Bytes that are no trailer, and why."""


@attrs.frozen
class Said:
    """
    The fields of a trailer.

    Attributes:
        dataset_id: Whose.

        stream: Of which stream.

        partition: Its number.

        start: Where it was committed.

        end: Behind its last record.

        first: Its first record's offset.

        records: How many.

        min_ms: The smallest timestamp.

        max_ms: The largest.

        digest: SHA-256 of what stands before the trailer.

        writer: Who, for people.

        sealed_bytes: How many bytes at the object's end the digest does not cover.
    """

    dataset_id: str
    stream: str
    partition: int
    start: int
    end: int
    first: int
    records: int
    min_ms: int
    max_ms: int
    digest: str
    writer: str
    sealed_bytes: int


def read_trailer(store: Store, item: StoredObject, extension: str) -> Said | None:
    """
    Read an object's trailer; None where the object is gone.

    Raises:
        UnreadableError: It has none that holds; the message says why.
    """
    if extension != "parquet":
        tail = store.read(item.key, -_BYTES)
        return None if tail is None else of_lines(tail, extension)
    tail = store.read(item.key, -_PARQUET_TAIL)
    if tail is not None and tail.endswith(b"PAR1") and (size := _footer(tail)) > len(tail):
        tail = store.read(item.key, -size)
    return None if tail is None else of_parquet(tail)


def of_lines(tail: bytes, extension: str) -> Said:
    """Read the trailer of a segment of lines from its last 1,024 bytes. UnreadableError as for `read_trailer`."""
    head, before, behind = _HEADS[extension]
    if len(tail) != _BYTES or not tail.startswith(head):
        raise UnreadableError(f"its last {len(tail)} bytes are no trailer: it is cut off, or was written anew")
    payload = tail[before : _BYTES - behind]
    expected = b"\x03\x00" + bytes(8) if extension == "jsonl.gz" else bytes(18)
    if tail[-behind:] != expected:
        raise UnreadableError("the frame of its trailer is damaged")
    return _said(payload, lambda text: hashlib.sha256(text).hexdigest(), _BYTES)


def of_parquet(tail: bytes) -> Said:
    """Read the trailer of a Parquet object from its footer on, or from before it. UnreadableError as for `read_trailer`."""
    if not tail.endswith(b"PAR1") or _footer(tail) > len(tail):
        raise UnreadableError("it does not end as a Parquet file does: it is cut off, or was written anew")
    footer = tail[-_footer(tail) :]
    at = footer.find(_WORD)
    if at < 0:
        raise UnreadableError("its footer has no value of headrace: it was written anew")
    digits = at + len(_WORD) + 2

    def checksum(_: bytes) -> str:
        return hashlib.sha256(footer[:digits] + b"0" * 64 + footer[digits + 64 :]).hexdigest()

    return _said(footer[at : at + 998], checksum, len(footer))


def _footer(tail: bytes) -> int:
    return 8 + int.from_bytes(tail[-8:-4], "little")


def _said(payload: bytes, checksum: Any, sealed_bytes: int) -> Said:
    if not payload.startswith(_WORD):
        raise UnreadableError("there is no trailer in its end")
    if payload[len(_WORD) : len(_WORD) + 2] != b"1 ":
        raise UnreadableError(f"its trailer is of format {payload[len(_WORD) : len(_WORD) + 2]!r}, expected b'1 '")
    digest, text = payload[len(_WORD) + 2 :][:64], payload[len(_WORD) + 67 :]
    if digest.decode("latin-1") != checksum(text):
        raise UnreadableError("its trailer's own checksum does not hold: it was edited, or a bit flipped")
    try:
        says = json.loads(text)
        stream = base64.b64decode(says["stream_b64"]).decode() if "stream_b64" in says else says["stream"]
        found = Said(
            dataset_id=says["dataset"],
            stream=stream,
            partition=says["partition"],
            start=says["start"],
            end=says["end"],
            first=says["first"],
            records=says["records"],
            min_ms=says["min_ms"],
            max_ms=says["max_ms"],
            digest=says["sha256"],
            writer=says["writer"],
            sealed_bytes=sealed_bytes,
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise UnreadableError(f"its trailer cannot be read: {exc!r}") from exc
    wrong = contradiction(found)
    if wrong:
        raise UnreadableError(f"its trailer contradicts itself: {wrong}")
    return found


def contradiction(said: Said) -> str:
    """Say what in a trailer cannot be; "" where nothing is."""
    numbers = (said.partition, said.start, said.end, said.first, said.records, said.min_ms, said.max_ms)
    if any(type(number) is not int for number in numbers):
        return "a number is none"
    if not said.start <= said.first < said.end:
        return f"start {said.start}, first {said.first}, end {said.end}"
    if not 1 <= said.records <= said.end - said.first:
        return f"{said.records} records in [{said.first}, {said.end})"
    if len(said.digest) != 64 or not set(said.digest) <= _DIGITS:
        return "its digest is none"
    return f"times from {said.min_ms} to {said.max_ms}" if said.min_ms > said.max_ms else ""

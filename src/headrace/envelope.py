"""
The line: one record as JSON, from which it can be rebuilt to the byte.

::

    {"offset":0,"timestamp_ms":0,"key":"AAPL","headers":null,"value":{"price":92.2}}

| field | what |
|---|---|
| ``offset`` | its place in its partition |
| ``timestamp_ms`` | milliseconds since the Unix epoch, UTC; -1 where there is none |
| ``timestamp_type`` | "append" or "none"; absent where the timestamp is the producer's |
| ``key`` or ``key_b64`` | text, null where it has none; base64 where the bytes are not UTF-8 |
| ``headers`` | null where it has none, else ``{"key":…,"value":…}`` in order; ``value_b64`` where not UTF-8 |
| ``value`` or ``value_b64`` | the record's own JSON, its bytes unchanged; null is a tombstone; base64 for all else |

A value stands in the line as it is only where no reader of the whole prefix can fail because of it or change a row's
number. One value that a reader refuses would cost it *every* record of the file. So ``value_b64`` takes

- what is not strict JSON in UTF-8 (RFC 8259): NaN, ``1,2``, a byte order mark, a lone surrogate such as ``\\ud800``
  (DuckDB, Arrow and orjson refuse it), no bytes at all;
- the value ``null``, since ``"value":null`` is a tombstone;
- white space around the value, which a JSON parser would drop, and ``\\n`` or ``\\r`` anywhere in it, since readers of
  text split lines there;
- more than 100 containers inside each other: serde_json and DuckDB without ``columns`` stop at 128, Python at about 1,000,
  Jackson (Spark) at 1,000;
- a number with 300 digits in a row or more: Jackson stops at 1,000 characters a number, Python at 4,300.

Repeated keys, ``\\u0000``, ``1e400``, long strings and numbers beyond 64 bits stay as they are: DuckDB 2.0 reads them with
the documented ``columns``. A reader must allow for long lines (DuckDB: ``maximum_object_size``).
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from headrace.errors import DataError
from headrace.records import Batch, Headers, Partition, Record, TimestampType

MAX_NESTING = 100
"""How many containers inside each other a value may have and stay readable in its line."""

MAX_DIGITS = 300
"""A number with this many digits in a row leaves the line; no number below can pass 1,000 characters."""

_HARMLESS_BYTES = 2 * MAX_NESTING
_STRIDE = 64
_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS // _STRIDE))
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % MAX_DIGITS)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_PARTS = 32
_TOMBSTONE = msgspec.Raw(b"null")
_UNSET = itertools.repeat(UNSET)
_NONE = itertools.repeat(None)
_TYPES = {"create": UNSET, "append": "append", "none": "none"}
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Header(msgspec.Struct, gc=False):
    # an absent field is UNSET and is not written
    key: str | None | UnsetType = UNSET
    key_b64: bytes | UnsetType = UNSET
    value: str | None | UnsetType = UNSET
    value_b64: bytes | UnsetType = UNSET


class _PlainLine(msgspec.Struct, gc=False):
    """The usual line, made from fewer columns: the hot path."""

    offset: int
    timestamp_ms: int
    key: str | None | UnsetType
    headers: list[_Header] | None
    value: msgspec.Raw | UnsetType


class _Line(msgspec.Struct, gc=False):
    offset: int
    timestamp_ms: int
    timestamp_type: TimestampType | UnsetType = UNSET
    key: str | None | UnsetType = UNSET
    key_b64: bytes | UnsetType = UNSET
    headers: list[_Header] | None = None
    value: msgspec.Raw | UnsetType = UNSET
    value_b64: bytes | UnsetType = UNSET


_encode_lines = msgspec.json.Encoder().encode_lines
_validate = msgspec.json.Decoder(msgspec.Raw).decode
_parse_lines = msgspec.json.Decoder(_Line).decode_lines


def encode(batch: Batch) -> bytes:
    """
    Write the lines of a batch, each ended by ``\\n``.

    No record is refused: what cannot stand in a line as it is, is kept as base64.
    """
    keys, keys_b64 = _texts(batch.keys)
    headers = _NONE if batch.headers is None else map(_headers, batch.headers)
    raws = _raws(batch.values)
    if raws is not None and keys_b64 is _UNSET and batch.timestamp_types is None:
        return _encode_lines(list(map(_PlainLine, batch.offsets, batch.timestamps_ms, keys, headers, raws)))
    raws = raws or _raws_apart(batch.values)
    values_b64 = [value if raw is UNSET else UNSET for value, raw in zip(batch.values, raws, strict=True)]
    types = _UNSET if batch.timestamp_types is None else map(_TYPES.get, batch.timestamp_types)
    columns = (batch.offsets, batch.timestamps_ms, types, keys, keys_b64, headers, raws, values_b64)
    return _encode_lines(list(map(_Line, *columns)))


def _raws_apart(values: Sequence[bytes | None]) -> list[msgspec.Raw | UnsetType]:
    """Take the values that may stand in their lines as they are; UNSET for those that may not."""
    if len(values) == 1:
        return _raws(values) or [UNSET]
    step = max(1, len(values) // _PARTS)
    parts = [values[at : at + step] for at in range(0, len(values), step)]
    return [raw for part in parts for raw in _raws(part) or _raws_apart(part)]


def _raws(values: Sequence[bytes | None]) -> list[msgspec.Raw | UnsetType] | None:
    """Look at many values in a few passes, without a Python frame for each; None where one of them may not stand."""
    present, joined = _present(values)
    raws: list[msgspec.Raw | UnsetType] | None = _json(present, joined)  # type: ignore[assignment]  # UNSET comes in below
    if raws is None:
        return None
    # shorter: the parser dropped white space around a value
    if len(b"".join(raws)) < len(joined) or b"\n" in joined or b"\r" in joined or b"null" in present:  # type: ignore[arg-type]  # all of them are Raw here
        return None
    if len(present) == len(values):
        return raws
    rest = iter(raws)
    return [_TOMBSTONE if value is None else next(rest) for value in values]


def not_json(values: Sequence[bytes | None]) -> list[int]:
    """
    Say which values, by their places, are no JSON that every reader takes: what would leave a line, all but white space.

    White space around a value or in it does no harm where no line ends with it, and the value ``null`` none where it is not
    mistaken for no value. None is no value and is not named.
    """
    if _json(*_present(values)) is not None:
        return []
    if len(values) == 1:
        return [0]
    step = max(1, len(values) // _PARTS)
    return [at + place for at in range(0, len(values), step) for place in not_json(values[at : at + step])]


def _present(values: Sequence[bytes | None]) -> tuple[Sequence[bytes], bytes]:
    """Return those that are no tombstones, and all of them joined."""
    try:
        return values, b"".join(values)  # type: ignore[arg-type, return-value]  # None is refused
    except TypeError:
        present = [value for value in values if value is not None]
        return present, b"".join(present)


def _json(values: Sequence[bytes], joined: bytes) -> list[msgspec.Raw] | None:
    """Parse many values in a few passes; None where one of them is no JSON, or none that every reader takes."""
    try:
        # value by value: joined, "1,2" or "[1],[2" would pass for good
        raws = list(map(_validate, values))
        if not joined.isascii():
            str(joined, "utf-8")
    except _NOT_JSON:
        return None
    return None if len(joined) >= _HARMLESS_BYTES and _extreme(values, joined) else raws


def _extreme(values: Sequence[bytes], joined: bytes) -> bool:
    """Whether valid values nest deeper or have longer numbers than readers take."""
    if max(map(len, values)) < _HARMLESS_BYTES:
        return False
    # a long number leaves its digits in every sample
    if _DIGITS.search(joined[::_STRIDE]) and any(
        _LONG_NUMBER.search(_bare(v)) for v in values if _LONG_NUMBER.search(v)
    ):
        return True
    return any(_nests(v) for v in values if len(v) >= _HARMLESS_BYTES and v.count(b"[") + v.count(b"{") > MAX_NESTING)


def _bare(value: bytes) -> bytes:
    """Return what stands outside of strings."""
    return b"".join(value.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])


def _nests(value: bytes) -> bool:
    rest = _bare(value).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_NESTING):
        # each pass takes the innermost level away
        rest = rest.replace(b"[]", b"")
    return bool(rest)


def _texts(column: Sequence[bytes | None]) -> tuple[list[str | None | UnsetType], Iterable[bytes | UnsetType]]:
    # remembering the text of keys gains nothing: to hash bytes costs what it costs to decode them
    try:
        if None in column:
            return [None if content is None else content.decode() for content in column], _UNSET
        return list(map(bytes.decode, column)), _UNSET  # type: ignore[arg-type]
    except UnicodeDecodeError:
        texts, raws = zip(*map(_text, column), strict=True)
        return list(texts), raws


def _text(content: bytes | None) -> tuple[str | None | UnsetType, bytes | UnsetType]:
    if content is None:
        return None, UNSET
    try:
        return content.decode(), UNSET
    except UnicodeDecodeError:
        return UNSET, content


def _headers(headers: Headers | None) -> list[_Header] | None:
    if not headers:
        return None
    return [_Header(*_name(name), *_text(value)) for name, value in headers]


def _name(name: str) -> tuple[str | None | UnsetType, bytes | UnsetType]:
    # a source of somebody else's may hand over a name that it could not decode
    return (name, UNSET) if name.isascii() else _text(name.encode("utf-8", "surrogatepass"))


def decode(line: bytes) -> Record:
    """
    Rebuild the record of one line, with or without its ``\\n``.

    Raises:
        DataError: It is not one line of ours; the message says why.
    """
    records = decode_lines(line)
    if len(records) != 1:
        raise DataError(f"found {len(records)} lines, expected one")
    return records[0]


def decode_lines(block: bytes) -> list[Record]:
    """Rebuild the records of whole lines. Errors as for `decode`."""
    return [
        Record(
            offset=line.offset,
            timestamp_ms=line.timestamp_ms,
            key=_key(line),
            value=_value(line),
            headers=tuple(map(_header, line.headers or ())),
            timestamp_type=line.timestamp_type or "create",
        )
        for line in _parse(block)
    ]


def decode_batch(block: bytes, partition: Partition, assignment: int, start: int) -> Batch:
    """
    Rebuild a batch from whole lines of one partition, in columns.

    Lines below *start* are kept: a caller that wants fewer than a block has cuts the batch.

    Raises:
        DataError: A line is not ours, there is none, or offsets do not ascend.
    """
    lines = _parse(block)
    offsets = _offsets(lines, partition, start)
    keys, values = _keys(lines), _values(lines)
    headers = [tuple(map(_header, line.headers)) if line.headers else None for line in lines]
    types: list[TimestampType] = [line.timestamp_type or "create" for line in lines]
    return Batch(
        partition=partition,
        assignment=assignment,
        leader_epoch=None,
        start=start,
        end=offsets[-1] + 1,
        offsets=offsets,
        timestamps_ms=list(map(operator.attrgetter("timestamp_ms"), lines)),
        keys=keys,
        values=values,
        headers=None if headers.count(None) == len(headers) else headers,
        timestamp_types=None if types.count("create") == len(types) else types,
        nbytes=sum(map(len, filter(None, keys)))
        + sum(map(len, filter(None, values)))
        + sum(len(name) + len(value or b"") for row in headers if row for name, value in row),
    )


def whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """
    Cut a stream of bytes anew, so that each block holds whole lines.

    Raises:
        DataError: The stream ends within a line; all whole lines were yielded before.
    """
    parts: list[bytes] = []
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join([*parts, block[:cut]])
            parts = []
        if cut < len(block):
            parts.append(block[cut:])
    if parts:
        raise DataError(f"found {sum(map(len, parts))} bytes after the last line end, expected none")


def _parse(block: bytes) -> list[_Line]:
    try:
        if not block.isascii():
            str(block, "utf-8")
        lines = _parse_lines(block)
    except RecursionError as exc:
        raise DataError("found a line that nests too deep to be one of ours") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise DataError(f"found what is not a line of ours: {exc}") from exc
    count = block.count(b"\n") + (block != b"" and not block.endswith(b"\n"))
    if len(lines) != count:
        raise DataError(f"found {len(lines)} records in {count} lines, expected one in each")
    return lines


def _offsets(lines: list[_Line], partition: Partition, start: int) -> Sequence[int]:
    offsets = [line.offset for line in lines]
    if not offsets:
        raise DataError(f"found no lines, expected those of {partition} from {start}")
    if not all(map(operator.lt, offsets, offsets[1:])):
        raise DataError(f"found offsets from {offsets[0]} to {offsets[-1]} that do not ascend ({partition})")
    first, end = offsets[0], offsets[-1] + 1
    return range(first, end) if end - first == len(offsets) else offsets


def _keys(lines: list[_Line]) -> list[bytes | None]:
    keys = [line.key for line in lines]
    if None in keys or UNSET in keys or [line.key_b64 for line in lines].count(UNSET) < len(lines):
        return list(map(_key, lines))
    return list(map(str.encode, keys))  # type: ignore[arg-type]


def _values(lines: list[_Line]) -> list[bytes | None]:
    raws = [line.value for line in lines]
    if UNSET in raws or [line.value_b64 for line in lines].count(UNSET) < len(lines):
        return list(map(_value, lines))
    values = list(map(bytes, raws))  # type: ignore[arg-type]
    return [None if value == b"null" else value for value in values] if b"null" in values else values  # type: ignore[return-value]


def _key(line: _Line) -> bytes | None:
    return _bytes(line.key, line.key_b64, f"line of offset {line.offset}: the key")


def _value(line: _Line) -> bytes | None:
    if line.value is UNSET:
        return _bytes(UNSET, line.value_b64, f"line of offset {line.offset}: the value")
    if line.value_b64 is not UNSET:
        raise DataError(f"line of offset {line.offset}: the value is there twice, as JSON and as base64")
    # a copy: the parsed one would keep the whole block
    value = bytes(line.value)
    return None if value == b"null" else value


def _header(header: _Header) -> tuple[str, bytes | None]:
    name = _bytes(header.key, header.key_b64, "a header: its key")
    if name is None:
        raise DataError("a header: its key is null, expected text")
    return name.decode("utf-8", "surrogatepass"), _bytes(header.value, header.value_b64, "a header: its value")


def _bytes(text: str | None | UnsetType, raw: bytes | UnsetType, what: str) -> bytes | None:
    if text is UNSET and raw is UNSET:
        raise DataError(f"{what} is missing, expected text, null or base64")
    if text is not UNSET and raw is not UNSET:
        raise DataError(f"{what} is there twice, as text and as base64")
    if raw is not UNSET:
        return raw
    return None if text is None else str(text).encode()

"""Values that carriers of data have lost, changed or choked on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.records import Headers, Record, TimestampType

VALUES: tuple[bytes | None, ...] = (
    b'{"n":1}',
    None,
    b"",
    b"null",
    b"not json",
    b'{"a":1}\n{"a":2}',
    b'{"a":\r\n1}',
    b" 1 ",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"1,2",
    b"[1],[2",
    b"NaN",
    b'{"a":1,"a":2}',
    b"[" * 1000 + b"]" * 1000,
    b"1" * 5000,
    b"0.1000000000000000055511151231257827",
    b"1E400",
    b'"\\ud800"',
    b'"\\u0000"',
    '{"ä":"\u2028\U0001f4a5"}'.encode(),
    b'{"value":null,"offset":7}',
    b"x" * 300_000,
)
"""None is a tombstone; the rest differ in what they break: parsers, line readers, encodings, numbers, sizes."""

LINES: tuple[bytes, ...] = tuple(v for v in VALUES if v and b"\n" not in v and b"\r" not in v)
"""Those that a text of lines can hold."""

KEYS: tuple[bytes | None, ...] = (b"AAPL", None, b"", b"\xff\x00", "ä\u2028".encode(), b'"\\\n', b"null")
"""Keys of records."""

HEADERS: tuple[Headers, ...] = (
    (),
    (("h", b"v"),),
    (("h", None), ("h", b""), ("h", b"\xff\n")),
    (("", b"x"), ("ä", "ö".encode())),
)
"""Headers of records: names repeat, values are None, empty, or no text."""


def hostile_records(start: int = 0, values: Sequence[bytes | None] | None = None) -> Iterator[Record]:
    """Yield a record of every hostile value (`VALUES`), with keys, headers and timestamps in turns, and holes between offsets."""
    kinds: tuple[TimestampType, ...] = ("create", "append", "none")
    for n, value in enumerate(VALUES if values is None else values):
        yield Record(
            offset=start + n + n // 4,
            timestamp_ms=-1 if n % 3 == 2 else 10**n % 10**15,
            key=KEYS[n % len(KEYS)],
            value=value,
            headers=tuple(HEADERS[n % len(HEADERS)]),
            timestamp_type=kinds[n % 3],
        )

"""The audit's own reader of lines: to the byte what was written, whatever it is."""

from __future__ import annotations

import itertools

import pytest

from headrace.auditing.lines import DamagedError, line
from headrace.envelope import encode
from headrace.records import Batch, Partition, Record

VALUES = (
    *(None, b"null", b"1", b'{"a":1}', b"NaN", b'{"a":NaN}', b"\xff", b"", b' {"a":1}', b'{"headers":null,"value":1}'),
    *(b"[" * 200 + b"]" * 200, b'{"a":"\\ud800"}', b"1e400", b'{"a":1,"a":2}', b'"},\\"value\\":1}"', b"9" * 400),
)
KEYS = (None, b"", b"k", b'"headers":', b"\xff", "ü\u2028".encode(), b'","headers":null,"value":1')
HEADERS = ((), (("a", b"1"),), (('"headers":', b"\xff"), ("é", None)), (("value", b'],"value":1'),))


def test_what_was_written_is_read():
    """Every value, key and headers that are there to lead a reader astray, with every kind of time."""
    every = itertools.product(VALUES, KEYS, HEADERS, ("create", "append", "none"))
    records = [Record(n, -1 if kind == "none" else n, k, v, h, kind) for n, (v, k, h, kind) in enumerate(every)]
    lines = encode(Batch.of(Partition("ticks", 0), records, assignment=0)).splitlines()

    assert records == list(map(line, lines))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"offset":1,"offset":1,"timestamp_ms":1,"key":null,"headers":null,"value":1}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"more":1,"headers":null,"value":1}',
        b'{"offset":1,"timestamp_ms":1,"key":"a","key_b64":"YQ==","headers":null,"value":1}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":[{"key":"a","key":"b","value":"c"}],"value":1}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":null,"value":1,"more":1}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":null,"value":-Infinity}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":null,"value_b64":"YQ==","value":1}',
        b'{"offset":"1","timestamp_ms":1,"key":null,"headers":null,"value":1}',
        b'{"offset":1,"timestamp_ms":1,"headers":null,"value":1}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":null}',
        b'{"offset":1,"timestamp_ms":1,"key":null,"headers":null,"value":1}\r',
    ],
)
def test_what_two_readers_may_read_otherwise_is_no_line(raw: bytes):
    """A field twice, one of nobody, a value that is no strict JSON, and what is not there."""
    with pytest.raises(DamagedError, match="none of ours"):
        line(raw)

"""Lines: every record is rebuilt to the byte, and no reader of a whole prefix fails because of one."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import envelope
from headrace.compression import Gzip
from headrace.errors import DataError, PluginError
from headrace.formats import Workers, format_of
from headrace.records import Batch, Partition, Record
from headrace.segment import Trailer

TICKS = Partition("ticks", 3)

INLINE = {
    "object": b'{"price":92.2,"size":100}',
    "white space inside": b'{ "a" : [ 1 ,\t2 ] }',
    "not ASCII": '{"città":"東京 😀"}'.encode(),
    "scalars": b'[true,false,null,-0,1E+2,1e-400,""]',
    "null inside": b'{"value":null}',
    "looks like the end of a line": b'{"a":"\\"value\\":null}"}',
    "looks like a field of the line": b'{"value_b64":"","key":null,"offset":-1}',
    "repeated key": b'{"a":1,"a":2}',
    "NUL": b'{"a":"x\\u0000y","\\u0000":1}',
    "pair of surrogates": b'"\\ud83d\\ude00"',
    "escaped backslash before ud800": b'"\\\\ud800"',
    "other line ends of Unicode": '"\u2028\u2029\x85\x0b"'.replace("\x0b", "").encode(),
    "DEL and non-characters": '"\x7f\uffff\U0010ffff"'.encode(),
    "byte order mark in a string": b'"\xef\xbb\xbf"',
    "infinite for a double": b'{"a":1e400,"b":-1e999999}',
    "number beyond 64 bits": b'{"a":123456789012345678901234567890.123456789012345678901234567890}',
    "299 digits": b'{"a":' + b"7" * 299 + b"}",
    "digits in a string": b'{"a":"' + b"7" * 5000 + b'","b":"\\"' + b"7" * 5000 + b'"}',
    "nested 100": b"[" * 100 + b"]" * 100,
    "nested 100, mixed": b'{"a":[' * 50 + b'"]}\\\\"' + b"]}" * 50,
    "brackets in a string": b'{"a":"' + b"[{" * 1000 + b'\\"' + b"[" * 1000 + b'"}',
    "many brackets, side by side": b"[" + b",".join([b'[{"a":[]}]'] * 5000) + b"]",
    "10 MB": b'{"a":"' + b"x" * 10_000_000 + b'"}',
}

BASE64 = {
    "empty": b"",
    "null": b"null",
    "null and white space": b" null\t",
    "only white space": b"  ",
    "white space before": b' {"a":1}',
    "white space after": b'{"a":1} ',
    "line end after": b'{"a":1}\n',
    "line end between tokens": b'{"a":\n1}',
    "carriage return between tokens": b'{"a":\r1}',
    "line end in a string": b'"a\nb"',
    "invalid UTF-8 in a string": b'{"a":"\xff"}',
    "invalid UTF-8 in a key": b'{"\xff":1}',
    "surrogate as UTF-8": b'"\xed\xa0\x80"',
    "not UTF-8": b"\xff\xfe\x00\x01",
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate, upper case": b'{"a":"\\uD800 and more"}',
    "lone low surrogate": b'{"a":"\\udc00\\ud800"}',
    "lone surrogate in a key": b'{"\\udBFFxxxxxxx":1}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b"NaN",
    "NaN inside": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "two values": b"1,2",
    "half an array": b"[1",
    "other half": b"2]",
    "two arrays": b"[1],[2",
    "closing and opening": b'1},{"a":2',
    "injected field": b'1,"value_b64":"AA=="',
    "trailing comma": b'{"a":1,}',
    "comment": b"1/**/",
    "leading zero": b"01",
    "NUL after": b"{}\x00",
    "control character in a string": b'"\x01"',
    "plain text": b"hello",
    "avro": b"\x00\x00\x00\x00\x01\x02",
    "300 digits": b'{"a":' + b"7" * 300 + b"}",
    "400 digits": b"1" * 400,
    "400 digits of a fraction": b"0." + b"1" * 400,
    "1,000,000 digits": b"[" + b"1" * 1_000_000 + b"]",
    "nested 101": b"[" * 101 + b"]" * 101,
    "nested 101, mixed": b'{"a":[' * 50 + b'{"":"]}"}' + b"]}" * 50,
    "nested 1,000": b"[" * 1000 + b"]" * 1000,
    "objects nested 1,000": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "nested 100,000": b"[" * 100_000 + b"]" * 100_000,
    "10 MB of no JSON": b"x" * 10_000_000,
}

HOSTILE = {**INLINE, **BASE64}

HARMLESS_IN_PARQUET = {
    "null",
    "null and white space",
    "white space before",
    "white space after",
    "line end after",
    "line end between tokens",
    "carriage return between tokens",
}
"""No line ends with them there."""

records = st.builds(
    Record,
    offset=st.integers(0, 2**63 - 1),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    key=st.none() | st.binary(max_size=20) | st.text(max_size=10).map(str.encode),
    value=st.none()
    | st.binary(max_size=50)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([value for value in HOSTILE.values() if len(value) < 3000]),
    headers=st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=3).map(tuple),
    timestamp_type=st.sampled_from(["create", "append", "none"]),
)
logs = st.lists(records, min_size=1, max_size=40, unique_by=lambda r: r.offset).map(
    lambda rows: sorted(rows, key=lambda r: r.offset)
)


def lines(*rows: Record) -> bytes:
    return envelope.encode(Batch.of(TICKS, rows, assignment=1))


def parquet(*parts: Sequence[Record]) -> bytes:
    workers = Workers(1)
    content = format_of("parquet", "zstd").content(workers, 1 << 20)
    for rows in parts:
        content.add(Batch.of(TICKS, rows, assignment=1))
    try:
        return content.finish(lambda digest: Trailer("ab" * 16, TICKS, 0, 2**63, 0, 1, 0, 0, digest, None, "test"))
    finally:
        workers.close()


def log(*values: bytes | None) -> list[Record]:
    return [Record(i, 1_400_000_000_000 + i, b"AAPL", value) for i, value in enumerate(values)]


@settings(deadline=None)
@given(logs)
def test_round_trip(rows):
    """Whatever a record holds, its line gives it back to the byte, one at a time and in columns."""
    block = lines(*rows)

    assert len(rows) == block.count(b"\n")
    assert b"\r" not in block
    assert rows == envelope.decode_lines(block)
    assert rows == [envelope.decode(line) for line in block.splitlines(keepends=True)]
    assert rows == list(envelope.decode_batch(block, TICKS, 7, 0).records())


@settings(deadline=None)
@given(logs, st.integers(1, 40))
def test_round_trip_in_parquet(rows, size):
    """Nor does Parquet lose a bit, whatever the batches are; and it makes the same lines."""
    pytest.importorskip("pyarrow")
    body = parquet(*(rows[at : at + size] for at in range(0, len(rows), size)))
    batches = list(format_of("parquet", "zstd").batches(body, TICKS, 7, rows[0].offset))

    assert rows == [row for batch in batches for row in batch.records()]
    assert b"".join(map(lines, rows)) == b"".join(format_of("parquet", "zstd").lines(body))


@settings(deadline=None)
@given(logs)
def test_neighbours(rows):
    """A record's line is the same whoever stands beside it in the batch: the passes over columns change nothing."""
    assert b"".join(lines(row) for row in rows) == lines(*rows)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4) | st.sampled_from([b"[1", b"2]", b"1,2", b"[1],[2", b'"', b" ", b"1"])))
def test_json_alone(values):
    """Python's own parser, to which the bytes go alone, agrees with what stands in a line unchanged."""
    for row, line in zip(log(*values), lines(*log(*values, b"1")).splitlines(), strict=False):
        if b'"value":' in line:
            assert line.endswith(b',"value":' + row.value + b"}")
            json.loads(row.value.decode(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", INLINE)
def test_inline(name):
    """Harmless JSON stands in its line as it is."""
    value = INLINE[name]
    line = lines(*log(value))

    assert line == (b'{"offset":0,"timestamp_ms":1400000000000,"key":"AAPL","headers":null,"value":' + value + b"}\n")
    assert value == envelope.decode(line).value


@pytest.mark.parametrize("name", BASE64)
def test_base64(name):
    """What a reader could refuse or change is kept as base64, and nothing else of the line changes."""
    value = BASE64[name]
    line = lines(*log(value))
    parsed = json.loads(line)

    assert ["offset", "timestamp_ms", "key", "headers", "value_b64"] == list(parsed)
    assert value == base64.b64decode(parsed["value_b64"], validate=True)
    assert value == envelope.decode(line).value


def test_fields():
    """The line is a published format: names, order and what is left out."""
    rows = [
        Record(0, 0, b"AAPL", b"{}"),
        Record(1, -1, None, None),
        Record(2, 5, b"\xff", b"1", (("h", b"text"), ("h", None), ("h", b"\xff"), ("", b"")), "append"),
        Record(3, 5, b"", b"", timestamp_type="none"),
    ]

    assert (
        b'{"offset":0,"timestamp_ms":0,"key":"AAPL","headers":null,"value":{}}\n'
        b'{"offset":1,"timestamp_ms":-1,"key":null,"headers":null,"value":null}\n'
        b'{"offset":2,"timestamp_ms":5,"timestamp_type":"append","key_b64":"/w==",'
        b'"headers":[{"key":"h","value":"text"},{"key":"h","value":null},{"key":"h","value_b64":"/w=="},'
        b'{"key":"","value":""}],"value":1}\n'
        b'{"offset":3,"timestamp_ms":5,"timestamp_type":"none","key":"","headers":null,"value_b64":""}\n'
    ) == lines(*rows)


def test_tombstone():
    """A tombstone, the value null and an empty value are three different records."""
    rows = log(None, b"null", b"")
    block = lines(*rows)

    assert [None, b"null", b""] == [row.value for row in envelope.decode_lines(block)]
    assert [None, b"null", b""] == envelope.decode_batch(block, TICKS, 1, 0).values


@pytest.mark.parametrize("text", ["\0", "\r\n", '"', "\\", "\u2028", "null", "é😀", " ", "k" * 100_000])
def test_text(text):
    """Keys, names and header values are escaped, never cut, never two lines."""
    row = Record(0, 0, text.encode(), b"{}", ((text, text.encode()),))
    line = lines(row)

    assert 1 == len(line.replace(b"\r", b"\n").splitlines())
    assert text == json.loads(line)["key"] == json.loads(line)["headers"][0]["key"]
    assert row == envelope.decode(line)


def test_header_name_that_is_no_text():
    """A header's name that its source could not decode is kept too."""
    row = Record(0, 0, None, b"{}", (("\udcff", b"x"),))

    assert row == envelope.decode(lines(row))


def test_joined_values():
    """Values that are broken alone but good when joined do not pass for good."""
    rows = log(b"[1", b"2]", b"1,2", b"[1],[2", b"3]", b'"a', b'b"', b'{"a":1', b'"b":2}')

    assert 9 == lines(*rows).count(b'"value_b64":')
    assert rows == envelope.decode_lines(lines(*rows))


def test_bad_record_among_good_ones():
    """One bad value in a thousand leaves the others readable in their lines."""
    values: list[bytes | None] = [b'{"a":%d}' % i for i in range(1000)]
    for at, value in ((0, b"nan"), (500, None), (501, b"\xff"), (999, b"[]\n")):
        values[at] = value
    block = lines(*log(*values))

    assert 3 == block.count(b'"value_b64":')
    assert log(*values) == envelope.decode_lines(block)


def test_deep_stack():
    """A caller near the end of its stack gets lines, not a RecursionError."""

    def descend(levels: int) -> bytes:
        return descend(levels - 1) if levels else lines(*log(b"[" * 99 + b"]" * 99))

    depth = 0
    frame = sys._getframe()
    while frame := frame.f_back:
        depth += 1
    block = descend(sys.getrecursionlimit() - depth - 60)

    assert log(b"[" * 99 + b"]" * 99) == envelope.decode_lines(block)


def test_batch_columns():
    """A batch that is read back has dense offsets as a range and no column that says nothing."""
    block = lines(*log(b"1", b"2"))
    batch = envelope.decode_batch(block, TICKS, 7, 0)

    assert (TICKS, 7, None, 0, 2) == (
        batch.partition,
        batch.assignment,
        batch.leader_epoch,
        batch.start,
        batch.end,
    )
    assert range(2) == batch.offsets
    assert (None, None, 10) == (batch.headers, batch.timestamp_types, batch.nbytes)


@pytest.mark.parametrize("name", ["timestamps_ms", "keys", "values", "headers", "timestamp_types"])
def test_batch_of_unequal_columns(name: str):
    """A column that is longer or shorter than the others is refused where the batch is made: stored it could not be read."""
    batch = Batch.of(Partition("t", 0), [Record(n, 1, b"k", b"v") for n in range(3)], assignment=1)
    for count in (2, 4):
        with pytest.raises(PluginError, match=rf"batch of t/0 at 0: found 3 offsets and {count} {name}"):
            attrs.evolve(batch, **{name: [None] * count})


def test_batch_with_holes():
    """Offsets may jump; the batch starts where its caller says."""
    rows = [attrs.evolve(row, offset=row.offset * 10 + 5) for row in log(b"1", b"2")]
    batch = envelope.decode_batch(lines(*rows), TICKS, 7, 3)

    assert ([5, 15], 3, 16) == (batch.offsets, batch.start, batch.end)


def test_batch_out_of_order():
    """Lines whose offsets do not ascend are no batch."""
    block = b"".join(lines(row) for row in reversed(log(b"1", b"2")))

    with pytest.raises(DataError, match=r"from 1 to 0 that do not ascend \(ticks/3\)"):
        envelope.decode_batch(block, TICKS, 1, 0)


GOOD = b'{"offset":0,"timestamp_ms":0,"key":null,"headers":null,"value":1}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "found 0 lines"),
        (b"\n", "found 0 records in 1 lines"),
        (GOOD + b"\n" + GOOD, "found 2 lines"),
        (GOOD + b" " + GOOD, "2 records in 1 lines"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"x", "malformed"),
        (b"[]", "Expected `object`"),
        (GOOD.replace(b'"offset":0,', b""), "missing required field `offset`"),
        (GOOD.replace(b'"offset":0', b'"offset":"0"'), r"Expected `int`, got `str` - at `\$\[0\].offset`"),
        (GOOD.replace(b'"timestamp_ms":0,', b""), "missing required field `timestamp_ms`"),
        (GOOD.replace(b'"key":null', b'"key":1'), r"Expected `str \| null`"),
        (GOOD.replace(b'"key":null,', b""), "line of offset 0: the key is missing"),
        (GOOD.replace(b'"key":null', b'"key":"a","key_b64":""'), "line of offset 0: the key is there twice"),
        (GOOD.replace(b'"key":null', b'"key":null,"key_b64":""'), "the key is there twice"),
        (GOOD.replace(b'"key":null', b'"key_b64":"="'), "base64"),
        (GOOD.replace(b',"value":1', b""), "line of offset 0: the value is missing"),
        (GOOD.replace(b'"value":1', b'"value":1,"value_b64":""'), "the value is there twice"),
        (GOOD.replace(b'"value":1', b'"value_b64":null'), "Expected `bytes`"),
        (GOOD.replace(b'"value":1', b'"value":"\xff"'), "'utf-8' codec can't decode"),
        (GOOD.replace(b'"value":1', b'"value":' + b"[" * 50_000 + b"]" * 50_000), "nests too deep"),
        (GOOD.replace(b'"headers":null', b'"headers":[{"value":"a"}]'), "a header: its key is missing"),
        (GOOD.replace(b'"headers":null', b'"headers":[{"key":null,"value":"a"}]'), "a header: its key is null"),
        (GOOD.replace(b'"headers":null', b'"headers":[{"key":"a"}]'), "a header: its value is missing"),
        (GOOD.replace(b'"timestamp_ms":0', b'"timestamp_ms":0,"timestamp_type":"x"'), "Invalid enum value 'x'"),
    ],
)
def test_line_that_is_not_ours(line, reason):
    """What is not one of our lines is refused with a reason, never guessed at."""
    with pytest.raises(DataError, match=reason):
        envelope.decode(line)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9)), st.integers(1, 30))
def test_whole_lines(lengths, size):
    """However a stream of bytes is cut, whole lines come out, in order and complete."""
    stream = b"".join(b"x" * length + b"\n" for length in lengths)
    blocks = list(envelope.whole_lines(stream[at : at + size] for at in range(0, len(stream), size)))

    assert stream == b"".join(blocks)
    assert all(block.endswith(b"\n") for block in blocks)


def test_whole_lines_cut_off():
    """A stream that ends within a line is no stream of lines; its whole lines came first."""
    blocks = envelope.whole_lines([b"a\nb", b"c"])

    assert b"a\n" == next(blocks)
    with pytest.raises(DataError, match="found 2 bytes after the last line end"):
        next(blocks)


def glob(folder: Path) -> list[tuple[int, str | None, str | None]]:
    """Read a prefix as the documentation tells everybody to, without our code."""
    duckdb = pytest.importorskip("duckdb")
    return duckdb.execute(
        f"""
        select "offset", value, value_b64 from read_json('{folder}/partition=*/*.jsonl.gz',
            format='newline_delimited', maximum_object_size=67108864,
            columns={{'offset': 'BIGINT', 'timestamp_ms': 'BIGINT', 'timestamp_type': 'VARCHAR', 'key': 'VARCHAR',
                      'key_b64': 'VARCHAR', 'headers': 'JSON', 'value': 'JSON', 'value_b64': 'VARCHAR'}})
        order by 1
        """
    ).fetchall()


def test_hostile_values_in_duckdb(tmp_path):
    """DuckDB, given the documented columns, reads each hostile record exactly once and with its value."""
    rows = log(None, *HOSTILE.values())
    (tmp_path / "partition=3").mkdir()
    compression = Gzip()
    body = compression.join([compression.block(lines(*rows))]) + compression.frame(bytes(998))
    (tmp_path / "partition=3" / f"{0:020d}.jsonl.gz").write_bytes(body)
    found = glob(tmp_path)

    assert [row.offset for row in rows] == [offset for offset, _, _ in found]
    for row, (_, value, value_b64) in zip(rows, found, strict=True):
        if row.value is None:
            assert (None, None) == (value, value_b64)
        elif value_b64 is not None:
            assert row.value == base64.b64decode(value_b64, validate=True)
        else:
            assert _pairs(row.value) == _pairs(value)


@pytest.mark.parametrize("name", HOSTILE)
def test_text_and_bytes_in_parquet(name):
    """JSON is text in Parquet, white space and null too, and all else that leaves a line is bytes."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    value = HOSTILE[name]
    (row,) = pq.read_table(pa.BufferReader(parquet(log(value)))).to_pylist()
    is_text = name in INLINE or name in HARMLESS_IN_PARQUET

    assert (value.decode() if is_text else None, None if is_text else value) == (row["value"], row["value_bytes"])


def test_hostile_values_in_parquet(tmp_path):
    """DuckDB reads each hostile record exactly once, and looks into the text of all of them as JSON."""
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    rows = log(None, *HOSTILE.values())
    (tmp_path / "x.parquet").write_bytes(parquet(rows))
    found = duckdb.execute(
        f"""select "offset", value, value_bytes, json_type(value), value->>'$.a' from '{tmp_path}/x.parquet' order by 1"""
    ).fetchall()

    assert [row.offset for row in rows] == [offset for offset, *_ in found]
    assert [row.value for row in rows] == [raw if text is None else text.encode() for _, text, raw, *_ in found]


def _pairs(value: bytes | str) -> object:
    # repeated keys count
    return json.loads(value, object_pairs_hook=lambda pairs: pairs)


@pytest.mark.parametrize("name", ["lone surrogate", "byte order mark", "two values", "line end in a string"])
def test_naive_line_fails_the_glob(tmp_path, name):
    """Control: written unchanged, such a value costs DuckDB the whole file, so the detour over base64 is needed."""
    duckdb = pytest.importorskip("duckdb")
    (tmp_path / "partition=3").mkdir()
    naive = GOOD.replace(b'"value":1', b'"value":' + BASE64[name])
    (tmp_path / "partition=3" / "x.jsonl.gz").write_bytes(gzip.compress(b"\n".join([GOOD, naive, GOOD]) + b"\n"))

    with pytest.raises(duckdb.Error):
        glob(tmp_path)

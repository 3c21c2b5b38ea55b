"""Files of JSON lines and CSV as a source."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import attrs
import fsspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from headrace.chain import Chain
from headrace.errors import ConfigError, DataError, IdentityError, MissingExtraError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl import file as jsonl_file
from headrace.plugins.jsonl.fields import Fields, milliseconds
from headrace.plugins.jsonl.file import Index, Mark
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Batch, Event, Failed, Hint, Partition, Reached, Record, Start
from headrace.registry import Registry

TICKS = Partition("ticks", 0)


@attrs.define
class Time:
    """A clock that passes only while somebody sleeps."""

    now_s: float = 1000.0
    slept: list[float] = attrs.field(factory=list)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@attrs.define
class Owner:
    """Where to begin, and what was asked."""

    start: int | None = 0
    assignment: int = 1
    asked: list[Mapping[Partition, Hint | None]] = attrs.field(factory=list)

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        self.asked.append(hints)
        return {p: Start(self.start, None, self.assignment) for p in hints}

    def release(self, partitions) -> None:
        raise AssertionError("a file is never taken away")

    lost = release


def source(path: Path | str, **settings) -> JsonlSource:
    time = Time()
    settings.setdefault("clock", time)
    settings.setdefault("sleep", time.sleep)
    return JsonlSource(path=str(path), **settings)


def read(file: JsonlSource, start: int | None = 0) -> tuple[list[Record], int]:
    """All records up to the end, checked to join up, and the position that was reached."""
    owner, records, at = Owner(start), list[Record](), start or 0
    for _ in range(1_000_000):
        for event in file.poll(owner, 0.0):
            if isinstance(event, Reached):
                assert event.at_end
                assert (TICKS.number, 1) == (event.partition.number, event.assignment)
                file.close()
                return records, event.position
            assert isinstance(event, Batch)
            assert (at, 1, None) == (event.start, event.assignment, event.leader_epoch)
            assert event.start <= event.offsets[0]
            assert event.end == event.offsets[-1] + 1
            assert event.nbytes == sum(len(r.value or b"") + len(r.key or b"") for r in event.records())
            at = event.end
            records += event.records()
    raise AssertionError("the end was never reached")


def values(path: Path, start: int = 0, **settings) -> list[bytes | None]:
    return [r.value for r in read(source(path, **settings), start)[0]]


def written(folder: Path, content: bytes, name: str = "ticks.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# ---- JSON lines ------------------------------------------------------------------------------------------------


def test_lines(tmp_path: Path):
    """A record a line: its number, its bytes, no key, no time."""
    path = written(tmp_path, b'{"a":1}\n{"a": 2}\n')
    expected = [Record(i, -1, None, v, timestamp_type="none") for i, v in enumerate((b'{"a":1}', b'{"a": 2}'))]
    assert (expected, 2) == read(source(path))


POISON = [
    b"{",
    b"not json",
    b"null",
    b"1,2",
    b"[1],[2",
    b"NaN",
    b"\xff\xfe\x00",
    b" ",
    b"\r",
    b'{"a":1,"a":2}',
    b"[" * 1000 + b"]" * 1000,
    b"9" * 5000,
    b'{"big":"' + b"x" * (10 << 20) + b'"}',
]


def test_poison(tmp_path: Path):
    """Whatever stands in a line arrives byte for byte, with and without a look at its fields."""
    path = written(tmp_path, b"".join(value + b"\n" for value in POISON if value != b"\r"))
    expected = [value for value in POISON if value != b"\r"]
    assert expected == values(path)
    assert expected == values(path, key="a", timestamp="t")


@pytest.mark.parametrize(
    ("content", "expected", "end"),
    [
        (b"1\n2\n", [(0, b"1"), (1, b"2")], 2),
        (b"1\n2", [(0, b"1"), (1, b"2")], 2),
        (b"1\r\n2\r\n", [(0, b"1"), (1, b"2")], 2),
        (b"\xef\xbb\xbf1\n2\n", [(0, b"1"), (1, b"2")], 2),
        (b"1\n\xef\xbb\xbf2\n", [(0, b"1"), (1, b"\xef\xbb\xbf2")], 2),
        (b"1\n\n\r\n2\n", [(0, b"1"), (3, b"2")], 4),
        (b"\n1\n", [(1, b"1")], 2),
        (b"1\n\n\n", [(0, b"1")], 3),
        (b"1\r2\n", [(0, b"1\r2")], 1),
        (b"1\x0b2\xc2\x852\n", [(0, b"1\x0b2\xc2\x852")], 1),
    ],
    ids=[
        "ended",
        "not-ended",
        "returns",
        "mark",
        "mark-inside",
        "empty",
        "empty-first",
        "empty-last",
        "return",
        "separators",
    ],
)
def test_line_ends(tmp_path: Path, content: bytes, expected: list[tuple[int, bytes]], end: int):
    """Only line feeds end a line; an empty one has a number and no record, so that offsets are numbers of lines."""
    path = written(tmp_path, content)
    records, position = read(source(path))
    assert expected == [(r.offset, r.value) for r in records]
    assert end == position == source(path).extents()[TICKS].end


@given(st.lists(st.binary(max_size=12)), st.integers(1, 9), st.integers(1, 7), st.integers(0, 20))
@example([b"a\r", b"b"], 1, 1, 0)
@example([b"", b"\xef\xbb\xbf"], 2, 1, 1)
def test_any_file(tmp_path_factory, pieces: list[bytes], block: int, chunk: int, start: int):
    """However the file falls into blocks and chunks, and wherever one begins, the lines are those of a plain split."""
    content = b"\n".join(pieces)
    path = written(tmp_path_factory.mktemp("any"), b"first\n" + content)
    lines = [line.removesuffix(b"\r") for line in (b"first\n" + content).split(b"\n")[:-1]]
    tail = (b"first\n" + content).split(b"\n")[-1]
    lines += [tail] if tail else []
    start = min(start, len(lines))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jsonl_file, "BLOCK_BYTES", block)
        patched.setattr("headrace.plugins.jsonl.lines.CHUNK_RECORDS", chunk)
        found = source(path)
        assert len(lines) == found.extents()[TICKS].end
        records, end = read(found, start)
    assert [(i, line) for i, line in enumerate(lines) if line and i >= start] == [(r.offset, r.value) for r in records]
    assert len(lines) == end


def test_batches_are_chunks(tmp_path: Path):
    """Batches have about a thousand records, with offsets that need no memory of their own."""
    path = written(tmp_path, b"".join(b"%d\n" % i for i in range(2500)))
    file = source(path)
    batches = [e for _ in range(3) for e in file.poll(Owner(), 0.0)]
    assert [range(1000), range(1000, 2000), range(2000, 2500)] == [b.offsets for b in batches if isinstance(b, Batch)]


# ---- keys and times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"symbol":"AAPL"}', b"AAPL"),
        (b'{"x":{"symbol":"no"},"symbol":"\xc3\xa9\\u00e9\\n"}', "éé\n".encode()),
        (b'{"symbol":null}', None),
        (b'{"symbol":12.50}', b"12.50"),
        (b'{"symbol":["a", 1]}', b'["a", 1]'),
        (b'{"symbol":""}', b""),
        (b'{"other":1}', None),
        (b'["symbol"]', None),
        (b'{"symbol":"AAPL"', None),
    ],
)
def test_keys(tmp_path: Path, value: bytes, key: bytes | None):
    """The key is the field's own text, or its JSON where it is none; a line without the field has none, broken or not."""
    path = written(tmp_path, b'{"symbol":"first"}\n' + value + b'\n{"symbol":"last"}')
    assert [b"first", key, b"last"] == [r.key for r in read(source(path, key="symbol"))[0]]


@pytest.mark.parametrize(
    ("found", "unit", "ms"),
    [
        ("2014-06-05T13:30:00Z", "auto", 1_401_975_000_000),
        ("2014-06-05T13:30:00.123456Z", "auto", 1_401_975_000_123),
        ("2014-06-05T13:30:00.123999999Z", "auto", 1_401_975_000_123),
        ("2014-06-05T09:30:00-04:00", "auto", 1_401_975_000_000),
        ("2014-06-05 13:30:00", "auto", 1_401_975_000_000),
        ("1970-01-01", "auto", 0),
        ("1969-12-31T23:59:59Z", "auto", -1),
        ("9999-12-31T23:59:59.999-23:59", "auto", -1),
        ("yesterday", "auto", -1),
        ("", "auto", -1),
        (1_401_975_000, "auto", 1_401_975_000_000),
        (1_401_975_000_123, "auto", 1_401_975_000_123),
        (1_401_975_000_123_456, "auto", 1_401_975_000_123),
        (1_401_975_000_123_456_789, "auto", 1_401_975_000_123),
        (1_401_975_000.123, "auto", 1_401_975_000_123),
        (1_401_975_000.999, "s", 1_401_975_000_999),
        (5, "ms", 5),
        (5, "s", 5000),
        (5_999, "us", 5),
        (5_999_999, "ns", 5),
        (-5, "s", -1),
        (10**40, "auto", -1),
        (1e300, "s", -1),
        (float("inf"), "s", -1),
        (float("nan"), "auto", -1),
        (True, "s", -1),
        (None, "auto", -1),
        ([1], "auto", -1),
    ],
)
def test_milliseconds(found: object, unit, ms: int):
    """Texts and numbers become milliseconds, cut off and never rounded up; what is no time has none."""
    assert ms == milliseconds(found, unit)


def test_times(tmp_path: Path):
    """A record whose time is known has its own; any other says that nobody set one."""
    lines = [
        b'{"t":1401975000123}',
        b'{"t":"2014-06-05T13:30:00.001Z"}',
        b'{"t":null}',
        b"poison",
        b'{"t":true}',
        b"{}",
    ]
    records, _ = read(source(written(tmp_path, b"\n".join(lines)), timestamp="t"))
    assert [1_401_975_000_123, 1_401_975_000_001, -1, -1, -1, -1] == [r.timestamp_ms for r in records]
    assert ["create"] * 2 + ["none"] * 4 == [r.timestamp_type for r in records]


def test_all_times_known(tmp_path: Path):
    """Where every record has its time, the column of types is left out."""
    file = source(written(tmp_path, b'{"t":1}\n{"t":2}\n'), timestamp="t", timestamp_unit="ms")
    (batch,) = file.poll(Owner(), 0.0)
    assert isinstance(batch, Batch)
    assert ([1, 2], None) == (batch.timestamps_ms, batch.timestamp_types)


@pytest.mark.parametrize(
    "names", [{"key": "a"}, {"timestamp": "a"}, {"key": "a", "timestamp": "b"}, {"key": "a", "timestamp": "a"}]
)
@given(
    st.lists(
        st.sampled_from([b'{"a":"x","b":1}', b'{"a":1,"b":2}', b'{"b":3}', b'{"a":null}', b"{", b'{"a":[1]}', b"7"])
    )
)
def test_one_bad_record_changes_no_other(names: dict[str, str], lines: list[bytes]):
    """Looking at a chunk together finds what looking at each line alone finds."""
    fields = Fields(unit="ms", **names)
    alone = [fields.of([line]) for line in lines]
    assert ([k for keys, _ in alone for k in keys], [ms for _, stamps in alone for ms in stamps]) == fields.of(lines)


def test_names_of_fields(tmp_path: Path):
    """A field may be named like anything in JSON; one that cannot be looked for is refused."""
    path = written(tmp_path, '{"1 é%-":"k"}\n'.encode())
    assert [b"k"] == [r.key for r in read(source(path, key="1 é%-"))[0]]
    with pytest.raises(ConfigError, match="expected names without quotes"):
        source(path, key='a"b')


# ---- CSV -------------------------------------------------------------------------------------------------------


def objects(path: Path, **settings) -> list[bytes | None]:
    return values(path, **settings)


def test_csv(tmp_path: Path):
    """A row is an object: numbers keep their digits, empty cells are null, the rest is text."""
    path = written(tmp_path, b"symbol,price,size,note\nAAPL,644.80,100,\nIBM,1e5,007,\xc3\xa9\n", "ticks.csv")
    assert [
        b'{"symbol":"AAPL","price":644.80,"size":100,"note":null}',
        '{"symbol":"IBM","price":1e5,"size":"007","note":"é"}'.encode(),
    ] == objects(path)


@pytest.mark.parametrize(
    "cell", ["0", "-0", "10", "-1.50", "0.10", "1e5", "1E+05", "1.0e-7", "9" * 60, "0." + "1" * 40]
)
def test_csv_numbers(tmp_path: Path, cell: str):
    """What JSON takes for a number is one, digit for digit."""
    (value,) = objects(written(tmp_path, f"a,b\n{cell},x\n".encode(), "ticks.csv"))
    assert f'{{"a":{cell},"b":"x"}}'.encode() == value
    assert Decimal(cell) == json.loads(value or b"", parse_float=Decimal, parse_int=Decimal)["a"]


@pytest.mark.parametrize(
    "cell", ["007", "+1", "1.", ".5", "1e", "0x10", "1_000", "NaN", "Infinity", "true", "null", " 1", "1 ", "٣"]
)
def test_csv_texts(tmp_path: Path, cell: str):
    """What only looks like a number stays the text that it was."""
    (value,) = objects(written(tmp_path, f"a,b\n{cell},x\n".encode(), "ticks.csv"))
    assert {"a": cell, "b": "x"} == json.loads(value or b"")


def test_csv_text_columns(tmp_path: Path):
    """A column that is text by name is never a number and never null."""
    path = written(tmp_path, b"zip,n\n01234,1\n12345,2\n,3\n", "ticks.csv")
    found = [json.loads(value or b"") for value in objects(path, text="zip")]
    assert [{"zip": "01234", "n": 1}, {"zip": "12345", "n": 2}, {"zip": "", "n": 3}] == found


def test_csv_without_names(tmp_path: Path):
    """A file without a line of names is given them; then its first row is a record."""
    path = written(tmp_path, b"\xef\xbb\xbfAAPL,1\nIBM,2\n", "ticks.csv")
    assert [b'{"symbol":"AAPL","size":1}', b'{"symbol":"IBM","size":2}'] == objects(path, columns="symbol,size")


def test_csv_quotes(tmp_path: Path):
    """Quoted cells hold commas, quotes and line ends; a row that spans lines has one number."""
    content = b'a,b\nx,1\n"p,q","say ""hi"""\n"two\r\nlines",3\n\ny,4\n'
    records, end = read(source(written(tmp_path, content, "ticks.csv")))
    assert [(0, ["x", 1]), (1, ["p,q", 'say "hi"']), (2, ["two\r\nlines", 3]), (4, ["y", 4])] == [
        (r.offset, list(json.loads(r.value or b"").values())) for r in records
    ]
    assert 5 == end


@pytest.mark.parametrize(
    "row",
    [b"1", b"1,2,3", b"x\xff,2", b'"\xff",2', b'"a"b"c",d,e', b"a\rb,1", b'"open,1'],
    ids=["short", "long", "latin", "latin-quoted", "quotes", "return", "open"],
)
def test_csv_poison(tmp_path: Path, row: bytes):
    """A row that does not fit is kept byte for byte, and its neighbours are as they were."""
    content = b"a,b\nx,1\n" + row + (b"\ny,2\n" if row != b'"open,1' else b"")
    found = objects(written(tmp_path, content, "ticks.csv"))
    assert [b'{"a":"x","b":1}', row] + ([b'{"a":"y","b":2}'] if row != b'"open,1' else []) == found


def test_csv_poison_among_many(tmp_path: Path):
    """One bad row in a chunk of good ones."""
    rows = [b"s%d,%d" % (i, i) for i in range(1500)]
    rows[700] = b"bad"
    found = objects(written(tmp_path, b"a,b\n" + b"\n".join(rows), "ticks.csv"))
    assert [row if row == b"bad" else b'{"a":"%s","b":%s}' % tuple(row.split(b",")) for row in rows] == found


def test_csv_long_cell(tmp_path: Path):
    """A cell of 10 MB is a cell, quoted or not."""
    long = b"x" * (10 << 20)
    path = written(tmp_path, b"a,b\n" + long + b',1\n"' + long + b'",2\n', "ticks.csv")
    assert [b'{"a":"' + long + b'","b":1}', b'{"a":"' + long + b'","b":2}'] == objects(path)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"a,b,a\n1,2,3\n", {}, "found column a twice"),
        (b"a,b\n1,2\n", {"text": "c"}, "found no column c; it has a, b"),
        (b"\n1,2\n", {}, "its first line holds no names"),
        (b"\xff,b\n1,2\n", {}, "names of its columns are not UTF-8"),
    ],
    ids=["twice", "unknown", "empty", "latin"],
)
def test_csv_names_refused(tmp_path: Path, content: bytes, settings: dict[str, str], message: str):
    """Names that make no object are refused before anything is read."""
    with pytest.raises(ConfigError, match=message):
        read(source(written(tmp_path, content, "ticks.csv"), **settings))


CELLS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    st.sampled_from(["1", "1.50", "", '"', ",", "\n", "\r\n", "a\nb", "%s", "\ufeff"]),
)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([3, 7, 50, 1 << 20]),
    chunk=st.integers(1, 5),
    start=st.integers(0, 12),
)
def test_any_csv(tmp_path_factory, rows, quoting, end, block, chunk, start):
    """Whatever a CSV writer of the standard library wrote is read back, cell for cell, from any row, in blocks of any size."""
    # before Python 3.13 the writer may leave a lone carriage return without quotes, which makes it a line's end (gh-67230)
    assume(
        quoting == csv.QUOTE_ALL or end == "\r\n" or not any("\r" in c and "\n" not in c for row in rows for c in row)
    )
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerows([("a%", 'b"é'), ("first", "0"), *rows])
    path = written(tmp_path_factory.mktemp("any"), text.getvalue().encode(), "ticks.csv")
    start = min(start, len(rows) + 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jsonl_file, "BLOCK_BYTES", block)
        patched.setattr("headrace.plugins.jsonl.rows.CHUNK_RECORDS", chunk)
        found = source(path)
        assert len(rows) + 1 == found.extents()[TICKS].end
        records, position = read(found, start)
    assert len(rows) + 1 == position
    expected = {i: row for i, row in enumerate([("first", "0"), *rows]) if i >= start}
    read_back = {r.offset: json.loads(r.value or b"", parse_int=str, parse_float=str) for r in records}
    assert expected == {i: tuple(cell or "" for cell in value.values()) for i, value in read_back.items()}


# ---- places ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 1001, 4998, 5000])
def test_positions(tmp_path: Path, start: int):
    """Reading from a position gives what follows it, no more and no less."""
    path = written(tmp_path, b"".join(b"%d\n" % i for i in range(5000)))
    records, end = read(source(path), start)
    assert list(range(start, 5000)) == [r.offset for r in records]
    assert [b"%d" % i for i in range(start, 5000)] == [r.value for r in records]
    assert 5000 == end


def test_empty_chain(tmp_path: Path):
    """Where nothing is stored yet, a file is read from its beginning."""
    assert 2 == len(read(source(written(tmp_path, b"1\n2\n")), None)[0])


def test_index_is_used(tmp_path: Path):
    """A file is counted once; a position in it is then found without reading what lies before."""
    path = written(tmp_path, b"".join(b"%0999d\n" % i for i in range(12_000)))
    file = source(path)
    assert 12_000 == file.extents()[TICKS].end
    near = file._file.index.before(11_000)
    assert 0 < near.record <= 11_000 < near.record + 2 * (4 << 20) // 1000
    assert 1000 * near.record == near.byte
    assert list(range(11_000, 12_000)) == [r.offset for r in read(file, 11_000)[0]]


def test_index():
    """Marks are kept apart by a spacing, and the nearest one before a record is found."""
    index = Index(spacing_bytes=10)
    for record in range(10):
        index.add(Mark(record, record * 4))
    assert [Mark(0, 0), Mark(0, 0), Mark(3, 12), Mark(3, 12), Mark(6, 24)] == [index.before(n) for n in (0, 2, 3, 5, 8)]
    assert Mark(9, 36) == index.before()
    index.clear()
    assert Mark(0, 0) == index.before()


def test_move_back_and_forth(tmp_path: Path):
    """A new start is read from there, with its number; nothing that was read before comes with it."""
    file, owner = source(written(tmp_path, b"".join(b"%d\n" % i for i in range(3000)))), Owner()
    assert [0, 1000] == [e.start for _ in range(2) for e in file.poll(owner, 0.0) if isinstance(e, Batch)]
    for assignment, offset in ((2, 500), (3, 2999), (4, 0)):
        file.move({TICKS: Start(offset, None, assignment)})
        (batch,) = file.poll(owner, 0.0)
        assert isinstance(batch, Batch)
        assert (offset, assignment, b"%d" % offset) == (batch.start, batch.assignment, batch.values[0])


def test_pause(tmp_path: Path):
    """None pauses; going on at the same place with the same number goes on, without finding the place again."""
    file, owner = source(written(tmp_path, b"".join(b"%d\n" % i for i in range(3000)))), Owner()
    file.poll(owner, 0.0)
    chunks = file._chunks
    file.move({TICKS: None})
    assert [] == file.poll(owner, 0.5)
    file.move({TICKS: Start(1000, None, 1)})
    (batch,) = file.poll(owner, 0.0)
    assert isinstance(batch, Batch)
    assert 1000 == batch.start
    assert chunks is file._chunks


def test_asked_once(tmp_path: Path):
    """The owner is asked at the first poll, with no hint, and not again."""
    file, owner = source(written(tmp_path, b"1\n")), Owner()
    for _ in range(3):
        file.poll(owner, 0.0)
    assert [{TICKS: None}] == owner.asked


@pytest.mark.parametrize("follow", [False, True])
def test_an_end_that_nobody_waits_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, *, follow: bool):
    """Once, after a while, with the ways out; a file that is followed is waited for."""
    now = [100.0]
    file, owner = source(written(tmp_path, b"1\n"), follow=follow, clock=lambda: now[0], sleep=lambda _: None), Owner()
    with caplog.at_level(logging.WARNING, logger="headrace.jsonl"):
        for _ in range(10):
            file.poll(owner, 0.1)
        assert [] == caplog.messages
        now[0] += 6
        for _ in range(10):
            file.poll(owner, 0.1)
            now[0] += 6
    said = [message for message in caplog.messages if "--until-end" in message]
    assert (0 if follow else 1) == len(said) == len(caplog.messages)


def test_waits_no_longer_than_asked(tmp_path: Path):
    """At the end a poll waits for as long as it may, and not before the end was told."""
    time = Time()
    file, owner = source(written(tmp_path, b"1\n\n"), clock=time, sleep=time.sleep), Owner()
    events = [e for _ in range(3) for e in file.poll(owner, 0.25)]
    assert [Batch, Reached, Reached] == [type(e) for e in events]
    assert [2, 2] == [e.position for e in events if isinstance(e, Reached)]
    assert [0.25] == time.slept


# ---- compressed and remote -------------------------------------------------------------------------------------

CONTENT = b"".join(b'{"n":%d}\n' % i for i in range(5000))


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize("start", [0, 4321])
def test_compressed(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], start: int):
    """Compressed files are known by their suffix; positions and counts are those of what is in them."""
    file = source(written(tmp_path, compress(CONTENT), f"ticks.jsonl{suffix}"))
    assert 5000 == file.extents()[TICKS].end
    assert CONTENT.split(b"\n")[start:-1] == [r.value for r in read(file, start)[0]]


def test_zstd(tmp_path: Path):
    """The same for zstd, where its library is there."""
    zstd = pytest.importorskip("backports.zstd")
    assert CONTENT.split(b"\n")[:-1] == values(written(tmp_path, zstd.compress(CONTENT), "ticks.jsonl.zst"))


def test_zstd_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the library the file is not read as if it were plain: the message says what installs it."""
    monkeypatch.delitem(fsspec.utils.compressions, "zst", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[zstd\]'"):
        read(source(written(tmp_path, b"x", "ticks.jsonl.zst")))


def test_compressed_csv(tmp_path: Path):
    """What a file holds is told by the suffix before the compression's."""
    assert [b'{"a":1}'] == values(written(tmp_path, gzip.compress(b"a\n1\n"), "ticks.csv.gz"))


@pytest.mark.parametrize("cut", [slice(0, 200), slice(100, None)], ids=["tail", "head"])
def test_damaged_file(tmp_path: Path, cut: slice):
    """A compressed file that is cut off or is none raises ours, and says so."""
    with pytest.raises(DataError, match="not what its suffix says, or is damaged"):
        read(source(written(tmp_path, gzip.compress(os.urandom(5000))[cut], "ticks.jsonl.gz")))


def test_url():
    """Any file system of fsspec will do."""
    with fsspec.open("memory://headrace/ticks.jsonl", "wb") as file:
        file.write(CONTENT)
    found = source("memory://headrace/ticks.jsonl")
    assert 5000 == found.extents()[TICKS].end
    assert CONTENT.split(b"\n")[4000:-1] == [r.value for r in read(found, 4000)[0]]


# ---- a file that grows -----------------------------------------------------------------------------------------


def poll(file: JsonlSource, owner: Owner) -> Sequence[Event]:
    """A poll after the file may be looked at again."""
    assert isinstance(file.clock, Time)
    file.clock.now_s += 1
    return file.poll(owner, 0.0)


def texts(events: Sequence[Event]) -> list[bytes | None]:
    return [v for e in events if isinstance(e, Batch) for v in e.values]


@pytest.mark.parametrize("name", ["ticks.jsonl", "ticks.csv"])
def test_follow(tmp_path: Path, name: str):
    """What is appended is read, each line once it is ended, each once."""
    settings = {"columns": "n"} if name.endswith("csv") else {}
    path = written(tmp_path, b"1\n2", name)
    file, owner, found = source(path, follow=True, **settings), Owner(), list[bytes | None]()
    for piece, end in ((b"", 1), (b"", 1), (b"3\n", 2), (b"4\n5\n6", 4), (b"", 4), (b"\n\n", 6), (b"7\n", 7)):
        with path.open("ab") as appended:
            appended.write(piece)
        assert end == file.extents()[TICKS].end
        events = [*poll(file, owner), *poll(file, owner)]
        found += texts(events)
        assert end == next(e.position for e in events if isinstance(e, Reached))
    digits = [b"1", b"23", b"4", b"5", b"6", b"7"]
    assert found == (digits if name == "ticks.jsonl" else [b'{"n":%s}' % d for d in digits])


def test_follow_a_row_in_quotes(tmp_path: Path):
    """A followed CSV row is not whole before its quotes are closed."""
    path = written(tmp_path, b'a,b\n1,2\n"x\n', "ticks.csv")
    file, owner = source(path, follow=True), Owner()
    assert [b'{"a":1,"b":2}'] == texts([*poll(file, owner), *poll(file, owner)])
    with path.open("ab") as appended:
        appended.write(b'y",3\n')
    assert [b'{"a":"x\\ny","b":3}'] == texts([*poll(file, owner), *poll(file, owner)])


@pytest.mark.parametrize(
    ("name", "begin"), [("ticks.jsonl", b""), ("ticks.jsonl", b"1"), ("ticks.csv", b""), ("ticks.csv", b"n\n")]
)
def test_follow_from_nothing(tmp_path: Path, name: str, begin: bytes):
    """A followed file that has no record yet is waited for: nothing is there by which it could be known."""
    path = written(tmp_path, begin, name)
    file, owner = source(path, follow=True), Owner()
    assert [] == poll(file, owner)
    assert [] == owner.asked
    path.write_bytes(b"n\n1\n")
    events = [*poll(file, owner), *poll(file, owner)]
    assert ([b'{"n":1}'] if name == "ticks.csv" else [b"n", b"1"]) == texts(events)
    assert any(isinstance(e, Reached) for e in events)


def test_looks_not_too_often(tmp_path: Path):
    """A followed file is looked at every so often, however often it is polled."""
    path = written(tmp_path, b"1\n")
    file, owner = source(path, follow=True, look_every_s=10.0), Owner()
    assert [b"1"] == texts([*poll(file, owner), *poll(file, owner)])
    poll(file, owner)
    path.write_bytes(b"1\n2\n")
    assert [] == texts([*file.poll(owner, 0.0), *file.poll(owner, 0.0)])
    assert isinstance(file.clock, Time)
    file.clock.now_s += 10
    assert [b"2"] == texts(file.poll(owner, 0.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"1\n", "it had 6"), (b"x\n2\n3\n4\n", "another record"), (b"1\n20\n30\n40\n", "other bytes before record 3")],
    ids=["cut", "replaced", "begins alike"],
)
def test_follow_a_file_that_was_replaced(tmp_path: Path, content: bytes, message: str):
    """A file that shrank, or begins otherwise, is not read on as if it were the same."""
    path = written(tmp_path, b"1\n2\n3\n")
    file, owner = source(path, follow=True), Owner()
    assert [b"1", b"2", b"3"] == texts([*poll(file, owner), *poll(file, owner)])
    path.write_bytes(content)
    (failed,) = poll(file, owner)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, IdentityError)
    assert message in str(failed.error)
    assert [] == poll(file, owner)  # it waits for a new start


# ---- the pace --------------------------------------------------------------------------------------------------


def test_pace(tmp_path: Path):
    """At ten times the pace, what took ten seconds takes one; no poll waits longer than it may."""
    times_ms = [0, 500, 500, 10_000, 9_000, 10_001]
    path = written(tmp_path, b"".join(b'{"t":%d}\n' % (1_000_000_000_000 + ms) for ms in times_ms))
    time, owner, seen = Time(), Owner(), list[tuple[float, int]]()
    file = source(path, timestamp="t", pace=10.0, clock=time, sleep=time.sleep)
    while len(seen) < len(times_ms):
        for event in file.poll(owner, 0.02):
            assert isinstance(event, Batch)
            seen += [(time.now_s - 1000.0, ms - 1_000_000_000_000) for ms in event.timestamps_ms]
    due_s = [0.0, 0.05, 0.05, 1.0, 1.0, 1.0001]
    assert times_ms == [ms for _, ms in seen]
    assert all(due <= at + 1e-6 and at < due + 0.021 for (at, _), due in zip(seen, due_s, strict=True))
    assert max(time.slept) <= 0.02


def test_pace_and_pause(tmp_path: Path):
    """What is held back for its time is neither lost nor repeated by a pause, and is dropped by a new start."""
    path = written(tmp_path, b"".join(b'{"t":%d}\n' % (10**12 + i * 1000) for i in range(4)))
    time, owner = Time(), Owner()
    file = source(path, timestamp="t", pace=1.0, clock=time, sleep=time.sleep)
    (first,) = file.poll(owner, 0.0)
    assert isinstance(first, Batch)
    assert range(1) == first.offsets
    file.move({TICKS: None})
    file.move({TICKS: Start(1, None, 1)})
    time.now_s += 1
    (second,) = file.poll(owner, 0.0)
    assert isinstance(second, Batch)
    assert (1, range(1, 2), 1) == (second.start, second.offsets, second.assignment)
    file.move({TICKS: Start(1, None, 2)})
    (again,) = file.poll(owner, 0.0)
    assert isinstance(again, Batch)
    assert (1, range(1, 2), 2) == (again.start, again.offsets, again.assignment)


def test_pace_without_times(tmp_path: Path):
    """Records that have no time are due with those before them."""
    path = written(tmp_path, b'{}\n{"t":1000}\nx\n{"t":1002}\n{}\n')
    time, owner = Time(), Owner()
    file = source(path, timestamp="t", pace=2.0, clock=time, sleep=time.sleep)
    (first,) = file.poll(owner, 5.0)
    (second,) = file.poll(owner, 5.0)
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert (range(3), range(3, 5)) == (first.offsets, second.offsets)
    assert [1.0] == time.slept  # two seconds, twice as fast


def test_pace_needs_a_time(tmp_path: Path):
    """A pace without the field that holds a record's time is a wrong setting."""
    with pytest.raises(ConfigError, match="pace=10 needs the field that holds a record's time: timestamp=NAME"):
        source(tmp_path / "ticks.jsonl", pace=10.0)


# ---- what a file is known by -----------------------------------------------------------------------------------


def test_extents(tmp_path: Path):
    """An extent is what is in the file now; its identity is that of its first record, and stays as the file grows."""
    path = written(tmp_path, b"1\n2\n")
    file = source(path)
    first = file.extents()[TICKS]
    assert (0, 2, 2) == (first.low, first.end, first.high)
    path.write_bytes(b"1\n2\n3\n4")
    second = file.extents()[TICKS]
    assert (4, first.identity) == (second.end, second.identity)
    path.write_bytes(b"0\n2\n3\n")
    assert 3 == file.extents()[TICKS].end
    assert first.identity != file.extents()[TICKS].identity


def test_extents_of_another_file(tmp_path: Path):
    """What is known of the places in a file is forgotten when another one stands there."""
    path = written(tmp_path, CONTENT)
    file = source(path)
    file._file.index.spacing_bytes = 1000
    assert 5000 == file.extents()[TICKS].end
    for content, end in ((CONTENT[:400], CONTENT[:400].count(b"\n") + 1), (b"x\n" + CONTENT * 2, 10_001)):
        path.write_bytes(content)
        assert end == file.extents()[TICKS].end


def test_extents_of_a_last_line_that_is_ended_later(tmp_path: Path):
    """A last line that counted before it was ended is counted once."""
    path = written(tmp_path, b"1\n2")
    file = source(path)
    assert 2 == file.extents()[TICKS].end
    path.write_bytes(b"1\n22\n3")
    assert 3 == file.extents()[TICKS].end


def test_extents_from_other_threads(tmp_path: Path):
    """The end may be asked for from any thread while the file is read."""
    path = written(tmp_path, CONTENT)
    file, found = source(path), list[int]()
    threads = [threading.Thread(target=lambda: found.append(file.extents()[TICKS].end)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert 5000 == len(read(file)[0])
    for thread in threads:
        thread.join(10)
    assert [5000] * 4 == found


@pytest.mark.parametrize(
    ("name", "content"), [("ticks.jsonl", b""), ("ticks.jsonl", b"\n\n"), ("ticks.csv", b""), ("ticks.csv", b"a\n")]
)
def test_empty_file(tmp_path: Path, name: str, content: bytes):
    """A file without a record is refused: nothing would tell it from another one."""
    path = written(tmp_path, content, name)
    with pytest.raises(ConfigError, match="holds no record, and a file is known by its first; follow=true waits"):
        read(source(path))
    with pytest.raises(ConfigError, match="holds no record"):
        source(path).extents()


def test_missing_file(tmp_path: Path):
    """A file that is not there is named at the first poll, and not before."""
    file = source(tmp_path / "no.jsonl")
    with pytest.raises(ConfigError, match=r"no\.jsonl: there is no such file; expected a file of JSON lines"):
        file.poll(Owner(), 0.0)
    with pytest.raises(ConfigError, match="there is no such file"):
        file.extents()


def test_folder(tmp_path: Path):
    """A folder is no file."""
    with pytest.raises(ConfigError, match="expected a file that we may read"):
        source(tmp_path).poll(Owner(), 0.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path):
    """A file that may not be read is named."""
    path = written(tmp_path, b"1\n")
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"cannot be opened \(Permission denied\); expected a file that we may read"):
        source(path).poll(Owner(), 0.0)


def test_forbidden_file_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same where everything may be read: what the file system would say is said for it."""

    def refuse(*_args, **_settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fsspec, "open", refuse)
    with pytest.raises(ConfigError, match=r"cannot be opened \(Permission denied\); expected a file that we may read"):
        source(written(tmp_path, b"1\n")).poll(Owner(), 0.0)


# ---- URIs ------------------------------------------------------------------------------------------------------


def made(uri: str) -> JsonlSource:
    found = Registry.discover().source(uri)
    assert isinstance(found, JsonlSource)
    return found


def test_uri():
    """A URI says all that the source can be told."""
    found = made(
        "jsonl:///data/ticks.jsonl?key=symbol&timestamp=time&timestamp_unit=us&pace=10&follow=true&stream=t&look-every-s=2s"
    )
    assert ("/data/ticks.jsonl", "t", "symbol", "time") == (found.path, found.stream, found.key, found.timestamp)
    assert ("us", 10.0, True, 2.0) == (found.timestamp_unit, found.pace, found.follow, found.look_every_s)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("jsonl:///a/ticks.jsonl", "JSON lines"),
        ("jsonl:///a/ticks.csv", "comma-separated values"),
        ("jsonl:///a/ticks.CSV.gz", "comma-separated values"),
        ("jsonl:///a/ticks.csv.old.json", "JSON lines"),
        ("jsonl:///a/ticks.csv?format=jsonl", "JSON lines"),
        ("csv:///a/ticks.txt?columns=a,b&text=b", "comma-separated values"),
        ("csv:///a/ticks.txt?format=jsonl", "JSON lines"),
    ],
)
def test_format(uri: str, kind: str):
    """The suffix says what is in a file, unless the URI does."""
    assert kind == made(uri)._file.kind


def test_uri_of_a_url():
    """A file elsewhere is named by a setting; settings with a dot go to its file system."""
    found = made("jsonl://?path=s3%3A%2F%2Fbucket%2Fticks.jsonl.gz&fs.anon=true&endpoint.url=x")
    assert "s3://bucket/ticks.jsonl.gz" == found.path
    assert {"anon": "true", "endpoint.url": "x"} == found.client_settings
    assert Partition("ticks", 0) == found._partition


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("jsonl://ticks.jsonl", r"expected jsonl:///absolute/path \(three slashes\)"),
        ("jsonl://", "or jsonl://\\?path=URL"),
        ("jsonl:///a?path=b", "expected jsonl:///absolute/path"),
        ("jsonl:///a.jsonl?keys=symbol", "has no setting 'keys'; expected one of .*key"),
        ("jsonl:///a.jsonl?timestamp_unit=days", "expected one of auto, s, ms, us, ns"),
        ("jsonl:///a.jsonl?columns=a,b", "columns and text are settings of a CSV file"),
        ("jsonl:///a.jsonl?pace=fast&timestamp=t", "expected float"),
    ],
)
def test_wrong_uri(uri: str, message: str):
    """A wrong setting is refused when the source is made."""
    with pytest.raises(ConfigError, match=message):
        made(uri)


# ---- all the way -----------------------------------------------------------------------------------------------


def bronze(root: Path) -> list[Record]:
    return read(LakeSource(store=FileStore(root=root)), 0)[0]  # type: ignore[arg-type]  # polled in the same way


def run(path: Path, lake: Path, **settings) -> None:
    sink = LakeSink(store=FileStore(root=lake))
    Pipeline(
        source=JsonlSource(path=str(path), **settings), sink=sink, flush=FlushPolicy(records=700), until_end=True
    ).run()


@pytest.mark.parametrize("tail", [b"", b"\n\n\n", b'{"n":"last"}'], ids=["ended", "empty-lines", "not-ended"])
def test_into_the_lake(tmp_path: Path, tail: bytes):
    """A bounded run ends where the file does, whatever stands at its end, and a second run adds nothing."""
    path, lake = written(tmp_path, CONTENT + tail), tmp_path / "lake"
    for _ in range(2):
        run(path, lake)
        lines = [line for line in (CONTENT + tail).split(b"\n") if line]
        assert lines == [r.value for r in bronze(lake)]
        assert list(range(len(lines))) == [r.offset for r in bronze(lake)]


def test_growing_file_into_the_lake(tmp_path: Path):
    """Run after run, a file that grew is stored from where it was stored to."""
    path, lake = written(tmp_path, CONTENT), tmp_path / "lake"
    run(path, lake)
    path.write_bytes(CONTENT * 2)
    run(path, lake)
    assert (CONTENT * 2).split(b"\n")[:-1] == [r.value for r in bronze(lake)]
    ends = [s.end for s in Chain.open(FileStore(root=lake), "ticks").walk(0)]
    assert [0, *ends[:-1]] == [s.start for s in Chain.open(FileStore(root=lake), "ticks").walk(0)]


def test_other_file_is_refused(tmp_path: Path):
    """Another file of the same name is not mixed into the stream of the first one."""
    path, lake = written(tmp_path, CONTENT), tmp_path / "lake"
    run(path, lake)
    path.write_bytes(b'{"other":1}\n' + CONTENT)
    with pytest.raises(IdentityError):
        run(path, lake)
    assert 5000 == len(bronze(lake))


def test_shorter_file_is_refused(tmp_path: Path):
    """A file that was cut back is not the one that was stored."""
    path, lake = written(tmp_path, CONTENT), tmp_path / "lake"
    run(path, lake)
    path.write_bytes(CONTENT[:100])
    with pytest.raises(IdentityError, match="the lake reaches 5000"):
        run(path, lake)

"""Segments as Parquet: any reader reads them, the trailer is checked to the last bit, memory is bounded."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from headrace.chain import Chain
from headrace.errors import ConfigError, CorruptSegmentError, DataError, IdentityError
from headrace.formats import Workers, format_of
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeDraft, LakeSink
from headrace.records import Batch, Extent, Identity, Partition, Position, Record
from headrace.segment import Trailer

pa = pytest.importorskip("pyarrow", reason="needs headrace[parquet]")
pq = pytest.importorskip("pyarrow.parquet")

TICKS = Partition("ticks", 0)
IDENTITY = Identity("cluster", "topic", "read_committed", 2)
PARQUET = format_of("parquet", "zstd")
RECORDS = [
    Record(0, 1_400_000_000_000, b"AAPL", b'{"symbol":"AAPL","price":92.20}'),
    Record(1, 1_400_000_000_001, b"AAPL", b'{\n  "symbol" : "IBM"\r\n}'),
    Record(2, -1, None, None),
    Record(3, 0, b"", b"null"),
    Record(5, 0, b"", b""),
    Record(6, 0, b"\xff\x00", b"\x00\x00\x00\x00\x01avro"),
    Record(7, 0, b"k", b"NaN", (("h", b"text"), ("h", None), ("\udcff", b"\xff"), ("", b"")), "append"),
    Record(9, 0, "città".encode(), '"東京"'.encode(), timestamp_type="none"),
]


def trades(start: int, count: int, size: int = 100) -> list[Record]:
    """Records of JSON that compresses as real ones do: each has something of its own."""
    own = [hashlib.sha256(b"%d" % offset).hexdigest() for offset in range(start, start + count)]
    return [
        Record(
            start + n, 1_400_000_000_000 + n, b"AAPL", b'{"id":"%s","note":"%s"}' % (text.encode(), b"x" * (size - 87))
        )
        for n, text in enumerate(own)
    ]


def bound(store: FileStore, **settings: object) -> LakeSink:
    sink = LakeSink(store=store, format="parquet", **settings)  # type: ignore[arg-type]
    sink.bind({Partition("ticks", n): Extent(0, 10**6, 10**6, IDENTITY) for n in range(2)})
    return sink


def drafted(sink: LakeSink, records: Sequence[Record], buffer_bytes: int = 1 << 20, each: int = 1000) -> LakeDraft:
    draft = sink.draft(TICKS, records[0].offset, buffer_bytes)
    for at in range(0, len(records), each):
        draft.add(Batch.of(TICKS, records[at : at + each], assignment=1))
    return draft


def put(sink: LakeSink, records: Sequence[Record], buffer_bytes: int = 1 << 20) -> Position:
    at = sink.positions({TICKS: None})[TICKS]
    assert isinstance(at, Position)
    return drafted(sink, records, buffer_bytes).commit(at.offset, at, IDENTITY)


def lake(root: Path, *parts: Sequence[Record], buffer_bytes: int = 1 << 20) -> Chain:
    sink = bound(FileStore(root=root))
    for part in parts:
        put(sink, part, buffer_bytes)
    return Chain.open(sink.store, "ticks")


def path_of(root: Path, start: int = 0) -> Path:
    return root / "ticks" / "partition=0" / f"{start:020d}.parquet"


def made(records: Sequence[Record], stream: str = "ticks", buffer_bytes: int = 1 << 20) -> tuple[bytes, Trailer]:
    """An object, and what its trailer says."""
    workers, said = Workers(1), []
    content = PARQUET.content(workers, buffer_bytes)
    content.add(Batch.of(Partition(stream, 0), records, assignment=1))

    def trailer(digest: str) -> Trailer:
        start, end = records[0].offset, records[-1].offset + 1
        said.append(Trailer("ab" * 16, Partition(stream, 0), start, end, start, len(records), -1, 9, digest, 7, "test"))
        return said[0]

    body = content.finish(trailer)
    workers.close()
    return body, said[0]


def trailer_of(body: bytes) -> Trailer:
    return PARQUET.trailer(body[-PARQUET.seal_bytes(body[-8:]) :], key="ticks/0.parquet")


def is_whole(body: bytes, said: Trailer) -> bool:
    try:
        return PARQUET.holds(body, said, key="k")
    except CorruptSegmentError:
        return False


# ---- what readers see -----------------------------------------------------------------------------------------------


def test_columns(tmp_path: Path):
    """The columns are a published format: their names, types, and what is null."""
    lake(tmp_path, RECORDS)
    table = pq.ParquetFile(path_of(tmp_path)).read()

    text_or_bytes = "struct<key: string, key_bytes: binary, value: string, value_bytes: binary>"
    assert {
        "offset": "int64",
        "timestamp_ms": "int64",
        "timestamp_type": "string",
        "key": "string",
        "key_bytes": "binary",
        "headers": f"list<element: {text_or_bytes}>",
        "value": "string",
        "value_bytes": "binary",
    } == {field.name: str(field.type) for field in table.schema}
    assert [r.offset for r in RECORDS] == table["offset"].to_pylist()
    assert [None, None, None, None, None, None, "append", "none"] == table["timestamp_type"].to_pylist()
    assert ["AAPL", "AAPL", None, "", "", None, "k", "città"] == table["key"].to_pylist()
    assert [None] * 5 + [b"\xff\x00", None, None] == table["key_bytes"].to_pylist()
    texts = ['{"symbol":"AAPL","price":92.20}', '{\n  "symbol" : "IBM"\r\n}', None, "null", None, None, None, '"東京"']
    assert texts == table["value"].to_pylist()
    assert [None] * 4 + [b"", b"\x00\x00\x00\x00\x01avro", b"NaN", None] == table["value_bytes"].to_pylist()
    fields = ("key", "key_bytes", "value", "value_bytes")
    cells = [
        ("h", None, "text", None),
        ("h", None, None, None),
        (None, b"\xed\xb3\xbf", None, b"\xff"),
        ("", None, "", None),
    ]
    assert [dict(zip(fields, row, strict=True)) for row in cells] == table["headers"].to_pylist()[6]
    assert 1 == 8 - table["headers"].null_count


def test_duckdb_reads_every_record_once(tmp_path: Path):
    """A glob of the prefix gives each record of each segment once, and JSON functions work on every row."""
    duckdb = pytest.importorskip("duckdb")
    lake(tmp_path, RECORDS, trades(10, 5000), trades(5010, 3), buffer_bytes=1 << 16)
    query = f"""select "partition", "offset", value ->> '$.symbol', value_bytes is not null
        from read_parquet('{tmp_path}/ticks/partition=*/*.parquet', hive_partitioning = true) order by 2"""
    rows = duckdb.execute(query).fetchall()

    assert [r.offset for r in RECORDS] + list(range(10, 5013)) == [offset for _, offset, *_ in rows]
    assert {0} == {number for number, *_ in rows}
    assert [0, 1] == [offset for _, offset, symbol, _ in rows if symbol is not None]
    assert [5, 6, 7] == [offset for *_, offset, _, is_bytes in rows if is_bytes]


def test_what_readers_must_know(tmp_path: Path):
    """Only encodings and pages of Parquet's first version, statistics of numbers only, checksums of pages, no Arrow schema."""
    lake(tmp_path, trades(0, 5000))
    about = pq.ParquetFile(path_of(tmp_path)).metadata
    group = about.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]

    assert {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"} >= {e for c in columns for e in c.encodings}
    assert {"ZSTD"} == {c.compression for c in columns}
    assert {"offset", "timestamp_ms"} == {
        c.path_in_schema for c in columns if c.is_stats_set and c.statistics.has_min_max
    }
    assert [b"headrace"] == list(about.metadata)
    assert about.metadata[b"headrace"].startswith(b"headrace segment 1 ")
    body = bytearray(path_of(tmp_path).read_bytes())
    body[columns[9].data_page_offset + columns[9].total_compressed_size // 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(pa.BufferReader(bytes(body)), page_checksum_verification=True).read()


@pytest.mark.parametrize("compression", ["zstd", "snappy"])
def test_compression(tmp_path: Path, compression: str):
    """Both compressions are read back to the byte."""
    sink = bound(FileStore(root=tmp_path), compression=compression)
    put(sink, RECORDS)
    group = pq.ParquetFile(path_of(tmp_path)).metadata.row_group(0)

    assert compression.upper() == group.column(0).compression
    assert RECORDS == stored(Chain.open(sink.store, "ticks"))


def stored(chain: Chain) -> list[Record]:
    return [record for segment in chain.walk(0) for batch in chain.batches(segment) for record in batch.records()]


# ---- the trailer ----------------------------------------------------------------------------------------------------


def test_every_bit_of_the_footer():
    """No single bit can flip in footer or end without being noticed."""
    body, said = made(RECORDS)
    assert said == trailer_of(body)
    seal = bytearray(body[-PARQUET.seal_bytes(body) :])
    for bit in range(8 * len(seal)):
        seal[bit // 8] ^= 1 << bit % 8
        changed = body[: -len(seal)] + bytes(seal)
        with pytest.raises(CorruptSegmentError, match=r"ticks/0\.parquet"):
            trailer_of(changed)
        seal[bit // 8] ^= 1 << bit % 8


def test_every_byte_before_the_footer():
    """A bit that flips in a page is found by the digest."""
    body, said = made(RECORDS)
    assert PARQUET.holds(body, said, key="k")
    for at in range(len(body) - PARQUET.seal_bytes(body)):
        changed = bytearray(body)
        changed[at] ^= 1 << at % 8
        assert not PARQUET.holds(bytes(changed), said, key="k")


def test_every_length():
    """An object that is cut off, or goes on, is no object."""
    body, said = made(RECORDS)
    assert is_whole(body, said)
    for length in range(len(body)):
        assert not is_whole(body[:length], said)
    assert not is_whole(body + b"\0", said)


def test_a_trailer_of_another_object():
    """Content under the trailer of another object is found."""
    body, said = made(RECORDS)
    assert not PARQUET.holds(body, attrs.evolve(said, end=said.end + 1), key="k")
    other, _ = made(RECORDS[:-1])
    assert not PARQUET.holds(other, said, key="k")


def test_what_looks_like_a_trailer():
    """Records and a stream that carry a trailer's words change nothing: no byte of a record stands in the footer."""
    words = made(RECORDS)[0][-PARQUET.seal_bytes(made(RECORDS)[0]) :]
    forged = words[words.find(b"headrace segment ") :][:998]
    records = [Record(n, n, forged, b'"headrace segment 1 "', (("headrace segment ", forged),)) for n in range(9)]
    body, said = made(records, stream="headrace segment 1 " + "0" * 64)

    assert said == trailer_of(body)
    assert forged[:80] not in body[-PARQUET.seal_bytes(body) :]


@pytest.mark.parametrize(
    ("seal", "reason"),
    [
        (b"", "found b'' at its end, expected b'PAR1'"),
        (b"\0" * 8, "expected b'PAR1'"),
        (b"\0\0\0\0PAR1", "its footer has no value of headrace"),
        (b"\xff\xff\xff\xffPAR1", "its footer is longer than the object"),
    ],
)
def test_no_trailer(seal: bytes, reason: str):
    """What has no trailer is refused with a reason."""
    with pytest.raises(CorruptSegmentError, match=reason):
        PARQUET.trailer(seal, key="k")


def test_parquet_of_somebody_else(tmp_path: Path):
    """A Parquet file that is not ours stops the partition, whatever its name."""
    chain = lake(tmp_path, trades(0, 10))
    pq.write_table(pa.table({"offset": [10, 11]}), path_of(tmp_path, 10))

    with pytest.raises(CorruptSegmentError, match="no value of headrace"):
        chain.newest(0)


def test_other_columns_are_refused():
    """Records are read from the columns that are documented, or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"offset": [10, 11]}), sink)

    with pytest.raises(DataError, match="found columns"):
        list(PARQUET.batches(sink.getvalue().to_pybytes(), TICKS, 1, 0))


def test_a_long_footer_takes_a_second_read(tmp_path: Path):
    """Of many row groups the footer is longer than what is read first; then it is read once more, and only then."""
    reads: list[tuple[int, int | None]] = []

    class Counting(FileStore):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
            if "partition=" in key:
                reads.append((start, end))
            return super().read(key, start, end)

    chain = Chain(
        Counting(root=tmp_path), lake(tmp_path, trades(0, 100), trades(100, 60_000), buffer_bytes=1 << 16).dataset
    )
    short, long = chain.walk(0)
    size = PARQUET.seal_bytes(path_of(tmp_path, 100).read_bytes())

    assert (100, 60_100) == (short.end, long.end)
    assert size > PARQUET.tail_bytes
    assert [(-PARQUET.tail_bytes, None)] * 2 + [(-size, None)] == reads


# ---- damage in a lake -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["page", "footer", "end", "cut", "empty"])
def test_a_damaged_object_is_found(tmp_path: Path, where: str):
    """Whatever is wrong with an object, reading it says so and names it."""
    chain = lake(tmp_path, RECORDS)
    segment = next(chain.walk(0))
    path = path_of(tmp_path)
    body = bytearray(path.read_bytes())
    places = {"page": 200, "footer": len(body) - 2000, "end": len(body) - 6}
    if where in places:
        body[places[where]] ^= 4
    path.write_bytes(body[: {"cut": len(body) // 2, "empty": 0}.get(where, len(body))])

    with pytest.raises(CorruptSegmentError) as told:
        chain.read(segment)
    assert told.value.key.endswith("partition=0/00000000000000000000.parquet")
    if where != "page":
        with pytest.raises(CorruptSegmentError):
            chain.newest(0)


# ---- the pin --------------------------------------------------------------------------------------------------------


def test_formats_are_never_mixed(tmp_path: Path):
    """A lake of one format takes no segments of the other, whoever comes first (B7)."""
    lake(tmp_path / "a", RECORDS)
    lines = LakeSink(store=FileStore(root=tmp_path / "a"))
    with pytest.raises(IdentityError, match="format is 'parquet' in the lake, 'jsonl' now"):
        lines.bind({TICKS: Extent(0, 9, 9, IDENTITY)})
    LakeSink(store=FileStore(root=tmp_path / "b")).bind({TICKS: Extent(0, 9, 9, IDENTITY)})
    with pytest.raises(IdentityError, match="format is 'jsonl' in the lake, 'parquet' now"):
        bound(FileStore(root=tmp_path / "b"))


@pytest.mark.parametrize(("name", "compression"), [("parquet", "gzip"), ("jsonl", "snappy")])
def test_a_compression_of_the_other_format(tmp_path: Path, name: str, compression: str):
    """A format that cannot be compressed so says what it can."""
    with pytest.raises(ConfigError, match=f"found compression '{compression}' of format '{name}', expected "):
        LakeSink(store=FileStore(root=tmp_path), format=name, compression=compression)  # type: ignore[arg-type]


# ---- without pyarrow ------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["pyarrow"] = None  # as if it were not installed
from headrace import Chain, MissingExtraError
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink

store = FileStore(root=sys.argv[1])
chain = Chain.open(store, "ticks")
segment = chain.newest(0)
chain.read(segment)
print(segment.end)
for needs in (lambda: next(chain.batches(segment)), lambda: LakeSink(store=store, format="parquet")):
    try:
        needs()
    except MissingExtraError as error:
        print(error)
"""


def test_without_pyarrow(tmp_path: Path):
    """Positions and digests need no pyarrow; records do, and the error says what to install."""
    lake(tmp_path, RECORDS)
    done = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], capture_output=True, text=True, check=True)
    end, *told = done.stdout.splitlines()

    assert str(RECORDS[-1].offset + 1) == end
    assert 2 == len(told)
    assert all("pip install 'headrace[parquet]'" in line for line in told)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_draft_says_what_it_holds(tmp_path: Path):
    """Of 200 MB in drafts of 64 MB no more is held than what is compressed and some row groups, and that is what is said."""
    sink, chunk = bound(FileStore(root=tmp_path)), trades(0, 2000, 1000)
    at = sink.positions({TICKS: None})[TICKS]
    assert isinstance(at, Position)
    for _ in range(3):
        draft, most = sink.draft(TICKS, at.offset, 4 << 20), 0
        before = pa.total_allocated_bytes()
        while draft.records < 64_000:
            rows = [attrs.evolve(r, offset=at.offset + draft.records + i) for i, r in enumerate(chunk)]
            draft.add(Batch.of(TICKS, rows, assignment=1))
            held, allocated = draft.held_bytes, pa.total_allocated_bytes() - before
            assert allocated < held + (8 << 20)  # a page or two of a worker's own
            most = max(most, held)
        at = draft.commit(at.offset, at, IDENTITY)
        size = path_of(tmp_path, at.segment[0] if at.segment else 0).stat().st_size
        assert size == draft.held_bytes
        assert most < size + 7 * (4 << 20)  # one that fills, four that wait, one that is written; and a chunk
        draft.discard()
        assert 0 == draft.held_bytes
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert 192_000 == sum(s.trailer.records for s in Chain.open(sink.store, "ticks").walk(0))


def test_a_draft_that_is_discarded_while_it_is_written(tmp_path: Path):
    """It gives all memory back, and the workers go on with others."""
    sink = bound(FileStore(root=tmp_path))
    for _ in range(20):
        drafted(sink, trades(0, 3000), 1 << 16).discard()
    put(sink, RECORDS)

    assert RECORDS == stored(Chain.open(sink.store, "ticks"))


@pytest.mark.parametrize("threads", [1, 4])
def test_row_groups_stay_in_order(tmp_path: Path, threads: int):
    """However many workers there are, records lie in the order in which they came."""
    sink, records = bound(FileStore(root=tmp_path), compress_threads=threads), trades(0, 20_000)
    put(sink, records, 1 << 16)

    assert pq.ParquetFile(path_of(tmp_path)).num_row_groups > 10
    assert records == stored(Chain.open(sink.store, "ticks"))


def test_very_large_and_empty_values(tmp_path: Path):
    """Values of 16 MB, JSON and not, among empty ones."""
    big = b"x" * (16 << 20)
    values = [b'"%s"' % big, b"", big, b'""', None, b'"%s"' % big[1:]]
    records = [Record(n, n, b"" if n % 2 else None, value) for n, value in enumerate(values)]
    chain = lake(tmp_path, records)

    assert records == stored(chain)


def test_a_batch_of_more_than_an_array_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A batch of a gibibyte becomes several arrays; here the limit is lower."""
    monkeypatch.setattr("headrace.formats.arrow._ARRAY_BYTES", 1000)

    assert trades(0, 100) == stored(lake(tmp_path, trades(0, 100)))


# ---- by the documentation alone -------------------------------------------------------------------------------------

FORMAT = Path(__file__).parent.parent / "docs" / "pages" / "format.md"


def test_the_documented_trailer(tmp_path: Path):
    """The reader that stands in the documentation finds the trailer, with nothing but the standard library."""
    (program,) = re.findall(r"```python\n([^`]*def parquet_trailer[^`]*)```", FORMAT.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    exec(program, found)
    lake(tmp_path, RECORDS)
    said = found["parquet_trailer"](path_of(tmp_path))

    assert ("ticks", 0, 0, 10, 8) == (said["stream"], said["partition"], said["start"], said["end"], said["records"])
    body = bytearray(path_of(tmp_path).read_bytes())
    for place, words in ((200, "rows are damaged"), (len(body) - 1500, "footer is damaged")):
        body[place] ^= 1
        path_of(tmp_path).write_bytes(body)
        with pytest.raises(AssertionError, match=words):
            found["parquet_trailer"](path_of(tmp_path))
        body[place] ^= 1

"""Objects that an earlier release wrote stay readable: the line and the trailer are a published format."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from headrace import envelope, trailer
from headrace.compression import TRAILER_BYTES, compression
from headrace.errors import MissingExtraError
from headrace.formats import Format, format_of
from headrace.formats.parquet import PLACEHOLDER, seal
from headrace.records import Batch, Partition, Record
from headrace.segment import Trailer

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if path.name.isdigit())
NEWEST = max(VERSIONS, key=int)

versions = pytest.mark.parametrize("version", VERSIONS)
names = pytest.mark.parametrize("name", ["gzip", "zstd"])
objects = pytest.mark.parametrize("name", ["gzip", "zstd", "parquet"])


def b64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def expected(version: str) -> list[Record]:
    return [
        Record(
            offset=row["offset"],
            timestamp_ms=row["timestamp_ms"],
            key=b64(row["key"]),
            value=b64(row["value"]),
            headers=tuple((name, b64(value)) for name, value in row["headers"]),
            timestamp_type=row["timestamp_type"],
        )
        for row in json.loads((HERE / version / "expected.json").read_text())["records"]
    ]


def segment(version: str, name: str) -> tuple[Format, bytes, Trailer]:
    try:
        kept = format_of("parquet", "zstd") if name == "parquet" else format_of("jsonl", name)
        kept.require()
    except MissingExtraError as exc:
        pytest.skip(str(exc))
    content = (HERE / version / f"segment.{kept.extension}").read_bytes()
    return kept, content, kept.trailer(content[-kept.seal_bytes(content) :], key=name)


@versions
@objects
def test_records(version, name):
    """Each record comes back to the byte."""
    kept, content, found = segment(version, name)
    batches = list(kept.batches(content, found.partition, 1, found.start))

    assert expected(version) == [record for batch in batches for record in batch.records()]
    assert (found.start, found.end) == (batches[0].start, batches[-1].end)


@versions
@objects
def test_lines(version, name):
    """Whatever the format, the records make the same lines."""
    kept, content, _ = segment(version, name)

    assert (HERE / version / "lines.jsonl").read_bytes() == b"".join(kept.lines(content))


@versions
@objects
def test_trailer(version, name):
    """The trailer says what it said, and its digest is that of the bytes before it."""
    kept, content, found = segment(version, name)
    fields = json.loads((HERE / version / "expected.json").read_text())["trailers"][name]

    assert Trailer(**fields | {"partition": Partition(**fields["partition"])}) == found
    assert hashlib.sha256(content[: -kept.seal_bytes(content)]).hexdigest() == found.digest
    assert kept.holds(content, found, key=name)


@versions
def test_duckdb(version):
    """A reader that is not ours sees each record once."""
    duckdb = pytest.importorskip("duckdb")
    lines = f"""read_json('{HERE / version}/segment.jsonl.gz', format='newline_delimited',
        columns={{'offset': 'BIGINT'}})"""
    for table in (lines, f"read_parquet('{HERE / version}/segment.parquet')"):
        found = duckdb.execute(f'select "offset" from {table} order by 1').fetchall()
        assert [record.offset for record in expected(version)] == [offset for (offset,) in found]


def test_lines_of_today():
    """Today's code writes the newest version's lines byte for byte; a change of the line is a new version."""
    batch = Batch.of(Partition("ticks", 0), expected(NEWEST), assignment=0)

    assert (HERE / NEWEST / "lines.jsonl").read_bytes() == envelope.encode(batch)


@names
def test_trailer_of_today(name):
    """Today's code writes the newest version's trailer byte for byte."""
    _, content, found = segment(NEWEST, name)

    assert content[-TRAILER_BYTES:] == trailer.encode(found, compression(name))


def test_footer_of_today():
    """Today's code puts the newest version's trailer into the footer that pyarrow wrote then, byte for byte."""
    kept, content, found = segment(NEWEST, "parquet")
    footer = content[-kept.seal_bytes(content) :]
    at = footer.find(b"headrace segment 1 ")
    bare = footer[:at] + PLACEHOLDER + footer[at + len(PLACEHOLDER) :]

    assert footer == seal(bare, found)

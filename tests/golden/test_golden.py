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
from headrace.records import Batch, Partition, Record
from headrace.segment import Trailer

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if path.name.isdigit())
NEWEST = max(VERSIONS, key=int)

versions = pytest.mark.parametrize("version", VERSIONS)
names = pytest.mark.parametrize("name", ["gzip", "zstd"])


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


def segment(version: str, name: str) -> tuple[bytes, Trailer]:
    try:
        codec = compression(name)
    except MissingExtraError as exc:
        pytest.skip(str(exc))
    content = (HERE / version / f"segment.{codec.extension}").read_bytes()
    return content, trailer.decode(content[-TRAILER_BYTES:], codec, key=name)


@versions
@names
def test_records(version, name):
    """Each record comes back to the byte."""
    content, found = segment(version, name)
    blocks = envelope.whole_lines(compression(name).decompress(content))
    batch = envelope.decode_batch(b"".join(blocks), found.partition, 1, found.start)

    assert expected(version) == list(batch.records())
    assert (found.start, found.end) == (batch.start, batch.end)


@versions
@names
def test_trailer(version, name):
    """The trailer says what it said, and its digest is that of the bytes before it."""
    content, found = segment(version, name)
    fields = json.loads((HERE / version / "expected.json").read_text())["trailers"][name]

    assert Trailer(**fields | {"partition": Partition(**fields["partition"])}) == found
    assert hashlib.sha256(content[:-TRAILER_BYTES]).hexdigest() == found.digest


@versions
def test_duckdb(version):
    """A reader that is not ours sees each record once."""
    duckdb = pytest.importorskip("duckdb")
    query = f"""select "offset" from read_json('{HERE / version}/segment.jsonl.gz', format='newline_delimited',
        columns={{'offset': 'BIGINT'}}) order by 1"""

    assert [record.offset for record in expected(version)] == [offset for (offset,) in duckdb.execute(query).fetchall()]


def test_lines_of_today():
    """Today's code writes the newest version's lines byte for byte; a change of the line is a new version."""
    batch = Batch.of(Partition("ticks", 0), expected(NEWEST), assignment=0)

    assert (HERE / NEWEST / "lines.jsonl").read_bytes() == envelope.encode(batch)


@names
def test_trailer_of_today(name):
    """Today's code writes the newest version's trailer byte for byte."""
    content, found = segment(NEWEST, name)

    assert content[-TRAILER_BYTES:] == trailer.encode(found, compression(name))

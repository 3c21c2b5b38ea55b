"""
Makes the golden files of the format that this version writes: ``python tests/golden/make.py``.

They are checked in once for each version of the format and never made again: an old release wrote them, every later one
must read them. gzip is made by zlib, Parquet by the pyarrow of that day. What is expected stands in ``expected.json``, with
all bytes as base64, so that it depends on nothing of the format.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path

import attrs

from headrace import envelope, trailer
from headrace.compression import Compression, Gzip, Zstd
from headrace.formats import Workers
from headrace.formats.arrow import Columns
from headrace.records import Batch, Partition, Record
from headrace.segment import Trailer

HERE = Path(__file__).parent
VERSION = "1"

RECORDS = [
    Record(42, 1_400_000_000_000, b"AAPL", b'{"symbol":"AAPL","price":92.2244,"size":100}'),
    Record(43, 1_400_000_000_001, b"AAPL", b'{ "white space" : [ 1 ,\t2.50 ] }'),
    Record(44, -1, None, None),
    Record(45, 0, b"", b"null"),
    Record(46, 0, b"", b""),
    Record(47, 0, b"\xff\x00", b"\x00\x00\x00\x00\x01avro"),
    Record(
        50,
        -(2**63),
        "città\r\n".encode(),
        '{"città":"東京 😀"}'.encode(),
        (("h", b"text"), ("h", None), ("h", b"\xff"), ("", b""), ("é", b'"\\')),
        "append",
    ),
    Record(51, 2**63 - 1, b"k", b'{"a":1}\n', timestamp_type="none"),
    Record(52, 0, b"k", b'{"a":"\\ud800"}'),
    Record(53, 0, b"k", b'{"a":"\\ud83d\\ude00\\u0000\\u2028"}'),
    Record(54, 0, b"k", b"1,2"),
    Record(55, 0, b"k", b"[1],[2"),
    Record(56, 0, b"k", b"NaN"),
    Record(57, 0, b"k", b'{"a":1,"a":2}'),
    Record(58, 0, b"k", b"[" * 100 + b"]" * 100),
    Record(59, 0, b"k", b"[" * 101 + b"]" * 101),
    Record(60, 0, b"k", b"9" * 299),
    Record(61, 0, b"k", b"9" * 300),
    Record(62, 0, b"k", b'{"a":1e400,"b":123456789012345678901234567890.10}'),
    Record(63, 0, b"k", b'"' + b"long " * 1000 + b'"'),
    Record(2**40, 0, b"k", b'"last"'),
]
PARTITION = Partition('ticks "é" \x01', 3)
HALVES = [Batch.of(PARTITION, half, assignment=0) for half in (RECORDS[:7], RECORDS[7:])]


def make(compression: Compression) -> tuple[bytes, Trailer]:
    body = compression.join([compression.block(envelope.encode(half)) for half in HALVES])
    found = said(hashlib.sha256(body).hexdigest())
    return body + trailer.encode(found, compression), found


def make_parquet() -> tuple[bytes, Trailer]:
    workers = Workers(1)
    columns = Columns("zstd", workers, 1)  # a row group for each half
    for half in HALVES:
        columns.add(half)
    found: list[Trailer] = []
    body = columns.finish(lambda digest: found.append(said(digest)) or found[0])
    workers.close()
    return body, found[0]


def said(digest: str) -> Trailer:
    return Trailer(
        dataset_id="0123456789abcdef0123456789abcdef",
        partition=PARTITION,
        start=40,
        end=RECORDS[-1].offset + 1,
        first=RECORDS[0].offset,
        records=len(RECORDS),
        min_ms=min(record.timestamp_ms for record in RECORDS),
        max_ms=max(record.timestamp_ms for record in RECORDS),
        digest=digest,
        leader_epoch=7,
        writer="golden",
    )


def b64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def main() -> None:
    folder = HERE / VERSION
    if folder.exists():
        sys.exit(f"{folder} is there already; golden files are made once")
    folder.mkdir()
    trailers = {}
    for compression in (Gzip(zlib), Zstd()):
        content, found = make(compression)
        (folder / f"segment.{compression.extension}").write_bytes(content)
        trailers[compression.name] = attrs.asdict(found)
    content, found = make_parquet()
    (folder / "segment.parquet").write_bytes(content)
    trailers["parquet"] = attrs.asdict(found)
    rows = [
        {
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "timestamp_type": record.timestamp_type,
            "key": b64(record.key),
            "headers": [[name, b64(value)] for name, value in record.headers],
            "value": b64(record.value),
        }
        for record in RECORDS
    ]
    (folder / "lines.jsonl").write_bytes(envelope.encode(Batch.of(PARTITION, RECORDS, assignment=0)))
    (folder / "expected.json").write_text(json.dumps({"trailers": trailers, "records": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

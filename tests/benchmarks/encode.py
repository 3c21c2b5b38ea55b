"""The envelope, one record to one line, and its columns; and what a whole segment of either costs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from material import ticks
from sides import Comparison, Goal, Side, Stopwatch

from headrace.envelope import encode
from headrace.formats import Workers, format_of
from headrace.formats.arrow import rows
from headrace.records import Batch, Partition, Record
from headrace.segment import Trailer

_BATCH_RECORDS = 1000
_SEGMENT_RECORDS = 100_000


@contextmanager
def lines(_folder: Path, records: int) -> Iterator[list[Comparison]]:
    """Values of 84 bytes and of 1 kB, against Python's json; real trades, as whole segments."""
    yield [*(_comparison(size, records) for size in (84, 1000)), _segments(records)]


def _comparison(size: int, records: int) -> Comparison:
    head = '{"symbol":"AAPL","price":92.2314,"note":"'
    value = head + "x" * (size - len(head) - 2) + '"}'
    batch = Batch.of(
        Partition("ticks", 0),
        [Record(offset, 1_401_975_000_000 + offset, b"AAPL", value.encode()) for offset in range(_BATCH_RECORDS)],
        assignment=1,
    )
    turns = max(1, records // _BATCH_RECORDS)

    def ours(_: Stopwatch) -> int:
        for _turn in itertools.repeat(None, turns):
            encode(batch)
        return turns * _BATCH_RECORDS

    def by_json(_: Stopwatch) -> int:
        few = max(1, turns // 10)
        for _turn in itertools.repeat(None, few):
            for record in batch.records():
                fields = {
                    "offset": record.offset,
                    "timestamp_ms": record.timestamp_ms,
                    "key": (record.key or b"").decode(),
                }
                json.dumps({**fields, "headers": None, "value": json.loads(record.value or b"")}).encode()
        return few * _BATCH_RECORDS

    def columns(_: Stopwatch) -> int:
        for _turn in itertools.repeat(None, turns):
            rows(batch)
        return turns * _BATCH_RECORDS

    return Comparison(
        f"encode {size} B",
        [Side("Python's json", by_json), Side("headrace.envelope", ours), Side("columns of Parquet", columns)],
        [Goal("headrace.envelope", "Python's json"), Goal("columns of Parquet", "headrace.envelope")],
        {"value_bytes": len(value)},
    )


def _segments(records: int) -> Comparison:
    """Encode and compress real trades, in memory."""
    tape = itertools.cycle(ticks())
    batches = [
        Batch.of(
            Partition("ticks", 0),
            [attrs.evolve(next(tape), offset=offset) for offset in range(begin, begin + _BATCH_RECORDS)],
            assignment=1,
        )
        for begin in range(0, min(records, _SEGMENT_RECORDS), _BATCH_RECORDS)
    ]
    turns, count = max(1, records // _SEGMENT_RECORDS), sum(map(len, batches))
    sizes: dict[str, float] = {}

    def side(name: str, compression: str) -> Side:
        def run(_: Stopwatch) -> int:
            for _turn in itertools.repeat(None, turns):
                workers = Workers(1)
                content = format_of(name, compression).content(workers, 4 << 20)
                for batch in batches:
                    content.add(batch)
                body = content.finish(
                    lambda digest: Trailer("ab" * 16, Partition("ticks", 0), 0, count, 0, count, 0, 0, digest, None, "")
                )
                workers.close()
                sizes[f"{name} {compression}, bytes a record"] = round(len(body) / count, 2)
            return turns * count

        return Side(f"{name}, {compression}", run)

    kinds = [("jsonl", "gzip"), ("jsonl", "zstd"), ("parquet", "zstd"), ("parquet", "snappy")]
    return Comparison(
        "segments of trades",
        [side(*kind) for kind in kinds],
        [Goal(f"{name}, {compression}", "jsonl, gzip") for name, compression in kinds[1:]],
        sizes,
    )

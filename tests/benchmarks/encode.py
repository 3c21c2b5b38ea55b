"""The envelope: one record to one line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sides import Comparison, Goal, Side, Stopwatch

from headrace.envelope import encode
from headrace.records import Batch, Partition, Record

_BATCH_RECORDS = 1000


@contextmanager
def lines(_folder: Path, records: int) -> Iterator[list[Comparison]]:
    """Values of 84 bytes and of 1 kB, against Python's json."""
    yield [_comparison(size, records) for size in (84, 1000)]


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

    return Comparison(
        f"encode {size} B",
        [Side("Python's json", by_json), Side("headrace.envelope", ours)],
        [Goal("headrace.envelope", "Python's json")],
        {"value_bytes": len(value)},
    )

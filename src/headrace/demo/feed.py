"""What the demo publishes, written as files first: real bars and trades, and a few records that break their contract."""

from __future__ import annotations

import heapq
from pathlib import Path

import attrs

from headrace.demo.market import bars, trades

POISON = (
    b'{"symbol":"BAC","time":"2013-10-07T14:00:00.000Z","price":"13.95","size":100,"exchange":"P","conditions":"0","suspicious":false}',
    b'{"symbol":"IBM","time":"2013-10-07T14:00:00.000Z","price":181.86,"size":-100,"exchange":"P","conditions":"0","suspicious":false}',
    b'{"symbol":"IBM","time":"yesterday","price":181.86,"size":100,"exchange":"P","conditions":"0","suspicious":false}',
    b'{"symbol":"BAC","price":13.95',
    b"\xff\xfe these bytes are no text",
)
"""A price in quotes, a size below 0, a time that is none, JSON that ends too early, bytes that are no UTF-8."""


@attrs.frozen
class Feed:
    """
    A stream to publish.

    Attributes:
        stream: Its name, which becomes the topic's.

        path: A file of JSON lines.

        records: How many.

        poison: How many of these break the contract, on purpose.
    """

    stream: str
    path: Path
    records: int
    poison: int


def write_feeds(folder: Path) -> list[Feed]:
    """Write the AAPL bars, and the IBM and BAC trades in the order of their times with the poison spread among them."""
    folder.mkdir(parents=True, exist_ok=True)
    bar_lines = [record.value or b"" for record in bars("AAPL")]
    tape = heapq.merge(trades("BAC"), trades("IBM"), key=lambda record: record.timestamp_ms)
    trade_lines = [record.value or b"" for record in tape]
    step = len(trade_lines) // (len(POISON) + 1)
    for i, poison in enumerate(POISON, start=1):
        trade_lines.insert(i * step, poison)
    return [
        _written("bars", folder / "bars.jsonl", bar_lines, 0),
        _written("trades", folder / "trades.jsonl", trade_lines, len(POISON)),
    ]


def _written(stream: str, path: Path, lines: list[bytes], poison: int) -> Feed:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return Feed(stream, path, len(lines), poison)

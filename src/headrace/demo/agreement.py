"""
Holds bars that the warehouse makes of ticks against the vendor's own: ``python -m headrace.demo.agreement [FOLDER]``.

Trades and bars go the whole way, into a lake and from there into DuckDB under their contracts; then the two tables are
compared, minute by minute. Without a folder it is the packaged session of two symbols; a folder is laid out like `data` beside
this file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

import attrs
import duckdb

from headrace.chain import Chain
from headrace.demo import market
from headrace.demo.contracts import Bar, Trade
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.records import Record
from headrace.registry import Registry

_SEGMENT_RECORDS = 50_000
_NEW_YORK = "INTERVAL 4 HOURS"  # behind UTC in every session, as in `headrace.demo.market`
AUCTIONS = ("09:30", "09:31", "15:59", "16:00", "16:01")
"""Minutes in which the opening and the closing auction are reported, in New York."""


@attrs.frozen
class Agreement:
    """
    In how many minutes both are equal, to the last digit.

    Attributes:
        symbol: Of which symbol.

        day: Of which session.

        trades: Trades that the warehouse made bars of.

        minutes: Bars of the vendor.

        open: Minutes of equal open; the next four likewise.

        whole: Minutes in which all five are equal.

        quiet: Bars of the vendor outside the minutes of the auctions.

        quiet_whole: Of these, those in which all five are equal.

        missing: Minutes of which only the vendor has a bar.

        added: Minutes of which only the warehouse has one.
    """

    symbol: str
    day: str
    trades: int
    minutes: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    whole: int
    quiet: int
    quiet_whole: int
    missing: int
    added: int


def load(folder: Path, data: Traversable | None = None, kept: type = Trade) -> Path:
    """Load trades (by contract *kept*) and bars of every symbol with trades; return the DuckDB file."""
    known = market.symbols("tick", data)
    database = folder / "silver.duckdb"
    for stream, contract, records in (
        ("trades", kept, (r for symbol in known for r in market.trades(symbol, data))),
        ("bars", Bar, (r for symbol in known for r in market.bars(symbol, data))),
    ):
        _load(folder, stream, contract, records, database)
    return database


def _load(folder: Path, stream: str, contract: type, records: Iterator[Record], database: Path) -> None:
    registry = Registry.discover()
    file = folder / f"{stream}.jsonl"
    with file.open("wb") as lines:
        lines.writelines((record.value or b"") + b"\n" for record in records)
    source, sink = registry.source(f"jsonl://{file}?key=symbol&timestamp=time"), registry.sink(f"file://{folder}/lake")
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=_SEGMENT_RECORDS)).run()
    chain = Chain.open(registry.store(f"file://{folder}/lake"), stream)
    Load(chain=chain, loader=registry.loader(f"duckdb://{database}?table={stream}", contract)).run()


def compare(database: Path) -> list[Agreement]:
    """Compare what `load` left, by symbol and session."""
    values = ("open", "high", "low", "close", "volume")
    day = f"strftime(time - {_NEW_YORK}, '%Y-%m-%d')"
    quiet = f"strftime(time - {_NEW_YORK}, '%H:%M') NOT IN {AUCTIONS}"
    equal = [f"coalesce(o.{name} = b.{name}, false)" for name in values]
    whole = " AND ".join(equal)
    counts = [f"count(b.open) FILTER (WHERE {e})" for e in (*equal, whole, quiet, f"({quiet}) AND {whole}")]
    with duckdb.connect(str(database), read_only=True) as connection:
        found = connection.execute(
            f"SELECT symbol, {day} AS day, sum(coalesce(o.trades, 0))::BIGINT, count(b.open), {', '.join(counts)},"
            " count(*) FILTER (WHERE o.open IS NULL), count(*) FILTER (WHERE b.open IS NULL)"
            " FROM bars_current b FULL JOIN trades_ohlcv_1m o USING (symbol, time) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return [Agreement(*row) for row in found]


def table(found: Sequence[Agreement]) -> str:
    """Write it as a table in Markdown: shares of the vendor's minutes in per cent, cut off, so that 100 means all."""
    names = ("open", "high", "low", "close", "volume", "all five")
    lines = [
        f"| symbol | day | trades | minutes | {' | '.join(names)} | all five, without auctions |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    sums = attrs.evolve(_sum(found), symbol="all", day="")
    for a in (*found, sums):
        shares = [_share(n, a.minutes) for n in (a.open, a.high, a.low, a.close, a.volume, a.whole)]
        shares.append(f"{_share(a.quiet_whole, a.quiet)} ({a.quiet - a.quiet_whole} of {a.quiet:,} differ)")
        lines.append(f"| {a.symbol} | {a.day} | {a.trades:,} | {a.minutes:,} | {' | '.join(shares)} |")
    lines.append("")
    lines.append(f"Bars that only one side has: {sums.missing} the vendor, {sums.added} the warehouse.")
    return "\n".join(lines)


def _sum(found: Sequence[Agreement]) -> Agreement:
    numbers = [sum(column) for column in zip(*(attrs.astuple(a)[2:] for a in found), strict=True)]
    return Agreement("", "", *numbers)


def _share(part: int, of: int) -> str:
    return "100" if part == of else f"{part * 10_000 // of / 100:.2f}"


def main(arguments: Sequence[str]) -> None:
    """Load, compare, print."""
    data = Path(arguments[0]) if arguments else None
    with tempfile.TemporaryDirectory(prefix="headrace-agreement-") as folder:
        print(table(compare(load(Path(folder), data))))


if __name__ == "__main__":
    main(sys.argv[1:])

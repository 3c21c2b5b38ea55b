"""The packaged market data: the vendor's own files, read without losing a digit."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from headrace.demo import market
from headrace.errors import ConfigError
from headrace.records import Record

PACKAGED = files("headrace.demo").joinpath("data")
SHARED = Path(__file__).parent.parent.parent / "shared/data/lean"
SESSIONS = [
    ("minute", "AAPL", "20140605"),
    ("minute", "AAPL", "20140606"),
    ("minute", "AAPL", "20140609"),
    ("minute", "BAC", "20131007"),
    ("minute", "IBM", "20131007"),
    ("tick", "BAC", "20131007"),
    ("tick", "IBM", "20131007"),
]


def published(kind: str, symbol: str) -> Iterator[tuple[str, list[str]]]:
    """The rows as they were published, each with its day: read by other means than the code under test."""
    for folder, of, day in SESSIONS:
        if (folder, of) == (kind, symbol):
            packed = PACKAGED.joinpath(f"{kind}/{symbol.lower()}/{day}_trade.zip").read_bytes()
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                text = archive.read(archive.namelist()[0]).decode()
            yield from ((day, row) for row in csv.reader(text.splitlines()))


def read(record: Record) -> dict[str, object]:
    assert record.value is not None
    return json.loads(record.value, parse_float=Decimal)


def records(kind: str, symbol: str) -> list[Record]:
    return list(market.bars(symbol) if kind == "minute" else market.trades(symbol))


@pytest.mark.parametrize(("kind", "symbol", "count"), [
    ("minute", "AAPL", 2303),
    ("minute", "BAC", 595),
    ("minute", "IBM", 453),
    ("tick", "BAC", 88172),
    ("tick", "IBM", 24293),
])  # fmt: skip
def test_counts(kind: str, symbol: str, count: int):
    """Every published row is a record, numbered from 0."""
    found = records(kind, symbol)
    assert count == len(found) == len(list(published(kind, symbol)))
    assert list(range(count)) == [r.offset for r in found]


@pytest.mark.parametrize("symbol", ["AAPL", "BAC", "IBM"])
def test_bars_are_exact(symbol: str):
    """Prices, times and volumes are the published ones, to the last digit."""
    for (_, row), record in zip(published("minute", symbol), market.bars(symbol), strict=True):
        bar = read(record)
        assert ["symbol", "time", "open", "high", "low", "close", "volume"] == list(bar)
        prices = [Decimal(price) / 10_000 for price in row[1:5]]
        assert [symbol, *prices, int(row[5])] == [
            bar["symbol"],
            *(bar[n] for n in ("open", "high", "low", "close", "volume")),
        ]
        assert symbol.encode() == record.key


@pytest.mark.parametrize("symbol", ["BAC", "IBM"])
def test_trades_are_exact(symbol: str):
    """Prices, sizes, exchanges, conditions and flags are the published ones."""
    for (_, row), record in zip(published("tick", symbol), market.trades(symbol), strict=True):
        expected = {
            "symbol": symbol,
            "time": read(record)["time"],
            "price": Decimal(row[1]) / 10_000,
            "size": int(row[2]),
            "exchange": row[3],
            "conditions": row[4],
            "suspicious": row[5] == "1",
        }
        assert list(expected.items()) == list(read(record).items())


@pytest.mark.parametrize(("kind", "symbol"), sorted({(kind, symbol) for kind, symbol, _ in SESSIONS}))
def test_times(kind: str, symbol: str):
    """The text and the timestamp of a record are the same moment: the published one, in UTC."""
    try:
        zone = ZoneInfo("America/New_York")
    except ZoneInfoNotFoundError:
        pytest.skip("this machine has no time zones: pip install tzdata")
    for (day, row), record in zip(published(kind, symbol), records(kind, symbol), strict=True):
        since_midnight_s, ms = divmod(int(row[0]), 1000)
        hour, rest = divmod(since_midnight_s, 3600)
        local = datetime.strptime(day, "%Y%m%d").replace(
            hour=hour, minute=rest // 60, second=rest % 60, microsecond=ms * 1000, tzinfo=zone
        )
        assert local == datetime.fromisoformat(str(read(record)["time"]))
        assert int(local.astimezone(UTC).timestamp()) * 1000 + ms == record.timestamp_ms


def test_looks():
    """The first records, as a reader of the bronze lines sees them."""
    assert next(market.bars()).value == (
        b'{"symbol":"AAPL","time":"2014-06-05T08:15:00Z","open":644.80,"high":644.80,"low":644.80,"close":644.80,"volume":90}'
    )
    assert next(market.trades()).value == (
        b'{"symbol":"IBM","time":"2013-10-07T08:00:30.270Z","price":181.52,"size":283,"exchange":"P",'
        b'"conditions":"20002020","suspicious":false}'
    )


@pytest.mark.parametrize(
    ("price", "text"), [("1", "0.0001"), ("0", "0.00"), ("139450", "13.945"), ("6448000", "644.80")]
)
def test_prices(price: str, text: str):
    """A price has no digit too few, and two at least."""
    assert text == market._price(price)


@pytest.mark.parametrize("symbol", ["BAC", "IBM"])
def test_volume_agrees_with_the_vendor(symbol: str):
    """
    The trades add up to the volume of the vendor's own bars in at least 99 % of the minutes.

    That holds only when trades that repeat another one exactly are counted: taken out by content they leave most minutes
    short, which is why a record is known by its place and never by its content.
    """
    volume: dict[int, int] = {r.timestamp_ms: int(str(read(r)["volume"])) for r in market.bars(symbol)}
    rows = list(market.trades(symbol))

    def agreement(trades: list[Record]) -> float:
        traded: dict[int, int] = defaultdict(int)
        for trade in trades:
            traded[trade.timestamp_ms // 60_000 * 60_000] += int(str(read(trade)["size"]))
        return sum(traded[minute] == v for minute, v in volume.items()) / len(volume)

    assert agreement(rows) >= 0.99
    assert agreement(list({r.value: r for r in rows}.values())) < 0.4


def test_repeated_trades_are_kept():
    """Trades that are equal in every field are trades of their own."""
    assert max(Counter(r.value for r in market.trades("BAC")).values()) > 1


def test_split():
    """AAPL's 7:1 split of 2014-06-09 is in the data as it was: the price falls to a seventh within its first bar."""
    bar = next(read(r) for r in market.bars() if str(read(r)["time"]).startswith("2014-06-09"))
    assert ("645.57", "92.42") == (str(bar["open"]), str(bar["close"]))


def test_symbols():
    """What is packaged is listed, and asking for anything else says so."""
    assert {"minute": ["AAPL", "BAC", "IBM"], "tick": ["BAC", "IBM"]} == {
        k: market.symbols(k) for k in ("minute", "tick")
    }
    with pytest.raises(ConfigError, match="found symbol 'TSLA', expected one of BAC, IBM"):
        next(market.trades("TSLA"))


def test_files_are_as_published():
    """The packaged files are the published ones, untouched."""
    if not SHARED.is_dir():
        pytest.skip("the whole set of market data is not beside this checkout")
    for kind, symbol, day in SESSIONS:
        name = f"{kind}/{symbol.lower()}/{day}_trade.zip"
        assert (SHARED / name).read_bytes() == PACKAGED.joinpath(name).read_bytes()

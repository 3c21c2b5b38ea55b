"""Real market data as records: AAPL minute bars, IBM and BAC trades (NOTICE says where they come from)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import TextIOWrapper
from typing import Literal

from headrace.errors import ConfigError
from headrace.records import Record

Kind = Literal["minute", "tick"]

_DAY_MS = 86_400_000
_UTC_MINUS_NEW_YORK_MS = 4 * 3_600_000  # every packaged session lies in daylight saving time


def symbols(kind: Kind, data: Traversable | None = None) -> list[str]:
    """Return the symbols of which there are minute bars, or trades (ticks); in *data*, or what is packaged."""
    return sorted(folder.name.upper() for folder in (data or _data()).joinpath(kind).iterdir() if folder.is_dir())


def bars(symbol: str = "AAPL", data: Traversable | None = None) -> Iterator[Record]:
    """
    Yield the minute bars of all sessions, in order; `time` is where the minute begins.

    The value of a record is ``{"symbol":"AAPL","time":"2014-06-05T13:30:00Z","open":646.20,"high":…,"low":…,"close":…,
    "volume":1234}``; prices are exact decimals. The key is the symbol, the offset counts from 0.

    Raises:
        ConfigError: There are none of this symbol.
    """
    for offset, (midnight_ms, row) in enumerate(_rows("minute", symbol, "trade", data)):
        ms, first, high, low, last, volume = row.split(",")
        timestamp_ms = midnight_ms + int(ms)
        value = (
            f'{{"symbol":"{symbol}","time":"{_time(timestamp_ms)[:19]}Z","open":{_price(first)},"high":{_price(high)},'
            f'"low":{_price(low)},"close":{_price(last)},"volume":{int(volume)}}}'
        )
        yield Record(offset, timestamp_ms, symbol.encode(), value.encode())


def trades(symbol: str = "IBM", data: Traversable | None = None) -> Iterator[Record]:
    """
    Yield every trade of all sessions in the order of the tape, repeated ones too: each was a trade of its own.

    The value of a record is ``{"symbol":"IBM","time":"2013-10-07T13:30:00.123Z","price":181.86,"size":100,"exchange":"P",
    "conditions":"20002020","suspicious":false}``; the price is an exact decimal, conditions are the vendor's set of bits in
    hexadecimal. The key is the symbol, the offset counts from 0.

    Raises:
        ConfigError: There are none of this symbol.
    """
    for offset, (midnight_ms, row) in enumerate(_rows("tick", symbol, "trade", data)):
        ms, price, size, exchange, conditions, suspicious = row.split(",")
        timestamp_ms = midnight_ms + int(ms)
        value = (
            f'{{"symbol":"{symbol}","time":"{_time(timestamp_ms)}","price":{_price(price)},"size":{int(size)},'
            f'"exchange":"{exchange}","conditions":"{conditions}","suspicious":{"true" if suspicious == "1" else "false"}}}'
        )
        yield Record(offset, timestamp_ms, symbol.encode(), value.encode())


def quotes(symbol: str, data: Traversable) -> Iterator[Record]:
    """
    Yield every quote of all sessions in the order of the tape; the vendor writes one side a row, and the other one is null.

    Otherwise as `trades`. None are packaged, so the folder must be named.
    """
    for offset, (midnight_ms, row) in enumerate(_rows("tick", symbol, "quote", data)):
        ms, *sides, exchange, conditions, suspicious = row.split(",")
        timestamp_ms = midnight_ms + int(ms)
        found = [int(number or 0) for number in sides]  # 0 stands for a side that is not there
        bid, ask = (
            (_price(str(price)), str(size)) if price else ("null", "null") for price, size in (found[:2], found[2:])
        )
        value = (
            f'{{"symbol":"{symbol}","time":"{_time(timestamp_ms)}","bid_price":{bid[0]},"bid_size":{bid[1]},'
            f'"ask_price":{ask[0]},"ask_size":{ask[1]},"exchange":"{exchange}","conditions":"{conditions}",'
            f'"suspicious":{"true" if suspicious == "1" else "false"}}}'
        )
        yield Record(offset, timestamp_ms, symbol.encode(), value.encode())


def _data() -> Traversable:
    return files("headrace.demo").joinpath("data")


def _rows(kind: Kind, symbol: str, what: str, data: Traversable | None) -> Iterator[tuple[int, str]]:
    """The rows of all sessions, each with its day's midnight in New York, in milliseconds since the epoch."""
    known = symbols(kind, data)
    if symbol not in known:
        raise ConfigError(f"found symbol {symbol!r}, expected one of {', '.join(known)}: no other {kind} data is there")
    sessions = (
        f for f in (data or _data()).joinpath(kind, symbol.lower()).iterdir() if f.name.endswith(f"_{what}.zip")
    )
    for session in sorted(sessions, key=lambda f: f.name):
        day = date.fromisoformat(session.name.partition("_")[0])
        midnight_ms = (day - date(1970, 1, 1)) // timedelta(milliseconds=1) + _UTC_MINUS_NEW_YORK_MS
        with session.open("rb") as packed, zipfile.ZipFile(packed) as archive:
            (name,) = archive.namelist()
            with TextIOWrapper(archive.open(name), encoding="ascii") as lines:
                for line in lines:
                    yield midnight_ms, line.rstrip()


def _price(ten_thousandths: str) -> str:
    """``1815200`` is 181.52: no digit is lost, and at least two are shown."""
    whole, part = divmod(int(ten_thousandths), 10_000)
    digits = f"{part:04d}"
    return f"{whole}.{digits[:2]}{digits[2:].rstrip('0')}"


def _time(timestamp_ms: int) -> str:
    seconds, ms = divmod(timestamp_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"

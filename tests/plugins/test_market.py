"""Ready contracts for market data, and the bars that a warehouse makes of trades."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import duckdb
import pytest

from headrace.bars import COLUMNS, Bars
from headrace.chain import Chain
from headrace.contract import Contract, column, contract
from headrace.demo import market as tape
from headrace.demo.contracts import Trade as DemoTrade
from headrace.documented import comments
from headrace.errors import ConfigError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market import Bar, Quote, Trade
from headrace.registry import Registry
from headrace.rows import Rejected, row

READY = [Trade, Quote, Bar]


def trade(**other: object) -> bytes:
    value = {"symbol": "A", "time": "2024-01-02T14:30:00Z", "price": 1.5, "size": 100, **other}
    return json.dumps(value).encode()


def load(folder: Path, kept: type, values: Iterable[bytes], records: int = 2) -> duckdb.DuckDBPyConnection:
    """Load values through a lake with segments of a few records, and open what came of them."""
    (folder / "trades.jsonl").write_bytes(b"\n".join(values) + b"\n")
    source, store = Registry.discover().source(f"jsonl://{folder}/trades.jsonl"), FileStore(root=folder / "lake")
    Pipeline(source=source, sink=LakeSink(store=store), flush=FlushPolicy(records=records), until_end=True).run()
    loader = DuckDBLoader(database=folder / "w.duckdb", target="trades", contract=kept)
    Load(chain=Chain.open(store, "trades"), loader=loader).run()
    return duckdb.connect(str(folder / "w.duckdb"), read_only=True)


def refused(kept: type, value: bytes) -> tuple[str, str] | None:
    found = row(Contract.of(kept), value)
    return (found.column, found.reason) if isinstance(found, Rejected) else None


# ---- contracts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [*READY, DemoTrade], ids=["trade", "quote", "bar", "demo"])
def test_every_column_is_documented(kept: type):
    """A contract's docstring says what a row is, and of each column what it holds; it names no other."""
    found = Contract.of(kept)
    assert found.doc
    assert "Attributes" not in found.doc
    assert [] == [c.name for c in found.columns if not c.comment]
    assert set() == comments(kept.__doc__ or "")[1].keys() - {c.name for c in found.columns}


def test_demo_data_keep_them():
    """Each packaged bar and trade is a row, with all its digits."""
    [bar] = [r for r in tape.bars("AAPL") if r.offset == 0]
    assert bar.value is not None
    found = row(Contract.of(Bar), bar.value)
    assert not isinstance(found, Rejected)
    value = json.loads(bar.value, parse_float=Decimal)
    assert [value[n] for n in ("open", "high", "low", "close", "volume")] == [Decimal(c or "") for c in found[2:-1]]


@pytest.mark.parametrize(("other", "column_", "reason"), [
    ({"price": 0}, "price", "below 0.000001"),
    ({"price": 1.0000001}, "price", "more than 6 digits behind the point"),
    ({"size": -1}, "size", "below 0.000001"),
    ({"symbol": None}, "symbol", "missing"),
    ({"time": "2024-01-02T14:30:00"}, "time", "not an ISO-8601 time with its zone"),
])  # fmt: skip
def test_trade_refuses(other: dict[str, object], column_: str, reason: str):
    """What cannot be a trade is refused by name."""
    assert (column_, reason) == refused(Trade, trade(**other))


def test_quote_with_one_side():
    """The side that is absent is NULL; a price of 0 in its place is refused."""
    value = {"symbol": "A", "time": "2024-01-02T14:30:00Z", "bid_price": 13.8, "bid_size": 1000}
    found = row(Contract.of(Quote), json.dumps(value).encode())
    expected = ["A", "2024-01-02 14:30:00.000000000", "13.800000", "1000.000000", None, None, None, None, None]
    assert expected == found
    assert ("ask_price", "below 0.000001") == refused(Quote, json.dumps({**value, "ask_price": 0}).encode())


def test_bar_out_of_order():
    """A bar whose close is above its high is refused."""
    value = {"symbol": "A", "time": "2024-01-02T14:30:00Z", "open": 2, "high": 3, "low": 1, "close": 4, "volume": 9}
    assert ("high", "below close") == refused(Bar, json.dumps(value).encode())


# ---- what makes bars ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bars", "message"), [
    (Bars(by=("venue",)), "bars name 'venue', and there is no such column; there are symbol, time, price, size"),
    (Bars(by=("price",)), "bars name price, which is decimal, expected text or integer or boolean"),
    (Bars(time="symbol"), "bars name symbol, which is text, expected timestamp"),
    (Bars(price="time"), "bars name time, which is timestamp, expected decimal or integer"),
    (Bars(without=[("symbol", ())]), r"found \('symbol', \(\)\), expected a column and its values"),
    (Bars(without=[("symbol", (1,))]), "bars look for 1 in column symbol, which never has it"),
    (Bars(unpriced="symbol"), "found 'symbol', expected a column and its values"),
])  # fmt: skip
def test_wrong_bars(bars: Bars, message: str):
    """What cannot make bars is told where it is written."""
    with pytest.raises(ConfigError, match=message):

        @contract(version=1, bars=bars)
        class _Wrong:
            symbol: str
            time: datetime
            price: Decimal = column(precision=18, scale=6)
            size: int


def test_too_many_digits():
    """The product of price and size must be exact."""
    with pytest.raises(ConfigError, match="whose product may have 39 digits, expected at most 38"):

        @contract(version=1, bars=Bars())
        class _Wrong:
            symbol: str
            time: datetime
            price: Decimal = column(precision=20, scale=6)
            size: int


def test_own_column_of_a_bar():
    """A bar cannot be of something that is named like what it holds."""
    with pytest.raises(ConfigError, match="bars by 'volume', which is a bar's own column"):

        @contract(version=1, bars=Bars(by=("volume",)))
        class _Wrong:
            volume: str
            time: datetime
            price: Decimal = column(precision=18, scale=6)
            size: int


# ---- the view -------------------------------------------------------------------------------------------------


def test_bars(tmp_path: Path):
    """Open and close go by time, then by place in the log; volume, turnover and number are of all trades, vwap is exact."""
    values = [
        trade(time="2024-01-02T14:30:59.999999999Z", price=4, size=1),
        trade(time="2024-01-02T14:30:00.000000001Z", price=3, size=0.5),
        trade(time="2024-01-02T14:30:00.000000001Z", price=2, size=0.25),
        trade(time="2024-01-02T14:30:59.999999999Z", price=3.5, size=1.25),
        trade(time="2024-01-02T14:31:00Z", price=7, size=3),
        trade(time="2024-01-02T14:30:30Z", price=900, size=5, suspicious=True),
        trade(time="2024-01-02T14:30:30Z", price="x"),
    ]
    with load(tmp_path, Trade, values) as connection:
        found = connection.execute("SELECT * EXCLUDE (time) FROM trades_ohlcv_1m ORDER BY time").fetchall()
        minutes = connection.execute("SELECT time FROM trades_ohlcv_1m ORDER BY time").fetchall()
    turnover = Decimal("1.5") + Decimal("0.5") + 4 + Decimal("4.375")
    vwap = (turnover / 3).quantize(Decimal("0.000001"), ROUND_HALF_UP)
    assert [("A", 3, 4, 2, Decimal("3.5"), 3, turnover, vwap, 4), ("A", 7, 7, 7, 7, 3, 21, 7, 1)] == found
    assert [(datetime(2024, 1, 2, 14, 30 + n, tzinfo=UTC).replace(tzinfo=None),) for n in range(2)] == minutes


@contract(version=1, bars=Bars(size="lots", unpriced=("conditions", ("B", "it's"))))
class Lot:
    """Sizes in whole numbers, and conditions that set no price."""

    symbol: str
    time: datetime
    price: Decimal = column(precision=12, scale=2)
    lots: int
    conditions: str | None


def test_unpriced(tmp_path: Path):
    """Trades that set no price count for the volume; where a minute has no others, they do set it."""
    values = [
        trade(time="2024-01-02T14:30:00Z", price=9, lots=1, conditions="B"),
        trade(time="2024-01-02T14:30:01Z", price=2, lots=1),
        trade(time="2024-01-02T14:30:02Z", price=1, lots=1, conditions="it's"),
        trade(time="2024-01-02T14:31:00Z", price=5, lots=2, conditions="B"),
    ]
    with load(tmp_path, Lot, values) as connection:
        found = connection.execute(
            "SELECT open, high, low, close, volume, vwap, trades FROM trades_ohlcv_1m ORDER BY time"
        ).fetchall()
    assert [(2, 2, 2, 2, 3, 4, 3), (5, 5, 5, 5, 2, 5, 1)] == found


def test_vwap_is_exact(tmp_path: Path):
    """What a double would round is right to the last digit, a half is rounded up."""
    chance = random.Random(4)
    prices = [chance.randrange(1, 10**12) for _ in range(300)]
    sizes = [chance.choice([1, 2, 3, 7, 10**11 + chance.randrange(10**6)]) for _ in prices]
    values = [
        f'{{"symbol":"A","time":"2024-01-02T14:{i % 60:02d}:00Z","price":{Decimal(p) / 10**6:f},"size":{s}}}'.encode()
        for i, (p, s) in enumerate(zip(prices, sizes, strict=True))
    ]
    with load(tmp_path, Trade, values, 100) as connection:
        found = connection.execute("SELECT turnover, vwap FROM trades_ohlcv_1m ORDER BY time").fetchall()
    for minute, (turnover, vwap) in enumerate(found):
        of = range(minute, len(prices), 60)
        millionths, volume = sum(prices[i] * sizes[i] for i in of), sum(sizes[i] for i in of)
        assert Decimal(millionths).scaleb(-6) == turnover
        assert Decimal((2 * millionths + volume) // (2 * volume)).scaleb(-6) == vwap


def test_comments(tmp_path: Path):
    """Table, view and each of their columns say in the catalogue what they are."""
    with load(tmp_path, Trade, [trade()]) as connection:
        of = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'trades'"
                " AND NOT starts_with(column_name, '_')"
            ).fetchall()
        )
        bars = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'trades_ohlcv_1m'"
            ).fetchall()
        )
        about = connection.execute("SELECT comment FROM duckdb_views() WHERE view_name = 'trades_ohlcv_1m'").fetchall()
    assert comments(Trade.__doc__ or "")[1] == of
    assert {"symbol": "What was traded.", **COLUMNS} == bars
    assert [("One-minute bars of trades, made by headrace from contract Trade.",)] == about


def test_view_follows_the_contract(tmp_path: Path):
    """Other bars in the contract make another view at the next load; the same ones leave it alone, an older contract too."""
    values = [trade(suspicious=True, price=9), trade(price=2)]

    def again(version: int, bars: Bars) -> str:
        @contract(version=version, bars=bars)
        class Other(Trade):
            """As it is now."""

        loader = DuckDBLoader(database=tmp_path / "w.duckdb", target="trades", contract=Other)
        with loader._connected() as connection:
            [(high,)] = connection.execute("SELECT high FROM trades_ohlcv_1m").fetchall()
            return str(int(high))

    load(tmp_path, Trade, values).close()
    assert "2" == again(1, Bars(without=[("suspicious", (True,))]))
    assert "9" == again(1, Bars())
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        connection.execute("UPDATE headrace_lock SET contract_version = 2")
    assert "9" == again(1, Bars(without=[("suspicious", (True,))]))
    assert "2" == again(2, Bars(without=[("suspicious", (True,))]))


def test_no_bars(tmp_path: Path):
    """A contract that names no bars gets no view of them."""
    value = {"symbol": "A", "time": "2024-01-02T14:30:00Z", "bid_price": 13.8}
    with load(tmp_path, Quote, [json.dumps(value).encode()]) as connection:
        assert [] == connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name LIKE '%ohlcv%'").fetchall()


@contract(version=1, key=("id",), deleted=("op", ("cancel",)), bars=Bars())
class Corrected:
    """Trades that are corrected and cancelled afterwards."""

    id: int
    op: str | None
    symbol: str
    time: datetime
    price: Decimal = column(precision=18, scale=6)
    size: int


def test_bars_of_what_is_there_now(tmp_path: Path):
    """Where a key exists, bars are of the newest row of each key; a trade that was cancelled is in none."""
    values = [trade(id=1, price=1), trade(id=2, price=9), trade(id=3, price=5)]
    values += [trade(id=1, price=2), trade(id=2, op="cancel")]
    with load(tmp_path, Corrected, values) as connection:
        found = connection.execute("SELECT open, high, low, close, trades FROM trades_ohlcv_1m").fetchall()
    assert [(5, 5, 2, 2, 2)] == found  # of equal time, the corrected one is later in the log


@contract(
    version=1,
    bars=Bars(by=("minute", "place", "price", "priced", "size", "t", "v", "whose"), price="paid", size="many"),
)
class Named:
    """Trades of which whose they are has names that a query might have for something else."""

    minute: str
    place: str
    price: str
    priced: bool
    size: str
    t: int
    v: int
    whose: str
    time: datetime
    paid: Decimal = column(precision=18, scale=6)
    many: int


def test_bars_by_any_name(tmp_path: Path):
    """They are the same bars: what columns are called changes nothing."""
    by = {"minute": "9", "place": "z", "price": "0", "priced": False, "size": "7", "t": 0, "v": 0, "whose": "w"}
    values = [trade(**by, paid=paid, many=2) for paid in (4, 9, 3, 5)]
    with load(tmp_path, Named, values) as connection:
        [found] = connection.execute("SELECT * EXCLUDE (time) FROM trades_ohlcv_1m").fetchall()
    assert (*by.values(), 4, 9, 3, 5, 8, 42, Decimal("5.25"), 4) == found

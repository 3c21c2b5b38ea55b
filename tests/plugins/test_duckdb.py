"""The DuckDB loader: exact rows, quarantine to the byte, one transaction."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.chain import Chain
from headrace.contract import Contract, column, contract
from headrace.envelope import decode
from headrace.errors import ConfigError, CorruptSegmentError, PositionConflictError, SinkUnavailableError
from headrace.load import Load
from headrace.loader import Census, Line, LoadableSegment, LoadResult, Selection
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Extent, Identity, Partition, Record
from headrace.typed.spool import workspace

TICKS = Partition("ticks", 0)
IDENTITY = Identity("c", "t", "read_committed", 2)


@contract(version=1)
class Tick:
    """A tick of the tests."""

    symbol: str
    price: Decimal = column(precision=18, scale=6)
    size: int | None
    time: datetime | None
    up: bool | None


def value(**fields: object) -> bytes:
    return json.dumps({"symbol": "A", "price": 1, **fields}).encode()


def write(root: Path, values: Sequence[bytes | None], *, cuts: Iterable[int] = (), number: int = 0) -> Chain:
    """Append records to a lake, a segment up to each of *cuts*."""
    sink = LakeSink(store=FileStore(root=root))
    partition = Partition("ticks", number)
    sink.bind({partition: Extent(0, 10**9, 10**9, IDENTITY)})
    at = sink.positions({partition: None})[partition]
    assert not isinstance(at, Exception)
    begin, start = 0, at.offset
    for end in [*cuts, len(values)]:
        draft = sink.draft(partition, at.offset, 1 << 20)
        records = [Record(start + i, 1000 + i, b"k", values[i], (("h", b"\xff"),)) for i in range(begin, end)]
        draft.add(Batch.of(partition, records, assignment=1))
        at = draft.commit(at.offset, at, IDENTITY)
        begin = end
    return Chain.open(sink.store, "ticks")


def loader(path: Path, kept: type = Tick, **more: Any) -> DuckDBLoader:
    return DuckDBLoader(database=path / "silver.duckdb", target="ticks", contract=kept, **more)


def load(chain: Chain, path: Path, kept: type = Tick) -> LoadResult:
    return Load(chain=chain, loader=loader(path, kept), max_rejected=1).run()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path / "silver.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def segments(chain: Chain, number: int = 0) -> list[LoadableSegment]:
    return [
        LoadableSegment(s, chain.format, lambda s=s: chain.read(s))  # type: ignore[misc]
        for s in chain.walk(number)
    ]


# ---- exact ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Told:
    """What an independent reading of the contract says of one value."""

    row: tuple[Any, ...] | None


def no_constant(name: str) -> object:
    raise ValueError(name)


def oracle(raw: bytes | None) -> Told:
    """Read a value with json and decimal alone; nothing of headrace."""
    if raw is None:
        return Told(None)
    number = type("Number", (str,), {})
    try:
        found = json.loads(
            raw.decode(),
            parse_float=number,
            parse_int=number,
            parse_constant=no_constant,
            object_pairs_hook=lambda pairs: dict(reversed(pairs)),  # the first of each
        )
    except (ValueError, RecursionError):
        return Told(None)
    if not isinstance(found, dict):
        return Told(None)
    symbol, price, size, time_, up = (found.get(n) for n in ("symbol", "price", "size", "time", "up"))
    if type(symbol) is not str or not isinstance(price, number) or not (size is None or isinstance(size, number)):
        return Told(None)
    if not (up is None or isinstance(up, bool)) or not (time_ is None or type(time_) is str):
        return Told(None)
    try:
        symbol.encode()
    except UnicodeEncodeError:
        return Told(None)
    exact = Decimal(price)
    if exact and (exact.adjusted() >= 12 or exact.adjusted() < -6):
        return Told(None)
    if Fraction(exact) * 10**6 % 1 if exact else False:
        return Told(None)
    if size is not None and (not size.lstrip("-").isdigit() or not -(2**63) <= int(size) < 2**63):
        return Told(None)
    if time_ is not None:
        try:
            moment = datetime.fromisoformat(time_)
        except ValueError:
            return Told(None)
        if moment.tzinfo is None or not 1678 <= moment.astimezone(UTC).year <= 2261 or len(time_) < 20:
            return Told(None)
        time_ = moment.astimezone(UTC).replace(tzinfo=None)
    return Told((symbol, exact, None if size is None else int(size), time_, up))


# fmt: off
HOSTILE = [
    *(value(price=p) for p in (0, -1, 1.5, 14.1234, 99999999999.999999, 1e22, 123456789012, 999999999999, 0.000001)),
    *(
        b'{"symbol":"A","price":%s}' % p
        for p in (
            b"14.1234000000000000001", b"14.12340000000000000000", b"1E2", b"1e-7", b"1e-6", b"-0", b"-0.0", b"1e400",
            b"1e-400", b"123456789012345678901234567890", b"0.1234567", b"99999999999.999999", b"999999999.999999",
            b"9007199254740993", b"900719925.474099", b'"7"', b"true", b"null", b"[1]", b'{"a":1}', b"1.0000000", b"01",
            b"  5", b"1e5 ", b"1e99999999", b"0.30000000000000004", b"100000000000.000001",
            b"9270159267017991e-6", b"100000000000000000001e-20", b"100000000000000000001E-20", b"1.5e-3", b"1.5E-3", b"0.0",
            b"0.00", b"0.0e-7", b"1e-300", b"0." + b"0" * 400 + b"1", b"1000000.5", b"1234567.123456", b"-999999.999999",
            b"99999999.99999999", b"999999999999.999999", b"12345678901234.5", b"1.00000000000000000001e0", b"5.0", b"5e0",
        )
    ),
    *(value(size=s) for s in (0, -5, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1.5, "7", True, None, [], 10**30)),
    b'{"symbol":"A","price":1,"size":1e2}',
    b'{"symbol":"A","price":1,"size":5.0}',
    *(
        value(time=t)
        for t in (
            "2013-10-07T13:30:00Z", "2013-10-07T13:30:00.123456Z", "2013-10-07T13:30:00.123456+02:00", "2013-10-07",
            "2013-10-07T13:30:00", "2016-12-31T23:59:60Z", "2013-02-30T00:00:00Z", "2013-10-07T25:00:00Z", "x", 5, "",
            "1600-01-01T00:00:00Z", "2300-01-01T00:00:00Z", "2013-10-07T24:00:00Z",
        )
    ),
    *(value(up=u) for u in (True, False, None, 1, 0, "true")),
    value(symbol=""), value(symbol="ä\u2028\U0001f4a5"), value(symbol="a\x00b"), value(symbol='q"\\\n'), value(symbol=5),
    b'{"symbol":"A","pr\\u0069ce":1}', b'{"symbol":"A","pr\\u0069ce":14.1234000000000000001}',
    b'{"symbol":"A","x":{"price":14.1234000000000000001},"price":14.1234}', b'{"price":1}', b"{}", b"[]", b"5", b"null",
    b"not json", b"", b"\xff\xfe", b'{"symbol":"A","price":NaN}', b"1,2", b"[1],[2", None, b'{"symbol":"\\ud800","price":1}',
    b'{"symbol":"A",\n"price":1}', b' {"symbol":"A", "price" : 14.1234000000000000001 } ', b"[" * 1000 + b"]" * 1000,
    b'{"symbol":"A","price":1,"x":' + b"[" * 400 + b"]" * 400 + b"}",
    value(symbol="e-mail", price=0.0), value(symbol="e-mail", price=2.5), value(symbol="2013.12345678901", price=2.5),
    b'{"symbol":"\\/e-","price":2.5}', b'{"symbol":"A","PRICE":1}', b'{"Symbol":"A","symbol":"B","price":1}',
    b'{"symbol":"A","price":1,"price":"x"}', b'{"symbol":"A","price":"x","price":1}', b'{"symbol":{"a":1},"price":1}',
    value(symbol="x" * 3_000_000),
]
# fmt: on


def check(root: Path, values: Sequence[bytes | None]) -> None:
    """Load *values* and hold table and quarantine against the oracle, record by record."""
    result = load(write(root / "lake", values), root)
    rows = query(root, "SELECT _offset, symbol, price, size, time::TIMESTAMP, up FROM ticks ORDER BY _offset")
    refused = query(root, "SELECT _offset, line FROM ticks_quarantine ORDER BY _offset")

    expected = {i: told.row for i, v in enumerate(values) if (told := oracle(v)).row is not None}
    assert expected == {offset: tuple(cells) for offset, *cells in rows}
    assert sorted(set(range(len(values))) - set(expected)) == [offset for offset, _ in refused]
    for offset, line in refused:
        record = decode(bytes(line))
        assert (offset, values[offset], b"k", (("h", b"\xff"),)) == (
            record.offset,
            record.value,
            record.key,
            record.headers,
        )
    assert LoadResult(1, len(values), len(rows), 0, len(refused)) == result


def test_hostile_values_are_exact_or_in_quarantine(tmp_path: Path) -> None:
    """Every value is a row to the last digit, or in quarantine to the last byte; none is converted."""
    check(tmp_path, HOSTILE)


NUMBERS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**13), max_value=10**13).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str).filter(lambda s: "s" not in s.lower()),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
OTHERS = st.one_of(st.text(max_size=5).map(json.dumps), st.sampled_from(["true", "null", "[]", '{"price":1.5}', '"1"']))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(NUMBERS | OTHERS, NUMBERS | OTHERS), min_size=1, max_size=60))
@example([("1e-400", "-0"), ("900719925.474099", "0")])
def test_any_number_is_exact_or_in_quarantine(cells: list[tuple[str, str]]) -> None:
    """The fast way and the careful way give what decimal arithmetic gives."""
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), [f'{{"symbol":"A","price":{p},"size":{s}}}'.encode() for p, s in cells])


@contract(version=1)
class Decimals:
    """Decimals of every shape, as numbers and as text; a field more than fits is null."""

    a: Decimal | None
    b: Decimal | None = column(precision=38, scale=18)
    c: Decimal | None = column(precision=18, scale=0)
    d: Decimal | None = column(precision=4, scale=4)
    e: Decimal | None = column(precision=20, scale=15)
    f: Decimal | None = column(precision=38, scale=0)
    g: Decimal | None = column(precision=18, scale=6, text=True)
    h: Decimal | None = column(precision=38, scale=38, text=True)
    i: int | None = column(text=True)


def fits(digits: str, precision: int, scale: int) -> bool:
    """Whether a number is a decimal of this shape, by exact arithmetic."""
    shifted = Fraction(digits) * 10**scale
    return shifted.denominator == 1 and abs(shifted) < 10**precision


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NUMBERS, min_size=1, max_size=60))
@example(["0.5", "0.12345678901234567", "9.123456789012345", "123456789012345678901234567890", "6916594465121281e-13"])
@example(["8177124469220149e-16", "0.817712446922015", "-0.0", "1e-18", "1e-19", "0.00001", "1234567890.12345", "-0"])
def test_decimals_of_every_shape_are_exact(numbers: list[str]) -> None:
    """A number is in a column to the last digit if the column's shape holds it, and only then."""
    shapes = {
        "a": (38, 9),
        "b": (38, 18),
        "c": (18, 0),
        "d": (4, 4),
        "e": (20, 15),
        "f": (38, 0),
        "g": (18, 6),
        "h": (38, 38),
    }
    cells = [
        (name, digits) for digits in numbers if len(Decimal(digits).as_tuple().digits) < 60 for name in [*shapes, "i"]
    ]
    cells = [(name, digits) for name, digits in cells if abs(Decimal(digits).adjusted()) < 400]
    values = [f'{{"{name}":{json.dumps(digits) if name in "ghi" else digits}}}'.encode() for name, digits in cells]
    expected = {}
    for offset, (name, digits) in enumerate(cells):
        whole = digits.lstrip("-").isdigit() and -(2**63) <= int(digits) < 2**63
        if fits(digits, *shapes[name]) if name in shapes else whole:
            expected[offset] = (name, Fraction(digits))

    with tempfile.TemporaryDirectory() as folder:
        load(write(Path(folder) / "lake", values or [b"{}"]), Path(folder), Decimals)
        rows = query(Path(folder), "SELECT _offset, a, b, c, d, e, f, g, h, i FROM ticks")

    found = {o: [(n, Fraction(c)) for n, c in zip("abcdefghi", row, strict=True) if c is not None] for o, *row in rows}
    assert {offset: [cell] for offset, cell in expected.items()} == {o: row for o, row in found.items() if row}


@contract(version=1)
class Cased:
    """Names that differ in case alone, as some exchanges have them."""

    event: str = column(source="e")
    time: datetime = column(source="E", unit="ms")
    inner: int | None = column(source="d.x")
    upper: int | None = column(source="D.x")
    whole: int | None = column(source="d.X")


def test_names_that_differ_in_case_are_different_fields(tmp_path: Path) -> None:
    """Each is read; DuckDB's own structures could not hold both."""
    chain = write(
        tmp_path / "lake", [b'{"e":"trade","E":1700000000000,"d":{"x":1,"X":2},"D":{"x":3}}', b'{"e":"trade"}']
    )

    load(chain, tmp_path, Cased)

    assert [("trade", "2023-11-14 22:13:20", 1, 3, 2)] == query(
        tmp_path, 'SELECT event, "time"::VARCHAR, "inner", "upper", whole FROM ticks'
    )


def test_a_value_without_fields_is_told_from_one_that_is_no_object(tmp_path: Path) -> None:
    """Where every column may be null, an empty object is a row and a number is none."""

    @contract(version=1)
    class Nullable:
        a: int | None
        b: str | None

    load(write(tmp_path / "lake", [b"{}", b"5", b"[]", b"null", None, b'"x"', b'{"b":"x"}']), tmp_path, Nullable)

    assert [(0, None, None), (6, None, "x")] == query(tmp_path, "SELECT _offset, a, b FROM ticks ORDER BY 1")
    assert [(6 - 1,)] == query(tmp_path, "SELECT count(*) FROM ticks_quarantine")


def test_nanoseconds_are_kept(tmp_path: Path) -> None:
    """A moment's last three digits are not cut, and a zone is taken into account."""
    times = ["2013-10-07T13:30:00.123456789Z", "2013-10-07T15:30:00.123456789+02:00"]
    load(write(tmp_path / "lake", [value(time=t) for t in times]), tmp_path)

    assert {("2013-10-07 13:30:00.123456789",)} == set(query(tmp_path, "SELECT time::VARCHAR FROM ticks"))


@contract(version=1)
class Plain:
    """What feeds often have."""

    quoted: Decimal = column(precision=38, scale=10, text=True)
    price: Decimal
    big: Decimal
    text: str


def test_good_rows_do_not_take_the_careful_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Python runs for a row that is plain."""

    def never(*_: object) -> None:
        raise AssertionError("a plain row was decided in Python")

    chain = write(
        tmp_path / "lake",
        [value(price=i / 100, size=i, time="2013-10-07T13:30:00.5Z", up=True) for i in range(1, 1000)],
    )
    monkeypatch.setattr("headrace.typed.staging.row", never)

    assert 999 == load(chain, tmp_path).inserted


def test_wide_and_quoted_numbers_do_not_take_the_careful_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither numbers in text, nor zeros, nor millions, nor texts with escapes or nanoseconds beside them."""

    def never(*_: object) -> None:
        raise AssertionError("a plain row was decided in Python")

    rows = [
        {"quoted": "1.5", "price": 0.0, "big": 12345678.12, "text": "a\nb"},
        {"quoted": "123456789012345678.1234567891", "price": 0.25, "big": 1.5, "text": "12:00:00.123456789Z"},
    ]
    chain = write(tmp_path / "lake", [json.dumps(row).encode() for row in rows])
    monkeypatch.setattr("headrace.typed.staging.row", never)

    assert 2 == load(chain, tmp_path, Plain).inserted
    assert {(Decimal("1.5"), 0, Decimal("12345678.12"), "a\nb")} < set(
        query(tmp_path, "SELECT quoted, price, big, text FROM ticks")
    )


@contract(version=1)
class Shaped:
    """Every property of a column."""

    inner: int = column(source="a.b")
    quoted: Decimal = column(text=True, precision=38, scale=10)
    at: datetime = column(unit="ns")
    side: str = column(one_of=("buy", "sell"))
    limited: int | None = column(minimum=1, maximum=9)
    wide: Decimal | None = column(precision=38, scale=20)


def test_every_property_of_a_column_holds(tmp_path: Path) -> None:
    """Paths, numbers in text, epochs, allowed values, limits and wide decimals."""

    def shaped(**fields: object) -> bytes:
        return json.dumps({"a": {"b": 1}, "quoted": "1.5", "at": 10**18 + 1, "side": "buy"} | fields).encode()

    wide = b'{"a":{"b":1},"quoted":"1.5","at":1000000000000000001,"side":"buy","wide":123456789012345678.12345678901234567890}'
    bad = [shaped(a={}), shaped(quoted=1.5), shaped(quoted="x"), shaped(at="x"), shaped(side="hold"), shaped(limited=0)]
    bad += [shaped(limited=10), shaped(a=[1]), shaped(at=2**63)]
    good = [shaped(), shaped(limited=1), shaped(limited=9), wide]

    result = load(write(tmp_path / "lake", [*good, *bad]), tmp_path, Shaped)

    assert (4, 9) == (result.inserted, result.rejected)
    assert {(1, Decimal("1.5"), "buy")} == set(query(tmp_path, 'SELECT "inner", quoted, side FROM ticks'))
    assert [(Decimal("123456789012345678.12345678901234567890"),)] == query(
        tmp_path, "SELECT wide FROM ticks WHERE wide IS NOT NULL"
    )
    assert {("2001-09-09 01:46:40.000000001",)} == set(query(tmp_path, 'SELECT "at"::VARCHAR FROM ticks'))
    columns = query(tmp_path, 'SELECT "column" FROM ticks_quarantine ORDER BY _offset')
    assert ["inner", "quoted", "quoted", "at", "side", "limited", "limited", "inner", "at"] == [c for (c,) in columns]


# ---- one transaction ------------------------------------------------------------------------------------------------


def counts(path: Path) -> tuple[int, int, int, int]:
    """Records in the ledger, rows, distinct places of rows, quarantined."""
    ledger = "SELECT coalesce(sum(records), 0) FROM headrace_ledger"
    rows = "SELECT count(*), count(DISTINCT (_dataset, _stream, _partition, _offset)) FROM ticks"
    return (*query(path, ledger)[0], *query(path, rows)[0], *query(path, "SELECT count(*) FROM ticks_quarantine")[0])


def test_several_segments_of_several_partitions_are_one_transaction(tmp_path: Path) -> None:
    """One ledger row each, one attempt for all (S1, S2, S10)."""
    write(tmp_path / "lake", [value()] * 10, cuts=(3, 7))
    chain = write(tmp_path / "lake", [value(price="bad")] * 5, cuts=(2,), number=1)

    result = load(chain, tmp_path)

    assert LoadResult(5, 15, 10, 0, 5) == result
    ledger = query(
        tmp_path,
        'SELECT "partition", start_offset, end_offset, records, inserted, rejected FROM headrace_ledger ORDER BY ALL',
    )
    assert [
        (0, 0, 3, 3, 3, 0),
        (0, 3, 7, 4, 4, 0),
        (0, 7, 10, 3, 3, 0),
        (1, 0, 2, 2, 0, 2),
        (1, 2, 5, 3, 0, 3),
    ] == ledger
    assert [(1,)] == query(tmp_path, "SELECT count(DISTINCT attempt) FROM headrace_ledger")


def test_loading_again_does_nothing(tmp_path: Path) -> None:
    """The ledger says what is loaded; segments that came since are added."""
    chain = write(tmp_path / "lake", [value()] * 10)
    load(chain, tmp_path)

    assert LoadResult() == load(chain, tmp_path)
    assert LoadResult() == loader(tmp_path).load(segments(chain))
    write(tmp_path / "lake", [value()] * 4)
    assert 4 == load(chain, tmp_path).inserted
    assert (14, 14, 14, 0) == counts(tmp_path)


def test_a_segment_that_does_not_join_up_is_refused(tmp_path: Path) -> None:
    """A gap before a segment is a conflict; nothing is written (S1)."""
    chain = write(tmp_path / "lake", [value()] * 10, cuts=(3, 7))
    first, second, third = segments(chain)

    with pytest.raises(PositionConflictError, match=r"the ledger of ticks/0 is at 0, the segment covers \[3, 7\)"):
        loader(tmp_path).load([second])
    with pytest.raises(PositionConflictError):
        loader(tmp_path).load([first, third])
    assert (0, 0, 0, 0) == counts(tmp_path)


def test_a_segment_that_is_not_what_its_trailer_says_is_refused(tmp_path: Path) -> None:
    """Count and range are taken from the lines, not believed (B4, B29)."""
    chain = write(tmp_path / "lake", [value()] * 10)
    [good] = segments(chain)
    for change in ({"records": 9}, {"end": 12}, {"first": 1}):
        lying = attrs.evolve(
            good, segment=attrs.evolve(good.segment, trailer=attrs.evolve(good.segment.trailer, **change))
        )
        with pytest.raises(CorruptSegmentError, match="found 10 records in"):
            loader(tmp_path).load([lying])
    assert (0, 0, 0, 0) == counts(tmp_path)


def test_positions_and_census_are_read_from_the_tables(tmp_path: Path) -> None:
    """None where nothing was loaded; the census counts what is really there."""
    chain = write(tmp_path / "lake", [value(), value(price="x"), value()])
    line = Line(chain.dataset.id, TICKS, "ticks")
    with loader(tmp_path) as one:
        assert {line: None} == one.positions([line])
        one.load(segments(chain))
        assert {line: 3} == one.positions([line])
        census = one.census(line, 0, 2)

    assert census is not None
    assert (1, 1) == (census.rows, census.quarantined)


def test_an_older_contract_stops(tmp_path: Path) -> None:
    """The lock row keeps the highest version (S7)."""

    @contract(version=2)
    class Newer:
        symbol: str
        price: Decimal = column(precision=18, scale=6)
        size: int | None
        time: datetime | None
        up: bool | None

    chain = write(tmp_path / "lake", [value()])
    load(chain, tmp_path, Newer)
    write(tmp_path / "lake", [value()])

    with pytest.raises(ConfigError, match=r"was loaded by contract .*Newer.*this loader has Tick version 1"):
        load(chain, tmp_path)


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Found and expected of each column, and nothing is written."""
    with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
        connection.execute("CREATE TABLE ticks(x INTEGER NOT NULL, symbol VARCHAR)")

    with pytest.raises(ConfigError, match=r"(?s)price is not there.*x is NOT NULL, and the contract has no such"):
        load(write(tmp_path / "lake", [value()]), tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A clear error, and the file is left as it is."""
    (tmp_path / "silver.duckdb").write_bytes(b"x" * 9000)

    with pytest.raises(ConfigError, match=r"silver\.duckdb"):
        load(write(tmp_path / "lake", [value()]), tmp_path)
    assert b"x" * 9000 == (tmp_path / "silver.duckdb").read_bytes()


def test_another_process_is_waited_for_with_a_bound(tmp_path: Path) -> None:
    """DuckDB allows one writing process: the second waits, then says whom it waited for."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb; c = duckdb.connect({str(tmp_path / 'silver.duckdb')!r}); print(1, flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    chain = write(tmp_path / "lake", [value()])
    try:
        with pytest.raises(SinkUnavailableError, match="another process has held it for 0 s"):
            loader(tmp_path, lock_timeout_s=0.2).load(segments(chain))
        threading.Timer(0.5, holder.kill).start()
        assert 1 == loader(tmp_path, lock_timeout_s=30).load(segments(chain)).inserted
    finally:
        holder.kill()
        holder.communicate()


# ---- redrive --------------------------------------------------------------------------------------------------------


@contract(version=2)
class Lenient:
    """Takes prices that are written as text."""

    symbol: str
    price: Decimal = column(precision=18, scale=6, text=True)
    size: int | None
    time: datetime | None
    up: bool | None


def test_redrive_takes_what_now_keeps_the_contract_once(tmp_path: Path) -> None:
    """Rows go where they belong, quarantine keeps the rest, the ledger's sums hold (S6, S10)."""
    chain = write(tmp_path / "lake", [value(), value(price="7"), value(price="x"), value(price="8.25")])
    load(chain, tmp_path)

    assert LoadResult(0, 0, 2, 0, -2) == loader(tmp_path, Lenient).redrive(Selection())
    assert LoadResult() == loader(tmp_path, Lenient).redrive(Selection())
    assert [(0, 1), (1, 7), (3, Decimal("8.25"))] == query(tmp_path, "SELECT _offset, price FROM ticks ORDER BY 1")
    assert [(2,)] == query(tmp_path, "SELECT _offset FROM ticks_quarantine")
    sums = "SELECT sum(records), sum(inserted), sum(rejected) FROM headrace_ledger"
    assert [(4, 3, 1)] == query(tmp_path, sums)
    assert {Line(chain.dataset.id, TICKS, "ticks"): 4} == loader(tmp_path, Lenient).positions(
        [Line(chain.dataset.id, TICKS, "ticks")]
    )


def test_redrive_can_be_told_which(tmp_path: Path) -> None:
    """By range, by partition, by reason."""
    load(write(tmp_path / "lake", [value(price=str(i)) for i in range(6)]), tmp_path)
    lenient = loader(tmp_path, Lenient)

    assert 1 == lenient.redrive(Selection(start=1, end=2)).inserted
    assert 0 == lenient.redrive(Selection(partition=Partition("ticks", 1))).inserted
    assert 0 == lenient.redrive(Selection(reason="another")).inserted
    assert 5 == lenient.redrive(Selection(reason="text, expected a number")).inserted


# ---- broken on purpose ----------------------------------------------------------------------------------------------


CHILD = """
import os, signal, sys
from pathlib import Path
import duckdb
from headrace.chain import Chain
from headrace.load import Load
from headrace.plugins.duckdb import loader as module
from headrace.plugins.lake.local import FileStore
from test_duckdb_child import Tick

root, at = Path(sys.argv[1]), int(sys.argv[2])

class Dying:
    "A connection that dies before its n-th statement."
    seen = 0
    def __init__(self, real): self._real = real
    def execute(self, *a, **k):
        Dying.seen += 1
        if Dying.seen == at: os.kill(os.getpid(), signal.SIGKILL)
        return self._real.execute(*a, **k)
    def __getattr__(self, name): return getattr(self._real, name)

real = duckdb.connect
if at: module.duckdb.connect = lambda *a, **k: Dying(real(*a, **k))
result = Load(chain=Chain.open(FileStore(root=root / "lake"), "ticks"), group_bytes=1,
              loader=module.DuckDBLoader(database=root / "silver.duckdb", target="ticks", contract=Tick)).run()
print(Dying.seen)
"""


def child(root: Path, at: int) -> subprocess.Popen[bytes]:
    """Load in another process, which kills itself before its statement number *at*."""
    module = root / "test_duckdb_child.py"
    if not module.exists():
        module.write_text(
            "from datetime import datetime\nfrom decimal import Decimal\nfrom headrace.contract import column, contract\n"
            "@contract(version=1)\nclass Tick:\n    symbol: str\n    price: Decimal = column(precision=18, scale=6)\n"
            "    size: int | None\n    time: datetime | None\n    up: bool | None\n"
        )
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(at)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_killed_before_any_statement_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """SIGKILL before each statement of a load in turn; at each moment the ledger's records are rows and quarantine."""
    values = [value(price=i) if i % 7 else value(price="x") for i in range(60)]
    write(tmp_path / "lake", values, cuts=(20, 40))
    killed = 0
    for at in range(1, 200):
        process = child(tmp_path, at)
        process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
        if (tmp_path / "silver.duckdb").exists():
            with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
                there = {
                    t for (t,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
                }
            if {"ticks", "ticks_quarantine", "headrace_ledger"} <= there:
                records, rows, distinct, refused = counts(tmp_path)
                assert records == rows + refused
                assert rows == distinct
                assert records in (0, 20, 40, 60)
        if process.returncode == 0:
            break
    assert killed > 20
    assert (60, 51, 51, 9) == counts(tmp_path)


def test_what_a_killed_loader_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next load removes its unpacked files; those of a loader that lives are left alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "from headrace.typed.spool import workspace\nwith workspace() as f: print(f, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        os.utime(left, (0, 0))  # long ago: a fresh one may be on its way
        with workspace():
            assert left.exists()
        process.kill()
        process.wait()
    with workspace() as mine:
        assert [mine.name] == [path.name for path in tmp_path.glob("headrace-load-*")]
    assert [] == list(tmp_path.glob("headrace-load-*"))


def test_two_loaders_at_once_end_exactly_once(tmp_path: Path) -> None:
    """Threads that load the same segments: one works, the other finds it done (S2, S11)."""
    chain = write(tmp_path / "lake", [value(price=i) for i in range(3000)], cuts=range(100, 3000, 100))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            Load(chain=chain, loader=loader(tmp_path), group_bytes=1, retry_for_s=60).run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert [] == errors
    assert (3000, 3000, 3000, 0) == counts(tmp_path)


def test_without_the_lock_two_loaders_load_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: no UPDATE of the lock row, no ledger read after it, and rows are doubled (T15 to T17)."""
    for module in ("loader", "rows"):
        monkeypatch.setattr(f"headrace.plugins.duckdb.{module}.HELD", "$target = $target AND $attempt = $attempt")
    monkeypatch.setattr(DuckDBLoader, "_lock", lambda *_: None)
    real = DuckDBLoader._lacking
    seen: list[int] = []

    def only_before(
        self: DuckDBLoader, connection: duckdb.DuckDBPyConnection, wanted: Sequence[LoadableSegment]
    ) -> list[LoadableSegment]:
        seen.append(threading.get_ident())
        return list(wanted) if seen.count(threading.get_ident()) > 1 else real(self, connection, wanted)

    together = threading.Barrier(2)
    monkeypatch.setattr(DuckDBLoader, "_lacking", only_before)
    transaction = DuckDBLoader._transaction

    def at_once(self: DuckDBLoader, connection: Any, work: Any) -> LoadResult:
        together.wait(30)
        return transaction(self, connection, work)

    loader(tmp_path).redrive(Selection())  # makes the tables
    monkeypatch.setattr(DuckDBLoader, "_transaction", at_once)
    chain = write(tmp_path / "lake", [value()] * 10)
    threads = [threading.Thread(target=lambda: loader(tmp_path).load(segments(chain))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert (20, 20, 10, 0) == counts(tmp_path)


def test_the_order_of_a_contract_is_the_order_of_its_class() -> None:
    """Columns stand as they are written."""
    assert ["symbol", "price", "size", "time", "up"] == [c.name for c in Contract.of(Tick).columns]


@pytest.mark.parametrize(
    ("there", "wanted"), [("ticks", "Ticks"), ("ticks", "ticks_current"), ("ticks_current", "ticks")], ids=str
)
def test_a_name_that_is_taken(tmp_path, there, wanted):
    """DuckDB does not tell case, the ledger does: another table of a name would be loaded twice. Nothing is made."""
    chain = write(tmp_path / "lake", [value()])
    first, second = (
        DuckDBLoader(database=tmp_path / "silver.duckdb", target=t, contract=Tick) for t in (there, wanted)
    )
    assert 1 == Load(chain=chain, loader=first).run().inserted
    tables = "SELECT table_name, estimated_size FROM duckdb_tables() ORDER BY 1"
    before = query(tmp_path, tables)
    with pytest.raises(
        ConfigError, match=f"and there is a (table|view) '{there if wanted != 'ticks_current' else wanted}'"
    ):
        Load(chain=chain, loader=second).run()
    assert before == query(tmp_path, tables)


def test_census_of_a_table_that_was_replaced(tmp_path):
    """It is counted like any other, by whatever contract; and nothing is made where there is no such table."""
    chain = write(tmp_path / "lake", [value(), b"[]"])
    line, none = (Line(chain.dataset.id, TICKS, table) for table in ("ticks", "none"))
    newer = DuckDBLoader(database=tmp_path / "silver.duckdb", target="newer", contract=Tick)
    for each in (loader(tmp_path), newer):
        Load(chain=chain, loader=each).run()
    newer.take_over("ticks")
    assert Census(1, 1, 0) == loader(tmp_path).census(line, 0, 2)
    tables = query(tmp_path, "SELECT table_name FROM duckdb_tables() ORDER BY 1")
    absent = DuckDBLoader(database=tmp_path / "silver.duckdb", target="none", contract=Tick)
    assert Census(0, 0, 0) == absent.census(none, 0, 2)
    assert tables == query(tmp_path, "SELECT table_name FROM duckdb_tables() ORDER BY 1")


@contract(version=1, key=("symbol",))
class Newest:
    symbol: str
    price: Decimal = column(precision=18, scale=6)


@pytest.mark.parametrize("kept", [Tick, Newest], ids=lambda kept: kept.__name__)
def test_a_target_with_the_name_of_a_table_of_ours(tmp_path, kept):
    """Whatever temporary tables a load makes: the rows are in the target."""
    values = [value(), value(price=2), value(price="x"), value(symbol="B")]
    chain = write(tmp_path / "lake", values, cuts=[2])
    for target in ("staged", "Refused", "segments", "chosen", "doubtful"):
        each = DuckDBLoader(database=tmp_path / "silver.duckdb", target=target, contract=kept)
        done = Load(chain=chain, loader=each, group_segments=1).run()
        assert [(done.inserted, 1)] == query(
            tmp_path, f"SELECT (SELECT count(*) FROM {target}), (SELECT count(*) FROM {target}_quarantine)"
        ), target
        assert [2 if kept is Newest else 3] == [done.inserted]

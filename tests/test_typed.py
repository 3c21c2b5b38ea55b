"""Typing by the block: what DuckDB's engine gives is what the contract means, and what decimal and json say."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.contract import MAX_BYTES, Contract, column, contract
from headrace.envelope import encode
from headrace.records import Batch, Partition, Record
from headrace.rows import Rejected, row
from headrace.typed import nested, staging
from headrace.typed.spool import Spooled
from headrace.typed.staging import Staging

Cells = tuple[str | None, ...]


@attrs.frozen
class Why:
    """Why a record is no row."""

    column: str
    reason: str


@attrs.frozen
class Typed:
    """What became of records: cells or a reason, by offset, and how many were decided one by one."""

    fates: dict[int, Cells | Why]
    doubtful: int


def by_block(kept: type, records: Sequence[Record]) -> Typed:
    """Type records as loaders do."""
    about, decided = Contract.of(kept), []
    names = [f'"{c.name}"' for c in about.columns] + ["_deleted"] * bool(about.key)

    def counted(*values: Any, **more: Any) -> Any:
        decided.append(values)
        return row(*values, **more)

    lines = encode(Batch.of(Partition("ticks", 0), records, assignment=1))
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(":memory:", config={"threads": 1}) as connection,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(staging, "row", counted)
        path = Path(folder) / "0.jsonl"
        path.write_bytes(lines)
        Staging(connection, about, Path(folder)).stage(Spooled([path], max(map(len, lines.split(b"\n"))) + 1))
        texts = ", ".join(f"{name}::VARCHAR" for name in names)
        rows = connection.execute(f"SELECT _offset, {texts} FROM staged").fetchall()
        refused = connection.execute('SELECT _offset, "column", reason FROM refused').fetchall()
    moments = [c.kind == "timestamp" for c in about.columns] + [False] * bool(about.key)
    fates: dict[int, Cells | Why] = {
        offset: tuple(
            f"{cell.partition('.')[0]}.{cell.partition('.')[2]:0<9}" if moment and cell else cell
            for cell, moment in zip(cells, moments, strict=True)
        )
        for offset, *cells in rows
    }
    return Typed(fates | {offset: Why(*why) for offset, *why in refused}, len(decided))


def one_by_one(kept: type, records: Sequence[Record]) -> dict[int, Cells | Why]:
    """Type records as the contract's meaning in Python has it."""
    found = {
        r.offset: row(Contract.of(kept), r.value, key=r.key, timestamp_ms=r.timestamp_ms, offset=r.offset)
        for r in records
    }
    return {
        offset: Why(cells.column, cells.reason) if isinstance(cells, Rejected) else tuple(cells)
        for offset, cells in found.items()
    }


def recorded(
    values: Sequence[bytes | None], key: bytes | None = b"k", timestamp_ms: int = 1_700_000_000_123
) -> list[Record]:
    return [Record(100 + n, timestamp_ms, key, value, ()) for n, value in enumerate(values)]


# ---- nested values --------------------------------------------------------------------------------------------------


@contract(version=1)
class Nested:
    """Every outside that a nested value may have."""

    rows: list[Any] | None
    named: dict[str, Any] | None
    any: list[Any] | dict[str, Any] | None = column(source="in.any")


class NoRow(Exception):  # noqa: N818 - an answer
    """What the oracle says of a value that no column takes."""


def written(found: Any, depth: int = 100) -> str:
    """An independent writer: numbers by `decimal`, texts by `json`, of repeated names the first."""
    match found:
        case Decimal():
            plain = format(found, "f")
            plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
            before, _, behind = plain.lstrip("-").partition(".")
            if len(before.lstrip("0") + behind) > 38 or len(behind) > 37:
                raise NoRow
            return "0" if not found else plain
        case [("object", pairs)]:
            if not depth:
                raise NoRow
            first = {}
            for name, content in pairs:
                first.setdefault(name, content)
            inside = (f"{json.dumps(n, ensure_ascii=False)}:{written(c, depth - 1)}" for n, c in first.items())
            return f"{{{','.join(inside)}}}"
        case [("array", members)]:
            if not depth:
                raise NoRow
            return f"[{','.join(written(m, depth - 1) for m in members)}]"
        case _:
            return json.dumps(found, ensure_ascii=False)


def arrays_told(found: Any) -> Any:
    """Mark arrays, so that they are told from objects, which come as pairs."""
    if isinstance(found, list) and not (len(found) == 1 and isinstance(found[0], tuple)):
        return [("array", [arrays_told(m) for m in found])]
    if isinstance(found, list):
        return [("object", [(n, arrays_told(c)) for n, c in found[0][1]])]
    return found


def oracle(text: str) -> str | None:
    """The nested value's one text by other means than headrace's; None where it is none."""
    try:
        found = json.loads(
            text, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=lambda pairs: [("object", pairs)]
        )
        text = written(arrays_told(found))
        text.encode()
    except (NoRow, UnicodeEncodeError, ArithmeticError):
        return None
    return text


WRITTEN = (
    *(
        "0",
        "-0",
        "-0.0",
        "0.0",
        "1.0",
        "1.50",
        "14.1234",
        "14.1234000000000000001",
        "1e2",
        "1E5",
        "1.5e1",
        "12e-1",
        "1e-7",
        "1e22",
    ),
    *(
        "1e37",
        "1e38",
        "1e400",
        "1e-37",
        "1e-38",
        "1e-400",
        "123456789012345678901234567890",
        "150000000000000000001e-20",
        "0.1",
    ),
    *("12345678901234567890123456789012345678", "123456789012345678901234567890123456789", "0.1234567890123456", "100"),
    *("1234567890123456e-16", "900719925.474099", "9007199254740993"),
)
NUMBERS = st.one_of(
    st.sampled_from(WRITTEN),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.integers(-(10**6), 10**6).map(str),
)
QUOTED = (
    *(
        '"a"',
        '"A"',
        '"b"',
        '""',
        '":x"',
        '"a,"',
        '"{"',
        '"}"',
        '"["',
        '"1.0"',
        '",:"',
        r'"\""',
        r'"\\"',
        r'"a\/b"',
        r'"\u0061"',
    ),
    *(
        r'"\u0000"',
        r'"\u001f"',
        r'"\n\t\b\f\r"',
        '"\x7f"',
        '"ä\u2028\U0001f4a5"',
        r'"\ud83d\ude00"',
        r'"\ud800"',
        '"[1e5]"',
    ),
    '",-0.0,"',
)
TEXTS = st.sampled_from(QUOTED) | st.text(alphabet='ab{}[]:,1.0e-"\\ ', max_size=6).map(json.dumps)
SPACE = st.sampled_from(["", "", "", " ", "\t"])
VALUES = st.recursive(
    NUMBERS | TEXTS | st.sampled_from(["null", "true", "false"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).flatmap(lambda m: SPACE.map(lambda s: f"[{s}{f'{s},'.join(m)}{s}]")),
        st.lists(st.tuples(TEXTS, inner), max_size=4).flatmap(
            lambda m: SPACE.map(lambda s: f"{{{s}{f',{s}'.join(f'{n}{s}:{s}{c}' for n, c in m)}{s}}}")
        ),
    ),
    max_leaves=8,
)
LEVELS = '[{"p":1.5,"q":2},{"p":2.25,"q":3}]'


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES.filter(lambda text: text[:1] in "[{"), min_size=1, max_size=40))
@example([LEVELS, '{"a":{"b":1},"a":2}', '{"a":"}","b":{"c":1},"b":2}', '{"a":"x",":k":1,":k":2}', '[{"a":"{","a":1}]'])
@example(
    [
        '{"a":1,"A":2,"a":3}',
        r'{"a\"":1,"a\"":2}',
        '{"":1,"":2}',
        '[[["a"]],{"a":[{"a":1}]}]',
        '{"a":{"a":{"a":1}},"b":1}',
    ]
)
@example(
    ['["1.0"]', '["x,1e5"]', "[0.00]", "[-0]", '{"a":[1,{"b":-0.0}]}', "[1e15,0.1]", "[1.5,1e-400]", r'["\u001F"]']
)
@example(["[14.1234000000000000001]"])
@example(
    [
        '[1.0,2.0,{"a":-3.0,"b":[4.0]}]',
        "[-0.0]",
        "[10.05,1.00,-0.0]",
        '[",1.0,"]',
        '[1.0,",1.0]"]',
        '["[1.0",2.0]',
        r'["\"",":1.0"]',
    ]
)
@example(["[1e16,123456789012345e5,1e20,1e21]", "[0.0]", "[100.0e0]", "[1e2]", '{"1.0":1.0,"2":[2.0]}'])
@example(["[150000000000000000001e-20]", "[1234567890123456e-16]", "[123456789012345678901234567890123456789]"])
def test_nested_values_have_one_text(texts: list[str]) -> None:
    """By the block and one by one they are what `json` and `decimal` say, to the last digit and byte."""
    records = recorded([f'{{"in":{{"any":{text}}}}}'.encode() for text in texts])
    expected = {record.offset: oracle(text) for record, text in zip(records, texts, strict=True)}

    one, block = one_by_one(Nested, records), by_block(Nested, records).fates

    assert one == block
    assert expected == {offset: None if isinstance(found, Why) else found[2] for offset, found in one.items()}


def test_plain_nested_values_do_not_take_the_careful_way() -> None:
    """Arrays of numbers and texts, flat objects, levels of a book, objects in objects whose names differ."""
    texts = [
        "[]",
        "{}",
        "[1,2.5,-3,10]",
        '["a","b\\n",null,true]',
        '{"a":1,"b":[1,2]}',
        LEVELS,
        '{"a":{"b":{"c":0.001}}}',
    ]
    records = recorded(
        [f'{{"in":{{"any":{text}}}}}'.encode() for text in [*texts[:2], "[1.0, 2.50, -3.00, 1e1]", *texts[3:]]]
    )

    found = by_block(Nested, records)

    assert 0 == found.doubtful
    assert texts == [cells[2] for cells in found.fates.values() if not isinstance(cells, Why)]


NEVER = r"[^\s\S]"


@pytest.mark.parametrize(
    ("rule", "instead", "text"),
    [
        ("_LONG", NEVER, "[14.1234000000000000001]"),
        ("_NOT_CANONICAL", NEVER, "[-0.0]"),
        ("_NOT_CANONICAL", NEVER, "[123456789012345678901234567890123456789]"),
        ("_ZERO", NEVER, "[1e-400]"),
        ("_STARTS_LIKE_A_NAMES_END", NEVER, '{"c":{},"a":"x",":k":1,":k":2}'),
        ("_different", lambda _: "true", '{"a":{"b":1},"a":2}'),
        ("_wholes", lambda _: "0", '[1.0,",1.0]"]'),
    ],
    ids=[
        "long",
        "minus zero",
        "39 digits",
        "too small",
        "a text like a name",
        "a name that repeats",
        "a text like a number",
    ],
)
def test_without_a_proof_a_wrong_text_passes(
    rule: str, instead: object, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each part of the proof is for: take it away, and the two ways differ."""
    records = recorded([f'{{"in":{{"any":{text}}}}}'.encode()])
    assert one_by_one(Nested, records) == by_block(Nested, records).fates
    monkeypatch.setattr(nested, rule, instead)
    assert one_by_one(Nested, records) != by_block(Nested, records).fates


def test_what_a_nested_column_takes() -> None:
    """An array, an object, or both: anything else is refused with what was found and what was expected."""
    records = recorded(
        [b'{"rows":{}}', b'{"named":[]}', b'{"rows":"[]"}', b'{"named":1}', b'{"in":{"any":true}}', b'{"rows":null}']
    )

    assert by_block(Nested, records).fates == {
        100: Why("rows", "an object, expected an array"),
        101: Why("named", "an array, expected an object"),
        102: Why("rows", "text, expected an array"),
        103: Why("named", "a number, expected an object"),
        104: Why("any", "a boolean, expected an array or an object"),
        105: (None, None, None),
    }


def test_reasons_of_nested_values() -> None:
    """Digits that no warehouse keeps, depth, a lone surrogate."""
    deep = [b'{"rows":' + b"[" * n + b"]" * n + b"}" for n in (100, 101, 3000)]
    values = [
        *deep,
        b'{"rows":[1e38]}',
        b'{"rows":[1e-38]}',
        b'{"rows":[1e999999999999999999999]}',
        b'{"rows":["\\ud800"]}',
    ]

    found = by_block(Nested, recorded(values)).fates

    assert [(None if isinstance(f, tuple) else f.reason) for f in found.values()] == [
        None, "nested too deep", "nested too deep", *["a number of more than 38 digits"] * 3, "a text that is not Unicode",
    ]  # fmt: skip


@contract(version=1)
class Long:
    """What may be long."""

    text: str | None
    nested: list[Any] | None


def test_what_is_too_long_for_a_warehouse_is_refused() -> None:
    """16 MB in UTF-8 are a cell, one byte more is not, whichever way it takes."""
    fits, wide = b"x" * (MAX_BYTES - 4), "ä".encode() * (MAX_BYTES // 2)
    values = [
        b'{"text":"%s"}' % wide,
        b'{"text":"%sx"}' % wide,
        b'{"nested":["%s"]}' % fits,
        b'{"nested":["%sx"]}' % fits,
    ]

    found = by_block(Long, recorded([*values, b'{"text":"a"}']))

    assert [n for n, fate in found.fates.items() if isinstance(fate, Why)] == [101, 103]
    assert {fate for fate in found.fates.values() if isinstance(fate, Why)} == {
        Why("text", "more than 16000000 bytes"),
        Why("nested", "more than 16000000 bytes"),
    }
    assert found.fates[100] == (wide.decode(), None)


# ---- the record's own parts, defaults, checks -----------------------------------------------------------------------


@contract(version=1, ascending=(("low", "high"), ("high", "top"), ("at", "until")))
class Checked:
    """Each power that a column or two have."""

    name: str = column(record="key", default="?")
    at: datetime = column(record="timestamp")
    place: int = column(record="offset")
    low: Decimal | None = column(precision=18, scale=4)
    high: Decimal = column(precision=20, scale=6, default="5.5")
    top: int | None = column(minimum=-5)
    until: datetime | None
    short: str | None = column(max_length=3)
    levels: list[Any] = column(default=[1])
    flag: bool = column(default=False)
    file: int | None
    offset: int | None
    line: str | None


SHORT = ['"abc"', '"a\\u0000b"', r'"\ud83d\ude00\ud83d\ude00a"', '"e\u0301e\u0301"', "3"]
MOMENTS = ['"2023-11-14T22:13:20.123Z"', '"2023-11-14T22:13:20.122999999Z"', '"2024-01-01T00:00:00+01:00"', "1"]
CELLS = {
    "low": NUMBERS | st.sampled_from(["5.5", "5.4999", "1", "null", '"1"']),
    "high": NUMBERS | st.sampled_from(["5.5", "5.4999", "1", "null", "1.000001"]),
    "top": st.sampled_from(["1", "5", "6", "-5", "-6", "null", "9223372036854775807", "1.0"]),
    "until": st.sampled_from(MOMENTS),
    "short": st.text(max_size=5).map(json.dumps) | st.sampled_from(SHORT),
    "levels": st.sampled_from(["[]", "[2]", "null", "{}", "[1.0]"]),
    "flag": st.sampled_from(["true", "null", "0"]),
    "file": st.just("7"),
    "offset": st.just("8"),
    "line": st.just('"l"'),
}
KEYS = st.sampled_from([b"k", b"", None, b"\xff", "ä".encode(), b"a\x00b", b'"q"', b"\\", b"null"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.fixed_dictionaries({}, optional=CELLS), KEYS, st.sampled_from([1_700_000_000_123, -1, 0, 2**60])),
        min_size=1,
        max_size=40,
    )
)
@example([({"low": "1"}, b"\xff", 0), ({"low": "5.5"}, None, 0), ({"low": "5.5001"}, b"", 1), ({}, b"k", -1)])
def test_both_ways_agree(drawn: list[tuple[dict[str, str], bytes | None, int]]) -> None:
    """Whatever a record holds, what is typed by the block is what the contract means, reasons included."""
    records = [
        Record(n, ms, key, b"{%s}" % ",".join(f'"{name}":{text}' for name, text in fields.items()).encode(), ())
        for n, (fields, key, ms) in enumerate(drawn)
    ]

    assert one_by_one(Checked, records) == by_block(Checked, records).fates


def test_defaults_checks_and_the_records_parts() -> None:
    """The default stands where nothing is, a pair that descends is told by its second column, key and time are the record's."""
    at = 1_700_000_000_123
    values = [b'{"low":5.5}', b'{"low":5.5001}', b'{"high":3,"top":2}', b'{"low":1,"until":"2023-11-14T22:13:20.122Z"}']
    values += [b'{"short":"abcd","low":1}', b'{"low":1,"file":7,"offset":8,"line":"l"}', b'{"top":-6}']

    found = by_block(Checked, recorded(values, timestamp_ms=at))

    when = "2023-11-14 22:13:20.123000000"
    rest = ("[1]", "false")
    assert found.fates == {
        100: ("k", when, "100", "5.5000", "5.500000", None, None, None, *rest, None, None, None),
        101: Why("high", "below low"),
        102: Why("top", "below high"),
        103: Why("until", "below at"),
        104: Why("short", "more than 3 characters"),
        105: ("k", when, "105", "1.0000", "5.500000", None, None, None, *rest, "7", "8", "l"),
        106: Why("top", "below -5"),
    }
    assert 5 == found.doubtful  # what is refused


def test_a_record_without_key_or_timestamp() -> None:
    """No key is null, no timestamp is missing, and a key that is not UTF-8 is told even where none is needed."""
    assert one_by_one(Checked, recorded([b"{}"], key=None, timestamp_ms=-1))[100] == Why("at", "missing")
    for key, name in ((b"\xff", Why("name", "a key that is not UTF-8")), (None, "?"), (b"", "")):
        fate = by_block(Checked, recorded([b'{"low":1}'], key=key)).fates[100]
        assert name == (fate if isinstance(fate, Why) else fate[0])


# ---- deletes --------------------------------------------------------------------------------------------------------


@contract(version=1, key=("id",), order=("seq",), deleted=("op", ("D", "T")))
class Changes:
    """A feed of changes, as a database's log has them."""

    id: int
    seq: int
    op: str = column(one_of=("I", "U", "D", "T"))
    price: Decimal = column(precision=18, scale=4)
    venue: str = column(default="X")


@contract(version=1, key=("id",), order=("at",))
class Compacted:
    """A topic whose tombstones delete."""

    id: int = column(record="key")
    at: datetime = column(record="timestamp")
    price: Decimal = column(precision=18, scale=4)


def test_a_delete_needs_its_key_and_its_order_only() -> None:
    """Its other columns may be missing; what it does carry must keep the column (S9)."""
    values = [
        b'{"id":1,"seq":2,"op":"I","price":1}',
        b'{"id":1,"seq":2,"op":"D"}',
        b'{"id":1,"seq":2,"op":"T","price":2,"venue":"V"}',
    ]
    values += [
        b'{"id":1,"seq":2,"op":"U"}',
        b'{"id":1,"op":"D"}',
        b'{"seq":1,"op":"D"}',
        b'{"id":1,"seq":2,"op":"D","price":"1"}',
        None,
    ]

    found = by_block(Changes, recorded(values))

    assert found.fates == one_by_one(Changes, recorded(values)) == {
        100: ("1", "2", "I", "1.0000", "X", "false"),
        101: ("1", "2", "D", None, "X", "true"),
        102: ("1", "2", "T", "2.0000", "V", "true"),
        103: Why("price", "missing"),
        104: Why("seq", "missing"),
        105: Why("id", "missing"),
        106: Why("price", "text, expected a number"),
        107: Why("", "tombstone"),
    }  # fmt: skip
    assert 5 == found.doubtful


@contract(version=1, key=("id",), deleted=("what", ("gone",)))
class ByKey:
    """The record's key says what is deleted."""

    id: int
    what: str = column(record="key")
    price: Decimal = column(precision=18, scale=4)


def test_the_records_key_may_say_that_it_is_a_delete() -> None:
    """As any other column may."""
    for key, fate in (
        (b"gone", ("1", "gone", None, "true")),
        (b"here", Why("price", "missing")),
        (None, Why("what", "missing")),
    ):
        records = recorded([b'{"id":1}'], key=key)
        assert by_block(ByKey, records).fates == one_by_one(ByKey, records) == {100: fate}


def test_a_tombstone_deletes_where_key_and_order_are_the_records_own() -> None:
    """Key and timestamp are there without a value; a tombstone without one of them is refused (S9)."""
    for key, ms, fate in (
        (b"7", 0, ("7", "1970-01-01 00:00:00.000000000", None, "true")),
        (b"x", 0, Why("id", "a text that is no number")),
        (None, 0, Why("id", "missing")),
        (b"7", -1, Why("at", "missing")),
    ):
        records = recorded([None], key=key, timestamp_ms=ms)
        found = by_block(Compacted, records)
        assert found.fates == one_by_one(Compacted, records) == {100: fate}
        assert found.doubtful == isinstance(fate, Why)


def test_what_ends_like_a_tombstone_is_none() -> None:
    """The value null, an object or a text with the same end: each is what it is."""
    values = [
        b'{"price":1}',
        b"null",
        b"{}",
        b'{"price":2,"value":null}',
        b'{"a":1,"value":null}',
        b'"x,\\"value\\":null}"',
        b'[1,"value"]',
    ]
    records = recorded([*values, b"{", b""], key=b"7", timestamp_ms=0)

    found = by_block(Compacted, records).fates

    when = "1970-01-01 00:00:00.000000000"
    assert found == one_by_one(Compacted, records) == {
        100: ("7", when, "1.0000", "false"),
        101: Why("", "not an object"),
        102: Why("price", "missing"),
        103: ("7", when, "2.0000", "false"),
        104: Why("price", "missing"),
        105: Why("", "not an object"),
        106: Why("", "not an object"),
        107: Why("", "not JSON"),
        108: Why("", "not JSON"),
    }  # fmt: skip

"""Contracts that are inferred: they import, and take every record that they were inferred from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.contract import Contract
from headrace.demo import market
from headrace.infer import class_name, written
from headrace.json_text import parsed
from headrace.rows import Rejected, row

EDGES = [
    "0", "-0", "1", "-1", "0.1", "-0.0", "1e2", "1e-7", "1E400", "1e-400", "14.1234000000000000001",
    "9223372036854775807", "9223372036854775808", "1" * 38, "1" * 39, "0." + "1" * 38, "123456789012345678901234567890.12345678",
    '""', '"7"', '"1.50"', '"x"', r'"\ud800"', r'"\u0000"', '"2013-10-07T13:30:00.123456789Z"', '"2013-10-07T13:30:00+02:00"',
    '"2013-10-07"', '"2016-12-31T23:59:60Z"', "true", "false", "null", "[]", "{}", "[1,{}]", '{"a":1e400}',
    '{"a":' * 60 + "1" + "}" * 60,
    "1381152600123", "1381152600",
]  # fmt: skip
NAMES = [
    "symbol",
    "e",
    "E",
    "class",
    "str",
    "datetime",
    "_x",
    "__x__",
    "1st",
    "a b",
    "a-b",
    "a_b",
    "a.b",
    "",
    "é",
    "\n",
    '"""',
    "self",
]


def contract_of(text: str) -> Contract:
    """Import what was written, as `headrace load` would."""
    namespace = importlib.util.module_from_spec(importlib.util.spec_from_loader("inferred_contract", None))  # type: ignore[arg-type]
    exec(compile(text, "inferred.py", "exec", dont_inherit=True), namespace.__dict__)
    return Contract.of(namespace.__dict__["Row"])


def refused(found: Contract, values: Sequence[bytes]) -> list[Rejected]:
    rows = (row(found, value) for value in values)
    return [each for each in rows if isinstance(each, Rejected)]


def is_object(value: bytes) -> bool:
    try:
        return isinstance(parsed(value.decode()), dict)
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize("what", ["trades", "bars"])
def test_real_data(what: str):
    """Of real trades and bars each field becomes a column of the type that it has, and every record is a row."""
    values = [r.value or b"" for r in (market.trades("BAC") if what == "trades" else market.bars("AAPL"))]
    found = contract_of(written(values[::10], "Row", "here"))
    kinds = {"symbol": "text", "time": "timestamp", "exchange": "text", "conditions": "text", "suspicious": "boolean"}
    kinds |= {"size": "integer", "volume": "integer"} | dict.fromkeys(
        ["price", "open", "high", "low", "close"], "decimal"
    )
    assert [(c.name, kinds[c.name], False) for c in found.columns] == [
        (c.name, c.kind, c.nullable) for c in found.columns
    ]
    assert list(json.loads(values[0])) == [c.name for c in found.columns]
    assert [] == refused(found, values)


def test_comments():
    """What was seen and what is in doubt is said: nulls, ranges, times since the epoch, texts of a few values."""
    values = [
        f'{{"at":{1381152600123 + i},"side":"{"BS"[i % 2]}","n":{"null" if i % 100 == 7 else i}}}'.encode()
        for i in range(1000)
    ]
    text = written([*values, b"{", b"7", None], "Row", "here")
    assert "# null in 10 of 1,000\n    # 0 to 999\n    n: int | None" in text
    assert (
        '# a time since 1970? 2013-10-07 13:30:00 to 2013-10-07 13:30:01 in ms: then datetime = column(unit="ms")'
        in text
    )
    assert "# one of a few? column(one_of=('B', 'S'))" in text
    assert "# Inferred from 1,003 records of here; 1 of them are not JSON in UTF-8, and go to quarantine;" in text


def test_no_one_type():
    """A field that is text here and number there is left out, and said to be."""
    text = written([b'{"a":1,"b":2}', b'{"a":"x","b":3}'], "Row", "here")
    assert (
        "# left out: 'a': number in 1, text in 1: no one type takes all; name one, and the others go to quarantine"
        in text
    )
    assert ["b"] == [c.name for c in contract_of(text).columns]


def test_what_is_said_of_a_field_that_is_left_out():
    """It stands indented beneath it, and is not taken for the next column's."""
    text = written([b'{"a":1e400,"b":"x"}', b'{"a":null,"b":"y"}'], "Row", "here")
    lines = text[text.index("    # left out") :].splitlines()
    assert "left out: 'a': numbers of 401 digits" in lines[0]
    about = lines[1 : lines.index("    b: str")]
    assert "    #   null in 1 of 2" == about[0]
    assert all(line.startswith("    #   ") for line in about)


def test_headroom():
    """A decimal has room for more digits than were seen, 38 in all where that many were seen."""
    text = written([b'{"p":13.9501,"q":1.0000000000000000000000000000000000001}', b'{"p":200,"q":1}'], "Row", "here")
    columns = {c.name: (c.precision, c.scale) for c in contract_of(text).columns}
    assert {"p": (13, 6), "q": (38, 37)} == columns


@pytest.mark.parametrize("names", [NAMES, [n.upper() for n in NAMES]])
def test_names(names: list[str]):
    """Whatever fields are called, the file imports; each but those with a dot or no name at all is a column."""
    value = json.dumps({name: i for i, name in enumerate(names)}).encode()
    found = contract_of(written([value], "Row", "here"))
    assert [] == refused(found, [value])
    objects = json.loads(value)
    assert {c.source[0] for c in found.columns} == {n for n in objects if n and "." not in n and n.isprintable()}


@settings(max_examples=120)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), st.sampled_from(EDGES), max_size=5), max_size=8
    )
)
def test_takes_what_it_saw(objects: list[dict[str, str]]):
    """Adversarial JSON: the file imports, and no record that is an object is refused."""
    values = [
        ("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}").encode()
        for fields in objects
    ]
    found = contract_of(written([*values, b"[]"], "Row", "here"))
    assert [] == refused(found, [value for value in values if is_object(value)])


@pytest.mark.parametrize(("stream", "name"), [
    ("trades", "Trades"),
    ("market.us_trades", "MarketUsTrades"),
    ("7", "Stream7"),
    ("...", "Stream"),
    ("none", "StreamNone"),
])  # fmt: skip
def test_class_name(stream: str, name: str):
    """Any stream has a class that it can be called by."""
    assert name == class_name(stream)


def test_hostile_text_stays_in_its_comment():
    """A name or a value that holds code is code nowhere."""
    value = json.dumps({'x"""\nimport os': "'''\nraise SystemExit", "b": 1}).encode()
    found = contract_of(written([value] * 40, "Row", "here"))
    assert ["b"] == [c.name for c in found.columns]


def test_file_of_the_command(tmp_path: Path):
    """What is imported here is what the command writes."""
    pytest.importorskip("typer")
    from headrace.cli.app import run  # noqa: PLC0415 - with its extra only
    from headrace.contract import load_contract  # noqa: PLC0415

    (tmp_path / "t.jsonl").write_bytes(b"".join((r.value or b"") + b"\n" for r in market.bars("AAPL")))
    lake, out = f"file://{tmp_path}/lake", tmp_path / "bar.py"
    assert 0 == run(["stream", f"jsonl://{tmp_path}/t.jsonl", lake, "--until-end", "--flush-records", "100"])
    assert 0 == run(["contract", "infer", lake, "--name", "Bar", "--out", str(out)])
    assert 2 == run(["contract", "infer", lake, "--name", "Bar", "--out", str(out)])
    assert 2 == run(["contract", "infer", lake, "--name", "no name"])
    kept = Contract.of(load_contract(f"{out}:Bar"))
    assert [] == refused(kept, [r.value or b"" for r in market.bars("AAPL")])

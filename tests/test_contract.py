"""Contracts: what is written becomes columns, and what cannot be meant is told where it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from headrace.contract import Column, Contract, Deletion, column, contract, load_contract
from headrace.errors import ConfigError
from headrace.rows import row


@contract(version=3)
class Quote:
    """One quote."""

    symbol: str
    bid: Decimal = column(source="best.bid", precision=18, scale=4, minimum="0.01")
    size: int | None = column(text=True, maximum=10**6)
    at: datetime = column(unit="us")
    side: str = column(one_of=("B", "S"))
    odd_lot: bool


def test_columns():
    """A contract's fields are its columns, in their order, with all that was said of them."""
    assert Contract(
        "Quote",
        3,
        (
            Column("symbol", "text", source=("symbol",)),
            Column("bid", "decimal", source=("best", "bid"), precision=18, scale=4, minimum=Decimal("0.01")),
            Column("size", "integer", nullable=True, source=("size",), text=True, maximum=10**6),
            Column("at", "timestamp", source=("at",), unit="us"),
            Column("side", "text", source=("side",), one_of=("B", "S")),
            Column("odd_lot", "boolean", source=("odd_lot",)),
        ),
        "One quote.",
    ) == Contract.of(Quote)


@contract(
    version=1,
    key=("symbol", "id"),
    order=("time",),
    deleted=("op", ["D"]),
    cluster=["symbol"],
    ascending=[["low", "high"]],
)
class Bar:
    """All that a contract can say of a table."""

    symbol: str = column(record="key", max_length=8)
    id: int = column(record="offset")
    time: datetime = column(record="timestamp")
    op: str = column(one_of=("I", "D"), default="I")
    low: Decimal | None = column(precision=18, scale=4, default="0.10")
    high: Decimal | None = column(precision=18, scale=4)
    levels: list[int] | None = column(source="book.levels", default=[1.5, {"a": None}])
    more: dict[str, Any] | list[Any]


def test_tables():
    """Key, order, deletes, hints and row checks; defaults are cells; parts of the record have no name in its value."""
    found = Contract.of(Bar)

    assert (("symbol", "id"), ("time",), Deletion("op", ("D",))) == (found.key, found.order, found.deleted)
    assert (("symbol",), (("low", "high"),)) == (found.cluster, found.ascending)
    assert (
        Column("symbol", "text", record="key", max_length=8),
        Column("id", "integer", record="offset"),
        Column("time", "timestamp", record="timestamp", unit="ms"),
        Column("op", "text", source=("op",), one_of=("I", "D"), default="I"),
        Column("low", "decimal", nullable=True, source=("low",), precision=18, scale=4, default="0.1000"),
        Column("high", "decimal", nullable=True, source=("high",), precision=18, scale=4),
        Column("levels", "json", True, ("book", "levels"), default='[1.5,{"a":null}]', shapes=("array",)),
        Column("more", "json", source=("more",), shapes=("array", "object")),
    ) == found.columns
    assert [False, False, False, True, True, True, True, True] == [found.declared_nullable(c) for c in found.columns]
    assert found.tombstones


def test_a_tombstone_deletes_where_key_and_order_are_the_records_own():
    """Without a value only key, timestamp and offset are there; where more is needed it deletes nothing (S9)."""
    assert not Contract.of(keyed(key=("id",))).tombstones
    assert not Contract.of(keyed()).tombstones
    by_key = type("K", (), {"__annotations__": {"id": int, "n": int}, "id": column(record="key")})
    assert Contract.of(contract(version=1, key=("id",))(by_key)).tombstones
    assert not Contract.of(contract(version=1, key=("id",), order=("n",))(by_key)).tombstones


def test_defaults_are_there_in_python_too():
    """Rows of tests and scripts have them, and share none."""
    one, two = (Bar(symbol="A", id=1, time=datetime(2026, 1, 1), high=None, more={}) for _ in range(2))  # noqa: DTZ001
    assert ("I", "0.10", [1.5, {"a": None}]) == (one.op, one.low, one.levels)
    assert one.levels is not two.levels


def test_it_is_a_class_of_its_own():
    """A contract is an attrs class: rows can be made of it in tests and scripts."""
    quote = Quote(symbol="A", bid=Decimal(1), size=None, at=datetime(2026, 1, 1), side="B", odd_lot=False)  # noqa: DTZ001
    assert "A" == quote.symbol
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        quote.symbol = "B"


def test_a_default_as_python_writes_it():
    """It is one like any other: what stands there is meant."""
    found = Contract.of(declared(int, lambda: 5))
    assert ["5"] == [c.default for c in found.columns]
    assert [None] == [c.default for c in Contract.of(declared(int | None, lambda: None)).columns]
    assert ["5"] == row(found, b"{}")


def test_files_of_one_name(tmp_path):
    """Each is a module of its own: annotations that are texts mean what they mean in their file."""
    kinds = {"one": "from decimal import Decimal as Value", "two": "from datetime import datetime as Value"}
    text = "from __future__ import annotations\n{}\nfrom headrace.contract import contract\n"
    text += "@contract(version=1)\nclass X:\n    a: Value\n"
    for folder, line in kinds.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "contracts.py").write_text(text.format(line))
    found = [load_contract(f"{tmp_path}/{folder}/contracts.py:X") for folder in kinds]
    assert ["decimal", "timestamp"] == [Contract.of(kept).columns[0].kind for kept in found]


def test_a_subclass_is_no_contract():
    """A version is a class's own: it is never inherited unseen."""
    with pytest.raises(ConfigError, match=r"expected a class with @headrace\.contract"):
        Contract.of(type("Sub", (Quote,), {}))


def declared(hint: Any, value: Callable[[], Any] | None = None, name: str = "c") -> type:
    body: dict[str, Any] = {"__annotations__": {name: hint}}
    if value is not None:
        body[name] = value()
    return contract(version=1)(type("K", (), body))


def keyed(**table: Any) -> type:
    class K:
        id: int
        at: datetime
        maybe: int | None
        op: str = column(one_of=("I", "D"))
        low: Decimal = column(scale=0)
        high: Decimal = column(scale=38)
        more: list | dict

    return contract(version=1, **table)(K)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: declared(float), r"K\.c: found type <class 'float'>, expected one of str, int, Decimal, bool, datetime"),
    (lambda: declared(int | str), r"K\.c: found type int \| str"),
    (lambda: declared(list[int] | str), r"K\.c: found type list\[int\] \| str"),
    (lambda: declared(set[int]), r"K\.c: found type set\[int\]"),
    (lambda: declared(None), r"K\.c: found type <class 'NoneType'>"),
    (lambda: declared(int, name="_offset"), r"K\._offset: found a name that is none of a column"),
    (lambda: declared(int, name="é"), r"K\.é: found a name that is none of a column.*column\(source='é'\)"),
    (lambda: declared(str, lambda: column(unit="ms")), "unit is for moments, the column is text"),
    (lambda: declared(int, lambda: column(scale=2)), "precision and scale are for decimals, the column is integer"),
    (lambda: declared(int, lambda: column(source="a..b")), r"found source 'a\.\.b', expected names with one point between"),
    (lambda: declared(int, lambda: column(minimum=2, maximum=1)), "found minimum 2 above maximum 1: nothing would be taken"),
    (lambda: declared(str, lambda: column(one_of="abc")), "found one_of='abc', expected a tuple of texts"),
    (lambda: declared(str, lambda: column(one_of=(1, 2))), r"found one_of=\(1, 2\), expected texts"),
    (lambda: declared(int, lambda: "x"), "found default 'x', expected what the column can hold: it is integer"),
    (lambda: declared(int, lambda: None), "found a default of None, expected a value that the column can hold"),
    (lambda: declared(list, lambda: attrs.field(factory=list)), "found a default of Factory"),
    (lambda: declared(Decimal, lambda: column(precision=39)), "found precision 39 and scale 9"),
    (lambda: declared(Decimal, lambda: column(precision=0, scale=0)), "found precision 0"),
    (lambda: declared(Decimal, lambda: column(precision=4, scale=5)), "precision 4 and scale 5"),
    (lambda: declared(Decimal, lambda: column(scale=-1)), "scale -1"),
    (lambda: declared(datetime, lambda: column(unit="min")), "found unit 'min', expected one of iso, s, ms, us, ns"),
    (lambda: declared(str, lambda: column(text=True)), "text=True is for numbers"),
    (lambda: declared(int, lambda: column(one_of=("a",))), "one_of is for text, the column is integer"),
    (lambda: declared(str, lambda: column(minimum=1)), "minimum and maximum are for numbers, the column is text"),
    (lambda: declared(Decimal, lambda: column(minimum=0.1)), "found minimum=0.1, expected an integer, a Decimal"),
    (lambda: declared(Decimal, lambda: column(maximum="1,5")), "found maximum='1,5'"),
    (lambda: declared(Decimal, lambda: column(maximum="NaN")), "found maximum='NaN'"),
    (lambda: declared(int, lambda: column(minimum=True)), "found minimum=True"),
    (lambda: declared(int, lambda: column(max_length=3)), "max_length is for text, the column is integer"),
    (lambda: declared(str, lambda: column(max_length=0)), "found max_length 0, expected 1, 2, …"),
    (lambda: declared(bool, lambda: column(record="key")), "a record's key can be text or integer or decimal, the"),
    (lambda: declared(str, lambda: column(record="offset")), "a record's offset can be integer, the column is text"),
    (lambda: declared(str, lambda: column(record="headers")), "found record 'headers', expected one of value, key, timestamp"),
    (lambda: declared(str, lambda: column(record="key", source="a")), "found source 'a' and record 'key', expected one"),
    (lambda: declared(int, lambda: column(default="7")), "found default '7', expected what the column can hold: it is integer"),
    (lambda: declared(int, lambda: column(default=True)), "found default True, expected what the column can hold"),
    (lambda: declared(int, lambda: column(default=2**63)), "which the column itself refuses: beyond 64 bits"),
    (lambda: declared(int, lambda: column(default=-1, minimum=0)), "found default -1, which the column itself refuses: below 0"),
    (lambda: declared(Decimal, lambda: column(default=0.5)), "found default 0.5, expected what the column can hold"),
    (lambda: declared(Decimal, lambda: column(default="0.55", scale=1)), "refuses: more than 1 digits behind the point"),
    (lambda: declared(str, lambda: column(default="c", one_of=("a",))), "refuses: not one of the values that are allowed"),
    (lambda: declared(datetime, lambda: column(default=datetime(2026, 1, 1))), "refuses: not an ISO-8601 time"),  # noqa: DTZ001
    (lambda: declared(list, lambda: column(default={})), "refuses: an object, expected an array"),
    (lambda: declared(dict, lambda: column(default={1, 2})), "expected what the column can hold: it is json"),
    (lambda: keyed(key="id"), r"K: found key='id', expected a tuple of names, each once, such as \('symbol', 'id'\)"),
    (lambda: keyed(key=("id", "id")), "K: found key="),
    (lambda: keyed(key=("ID",)), "K: key names 'ID', and there is no such column; there are id, at, maybe, op, low, high, more"),
    (lambda: keyed(key=("maybe",)), "K: key names maybe, which may be None"),
    (lambda: keyed(key=("more",)), "K: key names more, which is json, expected one of text, boolean, integer"),
    (lambda: keyed(order=("at",)), "K: found order or deleted without a key"),
    (lambda: keyed(deleted=("op", ("D",))), "or deleted without a key"),
    (lambda: keyed(key=("id",), order=("op",)), "K: order names op, which is text, expected one of integer, decimal, timestamp"),
    (lambda: keyed(key=("id",), order=("id",)), "K: id is of the key and of the order"),
    (lambda: keyed(key=("id",), deleted="op"), r"K: found deleted='op', expected a column and its values, such as"),
    (lambda: keyed(key=("id",), deleted=("op", ())), "K: found deleted="),
    (lambda: keyed(key=("id",), deleted=("low", (1,))), "K: deleted is for text, integer or boolean columns, low is decimal"),
    (lambda: keyed(key=("id",), deleted=("op", (1,))), "K: found deleted value 1, which column op never has"),
    (lambda: keyed(key=("id",), deleted=("op", ("X",))), "K: found deleted value 'X', which column op never has"),
    (lambda: keyed(cluster=("more",)), "K: cluster names more, which is json"),
    (lambda: keyed(cluster=("none",)), "K: cluster names 'none', and there is no such column"),
    (lambda: keyed(ascending=("low", "high")), "K: found ascending=.*expected pairs of names"),
    (lambda: keyed(ascending=(("low", "op"),)), r"K: ascending names low \(decimal\) and op \(text\), expected two numbers"),
    (lambda: keyed(ascending=(("low", "low"),)), "K: ascending names low"),
    (lambda: keyed(ascending=(("low", "high"),)), "together they have more than 38 digits"),
    (lambda: contract(version=0), "found contract version 0"),
    (lambda: contract(version=True), "found contract version True"),
    (lambda: contract(version="1"), "found contract version '1'"),
    (lambda: contract(version=1)(type("K", (), {})), "K: found no column"),
    (lambda: contract(version=1)(type("K", (), {"__annotations__": {"price": int, "Price": int}})), r"K\.Price: a column of"),
    (lambda: Contract.of(int), "found <class 'int'>, expected a class with @headrace.contract"),
])  # fmt: skip
def test_what_cannot_be_meant(make: Callable[[], object], says: str):
    """A wrong declaration is an error when it is declared, and names the place."""
    with pytest.raises(ConfigError, match=says):
        make()


def test_load_from_a_file(tmp_path: Path):
    """A file is named by its path."""
    (tmp_path / "c.py").write_text(
        "from headrace.contract import contract\n@contract(version=1)\nclass K:\n    n: int\n"
    )
    assert "K" == load_contract(f"{tmp_path}/c.py:K").__name__


def test_load_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module is named as in an import, and may import others."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_a_package.py").write_text("from headrace.contract import contract\n")
    (tmp_path / "a_contract.py").write_text(
        "from of_a_package import contract\n@contract(version=1)\nclass K:\n    n: int\n"
    )
    try:
        assert "K" == load_contract("a_contract:K").__name__
    finally:
        for name in ("of_a_package", "a_contract"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(("text", "says"), [
    ("c.py", "expected MODULE:CLASS or FILE.py:CLASS"),
    ("{tmp}/c.py:", "expected MODULE:CLASS"),
    ("{tmp}/none.py:K", r"there is no file .*none\.py"),
    ("{tmp}/c.py:L", "has no class 'L'; contracts there: K"),
    ("{tmp}/c.py:Plain", "expected a class with @headrace.contract"),
    ("{tmp}/broken.py:K", r"cannot be imported: SyntaxError"),
    ("{tmp}/wrong.py:K", r"K\.n: found type <class 'float'>"),
    ("no.such.module:K", "cannot be imported: ModuleNotFoundError"),
])  # fmt: skip
def test_what_cannot_be_loaded(tmp_path: Path, text: str, says: str):
    """What is missing or wrong is named, as what it is."""
    head = "from headrace.contract import contract\n@contract(version=1)\nclass K:\n"
    (tmp_path / "c.py").write_text(f"{head}    n: int\nclass Plain: pass\n")
    (tmp_path / "wrong.py").write_text(f"{head}    n: float\n")
    (tmp_path / "broken.py").write_text("class K(:\n")
    with pytest.raises(ConfigError, match=says):
        load_contract(text.format(tmp=tmp_path))

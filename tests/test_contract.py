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

from headrace.contract import Column, Contract, column, contract, load_contract
from headrace.errors import ConfigError


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


def test_it_is_a_class_of_its_own():
    """A contract is an attrs class: rows can be made of it in tests and scripts."""
    quote = Quote(symbol="A", bid=Decimal(1), size=None, at=datetime(2026, 1, 1), side="B", odd_lot=False)  # noqa: DTZ001
    assert "A" == quote.symbol
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        quote.symbol = "B"


def test_a_subclass_is_no_contract():
    """A version is a class's own: it is never inherited unseen."""
    with pytest.raises(ConfigError, match=r"expected a class with @headrace\.contract"):
        Contract.of(type("Sub", (Quote,), {}))


def declared(hint: Any, value: Callable[[], Any] | None = None, name: str = "c") -> type:
    body: dict[str, Any] = {"__annotations__": {name: hint}}
    if value is not None:
        body[name] = value()
    return contract(version=1)(type("K", (), body))


@pytest.mark.parametrize(("make", "says"), [
    (lambda: declared(float), r"K\.c: found type <class 'float'>, expected one of str, int, Decimal, bool, datetime"),
    (lambda: declared(int | str), r"K\.c: found type int \| str"),
    (lambda: declared(list[int]), r"K\.c: found type list\[int\]"),
    (lambda: declared(int, name="_offset"), r"K\._offset: found a name that begins with '_'"),
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

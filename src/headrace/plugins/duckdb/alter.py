"""What it takes to make a table that is there into the table of a contract: a newer one, or one that was widened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.columns import Column
from headrace.contract import Contract
from headrace.loader import Change
from headrace.plugins.duckdb.tables import LINEAGE, expected
from headrace.typed.columns import literal, quoted

if TYPE_CHECKING:
    import duckdb

_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_BIGINT_DIGITS = 19


def changes(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> list[Change]:
    """Compare the table with the contract; nothing where it is not there yet, or as it should be."""
    found = connection.execute(
        "SELECT lower(column_name), column_name, data_type, is_nullable, column_default IS NOT NULL FROM duckdb_columns()"
        " WHERE table_name = ? AND schema_name = current_schema() AND database_name = current_database()",
        [target],
    ).fetchall()
    if not found:
        return []
    there = {lower: (name, kind, nullable) for lower, name, kind, nullable, _ in found}
    described = {column.name: column for column in contract.columns}
    wanted = expected(contract)
    said: list[Change] = []
    for name, (kind, nullable) in wanted.items():
        if name.lower() in there:
            said += _fitted(target, there[name.lower()], kind, nullable=nullable)
        else:
            said.append(_added(target, name, kind, described.get(name), nullable=nullable))
    known = {name.lower() for name in (*wanted, *LINEAGE)}
    said += (
        _loosened(target, name)
        for lower, name, _, nullable, filled in found
        if lower not in known and not nullable and not filled
    )
    return said


def _fitted(target: str, there: tuple[str, str, bool], kind: str, *, nullable: bool) -> Iterator[Change]:
    name, now, loose = there
    where = f"ALTER TABLE {quoted(target)} ALTER COLUMN {quoted(name)}"
    if now != kind and _widens(now, kind):
        yield Change(
            f"column {name}: {now} becomes {kind}, which holds all that is there", f"{where} SET DATA TYPE {kind}"
        )
    elif now != kind:
        yield Change(f"column {name} is {now}, and the contract says {kind}, which does not hold all of it")
    if nullable and not loose:
        yield Change(f"column {name} may be null from now on", f"{where} DROP NOT NULL")


def _added(target: str, name: str, kind: str, column: Column | None, *, nullable: bool) -> Change:
    add = f"ALTER TABLE {quoted(target)} ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}"
    if column is not None and column.default is not None:
        # the default is the contract's: a later one that names the column no more leaves it NULL
        forget = f"ALTER TABLE {quoted(target)} ALTER COLUMN {quoted(name)} DROP DEFAULT"
        return Change(
            f"column {name} is added; rows that are there get its default",
            f"{add} DEFAULT {literal(column.default)}; {forget}",
        )
    if nullable:
        return Change(f"column {name} is added; it is null in rows that are there", add)
    return Change(f"column {name} is not there and may not be null, and rows that are there have no value for it")


def _loosened(target: str, name: str) -> Change:
    if name.startswith("_"):
        return Change(f"column {name} is ours, and the contract has no use for it any more")
    return Change(
        f"column {name} is not the contract's any more; it stays, and is null from now on",
        f"ALTER TABLE {quoted(target)} ALTER COLUMN {quoted(name)} DROP NOT NULL",
    )


def _widens(now: str, kind: str) -> bool:
    """Whether every value of the one type is one of the other, unchanged."""
    wide = _DECIMAL.fullmatch(kind)
    if wide is None:
        return False
    whole, scale = int(wide[1]) - int(wide[2]), int(wide[2])
    narrow = _DECIMAL.fullmatch(now)
    if narrow is not None:
        return whole >= int(narrow[1]) - int(narrow[2]) and scale >= int(narrow[2])
    return now == "BIGINT" and whole >= _BIGINT_DIGITS

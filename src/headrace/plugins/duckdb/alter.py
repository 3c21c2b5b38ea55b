"""How DuckDB alters a table that is there (`headrace.typed.alter`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headrace.columns import Column
from headrace.contract import Contract
from headrace.loader import Change
from headrace.plugins.duckdb.tables import LINEAGE, expected
from headrace.typed import alter
from headrace.typed.columns import literal, quoted

if TYPE_CHECKING:
    import duckdb

_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_BIGINT_DIGITS = 19


def changes(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> list[Change]:
    """Compare the table with the contract; nothing where it is not there yet, or as it should be."""
    found = connection.execute(
        "SELECT column_name, data_type, is_nullable, column_default IS NOT NULL FROM duckdb_columns()"
        " WHERE table_name = ? AND schema_name = current_schema() AND database_name = current_database()",
        [target],
    ).fetchall()
    if not found:
        return []
    how = alter.Altering(
        quoted(target), quoted, _widened, lambda name, kind, column: _added(target, name, kind, column)
    )
    return alter.changes([alter.Found(*row) for row in found], contract, expected(contract), LINEAGE, how)


def _added(target: str, name: str, kind: str, column: Column | None) -> str:
    add = f"ALTER TABLE {quoted(target)} ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}"
    if column is None or column.default is None:
        return add
    # the default is the contract's: a later one that names the column no more leaves it NULL
    forget = f"ALTER TABLE {quoted(target)} ALTER COLUMN {quoted(name)} DROP DEFAULT"
    return f"{add} DEFAULT {literal(column.default)}; {forget}"


def _widened(now: str, kind: str, _: Column | None) -> str:
    return kind if now == kind or _widens(now, kind) else ""


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

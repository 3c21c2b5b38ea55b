"""
How Snowflake alters a table that is there (`headrace.typed.alter`).

Only what the service does without looking at a row, and what can be said twice (https://docs.snowflake.com/en/sql-reference/sql/alter-table,
its notes on columns): a NUMBER may get more digits before the point, not behind it; a VARCHAR may get longer; NOT NULL may go; a
column may come, with a default that is a constant. ``IF NOT EXISTS`` and ``DEFAULT`` exclude each other there; two loaders that
add such a column at once are told apart by looking again (`altered`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import HeadraceError
from headrace.loader import Change
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import LINEAGE, Tables, expected, literal, name, sql_type
from headrace.typed import alter, fields
from headrace.typed.alter import Altering, Found
from headrace.typed.columns import declared
from headrace.typed.fields import Fields

_NUMBER = re.compile(r"NUMBER\((\d+),(\d+)\)")
_VARCHAR = re.compile(r"VARCHAR\((\d+)\)")
_LONGEST = 16_777_216
"""Characters of a VARCHAR without a length."""


def columns(session: Session, tables: Tables) -> list[Found]:
    """The columns of the table, which is there."""
    described = session.execute(f"DESC TABLE {tables.rows}")
    return [Found(row[0], row[1], row[3] == "Y", row[4] is not None) for row in described]


def changes(tables: Tables, contract: Contract, found: Iterable[Found]) -> list[Change]:
    """Compare the table with the contract; nothing where it is as it should be."""
    how = Altering(tables.rows, name, _widened, lambda column, kind, about: added(tables, column, kind, about))
    return alter.changes(found, contract, expected(contract), LINEAGE, how)


def fitting(brought: Fields, found: Iterable[Found]) -> Fields:
    """Leave out fields of whose name the table has a column that they do not fit."""
    return fields.fitting(
        brought,
        {column.name: declared(column.kind, nullable=column.nullable) for column in found},
        lambda column: f"VARCHAR({_LONGEST})" if column.kind == "text" else sql_type(column),
    )


def additions(tables: Tables, brought: Iterable[Column]) -> list[Change]:
    """The DDL that adds columns that the stream has brought."""
    return [
        Change(f"column {c.name.upper()} is added, as the stream has it", added(tables, c.name, sql_type(c), c))
        for c in brought
    ]


def added(tables: Tables, column: str, kind: str, about: Column | None) -> str:
    """The statement that adds a column; "" where it would need a default that is no constant."""
    comment = f" COMMENT {literal(about.comment)}" if about is not None and about.comment else ""
    if about is None or about.default is None:
        return f"ALTER TABLE {tables.rows} ADD COLUMN IF NOT EXISTS {name(column)} {kind}{comment}"
    if about.kind == "json":
        return ""
    return (
        f"ALTER TABLE {tables.rows} ADD COLUMN {name(column)} {kind} DEFAULT {_constant(about, about.default)}{comment}"
    )


def altered(session: Session, wanted: Sequence[Change], left: Callable[[], Sequence[Change]]) -> None:
    """
    Make changes, one by one; what another loader has made meanwhile is made.

    Args:
        session: Outside of a transaction.

        wanted: The changes.

        left: Says what is still to be changed.

    Raises:
        HeadraceError: A change failed, and is still to be made. Those before it are made.
    """
    for change in wanted:
        try:
            session.execute(change.statement)
        except HeadraceError:
            if session.lost or change in left():
                raise


def _constant(column: Column, cell: str) -> str:
    if column.kind == "text":
        return literal(cell)
    return f"{literal(cell)}::TIMESTAMP_NTZ(9)" if column.kind == "timestamp" else cell.upper()


def _widened(now: str, kind: str, column: Column | None) -> str:
    long = _VARCHAR.fullmatch(now)
    if kind == "VARCHAR" and long is not None:
        needed = _LONGEST if column is None or column.max_length is None else min(column.max_length, _LONGEST)
        return now if int(long[1]) >= needed else f"VARCHAR({_LONGEST})"
    narrow, wide = _NUMBER.fullmatch(now), _NUMBER.fullmatch(kind)
    if narrow is not None and wide is not None and narrow[2] == wide[2] and int(narrow[1]) <= int(wide[1]):
        return kind
    return now if now == kind else ""

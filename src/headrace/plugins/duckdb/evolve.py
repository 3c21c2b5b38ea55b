"""Columns that a stream has brought: remembered beside the target, so that every loader knows what they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import duckdb

from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import SinkUnavailableError
from headrace.loader import Change
from headrace.typed.columns import quoted, sql_type

if TYPE_CHECKING:
    from headrace.columns import Kind, Shape

_TABLE = (
    "CREATE TABLE IF NOT EXISTS headrace_columns (target VARCHAR, name VARCHAR, kind VARCHAR NOT NULL,"
    " digits INTEGER NOT NULL, scale INTEGER NOT NULL, added_at TIMESTAMPTZ NOT NULL, PRIMARY KEY (target, name))"
)


def evolved(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> Contract:
    """The contract with the columns that the stream has brought; one that it names itself is as it says."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_columns'").fetchall():
        return contract
    named = {column.name.lower() for column in contract.columns}
    found = connection.execute(
        "SELECT name, kind, digits, scale FROM headrace_columns WHERE target = ? ORDER BY added_at, name", [target]
    ).fetchall()
    more = [_column(*row) for row in found if row[0].lower() not in named]
    return attrs.evolve(contract, columns=(*contract.columns, *more)) if more else contract


def additions(target: str, columns: Sequence[Column]) -> list[Change]:
    """The DDL that adds columns."""
    return [
        Change(
            f"column {column.name} is added, as the stream has it",
            f"ALTER TABLE {quoted(target)} ADD COLUMN IF NOT EXISTS {quoted(column.name)} {sql_type(column)}",
        )
        for column in columns
    ]


def remember(connection: duckdb.DuckDBPyConnection, target: str, columns: Sequence[Column]) -> None:
    """
    Add columns to a target and to what is known of it, both or neither; where another loader was first, its kind stands.

    Raises:
        SinkUnavailableError: Another loader does the same at this moment; nothing was changed.
    """
    try:
        connection.execute(_TABLE)
        connection.execute("BEGIN")
        for column in columns:
            connection.execute(
                "INSERT INTO headrace_columns VALUES (?, ?, ?, ?, ?, now()) ON CONFLICT DO NOTHING",
                [target, column.name, column.kind, column.precision, column.scale],
            )
        wanted = {c.name: c for c in evolved(connection, target, Contract("", 1, ())).columns}
        for change in additions(target, [wanted[column.name] for column in columns]):
            connection.execute(change.statement)
        connection.execute("COMMIT")
    except (duckdb.TransactionException, duckdb.ConstraintException, duckdb.CatalogException) as exc:
        with suppress(duckdb.Error):  # none was begun, or the failed COMMIT has ended it
            connection.execute("ROLLBACK")
        raise SinkUnavailableError(f"{target} is being altered by another loader; try again") from exc


def _column(name: str, kind: Kind, digits: int, scale: int) -> Column:
    shapes: tuple[Shape, ...] = ("object", "array") if kind == "json" else ()
    return Column(name, kind, nullable=True, source=(name,), precision=digits, scale=scale, shapes=shapes)

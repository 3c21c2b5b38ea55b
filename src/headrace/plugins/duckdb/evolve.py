"""Columns that a stream has brought: remembered beside the target, so that every loader knows what they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import duckdb

from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import SinkUnavailableError
from headrace.loader import Change
from headrace.typed import fields
from headrace.typed.columns import declared, quoted, sql_type
from headrace.typed.fields import Fields, with_brought

_TABLE = (
    "CREATE TABLE IF NOT EXISTS headrace_columns (target VARCHAR, name VARCHAR, kind VARCHAR NOT NULL,"
    " digits INTEGER NOT NULL, scale INTEGER NOT NULL, added_at TIMESTAMPTZ NOT NULL, PRIMARY KEY (target, name))"
)


def evolved(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> Contract:
    """The contract with the columns that the stream has brought; one that it names itself is as it says."""
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_columns'").fetchall():
        return contract
    found = connection.execute(
        "SELECT name, kind, digits, scale FROM headrace_columns WHERE target = ? ORDER BY added_at, name", [target]
    ).fetchall()
    return with_brought(contract, found)


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


def fitting(connection: duckdb.DuckDBPyConnection, target: str, found: Fields) -> Fields:
    """
    Leave out fields of whose name the target has a column that they do not fit.

    The contract may have named it once (`headrace.plugins.duckdb.alter`), or somebody has added it by hand. To remember it as
    something else would keep every loader out.
    """
    there = connection.execute(
        "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = ?"
        " AND schema_name = current_schema() AND database_name = current_database()",
        [target],
    ).fetchall()
    return fields.fitting(found, {name: declared(kind, nullable=nullable) for name, kind, nullable in there}, sql_type)


def forget(connection: duckdb.DuckDBPyConnection, target: str, contract: Contract) -> None:
    """Forget the columns that a contract has named since and gives another type; a later one that does not passes them over."""
    brought = {column.name: column for column in evolved(connection, target, Contract("", 1, ())).columns}
    for column in contract.columns:
        for name, known in brought.items():
            if name.lower() == column.name.lower() and sql_type(known) != sql_type(column):
                connection.execute("DELETE FROM headrace_columns WHERE target = ? AND name = ?", [target, name])

"""How staged rows become the target's: all of them, or of each business key the newest (S8, S9, S10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headrace.contract import Contract
from headrace.errors import CommitUnknownError
from headrace.plugins.duckdb.tables import HELD, LINEAGE, PLACE
from headrace.typed.columns import quoted
from headrace.typed.newest import newer, newest, same
from headrace.typed.staging import DELETED

if TYPE_CHECKING:
    import duckdb


def prepare(connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Where the contract has a key, make the table in which its newest rows are chosen, before the transaction (S4)."""
    if contract.key:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT *, true AS _new FROM ({_placed(contract)}) LIMIT 0"
        )


def write_rows(
    connection: duckdb.DuckDBPyConnection,
    target: str,
    contract: Contract,
    held: Mapping[str, object],
    only: str = "true",
) -> int:
    """
    Write the staged rows and return how many the target has more than before.

    Args:
        connection: Inside a transaction that holds the lock row, with ``staged`` and ``segments``, after `prepare`.

        target: The table.

        contract: What was staged by.

        held: Target and attempt.

        only: A condition on the staged row ``r`` and its segment ``s``.

    Raises:
        CommitUnknownError: A statement did less than the one before it saw; the transaction must not be committed.
    """
    [(database,)] = connection.execute("SELECT current_database()").fetchall()
    table = (
        f"{quoted(database)}.main.{quoted(target)}"  # a temporary table of ours may have its name, and would be meant
    )
    names = ", ".join(_names(contract))
    placed = f"{_placed(contract)} WHERE {HELD} AND {only}"
    if not contract.key:
        return changed(connection, f"INSERT INTO {table} ({names}) SELECT {names} FROM ({placed})", held)
    changed(
        connection,
        f"INSERT INTO chosen SELECT w.*, NOT EXISTS (SELECT 1 FROM {table} t WHERE {same(contract, 't', 'w')})"
        f" FROM (SELECT * FROM ({placed}) {newest(contract)}) w",
        held,
    )
    columns = ", ".join(f"{name} = w.{name}" for name in _names(contract))
    changed(
        connection,
        f"UPDATE {table} t SET {columns} FROM chosen w WHERE NOT w._new AND {same(contract, 't', 'w')}"
        f" AND {newer(contract, 'w', 't')} AND {HELD}",
        held,
    )
    inserted = changed(
        connection, f"INSERT INTO {table} ({names}) SELECT {names} FROM chosen WHERE _new AND {HELD}", held
    )
    [(new,)] = connection.execute("SELECT count(*) FROM chosen WHERE _new").fetchall()
    if inserted != new:
        raise CommitUnknownError(f"{target}: {inserted} of {new} new rows went in; nothing is kept")
    return inserted


def inserted(contract: Contract, accepted: str) -> str:
    """How many rows the target has more by a file ``s``, after `write_rows`, of those that were *accepted* from it."""
    return "(SELECT count(*) FROM chosen w WHERE w._file = s.file AND w._new)" if contract.key else accepted


def changed(connection: duckdb.DuckDBPyConnection, statement: str, values: Mapping[str, object]) -> int:
    """Run a statement and return how many rows it changed."""
    [(count,)] = connection.execute(statement, dict(values)).fetchall()
    return int(count)


def _names(contract: Contract) -> list[str]:
    deleted = [DELETED] if contract.key else []
    return [*(quoted(c.name) for c in contract.columns), *deleted, *LINEAGE]


def _placed(contract: Contract) -> str:
    """The staged rows as the target has them, each with its file."""
    columns = ", ".join(f"r.{name}" for name in _names(contract)[: -len(LINEAGE)])
    place = ", ".join(f"{value} AS {name}" for value, name in zip(PLACE.split(", "), LINEAGE, strict=False))
    return f"SELECT r._file, {columns}, {place}, r._offset, r._timestamp_ms FROM staged r JOIN segments s ON s.file = r._file"

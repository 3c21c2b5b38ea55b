"""
Columns that a stream has brought: remembered beside the target, so that every loader knows what they are.

DDL cannot be of a transaction here (S4). So a column is remembered first, in a transaction that holds the target's lock row: one
kind each, whoever is first. Then it is added to the table, by whoever comes next and finds it remembered and not there. Killed
between the two, the next loader adds it; the other order would leave a column of which nobody knows what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import CommitUnknownError
from headrace.plugins.snowflake.connection import Row, Session
from headrace.plugins.snowflake.tables import Tables, sql_type
from headrace.typed.fields import with_brought


def remembered(session: Session, tables: Tables) -> list[Row]:
    """What is known of the target's own: name, kind, and the digits of a decimal, in the order in which they came."""
    found = session.execute(
        f"SELECT NAME, KIND, DIGITS, SCALE FROM {tables.columns} WHERE TARGET = %s ORDER BY ADDED_AT, NAME",
        tables.target,
    )
    return [(column, kind, int(digits), int(scale)) for column, kind, digits, scale in found]


def remember(session: Session, tables: Tables, attempt: str, columns: Iterable[Column]) -> Sequence[Column]:
    """
    Remember columns that nobody has remembered yet, and return them.

    Args:
        session: Inside a transaction that holds the target's lock row.

        tables: The target's.

        attempt: Its id.

        columns: What the stream has.
    """
    known = {row[0].lower() for row in remembered(session, tables)}
    new = [column for column in columns if column.name.lower() not in known]
    for column in new:
        noted = session.changed(
            f"INSERT INTO {tables.columns} (TARGET, NAME, KIND, DIGITS, SCALE, ADDED_AT) SELECT %s, %s, %s, %s, %s, SYSDATE()"
            f" WHERE {tables.held}",
            *(tables.target, column.name, column.kind, column.precision, column.scale, attempt),
        )
        if noted != 1:
            raise CommitUnknownError(f"{tables.target}: the transaction was lost, nothing is kept")
    return new


def outgrown(brought: Iterable[Row], contract: Contract) -> list[str]:
    """Which of the remembered columns a contract has named since and gives another type."""
    named = {column.name.lower(): sql_type(column) for column in contract.columns}
    known = {column.name: sql_type(column) for column in with_brought(Contract("", 1, ()), brought).columns}
    return [column for column, kind in known.items() if named.get(column.lower(), kind) != kind]


def forget(session: Session, tables: Tables, attempt: str, columns: Iterable[str]) -> None:
    """Forget columns, inside a transaction that holds the lock row; a later contract that does not name them passes them over."""
    for column in columns:
        session.changed(
            f"DELETE FROM {tables.columns} WHERE TARGET = %s AND NAME = %s AND {tables.held}",
            *(tables.target, column, attempt),
        )

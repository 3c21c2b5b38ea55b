"""Targets that another one has taken over from (`headrace.typed.replaced`), and the statement that closes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.errors import CommitUnknownError
from headrace.plugins.duckdb.tables import HELD
from headrace.typed import replaced
from headrace.typed.replaced import REPLACED

if TYPE_CHECKING:
    import duckdb


def successor(connection: duckdb.DuckDBPyConnection, target: str) -> str:
    """The target that readers of *target* see."""
    return replaced.successor(_successors(connection), target)


def predecessors(connection: duckdb.DuckDBPyConnection, target: str) -> list[str]:
    """The targets whose readers see *target*, but for itself."""
    return replaced.predecessors(_successors(connection), target)


def refuse_replaced(connection: duckdb.DuckDBPyConnection, target: str) -> None:
    """ConfigError where another target has taken over from this one."""
    replaced.refuse_replaced(_successors(connection), target)


def close(connection: duckdb.DuckDBPyConnection, old: str, target: str, attempt: str) -> None:
    """
    Close *old* in favour of *target*, inside a transaction that holds *target*'s lock row.

    Raises:
        PositionConflictError: *old* is ahead in some line.
    """
    closed = connection.execute(
        "UPDATE headrace_lock SET owner = $attempt, contract = $target, contract_version = $replaced"
        f" WHERE target = $old AND {HELD}",
        {"attempt": attempt, "target": target, "old": old, "replaced": REPLACED},
    ).fetchall()[0][0]
    if closed != 1:
        raise CommitUnknownError(f"{target}: the transaction was lost, nothing is kept")
    ahead = connection.execute(
        'SELECT dataset, stream, "partition", max(end_offset) FILTER (target = $old) AS was,'
        " coalesce(max(end_offset) FILTER (target = $target), 0) AS is_now"
        " FROM headrace_ledger WHERE target IN ($old, $target) AND kind IN ('load', 'begin_at')"
        ' GROUP BY dataset, stream, "partition" HAVING was > is_now ORDER BY ALL LIMIT 1',
        {"old": old, "target": target},
    ).fetchall()
    for dataset, stream, number, was, now in ahead:
        replaced.refuse_ahead(old, target, (dataset, stream, number), was, now)


def _successors(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_lock'").fetchall():
        return {}
    return dict(
        connection.execute(
            "SELECT target, contract FROM headrace_lock WHERE contract_version = ?", [REPLACED]
        ).fetchall()
    )

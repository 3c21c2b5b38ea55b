"""
Targets that another one has taken over from: what their readers see, and that nothing is loaded into them any more.

The lock row of such a target names its successor in the place of a contract, with a version that no contract has; so whoever
would load it fails at the first statement of its transaction, also one that was on its way (S2, S7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.errors import CommitUnknownError, ConfigError, PositionConflictError
from headrace.plugins.duckdb.tables import HELD
from headrace.records import Partition

if TYPE_CHECKING:
    import duckdb

REPLACED = 2**31 - 1
"""The version that a closed target's lock row has."""


def successor(connection: duckdb.DuckDBPyConnection, target: str) -> str:
    """The target that readers of *target* see."""
    following = _successors(connection)
    while target in following:
        target = following[target]
    return target


def predecessors(connection: duckdb.DuckDBPyConnection, target: str) -> list[str]:
    """The targets whose readers see *target*, but for itself."""
    return sorted(name for name in _successors(connection) if successor(connection, name) == target)


def refuse_replaced(connection: duckdb.DuckDBPyConnection, target: str) -> None:
    """ConfigError where another target has taken over from this one."""
    now = successor(connection, target)
    if now != target:
        raise ConfigError(
            f"{target} was replaced by {now} (headrace reload), which its readers see now: load ?table={now} instead; nothing"
            f" was written to {target}, which may be dropped"
        )


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
        raise PositionConflictError(
            f"{old} is at {was} of {Partition(stream, number)} (dataset {dataset}), {target} at {now}: load {target} first",
            expected=was,
            found=None,
        )


def _successors(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    if not connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_lock'").fetchall():
        return {}
    return dict(
        connection.execute(
            "SELECT target, contract FROM headrace_lock WHERE contract_version = ?", [REPLACED]
        ).fetchall()
    )

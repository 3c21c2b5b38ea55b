"""Views for readers, made together with the tables."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.contract import Contract
from headrace.plugins.duckdb.tables import LINEAGE
from headrace.typed.columns import quoted
from headrace.typed.staging import DELETED


def current(target: str) -> str:
    """The name of the view that shows what is there now: without the rows that were deleted."""
    return f"{target}_current"


def columns(contract: Contract) -> list[str]:
    """What the view shows: the contract's columns, then where each row comes from."""
    return [*(c.name for c in contract.columns), *LINEAGE]


def statements(target: str, contract: Contract, there: Sequence[str], source: str = "") -> list[str]:
    """
    The DDL of the views, outside of any transaction (S4); none where they are as they should be.

    Args:
        target: The table, which is there.

        contract: What its rows are.

        there: The columns that the view has now; empty where there is none.

        source: The table that has taken over from the target (`headrace.loader.Loader.take_over`); "" for the target itself.
    """
    wanted = columns(contract)
    if list(there) == wanted:
        return []
    made = "CREATE OR REPLACE VIEW" if there else "CREATE VIEW IF NOT EXISTS"
    return [f"{made} {_query(target, contract, source or target)}"]


def repointed(target: str, contract: Contract, source: str) -> str:
    """The statement that lets the readers of a target see another table, which a contract describes."""
    return f"CREATE OR REPLACE VIEW {_query(target, contract, source)}"


def _query(target: str, contract: Contract, source: str) -> str:
    only = f" WHERE NOT {DELETED}" if contract.key else ""
    names = ", ".join(map(quoted, columns(contract)))
    return f"{quoted(current(target))} AS SELECT {names} FROM {quoted(source)}{only}"

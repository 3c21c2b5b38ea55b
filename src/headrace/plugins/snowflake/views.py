"""
The views for readers: what is there now, and bars. They follow the contract, the columns that came, and whoever took over.

A view's comment ends with a digest of what made it; a view with another one is made anew. ``CREATE OR REPLACE`` is one step for
readers, and ``COPY GRANTS`` lets them keep their rights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from headrace.contract import Contract
from headrace.plugins.snowflake.bars import bars_columns, bars_query
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import LINEAGE, Tables, expected, literal, name
from headrace.typed.staging import DELETED

_DIGITS = 12


def comments(session: Session, schema: str) -> dict[str, str]:
    """The views that are there, quoted, each with its comment."""
    found = session.execute(
        "SELECT TABLE_NAME AS N, COMMENT AS C FROM INFORMATION_SCHEMA.VIEWS WHERE TABLE_SCHEMA = %s", schema
    )
    return {name(view): comment or "" for view, comment in found}


def statements(tables: Tables, contract: Contract, readers: Iterable[str], there: Mapping[str, str]) -> list[str]:
    """
    The DDL of the views, outside of any transaction (S4), safe to repeat; none where they are as they should be.

    Args:
        tables: The target's.

        contract: What its rows are.

        readers: The targets whose readers see this one: itself, and those that it has taken over from.

        there: The views that are there, with their comments.
    """
    said = []
    for target in map(Tables, readers):
        made = {target.current: _current(tables, contract)}
        if contract.bars is not None:
            made[target.bars] = _bars(tables, contract)
        for view, (columns, words, query) in made.items():
            digest = _digest(contract, columns, query)
            if not there.get(view, "").endswith(f"[{digest}]"):
                said.append(_statement(view, columns, f"{words} [{digest}]", query, new=view not in there))
    return said


def following(session: Session, view: str, successor: str) -> str:
    """The statement that lets a view show what another one shows, whose contract is not known here."""
    columns = ", ".join(name(row[0]) for row in session.execute(f"DESC VIEW {successor}"))
    return f"CREATE OR REPLACE VIEW {view} COPY GRANTS AS SELECT {columns} FROM {successor}"


def _current(tables: Tables, contract: Contract) -> tuple[dict[str, str], str, str]:
    only = f" WHERE NOT {name(DELETED)}" if contract.key else ""
    columns = {**{c.name: c.comment for c in contract.columns}, **dict.fromkeys(LINEAGE, "")}
    words = f"What is there now of {tables.target}, made by headrace from contract {contract.name}."
    return columns, words, f"SELECT {', '.join(map(name, columns))} FROM {tables.rows}{only}"


def _bars(tables: Tables, contract: Contract) -> tuple[dict[str, str], str, str]:
    source = tables.current if contract.key else tables.rows
    words = f"One-minute bars of {tables.target}, made by headrace from contract {contract.name}."
    return bars_columns(contract), words, bars_query(contract, source, name, literal)


def _statement(view: str, columns: Mapping[str, str], comment: str, query: str, *, new: bool) -> str:
    make, kept = ("CREATE VIEW IF NOT EXISTS", "") if new else ("CREATE OR REPLACE VIEW", " COPY GRANTS")
    listed = ", ".join(name(n) + (f" COMMENT {literal(words)}" if words else "") for n, words in columns.items())
    return f"{make} {view} ({listed}){kept} COMMENT = {literal(comment)} AS {query}"


def _digest(contract: Contract, columns: Mapping[str, str], query: str) -> str:
    """Of the types, too: a view of columns that were widened is made anew, whatever the service would make of it."""
    whole = repr((sorted(columns.items()), query, sorted(expected(contract).items())))
    return hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]

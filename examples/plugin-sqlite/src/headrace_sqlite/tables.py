"""The tables: targets, their quarantines, the ledger, the lock rows."""

from __future__ import annotations

from typing import Any

from headrace import Selection
from headrace.contract import Column, Contract

LEDGER = """CREATE TABLE IF NOT EXISTS headrace_ledger (
    dataset TEXT NOT NULL, stream TEXT NOT NULL, "partition" INTEGER NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
    start_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL, records INTEGER NOT NULL, inserted INTEGER NOT NULL,
    superseded INTEGER NOT NULL, rejected INTEGER NOT NULL, digest TEXT, contract_version INTEGER NOT NULL,
    attempt TEXT NOT NULL)"""
LOCK = """CREATE TABLE IF NOT EXISTS headrace_lock (
    target TEXT PRIMARY KEY, owner TEXT, contract_version INTEGER NOT NULL)"""
LINEAGE = "_dataset TEXT NOT NULL, _stream TEXT NOT NULL, _partition INTEGER NOT NULL, _offset INTEGER NOT NULL"
PLACE = "_dataset, _stream, _partition, _offset"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def declared(contract: Contract, column: Column) -> str:
    """A column's type; one that has TEXT in its name keeps what it is given, digit by digit."""
    kinds = {"integer": "INTEGER", "boolean": "INTEGER", "decimal": f"DECIMALTEXT({column.precision},{column.scale})"}
    kind = kinds.get(column.kind, "TEXT")
    return kind if contract.declared_nullable(column) else f"{kind} NOT NULL"


def statements(target: str, contract: Contract) -> list[str]:
    """All DDL, each safe to repeat; it runs before a transaction, never inside (S4)."""
    columns = ", ".join(f"{quoted(c.name)} {declared(contract, c)}" for c in contract.columns)
    unique = ", ".join(map(quoted, contract.key)) or PLACE  # a row is known by its key, or by its place in the log (S1)
    table, refused = quoted(target), quoted(f"{target}_quarantine")
    rows = (
        f"CREATE TABLE IF NOT EXISTS {table} ({columns}, _deleted INTEGER NOT NULL, {LINEAGE},"
        f" _timestamp_ms INTEGER NOT NULL, UNIQUE ({unique}))"
    )
    quarantine = (
        f"CREATE TABLE IF NOT EXISTS {refused} ({LINEAGE}, _timestamp_ms INTEGER NOT NULL, contract TEXT NOT NULL,"
        ' contract_version INTEGER NOT NULL, "column" TEXT NOT NULL, reason TEXT NOT NULL, line BLOB NOT NULL,'
        f" UNIQUE ({PLACE}))"
    )
    found = [LEDGER, LOCK, rows, quarantine]
    if contract.key:
        view = quoted(f"{target}_current")
        found.append(f"CREATE VIEW IF NOT EXISTS {view} AS SELECT * FROM {table} WHERE NOT _deleted")
    return found


def there(connection: Any, name: str) -> bool:
    """Whether there is a table or a view of this name."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchall())


def held(column: Column, text: str | None) -> str | int | None:
    """A cell as SQLite holds it."""
    if text is None or column.kind not in ("integer", "boolean"):
        return text
    return int(text) if column.kind == "integer" else int(text == "true")


def where(selection: Selection) -> tuple[str, list[object]]:
    """A selection as a condition on a quarantine table, with its values."""
    named = {
        "_stream": selection.stream if selection.partition is None else selection.partition.stream,
        "_partition": None if selection.partition is None else selection.partition.number,
        "_dataset": selection.dataset_id,
        "reason": selection.reason,
        '"column"': selection.column,
    }
    given = {column: wanted for column, wanted in named.items() if wanted is not None}
    conditions = ["_offset >= ?", "_offset < ?", *(f"{column} = ?" for column in given)]
    if selection.partition is not None and selection.stream not in (None, selection.partition.stream):
        conditions.append("false")  # it is of that stream and of another one
    return " AND ".join(conditions), [
        selection.start,
        2**62 if selection.end is None else selection.end,
        *given.values(),
    ]

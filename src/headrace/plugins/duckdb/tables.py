"""The tables of a DuckDB warehouse: targets, their quarantines, the ledger, the lock rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.contract import Contract
from headrace.errors import ConfigError
from headrace.typed.columns import declared, literal, quoted, sql_type
from headrace.typed.staging import DELETED

if TYPE_CHECKING:
    import duckdb

LINEAGE = ("_dataset", "_stream", "_partition", "_offset", "_timestamp_ms")
"""A row's place in the log, which is its identity (S1), and the record's own timestamp."""

LEDGER = """
CREATE TABLE IF NOT EXISTS headrace_ledger (
    dataset VARCHAR NOT NULL, stream VARCHAR NOT NULL, "partition" INTEGER NOT NULL, target VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, start_offset BIGINT NOT NULL, end_offset BIGINT NOT NULL,
    records BIGINT NOT NULL, inserted BIGINT NOT NULL, superseded BIGINT NOT NULL, rejected BIGINT NOT NULL,
    digest VARCHAR, contract VARCHAR NOT NULL, contract_version INTEGER NOT NULL,
    attempt VARCHAR NOT NULL, loaded_at TIMESTAMPTZ NOT NULL)
"""

LOCK = """
CREATE TABLE IF NOT EXISTS headrace_lock (
    target VARCHAR PRIMARY KEY, owner VARCHAR, contract VARCHAR NOT NULL, contract_version INTEGER NOT NULL)
"""

HELD = "EXISTS (SELECT 1 FROM headrace_lock WHERE target = $target AND owner = $attempt)"
"""S3: the attempt's id is uncommitted, so it is seen only inside this transaction; outside it no statement touches a row."""

PLACE = 's.dataset, s.stream, s."partition"'
"""Where the lines of a staged file come from."""


def quarantine(target: str) -> str:
    """The name of a target's quarantine table."""
    return f"{target}_quarantine"


def refuse_taken(connection: duckdb.DuckDBPyConnection, target: str, view: str) -> None:
    """ConfigError where something else has the name of a target or of its view: DuckDB does not tell case, the ledger does."""
    found = connection.execute(
        "SELECT name, kind FROM (SELECT table_name AS name, 'table' AS kind, schema_name, database_name FROM duckdb_tables()"
        " UNION ALL SELECT view_name, 'view', schema_name, database_name FROM duckdb_views())"
        " WHERE schema_name = current_schema() AND database_name = current_database() AND lower(name) IN (lower(?), lower(?))",
        [target, view],
    ).fetchall()
    for name, kind in found:
        if (name, kind) not in ((target, "table"), (view, "view")):
            wanted = f"table {target!r}" if name.lower() == target.lower() else f"the view {view!r} of {target!r}"
            raise ConfigError(
                f"found {wanted}, and there is a {kind} {name!r}: name the table as it is written there, or another one"
            )


def expected(contract: Contract) -> dict[str, tuple[str, bool]]:
    """What columns a target has before its lineage: the type of each and whether it may be NULL."""
    found = {c.name: (sql_type(c), contract.declared_nullable(c)) for c in contract.columns}
    return {**found, DELETED: ("BOOLEAN", False)} if contract.key else found


def statements(target: str, contract: Contract, comment: str | None) -> list[str]:
    """All DDL, each safe to repeat; run before a transaction, never inside (S4). *comment* is what the table has now."""
    lineage = (
        "_dataset VARCHAR NOT NULL, _stream VARCHAR NOT NULL, _partition INTEGER NOT NULL, _offset BIGINT NOT NULL"
    )
    columns = ", ".join(
        f"{quoted(name)} {declared(kind, nullable=nullable)}" for name, (kind, nullable) in expected(contract).items()
    )
    rows = f"CREATE TABLE IF NOT EXISTS {quoted(target)} ({columns}, {lineage}, _timestamp_ms BIGINT NOT NULL)"
    refused = (
        f"CREATE TABLE IF NOT EXISTS {quoted(quarantine(target))} ({lineage}, _timestamp_ms BIGINT NOT NULL,"
        ' contract VARCHAR NOT NULL, contract_version INTEGER NOT NULL, "column" VARCHAR NOT NULL, reason VARCHAR NOT NULL,'
        " line BLOB NOT NULL, loaded_at TIMESTAMPTZ NOT NULL)"
    )
    found = [LEDGER, LOCK, rows, refused]
    if contract.doc and contract.doc != comment:  # an ALTER, which two loaders at once could not both do
        found.append(f"COMMENT ON TABLE {quoted(target)} IS {literal(contract.doc)}")
    return found

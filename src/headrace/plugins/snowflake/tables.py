"""The tables of a schema in Snowflake: the target, its quarantine and its lock row, the ledger, and the stage."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from headrace.contract import Column, Contract
from headrace.typed.alter import Found
from headrace.typed.columns import declared
from headrace.typed.staging import DELETED

LINEAGE = ("_DATASET", "_STREAM", "_PARTITION", "_OFFSET", "_TIMESTAMP_MS")
"""A row's place in the log, which is its identity (S1), and the record's own timestamp."""

PLACE = LINEAGE[:4]

_LINEAGE_TYPES = ("VARCHAR", "VARCHAR", "NUMBER(10,0)", "NUMBER(19,0)", "NUMBER(19,0)")
_TYPES = {
    "text": "VARCHAR",
    "integer": "NUMBER(19,0)",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP_NTZ(9)",
    "json": "VARIANT",
}
LINE = "BINARY(67108864)"
"""The service's longest; 8 MB where no length is given."""

LEDGER_COLUMNS = {
    "DATASET": "VARCHAR NOT NULL",
    "STREAM": "VARCHAR NOT NULL",
    "PARTITION": "NUMBER(10,0) NOT NULL",
    "TARGET": "VARCHAR NOT NULL",
    "KIND": "VARCHAR NOT NULL",
    "START_OFFSET": "NUMBER(19,0) NOT NULL",
    "END_OFFSET": "NUMBER(19,0) NOT NULL",
    "RECORDS": "NUMBER(19,0) NOT NULL",
    "INSERTED": "NUMBER(19,0) NOT NULL",
    "SUPERSEDED": "NUMBER(19,0) NOT NULL",
    "REJECTED": "NUMBER(19,0) NOT NULL",
    "DIGEST": "VARCHAR",
    "CONTRACT": "VARCHAR NOT NULL",
    "CONTRACT_VERSION": "NUMBER(10,0) NOT NULL",
    "ATTEMPT": "VARCHAR NOT NULL",
    "LOADED_AT": "TIMESTAMP_NTZ(9) NOT NULL",
}


def name(text: str) -> str:
    """A name of ours as Snowflake's: in capitals, so that readers write it without quotes, and however they like."""
    return '"' + text.upper().replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string; here a backslash begins an escape."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def sql_type(column: Column) -> str:
    """The column's type in the target."""
    return f"NUMBER({column.precision},{column.scale})" if column.kind == "decimal" else _TYPES[column.kind]


@attrs.frozen
class Tables:
    """
    The names of all that belongs to a target, quoted.

    Attributes:
        target: As the user has it; a name is the same in any case.
    """

    target: str

    @property
    def rows(self) -> str:
        return name(self.target)

    @property
    def quarantine(self) -> str:
        return name(f"{self.target}_quarantine")

    @property
    def current(self) -> str:
        """The view that shows what is there now: without the rows that were deleted."""
        return name(f"{self.target}_current")

    @property
    def bars(self) -> str:
        """The view of one-minute bars, where the contract says what makes them."""
        return name(f"{self.target}_ohlcv_1m")

    @property
    def lock(self) -> str:
        """A table for each target: a lock of the service's may take in more than one row."""
        return name(f"headrace_lock_{self.target}")

    @property
    def ledger(self) -> str:
        return name("headrace_ledger")

    @property
    def columns(self) -> str:
        """What is known of columns that streams have brought, of all targets of the schema."""
        return name("headrace_columns")

    @property
    def replaced(self) -> str:
        """Which target took over from which one."""
        return name("headrace_replaced")

    @property
    def stage(self) -> str:
        return "HEADRACE_STAGE"

    @property
    def held(self) -> str:
        """S3: the attempt's id is uncommitted, so it is seen only inside this transaction; outside no statement touches a row."""
        return f"EXISTS (SELECT 1 FROM {self.lock} WHERE OWNER = %s)"


def expected(contract: Contract) -> dict[str, tuple[str, bool]]:
    """What columns a target has before its lineage, in capitals: the type of each and whether it may be NULL."""
    found = {c.name.upper(): (sql_type(c), contract.declared_nullable(c)) for c in contract.columns}
    return {**found, DELETED.upper(): ("BOOLEAN", False)} if contract.key else found


def statements(tables: Tables, contract: Contract) -> dict[str, str]:
    """
    The DDL of tables and stage by what it makes, each safe to repeat.

    It is run before a transaction, never inside (S4): here it would commit it.
    """
    lineage = ", ".join(f"{name(c)} {kind} NOT NULL" for c, kind in zip(LINEAGE, _LINEAGE_TYPES, strict=True))
    about = {c.name.upper(): f" COMMENT {literal(c.comment)}" for c in contract.columns if c.comment}
    columns = ", ".join(
        f"{name(c)} {declared(kind, nullable=nullable)}{about.get(c, '')}"
        for c, (kind, nullable) in expected(contract).items()
    )
    cluster = f" CLUSTER BY ({', '.join(map(name, contract.cluster))})" if contract.cluster else ""
    comment = f" COMMENT = {literal(contract.doc)}" if contract.doc else ""
    ledger = ", ".join(f"{name(c)} {kind}" for c, kind in LEDGER_COLUMNS.items())
    # born with its row: two loaders that inserted it would make two
    lock = (
        f"SELECT NULL::VARCHAR AS OWNER, {literal(contract.name)}::VARCHAR AS CONTRACT,"
        f" {contract.version}::NUMBER(10,0) AS CONTRACT_VERSION"
    )
    refused = (
        'CONTRACT VARCHAR NOT NULL, CONTRACT_VERSION NUMBER(10,0) NOT NULL, "COLUMN" VARCHAR NOT NULL, REASON VARCHAR NOT NULL,'
        f" LINE {LINE} NOT NULL, LOADED_AT TIMESTAMP_NTZ(9) NOT NULL"
    )
    brought = (
        "TARGET VARCHAR NOT NULL, NAME VARCHAR NOT NULL, KIND VARCHAR NOT NULL, DIGITS NUMBER(10,0) NOT NULL,"
        " SCALE NUMBER(10,0) NOT NULL, ADDED_AT TIMESTAMP_NTZ(9) NOT NULL"
    )
    followed = "TARGET VARCHAR NOT NULL, SUCCESSOR VARCHAR NOT NULL, REPLACED_AT TIMESTAMP_NTZ(9) NOT NULL"
    return {
        tables.ledger: f"CREATE TABLE IF NOT EXISTS {tables.ledger} ({ledger})",
        tables.lock: f"CREATE TABLE IF NOT EXISTS {tables.lock} AS {lock}",
        tables.rows: f"CREATE TABLE IF NOT EXISTS {tables.rows} ({columns}, {lineage}){cluster}{comment}",
        tables.quarantine: f"CREATE TABLE IF NOT EXISTS {tables.quarantine} ({lineage}, {refused})",
        tables.columns: f"CREATE TABLE IF NOT EXISTS {tables.columns} ({brought})",
        tables.replaced: f"CREATE TABLE IF NOT EXISTS {tables.replaced} ({followed})",
        tables.stage: f"CREATE STAGE IF NOT EXISTS {tables.stage}",
    }


def differences(contract: Contract, found: Sequence[Found]) -> list[str]:
    """
    What a table has otherwise than the contract's: it would round or refuse what is put into it.

    Args:
        contract: What is to be loaded.

        found: The table's columns.
    """
    there = {column.name: (column.kind, column.nullable) for column in found}
    filled = {column.name for column in found if column.filled}
    wanted = expected(contract)
    wrong = [
        f"column {column} is {declared(there[column][0], nullable=there[column][1]) if column in there else 'not there'},"
        f" expected {declared(kind, nullable=nullable)}"
        for column, (kind, nullable) in wanted.items()
        if column not in there or not _holds(there[column][0], kind) or (nullable and not there[column][1])
    ]
    wrong += [f"column {c} is not there, which says where a row comes from" for c in LINEAGE if c not in there]
    return wrong + [
        f"column {column} is NOT NULL, and the contract has no such column"
        for column, (_, nullable) in there.items()
        if not nullable and column not in wanted and column not in LINEAGE and column not in filled
    ]


def _holds(found: str, wanted: str) -> bool:
    return found == wanted or (wanted == "VARCHAR" and found.startswith("VARCHAR"))

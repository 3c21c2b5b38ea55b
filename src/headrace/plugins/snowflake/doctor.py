"""Looks whether a schema of Snowflake can be loaded, and writes out the rights that a loader's role needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import snowflake.connector

from headrace.errors import ConfigError, HeadraceError
from headrace.finding import Finding

if TYPE_CHECKING:
    from headrace.plugins.snowflake.loader import SnowflakeLoader


def grants(database: str, schema: str, warehouse: str, role: str) -> list[str]:
    """All that a loader's role needs, and nothing else; its tables are its own, so it needs no right on those of others."""
    place = f"{database}.{schema}".upper()
    return [
        f"GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {role}",
        f"GRANT USAGE ON DATABASE {database.upper()} TO ROLE {role}",
        f"GRANT USAGE, CREATE TABLE, CREATE VIEW, CREATE STAGE ON SCHEMA {place} TO ROLE {role}",
    ]


def check_account(loader: SnowflakeLoader) -> Iterator[Finding]:
    """Look at the login, the warehouse, the schema and the ledger; nothing is made."""
    account = loader.account.completed()
    needed = "; ".join(
        grants(loader.database, loader.schema, account.warehouse or "<warehouse>", account.role or "<role>")
    )
    try:
        with loader._connected(make=False) as session:  # noqa: SLF001 - the loader's other half
            yield Finding("login", "fine", f"{loader.where} answers (connector {snowflake.connector.__version__})")
            schemas = session.execute(
                "SELECT SCHEMA_NAME AS N FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = %s", loader.schema.upper()
            )
            if not schemas:
                yield Finding(
                    "schema", "wrong", f"{loader.where}: no such schema for this role", f"as its owner: {needed}"
                )
                return
            there = loader._is_there(session, loader.target)  # noqa: SLF001
            ledger = loader._is_there(session, "HEADRACE_LEDGER")  # noqa: SLF001
            rows = 0
            if ledger:
                [(rows,)] = session.execute(
                    "SELECT COUNT(*) AS N FROM HEADRACE_LEDGER WHERE TARGET = %s", loader.target
                )  # this one needs the warehouse
    except ConfigError as error:
        yield Finding("usable", "wrong", str(error), f"the role needs: {needed}")
        return
    except HeadraceError as error:
        yield Finding("reachable", "wrong", str(error), "check the account's name, the network and its policy")
        return
    found = f"table {loader.target} is {'there' if there else 'not there yet'}, {rows} rows of it in the ledger"
    yield Finding("ledger", "fine", found)

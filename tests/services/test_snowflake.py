"""Snowflake as a warehouse, over the wire: the loaders' contract, kills, lost answers, the same rows as DuckDB's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import attrs
import pytest

from headrace.loader import Loader
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.loader import SnowflakeLoader
from headrace.records import Partition
from headrace.testing.contracts.audited_loader import AuditedLoaderContract
from headrace.testing.contracts.keyed_loader import KeyedLoaderContract
from headrace.testing.contracts.loader import Cells, LedgerRow, Place, Warehouse
from headrace.testing.servers.snowflake import SnowflakeEndpoint

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

PLACE = "_DATASET, _STREAM, _PARTITION, _OFFSET"


def account_of(endpoint: SnowflakeEndpoint) -> Account:
    given = dict(endpoint.settings)
    return Account(connection=given.pop("connection_name", ""), **given)


@attrs.define
class Silver:
    """A schema of Snowflake, read with the connector alone."""

    endpoint: SnowflakeEndpoint
    schema: str
    connection: Any
    make: Callable[..., Loader] = SnowflakeLoader
    opened: list[Loader] = attrs.field(factory=list)
    lock_timeout_s: float = 30.0

    @classmethod
    def of(cls, endpoint: SnowflakeEndpoint, **given: Any) -> Silver:
        schema = endpoint.schema()
        connection = endpoint.connect(database=endpoint.database)
        connection.cursor().execute(f"CREATE SCHEMA {endpoint.database}.{schema}")
        return cls(endpoint, schema, connection, **given)

    def open(self, kept: type, target: str) -> Loader:
        loader = self.make(
            account=account_of(self.endpoint),
            database=self.endpoint.database,
            schema=self.schema,
            target=target,
            contract=kept,
            threads=1,
            lock_timeout_s=self.lock_timeout_s,
        )
        self.opened.append(loader)
        return loader

    def rows(self, target: str) -> Sequence[tuple[Place, Cells]]:
        found = self.query(target, f"SELECT {PLACE}, SYMBOL, PRICE, SIZE FROM {target} ORDER BY {PLACE}")
        assert all(row[5] is None or isinstance(row[5], Decimal) for row in found)
        return [((d, Partition(s, p), o), tuple(cells)) for d, s, p, o, *cells in found]

    def quarantined(self, target: str) -> Sequence[tuple[Place, bytes]]:
        found = self.query(f"{target}_QUARANTINE", f"SELECT {PLACE}, LINE FROM {target}_QUARANTINE ORDER BY {PLACE}")
        return [((d, Partition(s, p), o), bytes(line)) for d, s, p, o, line in found]

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        columns = "DATASET, STREAM, PARTITION, START_OFFSET, END_OFFSET, RECORDS, INSERTED, SUPERSEDED, REJECTED"
        sql = f"SELECT {columns} FROM HEADRACE_LEDGER WHERE KIND = 'load' AND TARGET = '{target.upper()}'"
        return [LedgerRow(d, Partition(s, p), *rest) for d, s, p, *rest in self.query("HEADRACE_LEDGER", sql)]

    def current(self, target: str) -> Sequence[Place]:
        found = self.query(target, f"SELECT {PLACE} FROM {target}_CURRENT ORDER BY {PLACE}")
        return [(d, Partition(s, p), o) for d, s, p, o in found]

    def take(self, target: str, offset: int) -> None:
        self.connection.cursor().execute(f"DELETE FROM {target} WHERE _OFFSET = {offset}")

    def forget(self, target: str, start: int) -> None:
        loads = f"TARGET = '{target.upper()}' AND KIND = 'load' AND START_OFFSET = {start}"
        self.connection.cursor().execute(f"DELETE FROM HEADRACE_LEDGER WHERE {loads}")

    def query(self, table: str, sql: str) -> list[tuple]:
        there = "SELECT 1 AS X FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
        cursor = self.connection.cursor()
        if not cursor.execute(there, (self.schema, table.upper())).fetchall():
            return []
        return cursor.execute(sql).fetchall()

    def close(self) -> None:
        for loader in self.opened:
            loader.close()
        self.connection.cursor().execute(f"DROP SCHEMA IF EXISTS {self.endpoint.database}.{self.schema} CASCADE")
        self.connection.close()


@pytest.fixture
def silver(snowflake: SnowflakeEndpoint) -> Iterator[Silver]:
    made = Silver.of(snowflake)
    yield made
    made.close()


class TestSnowflakeLoader(AuditedLoaderContract):
    @pytest.fixture
    def warehouse(self, silver: Silver) -> Warehouse:
        return silver


class TestSnowflakeLoaderWithKeys(KeyedLoaderContract):
    @pytest.fixture
    def warehouse(self, silver: Silver) -> Warehouse:
        return silver

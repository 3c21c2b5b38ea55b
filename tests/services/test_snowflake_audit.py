"""An audit looks into Snowflake as it looks into DuckDB: what is healthy is complete, what is planted is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from audit_world import Last, Narrow, Tick, Tick2, World, healthy

from headrace.auditing.result import AuditResult
from headrace.chain import Chain
from headrace.load import Load
from headrace.loader import Loader, Selection
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.loader import SnowflakeLoader
from headrace.testing.servers.snowflake import SnowflakeEndpoint

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services


@attrs.define
class Schema:
    """A schema, and loaders into it."""

    endpoint: SnowflakeEndpoint
    name: str
    connection: Any
    opened: list[Loader] = attrs.field(factory=list)

    def loader(self, kept: type) -> Loader:
        given = dict(self.endpoint.settings)
        account = Account(connection=given.pop("connection_name", ""), **given)
        target = "last" if kept is Last else "narrow" if kept in (Narrow, Tick2) else "ticks"
        made = SnowflakeLoader(
            account=account, database=self.endpoint.database, schema=self.name, target=target, contract=kept, threads=1
        )
        self.opened.append(made)
        return made

    def sql(self, statement: str) -> None:
        self.connection.cursor().execute(f"USE SCHEMA {self.endpoint.database}.{self.name}")
        self.connection.cursor().execute(statement)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return healthy(tmp_path_factory.mktemp("snowflake"))


@pytest.fixture
def schema(snowflake: SnowflakeEndpoint) -> Iterator[Schema]:
    name = snowflake.schema()
    connection = snowflake.connect(database=snowflake.database)
    connection.cursor().execute(f"CREATE SCHEMA {snowflake.database}.{name}")
    made = Schema(snowflake, name, connection)
    yield made
    for loader in made.opened:
        loader.close()
    connection.cursor().execute(f"DROP SCHEMA IF EXISTS {snowflake.database}.{name} CASCADE")
    connection.close()


FAULTS = {
    "DELETE FROM TICKS WHERE _PARTITION = 0 AND _OFFSET = 8": ("missing", "rows", 0, 8, 9),
    "UPDATE TICKS SET PRICE = 0.000001 WHERE _PARTITION = 0 AND _OFFSET = 1": ("changed", "rows", 0, 1, 2),
    "DELETE FROM TICKS_QUARANTINE WHERE _PARTITION = 1 AND _OFFSET = 5": ("missing", "quarantine", 1, 5, 6),
    "INSERT INTO TICKS SELECT * FROM TICKS WHERE _PARTITION = 1 AND _OFFSET = 2": ("duplicate", "rows", 1, 2, 3),
    "DELETE FROM HEADRACE_LEDGER WHERE TARGET = 'TICKS' AND START_OFFSET = 22": ("missing", "ledger", 0, 22, 27),
    "DELETE FROM LAST WHERE SYMBOL = 'A'": ("missing", "rows", 0, 24, 25),
}


def test_snowflake_is_looked_into(world: World, schema: Schema):
    """Rows, quarantine, ledger and keys: nothing is said of what is healthy, and each fault is named at its place."""

    def audit(kept: type) -> AuditResult:
        return world.audit(kept, loader=schema.loader(kept), deep=True)

    assert "unknown" == audit(Tick).verdict  # there is no table yet
    for kept in (Tick, Last):
        Load(chain=Chain.open(world.store, "ticks"), loader=schema.loader(kept)).run()
        result = audit(kept)
        assert [] == list(map(str, result.findings))
        assert (20, 20) == (result.partitions[0].compared, result.partitions[0].ledger_records)
    for statement in FAULTS:
        schema.sql(statement)

    found = [*audit(Tick).findings, *audit(Last).findings]
    assert set() == set(FAULTS.values()) - {(f.kind, f.where, f.partition, f.start, f.end) for f in found}


def test_a_redriven_table_of_snowflake_is_complete(schema: Schema, tmp_path: Path):
    """What left quarantine is told from what was lost there."""
    world = World(tmp_path)
    for n in range(6):
        world.log.produce(b'{"symbol":"A","price":%d,"size":%d}' % (n, -n))
    world.stream()
    Load(chain=Chain.open(world.store, "ticks"), loader=schema.loader(Narrow), max_rejected=1.0).run()
    schema.loader(Tick2).redrive(Selection())

    assert [] == list(map(str, world.audit(Tick2, loader=schema.loader(Tick2), deep=True, earlier=[Narrow]).findings))

"""Kafka, MinIO, DuckDB, an emulated Snowflake, an Airflow on PostgreSQL that knows them; a day of trades that comes in pieces."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import duckdb
import psycopg2
from standalone import DAGS, SECRET, Airflow, until

from headrace import FlushPolicy, Pipeline, Registry
from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.postgres import Postgres
from headrace.testing.servers.snowflake import Snowflake, SnowflakeEndpoint
from headrace.testing.servers.topics import Topics
from headrace.testing.ticks import real_bars, real_ticks

DUCKDB, SNOWFLAKE = WAREHOUSES = ("headrace_silver", "headrace_snowflake")
OPEN_MS = 1_381_152_600_000  # 7 October 2013, 09:30 in New York
PIECES = 8
CUTS_MS = [0, *(OPEN_MS + n * 49 * 60_000 for n in range(1, PIECES)), 1 << 60]
"""Where the day is cut: it comes in pieces, and while each of them is loaded something is done to Airflow."""
FULL = {"trades": 24_293, "bars": 453}


@attrs.define(kw_only=True)
class World:
    """
    What there is, and what may be done to it.

    Attributes:
        secrets: Passwords that stand in connections, and in no file that is left.
    """

    folder: Path
    kafka: Kafka
    postgres: Postgres
    airflow: Airflow
    snowflake: SnowflakeEndpoint
    schema: str
    connections: dict[str, dict[str, Any]] = attrs.field(repr=False)
    secrets: tuple[str, ...] = attrs.field(repr=False)
    sent: int = 0

    @property
    def silver(self) -> Path:
        return self.folder / "silver.duckdb"

    def lake(self) -> str:
        of = self.connections["lake"]
        return of["extra"]["uri"].replace("://", f"://{of['login']}:{of['password']}@", 1)

    def warehouse(self, name: str, table: str) -> str:
        """The URI of a table, made without Airflow."""
        if name == DUCKDB:
            return f"duckdb://{self.silver}?table={table}"
        settings = {**self.snowflake.settings, "password": quote(self.snowflake.settings["password"], safe="")}
        return attrs.evolve(self.snowflake, settings=settings).uri(self.schema, table)

    def stream(self) -> None:
        """Publish the next piece of the day to Kafka, whole minutes of it, and carry it to the lake."""
        registry = Registry.discover()
        begin, end = (CUTS_MS[self.sent + n] for n in (0, 1))
        both = {"trades": real_ticks(), "bars": real_bars(symbol="IBM")}
        parts = {name: [r for r in records if begin <= r.timestamp_ms < end] for name, records in both.items()}
        self.sent += 1
        for name, records in parts.items():
            file = self.folder / f"{name}-{self.sent}.jsonl"
            if lines := b"".join((record.value or b"") + b"\n" for record in records):
                file.write_bytes(lines)
                source = registry.source(f"jsonl://{file}?key=symbol&timestamp=time&stream={name}")
                sink = registry.sink(f"kafka://{self.kafka.bootstrap}/{name}")
                Pipeline(source=source, sink=sink, until_end=True).run()
            source = registry.source(f"kafka://{self.kafka.bootstrap}/{name}?group=bronze-{name}")
            sink = registry.sink(self.lake())
            Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=1_000)).run()

    def rows(self, name: str) -> dict[str, int]:
        """How many rows each table of a warehouse has; nothing, while DuckDB's file is a load's."""
        if name == SNOWFLAKE:
            with closing(self.snowflake.connect(database=self.snowflake.database, schema=self.schema)) as connection:
                counted = {t: connection.cursor().execute(f"SELECT COUNT(*) FROM {t.upper()}").fetchone() for t in FULL}
                return {table: row[0] for table, row in counted.items()}
        try:
            connection = duckdb.connect(str(self.silver), read_only=True)
        except duckdb.IOException:
            return {}
        with connection:
            return {t: connection.execute(f"SELECT count(*) FROM {t}").fetchall()[0][0] for t in FULL}

    # ---- loads that are under way -------------------------------------------------------------------------

    def running(self, warehouse: str) -> dict[str, Any] | None:
        """A load into this warehouse that is at work."""
        for load in self.airflow.instances("bronze_to_silver", task_id="load", state="running"):
            if load["pid"] and self.airflow.returned(load, "find_work")[load["map_index"]]["warehouse"] == warehouse:
                return load
        return None

    def held(self, *warehouses: str) -> Iterator[dict[str, Any]]:
        """
        New records, and the loads of them into one warehouse after the other: each at work, and kept from its end.

        Somebody else holds the warehouse, until the next load is asked for.
        """
        self.settled()
        before = {run["dag_run_id"] for run in self.airflow.runs("bronze_to_silver")}
        self.stream()
        self.airflow.ring("headrace_lake_grew")

        def found_work() -> bool:
            found = self.airflow.instances("bronze_to_silver", task_id="find_work", state="success")
            return bool({each["dag_run_id"] for each in found} - before)

        until(found_work, "work is found", every_s=0.1)
        with ExitStack() as every:
            holds = {warehouse: every.enter_context(ExitStack()) for warehouse in warehouses}
            for warehouse, hold in holds.items():
                hold.enter_context(self._file_held() if warehouse == DUCKDB else self._lock_held())
            for warehouse, hold in holds.items():
                load = until(lambda name=warehouse: self.running(name), f"a load into {warehouse} is at work", 600)
                say("held:", load["dag_run_id"], load["map_index"], warehouse)
                yield load
                hold.close()

    @contextmanager
    def _file_held(self) -> Iterator[None]:
        def hold() -> duckdb.DuckDBPyConnection | None:
            try:
                return duckdb.connect(str(self.silver))
            except duckdb.IOException:
                return None

        with until(hold, "the file is held", 10, every_s=0.02):
            yield

    @contextmanager
    def _lock_held(self) -> Iterator[None]:
        """Hold the lock row of trades in a transaction that is never silent: the server ends those of the dead."""
        with closing(self.snowflake.connect(database=self.snowflake.database, schema=self.schema)) as connection:
            cursor, over = connection.cursor(), threading.Event()
            cursor.execute("BEGIN")
            cursor.execute("UPDATE HEADRACE_LOCK_TRADES SET OWNER = 'held'")

            def stay() -> None:
                while not over.wait(3):
                    cursor.execute("SELECT 1")

            thread = threading.Thread(target=stay)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                cursor.execute("ROLLBACK")

    def tries(self, load: dict[str, Any]) -> int:
        """How many attempts a load had."""
        return len(self.airflow.tries(load))

    def settled(self, *again: dict[str, Any]) -> None:
        """Wait until nothing runs any more; then these loads must have had another attempt."""
        until(lambda: self.airflow.quiet("bronze_to_silver", "bars"), "all runs are over", 600)
        for load in again:
            found = [(each["start_date"], each["end_date"], each["state"]) for each in self.airflow.tries(load)]
            say(load["dag_run_id"], load["map_index"], *found)
            assert len(found) > 1

    def told(self) -> list[str]:
        """Where a secret is kept, plain or as a URI has it: files, be they Airflow's, reports or bars; tables of Airflow's."""
        words = {*self.secrets, *(quote(secret, safe="") for secret in self.secrets)}
        secret = re.compile("|".join(map(re.escape, words)).encode())
        folders = [self.folder / name for name in ("airflow", "reports", "files")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        assert any(path.suffix == ".log" for path in files)
        tables = self._tables()
        assert len(tables["dag_run"]) > 1_000
        return [
            *(str(path) for path in files if secret.search(path.read_bytes())),
            *(name for name, held in tables.items() if secret.search(held)),
        ]

    def _tables(self) -> dict[str, bytes]:
        """What Airflow's database holds, as it is kept: as text, what is binary would stand there in hexadecimal digits."""
        with closing(psycopg2.connect(f"postgresql://{self.postgres.url}")) as connection:
            cursor, found = connection.cursor(), {}
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            for (name,) in cursor.fetchall():
                rows = io.BytesIO()
                cursor.copy_expert(f'COPY "{name}" TO STDOUT (FORMAT binary)', rows)
                found[name] = rows.getvalue()
            return found


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Start all of it, with the first piece of the day in the lake and both DAGs that follow it at work."""
    with ExitStack() as stack:
        kafka = stack.enter_context(Kafka(folder=folder / "kafka"))
        endpoint = stack.enter_context(Minio(folder=folder / "minio")).endpoint
        password = f"pa/{SECRET}@%:&"
        # a transaction whose client was killed is rolled back, as the service does after some minutes
        server = stack.enter_context(Snowflake(folder=folder / "snowflake", password=password, idle_s=15))
        postgres = stack.enter_context(Postgres(folder=folder / "postgres"))
        topics = Topics(bootstrap=kafka.bootstrap)
        for_ever = {
            "retention.ms": "-1"
        }  # the day is one of 2013: Kafka's clean-up would take it, some minutes after it came
        topics.make("trades", 2, config=for_ever)
        topics.make("bars", 1, config=for_ever)
        snowflake = server.endpoint
        schema = snowflake.schema()
        with closing(snowflake.connect()) as connection:
            connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS {snowflake.database}")
            connection.cursor().execute(f"CREATE SCHEMA {snowflake.database}.{schema}")
        place = {name: snowflake.settings[name] for name in ("account", "host", "port", "protocol")}
        connections: dict[str, dict[str, Any]] = {
            "lake": {
                "login": endpoint.access_key,
                "password": endpoint.secret_key,
                "extra": {"uri": f"s3://{endpoint.bucket()}/lake?endpoint_url={endpoint.url}&region=us-east-1"},
            },
            "source": {"extra": {"uri": f"kafka://{kafka.bootstrap}/{{stream}}?group=audit"}},
            "silver": {"extra": {"uri": f"duckdb://{folder}/silver.duckdb", "note": {"password": SECRET}}},
            "snowflake": {
                "conn_type": "snowflake",
                "login": snowflake.settings["user"],
                "password": password,
                "schema": schema,
                "extra": {**place, "database": snowflake.database},
            },
            "reports": {"extra": {"uri": f"file://{folder}/reports"}},
            "bars": {"extra": {"uri": f"file://{folder}/files"}},
        }
        environment = {
            f"AIRFLOW_CONN_HEADRACE_{name.upper()}": json.dumps({"conn_type": "generic", **of})
            for name, of in connections.items()
        }
        airflow = stack.enter_context(
            Airflow(
                home=folder / "airflow",
                dags=both_warehouses(folder),
                environment=environment,
                database=f"postgresql+psycopg2://{postgres.url}",
            )
        )
        made = World(
            folder=folder,
            kafka=kafka,
            postgres=postgres,
            airflow=airflow,
            snowflake=snowflake,
            schema=schema,
            connections=connections,
            secrets=(SECRET, password, endpoint.secret_key),
        )
        made.stream()
        for dag in ("bars", "bronze_to_silver"):
            airflow.unpause(dag)  # the clock starts the first run at once
        made.settled()
        yield made
        airflow.stop()
        assert not airflow.alive()


def both_warehouses(folder: Path) -> Path:
    """The DAGs as a user has them who loads two warehouses: copied, and one line changed, as the file says."""
    copied = shutil.copytree(DAGS, folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    file = copied / "headrace_places.py"
    text = file.read_text(encoding="utf-8")
    assert '`[SILVER, "headrace_snowflake"]`' in text
    file.write_text(text.replace("WAREHOUSES = [SILVER]\n", 'WAREHOUSES = [SILVER, "headrace_snowflake"]\n'))
    return copied


def say(*words: object) -> None:
    print(*words, flush=True)

"""Airflow of its own for these tests: its home and its database, before anything imports it; and a lake of real trades."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from standalone import DAGS, SECRET

HOME = tempfile.mkdtemp(prefix="headrace-airflow-")
os.environ.update(
    AIRFLOW_HOME=HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
    AIRFLOW__API_AUTH__JWT_SECRET="for-the-tests-alone-" * 4,
)
sys.path.insert(0, str(DAGS))  # as Airflow does


@attrs.frozen
class Deployment:
    """A lake, a warehouse, and the connections that name them."""

    folder: Path

    @property
    def silver(self) -> Path:
        return self.folder / "silver.duckdb"

    @property
    def connections(self) -> dict[str, str]:
        """For the environment of Airflow."""
        places = {
            "lake": f"file://{self.folder}/lake",
            "silver": f"duckdb://{self.silver}",
            "reports": f"file://{self.folder}/reports",
            "bars": f"file://{self.folder}/files",
            "source": f"jsonl://{self.folder}/trades.jsonl",
        }
        return {
            f"AIRFLOW_CONN_HEADRACE_{name.upper()}": json.dumps(
                {"conn_type": "generic", "extra": {"uri": uri, "note": {"password": SECRET}}}
            )
            for name, uri in places.items()
        }

    def stream(self, records: int | None = None) -> None:
        """Bring IBM's real trades (so many, or all) and bars into the lake, a few of the trades spoilt."""
        from headrace import FlushPolicy, Pipeline, Registry
        from headrace.testing.ticks import real_bars, real_ticks

        registry = Registry.discover()
        for name, values in (("trades", real_ticks(records)), ("bars", real_bars(symbol="IBM"))):
            file = self.folder / f"{name}.jsonl"
            file.write_bytes(b"".join((record.value or b"") + b"\n" for record in values))
            source = registry.source(f"jsonl://{file}?key=symbol&timestamp=time")
            sink = registry.sink(f"file://{self.folder}/lake")
            Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=2_000)).run()

    def count(self, sql: str) -> Any:
        import duckdb

        with duckdb.connect(str(self.silver), read_only=True) as connection:
            return connection.execute(sql).fetchall()[0][0]


@pytest.fixture(scope="session")
def bag() -> Any:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    return DagBag(dag_folder=str(DAGS))


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A lake with a day of real trades; the connections are set."""
    made = Deployment(tmp_path)
    for name, value in made.connections.items():
        monkeypatch.setenv(name, value)
    return made

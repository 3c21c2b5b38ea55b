"""What outlives the process: databases, stages, load history and staged files, in one folder and one DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb
import fakesnow.instance
import fakesnow.server
import fakesnow.transforms.stage as stages

_NOTHING_TO_DO = [
    r"^\s*alter\s+session\s+(set|unset)\s+(?!autocommit)",
    r"^\s*(grant|revoke)\s",
    r"^\s*create\s+(or\s+replace\s+)?(role|warehouse)\b",
    r"^\s*(alter|drop|use)\s+(warehouse|role)\b",
]


def open_all(folder: Path | None) -> None:
    """Make the one instance that all sessions share, with what the last run left in *folder*; None: all in memory."""
    if folder is not None:
        (folder / "databases").mkdir(parents=True, exist_ok=True)
        (folder / "bucket").mkdir(exist_ok=True)
        stages.LOCAL_BUCKET_PATH = str(folder / "bucket")
        opened = duckdb.connect

        def connect(database: str = ":memory:", **settings: object) -> duckdb.DuckDBPyConnection:
            connection = opened(database, **settings)
            connection.execute(f"ATTACH IF NOT EXISTS '{folder}/_fs_global.db' AS _fs_global")
            return connection

        fakesnow.instance.duckdb = type("duckdb", (), {"connect": staticmethod(connect)})
    databases = folder / "databases" if folder else None
    shared = fakesnow.server.shared_fs = fakesnow.instance.FakeSnow(
        db_path=str(databases) if databases else None, nop_regexes=_NOTHING_TO_DO
    )
    for file in sorted(databases.glob("*.db")) if databases else []:
        shared.duck_conn.execute(f"ATTACH '{file}' AS {file.stem}")

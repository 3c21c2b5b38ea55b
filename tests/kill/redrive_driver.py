"""
The negative control of a redrive: ``python redrive_driver.py DATABASE CONTRACT`` dies where one without a transaction could.

It takes records into the target and commits that, and dies before they leave quarantine.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import duckdb

from headrace.contract import load_contract
from headrace.loader import Selection
from headrace.plugins.duckdb import connection as module
from headrace.plugins.duckdb.loader import DuckDBLoader


class Splitting:
    """A connection that commits before a DELETE, and dies."""

    def __init__(self, real: duckdb.DuckDBPyConnection) -> None:
        self._real = real

    def execute(self, sql: str, *values: object) -> duckdb.DuckDBPyConnection:
        if sql.startswith('DELETE FROM "t_quarantine"'):
            self._real.execute("COMMIT")
            os.kill(os.getpid(), signal.SIGKILL)
        return self._real.execute(sql, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def main() -> None:
    real = duckdb.connect
    module.duckdb.connect = lambda *args, **more: Splitting(real(*args, **more))  # type: ignore[assignment]
    loader = DuckDBLoader(database=Path(sys.argv[1]), target="t", contract=load_contract(sys.argv[2]))
    loader.redrive(Selection())


if __name__ == "__main__":
    main()

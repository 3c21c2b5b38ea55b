"""Looks whether a DuckDB file can be loaded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from headrace.errors import SinkUnavailableError
from headrace.finding import Finding
from headrace.plugins.duckdb.connection import connected
from headrace.units import format_bytes

if TYPE_CHECKING:
    from headrace.plugins.duckdb.loader import DuckDBLoader

_LEAST_FREE_BYTES = 1 << 30


def check_file(loader: DuckDBLoader) -> Iterator[Finding]:
    """Look at file, lock, ledger and room; a file that is not there is not made."""
    database, folder = loader.database, loader.database.absolute().parent
    if not folder.is_dir():
        yield Finding("folder", "wrong", f"{folder} is not there", "make it, or mend the path")
        return
    if not os.access(folder, os.W_OK | os.X_OK) or (database.exists() and not os.access(database, os.W_OK)):
        yield Finding("folder", "wrong", f"{database} may not be written to", "give this user the right to, or another")
        return
    if database.exists():
        yield from _opened(loader)
    else:
        yield Finding("file", "fine", f"{database} is not there: the first load makes it (DuckDB {duckdb.__version__})")
    for place, what in ((folder, "room"), (Path(tempfile.gettempdir()), "room to unpack")):
        disk = shutil.disk_usage(place)
        text = f"{format_bytes(disk.free)} of {format_bytes(disk.total)} are free in {place}"
        little = disk.free < _LEAST_FREE_BYTES
        yield Finding(what, "wrong" if little else "fine", text, "free some, or choose another disk" if little else "")


def _opened(loader: DuckDBLoader) -> Iterator[Finding]:
    try:
        with connected(
            loader.database, threads=1, memory="", lock_timeout_s=0.0, clock=loader.clock, sleep=loader.sleep
        ) as connection:
            tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
            rows = (
                connection.execute("SELECT count(*) FROM headrace_ledger WHERE target = ?", [loader.target]).fetchall()[
                    0
                ][0]
                if "headrace_ledger" in tables
                else 0
            )
    except SinkUnavailableError as error:
        advice = f"a load waits {loader.lock_timeout_s:.0f} s for it; end the other process if it stays"
        yield Finding("lock", "wrong", str(error), advice)
        return
    yield Finding("lock", "fine", f"{loader.database} can be opened for writing (DuckDB {duckdb.__version__})")
    there = f"table {loader.target} is {'there' if loader.target in tables else 'not there yet'}"
    yield Finding("ledger", "fine", f"{there}, {rows} rows of it in the ledger")

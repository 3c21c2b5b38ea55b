"""Opens a DuckDB file for as long as a call needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from headrace.errors import ConfigError, SinkUnavailableError
from headrace.typed.engine import configure, telling

_LOOK_EVERY_S = 0.05


@contextmanager
def connected(
    database: Path,
    *,
    threads: int,
    memory: str,
    lock_timeout_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[duckdb.DuckDBPyConnection]:
    """
    Open the file, waiting for its lock with a bound; close it when the block ends.

    Raises:
        SinkUnavailableError: Another process holds the file, or there is no room; nothing was written since the last COMMIT.
        ConfigError: DuckDB refuses what it was asked, or the file is none of its own.
    """
    connection = _opened(database, lock_timeout_s, clock, sleep)
    try:
        with telling(str(database)):
            configure(connection, threads=threads, memory=memory)
            yield connection
    finally:
        connection.close()


def _opened(
    database: Path, lock_timeout_s: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> duckdb.DuckDBPyConnection:
    deadline = clock() + lock_timeout_s
    while True:
        try:
            return duckdb.connect(str(database))
        except duckdb.IOException as exc:
            if "Could not set lock" not in str(exc):
                raise ConfigError(f"{database}: cannot be opened: {exc}; check the path and its permissions") from exc
            if clock() >= deadline:
                raise SinkUnavailableError(
                    f"{database}: another process has held it for {lock_timeout_s:.0f} s; DuckDB allows one writer:"
                    f" end that one, or wait ({exc})"
                ) from exc
            sleep(_LOOK_EVERY_S)
        except duckdb.Error as exc:
            raise ConfigError(f"{database}: is no DuckDB file that this version reads: {exc}") from exc

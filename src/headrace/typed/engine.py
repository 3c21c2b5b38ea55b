"""DuckDB as an engine: a connection of its own for what is typed on the way to another warehouse, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from headrace.errors import ConfigError, HeadraceError, SinkUnavailableError
from headrace.typed.columns import literal


@contextmanager
def engine(folder: Path, *, threads: int = 0, memory: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
    """
    Open a database in memory that spills into *folder*; gone when the block ends.

    Args:
        folder: For what does not fit into memory; the caller removes it.

        threads: Of DuckDB; 0: as many as there are cores.

        memory: DuckDB's own limit, such as "1GB"; "" for its default.

    Raises:
        SinkUnavailableError: There is no room.
        ConfigError: DuckDB refuses what it was asked.
    """
    with telling("typing"):
        connection = duckdb.connect(":memory:")
        try:
            connection.execute(f"SET temp_directory = {literal(str(folder))}")
            configure(connection, threads=threads, memory=memory)
            yield connection
        finally:
            connection.close()


def configure(connection: duckdb.DuckDBPyConnection, *, threads: int, memory: str) -> None:
    """Set what every connection of ours has: UTC, and these bounds."""
    connection.execute("SET TimeZone = 'UTC'")
    if threads:
        connection.execute(f"SET threads = {threads}")
    if memory:
        connection.execute(f"SET memory_limit = {literal(memory)}")


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Turn DuckDB's errors into ours; *where* begins their messages."""
    try:
        yield
    except HeadraceError:
        raise
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException) as exc:
        raise SinkUnavailableError(f"{where}: {exc}; nothing was written by this call") from exc
    except duckdb.Error as exc:
        raise ConfigError(f"{where}: DuckDB refuses: {exc}") from exc

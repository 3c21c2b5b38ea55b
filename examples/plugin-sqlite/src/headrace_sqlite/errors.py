"""What SQLite's errors mean to who called: none of them leaves the plugin as it is."""

from __future__ import annotations

import sqlite3

from headrace import ConfigError, DataError, HeadraceError, SinkUnavailableError

AGAIN = {
    sqlite3.SQLITE_ABORT,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
}
"""The same call may succeed later."""


def told(error: sqlite3.Error, database: str, target: str) -> HeadraceError:
    """Say what an error means, and what to do. The transaction that it ended has left nothing."""
    code = getattr(error, "sqlite_errorcode", None)  # SQLite's own; what Python refuses has none
    code = code and code & 0xFF  # without what it adds to it
    if code in AGAIN or (code is None and isinstance(error, sqlite3.OperationalError)):
        return SinkUnavailableError(f"{target} in {database}: {error}; nothing was written, call again")
    if code == sqlite3.SQLITE_CORRUPT:
        return DataError(f"{database} is damaged ({error}): restore it, or load the lake into a new file")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return DataError(
            f"{target} in {database} has rows that its ledger does not know ({error}): somebody changed one of them by hand;"
            " restore the file, or load the lake into a new table"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigError(f"{database} is no SQLite file: {error}")
    return ConfigError(
        f"{target} in {database}: {error}; nothing was written: check the path, its permissions and the tables"
    )

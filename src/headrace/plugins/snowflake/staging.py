"""
Brings typed rows beside the target: Parquet files by DuckDB, PUT to the stage, COPY into tables of this attempt alone (S4).

Nothing is left to the service's conversions: numbers are decimals or integers, a moment is a number of nanoseconds, nested
values are text, and each is cast by name. All of it happens before the transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import duckdb

from headrace.contract import Column, Contract
from headrace.errors import ConfigError, SinkUnavailableError
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import LINE, LINEAGE, Tables, name
from headrace.typed.columns import literal as duckdb_literal
from headrace.typed.columns import quoted
from headrace.typed.staging import DELETED

PREFIX = "HEADRACE_STG"
_HOUR = 3600
OLD_S = 24 * _HOUR
"""What an attempt left behind, and nobody can still be at work on."""

_FORMAT = "TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE NULL_IF = ()"
_ROW_GROUP = 100_000
_STAGED_TYPES = {
    "text": "VARCHAR",
    "integer": "NUMBER(19,0)",
    "boolean": "BOOLEAN",
    "timestamp": "NUMBER(19,0)",
    "json": "VARCHAR",
}
_PLACE_TYPES = dict(zip(LINEAGE, ("VARCHAR", "VARCHAR", "NUMBER(10,0)", "NUMBER(19,0)", "NUMBER(19,0)"), strict=True))
_SEGMENTS = {
    "_FILE": "NUMBER(10,0)",
    "DATASET": "VARCHAR",
    "STREAM": "VARCHAR",
    "PARTITION": "NUMBER(10,0)",
    "START_OFFSET": "NUMBER(19,0)",
    "END_OFFSET": "NUMBER(19,0)",
    "RECORDS": "NUMBER(19,0)",
    "ACCEPTED": "NUMBER(19,0)",
    "REJECTED": "NUMBER(19,0)",
    "DIGEST": "VARCHAR",
}


def attempt_id(now_s: float) -> str:
    """A name that no other attempt has, and that says when it began."""
    return f"{int(now_s):010}_{secrets.token_hex(8)}".upper()


@attrs.frozen
class Part:
    """
    One table of an attempt.

    Attributes:
        name: Of the table in Snowflake, quoted.

        rows: In it.

        columns: Their types, by their names.
    """

    name: str
    rows: int
    columns: dict[str, str]


@attrs.frozen
class Staged:
    """
    What an attempt brought: tables that nobody else knows.

    Attributes:
        rows: The typed rows, with `_FILE`, their place, and `_DELETED` where the contract has a key.

        refused: What goes to quarantine.

        segments: The ledger's rows to be.

        chosen: Empty; where the contract has a key, the newest row of each key goes here in the transaction.
    """

    rows: Part
    refused: Part
    segments: Part
    chosen: Part | None


@attrs.frozen
class Stager:
    """
    Stages for one target.

    Attributes:
        session: Outside of a transaction.

        engine: DuckDB's connection with the tables of `headrace.typed.staging` and `headrace.typed.segments`.

        tables: The target's.

        contract: What rows are.

        folder: For the files.

        now_s: Seconds since the epoch.
    """

    session: Session
    engine: duckdb.DuckDBPyConnection
    tables: Tables
    contract: Contract
    folder: Path
    now_s: Callable[[], float]

    @contextmanager
    def staged(self) -> Iterator[Staged]:
        """Stage what was typed; what was staged is dropped when the block ends, as far as that can be done."""
        attempt = attempt_id(self.now_s())
        made: list[str] = []
        try:
            yield self._stage(attempt, made)
        finally:
            self._drop(attempt, made)

    def _stage(self, attempt: str, made: list[str]) -> Staged:
        parts = {
            "ROWS": (self._rows_columns(), self._rows_query()),
            "REFUSED": (_refused_columns(), _refused_query()),
            "SEGMENTS": (_SEGMENTS, _segments_query()),
        }
        counts = {part: self._write(part, query) for part, (_, query) in parts.items()}
        if any(counts.values()):
            self._put(attempt, sum(1 for count in counts.values() if count))
        found = {part: self._copied(attempt, part, columns, counts[part], made) for part, (columns, _) in parts.items()}
        chosen = None
        if self.contract.key:
            columns = {**self._rows_columns(), "_NEW": "BOOLEAN"}
            chosen = Part(self._create(attempt, "CHOSEN", columns, made), 0, columns)
        return Staged(found["ROWS"], found["REFUSED"], found["SEGMENTS"], chosen)

    # ---- files --------------------------------------------------------------------------------------------

    def _rows_columns(self) -> dict[str, str]:
        deleted = {DELETED.upper(): "BOOLEAN"} if self.contract.key else {}
        columns = {c.name.upper(): staged_type(c) for c in self.contract.columns}
        return {"_FILE": "NUMBER(10,0)", **columns, **deleted, **_PLACE_TYPES}

    def _rows_query(self) -> str:
        cells = [f"{_cell(c)} AS {quoted(c.name.upper())}" for c in self.contract.columns]
        cells += [f"r.{quoted(DELETED)} AS {quoted(DELETED.upper())}"] if self.contract.key else []
        return f'SELECT r._file AS "_FILE", {", ".join([*cells, _PLACE])} FROM staged r JOIN segments s ON s.file = r._file'

    def _write(self, part: str, query: str) -> int:
        """Write a file, unless it would be empty; return how many rows it has."""
        path = self.folder / f"{part.lower()}.parquet"
        path.unlink(missing_ok=True)
        [(count,)] = self.engine.execute(
            f"COPY ({query}) TO {duckdb_literal(str(path))}"
            f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
        ).fetchall()
        if not count:
            path.unlink(missing_ok=True)
        return int(count)

    def _put(self, attempt: str, files: int) -> None:
        pattern = str(self.folder / "*.parquet").replace("\\", "\\\\").replace("'", "\\'")
        answer = self.session.execute(
            f"PUT 'file://{pattern}' @{self.tables.stage}/{attempt.lower()}/ AUTO_COMPRESS = FALSE OVERWRITE = TRUE"
        )
        if len(answer) != files or any(row[6] != "UPLOADED" for row in answer):
            raise SinkUnavailableError(
                f"{self.session.where}: found {[row[6] for row in answer]} after PUT, expected {files} files UPLOADED;"
                " nothing was loaded"
            )

    # ---- tables -------------------------------------------------------------------------------------------

    def _create(self, attempt: str, part: str, columns: dict[str, str], made: list[str]) -> str:
        table = name(f"{PREFIX}_{attempt}_{part}")
        made.append(table)
        listed = ", ".join(f"{name(column)} {kind}" for column, kind in columns.items())
        self.session.execute(f"CREATE TRANSIENT TABLE {table} ({listed})")
        return table

    def _copied(self, attempt: str, part: str, columns: dict[str, str], count: int, made: list[str]) -> Part:
        if not count:
            return Part("", 0, columns)
        table = self._create(attempt, part, columns, made)
        casts = ", ".join(f"$1:{name(column)}::{kind}" for column, kind in columns.items())
        answer = self.session.execute(
            f"COPY INTO {table} ({', '.join(map(name, columns))})"
            f" FROM (SELECT {casts} FROM @{self.tables.stage}/{attempt.lower()}/)"
            f" FILES = ('{part.lower()}.parquet') FILE_FORMAT = ({_FORMAT}) ON_ERROR = ABORT_STATEMENT"
        )
        loaded = [(row[1], int(row[3])) for row in answer if len(row) > 3]
        if loaded != [("LOADED", count)]:
            raise SinkUnavailableError(
                f"{self.session.where}: COPY says {loaded or answer}, expected one file LOADED with {count} rows;"
                " nothing was loaded"
            )
        return Part(table, count, columns)

    def _drop(self, attempt: str, made: Sequence[str]) -> None:
        """Best effort: the sweeper takes what is left."""
        try:
            for table in made:
                self.session.execute(f"DROP TABLE IF EXISTS {table}")
            self.session.execute(f"REMOVE @{self.tables.stage}/{attempt.lower()}/")
        except (SinkUnavailableError, ConfigError):
            return


def sweep(session: Session, tables: Tables, schema: str, now_s: float) -> None:
    """Drop what killed attempts left behind, as far as that can be done: it stands in nobody's way."""
    oldest = int(now_s - OLD_S)
    try:
        found = session.execute(
            f"SELECT TABLE_NAME AS N FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME >= '{PREFIX}_'"
            f" AND TABLE_NAME < '{PREFIX}`'",  # the character after the underscore
            schema,
        )
        for (table,) in found:
            if _began(table.removeprefix(f"{PREFIX}_")) < oldest:
                session.execute(f"DROP TABLE IF EXISTS {name(table)}")
        paths = {str(row[0]).split("/")[-2] for row in session.execute(f"LIST @{tables.stage}") if "/" in str(row[0])}
        for path in paths:
            if _began(path) < oldest:
                session.execute(f"REMOVE @{tables.stage}/{path}/")
    except (SinkUnavailableError, ConfigError):
        return


def _began(attempt: str) -> float:
    first = attempt.partition("_")[0]
    return int(first) if first.isdecimal() else float("inf")


def staged_type(column: Column) -> str:
    """The type of a column in a table of an attempt."""
    return f"NUMBER({column.precision},{column.scale})" if column.kind == "decimal" else _STAGED_TYPES[column.kind]


def value(column: Column, row: str = "r") -> str:
    """What becomes of a column of a staged *row*, on its way into the target."""
    cell = f"{row}.{name(column.name)}"
    return {"timestamp": f"TO_TIMESTAMP_NTZ({cell}, 9)", "json": f"PARSE_JSON({cell})"}.get(column.kind, cell)


# ---- what DuckDB is asked for -----------------------------------------------------------------------------------

_PLACE = (
    's.dataset AS "_DATASET", s.stream AS "_STREAM", s."partition" AS "_PARTITION", r._offset AS "_OFFSET",'
    ' r._timestamp_ms AS "_TIMESTAMP_MS"'
)


def _cell(column: Column) -> str:
    cell = f"r.{quoted(column.name)}"
    return {"timestamp": f"epoch_ns({cell})", "json": f"CAST({cell} AS VARCHAR)"}.get(column.kind, cell)


def _refused_columns() -> dict[str, str]:
    return {**_PLACE_TYPES, "COLUMN": "VARCHAR", "REASON": "VARCHAR", "LINE": LINE}


def _refused_query() -> str:
    return (
        f'SELECT {_PLACE}, r."column" AS "COLUMN", r.reason AS "REASON", r.line AS "LINE"'
        " FROM refused r JOIN segments s ON s.file = r._file"
    )


def _segments_query() -> str:
    return (
        'SELECT s.file AS "_FILE", s.dataset AS "DATASET", s.stream AS "STREAM", s."partition" AS "PARTITION",'
        ' s.start_offset AS "START_OFFSET", s.end_offset AS "END_OFFSET", s.records AS "RECORDS",'
        ' (SELECT count(*) FROM staged r WHERE r._file = s.file) AS "ACCEPTED",'
        ' (SELECT count(*) FROM refused r WHERE r._file = s.file) AS "REJECTED", s.digest AS "DIGEST" FROM segments s'
    )

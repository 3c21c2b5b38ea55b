"""
Types segments with DuckDB's engine, exactly: the good rows by the block, every doubtful one in Python.

A row is taken as DuckDB typed it only where `headrace.typed.columns` proves it exact. All other lines go through
`headrace.rows`, which decides; the result is the same as if every line had.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import duckdb
import msgspec

from headrace.contract import MAX_BYTES, Contract
from headrace.envelope import decode
from headrace.errors import DataError
from headrace.rows import Rejected, row
from headrace.typed import columns as sql
from headrace.typed import line
from headrace.typed.columns import literal, quoted
from headrace.typed.spool import Spooled, no_room

DELETED = "_deleted"
"""Where a contract has a key: whether the row is a delete, which is kept (S9)."""

_TOMBSTONE = "ends_with(line, ',\"value\":null}')"
"""A line without a value; the value is the last field of a line, and one that ends alike has one more brace or a quote behind."""

_DOUBTFUL_AT_ONCE = 10_000
_LINE_BYTES = 2 << 20
"""What DuckDB makes room for in any case."""


@attrs.frozen
class Staging:
    """
    Temporary tables of one connection, made anew for each transaction and before it begins (S4).

    ``staged``: the typed rows, ``_file, _offset, _timestamp_ms``, the columns, and `DELETED` where the contract has a key;
    a file is its number from 0. ``refused``: ``_file, _offset, _timestamp_ms, column, reason, line``. No column of a contract
    begins with an underscore.

    Attributes:
        connection: Of the loader.

        contract: Says what a row is.

        folder: For files on their way; the caller removes it.
    """

    connection: duckdb.DuckDBPyConnection
    contract: Contract
    folder: Path

    def stage(self, spooled: Spooled) -> None:
        """Type lines into the two tables; nothing outside the connection's temporary tables is touched."""
        self._run(f"CREATE OR REPLACE TEMP TABLE staged AS {self._typed(spooled)}")
        self._run(
            'CREATE OR REPLACE TEMP TABLE refused(_file INTEGER, _offset BIGINT, _timestamp_ms BIGINT, "column" VARCHAR,'
            " reason VARCHAR, line BLOB)"
        )
        self._decide_doubtful()

    def counts(self) -> dict[int, tuple[int, int, int, int]]:
        """For each file: rows, refused records, the first and the last offset."""
        found = self._run(
            "SELECT _file, count(*) FILTER (good), count(*) FILTER (NOT good), min(_offset), max(_offset) FROM"
            " (SELECT _file, _offset, true AS good FROM staged UNION ALL SELECT _file, _offset, false FROM refused)"
            " GROUP BY _file"
        )
        return {file: (good, bad, first, last) for file, good, bad, first, last in found}

    # ---- by the block -------------------------------------------------------------------------------------

    def _typed(self, spooled: Spooled) -> str:
        """All lines, each with its values; ``line`` is NULL where they are proved."""
        columns = self.contract.columns
        objects, places = line.objects(columns)
        texts, values = [f"t{i}" for i in range(len(columns))], [f"v{i}" for i in range(len(columns))]

        parsed = ", ".join(f"from_json(line, {literal(found)}) AS r{i}" for i, found in enumerate(objects))
        leaves = _named((line.leaf(c, f"r{i}") for c, i in zip(columns, places, strict=True)), texts)
        typed = _named(map(sql.value, columns, texts), values)
        named = _named(values, (quoted(column.name) for column in columns))
        if self.contract.key:
            named += f", {self._deletes(values)} AS {DELETED}"
        return (
            f"SELECT file AS _file, place AS _offset, ms AS _timestamp_ms, {named},"
            f" CASE WHEN ({' AND '.join(self._proofs(spooled, texts, values))}) IS TRUE THEN NULL ELSE line END AS _line"
            f" FROM (SELECT *, {typed}"
            f' FROM (SELECT file, line, r0."offset" AS place, r0.timestamp_ms AS ms, {leaves}'
            f" FROM (SELECT file, line, {parsed} FROM {lines_of(spooled)})))"
        )

    def _proofs(self, spooled: Spooled, texts: Sequence[str], values: Sequence[str]) -> Iterator[str]:
        columns = self.contract.columns
        fields = [text for column, text in zip(columns, texts, strict=True) if column.record == "value"]
        # a value that is no object reads like one without fields
        there = f"coalesce({', '.join(fields)}) IS NOT NULL" if fields else "false"
        yield f"({there} OR {_TOMBSTONE})" if self.contract.tombstones else there
        deletes = self._deletes(values)
        for column, text, value in zip(columns, texts, values, strict=True):
            yield sql.proof(column, text, value, "false" if self.contract.places(column) else deletes)
        by_name = {column.name: (column, value) for column, value in zip(columns, values, strict=True)}
        for low, high in self.contract.ascending:
            (first, less), (second, more) = by_name[low], by_name[high]
            yield sql.ascends(first, second, less, more)
        if spooled.longest_line > MAX_BYTES:  # no cell is longer than its line
            yield f"strlen(line) <= {MAX_BYTES}"

    def _deletes(self, values: Sequence[str]) -> str:
        """Whether a record is a delete."""
        deleted, found = self.contract.deleted, "false"
        if deleted is not None:
            [value] = [v for c, v in zip(self.contract.columns, values, strict=True) if c.name == deleted.column]
            found = f"coalesce({value}::VARCHAR IN ({', '.join(map(literal, deleted.cells))}), false)"
        return f"({found} OR {_TOMBSTONE})" if self.contract.tombstones else found

    # ---- row by row ---------------------------------------------------------------------------------------

    def _decide_doubtful(self) -> None:
        """Give every line that is not proved its row, or its reason."""
        self._run(
            "CREATE OR REPLACE TEMP TABLE doubtful AS SELECT _file AS file, _line AS line FROM staged WHERE _line IS NOT NULL"
        )
        [(count,)] = self._run("SELECT count(*) FROM doubtful")
        if count:
            self._run("DELETE FROM staged WHERE _line IS NOT NULL")
        for begin in range(0, count, _DOUBTFUL_AT_ONCE):
            end = begin + _DOUBTFUL_AT_ONCE
            self._take(self._run(f"SELECT file, line FROM doubtful WHERE rowid >= {begin} AND rowid < {end}"))
        self._run("DROP TABLE doubtful")

    def _take(self, lines: Sequence[tuple[int, str]]) -> None:
        """Decide *lines*, and read what was decided back as text: from text DuckDB's casts are exact."""
        path = self.folder / "decided.jsonl"
        longest = 0
        try:
            with path.open("wb") as file:
                for decided in self._decided(lines):
                    longest = max(longest, len(decided))
                    file.write(decided)
        except OSError as exc:
            raise no_room(path.parent, exc) from exc
        cells = [f"c{i}" for i in range(len(self.contract.columns) + bool(self.contract.key))]
        fields = {"file": "INTEGER", "offset": "BIGINT", "timestamp_ms": "BIGINT"}
        fields |= dict.fromkeys(["column", "reason", "line", *cells], "VARCHAR")
        columns = ", ".join(f"{quoted(name)}: {literal(kind)}" for name, kind in fields.items())
        source = (
            f"read_json({literal(str(path))}, format = 'newline_delimited', maximum_object_size = {max(longest, _LINE_BYTES)},"
            f" columns = {{{columns}}})"
        )
        kinds = [*map(sql.sql_type, self.contract.columns), "BOOLEAN"]
        typed = ", ".join(f"CAST({cell} AS {kind})" for cell, kind in zip(cells, kinds, strict=False))
        self._run(
            f'INSERT INTO staged SELECT file, "offset", timestamp_ms, {typed}, NULL FROM {source} WHERE reason IS NULL'
        )
        self._run(
            'INSERT INTO refused SELECT file, "offset", timestamp_ms, "column", reason, from_base64(line)'
            f" FROM {source} WHERE reason IS NOT NULL"
        )
        path.unlink()

    def _decided(self, lines: Sequence[tuple[int, str]]) -> Iterator[bytes]:
        for file, text in lines:
            raw = text.encode()
            record = decode(raw)
            found = row(
                self.contract, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset
            )
            place = {"file": file, "offset": record.offset, "timestamp_ms": record.timestamp_ms}
            if isinstance(found, Rejected):
                fate = {"column": found.column, "reason": found.reason, "line": base64.b64encode(raw).decode()}
                yield msgspec.json.encode({**place, **fate}) + b"\n"
            else:
                yield msgspec.json.encode({**place, **{f"c{i}": cell for i, cell in enumerate(found)}}) + b"\n"

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(statement).fetchall()
        except duckdb.InvalidInputException as exc:
            raise DataError(f"DuckDB cannot read the lines of a segment: {exc}") from exc


def _named(expressions: Iterable[str], names: Iterable[str]) -> str:
    return ", ".join(f"{expression} AS {name}" for expression, name in zip(expressions, names, strict=True))


def lines_of(spooled: Spooled) -> str:
    """The lines of files as a query: ``file``, a number from 0, and ``line``."""
    files = f"[{', '.join(literal(str(file)) for file in spooled.files)}]"
    return (
        f"(SELECT list_position({files}, filename) - 1 AS file, line FROM read_csv({files},"
        " columns = {'line': 'VARCHAR'}, header = false, auto_detect = false, delim = '\x01', quote = '', escape = '',"
        f" new_line = '\\n', filename = true, max_line_size = {max(spooled.longest_line, _LINE_BYTES)}))"
    )

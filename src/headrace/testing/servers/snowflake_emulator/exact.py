"""Types, errors and locks nearer to the service's: what is exact there is exact here, who waits there waits here."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from string import Template

import duckdb
import fakesnow.copy_into as copying
import fakesnow.cursor as cursors
import fakesnow.info_schema as info_schema
import fakesnow.server as server
import fakesnow.transforms as transforms
import fakesnow.transforms.stage as stages
import snowflake.connector.errors as errors
from sqlglot import exp

NS = exp.DataType.Type.TIMESTAMP_NS
_LOOK_EVERY_S = 0.02
_DONE = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Copy, exp.Select)

ERRORS = (
    (duckdb.TransactionException, "Conflict on", 625, "57014"),
    (duckdb.TransactionException, "write-write conflict", 625, "57014"),
    (duckdb.TransactionException, "is aborted", 90232, "25P02"),
    (duckdb.ConstraintException, "NOT NULL", 100072, "22000"),
    (duckdb.InvalidInputException, "Malformed JSON", 100069, "22P02"),
    (duckdb.Error, "", 100999, "XX000"),
)
"""DuckDB's errors that fakesnow lets through, with the service's numbers; 90232 and 100999 are made up."""


def mend() -> None:
    """Change fakesnow in place."""
    info_schema.fs_global_creation_sql = with_nanoseconds(info_schema.fs_global_creation_sql)
    info_schema.SQL_CREATE_INFORMATION_SCHEMA_VIEWS_VIEW = with_comments(
        info_schema.SQL_CREATE_INFORMATION_SCHEMA_VIEWS_VIEW
    )
    info_schema.insert_table_comment_sql = with_quotes(info_schema.insert_table_comment_sql)
    transforms.integer_precision = integer_precision
    transforms.timestamp_ntz = timestamp_ntz
    transforms.to_timestamp = to_timestamp
    transforms.numeric_agg_implicit_cast = but_sums(transforms.numeric_agg_implicit_cast)
    # a temporary table must not write into the registry of comments, a second database in one transaction
    transforms.extract_comment_on_table = but_temporary(transforms.extract_comment_on_table)
    transforms.extract_text_length = but_temporary(transforms.extract_text_length)
    cursors.FakeSnowflakeCursor._execute = execute
    server.from_binding = from_binding
    copying._source_urls = source_urls
    copying._params = params


# ---- types ------------------------------------------------------------------------------------------------------


def integer_precision(expression: exp.Expression) -> exp.Expression:
    """Keep 38 digits of NUMBER and NUMBER(38,0); fakesnow's BIGINT ends at 19."""
    if isinstance(expression, exp.DataType) and expression.this == exp.DataType.Type.DECIMAL:
        return expression if expression.expressions else exp.DataType.build("DECIMAL(38, 0)")
    if isinstance(expression, exp.DataType) and expression.this in (
        exp.DataType.Type.BINARY,
        exp.DataType.Type.VARBINARY,
    ):
        return exp.DataType(this=exp.DataType.Type.BINARY)  # DuckDB's has no length
    if expression.this in (exp.DataType.Type.INT, exp.DataType.Type.SMALLINT, exp.DataType.Type.TINYINT):
        return exp.DataType(this=exp.DataType.Type.BIGINT)
    return expression


def but_sums(transform):
    """A sum of numbers has all its digits; fakesnow's goes through a double."""
    return lambda expression: expression if isinstance(expression, exp.Sum) else transform(expression)


def timestamp_ntz(expression: exp.Expression) -> exp.Expression:
    """Keep nanoseconds."""
    if isinstance(expression, exp.DataType) and expression.this == exp.DataType.Type.TIMESTAMPNTZ:
        return exp.DataType(this=NS)
    return expression


_to_timestamp = transforms.to_timestamp


def to_timestamp(expression: exp.Expression) -> exp.Expression:
    """Let ``TO_TIMESTAMP_NTZ(x, 9)`` and ``x::TIMESTAMP_NTZ`` keep nanoseconds."""
    if isinstance(expression, exp.UnixToTime) and getattr(expression.args.get("scale"), "name", "") == "9":
        return exp.Anonymous(this="make_timestamp_ns", expressions=[exp.cast(expression.this, "BIGINT")])
    if isinstance(expression, exp.Cast) and expression.to.this == exp.DataType.Type.TIMESTAMPNTZ:
        return exp.Cast(this=expression.this, to=exp.DataType(this=NS))
    return _to_timestamp(expression)


def with_nanoseconds(creation):
    """Call DuckDB's type TIMESTAMP_NTZ, too."""
    return lambda *given: creation(*given).replace(
        "columns.data_type='TIMESTAMP' then", "columns.data_type in ('TIMESTAMP', 'TIMESTAMP_NS') then"
    )


def with_comments(views):
    """Show the comments of views, which are in the registry with those of tables."""
    return Template(
        views.template.replace(
            "null::VARCHAR as COMMENT",
            "(select ext.comment from _fs_global._fs_information_schema._fs_tables_ext ext where ext.ext_table_catalog ="
            " database_name and ext.ext_table_schema = schema_name and ext.ext_table_name = view_name) as COMMENT",
        )
    )


def with_quotes(insertion):
    """Take comments that hold quotes."""
    return lambda catalog, schema, table, comment: insertion(
        catalog, schema, table, None if comment is None else comment.replace("'", "''")
    )


def but_temporary(transform):
    def mended(expression, *given, **named):
        if isinstance(expression, exp.Create) and expression.find(exp.TemporaryProperty):
            return expression
        return transform(expression, *given, **named)

    return mended


_from_binding = server.from_binding


def from_binding(bound):
    """Take NULL, decimals and floats as values of a statement."""
    from decimal import Decimal

    value, kind = bound["value"], bound["type"]
    if value is None:
        return None
    if kind == "FIXED" and not value.lstrip("+-").isdigit():
        return Decimal(value)
    return float(value) if kind == "REAL" else _from_binding(bound)


# ---- COPY -------------------------------------------------------------------------------------------------------

_source_urls, _params = copying._source_urls, copying._params


def source_urls(source, files):
    """Find FILES on internal stages, too."""
    if not stages.is_internal(source):
        return _source_urls(source, files)
    return [f"{source.rstrip('/')}/{file}" for file in files] or [source]


def params(expression, *given, **named):
    """Pass over what is false, and over options that need nothing done here."""
    kept = []
    for param in expression.args.get("params") or []:
        value = param.args.get("expression")
        if param.this.name.upper() in ("FORCE", "PURGE") and value is not None and value.sql().upper() == "FALSE":
            continue
        kept.append(param)
    expression.set("params", kept)
    return _params(expression, *given, **named)


# ---- errors and locks -------------------------------------------------------------------------------------------

_execute = cursors.FakeSnowflakeCursor._execute
_one_definition = threading.Lock()  # fakesnow's registries of comments and lengths take one at a time
_DDL = (exp.Create, exp.Drop, exp.Alter, exp.Comment)


def while_waiting() -> None:
    """Called again and again by a statement that waits for a lock: `wire` rolls back who holds it and is gone."""


def execute(self, transformed, values=None):
    """
    Execute one statement; one that meets another transaction's lock waits for it, as the service's do.

    DuckDB refuses such a statement, and its transaction has failed with it. If it was the first one of its transaction,
    nothing is lost: the transaction begins again until the lock is free, or LOCK_TIMEOUT is over.
    """
    session = self._conn
    if isinstance(transformed, exp.Transaction):
        session.done = 0
    elif isinstance(transformed, exp.Commit | exp.Rollback):
        session.done = None
    deadline = time.monotonic() + getattr(session, "lock_timeout_s", 43200.0)
    while True:
        try:
            with _one_definition if defines(transformed) else nullcontext():
                found = _execute(self, transformed, values)
        except duckdb.Error as error:
            number, state = numbered(error)
            first = getattr(session, "done", None) in (0, None)
            if number == 625 and first and time.monotonic() < deadline and not getattr(session, "ended", False):
                while_waiting()
                if getattr(session, "done", None) == 0:
                    session._duck_conn.rollback()
                    session._duck_conn.begin()
                time.sleep(_LOOK_EVERY_S)
                continue
            raise errors.ProgrammingError(
                msg=f"{type(error).__name__}: {error}", errno=number, sqlstate=state
            ) from error
        if isinstance(transformed, _DONE) and getattr(session, "done", None) is not None:
            session.done += 1
        return found


def defines(transformed):
    return isinstance(transformed, _DDL) or bool(transformed.args.get("create_stage_name"))


def numbered(error):
    return next(
        (number, state) for kind, text, number, state in ERRORS if isinstance(error, kind) and text in str(error)
    )

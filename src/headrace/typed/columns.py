r"""
What DuckDB is asked about one column: its value, and whether the text proves that the value is exact.

DuckDB's own conversions are lenient: ``1.5`` becomes the integer 2, ``"7"`` the number 7, ``true`` the number 1, and a
number with a fraction goes through a double. So a line is parsed once, into the JSON *text* of each field: quotes tell a
text from a number, and a cast of digits to a decimal is exact. What is left to prove is that the text is what was written:

- an integer without exponent is; of a key that repeats the first counts, here as in `headrace.rows`;
- a number with a fraction or an exponent was a double on its way. A double gives back 15 digits, so if the text has at
  most 15, it is what was written, unless more than 15 were (``14.1234000000000000001``), which is looked for in the line
  itself, or the double is 0 (``1e-400``);
- a moment must be written in full, in UTC;
- a nested value is `headrace.typed.nested`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from headrace.cells import FIRST_YEAR, LAST_YEAR
from headrace.contract import Column
from headrace.keyed import common
from headrace.typed import nested

_SQL_TYPES = {
    "text": "VARCHAR",
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP_NS",
    "json": "JSON",
}
_DOUBLE_DIGITS = 15
"""Decimal digits that a double always gives back (IEEE 754 binary64, DBL_DIG)."""

_MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z"
_PLAIN_KEY = re.compile(r'[^"\\/\x00-\x1f]*')
_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def sql_type(column: Column) -> str:
    """The column's type in DuckDB."""
    return f"DECIMAL({column.precision},{column.scale})" if column.kind == "decimal" else _SQL_TYPES[column.kind]


def declared(kind: str, *, nullable: bool) -> str:
    """A column's type as a table declares it."""
    return kind if nullable else f"{kind} NOT NULL"


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string."""
    return "'" + text.replace("'", "''") + "'"


def value(column: Column, text: str) -> str:
    """The typed value of a leaf, the default where there is none; without meaning where `proof` does not hold."""
    typed = _value(column, text)
    if column.default is None:
        return typed
    return f"CASE WHEN {text} IS NULL THEN CAST({literal(column.default)} AS {sql_type(column)}) ELSE {typed} END"


def _value(column: Column, text: str) -> str:
    if column.kind == "text":
        return rf"CASE WHEN contains({text}, '\') THEN {text}::JSON->>'$' ELSE {_inside(text)} END"
    if column.kind == "boolean":
        return f"{text} = 'true'"
    if column.kind == "json":
        return f"TRY_CAST({nested.value(text)} AS JSON)"
    if column.kind == "timestamp" and not is_iso(column):
        return f"TRY(make_timestamp_ns(TRY_CAST({_written(column, text)} AS BIGINT) * {_PER_UNIT[column.unit]}))"
    return f"TRY_CAST({_written(column, text)} AS {sql_type(column)})"


def proof(column: Column, text: str, typed: str, absent: str = "false") -> str:
    """
    Whether the leaf *text* proves that *typed* is what the contract says, as a condition on one line.

    *absent* is the condition on which the leaf may be missing though the column says otherwise.
    """
    proofs = " AND ".join([*_PROOFS[column.kind](column, text, typed), *_checks(column, typed)])
    allowed = "true" if column.nullable or column.default is not None else absent
    if allowed == "false":
        return f"({proofs})"
    if column.record == "key":  # one that is not UTF-8 is there, by another name
        allowed = f"{allowed} AND NOT contains(line, '\"key_b64\"')"
    if allowed == "true":
        return f"({text} IS NULL OR ({proofs}))"
    return f"CASE WHEN {text} IS NULL THEN {allowed} ELSE ({proofs}) END"


def ascends(low: Column, high: Column, less: str, more: str) -> str:
    """Whether the second of two typed values is not below the first, or one of them is NULL."""
    if sql_type(low) != sql_type(high):
        whole, scale = common(low, high)
        less, more = (f"TRY_CAST({typed} AS DECIMAL({whole + scale},{scale}))" for typed in (less, more))
    return f"coalesce({less} <= {more}, true)"


def _inside(text: str) -> str:
    return f"substring({text}, 2, length({text}) - 2)"


def _written(column: Column, text: str) -> str:
    return _inside(text) if column.text and not is_iso(column) else text


def _text(_: Column, text: str, __: str) -> Iterator[str]:
    yield f"left({text}, 1) = '\"'"


def _boolean(_: Column, text: str, __: str) -> Iterator[str]:
    yield f"{text} IN ('true', 'false')"


def _integer(column: Column, text: str, _: str) -> Iterator[str]:
    if column.text:
        yield f"left({text}, 1) = '\"'"
    written = _written(column, text)  # the number's own digits: no fraction, no exponent
    yield f"TRY_CAST({written} AS BIGINT)::VARCHAR = {written}"


def _timestamp(column: Column, text: str, typed: str) -> Iterator[str]:
    if is_iso(column):
        yield _matches(text, _MOMENT)
    else:
        yield from _integer(column, text, typed)
    yield f"year({typed}) BETWEEN {FIRST_YEAR} AND {LAST_YEAR}"


def _decimal(column: Column, text: str, typed: str) -> Iterator[str]:
    whole = column.precision - column.scale
    behind = rf"\.[0-9]{{1,{column.scale}}}" if column.scale else r"\.0"
    yield f"{typed} IS NOT NULL"  # of too many digits before the point
    if column.text:
        yield _matches(text, rf'"-?(?:0|[1-9][0-9]{{0,{max(whole - 1, 0)}}})(?:{behind})?"')
        return
    yield _matches(text, rf"-?[0-9]{{1,{max(whole, 1)}}}(?:{behind})?")
    nothing_small = f"CASE WHEN {typed} <> 0 THEN true ELSE NOT contains(line, 'e-') AND NOT contains(line, 'E-') END"
    double = f"strlen({text}) <= {_DOUBLE_DIGITS + 1} AND {_not_long(column.source[-1])} AND {nothing_small}"
    yield f"CASE WHEN contains({text}, '.') THEN {double} ELSE true END"


def _not_long(key: str) -> str:
    """Whether no number of more than 15 digits stands at this key in any object of the line."""
    # a key that is written with an escape is not found; only some must be, all others may be by their code points
    escape = r"\u" if _PLAIN_KEY.fullmatch(key) else "\\"
    spelled = "".join(c if c.isalnum() else rf"\x{{{ord(c):x}}}" for c in key)
    # without the first quote, which is everywhere, the search is faster; a longer key that ends alike may be found
    long = rf'{spelled}"\s*:\s*-?(?:[0-9]{{16}}|[0-9.]{{17}})'
    return f"NOT contains(line, {literal(escape)}) AND NOT regexp_matches(line, {literal(long)})"


def _json(column: Column, text: str, typed: str) -> Iterator[str]:
    yield nested.shape(column.shapes, text)
    yield nested.proof(text, typed)


_PROOFS = {
    "text": _text,
    "boolean": _boolean,
    "integer": _integer,
    "timestamp": _timestamp,
    "decimal": _decimal,
    "json": _json,
}


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {literal(pattern)})"


def is_iso(column: Column) -> bool:
    """Whether it is a moment that is written as text."""
    return column.kind == "timestamp" and column.unit == "iso"


def _checks(column: Column, typed: str) -> Iterator[str]:
    if column.minimum is not None:
        yield f"{typed} >= {Decimal(column.minimum):f}"
    if column.maximum is not None:
        yield f"{typed} <= {Decimal(column.maximum):f}"
    if column.max_length is not None:
        yield f"length({typed}) <= {column.max_length}"
    if column.one_of:
        yield f"{typed} IN ({', '.join(map(literal, column.one_of))})"

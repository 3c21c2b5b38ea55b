"""One value to one cell, exactly: what a column means, in plain Python."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation

import attrs

from headrace.columns import MAX_BYTES, Column
from headrace.json_text import Number, canonical, exact

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 1678, 2261
"""Years that a 64-bit count of nanoseconds holds in full."""


@attrs.frozen
class Rejected(Exception):  # noqa: N818 - an answer, raised only in here and in `headrace.rows`
    """
    Why a record is no row.

    Attributes:
        column: Which column's; "" where it is the record's.

        reason: In words, without the value.
    """

    column: str
    reason: str


def cell(column: Column, found: object, *, optional: bool = False) -> str | None:
    """
    Return what a field is in its column, as `headrace.rows.row` says; the default where there is none.

    Args:
        column: The column.

        found: From `headrace.json_text.parsed`; None where there is no such field.

        optional: It may be NULL, whatever the column says.

    Raises:
        Rejected: It is nothing that the column takes.
    """
    if found is None:
        if column.default is not None or column.nullable or optional:
            return column.default
        raise Rejected(column.name, "missing")
    try:
        return _BY_KIND[column.kind](column, found)
    except UnicodeEncodeError:
        raise Rejected(column.name, "a text that is not Unicode") from None


def _text(column: Column, found: object) -> str:
    if not isinstance(found, str) or isinstance(found, Number):
        raise Rejected(column.name, f"{_kind_of(found)}, expected text")
    _check_size(column, found)
    if column.max_length is not None and len(found) > column.max_length:
        raise Rejected(column.name, f"more than {column.max_length} characters")
    if column.one_of and found not in column.one_of:
        raise Rejected(column.name, "not one of the values that are allowed")
    return found


def _check_size(column: Column, text: str) -> None:
    if len(text.encode()) > MAX_BYTES:  # a lone surrogate is no text: it cannot be encoded
        raise Rejected(column.name, f"more than {MAX_BYTES} bytes")


def _json(column: Column, found: object) -> str:
    shape = "array" if isinstance(found, list) else "object" if isinstance(found, dict) else ""
    if shape not in column.shapes:
        raise Rejected(column.name, f"{_kind_of(found)}, expected an {' or an '.join(column.shapes)}")
    try:
        text = canonical(found)
    except ValueError as exc:
        raise Rejected(column.name, str(exc)) from None
    _check_size(column, text)
    return text


def _boolean(column: Column, found: object) -> str:
    if not isinstance(found, bool):
        raise Rejected(column.name, f"{_kind_of(found)}, expected a boolean")
    return "true" if found else "false"


def _written(column: Column, found: object) -> str:
    """The digits of a number, from a number or, where the contract says so, from a text."""
    if column.text:
        if not isinstance(found, str) or isinstance(found, Number):
            raise Rejected(column.name, f"{_kind_of(found)}, expected a number as text")
        if not _NUMBER.fullmatch(found):
            raise Rejected(column.name, "a text that is no number")
        return found
    if not isinstance(found, Number):
        raise Rejected(column.name, f"{_kind_of(found)}, expected a number")
    return found


def _integer(column: Column, found: object) -> str:
    digits = _written(column, found)
    if not _INTEGER.fullmatch(digits):
        raise Rejected(column.name, "a number with a fraction or an exponent, expected an integer")
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise Rejected(column.name, "beyond 64 bits")
    _check_range(column, Decimal(digits))
    return str(int(digits))


def _decimal(column: Column, found: object) -> str:
    digits = _written(column, found)
    try:
        sign, figures, exponent = exact(digits)
    except InvalidOperation:
        raise Rejected(column.name, f"more than {column.precision} digits") from None
    if -exponent > column.scale:
        raise Rejected(column.name, f"more than {column.scale} digits behind the point")
    if figures and len(figures) + exponent > column.precision - column.scale:
        raise Rejected(column.name, f"more than {column.precision - column.scale} digits before the point")
    number = Decimal((sign, tuple(map(int, figures)), exponent))
    _check_range(column, number)
    return f"{number.quantize(Decimal(1).scaleb(-column.scale), context=Context(prec=80)):f}"


def _check_range(column: Column, number: Decimal) -> None:
    if column.minimum is not None and number < column.minimum:
        raise Rejected(column.name, f"below {column.minimum}")
    if column.maximum is not None and number > column.maximum:
        raise Rejected(column.name, f"above {column.maximum}")


def _timestamp(column: Column, found: object) -> str:
    if column.unit != "iso":
        digits = _written(column, found)
        if not _INTEGER.fullmatch(digits) or len(digits) > 20:
            raise Rejected(column.name, "not a whole number since the epoch")
        seconds, rest = divmod(int(digits), _PER_S[column.unit])
        return _moment(column, seconds, rest * (10**9 // _PER_S[column.unit]))
    if not isinstance(found, str) or isinstance(found, Number):
        raise Rejected(column.name, f"{_kind_of(found)}, expected a time as text")
    match = _MOMENT.fullmatch(found)
    if match is None:
        raise Rejected(column.name, "not an ISO-8601 time with its zone")
    day, time, fraction, zone = match.groups()
    try:
        when = datetime.fromisoformat(f"{day}T{time}{'+00:00' if zone in 'Zz' else zone}")
        seconds = (when - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise Rejected(column.name, "a time that does not exist") from None
    return _moment(column, seconds, int((fraction or "").ljust(9, "0")))


def _moment(column: Column, seconds: int, nanoseconds: int) -> str:
    try:
        when = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise Rejected(column.name, f"outside the years {FIRST_YEAR} to {LAST_YEAR}") from None
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise Rejected(column.name, f"outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return f"{when.replace(tzinfo=None).isoformat(' ')}.{nanoseconds:09d}"


def _kind_of(found: object) -> str:
    if isinstance(found, Number):
        return "a number"
    return {str: "text", bool: "a boolean", dict: "an object", list: "an array"}.get(type(found), "something else")


_BY_KIND = {
    "text": _text,
    "integer": _integer,
    "decimal": _decimal,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "json": _json,
}

"""
One record to one row, exactly: what a contract means, in plain Python.

Loaders type most rows by the block and in their own engine; this decides every row that is not plain, and it is what they
are tested against.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation

import attrs

from headrace.contract import Column, Contract

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 1678, 2261
"""Years that a 64-bit count of nanoseconds holds in full."""


class _Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


@attrs.frozen
class Rejected(Exception):  # noqa: N818 - an answer, raised only inside this module
    """
    Why a record is no row.

    Attributes:
        column: Which column's; "" where it is the record's.

        reason: In words, without the value.
    """

    column: str
    reason: str


def row(contract: Contract, value: bytes | None) -> list[str | None] | Rejected:
    """
    Return the row's cells as canonical text, in the order of the columns, or why there is none.

    An integer and a decimal are digits without exponent, a boolean ``true`` or ``false``, a moment
    ``2013-10-07 13:30:00.123456789`` in UTC.
    """
    try:
        found = _parsed(value)
        return [_cell(column, _field(found, column.source)) for column in contract.columns]
    except Rejected as rejected:
        return rejected


def _parsed(value: bytes | None) -> object:
    if value is None:
        raise Rejected("", "tombstone")  # S9: without a business key there is nothing that it deletes
    try:
        found = json.loads(
            value.decode(),
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_no_constant,
            object_pairs_hook=_first_of_each,
        )
    except UnicodeDecodeError:
        raise Rejected("", "not UTF-8") from None
    except RecursionError:
        raise Rejected("", "nested too deep") from None
    except ValueError:
        raise Rejected("", "not JSON") from None
    if not isinstance(found, dict):
        raise Rejected("", "not an object")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _first_of_each(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, content in pairs:
        found.setdefault(name, content)
    return found


def _field(found: object, source: Sequence[str]) -> object:
    for name in source:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _cell(column: Column, found: object) -> str | None:
    if found is None:
        if column.nullable:
            return None
        raise Rejected(column.name, "missing")
    try:
        return _BY_KIND[column.kind](column, found)
    except UnicodeEncodeError:
        raise Rejected(column.name, "a text that is not Unicode") from None


def _text(column: Column, found: object) -> str:
    if not isinstance(found, str) or isinstance(found, _Number):
        raise Rejected(column.name, f"{_kind_of(found)}, expected text")
    found.encode()  # a lone surrogate is no text
    if column.one_of and found not in column.one_of:
        raise Rejected(column.name, "not one of the values that are allowed")
    return found


def _boolean(column: Column, found: object) -> str:
    if not isinstance(found, bool):
        raise Rejected(column.name, f"{_kind_of(found)}, expected a boolean")
    return "true" if found else "false"


def _written(column: Column, found: object) -> str:
    """The digits of a number, from a number or, where the contract says so, from a text."""
    if column.text:
        if not isinstance(found, str) or isinstance(found, _Number):
            raise Rejected(column.name, f"{_kind_of(found)}, expected a number as text")
        if not _NUMBER.fullmatch(found):
            raise Rejected(column.name, "a text that is no number")
        return found
    if not isinstance(found, _Number):
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
        number = Decimal(digits)
    except InvalidOperation:  # an exponent that not even Decimal holds
        raise Rejected(column.name, f"more than {column.precision} digits") from None
    sign, figures, exponent = number.as_tuple()
    assert isinstance(exponent, int), "JSON has no NaN and no infinity"  # noqa: S101 - the grammar's promise
    while figures[-1:] == (0,):
        figures, exponent = figures[:-1], exponent + 1
    if not figures:
        figures, exponent, sign = (0,), 0, 0  # -0 is 0
    if -exponent > column.scale:
        raise Rejected(column.name, f"more than {column.scale} digits behind the point")
    if figures != (0,) and len(figures) + exponent > column.precision - column.scale:
        raise Rejected(column.name, f"more than {column.precision - column.scale} digits before the point")
    exact = Decimal((sign, figures, exponent))
    _check_range(column, exact)
    return f"{exact.quantize(Decimal(1).scaleb(-column.scale), context=Context(prec=80)):f}"


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
    if not isinstance(found, str) or isinstance(found, _Number):
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
    return f"{when:%Y-%m-%d %H:%M:%S}.{nanoseconds:09d}"


def _kind_of(found: object) -> str:
    if isinstance(found, _Number):
        return "a number"
    return {str: "text", bool: "a boolean", dict: "an object", list: "an array"}.get(type(found), "something else")


_BY_KIND = {"text": _text, "integer": _integer, "decimal": _decimal, "boolean": _boolean, "timestamp": _timestamp}

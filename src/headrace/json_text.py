"""
The one text of a nested value, so that equal values are equal texts, in every warehouse.

Compact; the names of an object in the order in which they first appear, and of a name that repeats the first value; texts with
the fewest escapes (``"``, ``\\`` and control characters; these as ``\\n`` and the like, else as ``\\u001f``); a number without
exponent, without a zero at the end of its fraction, without the sign of a zero. Numbers have at most 38 digits, of these at
most 37 behind the point: this is what a number in a Snowflake VARIANT keeps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring

MAX_NUMBER_DIGITS = 38
MAX_NUMBER_SCALE = 37
_TOO_LONG = f"a number of more than {MAX_NUMBER_DIGITS} digits"
MAX_DEPTH = 100
"""Containers inside each other; the lake's lines have no more than that either (`headrace.envelope`)."""


class Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def parsed(text: str) -> object:
    """
    Read JSON with its numbers as `Number` and of each repeated name the first.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It nests deeper than Python reads.
    """
    return _DECODER.decode(text)


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _first_of_each(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, content in pairs:
        found.setdefault(name, content)
    return found


_DECODER = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=_no_constant, object_pairs_hook=_first_of_each
)
"""One for all: `json.loads` would make one for each text."""


def canonical(found: object) -> str:
    """
    Write what `parsed` read.

    Raises:
        ValueError: A number has more than 38 digits, or it nests too deep; the message is the reason.
    """
    pieces: list[str] = []
    _write(found, pieces, MAX_DEPTH)
    return "".join(pieces)


def _write(found: object, pieces: list[str], depth: int) -> None:
    if isinstance(found, Number):
        pieces.append(_number(found))
    elif isinstance(found, str):
        pieces.append(encode_basestring(found))
    elif isinstance(found, dict | list):
        if not depth:
            raise ValueError("nested too deep")
        _write_members(found, pieces, depth - 1)
    else:
        pieces.append("null" if found is None else "true" if found else "false")


def _write_members(found: dict[str, object] | list[object], pieces: list[str], depth: int) -> None:
    before = ""
    if isinstance(found, dict):
        pieces.append("{")
        for name, content in found.items():
            pieces += (before, encode_basestring(name), ":")
            _write(content, pieces, depth)
            before = ","
        pieces.append("}")
        return
    pieces.append("[")
    for content in found:
        pieces.append(before)
        _write(content, pieces, depth)
        before = ","
    pieces.append("]")


def exact(digits: str) -> tuple[int, str, int]:
    """
    Take a number apart: its sign (1 below 0), its digits without zeros at either end ("" is 0), and their exponent of ten.

    Raises:
        InvalidOperation: Its exponent is one that not even `Decimal` holds.
    """
    sign, figures, exponent = Decimal(digits).as_tuple()
    assert isinstance(exponent, int), "JSON has no NaN and no infinity"  # noqa: S101 - the grammar's promise
    written = "".join(map(str, figures)).lstrip("0")
    kept = written.rstrip("0")
    return (sign, kept, exponent + len(written) - len(kept)) if kept else (0, "", 0)  # -0 is 0


def _number(digits: str) -> str:
    if digits.isdigit() and len(digits) <= MAX_NUMBER_DIGITS:
        return str(digits)  # JSON has no leading zeros
    try:
        sign, figures, exponent = exact(digits)
    except InvalidOperation:
        raise ValueError(_TOO_LONG) from None
    before, behind = max(len(figures) + exponent, 0), max(-exponent, 0)
    if behind > MAX_NUMBER_SCALE or before + behind > MAX_NUMBER_DIGITS:
        raise ValueError(_TOO_LONG)
    figures = (figures + "0" * max(exponent, 0)).rjust(behind + 1, "0")
    return "-" * sign + (f"{figures[:-behind]}.{figures[-behind:]}" if behind else figures)

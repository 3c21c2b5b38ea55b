"""From a field of a contract class to its column; what cannot be meant is told where it is written."""

from __future__ import annotations

import json
import re
import types
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Union, get_args, get_origin

import attrs

from headrace.cells import Rejected, cell
from headrace.columns import Column, Kind, Origin, Shape, Unit
from headrace.errors import ConfigError
from headrace.json_text import Number, parsed

SPEC = "headrace.column"
"""Under which key a field's metadata holds what `headrace.contract.column` was told."""

_KINDS: dict[Any, Kind] = {
    str: "text",
    int: "integer",
    Decimal: "decimal",
    bool: "boolean",
    datetime: "timestamp",
    list: "json",
    dict: "json",
}
_SHAPES: dict[Any, Shape] = {list: "array", dict: "object"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FROM: dict[Origin, tuple[Kind, ...]] = {
    "key": ("text", "integer", "decimal"),
    "timestamp": ("timestamp", "integer"),
    "offset": ("integer",),
}
"""Kinds of column that a part of the record can be."""


def described(kept: type, field: attrs.Attribute[Any], hint: Any) -> Column:
    """Describe one field. ConfigError where its type, its name or what `column` was told is not a column's."""
    where = f"{kept.__name__}.{field.name}"
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [get_origin(m) or m for m in members if m is not type(None)]
    kinds = {_KINDS.get(m) for m in plain}
    if len(kinds) != 1 or None in kinds or (len(plain) > 1 and kinds != {"json"}):
        names = ", ".join(t.__name__ for t in _KINDS)
        raise ConfigError(
            f"{where}: found type {hint}, expected one of {names}, or one of them with | None; list | dict is one as well"
        )
    if not _NAME.fullmatch(field.name):
        raise ConfigError(
            f"{where}: found a name that is none of a column, expected letters of ASCII, digits and '_', a letter first (the"
            f" others are the lineage's); where the field has such a name: column(source={field.name!r})"
        )
    given = _told(where, field, nullable=type(None) in members)
    default = given.pop("default", None)
    [kind] = kinds
    assert kind is not None  # noqa: S101 - None is none of the kinds
    found = Column(
        name=field.name,
        kind=kind,
        nullable=type(None) in members,
        shapes=tuple(shape for t, shape in _SHAPES.items() if t in plain),
        **given,
    )
    _check(where, found)
    found = _placed(where, found)
    return found if default is None else attrs.evolve(found, default=_default(where, found, default))


def _told(where: str, field: attrs.Attribute[Any], *, nullable: bool) -> dict[str, Any]:
    """What `headrace.contract.column` was told; a default that stands there without it is one as well."""
    if SPEC in field.metadata:
        return dict(field.metadata[SPEC])
    if field.default is attrs.NOTHING:
        return {}
    if isinstance(field.default, attrs.Factory) or (field.default is None and not nullable):  # type: ignore[arg-type]
        raise ConfigError(f"{where}: found a default of {field.default!r}, expected a value that the column can hold")
    return {"default": field.default}


def _check(where: str, found: Column) -> None:
    if not 0 <= found.scale <= found.precision or not 1 <= found.precision <= 38:
        raise ConfigError(
            f"{where}: found precision {found.precision} and scale {found.scale}, expected 0 <= scale <= precision <= 38"
        )
    if found.unit not in get_args(Unit):
        raise ConfigError(f"{where}: found unit {found.unit!r}, expected one of {', '.join(get_args(Unit))}")
    if found.unit != "iso" and found.kind != "timestamp":
        raise ConfigError(f"{where}: unit is for moments, the column is {found.kind}")
    if (found.precision, found.scale) != (38, 9) and found.kind != "decimal":
        raise ConfigError(f"{where}: precision and scale are for decimals, the column is {found.kind}")
    if not all(found.source):
        raise ConfigError(
            f"{where}: found source {'.'.join(found.source)!r}, expected names with one point between them"
        )
    if None not in (found.minimum, found.maximum) and found.minimum > found.maximum:  # type: ignore[operator]
        raise ConfigError(
            f"{where}: found minimum {found.minimum} above maximum {found.maximum}: nothing would be taken"
        )
    if not all(isinstance(each, str) for each in found.one_of):
        raise ConfigError(f"{where}: found one_of={found.one_of!r}, expected texts")
    if found.text and found.kind not in ("integer", "decimal"):
        raise ConfigError(f"{where}: text=True is for numbers that are written as text, the column is {found.kind}")
    if found.one_of and found.kind != "text":
        raise ConfigError(f"{where}: one_of is for text, the column is {found.kind}")
    if found.max_length is not None and found.kind != "text":
        raise ConfigError(f"{where}: max_length is for text, the column is {found.kind}")
    if found.max_length is not None and (not _whole(found.max_length) or found.max_length < 1):
        raise ConfigError(f"{where}: found max_length {found.max_length!r}, expected 1, 2, …")
    if found.kind not in ("integer", "decimal") and (found.minimum is not None or found.maximum is not None):
        raise ConfigError(f"{where}: minimum and maximum are for numbers, the column is {found.kind}")


def _placed(where: str, found: Column) -> Column:
    """Fill in where it is in the record."""
    if found.record == "value":
        return attrs.evolve(found, source=found.source or (found.name,))
    if found.record not in _FROM:
        raise ConfigError(f"{where}: found record {found.record!r}, expected one of {', '.join(get_args(Origin))}")
    if found.kind not in _FROM[found.record]:
        raise ConfigError(
            f"{where}: a record's {found.record} can be {' or '.join(_FROM[found.record])}, the column is {found.kind}"
        )
    if found.source:
        raise ConfigError(
            f"{where}: found source {'.'.join(found.source)!r} and record {found.record!r}, expected one of the two"
        )
    # a key's digits are text; the timestamp is in milliseconds
    if found.record == "key":
        return attrs.evolve(found, text=found.kind != "text")
    return attrs.evolve(found, unit="ms") if found.kind == "timestamp" else found


def _whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _default(where: str, column: Column, given: object) -> str:
    """The cell that a default is, by the column's own rules."""
    found = _as_parsed(column.kind, given)
    if found is None:
        raise ConfigError(f"{where}: found default {given!r}, expected what the column can hold: it is {column.kind}")
    try:
        return cell(attrs.evolve(column, text=False, unit="iso"), found) or ""
    except Rejected as rejected:
        raise ConfigError(
            f"{where}: found default {given!r}, which the column itself refuses: {rejected.reason}"
        ) from None


def _as_parsed(kind: Kind, given: object) -> object:
    """What JSON would have been read as; None where it is of another kind."""
    try:
        match kind:
            case "text":
                return given if isinstance(given, str) else None
            case "integer":
                return Number(given) if _whole(given) else None
            case "decimal":
                if isinstance(given, bool) or not isinstance(given, int | Decimal | str):
                    return None
                found = Decimal(given)
                return Number(found) if found.is_finite() else None
            case "boolean":
                return given if isinstance(given, bool) else None
            case "timestamp":
                return given.isoformat() if isinstance(given, datetime) else None
            case "json":
                return parsed(json.dumps(given, allow_nan=False)) if isinstance(given, list | dict) else None
    except (InvalidOperation, ValueError, TypeError):
        return None

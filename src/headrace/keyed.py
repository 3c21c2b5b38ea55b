"""What a contract says of the whole row: its key and order, its deletes, its checks from column to column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from headrace.columns import Column
from headrace.errors import ConfigError

if TYPE_CHECKING:
    from headrace.contract import Contract

_ORDERED = ("integer", "decimal", "timestamp")
"""Kinds of which one value is above another without a doubt; texts are not: "9" is above "10"."""

_INTEGER_DIGITS = 19
_MAX_DIGITS = 38


@attrs.frozen
class Deletion:
    """
    What makes a record a delete.

    Attributes:
        column: The column that says so.

        cells: Its values that do, as `headrace.rows.row` writes them.
    """

    column: str
    cells: tuple[str, ...]


def names(kept: str, what: str, given: object) -> tuple[str, ...]:
    """Take what was given as names. ConfigError where it is something else."""
    if isinstance(given, tuple | list) and all(isinstance(g, str) for g in given) and len(set(given)) == len(given):
        return tuple(given)
    raise ConfigError(f"{kept}: found {what}={given!r}, expected a tuple of names, each once, such as ('symbol', 'id')")


def pairs(kept: str, what: str, given: object) -> tuple[tuple[str, str], ...]:
    """Take what was given as pairs of names. ConfigError where it is something else."""
    members: Sequence[Any] = given if isinstance(given, tuple | list) else [given]
    if all(isinstance(m, tuple | list) and [*map(type, m)] == [str, str] for m in members):
        return tuple((low, high) for low, high in members)
    raise ConfigError(f"{kept}: found {what}={given!r}, expected pairs of names, such as (('low', 'high'),)")


def deletion(kept: str, given: object, columns: Sequence[Column]) -> Deletion | None:
    """Take what was given as a condition. ConfigError where it is none, or the column cannot have such a value."""
    if given is None:
        return None
    match given:
        case (str(name), (tuple() | list()) as values) if values:
            pass
        case _:
            raise ConfigError(
                f"{kept}: found deleted={given!r}, expected a column and its values, such as ('op', ('D',))"
            )
    by_name = {column.name: column for column in columns}
    column = _there(kept, "deleted", name, by_name)
    types: Mapping[str, type] = {"text": str, "integer": int, "boolean": bool}
    wanted = types.get(column.kind)
    if wanted is None:
        raise ConfigError(f"{kept}: deleted is for text, integer or boolean columns, {name} is {column.kind}")
    for value in values:
        if type(value) is not wanted or (column.one_of and value not in column.one_of):
            raise ConfigError(f"{kept}: found deleted value {value!r}, which column {name} never has")
    return Deletion(name, tuple(str(v).lower() if wanted is bool else str(v) for v in values))


def check_table(contract: Contract) -> None:
    """Hold what is said of the whole row against the columns. ConfigError where it cannot be meant."""
    kept, by_name = contract.name, {column.name: column for column in contract.columns}
    if not contract.key and (contract.order or contract.deleted):
        raise ConfigError(
            f"{kept}: found order or deleted without a key, expected key=(…): which rows would be compared"
        )
    for name in contract.key:
        _placing(kept, "key", _there(kept, "key", name, by_name), ("text", "boolean", *_ORDERED))
    for name in contract.order:
        if name in contract.key:
            raise ConfigError(f"{kept}: {name} is of the key and of the order; it is the same wherever the key is")
        _placing(kept, "order", _there(kept, "order", name, by_name), _ORDERED)
    for name in contract.cluster:
        if _there(kept, "cluster", name, by_name).kind == "json":
            raise ConfigError(f"{kept}: cluster names {name}, which is json, expected a column with an order")
    for low, high in contract.ascending:
        _check_pair(kept, *(_there(kept, "ascending", name, by_name) for name in (low, high)))


def _there(kept: str, what: str, name: str, by_name: Mapping[str, Column]) -> Column:
    if name not in by_name:
        raise ConfigError(f"{kept}: {what} names {name!r}, and there is no such column; there are {', '.join(by_name)}")
    return by_name[name]


def _placing(kept: str, what: str, column: Column, kinds: Iterable[str]) -> None:
    if column.nullable:
        raise ConfigError(
            f"{kept}: {what} names {column.name}, which may be None: take | None away, or give it no such part"
        )
    if column.kind not in kinds:
        raise ConfigError(
            f"{kept}: {what} names {column.name}, which is {column.kind}, expected one of {', '.join(kinds)}"
        )


def _check_pair(kept: str, low: Column, high: Column) -> None:
    number = ("integer", "decimal")
    alike = (low.kind in number and high.kind in number) or low.kind == high.kind == "timestamp"
    if not alike or low is high:
        raise ConfigError(
            f"{kept}: ascending names {low.name} ({low.kind}) and {high.name} ({high.kind}), expected two numbers or two moments"
        )
    if sum(common(low, high)) > _MAX_DIGITS:
        raise ConfigError(
            f"{kept}: ascending names {low.name} and {high.name}; together they have more than {_MAX_DIGITS} digits before and"
            " behind the point: make precision or scale of one smaller"
        )


def common(one: Column, other: Column) -> tuple[int, int]:
    """Digits before and behind the point that hold either of two columns; (0, 0) of moments."""
    if one.kind == "timestamp":
        return 0, 0
    shapes = [(c.precision - c.scale, c.scale) if c.kind == "decimal" else (_INTEGER_DIGITS, 0) for c in (one, other)]
    return max(whole for whole, _ in shapes), max(scale for _, scale in shapes)

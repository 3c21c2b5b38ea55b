"""
What a silver row is: an attrs class whose fields are the columns.

::

    @contract(version=1)
    class Trade:
        '''One print on the consolidated tape.'''

        symbol: str
        time: datetime
        price: Decimal = column(precision=18, scale=6, minimum=0)
        size: int = column(minimum=0)
        conditions: str | None

A value that is not exactly of its column's type is not converted: ``"7"`` is no number, ``1.5`` no integer, ``true`` no
``1``. The record goes to quarantine, with the column and the reason. Fields of the record that the contract does not name
are passed over; of a key that repeats in one object the first counts.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs

from headrace.errors import ConfigError

T = TypeVar("T")
Kind = Literal["text", "integer", "decimal", "boolean", "timestamp"]
Unit = Literal["iso", "s", "ms", "us", "ns"]

_SPEC = "headrace.column"
_VERSION = "__headrace_version__"
_KINDS: Mapping[type, Kind] = {str: "text", int: "integer", Decimal: "decimal", bool: "boolean", datetime: "timestamp"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@attrs.frozen
class Column:
    """
    One column of a row.

    Attributes:
        name: In the table.

        kind: Text, 64-bit integer, exact decimal, boolean, or a moment in UTC with nanoseconds.

        nullable: Whether null, or no such field, is a value.

        source: Where it is in the record's value: the names from the outside in.

        precision: Digits of a decimal, at most 38.

        scale: Of these, behind the point.

        unit: How a moment is written: "iso" is ISO-8601 text with its zone, the others an integer since the Unix epoch.

        text: A number that is written as a JSON string.

        minimum: Smallest value.

        maximum: Largest value.

        one_of: The only values of a text.
    """

    name: str
    kind: Kind
    nullable: bool = False
    source: tuple[str, ...] = ()
    precision: int = 38
    scale: int = 9
    unit: Unit = "iso"
    text: bool = False
    minimum: int | Decimal | None = None
    maximum: int | Decimal | None = None
    one_of: tuple[str, ...] = ()


@attrs.frozen
class Contract:
    """
    A contract as data: what loaders work from.

    Attributes:
        name: Of the class.

        version: Of the contract; a later one has a higher number.

        columns: In their order.

        doc: What the class's docstring says: the table's comment.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    doc: str = ""

    @classmethod
    def of(cls, kept: type) -> Contract:
        """Describe a contract class. ConfigError where it is none, or a field's type is not a column's."""
        if not attrs.has(kept) or _VERSION not in kept.__dict__:
            raise ConfigError(f"found {kept!r}, expected a class with @headrace.contract")
        hints = get_type_hints(kept, include_extras=True)
        columns = tuple(_described(kept, field, hints[field.name]) for field in attrs.fields(kept))
        if not columns:
            raise ConfigError(f"{kept.__name__}: found no column, expected one or more")
        for column_, others in ((c, columns[:i]) for i, c in enumerate(columns)):
            if column_.name.lower() in {other.name.lower() for other in others}:
                raise ConfigError(
                    f"{kept.__name__}.{column_.name}: a column of this name is there; databases do not tell case"
                )
        return cls(kept.__name__, kept.__dict__[_VERSION], columns, inspect.cleandoc(kept.__doc__ or ""))


def contract(*, version: int) -> Callable[[type[T]], type[T]]:
    """
    Make a class a contract.

    Args:
        version: Raised by one whenever rows would differ from those that are there.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError(f"found contract version {version!r}, expected 1, 2, …")

    def decorate(kept: type[T]) -> type[T]:
        made = attrs.frozen(kw_only=True)(kept)
        setattr(made, _VERSION, version)
        Contract.of(made)  # a wrong field is told where it is written
        return made

    return decorate


def column(
    *,
    source: str = "",
    precision: int = 38,
    scale: int = 9,
    unit: Unit = "iso",
    text: bool = False,
    minimum: int | Decimal | str | None = None,
    maximum: int | Decimal | str | None = None,
    one_of: tuple[str, ...] = (),
) -> Any:
    """
    Say more of a column than its type does; see `Column`.

    Args:
        source: The field's name in the record where it is another; ``a.b`` is the field b of the object a.

        precision: Digits of a decimal.

        scale: Of these, behind the point.

        unit: How a moment is written.

        text: The number is written as a JSON string, as some feeds do.

        minimum: Smallest value; of a decimal also as text, which is exact.

        maximum: Largest value.

        one_of: The only values of a text.
    """
    given = {
        "source": tuple(source.split(".")) if source else (),
        "precision": precision,
        "scale": scale,
        "unit": unit,
        "text": text,
        "minimum": _bound("minimum", minimum),
        "maximum": _bound("maximum", maximum),
        "one_of": tuple(one_of),
    }
    return attrs.field(metadata={_SPEC: given})


def _bound(name: str, given: int | Decimal | str | None) -> int | Decimal | None:
    """A float is refused: 0.1 is not what it says, and the check would be for another number."""
    try:
        found = Decimal(given) if isinstance(given, str) else given
    except InvalidOperation:
        found = Decimal("NaN")
    exact = found is None or (
        isinstance(found, int | Decimal) and not isinstance(found, bool) and Decimal(found).is_finite()
    )
    if not exact:
        raise ConfigError(f"found {name}={given!r}, expected an integer, a Decimal, or a number as text such as '0.01'")
    return found


def load_contract(text: str) -> type:
    """
    Import a contract by ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        ConfigError: There is no such module, file or class, or it is no contract.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not name:
        raise ConfigError(f"found contract {text!r}, expected MODULE:CLASS or FILE.py:CLASS")
    module = _module(place, text)
    kept = getattr(module, name, None)
    if not isinstance(kept, type):
        there = ", ".join(n for n, v in vars(module).items() if isinstance(v, type) and _VERSION in vars(v)) or "none"
        raise ConfigError(f"found contract {text!r}, and {place} has no class {name!r}; contracts there: {there}")
    Contract.of(kept)
    return kept


def _module(place: str, text: str) -> types.ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(f"headrace_contract_{Path(place).stem}", place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise ConfigError(f"found contract {text!r}, and there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # attrs looks a class's annotations up there
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as exc:
        raise ConfigError(f"contract {text!r}: {place} cannot be imported: {type(exc).__name__}: {exc}") from exc
    return module


def _described(kept: type, field: attrs.Attribute[Any], hint: Any) -> Column:
    where = f"{kept.__name__}.{field.name}"
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [m for m in members if m is not type(None)]
    if len(plain) != 1 or plain[0] not in _KINDS:
        names = ", ".join(t.__name__ for t in _KINDS)
        raise ConfigError(f"{where}: found type {hint}, expected one of {names}, or one of them with | None")
    if not _NAME.fullmatch(field.name):
        raise ConfigError(f"{where}: found a name that begins with '_', expected a letter: those are the lineage's")
    given = dict(field.metadata.get(_SPEC, {}))
    given["source"] = given.get("source") or (field.name,)
    found = Column(name=field.name, kind=_KINDS[plain[0]], nullable=len(members) > 1, **given)
    if not 0 <= found.scale <= found.precision or not 1 <= found.precision <= 38:
        raise ConfigError(
            f"{where}: found precision {found.precision} and scale {found.scale}, expected 0 <= scale <= precision <= 38"
        )
    if found.unit not in get_args(Unit):
        raise ConfigError(f"{where}: found unit {found.unit!r}, expected one of {', '.join(get_args(Unit))}")
    if found.text and found.kind not in ("integer", "decimal"):
        raise ConfigError(f"{where}: text=True is for numbers that are written as text, the column is {found.kind}")
    if found.one_of and found.kind != "text":
        raise ConfigError(f"{where}: one_of is for text, the column is {found.kind}")
    if found.kind not in ("integer", "decimal") and (found.minimum is not None or found.maximum is not None):
        raise ConfigError(f"{where}: minimum and maximum are for numbers, the column is {found.kind}")
    return found

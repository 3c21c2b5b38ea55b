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

import copy
import functools
import importlib
import importlib.util
import sys
import types
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import attrs

from headrace.bars import Bars, check_bars
from headrace.columns import MAX_BYTES, Column, Kind, Origin, Unit
from headrace.declared import SPEC, described
from headrace.documented import comments
from headrace.errors import ConfigError
from headrace.keyed import Deletion, check_table, deletion, names, pairs

__all__ = [
    "MAX_BYTES",
    "Bars",
    "Column",
    "Contract",
    "Deletion",
    "Kind",
    "Origin",
    "Unit",
    "column",
    "contract",
    "load_contract",
]

T = TypeVar("T")
_TABLE = "__headrace_contract__"


@attrs.frozen
class Contract:
    """
    A contract as data: what loaders work from.

    Attributes:
        name: Of the class.

        version: Of the contract; a later one has a higher number.

        columns: In their order.

        doc: What the class's docstring says before ``Attributes:``: the table's comment.

        key: The business key's columns; empty: every record is a row of its own.

        order: Columns by which one record of a key is newer than another; its place in the log decides between equals (S8).

        deleted: Which records are deletes, besides tombstones (S9).

        cluster: Columns by which a warehouse that clusters its tables is to do so; a hint, rows do not depend on it.

        ascending: Pairs of columns of which the second may not be below the first.

        bars: Which columns make bars of one minute; None: there are none.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    doc: str = ""
    key: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    deleted: Deletion | None = None
    cluster: tuple[str, ...] = ()
    ascending: tuple[tuple[str, str], ...] = ()
    bars: Bars | None = None

    @property
    def tombstones(self) -> bool:
        """Whether a record without a value is a delete: its key and its order are then to be had without one."""
        return bool(self.key) and all(c.record != "value" for c in self.columns if self.places(c))

    def places(self, column: Column) -> bool:
        """Whether a column is of the key or the order: never NULL, of a delete neither."""
        return column.name in self.key or column.name in self.order

    def declared_nullable(self, column: Column) -> bool:
        """Whether a table must let the column be NULL: where there are deletes, which may have no more than key and order."""
        return column.nullable or ((self.tombstones or self.deleted is not None) and not self.places(column))

    @classmethod
    def of(cls, kept: type) -> Contract:
        """Describe a contract class. ConfigError where it is none, or where something in it is not a contract's."""
        if not attrs.has(kept) or _TABLE not in kept.__dict__:
            raise ConfigError(f"found {kept!r}, expected a class with @headrace.contract")
        hints = get_type_hints(kept, include_extras=True)
        about = {name: words for c in reversed(kept.__mro__) for name, words in comments(c.__doc__ or "")[1].items()}
        columns = tuple(
            attrs.evolve(described(kept, field, hints[field.name]), comment=about.get(field.name, ""))
            for field in attrs.fields(kept)
        )
        if not columns:
            raise ConfigError(f"{kept.__name__}: found no column, expected one or more")
        for column_, others in ((c, columns[:i]) for i, c in enumerate(columns)):
            if column_.name.lower() in {other.name.lower() for other in others}:
                raise ConfigError(
                    f"{kept.__name__}.{column_.name}: a column of this name is there; databases do not tell case"
                )
        given = dict(kept.__dict__[_TABLE])
        given["deleted"] = deletion(kept.__name__, given["deleted"], columns)
        made = cls(kept.__name__, columns=columns, doc=comments(kept.__doc__ or "")[0], **given)
        check_table(made)
        if made.bars is not None:
            check_bars(made.name, made.bars, columns)
        return made


def contract(
    *,
    version: int,
    key: Sequence[str] = (),
    order: Sequence[str] = (),
    deleted: tuple[str, Sequence[str | int | bool]] | None = None,
    cluster: Sequence[str] = (),
    ascending: Sequence[Sequence[str]] = (),
    bars: Bars | None = None,
) -> Callable[[type[T]], type[T]]:
    """
    Make a class a contract.

    Args:
        version: Raised by one whenever rows would differ from those that are there.

        key: Columns that say what a row is about. Of records with the same key the newest is the row.

        order: Columns that say which is newer, the first one first; between equals, and without any, the place in the log
            decides: stream, partition, offset.

        deleted: A column and its values that make a record a delete: ``("op", ("D",))``. Of a delete only key and order must
            be there. A record without a value is one as well where every column of key and order comes from the record itself
            (``column(record=…)``).

        cluster: Columns by which a warehouse that clusters its tables is to do so.

        ascending: Pairs of columns that may not descend: ``(("low", "open"), ("open", "high"))``; NULL keeps every pair.

        bars: Which columns make bars of one minute: the warehouse gets a view of them beside the table.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError(f"found contract version {version!r}, expected 1, 2, …")

    def decorate(kept: type[T]) -> type[T]:
        made = attrs.frozen(kw_only=True)(kept)
        given = {"key": key, "order": order, "cluster": cluster}
        table: dict[str, object] = {what: names(made.__name__, what, found) for what, found in given.items()}
        table["ascending"] = pairs(made.__name__, "ascending", ascending)
        setattr(made, _TABLE, {"version": version, "deleted": deleted, "bars": bars, **table})
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
    max_length: int | None = None,
    default: object = None,
    record: Origin = "value",
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

        max_length: Characters that a text has at most.

        default: What stands in the place of null and of no such field; it must keep the column itself. Of a decimal as
            `Decimal` or text, of a moment with its zone.

        record: Take it from the record's "key", "timestamp" or "offset" instead of its value.
    """
    if isinstance(one_of, str):
        raise ConfigError(f"found one_of={one_of!r}, expected a tuple of texts: each of its letters would be a value")
    given = {
        "source": tuple(source.split(".")) if source else (),
        "precision": precision,
        "scale": scale,
        "unit": unit,
        "text": text,
        "minimum": _bound("minimum", minimum),
        "maximum": _bound("maximum", maximum),
        "one_of": tuple(one_of),
        "max_length": max_length,
        "default": default,
        "record": record,
    }
    if default is None:
        return attrs.field(metadata={SPEC: given})
    return attrs.field(default=attrs.Factory(functools.partial(copy.deepcopy, default)), metadata={SPEC: given})


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
        there = ", ".join(n for n, v in vars(module).items() if isinstance(v, type) and _TABLE in vars(v)) or "none"
        raise ConfigError(f"found contract {text!r}, and {place} has no class {name!r}; contracts there: {there}")
    Contract.of(kept)
    return kept


def _module(place: str, text: str) -> types.ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        # of its own for each file: what its annotations name is looked up in the module of that name
        name = f"headrace_contract_{Path(place).stem}_{zlib.crc32(str(Path(place).resolve()).encode()):08x}"
        spec = importlib.util.spec_from_file_location(name, place)
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

"""Fields of the stream that a contract does not name, and what kind of column each would be (`Loader.evolve`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from headrace.columns import Column, Kind, Shape
from headrace.contract import Contract
from headrace.typed.columns import literal
from headrace.typed.spool import Spooled
from headrace.typed.staging import lines_of

if TYPE_CHECKING:
    import duckdb

MAX_COLUMNS = 500
"""So many columns a table may have before no more are made: a field whose name is data would add one for each record."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_AT_ONCE = 50
"""Of so many fields the kinds are asked at once: one look at each line takes about as long for many as for one."""

_NAMES_TOLD, _NAME_TOLD = 10, 60
_LEAST_SCALE, _MOST_SCALE, _PRECISION = 9, 18, 38


@attrs.frozen
class Fields:
    """
    What was found in some records.

    Attributes:
        columns: For the fields that can be columns, in the order of their names.

        left: Fields that cannot, each with the reason.
    """

    columns: Sequence[Column]
    left: Mapping[str, str]


def new_fields(connection: duckdb.DuckDBPyConnection, spooled: Spooled, contract: Contract) -> Fields:
    """
    Look for fields of the records' values that no column of *contract* reads.

    A field gets the kind that all its values have: integer, decimal (numbers of which one is no 64-bit integer), boolean, text,
    or json. A text is never taken for a moment. Null is no value, and a field of several kinds is left out.
    """
    known = {c.source[0] for c in contract.columns if c.record == "value"}
    taken = {c.name.lower() for c in contract.columns}
    lines = _readable(spooled)
    names = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(line, '$.value')) AS name FROM {lines}"
        " WHERE json_type(line, '$.value') = 'OBJECT' ORDER BY name"
    ).fetchall()
    new = [name for (name,) in names if name not in known]
    left = dict.fromkeys(new, "the name is none of a column: letters, digits and _, a letter first")
    fit = [name for name in new if _NAME.fullmatch(name)]
    found: list[Column] = []
    for begin in range(0, len(fit), _AT_ONCE):
        room = MAX_COLUMNS - len(contract.columns) - len(found)
        asked = [name for name in fit[begin : begin + _AT_ONCE] if name.lower() not in taken] if room > 0 else []
        kinds = _kinds(connection, lines, asked)
        for name in fit[begin : begin + _AT_ONCE]:
            column = _column(name, kinds.get(name, {}))
            if name.lower() in taken:
                left[name] = "a column of this name is there; databases do not tell case"
            elif len(contract.columns) + len(found) >= MAX_COLUMNS:
                left[name] = f"the table has {MAX_COLUMNS} columns"
            elif column is not None:
                found.append(column)
                taken.add(name.lower())
                del left[name]
            elif name in kinds:
                left[name] = f"its values are of several kinds: {', '.join(sorted(kinds[name]))}"
            else:
                del left[name]  # null alone
    return Fields(found, left)


def told(left: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """
    Say of fields that were left out, for a log: of each reason how many they are, and the names of the first.

    Where names are data there are as many of them as records, each as long as it likes.
    """
    names: dict[str, list[str]] = {}
    for name, reason in left.items():
        names.setdefault(reason, []).append(name)
    for reason, of in names.items():
        first = ", ".join(name[:_NAME_TOLD] for name in of[:_NAMES_TOLD])
        yield {"reason": reason, "fields": len(of), "first": first}


def _readable(spooled: Spooled) -> str:
    """The lines; a value that the lake keeps in base64 because it spans several is JSON here like any other."""
    value = "TRY(decode(from_base64(line->>'$.value_b64')))"
    return (
        f"(SELECT CASE WHEN json_valid(value) THEN concat('{{\"value\":', value, '}}') ELSE line END AS line FROM (SELECT line,"
        f" CASE WHEN contains(line, '\"value_b64\"') THEN {value} END AS value FROM {lines_of(spooled)}))"
    )


def with_brought(contract: Contract, found: Iterable[tuple[str, Kind, int, int]]) -> Contract:
    """
    Add to a contract the columns that the stream has brought to its target; one that it names itself is as it says.

    Args:
        contract: The contract.

        found: What is remembered of them: name, kind, and the digits of a decimal, all and behind the point.
    """
    named = {column.name.lower() for column in contract.columns}
    more = [_brought(*row) for row in found if row[0].lower() not in named]
    return attrs.evolve(contract, columns=(*contract.columns, *more)) if more else contract


def fitting(found: Fields, there: Mapping[str, str], wanted: Callable[[Column], str]) -> Fields:
    """
    Leave out fields of whose name the target has a column that they do not fit.

    The contract may have named it once, or somebody has added it by hand. To remember it as something else would keep every
    loader out.

    Args:
        found: The fields.

        there: The target's columns, as they are declared.

        wanted: The type of a column that may be NULL.
    """
    declared = {name.lower(): kind for name, kind in there.items()}
    wrong = {
        column.name: f"the table's column of this name is {declared[column.name.lower()]}, the values want {wanted(column)}"
        for column in found.columns
        if declared.get(column.name.lower(), wanted(column)) != wanted(column)
    }
    return Fields([c for c in found.columns if c.name not in wrong], {**found.left, **wrong})


def _brought(name: str, kind: Kind, digits: int, scale: int) -> Column:
    shapes: tuple[Shape, ...] = ("object", "array") if kind == "json" else ()
    return Column(name, kind, nullable=True, source=(name,), precision=digits, scale=scale, shapes=shapes)


def _kinds(connection: duckdb.DuckDBPyConnection, lines: str, names: Sequence[str]) -> Mapping[str, Mapping[Kind, int]]:
    """The kinds of each field's values, each with the most digits that one has behind the point; one look at each line."""
    if not names:
        return {}
    paths = f"[{', '.join(literal(f'$.value.{name}') for name in names)}]"
    rows = connection.execute(
        "SELECT name, CASE WHEN kind IN ('BIGINT', 'UBIGINT') AND TRY_CAST(text AS BIGINT) IS NOT NULL THEN 'integer'"
        " WHEN kind IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'DOUBLE') THEN 'decimal' WHEN kind = 'VARCHAR' THEN 'text'"
        " WHEN kind = 'BOOLEAN' THEN 'boolean' ELSE 'json' END AS found,"
        " max(coalesce(length(regexp_extract(text, '[.]([0-9]*)', 1)), 0))::INTEGER FROM"
        " (SELECT name, kind, CASE WHEN kind IN ('DOUBLE', 'BIGINT', 'UBIGINT') THEN value::VARCHAR END AS text FROM"
        f" (SELECT unnest([{', '.join(map(literal, names))}]) AS name, unnest(json_type(line, {paths})) AS kind,"
        f" unnest(json_extract(line, {paths})) AS value FROM {lines} WHERE json_type(line, '$.value') = 'OBJECT')"
        " WHERE kind <> 'NULL') GROUP BY ALL"
    ).fetchall()
    found: dict[str, dict[Kind, int]] = {}
    for name, kind, digits in rows:
        found.setdefault(name, {})[kind] = digits
    return found


def _column(name: str, kinds: Mapping[Kind, int]) -> Column | None:
    scale = min(max(_LEAST_SCALE, *kinds.values(), 0), _MOST_SCALE)
    if set(kinds) == {"integer", "decimal"}:
        return Column(name, "decimal", nullable=True, source=(name,), precision=_PRECISION, scale=scale)
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    if kind == "json":
        return Column(name, kind, nullable=True, source=(name,), shapes=("object", "array"))
    if kind == "decimal":
        return Column(name, kind, nullable=True, source=(name,), precision=_PRECISION, scale=scale)
    return Column(name, kind, nullable=True, source=(name,))

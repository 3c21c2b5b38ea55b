"""What it takes to make a table that is there into the table of a contract: a newer one, or one that was widened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from headrace.columns import Column
from headrace.contract import Contract
from headrace.loader import Change


@attrs.frozen
class Found:
    """
    A column of a table that is there.

    Attributes:
        name: As the warehouse has it; case tells no two apart.

        kind: Its type, in the warehouse's words.

        nullable: Whether it may be NULL.

        filled: Whether it has a default.
    """

    name: str
    kind: str
    nullable: bool
    filled: bool


@attrs.frozen
class Altering:
    """
    How one warehouse alters a table.

    Attributes:
        table: Its name, quoted.

        quoted: Quotes an identifier.

        widened: The type that takes the place of a type that is there, for a column of the contract and what the contract says:
            the type itself where it need not change, "" where none holds all that is there and may come.

        added: The statement that adds a column of a name and a type, with the contract's default for rows that are there; ""
            where the warehouse cannot.
    """

    table: str
    quoted: Callable[[str], str]
    widened: Callable[[str, str, Column | None], str]
    added: Callable[[str, str, Column | None], str]

    def column(self, name: str) -> str:
        """How a statement begins that alters a column."""
        return f"ALTER TABLE {self.table} ALTER COLUMN {self.quoted(name)}"


def changes(
    found: Iterable[Found],
    contract: Contract,
    wanted: Mapping[str, tuple[str, bool]],
    lineage: Iterable[str],
    how: Altering,
) -> list[Change]:
    """
    Compare a table with a contract.

    Args:
        found: The columns of the table.

        contract: What its rows are to be.

        wanted: The type of each column by the contract, and whether it may be NULL.

        lineage: The names of the columns that are ours in every table.

        how: The warehouse.
    """
    there = {column.name.lower(): column for column in found}
    described = {column.name.lower(): column for column in contract.columns}
    said: list[Change] = []
    for name, (kind, nullable) in wanted.items():
        column = described.get(name.lower())
        if name.lower() in there:
            said += _fitted(how, there[name.lower()], kind, column, nullable=nullable)
        else:
            said.append(_added(how, name, kind, column, nullable=nullable))
    known = {name.lower() for name in (*wanted, *lineage)}
    said += (
        _loosened(how, column.name)
        for lower, column in there.items()
        if lower not in known and not column.nullable and not column.filled
    )
    return said


def _fitted(how: Altering, there: Found, kind: str, column: Column | None, *, nullable: bool) -> Iterator[Change]:
    widened = how.widened(there.kind, kind, column)
    if not widened:
        yield Change(f"column {there.name} is {there.kind}, and the contract says {kind}, which cannot take its place")
    elif widened != there.kind:
        yield Change(
            f"column {there.name}: {there.kind} becomes {widened}, which holds all that is there",
            f"{how.column(there.name)} SET DATA TYPE {widened}",
        )
    if nullable and not there.nullable:
        yield Change(f"column {there.name} may be null from now on", f"{how.column(there.name)} DROP NOT NULL")


def _added(how: Altering, name: str, kind: str, column: Column | None, *, nullable: bool) -> Change:
    filled = column is not None and column.default is not None
    if not filled and not nullable:
        return Change(f"column {name} is not there and may not be null, and rows that are there have no value for it")
    statement = how.added(name, kind, column)
    if not statement:
        return Change(f"column {name} is not there, and a {kind} cannot be added with a default")
    gets = "rows that are there get its default" if filled else "it is null in rows that are there"
    return Change(f"column {name} is added; {gets}", statement)


def _loosened(how: Altering, name: str) -> Change:
    if name.startswith("_"):
        return Change(f"column {name} is ours, and the contract has no use for it any more")
    return Change(
        f"column {name} is not the contract's any more; it stays, and is null from now on",
        f"{how.column(name)} DROP NOT NULL",
    )

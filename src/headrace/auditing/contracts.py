"""The contracts that a table's rows were made by, one for each version, and the cells that a line is to have become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.lines import Line
from headrace.auditing.nanoseconds import nanoseconds
from headrace.columns import Column
from headrace.contract import Contract
from headrace.errors import ConfigError
from headrace.rows import Rejected, row

Cell = str | None | list[str | None]
"""A cell as a table must have it; a list: one of these."""


@attrs.frozen
class Contracts:
    """
    Types lines by the version that they were loaded by.

    Attributes:
        newest: The loader's: the table is read in its columns.

        by_version: All that are known.

        brought: Columns that none of them names and the stream has brought: NULL in rows from before.
    """

    newest: Contract
    by_version: Mapping[int, Contract]
    brought: Sequence[Column] = ()

    @classmethod
    def of(cls, audit: Asked) -> Contracts | None:
        """Those that the audit was given; None: none, or there is no table. ConfigError where two are of one version."""
        if audit.loader is None or not audit.typed:
            return None
        newest = Contract.of(audit.loader.contract)
        given = {newest.version: newest}
        for kept in map(Contract.of, audit.earlier):
            if kept.version >= newest.version or kept.version in given:
                found = f"{kept.name}, version {kept.version}, beside {newest.name}, version {newest.version}"
                raise ConfigError(
                    f"found {found}, expected contracts of different versions, the newest as the loader's"
                )
            given[kept.version] = kept
        return cls(newest, given)

    def of_table(self, described: Contract) -> Contracts:
        """Return the same with the columns that the stream has brought to a table."""
        named = {column.name for column in self.newest.columns}
        return attrs.evolve(self, brought=[column for column in described.columns if column.name not in named])

    def each(self, version: int, of: Line) -> Iterator[list[Cell] | Rejected]:
        """What a known version may have made of a line: with what the stream has brought by now, and as it was before."""
        contract = self.by_version[version]
        if self.brought:
            own = {column.name.lower() for column in contract.columns}
            more = [column for column in self.brought if column.name.lower() not in own]
            yield self._cells(attrs.evolve(contract, columns=(*contract.columns, *more)), of)
        yield self._cells(contract, of)

    def _cells(self, contract: Contract, each: Line) -> list[Cell] | Rejected:
        """
        The cells in the table's columns, moments as nanoseconds.

        A column that the version lacks was added since: it is NULL, or what the column's default put there.
        """
        record = each.record
        found = row(contract, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset)
        if isinstance(found, Rejected):
            return found
        by_name = {column.name: (column, cell) for column, cell in zip(contract.columns, found, strict=False)}
        columns = (*self.newest.columns, *self.brought)
        cells: list[Cell] = [_fitted(column, *by_name.get(column.name, (None, None))) for column in columns]
        known = len(self.newest.columns)
        cells[known:] = [[None, cell] if isinstance(cell, str) else cell for cell in cells[known:]]
        return [*cells, found[-1] if contract.key else "false"] if self.newest.key else cells

    def dropped(self, version: int) -> Sequence[str]:
        """Columns of a version that the newest has no more, so that nobody looks into them."""
        names = {column.name for column in self.newest.columns}
        return [column.name for column in self.by_version[version].columns if column.name not in names]


def same(expected: Sequence[Cell], there: Sequence[str | None]) -> bool:
    """Whether a row is what was expected."""
    return len(expected) == len(there) and all(map(fits, expected, there))


def fits(expected: Cell, there: str | None) -> bool:
    """Whether a cell is."""
    return there in expected if isinstance(expected, list) else there == expected


def _fitted(column: Column, then: Column | None, cell: str | None) -> Cell:
    if then is None:
        return [None, _moment(column, column.default)]
    cell = _moment(then, cell)
    if cell is None or column.kind != "decimal":
        return cell
    whole, _, fraction = cell.partition(".")  # the table was altered to more digits since
    return f"{whole}.{fraction.ljust(column.scale, '0')}" if column.scale else cell


def _moment(column: Column, cell: str | None) -> str | None:
    return nanoseconds(cell) if column.kind == "timestamp" else cell

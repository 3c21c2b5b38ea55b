"""Makes what belongs to a target, and keeps it up to date: tables, columns that the stream has brought, views."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from headrace.contract import Contract
from headrace.errors import ConfigError, SinkUnavailableError
from headrace.plugins.snowflake import views
from headrace.plugins.snowflake.alter import additions, columns
from headrace.plugins.snowflake.connection import Row, Session
from headrace.plugins.snowflake.evolve import remembered
from headrace.plugins.snowflake.replaced import followed
from headrace.plugins.snowflake.tables import Tables, differences, name, statements
from headrace.typed.fields import with_brought
from headrace.typed.replaced import REPLACED, predecessors, refuse_replaced, successor

_ROUNDS = 5
"""So often views are made while others change what they are to show, before that is left to a later call."""


@attrs.frozen
class Kept:
    """
    What a target is kept by.

    Attributes:
        contract: The loader's, with the columns that the stream has brought.

        brought: What is remembered of these.
    """

    contract: Contract
    brought: tuple[Row, ...] = ()


@attrs.frozen
class Making:
    """
    DDL for one target, all of it outside of transactions (S4) and safe to repeat.

    Attributes:
        session: Outside of a transaction.

        tables: The target's.

        contract: The loader's, as its class says.

        schema: In capitals.

        where: For messages.
    """

    session: Session
    tables: Tables
    contract: Contract
    schema: str
    where: str

    def there(self) -> set[str]:
        """The names of the tables of the schema, quoted."""
        found = self.session.execute(
            "SELECT TABLE_NAME AS N FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = %s", self.schema
        )
        return {name(table) for (table,) in found}

    def kept(self, there: set[str]) -> Kept:
        """What the target is kept by, where nothing may have been made yet."""
        brought = remembered(self.session, self.tables) if self.tables.columns in there else []
        return Kept(with_brought(self.contract, brought), tuple(brought))

    def make(self) -> Kept:
        """
        Make what is missing; views of an older contract than the target's are left as they are.

        Raises:
            ConfigError: Another target took over from this one, or the table is not the contract's.
        """
        there = self.there()
        if self.tables.lock in there:
            self._refuse_replaced(self._version())
        for made, statement in statements(self.tables, self.contract).items():
            if made not in there:
                self.session.execute(statement)
        kept, found = self.kept(there | {self.tables.columns}), columns(self.session, self.tables)
        newest = self._version()[1] <= self.contract.version
        missing = {row[0].upper() for row in kept.brought} - {column.name for column in found}
        if newest and missing:  # remembered, and whoever did it came no further
            brought = [column for column in kept.contract.columns if column.name.upper() in missing]
            for change in additions(self.tables, brought):
                self.session.execute(change.statement)
            found = columns(self.session, self.tables)
        wrong = differences(kept.contract, found)
        if wrong:
            raise ConfigError(
                f"{self.where} is not the table of contract {self.contract.name} version {self.contract.version}:"
                f" {'; '.join(wrong)}. `headrace load --plan` says what --alter would do about it; or load into another table"
            )
        if newest:
            self._make_views(kept.contract)
        return kept

    def refuse_older(self, there: set[str]) -> None:
        """S7: a deployment that was left behind changes nothing of what a newer contract has made."""
        if self.tables.lock not in there:
            return
        newest = self._version()
        self._refuse_replaced(newest)
        if newest[1] > self.contract.version:
            raise ConfigError(
                f"{self.where} was loaded by contract {newest[0]} version {newest[1]}, this loader has {self.contract.name}"
                f" version {self.contract.version}: use the newer contract, or another table (S7)"
            )

    def _version(self) -> tuple[str, int]:
        [(contract, version)] = self.session.execute(f"SELECT CONTRACT, CONTRACT_VERSION FROM {self.tables.lock}")
        return contract, int(version)

    def _refuse_replaced(self, newest: tuple[str, int]) -> None:
        if newest[1] == REPLACED:
            refuse_replaced({self.tables.target: newest[0]} | followed(self.session, self.tables), self.tables.target)

    def _make_views(self, contract: Contract) -> None:
        """
        Make the views, and look again: what they are to show may have changed since it was asked, and no lock holds DDL.

        Where another target has taken over meanwhile, what was put over its views is given back. A loader of an older contract
        that was held up between its look and its DDL has put its view over a newer one: the next session of the newer contract
        makes it again.
        """
        readers: list[str] = []
        for _ in range(_ROUNDS):
            newest = self._version()
            if newest[1] == REPLACED:
                self._give_back(readers)
                self._refuse_replaced(newest)
            if newest[1] > self.contract.version:
                return
            target = self.tables.target
            readers = [target, *predecessors(followed(self.session, self.tables), target)]
            wanted = views.statements(self.tables, contract, readers, views.comments(self.session, self.schema))
            if not wanted:
                return
            for statement in wanted:
                self.session.execute(statement)
        raise SinkUnavailableError(f"{self.where}: other loaders make its views at this moment; try again")

    def _give_back(self, readers: Iterable[str]) -> None:
        """Let the readers of these targets see what those of the last one see; its next session makes the views its own way."""
        there = views.comments(self.session, self.schema)
        last = Tables(successor(followed(self.session, self.tables), self.tables.target))
        for reader in map(Tables, readers):
            for view, shown in ((reader.current, last.current), (reader.bars, last.bars)):
                if view in there and shown in there:
                    self.session.execute(views.following(self.session, view, shown))

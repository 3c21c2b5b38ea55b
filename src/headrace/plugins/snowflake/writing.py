"""
What is written inside the transaction, statement by statement: rows, quarantine, ledger.

Each statement tests that the lock row holds this attempt (S3), none of them is DDL (S4), and what each changed is compared with
what must have been.
"""

from __future__ import annotations

import attrs

from headrace.contract import Contract
from headrace.errors import CommitUnknownError
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.staging import Staged, value
from headrace.plugins.snowflake.tables import LEDGER_COLUMNS, LINEAGE, PLACE, Tables, name
from headrace.typed.newest import newer, newest, same
from headrace.typed.staging import DELETED


@attrs.frozen
class Writing:
    """
    One attempt at a transaction that holds the lock row.

    Attributes:
        session: Inside that transaction.

        tables: The target's.

        contract: What rows are.

        attempt: Its id, which is in the lock row.
    """

    session: Session
    tables: Tables
    contract: Contract
    attempt: str

    def rows(self, staged: Staged, *, still: bool = False) -> int:
        """
        Write the staged rows and return how many the target has more than before.

        Args:
            staged: What was staged.

            still: Only those whose record is still in quarantine (S6).

        Raises:
            CommitUnknownError: A statement did less than the one before it saw; the transaction must not be committed.
        """
        if not staged.rows.rows:
            return 0
        if staged.chosen is None:
            names = ", ".join(self._names())
            return self.session.changed(
                f"INSERT INTO {self.tables.rows} ({names}) SELECT {self._values()} FROM {staged.rows.name} r"
                f" WHERE {self.tables.held}{self._still(still=still)}",
                self.attempt,
            )
        return self._newest(staged, staged.chosen.name, still=still)

    def _newest(self, staged: Staged, chosen: str, *, still: bool) -> int:
        """Choose of each key the newest row, say which keys are new, and merge (S8)."""
        columns = ", ".join(map(name, staged.rows.columns))
        placed = ", ".join(f"r.{name(c)}" for c in staged.rows.columns)
        key = name(self.contract.key[0])
        self.session.changed(
            f"INSERT INTO {chosen} ({columns}, {name('_new')}) SELECT {', '.join(f'w.{name(c)}' for c in staged.rows.columns)},"
            f" t.{key} IS NULL FROM (SELECT {placed} FROM {staged.rows.name} r WHERE {self.tables.held}{self._still(still=still)}"
            f" {newest(self.contract, name)}) w LEFT JOIN {self.tables.rows} t ON {self._known()}",
            self.attempt,
        )
        names = self._names()
        pairs = ", ".join(f"{n} = w.{n}" for n in names)
        [counts] = self.session.execute(
            f"MERGE INTO {self.tables.rows} t USING (SELECT {self._values(named=True)} FROM {chosen} r WHERE {self.tables.held}"
            f" {newest(self.contract, name)}) w ON {same(self.contract, 't', 'w', name)}"
            f" WHEN MATCHED AND {newer(self.contract, 'w', 't', name)} THEN UPDATE SET {pairs}"
            f" WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) VALUES ({', '.join(f'w.{n}' for n in names)})",
            self.attempt,
        )
        inserted = int(counts[0])
        [(new,)] = self.session.execute(f"SELECT COUNT(*) AS N FROM {chosen} WHERE {name('_new')}")
        if inserted != int(new):
            raise CommitUnknownError(f"{self.tables.target}: {inserted} of {new} new rows went in; nothing is kept")
        return inserted

    def quarantine(self, staged: Staged) -> int:
        """Write what breaks the contract, and return how many records that are."""
        if not staged.refused.rows:
            return 0
        names = ", ".join(map(name, LINEAGE))
        return self.session.changed(
            f'INSERT INTO {self.tables.quarantine} ({names}, CONTRACT, CONTRACT_VERSION, "COLUMN", REASON, LINE, LOADED_AT)'
            f' SELECT {names}, %s, %s, "COLUMN", REASON, LINE, SYSDATE() FROM {staged.refused.name} WHERE {self.tables.held}',
            self.contract.name,
            self.contract.version,
            self.attempt,
        )

    def ledger(self, staged: Staged) -> int:
        """Write a row for each segment, and return how many."""
        inserted = self._inserted(staged, "s.ACCEPTED")
        return self.session.changed(
            f"INSERT INTO {self.tables.ledger} ({', '.join(map(name, LEDGER_COLUMNS))}) SELECT s.DATASET, s.STREAM, s.PARTITION,"
            f" %s, 'load', s.START_OFFSET, s.END_OFFSET, s.RECORDS, {inserted}, s.ACCEPTED - {inserted}, s.REJECTED, s.DIGEST,"
            f" %s, %s, %s, SYSDATE() FROM {self._with_inserted(staged, staged.segments.name)} WHERE {self.tables.held}",
            *self._about(),
        )

    def begin(self, dataset: str, stream: str, number: int, position: int) -> int:
        """Write the row of a line that begins behind the head of its chain."""
        return self.session.changed(
            f"INSERT INTO {self.tables.ledger} ({', '.join(map(name, LEDGER_COLUMNS))}) SELECT %s, %s, %s, %s, 'begin_at', 0, %s,"
            f" 0, 0, 0, 0, NULL, %s, %s, %s, SYSDATE() WHERE {self.tables.held}",
            *(dataset, stream, number, self.tables.target, position),
            *(self.contract.name, self.contract.version, self.attempt, self.attempt),
        )

    # ---- redrive ------------------------------------------------------------------------------------------

    def redriven(self, staged: Staged) -> int:
        """Write the ledger's rows of what leaves quarantine, one a line; called before it leaves."""
        if not staged.rows.rows:
            return 0
        place = ", ".join(map(name, PLACE[:3]))
        grouped = (
            f"(SELECT r._FILE, {', '.join(f'r.{name(c)}' for c in PLACE[:3])}, MIN(r._OFFSET) AS FIRST_OFFSET,"
            f" MAX(r._OFFSET) + 1 AS END_OFFSET, COUNT(*) AS TAKEN FROM {staged.rows.name} r WHERE 1 = 1{self._still(still=True)}"
            f" GROUP BY r._FILE, {', '.join(f'r.{name(c)}' for c in PLACE[:3])})"
        )
        inserted = self._inserted(staged, "s.TAKEN")
        return self.session.changed(
            f"INSERT INTO {self.tables.ledger} ({', '.join(map(name, LEDGER_COLUMNS))}) SELECT"
            f" {', '.join(f's.{c}' for c in place.split(', '))}, %s, 'redrive', s.FIRST_OFFSET, s.END_OFFSET, 0, {inserted},"
            f" s.TAKEN - {inserted}, -s.TAKEN, NULL, %s, %s, %s, SYSDATE() FROM {self._with_inserted(staged, grouped)}"
            f" WHERE {self.tables.held}",
            *self._about(),
        )

    def leave(self, staged: Staged) -> int:
        """Take out of quarantine what is in the table now."""
        if not staged.rows.rows:
            return 0
        return self.session.changed(
            f"DELETE FROM {self.tables.quarantine} q USING {staged.rows.name} r WHERE {_at('q', 'r')} AND {self.tables.held}",
            self.attempt,
        )

    def stay(self, staged: Staged) -> int:
        """Let what stays say by which contract and why."""
        if not staged.refused.rows:
            return 0
        return self.session.changed(
            f'UPDATE {self.tables.quarantine} q SET CONTRACT = %s, CONTRACT_VERSION = %s, "COLUMN" = r."COLUMN",'
            f" REASON = r.REASON FROM {staged.refused.name} r WHERE {_at('q', 'r')} AND {self.tables.held}",
            self.contract.name,
            self.contract.version,
            self.attempt,
        )

    # ---- words --------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        deleted = [name(DELETED)] if self.contract.key else []
        return [*(name(c.name) for c in self.contract.columns), *deleted, *map(name, LINEAGE)]

    def _values(self, *, named: bool = False) -> str:
        cells = [value(c) for c in self.contract.columns]
        cells += [f"r.{n}" for n in self._names()[len(cells) :]]
        return ", ".join(f"{c} AS {n}" if named else c for c, n in zip(cells, self._names(), strict=True))

    def _still(self, *, still: bool) -> str:
        return f" AND EXISTS (SELECT 1 FROM {self.tables.quarantine} q WHERE {_at('q', 'r')})" if still else ""

    def _known(self) -> str:
        """Whether a row ``t`` of the target has the key of a staged row ``w``."""
        keys = [c for c in self.contract.columns if c.name in self.contract.key]
        return " AND ".join(f"t.{name(c.name)} = {value(c, 'w')}" for c in keys)

    def _inserted(self, staged: Staged, accepted: str) -> str:
        return "COALESCE(n.ADDED, 0)" if staged.chosen is not None else accepted

    def _with_inserted(self, staged: Staged, source: str) -> str:
        """A source ``s`` with a row a file, and how many rows the target has more by that file."""
        if staged.chosen is None:
            return f"{source} s"
        counted = (
            f"SELECT r._FILE AS OF_FILE, COUNT(*) AS ADDED FROM {staged.chosen.name} r WHERE r._NEW GROUP BY r._FILE"
        )
        return f"{source} s LEFT JOIN ({counted}) n ON n.OF_FILE = s._FILE"

    def _about(self) -> tuple[object, ...]:
        return (self.tables.target, self.contract.name, self.contract.version, self.attempt, self.attempt)


def _at(one: str, other: str) -> str:
    return " AND ".join(f"{one}.{name(c)} = {other}.{name(c)}" for c in PLACE)

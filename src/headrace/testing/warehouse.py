"""A warehouse in memory: a loader in plain Python that keeps every promise of loaders, and the tables that it writes."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

import attrs

from headrace.contract import Contract
from headrace.errors import CommitUnknownError, ConfigError, PositionConflictError, SinkUnavailableError
from headrace.loader import Census, Line, LoadableSegment, Loader, LoadResult, QuarantinedRecord, Selection
from headrace.rowwise import TypedRow, TypedSegment, check_share, lacking, newest, selected, typed, typed_again
from headrace.tally import LedgerRow as Row
from headrace.tally import Stored, Tally
from headrace.testing.contracts.loader import Cells, LedgerRow, Place
from headrace.testing.faults import Gate, nothing_fails
from headrace.testing.table import Shape, Table, place_of

T = TypeVar("T")


@attrs.define(eq=False)
class MemoryWarehouse:
    """
    Tables by target, and what reads them around the loader: a `headrace.testing.contracts.loader.Warehouse`.

    Attributes:
        gate: What every loader asks before each statement of its transactions.

        make: Makes its loaders: a class with a fault in it is a negative control.

        tables: By target.
    """

    gate: Gate = nothing_fails
    make: Callable[..., MemoryLoader] = attrs.field(factory=lambda: MemoryLoader)
    tables: dict[str, Table] = attrs.field(factory=dict)
    owners: dict[str, str] = attrs.field(factory=dict)  # who holds a target's lock row
    lock: threading.RLock = attrs.field(factory=threading.RLock, repr=False)

    def open(self, kept: type, target: str) -> MemoryLoader:
        return self.make(warehouse=self, contract=kept, target=target)

    def table(self, target: str) -> Table:
        return self.tables.get(target, Table())

    def rows(self, target: str) -> Sequence[tuple[Place, Cells]]:
        table = self.table(target)
        names = [name for name, *_ in table.shape]
        found = []
        for row in table.rows.values():
            cells = dict(zip(names, row.cells, strict=True))
            price, size = cells["price"], cells["size"]
            found.append(
                (
                    place_of(row),
                    (
                        str(cells["symbol"]),
                        None if price is None else Decimal(price),
                        None if size is None else int(size),
                    ),
                )
            )
        return found

    def quarantined(self, target: str) -> Sequence[tuple[Place, bytes]]:
        return [(place, record.line) for place, record in self.table(target).refused.items()]

    def ledger(self, target: str) -> Sequence[LedgerRow]:
        return [
            LedgerRow(r.dataset_id, r.partition, r.start, r.end, r.records, r.inserted, r.superseded, r.rejected)
            for r in self.table(target).ledger
            if r.kind == "load"
        ]

    def current(self, target: str) -> Sequence[Place]:
        return [place_of(row) for row in self.table(target).rows.values() if not row.deleted]

    def take(self, target: str, offset: int) -> None:
        rows = self.tables[target].rows
        for key in [key for key, row in rows.items() if row.offset == offset]:
            del rows[key]

    def forget(self, target: str, start: int) -> None:
        table = self.tables[target]
        table.ledger = [r for r in table.ledger if r.kind != "load" or r.start != start]


@attrs.define(eq=False)
class _Transaction:
    """
    Statements on a copy of one table, seen by nobody before COMMIT; a connection that is lost takes them with it.

    Attributes:
        warehouse: Whose.

        target: The table.

        attempt: This attempt's id, which the lock row gets (S2).

        table: The copy.
    """

    warehouse: MemoryWarehouse
    target: str
    attempt: str = attrs.field(factory=lambda: secrets.token_hex(8))
    table: Table = attrs.field(factory=Table)
    _broken: bool = False

    def execute(self, what: str, act: Callable[[], T]) -> T:
        """Run one statement, unless the gate says otherwise."""
        fate = "lose the statement" if self._broken else self.warehouse.gate(what)
        if fate == "lose the statement":
            raise self._lost(what)
        result = act()
        if fate == "lose the answer":
            raise self._lost(what)
        return result

    def _lost(self, what: str) -> SinkUnavailableError | CommitUnknownError:
        self._broken = True
        self.rollback()  # what a server does when a connection is gone
        if what == "COMMIT":
            return CommitUnknownError(f"{self.target}: the answer to COMMIT is not known; the same call settles it")
        return SinkUnavailableError(f"{self.target}: the connection is lost; call again")

    def take_lock(self, contract: Contract) -> None:
        with self.warehouse.lock:
            owner = self.warehouse.owners.get(self.target, "")
            if owner:
                raise SinkUnavailableError(f"another loader is at work on {self.target}; try again")
            found = self.warehouse.table(self.target)
            if found.version > contract.version:
                raise ConfigError(
                    f"{self.target} was loaded by a contract of version {found.version}, this loader has"
                    f" {contract.name} version {contract.version}: use the newer contract, or another table (S7)"
                )
            shape = _shape(contract)
            if found.shape and found.shape != shape:
                raise ConfigError(
                    f"{self.target} is not the table of contract {contract.name} version {contract.version}"
                )
            self.warehouse.owners[self.target] = self.attempt
            self.table = found.copied()
            self.table.version, self.table.shape, self.table.keyed = contract.version, shape, bool(contract.key)

    def commit(self) -> None:
        with self.warehouse.lock:
            self.warehouse.tables[self.target] = self.table
        self.rollback()

    def rollback(self) -> None:
        with self.warehouse.lock:
            if self.warehouse.owners.get(self.target) == self.attempt:
                del self.warehouse.owners[self.target]


@attrs.define(kw_only=True, eq=False)
class MemoryLoader(Loader):
    """
    One table of a `MemoryWarehouse`.

    Attributes:
        warehouse: Where.

        target: The table.

        contract: The class that says what a row is.
    """

    warehouse: MemoryWarehouse
    target: str
    contract: type
    _contract: Contract = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._contract = Contract.of(self.contract)

    # ---- the loader's verbs -------------------------------------------------------------------------------

    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        return {line: self.warehouse.table(line.target).position(line) for line in lines}

    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        wanted = self.lacking(segments, self.warehouse.table(self.target))
        if not wanted:
            return LoadResult()
        found = [typed(self._contract, each) for each in wanted]
        check_share(self.target, found, self.max_rejected)
        return self._transaction(lambda transaction: self.insert(transaction, found))

    def begin(self, line: Line, position: int) -> None:
        self._transaction(lambda transaction: self._begin(transaction, line, position))

    def redrive(self, selection: Selection) -> LoadResult:
        if not any(selected(selection, each) for each in self.warehouse.table(self.target).refused.values()):
            return LoadResult()
        return self._transaction(lambda transaction: self.take_back(transaction, selection))

    def quarantined(self, selection: Selection) -> Iterator[QuarantinedRecord]:
        refused = self.warehouse.table(self.target).refused
        yield from (refused[place] for place in sorted(refused) if selected(selection, refused[place]))

    def recorded(self, line: Line, start: int, end: int) -> int | None:
        loads = (r for r in self.warehouse.table(self.target).of(line) if r.kind == "load")
        return sum(r.records for r in loads if start <= r.start and r.end <= end)

    def census(self, line: Line, start: int, end: int) -> Census | None:
        table, place = self.warehouse.table(self.target), (line.dataset_id, line.partition)
        rows = sum(place_of(r)[:2] == place and start <= r.offset < end for r in table.rows.values())
        refused = sum(p[:2] == place and start <= p[2] < end for p in table.refused)
        hidden = (self.recorded(line, start, end) or 0) - rows - refused if self._contract.key else 0
        return Census(rows, refused, max(0, hidden))

    def tally(self, dataset_id: str, stream: str) -> Tally | None:
        def count() -> Tally | None:
            table = self.warehouse.tables.get(self.target)
            return None if table is None else table.tally(self.target, dataset_id, stream)

        return _Transaction(self.warehouse, self.target).execute("SELECT counts", count)

    def stored(self, line: Line, start: int, end: int, *, cells: bool = True) -> Stored:
        def read() -> Stored:
            return self.warehouse.table(self.target).stored(line, start, end, self._contract if cells else None)

        return _Transaction(self.warehouse, self.target).execute("SELECT rows", read)

    # ---- the transaction: each step is a method, so that a broken one can stand in its place ----------------

    def lacking(self, segments: Sequence[LoadableSegment], table: Table) -> list[LoadableSegment]:
        """The segments that a table's ledger has not (S1)."""
        return lacking(segments, self.target, table.position)

    def _transaction(self, work: Callable[[_Transaction], LoadResult]) -> LoadResult:
        """Lock row first, with a fresh attempt id; everything else after it; COMMIT last (S2)."""
        transaction = _Transaction(self.warehouse, self.target)
        try:
            transaction.execute("BEGIN", lambda: None)
            self.take_lock(transaction)
            result = work(transaction)
            self.commit(transaction)
        finally:
            transaction.rollback()
        return result

    def take_lock(self, transaction: _Transaction) -> None:
        transaction.execute("UPDATE lock", lambda: transaction.take_lock(self._contract))

    def commit(self, transaction: _Transaction) -> None:
        transaction.execute("COMMIT", transaction.commit)

    def insert(self, transaction: _Transaction, found: Sequence[TypedSegment]) -> LoadResult:
        """Rows, quarantine and ledger of the segments that the ledger, read under the lock, still lacks."""
        table = transaction.table
        wanted = [each.loadable for each in found]
        lacks = transaction.execute("SELECT ledger", lambda: self.lacking(wanted, table))
        if len(lacks) < len(wanted):
            raise PositionConflictError(
                f"{self.target}: another loader has loaded some of it meanwhile",
                expected=wanted[0].segment.start,
                found=None,
            )
        new = Counter(map(place_of, transaction.execute("MERGE rows", lambda: self.merge(table, found))))
        transaction.execute("INSERT quarantine", lambda: self.quarantine(table, found))
        transaction.execute("INSERT ledger", lambda: self.enter(table, found, new))
        rows = table.ledger[-len(found) :]
        return sum((LoadResult(1, r.records, r.inserted, r.superseded, r.rejected) for r in rows), start=LoadResult())

    def merge(self, table: Table, found: Sequence[TypedSegment]) -> list[TypedRow]:
        """Write rows, of each business key the newest (S8); return those that were not there before."""
        return self.write(table, [row for segment in found for row in segment.rows])

    def write(self, table: Table, rows: Sequence[TypedRow]) -> list[TypedRow]:
        added = []
        for row in newest(rows) if self._contract.key else rows:
            key = row.key or place_of(row)
            if key not in table.rows:
                added.append(row)
            elif row.order < table.rows[key].order:
                continue
            table.rows[key] = row
        return added

    def quarantine(self, table: Table, found: Sequence[TypedSegment]) -> None:
        table.refused |= {place_of(record): record for segment in found for record in segment.refused}

    def enter(self, table: Table, found: Sequence[TypedSegment], new: Counter[Place]) -> None:
        for each in found:
            trailer = each.loadable.segment.trailer
            inserted = sum(new[place_of(row)] for row in each.rows)
            counts = (trailer.records, inserted, len(each.rows) - inserted, len(each.refused))
            line = Line(trailer.dataset_id, trailer.partition, self.target)
            table.ledger.append(self._entry(line, "load", (trailer.start, trailer.end, *counts), trailer.digest))

    def take_back(self, transaction: _Transaction, selection: Selection) -> LoadResult:
        """Move what now keeps the contract from quarantine, as it is under the lock (S6)."""
        table = transaction.table
        there = [each for each in table.refused.values() if selected(selection, each)]
        again = [typed_again(self._contract, each) for each in there]
        rows = [each for each in again if isinstance(each, TypedRow)]
        added = transaction.execute("MERGE rows", lambda: self.write(table, rows))
        transaction.execute("DELETE quarantine", lambda: [table.refused.pop(place_of(row)) for row in rows])
        still = {place_of(each): each for each in again if isinstance(each, QuarantinedRecord)}
        transaction.execute("UPDATE quarantine", lambda: table.refused.update(still))
        transaction.execute("INSERT ledger", lambda: self._enter_redrive(table, rows, added))
        return LoadResult(0, 0, len(added), len(rows) - len(added), -len(rows))

    def _enter_redrive(self, table: Table, rows: Sequence[TypedRow], added: Sequence[TypedRow]) -> None:
        """One row of the ledger for each line that has given records."""
        for line in dict.fromkeys(Line(row.dataset_id, row.partition, self.target) for row in rows):
            gone, new = (
                [row.offset for row in some if (row.dataset_id, row.partition) == (line.dataset_id, line.partition)]
                for some in (rows, added)
            )
            counts = (0, len(new), len(gone) - len(new), -len(gone))
            table.ledger.append(self._entry(line, "redrive", (min(gone), max(gone) + 1, *counts)))

    def _entry(
        self, line: Line, kind: str, counts: tuple[int, int, int, int, int, int], digest: str | None = None
    ) -> Row:
        return Row(line.dataset_id, line.partition, kind, *counts, digest, self._contract.version)

    def _begin(self, transaction: _Transaction, line: Line, position: int) -> LoadResult:
        found = transaction.execute("SELECT ledger", lambda: transaction.table.position(line))
        if found == position:
            return LoadResult()
        if found is not None:
            raise PositionConflictError(
                f"{self.target}: the ledger of {line.partition} is at {found}, it cannot begin at {position}",
                expected=position,
                found=None,
            )
        entry = self._entry(line, "begin_at", (0, position, 0, 0, 0, 0))
        transaction.execute("INSERT ledger", lambda: transaction.table.ledger.append(entry))
        return LoadResult()


def _shape(contract: Contract) -> Shape:
    return tuple((c.name, c.kind, c.precision, c.scale, contract.declared_nullable(c)) for c in contract.columns)

"""Business keys in DuckDB: the table is the same whatever the order of loading, the segments and the moment of a redrive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from headrace.contract import Contract, column, contract
from headrace.errors import ConfigError
from headrace.loader import LoadableSegment, LoadResult, Selection
from headrace.plugins.duckdb import loader as duckdb_loader
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.records import Partition
from headrace.testing.contracts.loader import DATASET, segment
from headrace.typed import newest

PARTITIONS = (Partition("ticks", 0), Partition("ticks", 7))


@contract(version=1, key=("id",), order=("seq",), deleted=("op", ("D",)))
class Change:
    """A change of one thing."""

    id: str
    seq: int
    op: str
    price: Decimal = column(precision=18, scale=4)


@contract(version=2, key=("id",), order=("seq",), deleted=("op", ("D",)))
class Mended:
    """Takes prices that are written as text, and no others."""

    id: str
    seq: int
    op: str
    price: Decimal = column(precision=18, scale=4, text=True)


@attrs.frozen
class Told:
    """One record of a universe."""

    id: str
    seq: int | None
    op: str = "U"
    redriven: bool = False

    def value(self, number: int) -> bytes:
        """Its JSON; the price is its number, so that each is another one, and as text where only a redrive takes it."""
        fields = {"id": self.id, "seq": self.seq, "op": self.op, "price": str(number) if self.redriven else number}
        return json.dumps({name: found for name, found in fields.items() if found is not None}).encode()


Universe = tuple[tuple[Told, ...], tuple[Told, ...]]
"""The records of two partitions."""

Event = tuple[str, Any]
Row = tuple[int, int, bool]
"""Partition, offset, deleted."""


def plays(universe: Universe) -> Iterator[list[Event]]:
    """Every segmentation of both partitions and every order of their segments, with the redrive at one moment of each kind."""
    cuts = [_segmentations(len(records)) for records in universe]
    for first, second in itertools.product(*cuts):
        lines = [[("load", (0, *cut)) for cut in first], [("load", (1, *cut)) for cut in second]]
        for number, order in enumerate(_merged(*lines)):
            at = number % (len(order) + 1)
            yield [*order[:at], ("redrive", None), *order[at:], ("redrive", None)]


def _segmentations(count: int) -> list[list[tuple[int, int]]]:
    inner = range(1, count)
    chosen = (c for size in range(len(inner) + 1) for c in itertools.combinations(inner, size))
    return [list(itertools.pairwise((0, *cut, count))) if count else [] for cut in chosen]


def _merged(one: list[Event], other: list[Event]) -> Iterator[list[Event]]:
    if not one or not other:
        yield one + other
        return
    yield from ([one[0], *rest] for rest in _merged(one[1:], other))
    yield from ([other[0], *rest] for rest in _merged(one, other[1:]))


def expected(universe: Universe) -> dict[str, Row]:
    """The newest of each key, by sequence, partition and offset; what has no sequence is none."""
    found: dict[str, tuple[tuple[int, int, int], Row]] = {}
    for number, records in enumerate(universe):
        for offset, told in enumerate(records):
            if told.seq is None:
                continue
            order = (told.seq, number, offset)
            if told.id not in found or found[told.id][0] < order:
                found[told.id] = (order, (number, offset, told.op == "D"))
    return {name: row for name, (_, row) in found.items()}


@attrs.define
class Silver:
    """A DuckDB file, kept open, so that opening it costs nothing."""

    path: Path
    connection: duckdb.DuckDBPyConnection
    old: DuckDBLoader
    new: DuckDBLoader
    after_load: str = ""

    def play(self, universe: Universe, order: Sequence[Event]) -> dict[str, Row]:
        """Load and redrive in this order into empty tables; return the rows, having held the ledger against them."""
        for table in ("ticks", "ticks_quarantine", "headrace_ledger"):
            self.connection.execute(f"DELETE FROM {table}")
        self.connection.execute("UPDATE headrace_lock SET contract_version = 1")
        result = LoadResult()
        mended = False
        for kind, place in order:
            if kind == "redrive":
                mended = True
                result += self.new.redrive(Selection())
            else:
                # once the newer contract was there the older may not load: it takes the same values, and redrives at the end
                loader = self.old
                if mended:
                    self.connection.execute("UPDATE headrace_lock SET contract_version = 1")
                result += loader.load([_segment(universe, *place)])
                if self.after_load:
                    self.connection.execute(self.after_load)
        self._adds_up(result)
        found = self.connection.execute("SELECT id, _partition, _offset, _deleted FROM ticks").fetchall()
        return {name: (0 if number == 0 else 1, offset, deleted) for name, number, offset, deleted in found}

    def _adds_up(self, result: LoadResult) -> None:
        """records = rows + quarantine + superseded, in the whole and in each row of the ledger (S10)."""
        if self.after_load:
            return
        sums = (
            "SELECT sum(records), sum(inserted), sum(superseded), sum(rejected), count(*) FILTER (records <> inserted +"
        )
        [(records, inserted, superseded, rejected, wrong)] = self.connection.execute(
            f"{sums} superseded + rejected) FROM headrace_ledger"
        ).fetchall()
        [(rows, keys)] = self.connection.execute("SELECT count(*), count(DISTINCT id) FROM ticks").fetchall()
        [(quarantined,)] = self.connection.execute("SELECT count(*) FROM ticks_quarantine").fetchall()
        assert (rows, quarantined, 0) == (inserted, rejected, wrong)
        assert rows == keys
        assert records == rows + quarantined + superseded
        assert (records, inserted, superseded, rejected) == attrs.astuple(result)[1:]


def _segment(universe: Universe, number: int, start: int, end: int) -> LoadableSegment:
    values = [told.value(10 * number + start + n) for n, told in enumerate(universe[number][start:end])]
    return segment(start, values, partition=PARTITIONS[number])


@contextmanager
def silver(folder: Path, **changes: Any) -> Iterator[Silver]:
    """Open a warehouse whose tables are there."""
    path = folder / "silver.duckdb"
    old, new = (DuckDBLoader(database=path, target="ticks", contract=kept, threads=1) for kept in (Change, Mended))
    with duckdb.connect(str(path)) as connection:
        for loader in (old, new):
            loader.redrive(Selection())
        yield Silver(path, connection, old, new, **changes)


TOLD = st.builds(
    Told,
    id=st.sampled_from("aab"),
    seq=st.sampled_from((1, 1, 2, None)),
    op=st.sampled_from("UUD"),
    redriven=st.booleans(),
)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silver]:
    with silver(tmp_path_factory.mktemp("keys")) as opened:
        yield opened


@settings(
    max_examples=max(4, settings().max_examples // 25),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(st.tuples(st.tuples(TOLD, TOLD), st.tuples(TOLD)))
@example(((Told("a", 1), Told("a", 1, "D")), (Told("a", 1), Told("a", 1, redriven=True))))
@example(((Told("a", 2, "D"), Told("a", 1)), (Told("a", 1, redriven=True),)))
def test_the_table_does_not_depend_on_the_order_of_loading(warehouse: Silver, universe: Universe) -> None:
    """Every order and segmentation of a few records gives the newest of each key, and every record is accounted for."""
    for order in plays(universe):
        assert expected(universe) == warehouse.play(universe, order), order


TIES = ((Told("a", 1), Told("a", 1)), (Told("a", 1),))
DELETES = ((Told("a", 2, "D"),), (Told("a", 1),))


def tables(opened: Silver, universe: Universe) -> set[frozenset[tuple[str, Row]]]:
    return {frozenset(opened.play(universe, order).items()) for order in plays(universe)}


@pytest.mark.parametrize("universe", [TIES, DELETES], ids=["ties", "deletes"])
def test_these_universes_have_one_table(warehouse: Silver, universe: Universe) -> None:
    """What the negative controls take apart."""
    assert {frozenset(expected(universe).items())} == tables(warehouse, universe)


def test_with_the_offset_as_the_only_tie_break_the_order_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets of two partitions are equal: who comes first stays (T18)."""
    monkeypatch.setattr(newest, "PLACE", ("_offset",))
    universe = ((Told("a", 1),), (Told("a", 1),))
    with silver(tmp_path) as opened:
        assert 1 < len(tables(opened, universe))


def test_where_deletes_take_the_row_away_the_order_matters(tmp_path: Path) -> None:
    """An older record that comes behind the delete is there again (T18)."""
    with silver(tmp_path, after_load="DELETE FROM ticks WHERE _deleted") as opened:
        assert 1 < len(tables(opened, DELETES))


def test_where_an_order_may_be_null_the_order_of_loading_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison with NULL is never true: who comes first stays (T18). So it is refused where the contract is written."""
    with pytest.raises(ConfigError, match="order names seq, which may be None"):

        @contract(version=1, key=("id",), order=("seq",))
        class Loose:
            id: str
            seq: int | None

    def loosened(_: object, __: str, kept: Contract) -> Contract:
        return attrs.evolve(
            kept, columns=[attrs.evolve(c, nullable=c.nullable or c.name == "seq") for c in kept.columns]
        )

    monkeypatch.setattr(duckdb_loader, "evolved", loosened)  # what the table's contract is
    with silver(tmp_path) as opened:
        assert 1 < len(tables(opened, ((Told("a", None),), (Told("a", 1),))))


# ---- tables and views -----------------------------------------------------------------------------------------------


def test_the_view_shows_what_is_there_now(tmp_path: Path) -> None:
    """Columns of the contract and the place in the log, without what was deleted; it follows a newer contract's columns."""

    @contract(version=3, key=("id",), order=("seq",), deleted=("op", ("D",)))
    class Wider:
        id: str
        seq: int
        op: str
        price: Decimal = column(precision=18, scale=4)
        more: dict[str, Any] | None

    with silver(tmp_path) as opened:
        opened.old.load([segment(0, [Told("a", 1).value(1), Told("b", 1, "D").value(2)])])
        view = opened.connection.execute("SELECT * FROM ticks_current")
        assert ["id", "seq", "op", "price", "_dataset", "_stream", "_partition", "_offset", "_timestamp_ms"] == [
            about[0] for about in view.description
        ]
        assert [("a", 1, "U", Decimal(1), DATASET, "ticks", 0, 0, 1_700_000_000_000)] == view.fetchall()
        opened.connection.execute("ALTER TABLE ticks ADD COLUMN more JSON")
        wider = attrs.evolve(opened.old, contract=Wider)
        wider.load([segment(2, [b'{"id":"c","seq":1,"op":"U","price":1,"more":{"x":[1.50,2]}}'])])
        found = opened.connection.execute(
            "SELECT id, more::VARCHAR, more->>'$.x[1]' FROM ticks_current ORDER BY 1"
        ).fetchall()
        assert [("a", None, None), ("c", '{"x":[1.5,2]}', "2")] == found


def test_without_a_key_the_view_shows_all_rows(tmp_path: Path) -> None:
    """Nothing is deleted there, and the table has no column for it."""

    @contract(version=1)
    class Plain:
        id: str

    loader = DuckDBLoader(database=tmp_path / "silver.duckdb", target="ticks", contract=Plain)
    loader.load([segment(0, [b'{"id":"a"}', b'{"id":"a"}'])])
    with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
        assert [("a",), ("a",)] == connection.execute("SELECT id FROM ticks_current").fetchall()
        columns = connection.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'ticks'").fetchall()
        assert ("_deleted",) not in columns


def other_shapes() -> list[tuple[str, Callable[[], type], Callable[[], type]]]:
    def plain() -> type:
        return contract(version=1)(type("Plain", (), {"__annotations__": {"id": str}}))

    def keyed() -> type:
        return contract(version=2, key=("id",))(type("Keyed", (), {"__annotations__": {"id": str}}))

    return [("column _deleted is not there", plain, keyed), ("column _deleted is NOT NULL", keyed, plain)]


@pytest.mark.parametrize(("says", "first", "second"), other_shapes(), ids=["gets a key", "loses its key"])
def test_a_table_does_not_change_its_kind(
    tmp_path: Path, says: str, first: Callable[[], type], second: Callable[[], type]
) -> None:
    """With a key it is another table: rows that are there were not chosen, or were chosen."""
    one, two = (
        DuckDBLoader(database=tmp_path / "silver.duckdb", target="ticks", contract=c()) for c in (first, second)
    )
    one.load([segment(0, [b'{"id":"a"}'])])
    with pytest.raises(ConfigError, match=says):
        two.load([segment(1, [b'{"id":"a"}'])])

"""Anything at all as records, through the whole path: lake, load, silver. Each is a row, in quarantine, or superseded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chain import Chain
from headrace.contract import column, contract
from headrace.infer import written
from headrace.load import Load
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Extent, Identity, Partition, Record

PARTITIONS = [Partition("t", 0), Partition("t", 1)]


@contract(version=1)
class Loose:
    """A column of each kind."""

    a: str | None
    b: int | None
    c: Decimal | None = column(precision=12, scale=3)
    d: bool | None
    e: datetime | None
    f: list | dict | None


@contract(version=1, key=("b",), order=("c",), deleted=("d", (True,)))
class Keyed:
    """The same, of which the newest of a key is the row."""

    a: str | None
    b: int
    c: Decimal = column(precision=12, scale=3)
    d: bool | None


NUMBERS = st.sampled_from(["0", "1", "2", "-1", "1.5", "2.250", "1e2", "1e400", "14.1234000000000000001", "9" * 30])
TEXTS = st.sampled_from(
    ['"x"', '"7"', r'"\ud800"', r'"\u0000"', '"2024-01-02T14:30:00Z"', '"2016-12-31T23:59:60Z"', '""']
)
NESTED = st.sampled_from(["[]", "{}", '[1,{"a":null}]', '{"a":1e400}', "[" * 120 + "]" * 120])
LITERALS = st.sampled_from(["null", "true", "false"])
OBJECTS = st.lists(st.tuples(st.sampled_from("abcdefA"), NUMBERS | TEXTS | NESTED | LITERALS), max_size=6).map(
    lambda fields: ("{" + ",".join(f'"{name}":{text}' for name, text in fields) + "}").encode()
)
VALUES = (
    st.none() | OBJECTS | OBJECTS | OBJECTS | st.binary(max_size=12) | NESTED.map(str.encode) | TEXTS.map(str.encode)
)


def lake_of(folder: Path, values: Sequence[bytes | None], cut: int) -> Chain:
    """The values, spread over two partitions, in segments of *cut* records."""
    store = FileStore(root=folder / "lake")
    sink, identity = LakeSink(store=store), Identity("fuzz", "t", "read_uncommitted", len(PARTITIONS))
    sink.bind({partition: Extent(0, len(values), len(values), identity) for partition in PARTITIONS})
    positions = sink.positions(dict.fromkeys(PARTITIONS))
    for partition in PARTITIONS:
        at, own = positions[partition], values[partition.number :: len(PARTITIONS)]
        assert not isinstance(at, Exception)
        for begin in range(0, len(own), cut):
            draft = sink.draft(partition, at.offset, 1 << 20)
            rows = [Record(begin + i, i, None, value) for i, value in enumerate(own[begin : begin + cut])]
            draft.add(Batch.of(partition, rows, assignment=1))
            at = draft.commit(at.offset, at, identity)
            draft.discard()
    sink.close()
    return Chain.open(store, "t")


def load(folder: Path, chain: Chain, kept: type) -> tuple[int, int, int, int]:
    """Rows, quarantine, superseded by the ledger, and records by the ledger, counted in the file."""
    loader = DuckDBLoader(database=folder / f"{kept.__name__}.duckdb", target="t", contract=kept)
    Load(chain=chain, loader=loader, group_segments=2, max_rejected=1).run()
    with duckdb.connect(str(folder / f"{kept.__name__}.duckdb"), read_only=True) as connection:
        place = "(_dataset, _stream, _partition, _offset)"
        [(rows, distinct)] = connection.execute(f"SELECT count(*), count(DISTINCT {place}) FROM t").fetchall()
        [(refused, places)] = connection.execute(
            f"SELECT count(*), count(DISTINCT {place}) FROM t_quarantine"
        ).fetchall()
        [(superseded, records)] = connection.execute(
            "SELECT coalesce(sum(superseded), 0), coalesce(sum(records), 0) FROM headrace_ledger"
        ).fetchall()
    assert (rows, refused) == (distinct, places)
    return rows, refused, int(superseded), int(records)


@settings(max_examples=12)
@given(st.lists(VALUES, min_size=1, max_size=30), st.integers(1, 9))
def test_every_record_is_somewhere(values: list[bytes | None], cut: int):
    """rows + quarantine + superseded = records, with a key and without; nothing is there twice."""
    with tempfile.TemporaryDirectory() as name:
        chain = lake_of(Path(name), values, cut)
        for kept in (Loose, Keyed):
            rows, refused, superseded, records = load(Path(name), chain, kept)
            assert (len(values), len(values)) == (records, rows + refused + superseded)
            assert kept is Keyed or superseded == 0


@settings(max_examples=8)
@given(st.lists(OBJECTS, min_size=1, max_size=30))
def test_inferred_contract_takes_all(values: list[bytes]):
    """A contract that is inferred from a lake loads it without a record in quarantine."""
    with tempfile.TemporaryDirectory() as name:
        chain = lake_of(Path(name), values, 7)
        stored = [v for n in chain.partitions() for s in chain.walk(n) for b in chain.batches(s) for v in b.values]
        namespace: dict[str, type] = {"__name__": "inferred"}
        exec(compile(written(stored, "Row", "here"), "inferred.py", "exec", dont_inherit=True), namespace)
        rows, refused, *_ = load(Path(name), chain, namespace["Row"])
        broken = sum(1 for value in values if b"[" * 120 in value)  # no JSON for us: it nests too deep
        assert rows + refused == len(values)
        assert refused <= broken

"""`headrace load --plan`, `--alter` and `--evolve`: a newer contract, or a stream with more fields, and a table that is there."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import duckdb
import pytest

from headrace.chain import Chain
from headrace.cli.app import run
from headrace.contract import load_contract
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource

pytestmark = pytest.mark.usefixtures("logging_restored")

CONTRACTS = """
from decimal import Decimal
from headrace.contract import column, contract

@contract(version=1)
class One:
    n: int
    size: int
    price: Decimal = column(precision=10, scale=2)
    note: str

@contract(version=2)
class Two:
    n: int
    size: Decimal = column(precision=30, scale=4)
    price: Decimal = column(precision=14, scale=4)
    venue: str | None
    lot: int = column(default=100)

@contract(version=3)
class Three:
    n: int

@contract(version=2)
class Other:
    n: str
    size: int = column(minimum=0)
    price: Decimal = column(precision=10, scale=3)
    note: str
    broker: str
"""


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """Records as the first contract has them, loaded by it, and one as the second has them, which is not loaded yet."""
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    write(tmp_path, [{"n": n, "size": n, "price": 1.25, "note": "x"} for n in range(3)])
    assert 0 == load(tmp_path, "One")
    return write(tmp_path, [{"n": 3, "size": 0.5, "price": 1.2345, "venue": "N", "lot": 7}])


def write(tmp_path: Path, records: list[dict[str, object]]) -> str:
    with (tmp_path / "ticks.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    place = f"file://{tmp_path}/lake"
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl", place, "--until-end", "--log-level", "error"])
    return place


def load(tmp_path: Path, contract: str, *more: str) -> int:
    target, words = (
        f"duckdb://{tmp_path}/silver.duckdb?table=ticks",
        ["--contract", f"{tmp_path}/contracts.py:{contract}"],
    )
    return run(["load", f"file://{tmp_path}/lake", target, *words, "--log-level", "error", *more])


def query(tmp_path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(tmp_path / "silver.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.usefixtures("lake")
def test_plan_and_alter(capfd, tmp_path):
    """What is planned is printed and not done; then it is done, once; rows keep their values and the newer ones have theirs."""
    schema = "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = 'ticks' ORDER BY column_index"
    before = query(tmp_path, schema)
    assert 2 == load(tmp_path, "Two")
    assert "`headrace load --plan`" in capfd.readouterr().err
    for _ in range(2):
        assert 0 == load(tmp_path, "Two", "--plan", "--json")
        planned = json.loads(capfd.readouterr().out)
        assert before == query(tmp_path, schema)
    assert planned["possible"]
    default_gone = 'ALTER TABLE "ticks" ALTER COLUMN "lot" DROP DEFAULT'
    assert [
        'ALTER TABLE "ticks" ALTER COLUMN "size" SET DATA TYPE DECIMAL(30,4)',
        'ALTER TABLE "ticks" ALTER COLUMN "price" SET DATA TYPE DECIMAL(14,4)',
        'ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "venue" VARCHAR',
        'ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "lot" BIGINT DEFAULT \'100\'; ' + default_gone,
        'ALTER TABLE "ticks" ALTER COLUMN "note" DROP NOT NULL',
    ] == [change["statement"] for change in planned["changes"]]
    assert 0 == load(tmp_path, "Two", "--alter")
    assert 0 == load(tmp_path, "Two")
    capfd.readouterr()
    assert 0 == load(tmp_path, "Two", "--plan")
    assert "fits the contract" in capfd.readouterr().err
    rows = "SELECT n, size::VARCHAR, price::VARCHAR, note, venue, lot FROM ticks ORDER BY n"
    assert [
        *((n, f"{n}.0000", "1.2500", "x", None, 100) for n in range(3)),
        (3, "0.5000", "1.2345", None, "N", 7),
    ] == query(tmp_path, rows)
    assert [("N",)] == query(tmp_path, "SELECT venue FROM ticks_current WHERE n = 3")
    write(tmp_path, [{"n": 4, "size": 1, "price": 1.25, "note": "x"}])
    assert 2 == load(tmp_path, "One")
    assert [("N",)] == query(tmp_path, "SELECT venue FROM ticks_current WHERE n = 3")
    assert 2 == load(tmp_path, "One", "--plan")
    assert 2 == load(tmp_path, "One", "--alter")
    assert 0 == load(tmp_path, "Three", "--alter")
    assert [(None, None)] == query(tmp_path, "SELECT lot, size FROM ticks WHERE n = 4")  # a default is its contract's


@pytest.mark.usefixtures("lake")
def test_what_cannot_be_altered(capfd, tmp_path):
    """Every conflict is named at once with the way out, and nothing is done; what could be is not done either."""
    before = query(tmp_path, "SELECT sql FROM duckdb_tables()")
    assert 1 == load(tmp_path, "Other", "--plan", "--json")
    planned = json.loads(capfd.readouterr().out)
    assert not planned["possible"]
    assert ["column n", "column price", "column broker"] == [
        c["what"][: c["what"].index(" is")] for c in planned["changes"]
    ]
    assert 2 == load(tmp_path, "Other", "--alter")
    told = capfd.readouterr().err
    for words in (
        "column n is BIGINT",
        "column price is DECIMAL(10,2)",
        "column broker is not there",
        "headrace reload",
    ):
        assert words in told
    assert before == query(tmp_path, "SELECT sql FROM duckdb_tables()")


def test_plan_of_a_table_that_is_not_there(capfd, tmp_path, lake):
    """There is nothing to alter, and nothing is made."""
    words = ["--contract", f"{tmp_path}/contracts.py:Two", "--plan"]
    assert 0 == run(["load", lake, f"duckdb://{tmp_path}/none.duckdb?table=ticks", *words])
    assert "is not there yet" in capfd.readouterr().err
    assert not (tmp_path / "none.duckdb").exists()


# ---- evolve -----------------------------------------------------------------------------------------------

COLUMNS = (
    "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'ticks' AND column_name[1] <> '_'"
    " AND database_name = current_database() ORDER BY column_index"
)
MORE = [
    {"n": 0, "a": 1, "b": 0.5, "c": "2024-02-29T12:00:00Z", "d": True, "e": {"f": [1]}, "g": None, "mixed": 1, "N": 1},
    {"n": 1, "a": -(2**63), "b": 2, "c": "", "d": None, "e": [], "mixed": "x", "a b": 1, "_own": 1},
    {"n": 2},
]


@pytest.fixture
def stream(tmp_path: Path) -> str:
    """Records with more than the contract names."""
    (tmp_path / "contracts.py").write_text(
        "from headrace.contract import contract\n@contract(version=1)\nclass Tick:\n    n: int\n"
        "@contract(version=2)\nclass Wide:\n    n: int\n    a: __import__('decimal').Decimal | None\n"
    )
    return write(tmp_path, MORE)


@pytest.mark.usefixtures("stream")
def test_evolve(capfd, tmp_path):
    """Planned, then made: a column for each field of one kind, none for what is null, mixed or no name; never a moment."""
    for _ in range(2):
        assert 0 == load(tmp_path, "Tick", "--evolve", "--plan", "--json")
        planned = json.loads(capfd.readouterr().out)["changes"]
        assert not (tmp_path / "silver.duckdb").exists()
    kinds = {"a": "BIGINT", "b": "DECIMAL(38,9)", "c": "VARCHAR", "d": "BOOLEAN", "e": "JSON"}
    assert [f'ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "{n}" {kind}' for n, kind in kinds.items()] == [
        change["statement"] for change in planned
    ]
    assert 0 == load(tmp_path, "Tick", "--evolve")
    told = capfd.readouterr()
    assert [("n", "BIGINT"), *kinds.items()] == query(tmp_path, COLUMNS)
    assert [
        (0, 1, "0.500000000", "2024-02-29T12:00:00Z", True, '{"f":[1]}'),
        (1, -(2**63), "2.000000000", "", None, "[]"),
        (2, None, None, None, None, None),
    ] == query(tmp_path, "SELECT n, a, b::VARCHAR, c, d, e::VARCHAR FROM ticks_current ORDER BY n")
    assert "" == told.err  # what was made and what was left out are log lines


@pytest.mark.usefixtures("stream")
def test_what_was_made_stays_what_it_is(capfd, tmp_path):
    """The next loader knows the kinds, in either mode: what differs goes to quarantine, and is redriven when it may."""
    assert 0 == load(tmp_path, "Tick", "--evolve")
    write(tmp_path, [{"n": 3, "a": "text", "h": 7}, {"n": 4, "a": 1.5}, {"n": 5, "a": 9, "mixed": 1}])
    assert 0 == load(tmp_path, "Tick")
    assert [(5, 9)] == query(tmp_path, "SELECT n, a FROM ticks WHERE n > 2")
    reasons = 'SELECT _offset, "column", reason FROM ticks_quarantine ORDER BY 1'
    fraction = "a number with a fraction or an exponent, expected an integer"
    assert [(3, "a", "text, expected a number"), (4, "a", fraction)] == query(tmp_path, reasons)
    write(tmp_path, [{"n": 6, "h": 7, "mixed": 2}])
    assert 0 == load(tmp_path, "Tick", "--evolve")
    assert [("h", "BIGINT"), ("mixed", "BIGINT")] == query(tmp_path, COLUMNS)[-2:]

    target, wide = f"duckdb://{tmp_path}/silver.duckdb?table=ticks", ("--contract", f"{tmp_path}/contracts.py:Wide")
    assert 2 == run(["redrive", target, *wide, "--log-level", "error"])
    assert 0 == load(tmp_path, "Wide", "--alter")
    capfd.readouterr()
    assert 0 == run(["redrive", target, *wide, "--dry-run", "--json"])
    assert 1 == json.loads(capfd.readouterr().out)["would_load"]
    assert 0 == run(["redrive", target, *wide, "--log-level", "error"])
    assert [(4, "1.500000000")] == query(tmp_path, "SELECT n, a::VARCHAR FROM ticks WHERE n = 4")
    assert [(3,)] == query(tmp_path, "SELECT _offset FROM ticks_quarantine")


@pytest.mark.usefixtures("stream")
def test_a_field_that_the_table_s_column_does_not_fit(capfd, tmp_path):
    """It gets no column and is not remembered, planned or made: to remember it would keep every loader out from then on."""
    assert 0 == load(tmp_path, "Tick")
    with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
        connection.execute("ALTER TABLE ticks ADD COLUMN A DOUBLE")
        connection.execute("ALTER TABLE ticks ADD COLUMN h BIGINT")
        connection.execute("ALTER TABLE ticks ADD COLUMN k BIGINT DEFAULT 3")
        connection.execute("ALTER TABLE ticks ALTER COLUMN k SET NOT NULL")
    write(tmp_path, [{"n": 3, "a": 5, "h": 7, "k": 9}])
    capfd.readouterr()
    assert 0 == load(tmp_path, "Tick", "--evolve", "--plan", "--json")
    planned = json.loads(capfd.readouterr().out)["changes"]
    assert ['ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "h" BIGINT'] == [change["statement"] for change in planned]
    assert 0 == load(tmp_path, "Tick", "--evolve")
    assert 0 == load(tmp_path, "Tick")
    assert [(3, None, 7, 3)] == query(tmp_path, "SELECT n, A, h, k FROM ticks WHERE n = 3")
    assert [("h",)] == query(tmp_path, "SELECT name FROM headrace_columns")


@pytest.mark.usefixtures("stream")
def test_a_contract_that_names_it_no_more(tmp_path):
    """What the stream brought, a contract named with another type, and the next one names not: it is passed over."""
    with (tmp_path / "contracts.py").open("a") as file:
        file.write("@contract(version=3)\nclass Narrow:\n    n: int\n")
    assert 0 == load(tmp_path, "Tick", "--evolve")
    assert 0 == load(tmp_path, "Wide", "--alter")
    write(tmp_path, [{"n": 3, "a": 2.5, "b": 1}])
    assert 0 == load(tmp_path, "Narrow")
    assert [("1.000000000", 0), (None, 3)] == query(
        tmp_path, "SELECT a::VARCHAR, n FROM ticks WHERE n IN (0, 3) ORDER BY n"
    )
    assert [("1.000000000",)] == query(tmp_path, "SELECT b::VARCHAR FROM ticks WHERE n = 3")


def bronze(tmp_path: Path, values: list[bytes]) -> type:
    """Bring any bytes to the lake, which no file of JSON lines could, and return the contract."""
    (tmp_path / "contracts.py").write_text(
        "from headrace.contract import contract\n@contract(version=1)\nclass Tick:\n    n: int\n"
    )
    store, log = FileStore(root=tmp_path / "lake"), MemoryLog(stream="ticks")
    for value in values:
        log.produce(value)
    source = MemorySource(log=log, hints={}, idle=lambda _: None)
    Pipeline(source=source, sink=LakeSink(store=store), until_end=True).run()
    return load_contract(f"{tmp_path}/contracts.py:Tick")


def test_a_value_of_several_lines(tmp_path):
    """The lake keeps it in base64; its fields are found as any other's."""
    values = [b'{"n":1,\n"a":1}', b'{"n":2,"b":"\\"value_b64\\""}', b'[1,\n{"c":1}]', b'{"n":3,\n"b":"\xff"}']
    bronze(tmp_path, values)
    assert 0 == load(tmp_path, "Tick", "--evolve")
    assert [(1, 1, None), (2, None, '"value_b64"')] == query(tmp_path, "SELECT n, a, b FROM ticks ORDER BY n")
    assert [(2, "not an object"), (3, "not UTF-8")] == query(
        tmp_path, "SELECT _offset, reason FROM ticks_quarantine ORDER BY 1"
    )


def test_names_that_are_data(caplog, monkeypatch, tmp_path):
    """A table gets so many columns and no more, and the log a line for each reason, however many fields and however long."""
    monkeypatch.setattr("headrace.typed.fields.MAX_COLUMNS", 60)
    more = [{"n": n, f"f{n}": n, f"{n:>1000}": n, f"a{n % 3}": n % 2 or "x"} for n in range(600)]
    kept = bronze(tmp_path, [json.dumps(each).encode() for each in more])
    loader = DuckDBLoader(database=tmp_path / "silver.duckdb", target="ticks", contract=kept)
    caplog.clear()
    Load(chain=Chain.open(FileStore(root=tmp_path / "lake"), "ticks"), loader=loader, evolve=True).run()
    assert 60 == len(query(tmp_path, COLUMNS))
    told = [r.fields for r in caplog.records if getattr(r, "what", "") == "fields left out"]
    assert [600, 3, 541] == [each["fields"] for each in told]
    assert max(len(each["first"]) for each in told) < 700


@pytest.mark.usefixtures("stream")
def test_nothing_evolves_unless_it_is_asked_for(tmp_path):
    """Fields that the contract does not name are passed over, and no table of ours more is made."""
    assert 0 == load(tmp_path, "Tick")
    assert [("n", "BIGINT")] == query(tmp_path, COLUMNS)
    assert [] == query(tmp_path, "SELECT 1 FROM duckdb_tables() WHERE table_name = 'headrace_columns'")


@pytest.mark.usefixtures("stream")
def test_two_loaders_evolve_at_once(tmp_path):
    """In threads, of the same segments: one kind, one column each, every record once."""
    values = [{"n": n, f"f{n % 7}": n if n % 2 else str(n)} for n in range(3, 60)]
    for begin in range(0, len(values), 10):
        write(tmp_path, values[begin : begin + 10])
    errors: list[BaseException] = []

    def work() -> None:
        loader = DuckDBLoader(database=tmp_path / "silver.duckdb", target="ticks", contract=kept, threads=1)
        try:
            Load(
                chain=Chain.open(FileStore(root=tmp_path / "lake"), "ticks"), loader=loader, evolve=True, group_bytes=1
            ).run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    kept = load_contract(f"{tmp_path}/contracts.py:Tick")
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == errors
    names = [name for name, _ in query(tmp_path, COLUMNS)]
    assert sorted(set(names)) == sorted(names)
    assert [(60, 60)] == query(
        tmp_path,
        "SELECT count(*), count(DISTINCT _offset) FROM (FROM (SELECT _offset FROM ticks) UNION ALL"
        " SELECT _offset FROM ticks_quarantine)",
    )

"""`headrace load --plan` and `--alter`: a newer contract and a table that is there."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import duckdb
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("structlog")

from headrace.cli.app import run

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

@contract(version=2)
class Other:
    n: str
    size: int = column(minimum=0)
    price: Decimal = column(precision=10, scale=3)
    note: str
    broker: str
"""


@pytest.fixture(autouse=True)
def _logging_restored(monkeypatch):
    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


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
    assert [
        'ALTER TABLE "ticks" ALTER COLUMN "size" SET DATA TYPE DECIMAL(30,4)',
        'ALTER TABLE "ticks" ALTER COLUMN "price" SET DATA TYPE DECIMAL(14,4)',
        'ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "venue" VARCHAR',
        'ALTER TABLE "ticks" ADD COLUMN IF NOT EXISTS "lot" BIGINT DEFAULT \'100\'',
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
    assert 2 == load(tmp_path, "One", "--plan")
    assert 2 == load(tmp_path, "One", "--alter")


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

"""`headrace quarantine` and `redrive`, and the share of bad records that stops a load."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from headrace.cli.app import run
from headrace.plugins.duckdb import quarantine
from headrace.redrive import Redrive

pytestmark = pytest.mark.usefixtures("logging_restored")

CONTRACTS = """
from decimal import Decimal
from headrace.contract import column, contract

@contract(version=1)
class Tick:
    symbol: str
    price: Decimal

@contract(version=2)
class Texts:
    symbol: str
    price: Decimal = column(text=True)
"""
VALUES = [
    *(b'{"symbol":"A","price":%d}' % n for n in range(4)),
    b'{"symbol":"B","price":"4"}',
    b'{"symbol":"B","price":"5"}',
    b'{"symbol":"\x1b[31m\xff',
    b'{"symbol":"\\u001b[31m", "price":null}',
    '{"symbol":"ä\u2028","price":"8"}'.encode(),
]
BAD = range(4, 9)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    return written(tmp_path, VALUES)


@pytest.fixture
def table(tmp_path: Path, lake: str) -> str:
    """A table with four rows and five records in quarantine."""
    target = f"duckdb://{tmp_path}/silver.duckdb?table=ticks"
    assert 0 == run(["load", lake, target, *by(tmp_path, "Tick"), "--log-level", "error"])
    return target


def written(tmp_path: Path, values: list[bytes]) -> str:
    (tmp_path / "ticks.jsonl").write_bytes(b"".join(value + b"\n" for value in values))
    place = f"file://{tmp_path}/lake"
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl", place, "--until-end", "--log-level", "error"])
    return place


def by(tmp_path: Path, name: str) -> tuple[str, str]:
    return "--contract", f"{tmp_path}/contracts.py:{name}"


def called(capfdbinary, *words: object) -> tuple[int, bytes, str]:
    capfdbinary.readouterr()
    code = run([str(word) for word in words])
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def query(tmp_path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(tmp_path / "silver.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


# ---- quarantine -------------------------------------------------------------------------------------------


def test_list(capfdbinary, table):
    """A line for each partition, column, reason and contract, with how many and where; no contract is needed."""
    code, out, err = called(capfdbinary, "quarantine", "list", table)
    names, *rows = [line.split("\t") for line in out.decode().splitlines()]
    assert (0, "5 records") == (code, err.strip())
    assert ["stream", "partition", "column", "reason", "contract", "version", "records", "first", "last"] == names
    assert [
        ["ticks", "0", "", "not UTF-8", "Tick", "1", "1", "6", "6"],
        ["ticks", "0", "price", "missing", "Tick", "1", "1", "7", "7"],
        ["ticks", "0", "price", "text, expected a number", "Tick", "1", "3", "4", "8"],
    ] == rows


def test_selection(capfdbinary, table):
    """`list` and `export` mean the same records by the same options."""
    for words, offsets in (
        ((), BAD),
        (("--from", 5, "--to", 8), [5, 6, 7]),
        (("--reason", "text, expected a number"), [4, 5, 8]),
        (("--column", "price", "--from", 5), [5, 7, 8]),
        (("--column", ""), [6]),
        (("--stream", "ticks", "--partition", 0), BAD),
        (("--stream", "others"), []),
        (("--stream", "ticks", "--partition", 1), []),
    ):
        code, out, _ = called(capfdbinary, "quarantine", "export", table, *words)
        assert (0, list(offsets)) == (code, [json.loads(line)["offset"] for line in out.splitlines()])
        code, out, _ = called(capfdbinary, "quarantine", "list", table, *words, "--json")
        assert (0, len(offsets)) == (code, json.loads(out)["records"])


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--partition", 0), "it goes with --stream"), (("--from", 5, "--to", 5), "expected more than --from 5")],
    ids=str,
)
def test_a_selection_that_means_nothing(capfdbinary, table, words, message):
    """It is refused with code 2, rather than taken for something else."""
    code, _, err = called(capfdbinary, "quarantine", "list", table, *words)
    assert (2, True) == (code, message in err)


def test_nothing_is_made_by_looking(capfdbinary, tmp_path):
    """A warehouse that is not there is empty, and still not there."""
    target = f"duckdb://{tmp_path}/none.duckdb?table=ticks"
    assert (0, b"") == called(capfdbinary, "quarantine", "export", target)[:2]
    code, _, err = called(capfdbinary, "quarantine", "list", target)
    nothing = "the quarantine of ticks is empty for what was selected, or there is no such table"
    assert (0, True) == (code, nothing in err)
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    for more in ((), ("--dry-run",)):
        code, _, err = called(capfdbinary, "redrive", target, *by(tmp_path, "Tick"), "--log-level", "error", *more)
        assert (0, True) == (code, nothing in err)
    assert not (tmp_path / "none.duckdb").exists()


def test_show(capfdbinary, table):
    """Place, reason and value: for people without what would command a terminal, and as the very bytes."""
    words = ("quarantine", "show", table, "--stream", "ticks", "--partition", 0, "--offset", 6)
    code, out, _ = called(capfdbinary, *words)
    assert 0 == code
    assert b"\x1b" not in out
    for line in (b"stream   ticks/0", b"reason   not UTF-8", b"contract Tick version 1", b"\\xff'"):
        assert line in out
    assert (0, VALUES[6]) == called(capfdbinary, *words, "--raw")[:2]
    code, out, _ = called(capfdbinary, *words, "--json")
    (found,) = json.loads(out)["records"]
    assert (0, "", "not UTF-8", 6) == (code, found["column"], found["reason"], found["record"]["offset"])
    code, _, err = called(capfdbinary, *words[:-1], 3)
    assert (1, True) == (code, "has no record of ticks/0 at offset 3" in err)


def test_export(capfdbinary, tmp_path, table):
    """The lake's lines, to the byte, each with its place and reason; the file is there when it is whole."""
    file = tmp_path / "bad.jsonl"
    file.write_text("from before")
    code, out, _ = called(capfdbinary, "quarantine", "export", table, "-o", file)
    assert (0, f"5 records of ticks in {file}\n") == (code, out.decode())
    assert file.read_bytes() == called(capfdbinary, "quarantine", "export", table)[1]
    stored = dict(query(tmp_path, "SELECT _offset, line FROM ticks_quarantine"))
    for line in file.read_bytes().splitlines():
        found = json.loads(line)
        assert {"dataset", "contract", "version", "column", "reason", "record"} < set(found)
        assert line.endswith(b',"record":' + stored[found["offset"]] + b"}")
    for wrong in (tmp_path / "no/such/folder.jsonl", tmp_path, "."):
        code, _, err = called(capfdbinary, "quarantine", "export", table, "-o", wrong)
        assert (2, True) == (code, "cannot write" in err), wrong


@pytest.mark.parametrize(("records_at_once", "bytes_at_once"), [(1, 1 << 20), (2, 1 << 20), (3, 1), (5_000, 150)])
def test_export_in_pieces(capfdbinary, monkeypatch, table, records_at_once, bytes_at_once):
    """However few are held at once, in number or in bytes, the same records come, each once and in order."""
    whole = called(capfdbinary, "quarantine", "export", table)[1]
    monkeypatch.setattr(quarantine, "_RECORDS_AT_ONCE", records_at_once)
    monkeypatch.setattr(quarantine, "_BYTES_AT_ONCE", bytes_at_once)
    assert (0, whole) == called(capfdbinary, "quarantine", "export", table)[:2]
    code, out, _ = called(capfdbinary, "quarantine", "export", table, "--column", "price", "--from", 5, "--to", 8)
    assert (0, [5, 7]) == (code, [json.loads(line)["offset"] for line in out.splitlines()])


# ---- redrive ----------------------------------------------------------------------------------------------


def test_dry_run(capfdbinary, tmp_path, table):
    """What the mended contract says of every record, by the reason that quarantine names; nothing is written."""
    before = query(tmp_path, "SELECT * FROM ticks_quarantine ORDER BY _offset")
    code, out, err = called(capfdbinary, "redrive", table, *by(tmp_path, "Texts"), "--dry-run")
    _, *rows = [line.split("\t") for line in out.decode().splitlines()]
    assert 0 == code
    assert [
        ["", "not UTF-8", "1", "refused", "", "not UTF-8"],
        ["price", "missing", "1", "refused", "price", "missing"],
        ["price", "text, expected a number", "3", "rows", "", ""],
    ] == rows
    assert "3 of 5 records would become rows; nothing was written" in err
    assert before == query(tmp_path, "SELECT * FROM ticks_quarantine ORDER BY _offset")
    assert [(1,)] == query(tmp_path, "SELECT contract_version FROM headrace_lock")


@pytest.mark.parametrize("group", [1, 2, 50_000])
def test_redrive(capfdbinary, tmp_path, table, group):
    """In whatever portions, each record goes where it belongs once, and what stays says why it does now."""
    words = ("redrive", table, *by(tmp_path, "Texts"), "--group", group, "--json", "--log-level", "error")
    code, out, _ = called(capfdbinary, *words)
    done = json.loads(out)
    assert (0, 5, 3, -3, -(-5 // group)) == (
        code,
        *(done[n] for n in ("tried", "inserted", "rejected", "transactions")),
    )
    assert [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (8, 8)] == query(
        tmp_path, "SELECT _offset, price::INTEGER FROM ticks ORDER BY 1"
    )
    assert [(6, "Texts", 2, "", "not UTF-8"), (7, "Texts", 2, "price", "missing")] == query(
        tmp_path, 'SELECT _offset, contract, contract_version, "column", reason FROM ticks_quarantine ORDER BY 1'
    )
    assert [(9, 7, 2)] == query(tmp_path, "SELECT sum(records), sum(inserted), sum(rejected) FROM headrace_ledger")
    code, out, _ = called(capfdbinary, *words)
    assert (0, 2, 0) == (code, json.loads(out)["tried"], json.loads(out)["inserted"])
    code, out, _ = called(capfdbinary, "redrive", table, *by(tmp_path, "Tick"))
    assert 2 == code


def test_redrive_what_is_selected(capfdbinary, tmp_path, table):
    """By column, reason and range."""
    words = ("redrive", table, *by(tmp_path, "Texts"), "--json", "--log-level", "error")
    for more, inserted in (
        (("--column", ""), 0),
        (("--reason", "missing"), 0),
        (("--column", "price", "--from", 5), 2),
        (("--stream", "ticks", "--partition", 0, "--to", 5), 1),
    ):
        code, out, _ = called(capfdbinary, *words, *more)
        assert (0, inserted) == (code, json.loads(out)["inserted"])


# ---- too many ---------------------------------------------------------------------------------------------


def test_too_many(capfdbinary, tmp_path, lake):
    """A contract that refuses most of a stream stops the load; the ledger is where it was, and --max-rejected takes it."""
    target = f"duckdb://{tmp_path}/many.duckdb?table=ticks"
    written(tmp_path, [*VALUES, *(b'{"symbol":"B","price":"%d"}' % n for n in range(9, 200))])
    words = ("load", lake, target, *by(tmp_path, "Tick"), "--json", "--log-level", "error")
    code, out, err = called(capfdbinary, *words)
    assert (1, "TooManyRejectedError") == (code, json.loads(out)["error"]["type"])
    assert "196 of 200 records break the contract (98.0%), expected at most 50%" in err
    assert "194 of price: text, expected a number, first at ticks/0 offset 4" in err
    for share, expected in (("97.9%", 1), ("98%", 0), ("98%", 0)):
        assert expected == called(capfdbinary, *words, "--max-rejected", share)[0]
    code, out, _ = called(capfdbinary, "redrive", target, *by(tmp_path, "Texts"), "--json", "--log-level", "error")
    assert (0, 194) == (code, json.loads(out)["inserted"])


@pytest.mark.parametrize("share", ["101%", "-1", "half"])
def test_no_share(capfdbinary, tmp_path, lake, share):
    """What is no share is refused before anything is opened."""
    target = f"duckdb://{tmp_path}/many.duckdb?table=ticks"
    code, _, err = called(capfdbinary, "load", lake, target, *by(tmp_path, "Tick"), f"--max-rejected={share}")
    assert (2, True) == (code, "expected a share" in err)
    assert not (tmp_path / "many.duckdb").exists()


# ---- a warehouse that fails -------------------------------------------------------------------------------


def test_a_warehouse_that_does_not_answer_is_asked_again(tmp_path, table):
    """The listing goes on behind the last record that came; nothing is tried twice or left out."""
    from headrace.contract import load_contract  # noqa: PLC0415 - as the module above says: only with the extras
    from headrace.errors import SinkUnavailableError  # noqa: PLC0415
    from headrace.registry import Registry  # noqa: PLC0415

    loader = Registry.discover().loader(table, load_contract(f"{tmp_path}/contracts.py:Texts"))
    real, listings = loader.quarantined, []

    def failing(selection):
        listings.append(selection.start)
        for n, record in enumerate(real(selection)):
            if n == 2 and len(listings) < 3:
                raise SinkUnavailableError("away")
            yield record

    loader.quarantined = failing
    redrive = Redrive(loader=loader, group_records=2)
    assert (3, 5) == (redrive.run().inserted, redrive.progress.tried)
    assert [0, 6, 8] == listings

"""`headrace reload`: the history by a newer contract, in a table of its own, and then what readers see."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from headrace.cli.app import run
from headrace.plugins.duckdb import loader as module

pytestmark = pytest.mark.usefixtures("logging_restored")

HEADRACE = shutil.which("headrace", path=str(Path(sys.executable).parent)) or ""
CONTRACTS = """
from decimal import Decimal
from headrace.contract import column, contract

@contract(version=1)
class One:
    n: str

@contract(version=2)
class Two:
    n: int = column(text=True)
    price: Decimal | None = column(precision=10, scale=2)

@contract(version=3)
class Three:
    number: int = column(source="n", text=True)
"""
KILLS = 3


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Twenty records in four segments, loaded by the first contract; the second refuses one of them."""
    (tmp_path / "contracts.py").write_text(CONTRACTS)
    write(tmp_path, 20)
    assert 0 == load(tmp_path, "One")
    return tmp_path / "lake"


def write(tmp_path: Path, count: int, flush: int = 5) -> None:
    """Let the stream grow to so many records."""
    lines = [json.dumps({"n": "x" if n == 7 else str(n), "price": n / 4}) for n in range(count)]
    (tmp_path / "ticks.jsonl").write_text("".join(f"{line}\n" for line in lines))
    words = ["--until-end", "--flush-records", str(flush), "--log-level", "error"]
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl", f"file://{tmp_path}/lake", *words])


def words_of(tmp_path: Path, command: str, contract: str, *more: str, table: str = "ticks") -> list[str]:
    target = f"duckdb://{tmp_path}/silver.duckdb?table={table}"
    words = [command, f"file://{tmp_path}/lake", target, "--contract", f"{tmp_path}/contracts.py:{contract}"]
    return [*words, "--log-level", "error", *more]


def load(tmp_path: Path, contract: str, *more: str, table: str = "ticks") -> int:
    return run(words_of(tmp_path, "load", contract, *more, table=table))


def reload(tmp_path: Path, contract: str, *more: str, table: str = "ticks") -> int:
    return run(words_of(tmp_path, "reload", contract, *more, table=table))


def query(tmp_path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(tmp_path / "silver.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def seen(tmp_path: Path) -> tuple:
    """What the readers' view holds: how many rows, and whether each is by the second contract."""
    return query(tmp_path, "SELECT count(*), count(DISTINCT _offset), bool_and(price = n / 4) FROM ticks_current")[0]


@pytest.mark.usefixtures("lake")
def test_reload(capfd, tmp_path):
    """Readers see the history by the newer contract; the old table stays, whole, and cannot be loaded by anybody any more."""
    assert 0 == reload(tmp_path, "Two")
    assert "readers of ticks_current see ticks_v2; load ?table=ticks_v2 from now on" in capfd.readouterr().out
    assert (19, 19, True) == seen(tmp_path)
    assert [(20, "VARCHAR")] == query(tmp_path, "SELECT count(*), any_value(typeof(n)) FROM ticks")
    assert [("a text that is no number",)] == query(tmp_path, "SELECT reason FROM ticks_v2_quarantine")
    write(tmp_path, 25)
    for contract in ("One", "Two", "Three"):
        assert 2 == load(tmp_path, contract)
        assert "ticks was replaced by ticks_v2 (headrace reload)" in capfd.readouterr().err
    assert (19, 19, True) == seen(tmp_path)
    assert 0 == load(tmp_path, "Two", table="ticks_v2")
    assert (24, 24, True) == seen(tmp_path)


@pytest.mark.usefixtures("lake")
def test_again(tmp_path):
    """The same again catches up and changes nothing else; the next contract replaces what replaced the first."""
    for count in (20, 25, 30):
        write(tmp_path, count)
        assert 0 == reload(tmp_path, "Two")
        assert (count - 1, count - 1, True) == seen(tmp_path)
    assert 0 == reload(tmp_path, "Three")
    for view in ("ticks_current", "ticks_v2_current", "ticks_v3_current"):
        assert [(29, 435 - 7)] == query(tmp_path, f"SELECT count(*), sum(number) FROM {view}")
    write(tmp_path, 35)
    assert 2 == load(tmp_path, "Two", table="ticks_v2")
    assert 0 == load(tmp_path, "Three", table="ticks_v3")
    assert [(34,)] == query(tmp_path, "SELECT count(*) FROM ticks_current")


@pytest.mark.usefixtures("lake")
def test_every_name_follows(tmp_path):
    """Also where the columns stay the same: whichever name of the past readers know, they see the newest table."""
    for into in ("ticks_a", "ticks_b"):
        assert 0 == reload(tmp_path, "Two", "--into", into)
    assert 0 == reload(tmp_path, "Two", "--into", "ticks_c", table="ticks_b")
    write(tmp_path, 25)
    assert 0 == load(tmp_path, "Two", table="ticks_c")
    for name in ("ticks", "ticks_a", "ticks_b", "ticks_c"):
        assert [(24,)] == query(tmp_path, f"SELECT count(*) FROM {name}_current"), name


@pytest.mark.usefixtures("lake")
def test_a_table_of_two_streams(capfd, tmp_path):
    """The other stream is missed at once, and named; when the new table has it too, it takes over."""
    words = ["--until-end", "--log-level", "error"]
    assert 0 == run(["stream", f"jsonl://{tmp_path}/ticks.jsonl?stream=others", f"file://{tmp_path}/lake", *words])
    assert 0 == load(tmp_path, "One", "--stream", "others")
    capfd.readouterr()
    assert 1 == reload(tmp_path, "Two", "--stream", "ticks")
    assert re.search(
        r"ticks is at 20 of others/0 \(dataset \w+\), ticks_v2 at 0: load ticks_v2 first", capfd.readouterr().err
    )
    assert 0 == load(tmp_path, "Two", "--stream", "others", table="ticks_v2")
    assert 0 == reload(tmp_path, "Two", "--stream", "ticks")
    assert [("others", 19), ("ticks", 19)] == query(
        tmp_path, "SELECT _stream, count(*)::INTEGER FROM ticks_current GROUP BY 1 ORDER BY 1"
    )


@pytest.mark.usefixtures("lake")
def test_a_table_that_begins_behind_the_head(capfd, tmp_path):
    """The new one would hold more than the old one: it is told how to make them comparable."""
    assert 0 == load(tmp_path, "One", "--begin-at", "0:10", table="newer")
    capfd.readouterr()
    assert 1 == reload(tmp_path, "Two", table="newer")
    assert "See where newer begins, and begin there (--begin-at)" in capfd.readouterr().err
    assert 0 == reload(tmp_path, "Two", "--begin-at", "0:10", "--into", "newest", table="newer")
    assert [(10,)] == query(tmp_path, "SELECT count(*) FROM newer_current")


@pytest.mark.usefixtures("lake")
def test_reload_with_what_the_stream_brings(tmp_path):
    """With --evolve the new table has the fields that no contract names, from the first record on; readers see them."""
    assert 0 == reload(tmp_path, "Three", "--evolve")
    assert [(19, 190 - 7)] == query(tmp_path, "SELECT count(price), sum(price * 4)::INTEGER FROM ticks_current")
    write(tmp_path, 25)
    assert 2 == load(tmp_path, "Two", table="ticks_v3")


@pytest.mark.usefixtures("lake")
def test_what_reload_refuses(capfd, tmp_path):
    """Nothing to replace, no name of its own, too many bad records: readers see what they saw."""
    before = query(tmp_path, "SELECT * FROM ticks_current ORDER BY _offset")
    assert 2 == reload(tmp_path, "Two", table="others")
    assert "there is nothing to replace" in capfd.readouterr().err
    assert 2 == reload(tmp_path, "Two", "--into", "ticks")
    assert before == query(tmp_path, "SELECT * FROM ticks_current ORDER BY _offset")


@pytest.mark.usefixtures("lake")
def test_a_warehouse_that_cannot_swap(capfd, tmp_path, monkeypatch):
    """It is told before the history is loaded for nothing."""
    monkeypatch.delattr(module.DuckDBLoader, "take_over")
    assert 2 == reload(tmp_path, "Two")
    assert "cannot take over from another target" in capfd.readouterr().err
    assert [] == query(tmp_path, "SELECT 1 FROM duckdb_tables() WHERE table_name = 'ticks_v2'")


@pytest.mark.usefixtures("lake")
def test_what_was_changed_by_hand_is_not_swapped_in(capfd, tmp_path):
    """Where the new table does not hold what the ledger says, readers keep the old one."""
    assert 0 == load(tmp_path, "Two", table="ticks_v2")
    with duckdb.connect(str(tmp_path / "silver.duckdb")) as connection:
        connection.execute("DELETE FROM ticks_v2 WHERE _offset = 3")
    assert 1 == reload(tmp_path, "Two")
    assert "20 records in ticks and 20 in ticks_v2, which holds 19; nothing was swapped" in capfd.readouterr().err
    assert [(20,)] == query(tmp_path, "SELECT count(*) FROM ticks_current")


def test_history_that_is_not_there_any_more(capfd, tmp_path, lake):
    """It is refused, saying what the new table would lack; told to, it begins behind."""
    for segment in sorted((lake / "ticks/partition=0").iterdir())[:2]:
        segment.unlink()
    notes = lake / "ticks/_headrace/expired/partition=0"
    notes.mkdir(parents=True)
    (notes / f"{0:020}-{10:020}.json").write_text("{}")
    assert 1 == reload(tmp_path, "Two")
    told = capfd.readouterr().err
    assert "ticks_v2 would lack of ticks/0 what ticks has of [0, 10)" in told
    assert [(20,)] == query(tmp_path, "SELECT count(*) FROM ticks_current")
    assert 0 == reload(tmp_path, "Two", "--begin-at", "oldest")
    assert (10, 10, True) == seen(tmp_path)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "the negative control"])
@pytest.mark.usefixtures("lake")
def test_a_target_that_is_behind_takes_nothing_over(tmp_path, monkeypatch, checked):
    """The old table is loaded after the last look: it is caught up with first. Without that check readers would go back."""
    late = []

    def then_load(*_):
        if not late:
            late.append(True)
            write(tmp_path, 25)
            assert 0 == load(tmp_path, "One")

    monkeypatch.setattr("headrace.reload.Reload._compare", then_load)
    if not checked:
        monkeypatch.setattr(module, "close", lambda *_: None)
    assert 0 == reload(tmp_path, "Two")
    assert [True] == late
    assert (24 if checked else 19) == seen(tmp_path)[0]


@pytest.mark.kill
@pytest.mark.usefixtures("lake")
def test_killed_at_random_moments(tmp_path):
    """Whenever it is killed, readers see one table or the other, whole; run again it ends well, beside loads of the old one."""
    count, chance, kills, code = 800, random.Random(7), 0, None
    write(tmp_path, count, flush=20)
    assert 0 == load(tmp_path, "One")
    while code is None:
        with subprocess.Popen([HEADRACE, *words_of(tmp_path, "reload", "Two", "--group", "1")]) as process:
            if kills < KILLS:
                try:
                    process.wait(chance.uniform(0.5, 1.3))
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait(60)
        kills += process.returncode == -signal.SIGKILL
        code = None if process.returncode == -signal.SIGKILL else process.returncode
        [(old,)] = query(tmp_path, "SELECT count(*) FROM ticks_current")
        replaced = query(tmp_path, "SELECT 1 FROM headrace_lock WHERE contract = 'ticks_v2'")
        assert old == (count - 1 if replaced else count)
        if not replaced:
            count += 20
            write(tmp_path, count, flush=20)
            assert 0 == load(tmp_path, "One")
    assert 0 == code
    assert kills >= 1
    assert 0 == reload(tmp_path, "Two")
    assert (count - 1, count - 1, True) == seen(tmp_path)

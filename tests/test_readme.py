"""What the README says works as it stands there."""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import pytest
import typer.main

from headrace.cli.app import application
from headrace.contract import Contract, load_contract
from headrace.demo.feed import write_feeds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PROGRAM, CONTRACT = (text for language, text in BLOCKS if language == "python")
COMMANDS = [
    line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if line.startswith("headrace")
]


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_program_is_the_example():
    """The first program is examples/quickstart.py, without its docstring."""
    example = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    assert example.partition('"""\n\n')[2] == PROGRAM


def test_program(tmp_path: Path):
    """It carries a real day of trades to the table, and run again it finds nothing to do."""
    feed = write_feeds(tmp_path / "feed")[1]
    shutil.copy(feed.path, tmp_path / "trades.jsonl")
    first = run(sys.executable, str(ROOT / "examples/quickstart.py"), folder=tmp_path)
    assert f"inserted={feed.records - feed.poison}, superseded=0, rejected={feed.poison}" in first
    again = run(sys.executable, str(ROOT / "examples/quickstart.py"), folder=tmp_path)
    assert "records=0, inserted=0" in again
    objects = sorted((tmp_path / "lake/trades").glob("partition=*/*.jsonl.gz"))
    assert feed.records == sum(len(gzip.decompress(path.read_bytes()).splitlines()) for path in objects)
    with duckdb.connect(str(tmp_path / "silver.duckdb"), read_only=True) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM trades").fetchall()[0]
    assert feed.records - feed.poison == rows


def test_contract(tmp_path: Path):
    """The contract can be named as on the command line."""
    (tmp_path / "contracts.py").write_text(CONTRACT, encoding="utf-8")
    found = Contract.of(load_contract(f"{tmp_path}/contracts.py:Trade"))
    assert ["symbol", "time", "price", "size"] == [c.name for c in found.columns]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_understood(line: str):
    """Every command and option of the README is there; none is run."""
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(application(drawn=False))
    context = command.make_context("headrace", list(words), resilient_parsing=True)
    found = command.get_command(context, words[0])
    assert found is not None
    found.make_context(words[0], words[1:])


def test_extras():
    """Each extra has its row in the table of them, and none else has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _, _, after = README.partition("| extra | brings |")
    assert sorted(project["optional-dependencies"]) == sorted(re.findall(r"^\| `(\w+)` \|", after, re.MULTILINE))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", README))))
def test_link(target: str):
    """What is linked to is there."""
    assert (ROOT / target.partition("#")[0]).exists()

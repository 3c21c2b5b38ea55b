"""What stands on the pages runs: commands on a lake and a table like theirs, and programs; what is only read says why."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest

from headrace.cli.app import run

ROOT = Path(__file__).parents[1]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs/pages").rglob("*.md")]
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
OURS = re.compile(r"(file:///lake|duckdb:///silver\.duckdb\?table=(trades|new))$")
"""Places that a test has. Others are a broker, a bucket or an account of the reader's: such a command is only read."""


def blocks(language: str) -> dict[str, list[str]]:
    """The blocks of a language, by page."""
    found = {
        name: [textwrap.dedent(text) for _, kind, text in FENCE.findall(page) if kind == language]
        for name, page in sorted(TEXTS.items())
    }
    return {name: texts for name, texts in found.items() if texts}


def commands() -> dict[tuple[str, ...], str]:
    """Each command of headrace that names nothing but the lake and the table, once; where it stands."""
    found: dict[tuple[str, ...], str] = {}
    for name, texts in blocks("bash").items():
        for line in "\n".join(texts).replace("\\\n", " ").splitlines():
            if not line.startswith("headrace ") or "tutorial" in name:
                continue
            words = shlex.split(re.split(r" [|>]|&&", line)[0], comments=True)[1:]
            places = [word for word in words if "://" in word]
            if places and all(map(OURS.match, places)) and not {"--follow", "--watch"} & set(words):
                stream = words[words.index("--stream") + 1] if "--stream" in words else "trades"
                if stream == "trades":
                    found.setdefault(tuple(word.replace("contracts.py", "trades.py") for word in words), name)
    return found


COMMANDS = commands()
CONTRACT = '''from datetime import datetime
from decimal import Decimal

from headrace.contract import column, contract


@contract(version=1)
class Trade:
    """One trade."""

    symbol: str
    time: datetime
    price: Decimal = column(precision=18, scale=4, minimum=0)
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with partition 3 of trades, a table that is loaded from it, one record in quarantine, and the contract."""
    folder = tmp_path_factory.mktemp("pages")
    lines = [f'{{"symbol":"S{n % 7}","time":"2026-03-02T14:30:00Z","price":{n}.5}}\n' for n in range(100)]
    lines[40] = '{"symbol":"S","time":"2026-03-02T14:30:00Z","price":"1.5"}\n'
    (folder / "trades.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "trades.py").write_text(CONTRACT, encoding="utf-8")
    assert 0 == run(["stream", f"jsonl://{folder}/trades.jsonl", f"file://{folder}/lake", "--until-end"])
    silver = f"duckdb://{folder}/silver.duckdb?table=trades"
    assert 0 == run(["load", f"file://{folder}/lake", silver, "--contract", f"{folder}/trades.py:Trade"])
    return folder


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("words", COMMANDS, ids=[f"{name}: {' '.join(words)}" for words, name in COMMANDS.items()])
def test_command(words: tuple[str, ...], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It does what it says, with the exit code 0; one that asks for a record by its offset finds none here, and says so by 1."""
    folder = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(folder)
    if words[:2] == ("contract", "infer"):
        Path("trades.py").unlink()  # it replaces no file
    place = {"file:///lake": f"file://{folder}/lake", "duckdb:///": f"duckdb://{folder}/"}
    here = [re.sub("file:///lake|duckdb:///", lambda found: place[found[0]], word) for word in words]
    here = ["0" if before == "--partition" else word for before, word in zip(["", *here], here, strict=False)]
    assert int("--offset" in words) == run(here)


def test_commands_are_found():
    """Of each kind of command that needs no server there is one."""
    kinds = {words[0] for words in COMMANDS}
    assert kinds >= {"load", "show", "audit", "quarantine", "redrive", "reload", "expire", "contract", "status"}
    assert len(COMMANDS) > 25


ELSEWHERE = {
    "README.md": "tests/test_readme.py runs it",
    "docs/pages/tutorial.md": "tests/test_tutorial.py runs it",
    "docs/pages/format.md": "tests/test_tutorial.py runs it on the tutorial's lake",
    "docs/pages/plugins.md": "the same as the next three",
    "docs/pages/plugins-files.md": "pieces of examples/plugin-*, whose own tests run them",
    "docs/pages/plugins-loader.md": "the same",
    "docs/pages/plugins-source.md": "the same",
    "docs/pages/airflow.md": "needs Airflow: tests/airflow/test_dags.py runs it",
    "docs/pages/reference/dags.md": "needs Airflow: tests/airflow/test_dags.py runs it",
    "docs/pages/decisions/one-table-a-command.md": "stands on names of the reader's; tests/test_load_tables.py does the same",
}
WAITS = "exchange.wait_for_clients()"
"""A block that waits for the reader's own pipeline is only read."""
PROGRAMS = {name: texts for name, texts in blocks("python").items() if name not in ELSEWHERE}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The blocks of a page run one after the other, as it shows them; what they connect to comes later, when it is used."""
    folder = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KAFKA_PASSWORD", "s3cret")
    space: dict[str, object] = {"__name__": "page"}
    for text in [CONTRACT.partition("\n\n\n")[0], *PROGRAMS[name]]:  # pages do not say again what contracts are made of
        if WAITS not in text:
            exec(compile(text.replace(":///", f"://{folder}/"), name, "exec", dont_inherit=True), space)


def test_every_block_is_run_or_excused():
    """No page is excused that has no block of Python any more."""
    assert set(ELSEWHERE) <= set(blocks("python"))
    assert len(PROGRAMS) > 8

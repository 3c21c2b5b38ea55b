"""The tutorial works to the letter, and so do the programs and queries of the pages on formats and contracts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.cli.app import run
from headrace.demo.broker import embedded_broker

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/pages/tutorial.md").read_text(encoding="utf-8")
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
STEPS = re.findall(r"<!-- run -->\n```bash\n(.*?)```\n(?:```text\n(.*?)```)?", PAGE, re.DOTALL)
EDGE = "--- the next step ---"


def answers(folder: Path, steps: list[str]) -> list[str]:
    """Run the steps one after the other in one shell, as a reader would, and return what each wrote."""
    for name, text in FILES:
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bin").mkdir()
    for name, words in {"headrace": "-m headrace", "python": ""}.items():
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"\necho '{EDGE}'\n".join(steps)],
            cwd=folder,
            env=kept | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout=280)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # the broker that a step has left in the background, too
            shell.wait(timeout=10)
    assert 0 == code, (folder / "err.txt").read_text(encoding="utf-8")
    return (folder / "out.txt").read_text(encoding="utf-8").split(EDGE)


def pattern(line: str) -> str:
    """A shown line: white space as it comes, `…` for anything."""
    return r"[ \t]+".join(r".*".join(map(re.escape, word.split("…"))) for word in line.split())


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which somebody has followed the tutorial, and what was answered."""
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, answers(folder, [step for step, _ in STEPS])


def test_each_step_answers_as_shown(followed: tuple[Path, list[str]]):
    """Every line that the page shows is a line of what the step wrote, in this order."""
    _, wrote = followed
    assert len(STEPS) == len(wrote)
    assert len(STEPS) > 12
    for (step, shown), text in zip(STEPS, wrote, strict=True):
        assert [] == lacking(shown, text), f"{step}\n{text}"


def lacking(shown: str, text: str) -> list[str]:
    """The lines that are shown and were not answered, or not in this order."""
    found, at = [], 0
    for line in filter(str.strip, shown.splitlines()):
        if seen := re.compile(rf"(?m)^[ \t]*{pattern(line)}[ \t]*$").search(text, at):
            at = seen.end()
        else:
            found.append(line)
    return found


def test_a_line_that_was_not_answered_is_found():
    """Other numbers, another order, and a line too many are told; white space and what is left open are not."""
    text = "a\tb  7\n5 rows, in 0.3 s, done\n"
    assert [] == lacking("a b 7\n5 rows, …, done\n", text)
    assert ["a b 8"] == lacking("a b 8\n", text)
    assert ["a b 7"] == lacking("5 rows, …, done\na b 7\n", text)
    assert ["rows"] == lacking("rows\n", text)


def test_the_reader_of_the_format_page(followed: tuple[Path, list[str]]):
    """With the standard library alone every record comes back to the byte, and trailers hold."""
    folder, _ = followed
    page = (ROOT / "docs/pages/format.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for program in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(program, found)
    lines = [(folder / name).read_bytes().splitlines() for name in ("trades.jsonl", "more.jsonl")]
    assert [*lines[0], *lines[1]] == [value for *_, value in found["records"](f"{folder}/lake/trades")]
    (first, second) = sorted((folder / "lake/trades").glob("partition=*/*.jsonl.gz"))
    assert [(0, 5), (5, 8)] == [(t["start"], t["end"]) for t in (found["trailer"](str(p)) for p in (first, second))]


@pytest.mark.usefixtures("logging_restored")
def test_the_writer_of_the_format_page(followed: tuple[Path, list[str]], tmp_path: Path):
    """What it writes is a segment to everything of headrace, to the frame's last byte, and no second one gets its name."""
    folder, _ = followed
    lake = shutil.copytree(folder / "lake", tmp_path / "lake")
    page = (ROOT / "docs/pages/format.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for program in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(program, found)
    (first, *_) = sorted((lake / "trades").glob("partition=*/*.jsonl.gz"))
    said = found["trailer"](str(first))
    row = {"offset": 8, "timestamp_ms": 5, "key": None, "headers": None, "value": {"id": "ü"}}
    body = found["segment"](said["dataset"], "trades", said["partition"], 8, [row])
    assert (first.read_bytes()[-1024:][:16], first.read_bytes()[-10:]) == (body[-1024:][:16], body[-10:])
    path = str(first.parent / f"{8:020d}.jsonl.gz")
    found["create"](path, body)
    with pytest.raises(FileExistsError):
        found["create"](path, body)
    assert 0 == run(["audit", f"file://{lake}", "--deep"])
    assert b'{"id":"\xc3\xbc"}' in [value for *_, value in found["records"](f"{lake}/trades")]
    Path(path).write_bytes(body.replace(b'"records":1', b'"records":2'))  # the audit can fail
    assert 1 == run(["audit", f"file://{lake}", "--deep"])


QUERIES = [
    pytest.param(text, id=f"{name}:{i}")
    for name in ("contracts", "format", "reference/silver")
    for i, text in enumerate(
        re.findall(r"```sql\n(.*?)```", (ROOT / f"docs/pages/{name}.md").read_text(encoding="utf-8"), re.DOTALL)
    )
]


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("query", QUERIES)
def test_query(query: str, followed: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch):
    """The queries of the pages run on what the tutorial has made, and those that check the sums say true."""
    folder, _ = followed
    monkeypatch.chdir(folder)
    if "*.parquet" in query:
        assert 0 == run(["stream", f"file://{folder}/lake", f"file://{folder}/parquet?format=parquet", "--until-end"])
        query = query.replace("'lake/", "'parquet/")
    with duckdb.connect("silver.duckdb", read_only=True) as silver:
        answer = silver.execute(query)
        names, rows = [column[0] for column in answer.description or ()], answer.fetchall()
    for name in {"adds_up", "joined"} & set(names):
        assert {True} == {row[names.index(name)] for row in rows}
    assert rows or "'size'" in query


def test_the_broker_of_the_tutorial():
    """It has an address while the block lasts."""
    with embedded_broker() as addresses:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", addresses)

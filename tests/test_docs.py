"""The pages: what stands in them in code is right, links lead somewhere, and what is made from the code is up to date."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer.main

from headrace import errors
from headrace.cli.app import application
from headrace.cli.exits import code_of
from headrace.contract import Contract, contract
from headrace.plugins.duckdb import tables as duckdb_tables
from headrace.plugins.snowflake import tables as snowflake_tables
from headrace.plugins.snowflake.doctor import grants

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/pages"
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *PAGES.rglob("*.md")]
}
COMMAND = typer.main.get_command(application(drawn=False))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(language, textwrap.dedent(text), id=f"{name}:{TEXTS[name][: found.start()].count(chr(10)) + 1}")
    for name in sorted(TEXTS)
    for found in FENCE.finditer(TEXTS[name])
    for _, language, text in [found.groups()]
]
NOT_OURS = ("GRANT", "CREATE ROLE", "CREATE USER", "ALTER USER", "CREATE WAREHOUSE", "CREATE DATABASE", "CREATE SCHEMA")
"""Statements of Snowflake's own, which DuckDB's parser does not know: test_grants compares them with `headrace doctor`."""


# ---- blocks ---------------------------------------------------------------------------------------------------------


def check_python(text: str) -> None:
    """It compiles; what it takes from headrace is there, and is called with names that it has."""
    tree = ast.parse(text)
    ours: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "headrace":
            module = importlib.import_module(str(node.module))
            ours |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "headrace":
                    importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours:
            names = {k.arg for k in node.keywords if k.arg is not None}
            parameters = inspect.signature(ours[node.func.id]).parameters if names else {}
            assert set() == names - set(parameters), f"{node.func.id} has no such parameter"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            thing = ours[node.value.id]
            assert hasattr(thing, node.attr) or node.attr in inspect.signature(thing).parameters


def check_bash(text: str) -> None:
    """Every command of headrace in it has the words and options that it is given; shell stays the shell's."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for words in commands(line):
            check_command(words)


def commands(line: str) -> list[list[str]]:
    """The commands of headrace in a line of shell, each up to the next pipe, redirection or `&&`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    inside = False
    for word in lexer:
        if set(word) <= set("|&;<>"):
            inside = False
        elif inside:
            found[-1].append(word)
        elif word == "headrace" or word.endswith("/headrace"):
            found, inside = [*found, []], True
    return found


def check_command(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        return
    command, name = COMMAND, "headrace"
    while (parts := getattr(command, "commands", None)) is not None and words:
        assert words[0] in parts, f"{name} has no command {words[0]}"
        command, name, words = parts[words[0]], f"{name} {words[0]}", words[1:]
    if not {"--help", "-h"} & set(words):
        command.make_context(name, list(words))


def check_json(text: str) -> None:
    """One document, or several one after the other."""
    rest = text.strip()
    while rest:
        _, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].lstrip()


def check_sql(text: str) -> None:
    if text.lstrip().upper().startswith(NOT_OURS):
        for statement in filter(str.strip, text.split(";\n")):
            assert statement.startswith(NOT_OURS)
    else:
        assert duckdb.extract_statements(text)


CHECKS = {
    "python": check_python,
    "bash": check_bash,
    "json": check_json,
    "toml": tomllib.loads,
    "sql": check_sql,
    "": lambda _: None,  # what a command answers: no language
    "text": lambda _: None,
}


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_block(language: str, text: str):
    """Each block is of a language that is checked here, and is right in it."""
    CHECKS[language](text)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "from headrace import Pipelin"),
        ("python", "from headrace import FlushPolicy\nFlushPolicy(minutes=3)"),
        ("python", "from headrace import Chain\nChain.opened()"),
        ("bash", "headrace stream a b | headrace lode"),
        ("bash", "headrace stream jsonl:///a file:///lake --until"),
        ("bash", "headrace quarantine list"),
        ("json", '{\n"a": }'),
        ("sql", "SELECT FROM WHERE"),
    ],
)
def test_a_wrong_block_is_found(language: str, text: str):
    """None of the checks passes whatever it is given."""
    with pytest.raises(Exception, match=r"."):
        CHECKS[language](text)


def test_grants():
    """The rights that the page names are those that `headrace doctor` says are missing, where they are."""
    told = grants(warehouse="LOADING", role="LOADER", database="silver", schema="market")
    for page in ("snowflake", "snowflake-setup"):
        assert [] == [grant for grant in told if f"{grant};" not in TEXTS[f"docs/pages/{page}.md"]]


def test_no_fence_is_left_open():
    """Each fence that begins ends, so every block was seen."""
    for name, text in TEXTS.items():
        assert text.count("```") == 2 * len(FENCE.findall(text)), name


# ---- links ----------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the toc of Python-Markdown names them."""
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#{1,6} (.+)$", FENCE.sub("", text)):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        number = 0
        while (name := slug if not number else f"{slug}_{number}") in found:
            number += 1
        found.add(name)
    return found


def broken(name: str, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", FENCE.sub("", text)):
        path, _, anchor = re.sub(r"\.png#only-(light|dark)$", ".png", target).partition("#")  # the theme's own word
        file = (ROOT / name).parent / path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8") if path else text)):
            found.append(target)
    return found


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links(name: str):
    """Each link within the project has its page, and its heading."""
    assert [] == broken(name, TEXTS[name])


def test_a_broken_link_is_found():
    """A page or a heading that is not there is told."""
    text = "[a](protocol.md#b1) [b](protocol.md#b99) [c](nowhere.md) [d](#x) [e](#y)\n# X\n"
    assert ["protocol.md#b99", "nowhere.md", "#y"] == broken("docs/pages/any.md", text)


# ---- what is made from the code -------------------------------------------------------------------------------------


def test_made_pages_are_up_to_date():
    """Commands, settings, names and llms.txt are what `docs/make.py` makes of the code and the pages now."""
    made = subprocess.run(
        [sys.executable, ROOT / "docs/make.py", "--check"], capture_output=True, text=True, check=False
    )
    assert "" == made.stdout + made.stderr
    assert 0 == made.returncode


ERRORS = {n: v for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.HeadraceError)}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_error_is_explained(name: str):
    """Each public error has its section (when, what is true, what to do), its row, and its real exit code."""
    page = TEXTS["docs/pages/reference/errors.md"]
    error = ERRORS[name].__new__(ERRORS[name])
    parents = ", ".join(f"`{parent.__name__}`" for parent in ERRORS[name].__bases__)
    assert f"| [`{name}`](#{name.lower()}) | {parents} | {code_of(error)} |" in page
    (section,) = re.findall(rf"(?ms)^## {name}\n\n(.*?)(?=^## |\Z)", page)
    for word in ("*When:*", "*True then:*", "*Do:*"):
        assert word in section


def test_every_page_is_in_the_navigation():
    """A page that no menu leads to is not found by its readers."""
    listed = re.findall(r"(?m)^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(str(Path(name).relative_to("docs/pages")) for name in TEXTS if name != "README.md") == sorted(listed)


# ---- the specification of a warehouse -------------------------------------------------------------------------------

SILVER = TEXTS["docs/pages/reference/silver.md"]


def specified(section: str) -> dict[str, tuple[str, str]]:
    """The columns of a section's first table: their types in DuckDB and in Snowflake."""
    (text,) = re.findall(rf"(?ms)^## {section}\n(.*?)(?=^## |\Z)", SILVER)
    rows = re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|([^|]*)\|", text)
    return {name: (first.strip(), second.strip()) for name, first, second in rows}


@contract(version=1)
class Tick:
    """A row of one column."""

    size: int


def test_the_warehouse_in_duckdb_is_as_specified():
    """Rows, quarantine, ledger and lock have the columns of the specification, of these types, in this order."""
    place = specified("Rows")
    with duckdb.connect() as connection:
        for statement in duckdb_tables.statements("ticks", Contract.of(Tick), None):
            connection.execute(statement)
        for table, columns in {
            "ticks": {"size": ("BIGINT", ""), **place},
            "ticks_quarantine": {**place, **specified("Quarantine")},
            "headrace_ledger": specified("Ledger"),
            "headrace_lock": specified("Lock"),
        }.items():
            found = connection.execute(f"DESCRIBE {table}").fetchall()
            kinds = [(name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for name, kind, *_ in found]
            assert [(name, kind) for name, (kind, _) in columns.items()] == kinds


def test_the_warehouse_in_snowflake_is_as_specified():
    """The same columns, of Snowflake's types."""
    made = snowflake_tables.statements(snowflake_tables.Tables("ticks"), Contract.of(Tick))
    ddl = " ".join(made.values()).replace('"', "")
    for name, (_, kind) in {**specified("Rows"), **specified("Quarantine"), **specified("Ledger")}.items():
        assert f"{name.upper()} {kind} NOT NULL" in ddl or (name == "digest" and f"DIGEST {kind}," in ddl)
    for name, (_, kind) in specified("Lock").items():
        assert f"{kind} AS {name.upper()}" in ddl or not kind


# ---- the README's claims --------------------------------------------------------------------------------------------

CLAIMS = re.findall(r"(?m)^\| ([^|]+) \| \[[^|]+\]\([^|]+\) \| (`tests/[^|]+`) \|$", TEXTS["docs/pages/claims.md"])


@pytest.mark.parametrize(("words", "tests"), CLAIMS, ids=[words[:40] for words, _ in CLAIMS])
def test_a_claim_is_the_readmes_and_has_its_test(words: str, tests: str):
    """The words stand in the README, and the tests that are named beside them are there."""
    assert words in " ".join(TEXTS["README.md"].split())
    for path, _, name in [one.partition("::") for one in re.findall(r"`([^`]+)`", tests)]:
        assert re.search(rf"(?m)^def {name}\(" if name else "^", (ROOT / path).read_text(encoding="utf-8"))


NAMED = {name for text in TEXTS.values() for name in re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", text)}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_test_is_there(name: str):
    """A test that any page names can be run."""
    path, _, test = name.partition("::")
    assert re.search(
        rf"(?m)^    def {test}\(|^def {test}\(" if test else "^", (ROOT / path).read_text(encoding="utf-8")
    )


def test_every_promise_of_the_readme_is_on_the_page():
    """No line of the README's table of promises is without a claim on the page."""
    (table,) = re.findall(r"(?ms)^## What is promised\n(.*?)\n\n[^|\n]", TEXTS["README.md"])
    rows = [row for row in table.splitlines() if row.startswith("| ") and len(row) > 10]
    assert len(rows) > 5
    assert [] == [row for row in rows if not any(words in row for words, _ in CLAIMS)]


def test_every_command_takes_json():
    """Every command that answers has the option; `contract infer` writes Python, and `quarantine export` its lines."""
    without = {name for name, command in leaves(COMMAND, "") if "json" not in {p.name for p in command.params}}
    assert without <= {"contract infer", "quarantine export"}


def leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    parts = getattr(command, "commands", None)
    if parts is None:
        return [(name.strip(), command)]
    return [leaf for part, below in parts.items() for leaf in leaves(below, f"{name} {part}")]


def test_the_protocol_is_pure():
    """The commit protocol's file imports nothing that waits, reads a clock or starts a thread; a future it only looks at."""
    tree = ast.parse((ROOT / "src/headrace/commit.py").read_text(encoding="utf-8"))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= {"__future__", "collections", "collections.abc", "concurrent.futures", "typing", "attrs"} | {
        f"headrace.{name}" for name in ("errors", "flush", "records", "segment", "sink", "gauges")
    }


# ---- errors by their messages ---------------------------------------------------------------------------------------

FAILURES = TEXTS["docs/pages/failures.md"]
PASSED_ON = ("CertificateNotTrusted", "503 SlowDown", "trades_v2 at 0: load trades_v2 first")
"""Words that a client library gave, or that stand between values only: no three of them follow each other in the code."""


def runs_of_three(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def messages() -> list[str]:
    """What the page quotes: in a quotation, or in the first column of a table."""
    cells = re.findall(r"(?m)^\| (`[^|]*`[^|]*) \|", FAILURES)
    told = [*re.findall(r"(?m)^> `([^`]+)`", FAILURES), *(m for cell in cells for m in re.findall(r"`([^`]+)`", cell))]
    return [m for m in told if len(re.findall(r"[a-z]+", m.lower())) > 3]


def test_a_message_is_what_the_code_says():
    """Each message that the page explains is one that the code can say: three words of it in a row, at least."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/headrace").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', " ", re.sub(r"\{[^{}]*\}", " 0 ", code))
    known = runs_of_three(joined)
    told = messages()
    assert len(told) > 60
    assert [] == [m for m in told if not runs_of_three(m) & known and not any(words in m for words in PASSED_ON)]


BY_ITSELF = {"ConfigError"}
"""It says what was found and what was expected, and nothing but that has to be put right; the page has those that need more."""


def raised() -> list[tuple[str, str]]:
    """Each error that the library raises in words of its own: its class, and three words or more of its message."""
    found = []
    for path in sorted((ROOT / "src/headrace").rglob("*.py")):
        if {"testing", "demo"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                said = node.exc.args[0]
                parts = said.values if isinstance(said, ast.JoinedStr) else [said]
                text = " 0 ".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
                name = getattr(node.exc.func, "id", "")
                if name in set(ERRORS) - BY_ITSELF and runs_of_three(text):
                    found.append((name, text))
    return found


def unexplained(page: str) -> list[tuple[str, str]]:
    known = runs_of_three(page)
    return [(name, text) for name, text in raised() if not runs_of_three(text) & known]


def test_an_error_is_found_by_its_message():
    """Of each message that the code says, a ConfigError's apart, three words in a row are on the page; one line less is told."""
    assert len(raised()) > 100
    assert [] == unexplained(FAILURES)
    less = "\n".join(line for line in FAILURES.splitlines() if "nothing is kept" not in line)
    assert {"CommitUnknownError"} == {name for name, _ in unexplained(less)}


def test_an_error_stands_under_its_code():
    """What the page quotes under a heading with an exit code has that code."""
    sections = re.findall(
        r"(?ms)^## [^\n]*\bcode (\d)\b[^\n]*\n(.*?)(?=^## |\Z)", FAILURES.replace("## Code", "## code")
    )
    assert {"1", "2", "3"} == {code for code, _ in sections}
    for code, text in sections:
        for part in text.split("\n### "):
            said = re.search(r"\(code (\d)\)", part)  # one of another code says so
            for name in set(re.findall(r"`(\w+Error): ", part)) & set(ERRORS):
                assert (name, int(said[1] if said else code)) == (name, code_of(ERRORS[name].__new__(ERRORS[name])))

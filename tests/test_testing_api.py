"""What `headrace.testing` promises is what there is, and costs nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace import testing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/pages/testing.md"
HOMES = {name: home for home, names in testing._HOMES.items() for name in names}


def test_names_agree():
    """Type checkers and the lazy import know the same names from the same modules."""
    (block,) = (n for n in ast.parse(inspect.getsource(testing)).body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == HOMES
    assert sorted(HOMES) == sorted(testing.__all__)


def test_names_are_there_and_documented():
    """Each is the thing of that name in its module; what is a class or a function says what it does."""
    for name, home in HOMES.items():
        thing = getattr(testing, name)
        assert thing is getattr(importlib.import_module(home), name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__, name


def test_the_page_lists_every_name():
    """Who reads the page knows the kit, and is told of nothing that is not there."""
    listed = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert set() == set(HOMES) - listed


@pytest.mark.parametrize("interface", [headrace.Loader, headrace.Source], ids=lambda interface: interface.__name__)
def test_the_page_lists_what_is_optional(interface: type):
    """Each method and setting that has a default has its row, and what has to be there is named before the table."""
    page = PAGE.read_text(encoding="utf-8")
    before, table = page.split(f"| of `headrace.{interface.__name__}` |")
    needed = set(re.findall(r"`(\w+)`", before.rstrip().rpartition("\n\n")[2]))
    rows = re.findall(r"^\| (`.*?) \|", table.split("\n\n")[0], re.MULTILINE)
    names = {name for name in dir(interface) if not name.startswith("_")} - {"target", "contract"}
    assert set() == interface.__abstractmethods__ - needed
    assert names - interface.__abstractmethods__ == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_unknown_name():
    """A name that does not exist is an AttributeError that says so."""
    with pytest.raises(AttributeError, match=r"module 'headrace\.testing' has no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018 - the access is the test


def test_import_is_light():
    """Neither pytest nor Hypothesis comes before a name is asked for."""
    code = "import headrace.testing, sys; print({'pytest', 'hypothesis', 'attrs'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert "set()\n" == done.stdout


def test_the_page_of_planted_faults_is_made_from_the_tests():
    """Nobody claims a fault that no test plants, and no fault is left out."""
    made = subprocess.run(
        [sys.executable, ROOT / "tests/contracts/page.py"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs/pages/planted.md").read_text(encoding="utf-8") == made.stdout


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/pages/plugins*.md")), ids=lambda page: page.name)
def test_the_code_of_write_a_plugin_is_that_of_the_examples(page: Path):
    """What the pages show is what `nox -s plugins` tests."""
    spec = importlib.util.spec_from_file_location("snippets", ROOT / "tests/snippets.py")
    assert spec is not None
    assert spec.loader is not None
    snippets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(snippets)
    text = page.read_text(encoding="utf-8")
    assert len(snippets.BLOCK.findall(text)) == text.count("<!-- code:") > 2
    assert snippets.filled(text) == text


@pytest.mark.parametrize("folder", sorted(ROOT.glob("examples/plugin-*")), ids=lambda folder: folder.name)
def test_examples_import_public_names_only(folder: Path):
    """A stranger has nothing else; and each example says how it is installed and tested."""
    assert (folder / "README.md").exists()
    public = {"headrace", "headrace.contract", "headrace.rowwise", "headrace.tally", "headrace.testing"}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {m for m in modules if m.partition(".")[0] == "headrace"} <= public, file
            if isinstance(node, ast.ImportFrom) and node.module in public:
                exported = importlib.import_module(node.module).__all__
                assert {a.name for a in node.names} <= set(exported), file

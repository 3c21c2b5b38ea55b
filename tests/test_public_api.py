"""The public names: what `headrace` promises is what there is."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace import errors, records

SOURCE = ast.parse(Path(headrace.__file__).read_text(encoding="utf-8"))
NAMES = [name for name in headrace.__all__ if name != "__version__"]


def type_checked() -> dict[str, str]:
    """Each name that a type checker sees, and where it is told to look."""
    (block,) = (n for n in SOURCE.body if isinstance(n, ast.If))
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def at_run_time() -> dict[str, str]:
    return {name: home for home, names in headrace._HOMES.items() for name in names}


def at_home(name: str) -> object:
    return getattr(importlib.import_module(at_run_time()[name]), name)


def test_names_agree():
    """Type checkers, `from headrace import *` and the lazy import know the same names from the same modules."""
    assert type_checked() == at_run_time()
    assert sorted(at_run_time()) == sorted(NAMES)


def test_names_stand_once():
    """No name is exported twice, and none is private."""
    assert len(set(headrace.__all__)) == len(headrace.__all__)
    assert [] == [name for name in NAMES if name.startswith("_")]


def test_no_name_hides_a_module():
    """
    No exported name is also a module's: what it meant would hang on what was imported before.

    That is why `contract` and `column` come from `headrace.contract`.
    """
    modules = {module.name for module in pkgutil.iter_modules(headrace.__path__)}
    assert "contract" in modules
    assert set() == modules & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_there(name: str):
    """Every exported name is the thing of that name in the module that it is said to come from."""
    assert getattr(headrace, name) is at_home(name)


@pytest.mark.parametrize("name", [n for n in NAMES if inspect.isclass(at_home(n)) or inspect.isfunction(at_home(n))])
def test_name_is_documented(name: str):
    """Every exported class and function says what it does."""
    thing = at_home(name)
    written = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert written
    assert not written.startswith(f"{name}(")  # what attrs or dataclasses write of their own accord


@pytest.mark.parametrize("module", [errors, records], ids=lambda module: module.__name__)
def test_all_of_a_module_is_exported(module):
    """Errors and records are public as a whole: a new one that is not exported is forgotten, not hidden."""
    ours = {
        n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__ and n[0] != "_"
    }
    assert set() == ours - set(NAMES)


def test_errors_have_one_root():
    """Whoever catches HeadraceError catches all of them."""
    classes = [v for v in vars(errors).values() if inspect.isclass(v) and issubclass(v, Exception)]
    assert [] == [c for c in classes if not issubclass(c, errors.HeadraceError)]


def test_errors_are_drawn():
    """The tree in the errors' module header shows each of them under its real parent."""
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        name = next((w for w in line.replace("│", " ").split() if w.endswith("Error")), "")
        if not name or ("─" not in line and name != "HeadraceError"):
            continue
        depth = line.index(name)
        parents = [p for p in parents if p[0] < depth]
        drawn[name] = parents[-1][1] if parents else "Exception"
        parents.append((depth, name))
    real = {
        n: v.__bases__[0].__name__ for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)
    }
    assert drawn == real


def test_unknown_name():
    """A name that does not exist is an AttributeError that says so, as of any module."""
    with pytest.raises(AttributeError, match="module 'headrace' has no attribute 'Pipelin'"):
        headrace.Pipelin  # noqa: B018 - the access is the test


def test_dir_shows_all():
    """Completion in a shell offers names that were not imported yet."""
    code = "import headrace; print(set(headrace.__all__) <= set(dir(headrace)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert "True\n" == done.stdout


def test_values_are_pickled_by_their_home():
    """Lazy names do not come between a value and its class."""
    value = headrace.Partition("ticks", 3)
    assert value == pickle.loads(pickle.dumps(value))

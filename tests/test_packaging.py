"""The distribution: what is installed is all that a user gets."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import tomllib
from importlib.metadata import Distribution, EntryPoint, distribution
from importlib.resources import files
from pathlib import Path, PurePosixPath

import pytest

import headrace
from headrace.hookspecs import Component
from headrace.registry import Registry

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPONENTS = [c for p in Registry.discover().plugins if p.distribution.startswith("headrace ") for c in p.components]


@pytest.fixture
def installed() -> Distribution:
    return distribution("headrace")


@pytest.fixture
def wheel(installed: Distribution) -> set[str]:
    """The files that the wheel brought."""
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("headrace is installed editable: `nox -s tests` installs the built wheel")
    return {str(PurePosixPath(file)) for file in installed.files or ()}


def extra_is_installed(name: str) -> bool:
    """Whether the first requirement of an extra can be imported; an extra's plugin needs it."""
    for requirement in PROJECT["optional-dependencies"].get(name, ()):
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None
        module = {"snowflake-connector-python": "snowflake"}.get(match[0], match[0].replace("-", "_"))
        if importlib.util.find_spec(module) is None:
            return False
    return True


def test_version(installed: Distribution):
    """The version stands once, in pyproject.toml."""
    assert PROJECT["version"] == headrace.__version__
    assert PROJECT["version"] == installed.version


def test_wheel_is_typed(wheel: set[str]):
    """Type checkers read our annotations."""
    assert "headrace/py.typed" in wheel


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_wheel_has_its_licence(wheel: set[str], installed: Distribution, name: str):
    """Licence and notice come with the wheel, as they stand in the repository."""
    (found,) = (f for f in wheel if re.fullmatch(rf"headrace-[^/]+\.dist-info/(licenses/)?{name}", f))
    assert (Path(__file__).parent.parent / name).read_bytes() == Path(str(installed.locate_file(found))).read_bytes()


def test_wheel_has_the_demo_data(wheel: set[str]):
    """Every file of market data that the notice names is in the wheel, and no other; together at most 3 MB."""
    notice = (Path(__file__).parent.parent / "NOTICE").read_text(encoding="utf-8")
    named = set()
    for folder, names in re.findall(r"((?:minute|tick)/[a-z]+/)((?:\d{8}_\w+\.zip(?:, )?)+)", notice):
        named |= {f"headrace/demo/data/{folder}{name}" for name in names.split(", ")}
    assert named == {f for f in wheel if f.startswith("headrace/demo/data/") and f.endswith(".zip")}
    root = files("headrace")
    assert sum(len(root.joinpath(f.removeprefix("headrace/")).read_bytes()) for f in named) < 3_000_000


def test_wheel_has_nothing_else(wheel: set[str]):
    """No test, no script of the project's own, no file that was left behind."""
    first = {f.split("/")[0] for f in wheel if not f.startswith("..")}
    assert {"headrace", f"headrace-{PROJECT['version']}.dist-info"} == first
    kinds = {PurePosixPath(f).suffix for f in wheel if f.startswith("headrace/")}
    assert set() == kinds - {".py", ".pyc", ".typed", ".zip", ".html", ".md", ".json", ".lock", ".sha256"}


def test_entry_points(installed: Distribution):
    """Each plugin of ours is registered like a stranger's, by a module that imports."""
    ours: list[EntryPoint] = [p for p in installed.entry_points if p.group == "headrace"]
    assert PROJECT["entry-points"]["headrace"] == {p.name: p.value for p in ours}
    for point in ours:
        assert hasattr(point.load(), "headrace_components")


def test_plugin_folders_are_registered():
    """A plugin that is in the tree but in no entry point would never be found."""
    folders = {e.name for e in files("headrace.plugins").iterdir() if e.is_dir() and not e.name.startswith("_")}
    assert folders == {value.rpartition(".")[2] for value in PROJECT["entry-points"]["headrace"].values()}


def test_plugins_are_sound():
    """None of ours is broken, and each brings something."""
    assert [] == [p.name for p in Registry.discover().plugins if p.error is not None]
    assert COMPONENTS


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: f"{c.kind} {c.scheme}")
def test_component_can_be_made(component: Component):
    """What an entry point names exists, says which extra it needs, and has `from_uri`."""
    assert component.summary
    assert component.extra == "" or component.extra in PROJECT["optional-dependencies"]
    if component.extra and not extra_is_installed(component.extra):
        pytest.skip(f"the extra {component.extra} is not installed")
    assert callable(Registry().load_class(component).from_uri)


def test_all_is_all():
    """The extra `all` has every extra but the test kit, and Airflow, which brings headrace rather than is brought."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert sorted(set(extras) - {"airflow", "all", "testing"}) == re.findall(r"\w+", everything.partition("[")[2])

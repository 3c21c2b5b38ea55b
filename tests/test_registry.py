"""The registry: plugins of ours and of strangers, working and broken."""

from __future__ import annotations

import ast
import inspect
import logging
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from headrace import hookspecs, registry
from headrace.errors import ConfigError, MissingExtraError, PluginError, PluginNotFoundError
from headrace.hookspecs import Component, Ended, hookimpl
from headrace.registry import Plugin, Registry
from headrace.uri import URI

ROOT = Path(__file__).parent.parent
HOOKS = [name for name, spec in vars(hookspecs.PluginSpecs).items() if hasattr(spec, "headrace_spec")]


@attrs.frozen
class Made:
    """What a stranger's component is in these tests: it keeps what it was made of."""

    uri: URI
    registry: Registry
    contract: type | None = None

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry, contract: type | None = None) -> Made:
        return cls(uri, registry, contract)


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stranger's plugin, as its own package would be: a module that can be imported."""
    module = ModuleType("headrace_stranger")

    @hookimpl
    def headrace_components() -> list[Component]:
        return [
            Component("source", "strange", "headrace_stranger:Made", summary="reads strange things"),
            Component("loader", "strange", "headrace_stranger:Made"),
        ]

    module.Made = Made  # type: ignore[attr-defined]
    module.headrace_components = headrace_components  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@attrs.frozen(eq=False)  # pluggy keeps plugins by identity
class Bringing:
    """A plugin that is an object."""

    components: list[Component]

    @hookimpl
    def headrace_components(self) -> list[Component]:
        return self.components


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "headrace")


def discovering(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> Registry:
    """Discover as if these alone were installed."""
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in points if p.group == group])
    return Registry.discover()


# ---- hooks ----------------------------------------------------------------------------------------------------


def test_hook_headrace_components(stranger: ModuleType):
    """A plugin's components can be made, by scheme and kind."""
    found = Registry()
    found.add(stranger, "stranger", "headrace-stranger 1.0")
    assert {"strange"} == set(found.schemes("source"))
    assert [Plugin("stranger", "headrace-stranger 1.0", tuple(stranger.headrace_components()))] == found.plugins


@attrs.frozen(eq=False)
class Listening:
    """A plugin that hears how commands end."""

    heard: list[Ended]
    fails: bool = False

    @hookimpl
    def headrace_ended(self, ended: Ended) -> None:
        self.heard.append(ended)
        if self.fails:
            raise RuntimeError("no connection")


def test_hook_headrace_ended(caplog: pytest.LogCaptureFixture):
    """Every plugin that listens hears it, also where another one fails; where nobody listens nothing is made."""
    Registry().ended(lambda: pytest.fail("nobody listens"))
    found, heard = Registry(), list[Ended]()
    found.add(Listening(heard), "first")
    found.add(Listening(heard, fails=True), "failing")
    found.add(Listening(heard), "last")
    ended = Ended("load", 3, {"error": {"type": "SinkUnavailableError"}})
    found.ended(lambda: ended)
    assert [ended] * 3 == heard
    assert "hook failed hook=headrace_ended plugin=failing error=RuntimeError('no connection')" in caplog.text


def test_commands_are_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A command that works on a deployment is heard with its code and its document; one that only shows is not."""
    pytest.importorskip("typer")
    from headrace.cli.app import run  # noqa: PLC0415 - not where the extra is missing

    heard = list[Ended]()
    made = Registry()
    made.add(Listening(heard), "listening")
    monkeypatch.setattr(Registry, "discover", classmethod(lambda _cls: made))
    assert 2 == run(["--log-level", "error", "stream", "no://where", f"file://{tmp_path}"])
    assert 0 == run(["plugins"])
    assert 0 == run(["load", "--help"])
    (ended,) = heard
    assert ("stream", 2) == (ended.command, ended.code)
    assert "PluginNotFoundError" == ended.document["error"]["type"]


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_documented(hook: str):
    """Every hook has its contract in the spec and a section among the pages."""
    assert len((inspect.getdoc(getattr(hookspecs.PluginSpecs, hook)) or "").splitlines()) > 1
    assert f"\n## {hook}\n" in (ROOT / "docs/pages/hooks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_tested(hook: str):
    """Every hook has a test of its name in this file."""
    tests = {node.name for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.FunctionDef)}
    assert f"test_hook_{hook}" in tests


def test_hooks_are_found():
    """The two tests above look at something."""
    assert "headrace_components" in HOOKS


def test_component_twice():
    """One plugin cannot bring a scheme twice, and leaves nothing behind when it tries."""
    found = Registry()
    one = Component("source", "s", "m:C")
    with pytest.raises(PluginError, match=r"'p' brings the source s:// twice"):
        found.add(Bringing([one, one]), "p")
    assert ([], {}) == (found.plugins, found.schemes("source"))


def test_no_component():
    """What is no component is named."""
    with pytest.raises(PluginError, match=r"returned 'kafka', expected a headrace\.Component"):
        Registry().add(Bringing(["kafka"]), "p")  # type: ignore[list-item]


# ---- strangers -------------------------------------------------------------------------------------------------


def test_stranger_is_discovered(monkeypatch: pytest.MonkeyPatch, stranger: ModuleType):
    """An entry point of another package is all that a plugin needs."""
    found = discovering(monkeypatch, entry("stranger", stranger.__name__))
    made = found.source("strange://host:1/path?a=b")
    assert Made(URI("strange", "host:1", "/path", {"a": "b"}), found) == made


def test_loader_gets_its_contract(stranger: ModuleType):
    """A loader is made of its URI and the contract."""
    found = Registry()
    found.add(stranger, "stranger")
    assert Bringing is found.loader("strange:///silver", Bringing).contract


def test_parsed_uri_will_do(stranger: ModuleType):
    """A URI may be given as a text or parsed."""
    found = Registry()
    found.add(stranger, "stranger")
    assert found.source("strange:///a") == found.source(URI.parse("strange:///a"))


def test_own_plugins_are_discovered():
    """What is installed with headrace is found without being asked for by name."""
    assert {"jsonl", "kafka", "file"} <= set(Registry.discover().schemes("source"))


def test_registries_are_independent(stranger: ModuleType):
    """A plugin that is added to one registry is in no other."""
    Registry().add(stranger, "stranger")
    assert {} == Registry().schemes("source")


def test_object_is_a_plugin():
    """A plugin need not be a module."""
    found = Registry()
    found.add(Bringing([Component("store", "mem", "a.b:C")]), "object")
    assert {"mem": Component("store", "mem", "a.b:C")} == found.schemes("store")


# ---- broken plugins --------------------------------------------------------------------------------------------


def test_broken_plugin_is_remembered(monkeypatch, stranger: ModuleType, caplog: pytest.LogCaptureFixture):
    """A plugin that cannot be imported is kept with its error, logged once, and the others work."""
    with caplog.at_level(logging.WARNING, "headrace.registry"):
        found = discovering(monkeypatch, entry("a-broken", "headrace_no_such"), entry("stranger", stranger.__name__))
    assert ["a-broken", "stranger"] == [p.name for p in found.plugins]
    assert isinstance(found.plugins[0].error, ModuleNotFoundError)
    assert () == found.plugins[0].components
    assert Made(URI("strange", "", "/"), found) == found.source("strange:///")
    assert ["plugin broken name=a-broken"] == [r.getMessage().partition(" dist")[0] for r in caplog.records]


def test_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch):
    """Asking for what a broken plugin may have brought says that it is there, and why it is not used."""
    found = discovering(monkeypatch, entry("pulsar", "headrace_no_such"))
    with pytest.raises(PluginNotFoundError, match=r"broken: pulsar \(No module named 'headrace_no_such'\)") as raised:
        found.source("pulsar://host/topic")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_raising_hook():
    """A plugin whose hook raises is refused, and can be added again when it is mended."""

    class Raising:
        fails = True

        @hookimpl
        def headrace_components(self) -> list[Component]:
            if self.fails:
                raise RuntimeError("out of order")
            return [Component("sink", "mended", "a.b:C")]

    found, plugin = Registry(), Raising()
    with pytest.raises(PluginError, match="plugin 'raising' cannot be registered: out of order"):
        found.add(plugin, "raising")
    plugin.fails = False
    found.add(plugin, "raising")
    assert {"mended"} == set(found.schemes("sink"))


def test_duplicate_scheme():
    """Two plugins for one kind and scheme are one too many; the first stays, the message names both."""
    found = Registry()
    found.add(Bringing([Component("sink", "lake", "first:Sink")]), "first")
    with pytest.raises(PluginError, match="plugin 'second' brings the sink lake://, which 'first' has; uninstall one"):
        found.add(Bringing([Component("sink", "lake", "second:Sink")]), "second")
    assert "first:Sink" == found.schemes("sink")["lake"].path
    assert ["first"] == [p.name for p in found.plugins]


def test_one_scheme_for_several_kinds():
    """One scheme can be a source in one plugin and a sink in another."""
    found = Registry()
    found.add(Bringing([Component("sink", "lake", "first:Sink")]), "first")
    found.add(Bringing([Component("source", "lake", "second:Source")]), "second")
    assert ("first:Sink", "second:Source") == (found.schemes("sink")["lake"].path, found.schemes("source")["lake"].path)


# ---- what cannot be made ---------------------------------------------------------------------------------------


def test_unknown_scheme(stranger: ModuleType):
    """An unknown scheme is refused with those that are known."""
    found = Registry()
    found.add(stranger, "stranger")
    with pytest.raises(PluginNotFoundError, match="no plugin makes a source from pulsar://; sources: strange://"):
        found.source("pulsar://host/topic")


def test_unknown_scheme_of_none():
    """Where nothing is known, that is what the message says."""
    with pytest.raises(PluginNotFoundError, match="stores: none"):
        Registry().store("s3://bucket/lake")


def test_other_kind(stranger: ModuleType):
    """A scheme of another kind is a wrong setting: the message says what it can be."""
    found = Registry()
    found.add(stranger, "stranger")
    with pytest.raises(ConfigError, match="strange:// can be a loader or a source, not a sink; sinks: none"):
        found.sink("strange:///")


def test_missing_extra(monkeypatch: pytest.MonkeyPatch):
    """A client library that is not installed is named, and so is the command that installs it."""
    found = Registry()
    found.add(Bringing([Component("source", "pulsar", "headrace_pulsar_client:Source", "pulsar")]), "pulsar")
    missing = "no_such_client"
    finder = _Missing(missing)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(
        MissingExtraError, match=r"needs no_such_client, .*: pip install 'headrace\[pulsar\]'"
    ) as raised:
        found.source("pulsar://host/topic")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
    assert isinstance(raised.value, ImportError)


class _Missing:
    """An import system in which every module of the test's plugin needs a client that is not there."""

    def __init__(self, client: str) -> None:
        self.client = client

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "headrace_pulsar_client":
            raise ModuleNotFoundError(f"No module named {self.client!r}", name=self.client)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("headrace.no_such:Source", "No module named 'headrace.no_such'"),
        ("headrace.source:NoSuch", "has no attribute 'NoSuch'"),
    ],
    ids=["module", "class"],
)
def test_wrong_path(path: str, message: str):
    """A path that leads nowhere is the plugin's fault, not a missing extra."""
    found = Registry()
    found.add(Bringing([Component("source", "pulsar", path, "pulsar")]), "pulsar")
    with pytest.raises(PluginError, match=message) as raised:
        found.source("pulsar://host/topic")
    assert not isinstance(raised.value, MissingExtraError)


def test_nothing_is_imported_before_it_is_made():
    """Adding a plugin imports none of its classes' modules."""
    found = Registry()
    found.add(Bringing([Component("source", "late", "headrace_never_imported:Source")]), "late")
    assert ["late"] == list(found.schemes("source"))
    assert "headrace_never_imported" not in sys.modules


@pytest.mark.parametrize(
    "uri",
    [
        "sink file:///lake?compress_threads=0",
        "sink file:///lake?position_max_age_s=0",
        "sink file:///lake?position_max_age_s=13h",
        "sink file:///lake?guarantee=maybe",
        "store file:///lake?page_size=0",
        "store file:///lake?root=/tmp",
        "source jsonl:///x.jsonl?pace=-1&timestamp=t",
        "source jsonl:///x.jsonl?pace=nan&timestamp=t",
    ],
)
def test_a_value_out_of_range_is_a_wrong_setting(uri: str):
    """What a field's own validator refuses is told as a setting, with its name."""
    kind, _, text = uri.partition(" ")
    with pytest.raises(ConfigError, match=r"compress_threads|position_max_age_s|guarantee|page_size|root|pace"):
        Registry.discover().make(kind, text)


def test_a_setting_of_neither_lake_nor_store():
    """Both are proposed."""
    with pytest.raises(ConfigError, match=r"'compresion'; expected one of page_size; .* compression, epoch"):
        Registry.discover().sink("file:///lake?compresion=zstd")

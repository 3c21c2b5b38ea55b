"""`headrace doctor` finds what is wrong before anything depends on it, says what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import pytest

from headrace.doctor import Examination, examine, verdict
from headrace.errors import ConfigError, SinkUnavailableError
from headrace.finding import Finding
from headrace.hookspecs import Component, hookimpl
from headrace.plugins.lake.doctor import check_lake
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Extent, Identity, Partition
from headrace.registry import Registry
from headrace.store import Page, Store, StoredObject
from headrace.testing.store import CheckThenWriteStore, LaggingStore, MemoryStore, OverwritingStore


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def states(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.subject: finding.state for finding in findings}


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.state != "fine"]
    assert all(finding.advice for finding in found), "each says what to do"
    return found


# ---- a lake -------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_fit(tmp_path: Path, registry: Registry, there: bool):
    """Everything is tried out, nothing is pinned, and the folder is afterwards as it was before."""
    root = tmp_path / "lake"
    if there:
        root.mkdir()
        (root / "mine.txt").touch()
    found = examine(registry, f"file://{root}")
    assert ("sink", f"file://{root}") == (found.kind, found.uri)
    assert {"folder": "fine", "room": "fine", "list": "fine", "conditional create": "fine", "clock": "fine"} == states(
        found.findings
    )
    assert 0 == verdict([found])
    assert (["lake", "lake/mine.txt"] if there else []) == tree(tmp_path)


def pinned(store: Store, stream: str = "ticks") -> None:
    with LakeSink(store=store) as sink:
        sink.bind({Partition(stream, 0): Extent(0, 0, 0, Identity("cluster", "topic", "read_committed", 3))})


def test_streams_are_told(tmp_path: Path, registry: Registry):
    """As pinned; one whose pin cannot be read is wrong. The probe goes to where probes are, and leaves nothing."""
    store = FileStore(root=tmp_path)
    pinned(store, "a")
    pinned(store, "b")
    before = tree(tmp_path)
    (tmp_path / "b/_headrace/dataset.json").write_text("{")
    found = examine(registry, f"file://{tmp_path}")
    assert {"stream a": "fine", "stream b": "wrong"}.items() <= states(found.findings).items()
    assert before == tree(tmp_path)
    assert 1 == verdict([found])


def test_a_lake_that_is_read(tmp_path: Path, registry: Registry):
    """A URI that names a stream is examined as a source: its chains are looked at too."""
    pinned(FileStore(root=tmp_path))
    found = examine(registry, f"file://{tmp_path}?stream=ticks")
    assert ("source", "fine") == (found.kind, states(found.findings)["readable"])


@pytest.mark.parametrize(
    "store", [OverwritingStore(), CheckThenWriteStore(), LaggingStore()], ids=lambda given: type(given).__name__
)
def test_a_store_that_lies(store: MemoryStore):
    """What the probe finds is said before anything is pinned there, and nothing is left behind."""
    (finding,) = [f for f in wrong(check_lake(store)) if f.subject == "conditional create"]
    assert "wrong" == finding.state
    assert "If-None-Match" in finding.advice
    assert {} == store.objects


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "fine"), (30, "fine"), (-30, "fine"), (100, "wrong"), (-100, "wrong")]
)
def test_clocks(seconds: float, state: str):
    """A minute apart is too much, in either direction."""
    store = MemoryStore(clock=lambda: 1000.0)
    assert state == states(check_lake(store, clock=lambda: 1000.0 + seconds))["clock"]


class Timeless(MemoryStore):
    def list(self, prefix: str, after: str = "") -> Page:
        page = super().list(prefix, after)
        return Page([StoredObject(o.key, o.size) for o in page.objects], page.truncated)


def test_a_store_without_times():
    """That could not be told, and what does not work then is said."""
    (finding,) = wrong(check_lake(Timeless()))
    assert ("clock", "unknown") == (finding.subject, finding.state)
    assert 2 == verdict([Examination("memory://", "sink", [finding])])


class ReadOnly(MemoryStore):
    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        raise ConfigError("403 AccessDenied")


class KeepsAll(MemoryStore):
    def delete(self, key: str) -> None:
        Store.delete(self, key)


@pytest.mark.parametrize(("store", "text"), [(ReadOnly(), "403"), (KeepsAll(), "cannot delete")])
def test_rights_that_are_missing(store: MemoryStore, text: str):
    """What may not be done, and what a writer needs it for."""
    (finding,) = wrong(check_lake(store))
    assert ("write", "wrong") == (finding.subject, finding.state)
    assert text in finding.found


def test_a_folder_that_may_not_be_written(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch):
    """The user's rights are looked at, and the first folder that is there."""
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    found = examine(registry, f"file://{tmp_path}/not/there")
    assert "wrong" == states(found.findings)["folder"]
    assert f"{tmp_path} may not be written to" == found.findings[0].found


def test_a_full_disk(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch):
    """Less than a GiB or two percent is too little."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - what the standard library gives
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100 << 30, 99 << 30, (1 << 30) + 1))
    found = examine(registry, f"file://{tmp_path}")
    (finding,) = wrong(found.findings)
    assert ("room", "1.0 GiB of 100.0 GiB are free") == (finding.subject, finding.found)


# ---- whatever is named --------------------------------------------------------------------------------------------


@attrs.define
class Stranger(Store):
    place: str = "odd://"
    closed: bool = False
    error: Exception | None = None

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        raise AssertionError

    def list(self, prefix: str, after: str = "") -> Page:
        raise AssertionError

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        raise AssertionError

    def check(self) -> Iterable[Finding]:
        if self.error:
            raise self.error
        return ()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stranger], Registry]:
    return lambda store: made_by_a_stranger(store, monkeypatch)


def made_by_a_stranger(store: Stranger, monkeypatch: pytest.MonkeyPatch) -> Registry:
    class Plugin:
        @hookimpl
        def headrace_components(self) -> list[Component]:
            return [Component("store", "odd", "nowhere:Nothing")]

    registry = Registry()
    registry.add(Plugin(), "odd")
    monkeypatch.setattr(Registry, "load_class", lambda *_: type("", (), {"from_uri": lambda *_: store}))
    return registry


def test_a_plugin_without_an_examination(of_a_stranger):
    """It could not be told: no silence that looks like health. What was made is closed."""
    store = Stranger()
    found = examine(of_a_stranger(store), "odd://x")
    assert ["unknown"] == [f.state for f in wrong(found.findings)]
    assert 2 == verdict([found])
    assert store.closed


@pytest.mark.parametrize(
    ("error", "subject"), [(SinkUnavailableError("no answer"), "reachable"), (ConfigError("no right"), "usable")]
)
def test_what_an_examination_raises_is_a_finding(of_a_stranger, error: Exception, subject: str):
    """Reachability and rights are what people ask for."""
    store = Stranger(error=error)
    (finding,) = wrong(examine(of_a_stranger(store), "odd://x").findings)
    assert (subject, "wrong", str(error)) == (finding.subject, finding.state, finding.found)
    assert store.closed


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("redis://x", "no plugin makes anything from redis://"),
        ("nonsense", "expected a URI"),
        ("file:///x?wrong=1", "has no setting 'wrong'"),
        ("file://host/x", "three slashes"),
        ("jsonl:///not/there.jsonl", "not/there.jsonl"),
    ],
)
def test_what_cannot_be_made(registry: Registry, uri: str, text: str):
    """Is a finding too, with all reasons."""
    found = examine(registry, uri)
    assert 1 == verdict([found])
    assert text in " ".join(f.found for f in wrong(found.findings))


def test_no_password_is_shown(registry: Registry):
    """Neither in the URI nor in what is found."""
    for uri in ("redis://user:hunter2@x/y", "user:hunter2@nonsense", "file:///x?secret=hunter2&wrong=1"):
        found = examine(registry, uri)
        assert "hunter2" not in repr(found)


def test_the_verdict():
    """Wrong beats what could not be told."""
    one = {state: Examination("", None, [Finding("", state, "")]) for state in ("fine", "wrong", "unknown")}
    assert [0, 0, 1, 2, 1] == [
        verdict(found)
        for found in ([], [one["fine"]], [one["fine"], one["wrong"]], [one["unknown"]], [one["unknown"], one["wrong"]])
    ]


# ---- a warehouse, and the command line ----------------------------------------------------------------------------


def test_a_duckdb_file(tmp_path: Path, registry: Registry):
    """One that is not there is not made; one that is there is opened, and one that another holds is told."""
    duckdb = pytest.importorskip("duckdb")
    uri = f"duckdb://{tmp_path}/w.duckdb?table=ticks"
    found = examine(registry, uri)
    assert ("loader", {"file", "room", "room to unpack"}) == (found.kind, set(states(found.findings)))
    assert [] == tree(tmp_path)

    with duckdb.connect(f"{tmp_path}/w.duckdb") as connection:
        connection.execute("CREATE TABLE ticks(a INTEGER)")
    found = examine(registry, uri)
    assert 0 == verdict([found])
    assert "table ticks is there, 0 rows of it in the ledger" in [f.found for f in found.findings]
    with duckdb.connect(f"{tmp_path}/w.duckdb") as connection:
        assert [("ticks",)] == connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()

    assert "wrong" == states(examine(registry, f"duckdb://{tmp_path}/nowhere/w.duckdb?table=t").findings)["folder"]
    (tmp_path / "w.duckdb").write_bytes(b"no database at all" * 1000)
    assert 1 == verdict([examine(registry, uri)])


def test_the_command(tmp_path: Path, capfd, monkeypatch):
    """A table in a pipe, one document for machines, and the exit code."""
    for name in ("typer", "rich", "structlog"):
        pytest.importorskip(name)
    from headrace.cli.app import run  # noqa: PLC0415 - only with its extra

    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        assert 0 == run(["doctor", f"file://{tmp_path}"])
        names, *rows = (line.split("\t") for line in capfd.readouterr().out.splitlines())
        assert ["uri", "kind", "state", "subject", "found", "what to do"] == names
        assert {"fine"} == {row[2] for row in rows}
        assert 1 == run(["doctor", f"file://{tmp_path}", "redis://x", "--json"])
        document = json.loads(capfd.readouterr().out)
        assert (False, ["sink", None]) == (document["ok"], [e["kind"] for e in document["examined"]])
        assert "wrong" == document["examined"][1]["findings"][0]["state"]
        assert 2 == run(["doctor"])
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(False)

"""The command line as a whole: exit codes, errors, JSON, help, secrets, and what it does without its extra."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.cli.app import run
from headrace.cli.exits import code_of, code_of_stop
from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    CorruptSegmentError,
    DataError,
    GapError,
    HeadraceError,
    IdentityError,
    MissingExtraError,
    PluginError,
    PluginNotFoundError,
    SinkUnavailableError,
    SourceUnavailableError,
    TransientError,
)
from headrace.records import Partition

pytestmark = pytest.mark.usefixtures("logging_restored")

HEADRACE = shutil.which("headrace", path=str(Path(sys.executable).parent)) or ""


@pytest.fixture
def ticks(tmp_path):
    path = tmp_path / "ticks.jsonl"
    path.write_text("".join(f'{{"symbol":"S{i % 2}","n":{i}}}\n' for i in range(10)))
    return path


def headrace(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    return subprocess.run([HEADRACE, *words], capture_output=True, text=True, timeout=60, check=False, **options)


def called(capsys, *words: str) -> tuple[int, str, str]:
    """Run in this process."""
    code = run(list(words))
    out, err = capsys.readouterr()
    return code, out, err


# ---- exit codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (1, DataError("")),
        (1, GapError("", partition=Partition("t", 0), start=1, end=2)),
        (1, CorruptSegmentError("", key="k")),
        (1, IdentityError("")),
        (2, ConfigError("")),
        (2, PluginError("")),
        (2, PluginNotFoundError("")),
        (2, MissingExtraError("")),
        (3, TransientError("")),
        (3, SourceUnavailableError("")),
        (3, SinkUnavailableError("")),
        (3, CommitUnknownError("")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, HeadraceError) else str(value),
)
def test_code_of_an_error(expected: int, error: HeadraceError):
    """1: look at the data; 2: change what was asked for; 3: try again later."""
    assert expected == code_of(error)


@pytest.mark.parametrize(
    ("expected", "number", "endless"),
    [(0, None, True), (0, None, False), (0, 15, True), (143, 15, False), (130, 2, True), (130, 2, False)],
)
def test_code_of_a_stop(expected: int, number: int | None, endless: bool):
    """SIGTERM is the normal end of a run that has no other; whatever else stops a run says so."""
    assert expected == code_of_stop(number, endless=endless)


def test_unknown_things(capsys, tmp_path, ticks):
    """Whatever does not exist is a usage error that says what does."""
    lake = f"file://{tmp_path}/lake"
    for expected, words in {
        "expected one of": ("stream", f"jsonl://{ticks}?speed=2", lake),
        "sources: alpaca://, az://": ("stream", "nats://host/a", lake),
        "not a store": ("show", "jsonl:///a"),
        "expected a URI such as": ("show", str(tmp_path)),
        "No such command 'strem'": ("strem",),
        "No such option: --fast": ("stream", "a", "b", "--fast"),
        "Missing argument 'SINK'": ("stream", "jsonl:///a"),
        "found '3cm', expected a size": ("stream", "--flush-bytes", "3cm", "a", "b"),
        "found '0s', expected a time above 0": ("stream", "--flush-age", "0s", "a", "b"),
        "'skip' is not one of": ("stream", "--on-gap", "skip", "a", "b"),
        "found log level 'loud'": ("show", lake, "--log-level", "loud"),
        "holds no stream": ("show", lake),
        "there is no such file": ("stream", "jsonl:///none/x.jsonl", lake, "--until-end"),
    }.items():
        code, out, err = called(capsys, *words)
        assert (2, "") == (code, out), words
        assert expected in err, words
        assert "Traceback" not in err, words


def test_error_as_json(capsys, tmp_path):
    """Under --json standard output is one document also where it is an error, even one of usage."""
    for kind, words in {
        "ConfigError": ("show", f"file://{tmp_path}/none", "--json"),
        "UsageError": ("stream", "--json"),
        "PluginNotFoundError": ("plugins", "nats", "--json"),
    }.items():
        code, out, err = called(capsys, *words)
        error = json.loads(out)["error"]
        assert (2, kind) == (code, error["type"])
        assert error["message"] in " ".join(err.split())


def test_no_answer(tmp_path):
    """A broker that is not there: code 3, after the time that was given."""
    pytest.importorskip("confluent_kafka")
    done = headrace(
        "stream", "kafka://127.0.0.1:1/t?group=g&request_timeout_s=1s", f"file://{tmp_path}", "--retry-for", "1s"
    )
    assert (3, "") == (done.returncode, done.stdout)
    assert done.stderr.splitlines()[-1].startswith("SourceUnavailableError: ")


def test_traceback(capsys, tmp_path):
    """A traceback of a HeadraceError appears at level debug only."""
    words = ("show", f"file://{tmp_path}/none")
    assert "Traceback" not in called(capsys, *words)[2]
    assert "Traceback" in called(capsys, *words, "--log-level", "debug")[2]
    assert "Traceback" in called(capsys, "--log-level", "debug", *words)[2]


def test_error_as_log_line(capsys, tmp_path):
    """With --log-format json an error is a log line too: whoever collects the lines can read every one."""
    code, _, err = called(capsys, "show", f"file://{tmp_path}/none", "--log-format", "json")
    (line,) = [json.loads(text) for text in err.splitlines()]
    assert (2, "error", "ConfigError") == (code, line["level"], line["type"])


def test_fault(capsys, monkeypatch):
    """An exception that is not ours is a fault: it has its own code, and its traceback is shown without its secrets."""

    def broken():
        raise ZeroDivisionError("kafka://u:hunter2@h/t")

    monkeypatch.setattr("headrace.cli.plugins.Registry.discover", broken)
    code, out, err = called(capsys, "plugins", "--json")
    assert (70, "InternalError") == (code, json.loads(out)["error"]["type"])
    assert "Traceback" in err
    assert "hunter2" not in out + err


def test_interrupted_before_it_begins(capsys, monkeypatch):
    """Ctrl-C before a run takes its signals ends with 130 and no traceback."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.cli.plugins.Registry.discover", interrupted)
    assert (130, "", "") == called(capsys, "plugins")


# ---- secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "kafka://user:hunter2@127.0.0.1:1/t",
        "kafka://user:hun/ter2hunter2@127.0.0.1:1/t",
        "kafka://127.0.0.1:1/t?sasl.password=hunter2",
        "nats://user:hunter2@h/t?token=hunter2",
        "kafka:user:hunter2@h?password=hunter2",
        "kafka://127.0.0.1:1/t?group=g&sasl.password=hunter2&sasl.password=hunter2",
        "kafka://127.0.0.1:1/t?group=g&sasl.password=hunter2&request_timeout_s=200ms",
    ],
)
@pytest.mark.parametrize("level", ["warning", "debug"])
def test_secrets_of_a_uri(capfd, tmp_path, uri, level):
    """No command prints a secret of its URI: not in errors, nor in tracebacks, reports or logs."""
    pytest.importorskip("confluent_kafka")
    words = (uri, f"file://{tmp_path}/lake", "--json", "--retry-for", "0", "--log-level", level)
    assert 0 != run(["stream", *words])
    out, err = capfd.readouterr()
    assert "hunter2" not in out + err


# ---- the process ------------------------------------------------------------------------------------------


def test_version():
    """The version is on standard output, alone."""
    done = headrace("--version")
    assert (0, "headrace", "") == (done.returncode, done.stdout.split()[0], done.stderr)


def test_help():
    """Each command explains itself, with an example, and without boxes or colours in a pipe."""
    for words in ((), ("stream",), ("load",), ("show",), ("plugins",)):
        done = headrace(*words, "--help", env={**os.environ, "COLUMNS": "100"})
        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.isascii() or "─" not in done.stdout
        assert "\x1b" not in done.stdout
        if words:
            assert "For example" in done.stdout
    assert 2 == headrace().returncode


@pytest.mark.parametrize("missing", ["typer", "rich", "structlog"])
def test_missing_extra(missing):
    """Without the extra the command says how to install it."""
    code = f"import sys; sys.modules[{missing!r}] = None; from headrace.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "plugins"], capture_output=True, text=True, check=False)
    assert (2, "") == (done.returncode, done.stdout)
    assert f"the command line needs {missing}, which is not installed: pip install 'headrace[cli]'\n" == done.stderr


def test_missing_client(tmp_path):
    """Without a client library its plugin is listed with the extra that it needs, and asking for it says so."""
    code = "import sys; sys.modules['confluent_kafka'] = None; from headrace.cli import main; main()"
    listed = subprocess.run(
        [sys.executable, "-c", code, "plugins", "--json"], capture_output=True, text=True, check=True
    )
    states = {(row["scheme"], row["state"]) for row in json.loads(listed.stdout)["plugins"]}
    assert ("kafka://", "needs headrace[kafka]") in states
    assert ("file://", "ready") in states
    words = ("stream", "kafka://127.0.0.1:1/t?group=g", f"file://{tmp_path}")
    asked = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert 2 == asked.returncode
    assert "pip install 'headrace[kafka]'" in asked.stderr


def test_closed_pipe(tmp_path, ticks):
    """A reader that leaves early, such as `head`, is no error."""
    run(["stream", f"jsonl://{ticks}", f"file://{tmp_path}/lake", "--until-end", "--flush-records", "1"])
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        words = [HEADRACE, "show", f"file://{tmp_path}/lake", "--partition", "0"]
        done = subprocess.run(words, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_output():
    """Where the result cannot be written, a code of its own says so; nothing is ignored."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([HEADRACE, "plugins"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert 74 == done.returncode
    assert "OutputError: standard output cannot be written: No space left on device\n" == done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    """A process that was started without its standard streams works as well."""
    done = subprocess.run(["sh", "-c", f'exec "{HEADRACE}" plugins {closed}'], capture_output=True, check=False)
    assert (0, b"") == (done.returncode, done.stderr)


# ---- plugins ----------------------------------------------------------------------------------------------


def test_plugins(capsys):
    """One line a component, tab-separated, the same every time."""
    code, out, _ = called(capsys, "plugins")
    assert 0 == code
    rows = [line.split("\t") for line in out.splitlines()]
    assert ["scheme", "kind", "plugin", "package", "state", "what it does"] == rows[0]
    assert {6} == {len(row) for row in rows}
    assert ["file://", "sink", "lake"] in [row[:3] for row in rows]


def test_settings_of_a_plugin(capsys):
    """The list has plugins' names too: one that is no scheme shows all that the plugin makes, if it can be made here."""
    code, out, _ = called(capsys, "plugins", "lake", "--json")
    assert 0 == code
    assert {("file", kind) for kind in ("sink", "source", "store")} <= {
        (c["scheme"], c["kind"]) for c in json.loads(out)["components"]
    }


def test_settings_of_a_scheme(capsys):
    """Each setting is explained, with what it reads and its default."""
    code, out, _ = called(capsys, "plugins", "jsonl", "--json")
    (source,) = json.loads(out)["components"]
    settings = {s["name"]: s for s in source["settings"]}
    assert 0 == code
    assert "auto or jsonl or csv" == settings["format"]["reads"]
    assert "auto" == settings["format"]["default"]
    assert all(s["help"] for s in settings.values())

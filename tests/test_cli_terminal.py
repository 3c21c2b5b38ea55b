"""What a person sees: every command on a terminal, wide and narrow."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import sys
import termios
from pathlib import Path

import pytest

from headrace.cli.app import run
from headrace.cli.progress import Rate, fitting

HEADRACE = shutil.which("headrace", path=str(Path(sys.executable).parent)) or ""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(columns: int, *words: str, **environment: str) -> tuple[int, str]:
    """Run the command on a terminal of so many columns; return its exit code and all that was written."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    kept = {
        n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR") and "HEADRACE" not in n
    }
    pid = os.posix_spawn(
        HEADRACE,
        [HEADRACE, *words],
        kept | {"TERM": "xterm-256color"} | environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, slave, number) for number in (0, 1, 2)],
    )
    os.close(slave)
    written = b""
    while True:
        try:
            written += os.read(master, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def lines_of(written: str) -> list[str]:
    return [line.rsplit("\r", 1)[-1] for line in CONTROL.sub("", written).replace("\r\n", "\n").split("\n")]


@pytest.fixture
def lake(tmp_path):
    path = tmp_path / "ticks.jsonl"
    path.write_text("".join(json.dumps({"n": i, "at": 1_700_000_000_000 + i}) + "\n" for i in range(60)))
    run(
        [
            "stream",
            f"jsonl://{path}?timestamp=at",
            f"file://{tmp_path}/l",
            "--until-end",
            "--flush-records",
            "1",
            "--log-level",
            "error",
        ]
    )
    return f"file://{tmp_path}/l"


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("command", ["lake", "chain", "record", "plugins", "scheme", "help", "error"])
def test_width(lake, columns, command):
    """No line is longer than the terminal, but for what is to be copied as a whole."""
    words = {
        "lake": ("show", lake),
        "chain": ("show", lake, "--partition", "0"),
        "record": ("show", lake, "--offset", "3"),
        "plugins": ("plugins",),
        "scheme": ("plugins", "jsonl"),
        "help": ("stream", "--help"),
        "error": ("stream", "jsonl:///none", lake, "--until-end", "--fast"),
    }[command]
    code, written = on_terminal(columns, *words)
    assert (2 if command == "error" else 0) == code
    long = [line for line in lines_of(written) if len(line.rstrip()) > columns]
    assert all("/" in line for line in long), long
    assert "Traceback" not in written


def test_long_chain(lake):
    """The first segments and the newest are shown; the rest is counted, and --all shows it."""
    _, written = on_terminal(80, "show", lake, "--partition", "0")
    lines = lines_of(written)
    assert any("37 segments in between are in order; --all shows them" in line for line in lines)
    assert 3 + 1 + 20 == sum(bool(re.match(r" *(\d+|…) ", line)) for line in lines if "segments" not in line)
    _, written = on_terminal(80, "show", lake, "--partition", "0", "--all")
    assert 60 == sum(bool(re.match(r" *\d+  ", line)) for line in lines_of(written))


def test_no_color(lake):
    """NO_COLOR takes the colours away, on standard output and standard error; nothing else changes."""
    for words in (("show", lake), ("stream", "--help")):
        coloured, plain = on_terminal(80, *words)[1], on_terminal(80, *words, NO_COLOR="1")[1]
        codes = {code for found in COLOUR.findall(plain) for code in re.findall(r"\d+", found)}
        assert not codes & {str(n) for n in (*range(30, 50), *range(90, 108))}, words
        assert lines_of(coloured) == lines_of(plain)


@pytest.mark.parametrize("columns", [80, 40])
def test_progress(tmp_path, columns):
    """A bounded run draws what is done of what; at its end nothing is left of the bar but the report."""
    path = tmp_path / "ticks.jsonl"
    path.write_text("".join(json.dumps({"at": 1_700_000_000_000 + i}) + "\n" for i in range(1_000)))
    code, written = on_terminal(
        columns, "stream", f"jsonl://{path}?timestamp=at&pace=1", f"file://{tmp_path}/l", "--until-end"
    )
    assert 0 == code
    assert re.search(r"streaming .*/1,000", CONTROL.sub("", written))
    assert ("MiB/s" in written or "KiB/s" in written or " B/s" in written) == (columns == 80)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")
    assert "{" not in written
    assert "1,000 records in 1 segment" in " ".join(lines_of(written))


def test_facts_that_fit():
    """The first fact always stands; of the others those that have room, in their order."""
    facts = ["10/20", "5/s", "1 KiB/s", "x"]
    assert ["10/20", "10/20  5/s", "10/20  5/s  1 KiB/s  x"] == [fitting(facts, room) for room in (3, 12, 80)]


def test_rate():
    """A rate is that of the last seconds, not of the whole run."""
    rate = Rate()
    assert [0.0] == rate(1.0, 0)
    assert [100.0] == rate(2.0, 100)
    for second in range(3, 20):
        now = rate(float(second), 100 + 10 * (second - 2))
    assert [10.0] == now

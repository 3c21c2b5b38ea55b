"""A web hook is told what happened, and has no say in it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from headrace_notify import told

from headrace import Ended

POSTED: list[dict[str, Any]] = []


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        POSTED.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204 if self.path == "/hook" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    POSTED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def headrace(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Five segments."""
    (tmp_path / "ticks.jsonl").write_text("".join(f'{{"n":{n}}}\n' for n in range(10)))
    words = [
        "stream",
        f"jsonl://{tmp_path}/ticks.jsonl",
        f"file://{tmp_path}/lake",
        "--until-end",
        "--flush-records",
        "2",
    ]
    assert headrace(tmp_path, *words).returncode == 0
    return tmp_path / "lake"


def test_findings_of_an_audit(lake: Path, tmp_path: Path, url: str):
    """A segment is lost: the hook gets the verdict, the finding and where it is. All is well: nothing, unless it is asked for."""
    told_here = {"HEADRACE_NOTIFY_URL": f"{url}/hook"}
    assert headrace(tmp_path, "audit", f"file://{lake}", **told_here).returncode == 0
    assert POSTED == []
    assert headrace(tmp_path, "audit", f"file://{lake}", HEADRACE_NOTIFY="all", **told_here).returncode == 0
    (lake / "ticks/partition=0" / f"{4:020}.jsonl.gz").unlink()
    assert headrace(tmp_path, "audit", f"file://{lake}", **told_here).returncode == 1
    well, lost = POSTED
    assert (well["command"], well["code"], well["document"]["findings"]) == ("audit", 0, [])
    assert (lost["command"], lost["code"]) == ("audit", 1)
    assert [(f["partition"], f["start"], f["end"]) for f in lost["document"]["findings"]] == [(0, 4, 6)]
    assert "in partition 0 [4, 6)" in lost["text"]


def test_a_hook_that_fails_changes_nothing(lake: Path, tmp_path: Path, url: str):
    """The exit code is the command's own; the log says that nobody was told."""
    words = ["load", f"file://{lake}", f"no:///{tmp_path}", "--contract", "none:None"]
    quiet = headrace(tmp_path, *words)
    failing = headrace(tmp_path, *words, HEADRACE_NOTIFY_URL=f"{url}/broken")
    assert quiet.returncode == failing.returncode == 2
    assert "hook failed hook=headrace_ended plugin=notify" in failing.stderr
    assert "hook failed" not in quiet.stderr
    (posted,) = POSTED
    assert posted["document"]["error"]["type"] == "ConfigError"


def test_text():
    """People read one line."""
    assert told(Ended("load", 0, {})) == "headrace load ended with code 0"
    error = {"error": {"type": "DataError", "message": "a gap"}}
    assert told(Ended("load", 1, error)) == "headrace load ended with code 1: DataError: a gap"

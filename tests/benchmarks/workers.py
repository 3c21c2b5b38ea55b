"""Starts runs of pipelines in processes of their own (`worker.py`), and takes what they saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs

_HERE = Path(__file__).parent
_TIMEOUT_S = 300.0


@attrs.define(eq=False)
class Worker:
    """
    One process; use it as a context: it is ended with it, whatever happens.

    Attributes:
        order: What it runs: `main` of the program says which names there are.

        program: Of this folder.
    """

    order: dict[str, Any]
    program: str = "worker.py"
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until all is imported."""
        command = [sys.executable, str(_HERE / self.program), json.dumps(self.order)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self.program} did not begin")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def say(self) -> None:
        """Let it begin; the second time: let it stop."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()

    def found(self) -> dict[str, Any]:
        """Wait for its end and return what it saw."""
        assert self._process is not None
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if self._process.wait(_TIMEOUT_S) != 0:
            raise RuntimeError(f"a run ended with {self._process.returncode}")
        found: dict[str, Any] = json.loads(said)
        return found


def once(order: dict[str, Any]) -> dict[str, Any]:
    """Run a bounded pipeline and return what it saw."""
    with Worker(order) as worker:
        worker.say()
        return worker.found()

"""A server's process: started in a group of its own, waited for, paused, killed, its log kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

_POLL_S = 0.05


class ServerFailed(Exception):  # noqa: N818 - what happened
    """A server did not start, or did not end; the message has the end of its log."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Return so many different TCP ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def answers(port: int) -> bool:
    """Whether somebody listens on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@attrs.define(kw_only=True, eq=False)
class Server(ABC):
    """
    A server that this process starts and ends. Use it as a context; what it stored stays in its folder.

    Attributes:
        folder: Its data, settings and log, from one start to the next.

        start_timeout_s: How long it may take until it is ready.
    """

    folder: Path
    start_timeout_s: float = 60.0
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False, repr=False)

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line; called at each start, when the folder is there."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves."""

    def environment(self) -> dict[str, str]:
        """Return what is added to the environment."""
        return {}

    @property
    def log(self) -> Path:
        """What it wrote, all starts together."""
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether its process is there, be it paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, on the data that are there, and wait until it serves. ServerFailed when it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self.environment()}
        command = self.command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            self._wait_until_ready(command[0], self._process)
        except BaseException:
            self.kill()  # nobody else would
            raise

    def _wait_until_ready(self, program: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self.ready():
            if process.poll() is not None:
                raise ServerFailed(f"{program} ended with {process.returncode}: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{program} did not serve within {self.start_timeout_s:.0f} s: {self.log_tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 30.0) -> None:
        """End it by SIGTERM, and by SIGKILL when it does not end in time."""
        if self._signal(signal.SIGTERM):
            try:
                self._ended(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it by SIGKILL: what it had not written is gone."""
        if self._signal(signal.SIGKILL):
            self._ended(30.0)

    def pause(self) -> None:
        """Stop it by SIGSTOP and wait until it stands still: its connections stay, and nothing answers."""
        if self._signal(signal.SIGSTOP) and self._process is not None:
            os.waitid(
                os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT
            )  # its threads ran on till then

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def log_tail(self, size: int = 3000) -> str:
        """Return the end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return text[-size:]

    def _signal(self, number: signal.Signals) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(self._process.pid, number)
            if number == signal.SIGTERM:
                os.killpg(self._process.pid, signal.SIGCONT)  # a paused process would never see it
        return True

    def _ended(self, timeout_s: float) -> None:
        if self._process is not None:
            self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

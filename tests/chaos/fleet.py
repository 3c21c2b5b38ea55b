"""headrace's processes: started, watched, ended in every way, and started again as a service manager would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from deployment import HERE, environment, wait

RESTART_S = 0.5


@attrs.define(kw_only=True, eq=False)
class Member:
    """
    One process.

    Attributes:
        name: Of its log.

        process: As it was started.

        log: Where it writes JSON lines.

        wanted: False: the supervisor lets it be.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began_s: float = attrs.field(factory=time.monotonic)
    wanted: bool = True
    asleep: bool = False
    ended_by_us: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether it is asleep."""
        try:
            status = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            self.ended_by_us = self.ended_by_us or number in (signal.SIGKILL, signal.SIGTERM)
            os.killpg(self.process.pid, number)

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """The lines of its log from a place on; what is no line of ours, such as a traceback, comes as ``text``."""
        with self.log.open("rb") as file:
            file.seek(since)
            text = file.read().decode(errors="replace")
        return [_line(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def place(self) -> int:
        """Where its log ends now."""
        return self.log.stat().st_size

    def said(self, event: str, since: int = 0) -> list[dict[str, Any]]:
        return [line for line in self.lines(since) if line.get("event") == event]

    def owned(self) -> int:
        """How many partitions it was given since it began."""
        return sum(int(line.get("partitions", 0)) for line in self.said("partitions assigned"))


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"event": "", "text": text}


@attrs.define(kw_only=True, eq=False)
class Fleet:
    """
    The processes of one deployment.

    Attributes:
        folder: Of their logs.

        source: URI; ``{instance}`` stands for a member's own number.

        sink: URI.

        more: Options of ``headrace stream``.

        without: The protection that is taken away, if any.
    """

    folder: Path
    source: str
    sink: str
    environment: dict[str, str] = attrs.field(factory=dict)
    more: list[str] = attrs.field(factory=list)
    without: str | None = None
    members: list[Member] = attrs.field(factory=list)
    gone: list[Member] = attrs.field(factory=list)
    unexplained: list[str] = attrs.field(factory=list)
    _count: int = 0

    def add(self, source: str | None = None, *, slot: int | None = None) -> Member:
        """Start one more."""
        self._count += 1
        slot = self._count if slot is None else slot
        name = f"{self._count:03}"
        log = self.folder / f"stream-{name}.log"
        command = [sys.executable, str(HERE / "stream.py")]
        command += ["--without", self.without] if self.without else []
        command += ["stream", (source or self.source).replace("{instance}", f"i{slot}"), self.sink]
        command += ["--log-format", "json", *self.more]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**environment(), **self.environment, "HEADRACE_RUN": name, "HEADRACE_LOG_REPEAT_S": "0"},
                start_new_session=True,
            )
        member = Member(name=name, process=process, log=log)
        self.members.append(member)
        return member

    def tend(self) -> None:
        """Start again what has ended, and keep in mind what ended by itself."""
        for member in [m for m in self.members if not m.running]:
            self.members.remove(member)
            self.gone.append(member)
            code = member.process.returncode
            if code == 3 or member.ended_by_us or not member.wanted:  # 3: a service did not answer
                pass
            else:
                self.unexplained.append(f"{member.name} ended with {code}: {self.last_words(member)}")
            if member.wanted:
                time.sleep(RESTART_S)
                self.add()

    def last_words(self, member: Member) -> str:
        lines = [line.get("text") or str(line.get("error") or line.get("exc") or line) for line in member.lines()[-3:]]
        return " | ".join(lines)[-1500:]

    def remove(self, member: Member, number: signal.Signals = signal.SIGTERM, timeout_s: float = 90.0) -> int:
        """End one for good, and return how it ended."""
        member.wanted = False
        member.signal(signal.SIGCONT)
        member.signal(number)
        try:
            code = member.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            member.signal(signal.SIGKILL)
            member.process.wait(30)
            self.unexplained.append(f"{member.name} did not end within {timeout_s:.0f} s of signal {number}")
            code = member.process.returncode
        if member in self.members:
            self.members.remove(member)
            self.gone.append(member)
        return code

    def awake(self) -> list[Member]:
        return [m for m in self.members if m.running and not m.asleep]

    def working(self) -> list[Member]:
        """Those that own partitions, awake."""
        return [m for m in self.awake() if m.owned()]

    def wait_for_work(self, count: int = 1, timeout_s: float = 60.0) -> None:
        def enough() -> bool:
            self.tend()
            return len(self.working()) >= count

        wait(enough, timeout_s, f"{count} members with partitions")

    def everybody(self) -> Iterator[Member]:
        yield from self.gone
        yield from self.members

    def said(self, *events: str) -> int:
        """How often one of these was logged, by all members so far."""
        return sum(line.get("event") in events for member in self.everybody() for line in member.lines())

    def close(self) -> None:
        for member in self.members:
            member.wanted = False
            member.signal(signal.SIGCONT)
            member.signal(signal.SIGKILL)
        for member in self.members:
            member.process.wait(30)

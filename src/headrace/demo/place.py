"""What both demos stand on: a folder of their own, a broker, processes of ours, and where they say what they do."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from headrace.errors import ConfigError, HeadraceError

_MARK = "headrace-demo.txt"


class Shown(Protocol):
    """Where the demo says what it does: the command line's output."""

    @property
    def drawn(self) -> bool: ...

    def line(self, text: str = "", style: str | None = None, *, whole: bool = False) -> None: ...

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], styles: Sequence[str | None] = ()
    ) -> None: ...

    def document(self, content: Mapping[str, object]) -> None: ...


def made_folder(folder: Path | None) -> Path:
    """Make a new folder, or take an empty one: nothing that is not the demo's own is ever touched. ConfigError else."""
    if folder is None:
        names = itertools.chain(["headrace-demo"], (f"headrace-demo-{n}" for n in itertools.count(2)))
        folder = next(path for path in map(Path, names) if not path.exists())
    place = folder.absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{place} is there already and not empty; name another with --folder, or remove it")
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / _MARK).write_text("Made by `headrace demo`. May be removed.\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{place}: cannot be made ({exc.strerror}); name another folder with --folder") from exc
    return place


@contextmanager
def broker(kafka: str) -> Iterator[str]:
    """Yield the address of the broker that was named; "" makes one that lives as long as the block."""
    if kafka:
        yield kafka
        return
    from headrace.demo.broker import embedded_broker  # noqa: PLC0415 - a client library

    with embedded_broker() as bootstrap:
        yield bootstrap


def our_command() -> str:
    """How a person calls the command line of this very installation."""
    folder = Path(sys.executable).parent
    found = shutil.which("headrace")
    return "headrace" if found and Path(found).parent == folder else str(folder / "headrace")


def started(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the command line of this very installation; what it says of an error waits in its pipe."""
    command = [sys.executable, "-m", "headrace", "--log-level", "error", *arguments]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=subprocess.PIPE)  # noqa: S603 - our own command


def failed(child: subprocess.Popen[bytes]) -> HeadraceError:
    """Make the error of one that ended by itself; the message is its own."""
    said = child.stderr.read().decode(errors="replace") if child.stderr else ""
    return HeadraceError(f"headrace stream ended with {child.returncode}: {said.strip()}")

"""Programs that the servers need: fetched or built once, and kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

_BUILD_TIMEOUT_S = 900.0


class ServerMissing(Exception):  # noqa: N818 - what is the case
    """A server cannot be had on this machine; the message says what is missing and what would help."""


def cache_folder() -> Path:
    """Return ``HEADRACE_CACHE``, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HEADRACE_CACHE") or Path(base) / "headrace")


def provided(name: str, build: Callable[[Path], None]) -> Path:
    """
    Return a folder of the cache, filled by *build* the first time; two processes never build at once.

    Args:
        name: With the version: what is there under this name is taken as it is.

        build: Fills an empty folder; what it leaves behind when it fails is never used.

    Raises:
        ServerMissing: As *build* raised it.
    """
    found = cache_folder() / name
    if found.is_dir():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    with (found.parent / f"{found.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.is_dir():
            made = Path(tempfile.mkdtemp(prefix=f"{found.name}.", dir=found.parent))
            try:
                build(made)
                made.rename(found)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return found


def program(name: str, why: str) -> str:
    """Return the path of a program of this machine; ServerMissing says what it is needed for."""
    found = shutil.which(name)
    if found is None:
        raise ServerMissing(f"{name} is not installed; {why}")
    return found


def run(command: list[str], *, cwd: Path, environment: dict[str, str] | None = None) -> None:
    """Run one step of a build; ServerMissing has the end of what it wrote when it fails."""
    environment = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ServerMissing(f"{' '.join(command)} did not end within {_BUILD_TIMEOUT_S:.0f} s") from exc
    if done.returncode != 0:
        raise ServerMissing(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


def built(name: str, cached: str, package: str) -> Path:
    """Return the path of a program in the cache, built by Go the first time; ServerMissing where Go is not there."""

    def build(folder: Path) -> None:
        go = program("go", f"Go builds {name}")
        # nothing of the machine's own settings decides how it is built
        run([go, "install", package], cwd=folder, environment={"GOBIN": str(folder), "GOFLAGS": "", "CGO_ENABLED": "0"})

    return provided(cached, build) / name

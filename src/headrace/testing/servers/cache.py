"""Programs that the servers need: fetched or built once, and kept."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

_BUILD_TIMEOUT_S = 900.0


class ServerMissing(Exception):  # noqa: N818 - what is the case
    """A server cannot be had on this machine; the message says what is missing and what would help."""


class NotWhatWasPinnedError(Exception):
    """
    What was fetched is not what it was when its checksum was written down; nothing of it was unpacked, built or kept.

    No reason to skip a test: somebody has changed it, on the way or where it comes from.
    """


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


def verify(what: str, found: str, pinned: str) -> None:
    """Compare a checksum with the one that was written down; NotWhatWasPinnedError where they differ."""
    if found != pinned:
        raise NotWhatWasPinnedError(f"{what}: found {found}, expected {pinned}; it is not used")


def verify_file(file: Path, pinned: str) -> None:
    """Compare a file's ``sha512-…`` as npm writes it, in base64. Errors as for `verify`."""
    digest = hashlib.sha512(file.read_bytes()).digest()
    verify(file.name, f"sha512-{base64.b64encode(digest).decode()}", pinned)


def verify_files(folder: Path, pinned: Path) -> None:
    """Compare all files of a folder with a list as `sha256sum` writes it: those and no others. Errors as for `verify`."""
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    lines = pinned.read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(expected.keys() | found.keys()):
        verify(name, found.get(name, "no file"), expected.get(name, "no file"))


def run(command: list[str], *, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run one step of a build, and return what it printed; ServerMissing has the end of what it wrote when it fails."""
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
    return done.stdout


def built(name: str, cached: str, module: str, package: str, digest: str) -> Path:
    """
    Return the path of a program in the cache, built by Go the first time.

    Args:
        name: Of the program.

        cached: As for `provided`.

        module: With its version.

        package: In that module, such as ``./cmd/server``.

        digest: The module's, as a go.sum has it; its own go.sum has those of all that it is built from.

    Raises:
        ServerMissing: Go is not there, or could not.
        NotWhatWasPinnedError: Go was given another module.
    """

    def build(folder: Path) -> None:
        go = program("go", f"Go builds {name}")
        # nothing of the machine's own settings decides how it is built
        settings = {"GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
        fetched = json.loads(run([go, "mod", "download", "-json", module], cwd=folder, environment=settings))
        verify(module, fetched["Sum"], digest)
        build = [go, "build", "-C", fetched["Dir"], "-buildvcs=false", "-o", str(folder / name), package]
        run(build, cwd=folder, environment=settings)

    return provided(cached, build) / name

"""Objects on a local disk, created so that of any number of writers one succeeds."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from headrace.errors import ConfigError, SinkUnavailableError
from headrace.finding import Finding
from headrace.store import Page, Store, StoredObject
from headrace.units import format_bytes

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
_LEAST_FREE_BYTES = 1 << 30
_FOR_NOW = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


@attrs.define(kw_only=True)
class FileStore(Store):
    """
    A folder as a store. What was created survives a power loss, and is never overwritten.

    Attributes:
        root: The folder; made at the first write.

        page_size: How many objects one listing returns.
    """

    root: Path = attrs.field(converter=Path)
    page_size: int = attrs.field(default=1000, validator=attrs.validators.ge(1))

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> FileStore:
        """Make the store of ``file:///folder``."""
        if uri.host:
            raise ConfigError(f"found {uri}, expected file:///absolute/path: three slashes")
        return cls(root=uri.path, **uri.fields(cls, unsettable=("root",)))

    @property
    def place(self) -> str:  # type: ignore[override]  # derived here, a field elsewhere
        return f"file://{self.root.absolute()}"

    def identity(self) -> str:
        """The device counts too: a lake that was moved to another disk is probed again."""
        return f"{super().identity()} device={os.stat(self.root).st_dev if self.root.exists() else None}"

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        """
        Write a temporary file, fsync it, link it to its name, fsync the folder (B6).

        The temporary file is fresh for each attempt and never reopened: once linked it *is* the object, and a retry that
        truncated it would destroy a stored segment though its own link was refused.
        """
        path = self._path(key)
        # beside the object, in the stream's own folder if there is one: a link does not leave its file system
        stream = key.partition("/")[0] if "/" in key else ""
        folder = self.root if stream == "_headrace" else self.root / stream
        temporary = folder / "_headrace" / "tmp" / f"{secrets.token_hex(16)}.tmp"
        with _told(f"create {self.place}/{key}"):
            self._make_folders(path.parent)
            self._make_folders(temporary.parent)
            try:
                _write(temporary, body)
                return self._link(temporary, path)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def _link(self, temporary: Path, path: Path) -> bool:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as exc:
            if exc.errno in _NO_LINKS:
                raise ConfigError(
                    f"{path.parent}: this file system cannot link ({exc.strerror}), expected one that can: without it a"
                    " write cannot be refused. Put the lake on a local disk"
                ) from exc
            raise
        _sync_folder(path.parent)
        return True

    def list(self, prefix: str, after: str = "") -> Page:
        """List by walking the folders in the order of keys. Each folder is synced first: a name seen here stays (B6)."""
        folder, _, _ = prefix.rpartition("/")
        objects: list[StoredObject] = []
        with _told(f"list {self.place}/{prefix}"):
            for key, entry in self._walk(folder, prefix, after):
                if len(objects) == self.page_size:
                    return Page(objects, truncated=True)
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    about = entry.stat()
                    # the inode's own time is that of the link; the content's is older by as long as the writer slept
                    objects.append(StoredObject(key, about.st_size, about.st_ctime))
        return Page(objects, truncated=False)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        path = self.root / folder
        try:
            _sync_folder(path)
            # a folder sorts with its slash, as its keys do
            entries = sorted(os.scandir(path), key=lambda e: os.fsencode(e.name + "/" * e.is_dir()))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                inside = f"{key}/"
                # enter only where a key inside can match the prefix and come after
                if (inside.startswith(prefix) or prefix.startswith(inside)) and not _passed(inside, after):
                    yield from self._walk(key, prefix, after)
            elif key.startswith(prefix) and key.encode() > after.encode() and not key.endswith(".tmp"):
                yield key, entry

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        with _told(f"read {self.place}/{key}"):
            try:
                with open(self._path(key), "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    first, last, _ = slice(start, end).indices(size)
                    file.seek(first)
                    return file.read(max(0, last - first))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def delete(self, key: str) -> None:
        nothing_there = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        with _told(f"delete {self.place}/{key}"), contextlib.suppress(*nothing_there):
            os.unlink(self._path(key))
            _sync_folder(self._path(key).parent)

    def check(self) -> Iterator[Finding]:
        """Say whether the folder can be written to, and how much room there is."""
        folder = self.root.absolute()
        while not folder.exists():
            folder = folder.parent
        there = f"{self.root} is there" if folder == self.root.absolute() else f"{self.root} will be made in {folder}"
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(
                "folder", "wrong", f"{folder} may not be written to", "give this user the right to, or another"
            )
            return
        yield Finding("folder", "fine", there)
        disk = shutil.disk_usage(folder)
        room = f"{format_bytes(disk.free)} of {format_bytes(disk.total)} are free"
        if disk.free < max(_LEAST_FREE_BYTES, disk.total // 50):
            yield Finding("room", "wrong", room, "free some: a full disk stops every writer, though nothing is lost")
        else:
            yield Finding("room", "fine", room)

    def prune(self, folder: str) -> None:
        """Remove a folder, and those above it up to the root's, as far as they are empty: what a probe leaves behind."""
        path = self.root / folder
        with contextlib.suppress(OSError):
            while path != self.root.parent:
                os.rmdir(path)
                path = path.parent

    def _path(self, key: str) -> Path:
        if not key or key.startswith("/") or any(part in ("", ".", "..") for part in key.split("/")):
            raise ConfigError(f"found key {key!r}, expected names between single slashes")
        return self.root / key

    def _make_folders(self, folder: Path) -> None:
        """Make missing folders and sync each parent, so that the way to a new object survives a power loss as well."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for made in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(made)
            _sync_folder(made.parent)


def _write(path: Path, body: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
    with open(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _passed(folder: str, after: str) -> bool:
    """Whether every key in *folder* (with its slash) sorts at or before *after*."""
    return not after.startswith(folder) and folder.encode() < after.encode()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an OSError into ours: what may pass is transient, the rest is a setting. Nothing was stored in either case."""
    try:
        yield
    except OSError as exc:
        reason = f"cannot {what}: {exc.strerror or exc}"
        if exc.errno in _FOR_NOW:
            hint = "; free some space, nothing is lost" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise SinkUnavailableError(reason + hint) from exc
        raise ConfigError(f"{reason}; check the path and its permissions") from exc

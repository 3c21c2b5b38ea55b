"""A file of records: opening it, finding a place in it, and noticing that it is another one."""

from __future__ import annotations

import bisect
import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, ClassVar, cast

import attrs
import fsspec  # type: ignore[import-untyped]  # it has no stubs
import fsspec.utils  # type: ignore[import-untyped]

from headrace.errors import ConfigError, DataError, MissingExtraError, SourceUnavailableError

BLOCK_BYTES = 1 << 20
CHUNK_RECORDS = 1000
_TAIL_BYTES = 4096
BOM = b"\xef\xbb\xbf"
COMPRESSED = {".gz": "", ".bz2": "", ".xz": "", ".lzma": "", ".zip": "", ".zst": "zstd", ".lz4": "", ".snappy": ""}
"""Suffixes of compressed files, and the extra that brings what reads them."""


@attrs.frozen
class Mark:
    """
    A place where a record begins.

    Attributes:
        record: How many records come before.

        byte: How many bytes come before, after decompression.
    """

    record: int
    byte: int


@attrs.frozen
class State:
    """What changes when a file does: its size in bytes as it is stored, its time, its inode where it has one."""

    size: int
    changed: object
    inode: object


@attrs.define(eq=False)
class Index:
    """Sparse marks of one file, so that no part of it is read twice only to find a place. Safe to use from threads."""

    spacing_bytes: int = 4 << 20
    _marks: list[Mark] = attrs.field(factory=lambda: [Mark(0, 0)], init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def add(self, mark: Mark) -> None:
        """Keep *mark* if it lies far enough behind the last one."""
        with self._lock:
            if mark.byte >= self._marks[-1].byte + self.spacing_bytes:
                self._marks.append(mark)

    def before(self, record: int | None = None) -> Mark:
        """Return the last mark at or before *record*; None: the last of all."""
        with self._lock:
            if record is None:
                return self._marks[-1]
            return self._marks[bisect.bisect_right(self._marks, record, key=lambda mark: mark.record) - 1]

    def clear(self) -> None:
        """Forget all: the file is another one."""
        with self._lock:
            del self._marks[1:]


@attrs.define(kw_only=True, eq=False)
class RecordFile(ABC):
    """
    A file of records. A position is a count of records from the file's beginning; an empty record is a hole.

    Attributes:
        path: Local, or a URL that fsspec opens; decompressed by its suffix.

        options: Of fsspec.

        follow: The last record counts only when its line is ended: more may be on its way.

        index: Where records begin.
    """

    path: str
    options: Mapping[str, str]
    follow: bool
    index: Index = attrs.field(factory=Index)
    kind: ClassVar[str]

    def open(self, at: Mark = Mark(0, 0)) -> IO[bytes]:
        """Open the file at *at*. ConfigError where it is not there, may not be read or cannot be decompressed."""
        compression = fsspec.utils.infer_compression(self.path)
        suffix = PurePosixPath(self.path).suffix
        if compression is None and suffix in COMPRESSED:
            extra = COMPRESSED[suffix]
            hint = f"pip install 'headrace[{extra}]'" if extra else "install it, or decompress the file"
            raise MissingExtraError(f"{self.path}: what decompresses {suffix} is not installed: {hint}")
        with self._ours("opened"):
            opened = fsspec.open(self.path, "rb", compression=compression, **self.options).open()
            if at.byte:
                opened.seek(at.byte)
        return cast("IO[bytes]", opened)

    def state(self) -> State:
        """Look at the file now, without reading it. Errors as for `open`."""
        with self._ours("looked at"):
            fs, path = fsspec.core.url_to_fs(self.path, **self.options)
            fs.invalidate_cache()
            about: dict[str, Any] = fs.info(path)
        changed = about.get("mtime") or about.get("LastModified") or about.get("ETag")
        return State(about.get("size") or 0, changed, about.get("ino"))

    def identity(self) -> str | None:
        """
        Name the file by its first record: one that was replaced by another has another name, one that grew has not.

        None where it has no record yet.
        """
        with self.open() as file:
            first = next((value for chunk, _ in self.read(file, Mark(0, 0)) for value in chunk if value), None)
        return None if first is None else f"sha256:{hashlib.sha256(first).hexdigest()}"

    def tail(self, mark: Mark) -> bytes:
        """Return the bytes before *mark*: another file of the same beginning has others there."""
        count = min(mark.byte, _TAIL_BYTES)
        with self.open(Mark(0, mark.byte - count)) as file, self._ours("read on"):
            return file.read(count)

    def find(self, position: int | None = None) -> Mark:
        """
        Return where record *position* begins, reading from the nearest mark that is known; None: the end.

        A file that ends before *position* gives its end.
        """
        mark = self.index.before(position)
        with self.open(mark) as file:
            return self._scan(file, mark, position)

    @abstractmethod
    def read(self, file: IO[bytes], mark: Mark) -> Iterator[tuple[list[bytes], Mark]]:
        """Yield the records from *mark*, where *file* stands, in chunks, each with the mark of its end."""

    @abstractmethod
    def _scan(self, file: IO[bytes], mark: Mark, position: int | None) -> Mark:
        """Go on from *mark*, where *file* stands, to *position* or to the end, and index what is passed."""

    def _blocks(self, file: IO[bytes]) -> Iterator[bytes]:
        """The rest of the file."""
        while True:
            with self._ours("read on"):
                block = file.read(BLOCK_BYTES)
            if not block:
                return
            yield block

    @contextmanager
    def _ours(self, what: str) -> Iterator[None]:
        """Let no error of a file system or a decompressor out: each of those libraries has its own classes."""
        try:
            yield
        except Exception as exc:
            raise self._refusal(exc, what) from exc

    def _refusal(self, exc: Exception, what: str) -> ConfigError | SourceUnavailableError | DataError:
        """What an error of a file system or a decompressor means to the caller."""
        if isinstance(exc, FileNotFoundError):
            return ConfigError(f"{self.path}: there is no such file; expected a file of {self.kind}")
        if isinstance(exc, (PermissionError, IsADirectoryError, NotADirectoryError)):
            return ConfigError(f"{self.path}: cannot be {what} ({exc.strerror}); expected a file that we may read")
        if isinstance(exc, (ValueError, ImportError)):
            return ConfigError(f"{self.path}: cannot be {what} ({exc})")
        if isinstance(exc, OSError) and exc.errno is not None:
            return SourceUnavailableError(f"{self.path}: cannot be {what} ({exc}); trying again may help")
        return DataError(f"{self.path}: cannot be {what} ({exc}); the file is not what its suffix says, or is damaged")

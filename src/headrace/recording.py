"""Keeps what a live feed sends as files of JSON lines, so that it can be replayed."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import msgspec

from headrace.errors import ConfigError, SinkUnavailableError
from headrace.records import Batch, Event, Hint, Partition, Start
from headrace.source import Source

STREAM = "{stream}"
_GAPS = ".gaps"
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")
_POLL_S = 0.1
_RECEIVED, _CONNECTION, _SEQUENCE = "headrace.received_ns", "headrace.connection", "headrace.sequence"


@attrs.define(kw_only=True, eq=False)
class Recording:
    """
    Writes the values of a live feed into files, one a line, as they come.

    The streams of one file are in the order in which a connection's messages came, by the headers that a feed's records have
    (``headrace.connection``, ``headrace.sequence``); where they have none, one stream's come behind another's.

    A line is the message to the byte. One that has a line's end in it, is empty, or is no JSON or no UTF-8 is kept as
    ``{"value_b64":"…"}``, and so is one that begins like that: ``jsonl://…?recorded=true`` gives each back as it came.

    Attributes:
        source: A live feed; closed by `run`.

        path: Where to. ``{stream}`` in it gives each stream a file; otherwise the records of what may be missing (streams
            whose name ends with ``.gaps``) have one of their own beside it: ``btc.jsonl`` and ``btc.gaps.jsonl``.

        for_s: End after so many seconds; None: when it is stopped.

        records: End after so many messages; None: no limit.

        observe: Called with the number of messages now and then, on the thread that writes.

        clock: Monotonic seconds.
    """

    source: Source
    path: str
    for_s: float | None = None
    records: int | None = None
    observe: Callable[[int], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    counts: dict[str, int] = attrs.field(factory=dict, init=False)
    """By file how many lines it got."""

    _files: dict[str, IO[bytes]] = attrs.field(factory=dict, init=False)
    _stopping: threading.Event = attrs.field(factory=threading.Event, init=False)
    _kept: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self.source.rereadable:
            raise ConfigError(
                "found a source that can be read again, expected a live feed: there is nothing to keep of it"
            )
        if self.path.endswith(_COMPRESSED):
            raise ConfigError(f"{self.path}: a recording is written as plain text; compress it when it is done")
        if STREAM not in self.path:
            for name in (self.path, self._path_of(_GAPS)):
                self._check(Path(name))

    def run(self) -> Mapping[str, int]:
        """
        Record until the end that was asked for, or until `stop`. What was written is on the disk when this returns or raises.

        Returns:
            By file how many lines it got.

        Raises:
            ConfigError: A file exists already, or the feed refuses us.
            SinkUnavailableError: A file cannot be written.
        """
        began_s = self.clock()
        try:
            while not self._done(began_s):
                self._write(self.source.poll(self, _POLL_S))
                self.observe(self._kept)
            while rest := self.source.finish():
                self._write(rest)
        finally:
            self.source.close()
            for file in self._files.values():
                file.close()
        return self.counts

    def stop(self) -> None:
        """End soon. For another thread."""
        self._stopping.set()

    # ---- the owner, as the source sees it -----------------------------------------------------------------

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        """Take all of it, from now on."""
        return {partition: Start(0, None, number) for number, partition in enumerate(hints)}

    def release(self, partitions: Iterable[Partition]) -> None:
        """Nothing: a feed is not taken away."""

    def lost(self, partitions: Iterable[Partition]) -> None:
        """Nothing: a feed is not taken away."""

    # ---- writing ------------------------------------------------------------------------------------------

    def _done(self, began_s: float) -> bool:
        late = self.for_s is not None and self.clock() - began_s >= self.for_s
        return self._stopping.is_set() or late or (self.records is not None and self._kept >= self.records)

    def _write(self, events: Sequence[Event]) -> None:
        hints: dict[Partition, Hint] = {}
        by_file: dict[str, list[Batch]] = {}
        for batch in events:
            assert isinstance(batch, Batch), "a feed says nothing else"  # noqa: S101 - of the interface
            by_file.setdefault(self._path_of(batch.partition.stream), []).append(batch)
            hints[batch.partition] = Hint(batch.end)
        for name, batches in by_file.items():
            self._lines(name, in_order(batches))
        self._kept += sum(len(b) for b in events if isinstance(b, Batch) and not b.partition.stream.endswith(_GAPS))
        if hints:
            self.source.acknowledge(hints)

    def _lines(self, name: str, values: Sequence[bytes | None]) -> None:
        try:
            file = self._files.get(name) or self._open(name)
            file.write(b"".join(line(value) + b"\n" for value in values))
            file.flush()
            os.fsync(file.fileno())
        except OSError as exc:
            raise SinkUnavailableError(f"{name}: cannot be written ({exc.strerror})") from exc
        self.counts[name] = self.counts.get(name, 0) + len(values)

    def _path_of(self, stream: str) -> str:
        if STREAM in self.path:
            return self.path.replace(STREAM, stream)
        if stream.endswith(_GAPS):
            path = Path(self.path)
            return str(path.with_name(f"{path.stem}{_GAPS}{path.suffix}"))
        return self.path

    def _open(self, name: str) -> IO[bytes]:
        self._check(Path(name))
        file = self._files[name] = Path(name).open("xb")  # noqa: SIM115 - until `run` ends
        return file

    @staticmethod
    def _check(path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path}: is there already; a recording is not mixed with another one: take another name")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}")


def in_order(batches: Sequence[Batch]) -> Sequence[bytes | None]:
    """
    Return the values of several streams as they came: of each connection by its numbers, one connection behind the other.

    A stream alone is in its order already. Where a record says nothing of where it came from, one stream is behind the other.
    """
    values = [value for batch in batches for value in batch.values]
    if len(batches) == 1:
        return values
    numbers: list[int] = []
    connections: list[bytes] = []
    first: dict[bytes, int] = {}  # when the first record of each was received
    for batch in batches:
        connection: bytes | None = None
        for headers in batch.headers or [None] * len(batch):
            said = dict(headers or ())
            try:
                numbers.append(int(said[_SEQUENCE] or b""))
                if said[_CONNECTION] != connection:
                    connection, received_ns = said[_CONNECTION], int(said[_RECEIVED] or b"")
                    first[connection or b""] = min(received_ns, first.get(connection or b"", received_ns))
            except (KeyError, ValueError):
                return values
            connections.append(connection or b"")
    order: Sequence[Any] = numbers
    if len(first) > 1:
        order = [(first[c], c, number) for c, number in zip(connections, numbers, strict=True)]
    return [values[i] for i in sorted(range(len(values)), key=order.__getitem__)]


class _Wrapped(msgspec.Struct, forbid_unknown_fields=True):
    value_b64: bytes | None


_BEGIN = b'{"value_b64":'
_wrapped = msgspec.json.Decoder(_Wrapped)


def line(value: bytes | None) -> bytes:
    """Return a value as one line, of which `unwrapped` makes the value again."""
    if value is None:
        return _BEGIN + b"null}"
    try:
        msgspec.json.decode(value)
        value.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    else:
        if b"\n" not in value and b"\r" not in value and not value.startswith(_BEGIN):
            return value
    return b'%s"%s"}' % (_BEGIN, base64.b64encode(value))


def unwrapped(text: bytes) -> bytes | None:
    """Return the value of a line of a recording."""
    if not text.startswith(_BEGIN):
        return text
    try:
        return _wrapped.decode(text).value_b64
    except msgspec.MsgspecError:  # no recording wrote it
        return text

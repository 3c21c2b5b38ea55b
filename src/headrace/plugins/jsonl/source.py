"""Reads a file of JSON lines or CSV as a stream of one partition, at full speed or at the pace of its records."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Literal

import attrs

from headrace.errors import ConfigError, IdentityError
from headrace.logs import event as log_event
from headrace.plugins.jsonl.fields import Fields, Unit
from headrace.plugins.jsonl.file import COMPRESSED, Mark, RecordFile, State
from headrace.plugins.jsonl.lines import JsonLines
from headrace.plugins.jsonl.pace import Pace
from headrace.plugins.jsonl.rows import Csv
from headrace.recording import unwrapped
from headrace.records import Batch, Event, Extent, Failed, Identity, Partition, Reached, Start
from headrace.source import Owner, Source

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

_log = logging.getLogger("headrace.jsonl")

_WAITS_IN_VAIN_S = 5.0


@attrs.frozen
class _Counted:
    """What was found when the file was last counted."""

    state: State
    records: int
    identity: str


@attrs.define(kw_only=True, eq=False)
class JsonlSource(Source):
    """
    The records of one file, as partition 0 of one stream.

    An offset is a line's number in the file, or a CSV row's, from 0; an empty line has a number and holds no record. The
    value of a record is the line, byte for byte, whether it is JSON or not; a CSV row becomes a JSON object. The file is
    known by its first record: another one in its place is refused, and so is one without any record. Whether a file of the same
    first record is the same one is noticed only while it is followed; between two runs it is yours to know.

    Without *follow* the file is taken to be whole: a last line counts even if nothing ends it.

    Attributes:
        path: Local, or a URL that fsspec opens; ``.gz``, ``.bz2``, ``.xz`` and ``.zst`` are decompressed.

        stream: The stream's name; the file's name up to its first dot unless given.

        format: "auto" goes by the suffix: CSV for ``.csv``, otherwise JSON lines.

        key: The field whose value is the record's key: a text's own bytes, anything else as its JSON.

        timestamp: The field whose value is its time: ISO-8601 text (UTC unless it names a zone), or a number since the
            epoch. A record without one has -1, of the type "none".

        timestamp_unit: Of a number; "auto" tells by its size.

        pace: 1 replays the records at the pace at which they were made, 10 ten times as fast; 0 at full speed.

        follow: Read on as the file grows; a last line counts only when it is ended.

        look_every_s: How often a followed file is looked at.

        recorded: The file was written by ``headrace record``: what that had to wrap, ``{"value_b64":"…"}``, is given back as it
            came.

        columns: Names of the columns of a CSV file that has no line of names, divided by commas.

        text: Columns of a CSV file that are text even where they look like numbers, divided by commas.

        client_settings: Options of fsspec.

        clock: Monotonic seconds.

        sleep: Waits so many seconds.
    """

    path: str
    stream: str = ""
    format: Literal["auto", "jsonl", "csv"] = "auto"
    key: str = ""
    timestamp: str = ""
    timestamp_unit: Unit = "auto"
    pace: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    follow: bool = False
    look_every_s: float = 0.05
    recorded: bool = False
    columns: str = ""
    text: str = ""
    client_settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    _file: RecordFile = attrs.field(init=False, repr=False)
    _fields: Fields = attrs.field(init=False, repr=False)
    _pace: Pace = attrs.field(init=False, repr=False)
    _partition: Partition = attrs.field(init=False)
    _assigned: bool = attrs.field(default=False, init=False)
    _start: Start | None = attrs.field(default=None, init=False)  # None: paused, or nothing was assigned yet
    _assignment: int = attrs.field(default=-1, init=False)  # of what is open
    _next: int = attrs.field(default=0, init=False)  # what the owner knows of
    _mark: Mark = attrs.field(default=Mark(0, 0), init=False)  # the end of what was read
    _open: IO[bytes] | None = attrs.field(default=None, init=False, repr=False)
    _chunks: Iterator[tuple[list[bytes], Mark]] | None = attrs.field(default=None, init=False, repr=False)
    _ahead: Batch | None = attrs.field(default=None, init=False, repr=False)  # read, and not due yet
    _ended: State | None = attrs.field(default=None, init=False)  # of a followed file when its end was read
    _tail: bytes = attrs.field(default=b"", init=False, repr=False)  # what stood before that end
    _looked_s: float = attrs.field(default=0.0, init=False)
    _identity: str = attrs.field(default="", init=False)
    _counted: _Counted | None = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _waits_since_s: float | None = attrs.field(default=None, init=False)  # at the end of a file
    _said: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.pace and not self.timestamp:
            raise ConfigError(
                f"{self.path}: pace={self.pace:g} needs the field that holds a record's time: timestamp=NAME"
            )
        columns, text = (tuple(n for n in names.split(",") if n) for names in (self.columns, self.text))
        common = {"path": self.path, "options": self.client_settings, "follow": self.follow}
        if self._is_csv() and self.recorded:
            raise ConfigError(f"{self.path}: a recording is a file of JSON lines, and this is read as CSV")
        if self._is_csv():
            self._file = Csv(**common, columns=columns, text=text)  # type: ignore[arg-type]
        elif columns or text:
            raise ConfigError(
                f"{self.path}: columns and text are settings of a CSV file, and this is read as JSON lines"
            )
        else:
            self._file = JsonLines(**common)  # type: ignore[arg-type]
        self._fields = Fields(self.key, self.timestamp, self.timestamp_unit)
        self._pace = Pace(self.pace, self.clock)
        self._partition = Partition(self.stream or PurePosixPath(self.path).name.split(".")[0], 0)

    def _is_csv(self) -> bool:
        suffixes = [s.lower() for s in PurePosixPath(self.path).suffixes if s not in COMPRESSED]
        return self.format == "csv" or (self.format == "auto" and suffixes[-1:] == [".csv"])

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> JsonlSource:
        """
        Make the source of ``jsonl:///ticks.jsonl?key=symbol``, or ``csv:///ticks.txt?columns=symbol,price``.

        ``jsonl://?path=s3://bucket/ticks.jsonl`` reads from elsewhere; a setting with a dot, ``fs.anon=true``, is fsspec's.
        """
        path = uri.settings.get("path", "")
        if uri.host or bool(path) == bool(uri.path.strip("/")):
            raise ConfigError(
                f"found {uri}, expected {uri.scheme}:///absolute/path (three slashes), or {uri.scheme}://?path=URL for a"
                " file that is not on this machine"
            )
        found = uri.fields(cls, dotted="client_settings", leave=("path",))
        found["client_settings"] = {n.removeprefix("fs."): v for n, v in found.get("client_settings", {}).items()}
        if uri.scheme == "csv":
            found.setdefault("format", "csv")
        return cls(path=path or uri.path, **found)

    # ---- the source's interface ---------------------------------------------------------------------------

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        if not self._assigned and not self._assign(owner):
            self.sleep(timeout_s)
            return []
        if self._start is None:
            self.sleep(timeout_s)
            return []
        try:
            batch = self._ahead or self._read()
        except IdentityError as error:
            assignment, self._start = self._start.assignment, None
            return [Failed(self._partition, assignment, error)]
        if batch is not None:
            return self._due(batch, timeout_s)
        told, self._next = self._next, self._mark.record
        if told == self._next:
            self._say_that_nothing_comes()
            self.sleep(timeout_s)
        return [Reached(self._partition, self._start.assignment, self._next, at_end=True)]

    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        if self._partition not in starts:
            return
        start = starts[self._partition]
        if start is not None and (start.offset or 0, start.assignment) != (self._next, self._assignment):
            self._rewind(start.offset or 0)
            self._assignment = start.assignment
        self._start = start

    def extents(self) -> Mapping[Partition, Extent]:
        with self._lock:
            counted = self._counted
            state = self._file.state()
            if counted is None or counted.state != state:
                counted = self._counted = self._count(state)
        identity = Identity("file", counted.identity, "read_uncommitted", 1)
        return {self._partition: Extent(0, counted.records, counted.records, identity)}

    def reread(self, partition: Partition, start: int, end: int, *, aborted: bool = False) -> Iterator[Batch]:
        if partition != self._partition:
            raise ConfigError(f"{self.path}: found {partition}, expected {self._partition}")
        if start >= end:
            return
        mark = self._file.find(start)
        with self._file.open(mark) as file:  # one of its own: the file's index is safe, nothing else is shared
            for values, after in self._file.read(file, mark):
                kept = values[: len(values) - max(0, after.record - end)]
                batch = self._batch(kept, Mark(after.record - len(values) + len(kept), after.byte), start, 0)
                if batch is not None:
                    yield batch
                    start = batch.end
                if after.record >= end:
                    return

    def close(self) -> None:
        self._rewind(0)
        self._start = None

    # ---- the file as a whole ------------------------------------------------------------------------------

    def _assign(self, owner: Owner) -> bool:
        """Take the partition over; False while a followed file has no record that it could be known by."""
        identity = self._file.identity()
        if identity is None:
            if self.follow:
                return False
            raise self._empty()
        self._identity = identity
        self.move(owner.assigned({self._partition: None}))
        self._assigned = True
        return True

    def _count(self, state: State) -> _Counted:
        """Count what was not counted yet; all of it where the file is another one."""
        identity = self._file.identity()
        if identity is None:
            raise self._empty()
        before = self._counted
        if before is not None and (before.identity != identity or state.size < before.state.size):
            self._file.index.clear()
        return _Counted(state, self._file.find().record, identity)

    def _empty(self) -> ConfigError:
        return ConfigError(
            f"{self.path}: holds no record, and a file is known by its first; follow=true waits for one to be appended"
        )

    # ---- reading ------------------------------------------------------------------------------------------

    def _say_that_nothing_comes(self) -> None:
        """Whoever still asks a while after the end of a file that is not followed waits in vain: once, so that it is known."""
        now_s = self.clock()
        if self._waits_since_s is None:
            self._waits_since_s = now_s
        if not self.follow and not self._said and now_s - self._waits_since_s >= _WAITS_IN_VAIN_S:
            self._said = True
            advice = "follow=true reads on as it grows; --until-end ends here"
            log_event(_log, logging.WARNING, "end of file", path=self.path, records=self._next, advice=advice)

    def _rewind(self, position: int) -> None:
        """Forget what was read; the next read begins at *position*."""
        if self._open is not None:
            self._open.close()
        self._open, self._chunks, self._ahead, self._ended = None, None, None, None
        self._next, self._waits_since_s = position, None

    def _read(self) -> Batch | None:
        """The next batch; None at the end of the file."""
        if self._ended is not None and not self._grew(self._ended):
            return None
        if self._chunks is None:
            self._mark = self._file.find(self._next)
            if self._mark.record < self._next:
                raise self._replaced(f"ends at {self._mark.record}, before {self._next}")
            self._chunks = self._from(self._mark)
        state = self._file.state() if self.follow else None
        for values, end in self._chunks:
            batch = self._batch(values, end, self._next, self._assignment)
            self._mark = end
            if batch is not None:
                return batch
        self._ended = state
        self._tail = self._file.tail(self._mark) if self.follow else b""
        return None

    def _from(self, mark: Mark) -> Iterator[tuple[list[bytes], Mark]]:
        self._open = self._file.open(mark)
        return self._file.read(self._open, mark)

    def _grew(self, ended: State) -> bool:
        """Whether a followed file is to be read on; looked up not too often."""
        now = self.clock()
        if now - self._looked_s < self.look_every_s:
            return False
        self._looked_s = now
        state = self._file.state()
        if state == ended:
            return False
        if state.size < ended.size:
            raise self._replaced(f"has {state.size} bytes, it had {ended.size}")
        if self._file.identity() != self._identity:
            raise self._replaced("begins with another record")
        if self._file.tail(self._mark) != self._tail:
            raise self._replaced(f"holds other bytes before record {self._mark.record}, up to which it was read")
        if self._open is not None:
            self._open.close()
        self._chunks, self._ended = self._from(self._mark), None
        return True

    def _replaced(self, what: str) -> IdentityError:
        return IdentityError(
            f"{self.path}: {what}: it was cut back or replaced while it was read; give a new file a new epoch"
        )

    def _batch(self, values: list[bytes], end: Mark, start: int, assignment: int) -> Batch | None:
        """The records of a chunk as columns; None where all its lines are empty."""
        offsets: Sequence[int] = range(end.record - len(values), end.record)
        if not all(values):
            offsets = [offset for offset, value in zip(offsets, values, strict=True) if value]
            values = [value for value in values if value]
            if not values:
                return None
        kept = list(map(unwrapped, values)) if self.recorded else values
        values = [value or b"" for value in kept] if self.recorded else values
        keys, stamps = self._fields.of(values)
        timed = stamps if not self.timestamp or min(stamps) < 0 else None
        return Batch(
            partition=self._partition,
            assignment=assignment,
            leader_epoch=None,
            start=start,
            end=offsets[-1] + 1,
            offsets=offsets,
            timestamps_ms=stamps,
            keys=keys,
            values=kept,
            headers=None,
            timestamp_types=None if timed is None else ["none" if ms < 0 else "create" for ms in timed],
            nbytes=sum(map(len, values)) + (sum(len(key) for key in keys if key) if self.key else 0),
        )

    def _due(self, batch: Batch, timeout_s: float) -> list[Event]:
        """What of *batch* is due; the rest is kept for later."""
        wait_s = self._pace.wait_s(batch)
        if wait_s > 0:
            self.sleep(min(wait_s, timeout_s))
        count = self._pace.due(batch)
        if count == len(batch):
            due, self._ahead = batch, None
        elif count:
            due, self._ahead = batch.split(count)
        else:
            self._ahead = batch
            return []
        self._next = due.end
        return [due]

"""
An independent reader of a lake: from names and bytes alone, without a line of the code that it checks.

It knows what is published: where segments lie, that they are gzip files of JSON lines, what a line means, and that notes name
accepted losses. It does not know how positions are found, nor when a write is allowed. So a fault there cannot hide here.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import attrs

from headrace.records import Hint, Record
from headrace.store import Store
from headrace.testing.log import Entry, MemoryLog, PartitionLog

Kind = Literal[
    "duplicate", "overlap", "broken chain", "silent gap", "foreign", "changed", "corrupt", "mixed", "acknowledged"
]

_KEY = re.compile(r"partition=(\d+)/(\d{20})\.jsonl\.gz")
_NOTE = re.compile(r"_headrace/gaps/partition=(\d+)/(\d{20})-(\d{20})\.json")
_TRAILER = re.compile(rb"headrace segment 1 ([0-9a-f]{64}) (\{.*\} *\n)", re.DOTALL)
_TRAILER_BYTES = 1024


@attrs.frozen
class StoredSegment:
    """
    One object, as its name and its lines say.

    Attributes:
        key: In the store.

        start: From its name.

        end: Its last record's offset + 1.

        records: In the order of the lines.

        fault: What its trailer says otherwise; "" where they agree.
    """

    key: str
    start: int
    end: int
    records: tuple[Record, ...]
    fault: str = ""

    @property
    def offsets(self) -> list[int]:
        return [record.offset for record in self.records]


@attrs.frozen
class StoredPartition:
    """
    What a lake holds of one partition.

    Attributes:
        segments: Ascending by their names.

        notes: ``(from, to)`` of accepted losses.
    """

    segments: tuple[StoredSegment, ...] = ()
    notes: tuple[tuple[int, int], ...] = ()

    @property
    def records(self) -> list[Record]:
        return [record for segment in self.segments for record in segment.records]


@attrs.frozen
class Finding:
    """
    One thing that is wrong.

    Attributes:
        kind: What.

        partition: Its number.

        start: The first offset that it is about.

        end: Behind the last one.

        message: In words.
    """

    kind: Kind
    partition: int
    start: int
    end: int
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: partition {self.partition} [{self.start}, {self.end}): {self.message}"


# ---- reading --------------------------------------------------------------------------------------------------


def objects_of(store: Store, prefix: str = "") -> dict[str, bytes]:
    """Read every object of a store, page by page."""
    found: dict[str, bytes] = {}
    after, more = "", True
    while more:
        page = store.list(prefix, after)
        for item in page.objects:
            body = store.read(item.key)
            if body is not None:
                found[item.key] = body
            after = item.key
        more = page.truncated
    return found


def objects_in(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_lake(objects: Mapping[str, bytes], stream: str, epoch: str = "") -> dict[int, StoredPartition]:
    """Read what readers who glob ``partition=*/*.jsonl.gz`` of this dataset see, and its notes."""
    root = _root(stream, epoch)
    segments: dict[int, list[StoredSegment]] = {}
    notes: dict[int, list[tuple[int, int]]] = {}
    for key in sorted(k for k in objects if k.startswith(root)):
        inside = key.removeprefix(root)
        if found := _KEY.fullmatch(inside):
            segments.setdefault(int(found[1]), []).append(read_segment(key, int(found[2]), objects[key]))
        elif found := _NOTE.fullmatch(inside):
            notes.setdefault(int(found[1]), []).append((int(found[2]), int(found[3])))
    return {
        number: StoredPartition(tuple(segments.get(number, ())), tuple(notes.get(number, ())))
        for number in sorted({*segments, *notes})
    }


def pinned_topic(objects: Mapping[str, bytes], stream: str, epoch: str = "") -> str | None:
    """Read which topic id a dataset is pinned to; None where it has no pin."""
    pin = objects.get(f"{_root(stream, epoch)}_headrace/dataset.json")
    return None if pin is None else json.loads(pin)["topic"]


def _root(stream: str, epoch: str) -> str:
    return quote(stream, safe="").replace("~", "%7E") + (f"~{epoch}" if epoch else "") + "/"


@functools.lru_cache(maxsize=4096)
def read_segment(key: str, start: int, body: bytes) -> StoredSegment:
    """Read one object."""
    lines = gzip.decompress(body).split(b"\n")
    assert not lines[-1], f"{key}: its last line is not ended"
    records = tuple(read_line(line) for line in lines[:-1])
    segment = StoredSegment(key, start, records[-1].offset + 1 if records else start, records)
    return attrs.evolve(segment, fault=_fault(segment, body))


def read_line(line: bytes) -> Record:
    """Rebuild a record from its line, to the byte."""
    fields: dict[str, Any] = json.loads(line)
    headers = tuple(
        ((_bytes(h, "key") or b"").decode("utf-8", "surrogateescape"), _bytes(h, "value"))
        for h in fields["headers"] or ()
    )
    if "value_b64" in fields:
        value: bytes | None = base64.b64decode(fields["value_b64"], validate=True)
    else:
        # the last field, its bytes unchanged: a parser would lose digits and order
        value = line[line.index(b'"value":', _end_of_headers(line)) + len(b'"value":') : -1]
        value = None if value == b"null" else value
    stamp = fields.get("timestamp_type", "create")
    return Record(fields["offset"], fields["timestamp_ms"], _bytes(fields, "key"), value, headers, stamp)


def _bytes(fields: Mapping[str, Any], name: str) -> bytes | None:
    if f"{name}_b64" in fields:
        return base64.b64decode(fields[f"{name}_b64"], validate=True)
    text = fields[name]
    return None if text is None else str(text).encode()


def _end_of_headers(line: bytes) -> int:
    """Find where the headers end: the value is what follows them; a header may hold the text ``"value":`` as well."""
    decoder, text = json.JSONDecoder(), line.decode()
    at = 1
    while True:
        name, at = decoder.raw_decode(text, at)
        if name == "value":
            return len(text[:at].encode()) - len(b'"value"')
        _, at = decoder.raw_decode(text, at + 1)
        at += 1


def _fault(segment: StoredSegment, body: bytes) -> str:
    """Compare the trailer with the lines."""
    found = _TRAILER.search(body[-_TRAILER_BYTES:])
    if found is None:
        return "no trailer"
    says, offsets = json.loads(found[2]), segment.offsets
    expected: dict[str, object] = {
        "start": segment.start,
        "end": segment.end,
        "first": offsets[0] if offsets else None,
        "records": len(offsets),
        "min_ms": min((r.timestamp_ms for r in segment.records), default=None),
        "max_ms": max((r.timestamp_ms for r in segment.records), default=None),
        "sha256": hashlib.sha256(body[:-_TRAILER_BYTES]).hexdigest(),
    }
    wrong = [
        f"{name} is {says.get(name)!r}, the lines say {value!r}"
        for name, value in expected.items()
        if says.get(name) != value
    ]
    if hashlib.sha256(found[2]).hexdigest().encode() != found[1]:
        wrong.append("its checksum does not hold")
    return "trailer: " + "; ".join(wrong) if wrong else ""


# ---- comparing ------------------------------------------------------------------------------------------------


@attrs.frozen
class Oracle:
    """
    What a lake may hold of a log, at any moment.

    Attributes:
        deleted: By partition, the segments that were deleted on purpose: they count as stored.
    """

    deleted: Mapping[int, Sequence[StoredSegment]] = attrs.field(factory=dict)

    def check(self, lake: Mapping[int, StoredPartition], logs: Mapping[int, PartitionLog]) -> list[Finding]:
        """
        Say what is wrong with the lake: nothing, if every record is there at most once, unchanged, in one unbroken chain.

        What is not stored yet is not wrong, as long as it lies behind the chain's end.
        """
        found: list[Finding] = []
        for number, stored in lake.items():
            log = logs.get(number, PartitionLog())
            found += self._chain(number, stored)
            for segment in stored.segments:
                found += self._segment(number, segment, stored, log)
            found += self._mixed(number, stored, log)
        return found

    def _chain(self, number: int, stored: StoredPartition) -> Iterable[Finding]:
        deleted = tuple(self.deleted.get(number, ()))
        seen: set[int] = set()
        position = 0
        for segment in sorted((*deleted, *stored.segments), key=lambda s: s.start):
            again = sorted(seen.intersection(segment.offsets))
            if again:
                yield Finding("duplicate", number, again[0], again[-1] + 1, f"{segment.key} repeats records")
            elif segment.start < position:
                yield Finding(
                    "overlap", number, segment.start, position, f"{segment.key} begins inside the segment before"
                )
            elif segment.start > position:
                yield Finding("broken chain", number, position, segment.start, f"nothing leads to {segment.key}")
            seen.update(segment.offsets)
            position = max(position, segment.end)

    def _segment(
        self, number: int, segment: StoredSegment, stored: StoredPartition, log: PartitionLog
    ) -> Iterable[Finding]:
        def told(kind: Kind, offset: int, message: str) -> Finding:
            return Finding(kind, number, offset, offset + 1, f"{segment.key}: {message}")

        offsets = segment.offsets
        if segment.fault or not offsets:
            yield told("corrupt", segment.start, segment.fault or "it holds no record")
            return
        if offsets != sorted(set(offsets)) or offsets[0] < segment.start:
            yield told("corrupt", segment.start, f"offsets are {offsets}")
        for record in segment.records:
            entries = _ever(log, record.offset)
            if not any(entry.record is not None for entry in entries):
                yield told("foreign", record.offset, "the log never had it")
            elif not any(entry.record == record and entry.fate in ("record", "compacted") for entry in entries):
                yield told("changed", record.offset, f"found {record}, the log had {[e.record for e in entries]}")
        noted = {o for start, end in stored.notes if start == segment.start for o in range(start, end)}
        last = max((e.born for r in segment.records for e in _ever(log, r.offset) if e.record == r), default=0)
        for offset in sorted({*range(segment.start, min(segment.end, log.high))} - {*offsets} - noted):
            entry = log.entries[offset]
            before_the_first = segment.start == 0 and offset < min(offsets[0], log.low)
            # what was appended after a cut was not there when this was read
            if entry.fate == "record" and entry.born < last and not before_the_first:
                yield told("silent gap", offset, "a record is in its range and not in it")

    def _mixed(self, number: int, stored: StoredPartition, log: PartitionLog) -> Iterable[Finding]:
        """Find records that were cut off, with others behind them that were only appended after the cut (B21)."""
        entries = [(r, e) for r in stored.records for e in _ever(log, r.offset) if e.record == r]
        for record, entry in entries:
            later = [
                r.offset
                for r, e in entries
                if entry.cut is not None and e.born > entry.cut and r.offset > record.offset
            ]
            if later:
                message = f"it was cut off, and {later[0]} was appended after that"
                yield Finding("mixed", number, record.offset, record.offset + 1, message)

    def missing(self, lake: Mapping[int, StoredPartition], logs: Mapping[int, PartitionLog]) -> list[Finding]:
        """Say which readable records are not stored, nor noted: what must be empty when all is done."""
        found: list[Finding] = []
        for number, log in logs.items():
            stored = lake.get(number, StoredPartition())
            segments = [*self.deleted.get(number, ()), *stored.segments]
            there = {offset for segment in segments for offset in segment.offsets}
            noted = {o for start, end in stored.notes for o in range(start, end)}
            found += [
                Finding("silent gap", number, offset, offset + 1, "it can be read and is not stored")
                for offset in range(log.low, log.end)
                if log.entries[offset].fate == "record" and offset not in there and offset not in noted
            ]
        return found

    def acknowledged(
        self, lake: Mapping[int, StoredPartition], log: PartitionLog, number: int, hint: Hint
    ) -> list[Finding]:
        """
        Say which records below an acknowledged offset are stored nowhere (B27).

        What retention took before the first segment does not count; nor for a writer that has seen no segment yet.
        """
        stored = lake.get(number, StoredPartition())
        segments = [*self.deleted.get(number, ()), *stored.segments]
        there = {o for segment in segments for o in segment.offsets}
        noted = {o for start, end in stored.notes for o in range(start, end)}
        first = log.high if hint.segment is None else min(there, default=log.high)
        return [
            Finding("acknowledged", number, o, o + 1, f"{hint.offset} was acknowledged and this is stored nowhere")
            for o in range(min(hint.offset, log.high))
            if log.entries[o].fate == "record" and o not in there | noted and not (o < log.low and o < first)
        ]


def check(log: MemoryLog, objects: Mapping[str, bytes], epoch: str = "") -> list[Finding]:
    """Compare a lake with a log that it was written from; empty where nothing is wrong."""
    return Oracle().check(read_lake(objects, log.stream, epoch), log.logs)


def _ever(log: PartitionLog, offset: int) -> list[Entry]:
    """Every entry that this offset ever had."""
    now = [log.entries[offset]] if offset < log.high else []
    return now + [e for e in log.lost if e.record is not None and e.record.offset == offset]

"""
Records as Arrow columns, written to Parquet row group by row group and read back to the byte. Imported where pyarrow is needed.

==================  ===========================  =========================================================================
column              type                         what
==================  ===========================  =========================================================================
``offset``          INT64                        its place in its partition
``timestamp_ms``    INT64                        milliseconds since the Unix epoch, UTC; -1 where there is none
``timestamp_type``  STRING                       "append" or "none"; null where the timestamp is the producer's
``key``             STRING                       null where it has none, or where its bytes are not UTF-8
``key_bytes``       bytes                        those bytes; else null
``headers``         LIST of four such fields     null where it has none: ``key``, ``key_bytes``, ``value``, ``value_bytes``
``value``           STRING                       the record's own JSON, its bytes unchanged; null where it is no JSON
``value_bytes``     bytes                        a value that is no JSON; else null. Both null: a tombstone
==================  ===========================  =========================================================================

A value is taken for JSON as in a line (`headrace.envelope`), but may have white space, and may be ``null``.
"""

from __future__ import annotations

import hashlib
import itertools
import operator
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import attrs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.envelope import encode, not_json
from headrace.errors import DataError
from headrace.formats.base import Content, Workers
from headrace.formats.parquet import END_BYTES, KEY, PLACEHOLDER, seal, seal_bytes
from headrace.records import Batch, Headers, Partition
from headrace.segment import Trailer

_TEXT_OR_BYTES = [
    pa.field("key", pa.string()),
    pa.field("key_bytes", pa.binary()),
    pa.field("value", pa.string()),
    pa.field("value_bytes", pa.binary()),
]
_HEADERS = pa.list_(pa.field("element", pa.struct(_TEXT_OR_BYTES)))

SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("timestamp_type", pa.string()),
        *_TEXT_OR_BYTES[:2],
        pa.field("headers", _HEADERS),
        *_TEXT_OR_BYTES[2:],
    ]
)

_NUMBERS = pa.array(range(4096), pa.int64())
_MOST_ROWS = 1 << 26
"""In one row group: what Arrow allows."""

_PIECE_BYTES = 1 << 20
_ARRAY_BYTES = 1 << 30
"""Text of one array is below 2 GiB."""


# ---- columns of a batch ---------------------------------------------------------------------------------------------


def rows(batch: Batch) -> pa.RecordBatch:
    """Make the columns of a batch of less than 1 GiB."""
    size = len(batch)
    keys, key_bytes = _texts(batch.keys)
    values, value_bytes = _jsons(batch.values)
    types = batch.timestamp_types
    columns = [
        _offsets(batch.offsets),
        pa.array(batch.timestamps_ms, pa.int64()),
        pa.nulls(size, pa.string()) if types is None else pa.array([None if t == "create" else t for t in types]),
        keys,
        key_bytes,
        pa.nulls(size, _HEADERS) if batch.headers is None else _headers(batch.headers),
        values,
        value_bytes,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _offsets(offsets: Sequence[int]) -> pa.Array:
    if isinstance(offsets, range) and len(offsets) <= len(_NUMBERS):
        return pc.add(_NUMBERS[: len(offsets)], offsets.start)
    return pa.array(list(offsets), pa.int64())


def _texts(contents: Sequence[bytes | None]) -> tuple[pa.Array, pa.Array]:
    try:
        # in two steps, which is faster: the second one checks that it is UTF-8
        return pa.array(contents, pa.binary()).cast(pa.string()), pa.nulls(len(contents), pa.binary())
    except pa.ArrowInvalid:
        return _apart(
            contents, [i for i, content in enumerate(contents) if content is not None and not _is_text(content)]
        )


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _jsons(values: Sequence[bytes | None]) -> tuple[pa.Array, pa.Array]:
    return _apart(values, others) if (others := not_json(values)) else _texts(values)


def _apart(contents: Sequence[bytes | None], others: Sequence[int]) -> tuple[pa.Array, pa.Array]:
    """Put the contents at the places *others* into the column of bytes."""
    texts: list[bytes | None] = list(contents)
    raws: list[bytes | None] = [None] * len(contents)
    for place in others:
        texts[place], raws[place] = None, contents[place]
    return pa.array(texts, pa.string()), pa.array(raws, pa.binary())


def _headers(headers: Sequence[Headers | None]) -> pa.Array:
    flat = [header for row in headers if row for header in row]
    names, name_bytes = _texts([name.encode("utf-8", "surrogatepass") for name, _ in flat])
    values, value_bytes = _texts([value for _, value in flat])
    structs = pa.StructArray.from_arrays([names, name_bytes, values, value_bytes], fields=_TEXT_OR_BYTES)
    ends = itertools.accumulate((len(row) if row else 0 for row in headers), initial=0)
    # a list that begins at null is null
    starts = [start if row else None for start, row in zip(ends, headers, strict=False)]
    return pa.ListArray.from_arrays(pa.array([*starts, len(flat)], pa.int32()), structs, type=_HEADERS)


# ---- writing --------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Pieces:
    """A file for Arrow's writer that keeps what it is given."""

    pieces: list[bytes] = attrs.field(factory=list)
    nbytes: int = 0
    closed: bool = False

    def write(self, piece: bytes) -> int:
        self.pieces.append(piece)
        self.nbytes += len(piece)
        return len(piece)

    def take(self) -> list[bytes]:
        taken, self.pieces, self.nbytes = self.pieces, [], 0
        return taken

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@attrs.define(eq=False)
class Columns(Content):
    """Records become columns as they come; a worker writes them as a row group where they are enough for one."""

    _codec: str
    _workers: Workers
    _row_group_bytes: int
    _rows: list[pa.RecordBatch] = attrs.field(factory=list, init=False)
    _rows_bytes: int = attrs.field(default=0, init=False)
    _groups: deque[list[pa.RecordBatch]] = attrs.field(factory=deque, init=False)
    _groups_bytes: int = attrs.field(default=0, init=False)
    _writes: list[Future[None]] = attrs.field(factory=list, init=False)
    _file: _Pieces = attrs.field(factory=_Pieces, init=False)
    _writer: pq.ParquetWriter | None = attrs.field(default=None, init=False)
    _body_bytes: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _writing: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _discarded: bool = attrs.field(default=False, init=False)

    @property
    def held_bytes(self) -> int:
        if self._discarded:
            return 0
        return self._rows_bytes + self._groups_bytes + self._file.nbytes + self._body_bytes

    def add(self, batch: Batch) -> None:
        while batch.nbytes > _ARRAY_BYTES and len(batch) > 1:
            one, batch = batch.split(1)
            self._take(rows(one))
        self._take(rows(batch))

    def finish(self, trailer: Callable[[str], Trailer]) -> bytes:
        if self._rows:
            self._cut()
        for write in self._writes:
            write.result()
        writer = self._opened()
        writer.add_key_value_metadata({KEY: PLACEHOLDER})
        writer.close()
        body = sealed(self._file.take(), trailer)
        self._writer, self._body_bytes = None, len(body)
        return body

    def discard(self) -> None:
        for write in self._writes:
            write.cancel()
        with self._lock:
            self._discarded = True
            self._rows, self._writes, self._file = [], [], _Pieces()
            self._groups.clear()

    def _take(self, taken: pa.RecordBatch) -> None:
        self._rows.append(taken)
        self._rows_bytes += taken.get_total_buffer_size()
        if self._rows_bytes >= self._row_group_bytes:
            self._cut()

    def _cut(self) -> None:
        """Hand a row group to a worker."""
        size = self._rows_bytes
        with self._lock:
            self._groups.append(self._rows)
            self._groups_bytes += size
        self._rows, self._rows_bytes = [], 0
        self._writes.append(self._workers.submit(lambda: self._write(size)))

    def _write(self, size: int) -> None:
        """Write the oldest row group that waits: whichever worker comes first, they are written in their order."""
        with self._writing:
            with self._lock:
                if self._discarded:
                    return
                group = self._groups.popleft()
            self._opened().write_table(pa.Table.from_batches(group, SCHEMA), row_group_size=_MOST_ROWS)
            del group
            with self._lock:
                self._groups_bytes -= size

    def _opened(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._file, mode="w"),
                SCHEMA,
                compression=self._codec,
                compression_level=1 if self._codec == "zstd" else None,
                use_dictionary=["key", "timestamp_type"],
                write_statistics=["offset", "timestamp_ms"],  # and nothing of a record's content in the footer
                write_page_checksum=True,
                store_schema=False,
            )
        return self._writer


def sealed(pieces: list[bytes], trailer: Callable[[str], Trailer]) -> bytes:
    """Join what Arrow wrote, with the trailer in its footer."""
    end = b""
    while len(end) < END_BYTES or len(end) < seal_bytes(end):
        end = pieces.pop() + end
    cut = len(end) - seal_bytes(end)
    pieces.append(end[:cut])
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b"".join([*pieces, seal(end[cut:], trailer(digest.hexdigest()))])


# ---- reading --------------------------------------------------------------------------------------------------------


def lines(body: bytes) -> Iterator[bytes]:
    """Yield JSON lines."""
    for batch in batches(body, Partition("", 0), 0, 0):
        yield encode(batch)


def batches(body: bytes, partition: Partition, assignment: int, start: int) -> Iterator[Batch]:
    """Yield batches of about 1 MiB."""
    for table in _pieces_of(body):
        batch = _batch(table, partition, assignment, start)
        start = batch.end
        yield batch


def _pieces_of(body: bytes) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(pa.BufferReader(body)) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise DataError(f"found columns {file.schema_arrow.names}, expected {SCHEMA.names}, each of its type")
            for number in range(file.num_row_groups):
                about = file.metadata.row_group(number)
                size = max(1, _PIECE_BYTES * about.num_rows // max(about.total_byte_size, 1))
                yield from file.iter_batches(size, row_groups=[number], use_threads=False)
    except (pa.ArrowException, OSError) as exc:  # Arrow's own errors, some of which are OSErrors
        raise DataError(f"found damaged Parquet data: {exc}") from exc


def _batch(table: pa.RecordBatch, partition: Partition, assignment: int, start: int) -> Batch:
    columns = dict(zip(SCHEMA.names, table.columns, strict=True))
    offsets, size = _integers(columns["offset"]), table.num_rows
    if not all(map(operator.lt, [start - 1, *offsets], offsets)):
        raise DataError(
            f"found offsets from {offsets[0]} to {offsets[-1]} after {start - 1} that do not ascend ({partition})"
        )
    first, end = offsets[0], offsets[-1] + 1
    keys, values = _either(columns, "key"), _either(columns, "value")
    headers, types = columns["headers"], columns["timestamp_type"]
    rows_of_headers = None if headers.null_count == size else _headers_of(headers)
    return Batch(
        partition=partition,
        assignment=assignment,
        leader_epoch=None,
        start=start,
        end=end,
        offsets=range(first, end) if end - first == size else offsets,
        timestamps_ms=_integers(columns["timestamp_ms"]),
        keys=keys,
        values=values,
        headers=rows_of_headers,
        timestamp_types=None if types.null_count == size else [t or "create" for t in types.to_pylist()],
        nbytes=sum(map(len, filter(None, keys)))
        + sum(map(len, filter(None, values)))
        + sum(len(name) + len(value or b"") for row in rows_of_headers or () if row for name, value in row),
    )


def _integers(column: pa.Array) -> list[int]:
    found: list[int] = memoryview(column.buffers()[1]).cast("q")[column.offset :][: len(column)].tolist()
    return found


def _contents(column: pa.Array) -> list[bytes | None]:
    """The bytes of each cell, without an object of Arrow's for each."""
    if column.null_count == len(column):
        return [None] * len(column)
    _, places, data = column.buffers()
    ends = memoryview(places).cast("i")[column.offset :][: len(column) + 1].tolist()
    content = b"" if data is None else data.slice(ends[0], ends[-1] - ends[0]).to_pybytes()
    cells = [content[a - ends[0] : b - ends[0]] for a, b in itertools.pairwise(ends)]
    if not column.null_count:
        return list(cells)
    return [cell if there else None for cell, there in zip(cells, column.is_valid().to_pylist(), strict=True)]


def _either(columns: Mapping[str, pa.Array], name: str) -> list[bytes | None]:
    """A content that is in one of two columns, as text or as bytes."""
    texts, raws = columns[name], columns[f"{name}_bytes"]
    if raws.null_count == len(raws):
        return _contents(texts)
    both = list(zip(_contents(texts), _contents(raws), strict=True))
    if any(text is not None and raw is not None for text, raw in both):
        raise DataError(f"found a record with both {name} and {name}_bytes, expected one of them")
    return [raw if text is None else text for text, raw in both]


def _headers_of(column: pa.ListArray) -> list[tuple[tuple[str, bytes | None], ...] | None]:
    structs = column.values
    fields = {field.name: structs.field(i) for i, field in enumerate(_TEXT_OR_BYTES)}
    names = [name.decode("utf-8", "surrogatepass") for name in _either(fields, "key") if name is not None]
    if len(names) < len(structs):
        raise DataError("found a header without a name, expected text or bytes")
    pairs = list(zip(names, _either(fields, "value"), strict=True))
    ends = column.offsets.to_pylist()
    return [tuple(pairs[a:b]) or None for a, b in itertools.pairwise(ends)]

"""A file of comma-separated values: a record a row, as a JSON object."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, ClassVar

import attrs
import msgspec

from headrace.errors import ConfigError
from headrace.plugins.jsonl.file import BOM, CHUNK_RECORDS, Mark, RecordFile

_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_A_NUMBER = re.compile(_NUMBER)
"""RFC 8259, section 6: what may stand in JSON as a number, with its text unchanged."""
_NUMBERS = re.compile(rf"{_NUMBER}(?:\n{_NUMBER})*+")
_CELL_BYTES = 1 << 30


@attrs.frozen
class _Shape:
    """
    What makes objects of rows.

    Attributes:
        begin: Where the first row begins.

        names: Of the columns, as JSON with a colon.

        text: Which of them are text whatever they look like.
    """

    begin: Mark
    names: tuple[str, ...]
    text: tuple[bool, ...]

    def objects(self, rows: Sequence[Sequence[str]]) -> list[bytes]:
        """Rows that fit, none of them with a line's end in a cell. UnicodeEncodeError where one is not UTF-8."""
        columns = [_column(cells, text=text) for cells, text in zip(zip(*rows, strict=True), self.text, strict=True)]
        pattern = "{" + ",".join(name.replace("%", "%%") + "%s" for name in self.names) + "}"
        return "\n".join([pattern % row for row in zip(*columns, strict=True)]).encode().split(b"\n")

    def value(self, raw: bytes, row: Sequence[str] | None) -> bytes:
        """Any row: an object where it fits, its own bytes where it does not."""
        if row is not None and len(row) == len(self.names):
            cells = [name + _cell(c, text=t) for name, c, t in zip(self.names, row, self.text, strict=True)]
            try:
                return f"{{{','.join(cells)}}}".encode()
            except UnicodeEncodeError:
                pass
        return raw.removesuffix(b"\n").removesuffix(b"\r")


@attrs.define(eq=False)
class _Lines:
    """
    The lines that a CSV reader asks for, and what it has taken since it was looked at.

    Attributes:
        blocks: Of the file.

        taken: The lines of the row under way, as they stand in the file.

        ended: It asked for a line beyond the last one.
    """

    blocks: Iterator[bytes]
    taken: list[bytes] = attrs.field(factory=list)
    ended: bool = False
    _ready: Iterator[bytes] = attrs.field(factory=lambda: iter(()))
    _rest: list[bytes] = attrs.field(factory=list)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._ready, None)
        while line is None:
            block = next(self.blocks, None)
            if block is None:
                line, self._rest = b"".join(self._rest), []
                if line:
                    break
                self.ended = True
                raise StopIteration
            lines = block.split(b"\n")
            self._rest.append(lines[0])
            if len(lines) > 1:
                lines[0], self._rest = b"".join(self._rest), [lines.pop()]
                self._ready = iter([line + b"\n" for line in lines])
                line = next(self._ready)
        self.taken.append(line)
        return line.decode("utf-8", "surrogateescape")


@attrs.define(kw_only=True, eq=False)
class Csv(RecordFile):
    """
    One record a row (RFC 4180: commas, double quotes), its value a JSON object.

    A cell that is written as JSON writes a number is that number, with the same digits; an empty one is null; any other is
    text. A row that does not fit, with another number of cells or bytes that are not UTF-8, is kept byte for byte as it
    stands in the file, for the contract to refuse. An empty line has a number and holds no record; a line of names has none.

    Attributes:
        columns: Their names, where the file has no line of names.

        text: Columns whose cells are text whatever they look like, and never null.
    """

    columns: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    kind: ClassVar[str] = "comma-separated values"

    def read(self, file: IO[bytes], mark: Mark) -> Iterator[tuple[list[bytes], Mark]]:
        shape, mark = self._begin(file, mark)
        blocks, held = self._blocks(file), b""
        for block in blocks:
            data = held + block
            whole, newline, held = data.rpartition(b"\n")
            lines = _plain_lines(whole) if newline else []
            if lines is None:
                yield from self._read_rows(itertools.chain([data], blocks), mark, shape)
                return
            for i in range(0, len(lines), CHUNK_RECORDS):
                chunk = lines[i : i + CHUNK_RECORDS]
                mark = Mark(mark.record + len(chunk), mark.byte + sum(map(len, chunk)) + len(chunk))
                self.index.add(mark)
                yield _plain_values(shape, chunk), mark
        yield from self._read_rows(iter([held]), mark, shape)

    def _scan(self, file: IO[bytes], mark: Mark, position: int | None) -> Mark:
        if position is not None and position <= mark.record:
            return mark
        _, mark = self._begin(file, mark)
        blocks, data = self._blocks(file), b""
        for block in blocks:
            data += block
            whole, newline, rest = data.rpartition(b"\n")
            count = whole.count(b"\n") + len(newline)
            if b'"' in whole or (position is not None and mark.record + count >= position):
                break
            mark = Mark(mark.record + count, mark.byte + len(whole) + len(newline))
            self.index.add(mark)
            data = rest
        for _, _, end in self._rows(itertools.chain([data], blocks), mark):
            mark = end
            self.index.add(mark)
            if mark.record == position:
                break
        return mark

    def _begin(self, file: IO[bytes], mark: Mark) -> tuple[_Shape, Mark]:
        """Read the names, every time: the file may be another one by now. Then stand where the first row begins, or later."""
        with self.open() as again:
            start = again.read(len(BOM))
            begin, names = (len(BOM) if start == BOM else 0), self.columns
            again.seek(begin)
            if not names:
                raw, found = next(self._taken(self._blocks(again)), (b"", None))
                begin, names = begin + len(raw), tuple(found or ())
                if raw and not names:
                    raise ConfigError(
                        f"{self.path}: its first line holds no names; name the columns with columns=a,b,c"
                    )
        if mark.byte < begin:
            mark = Mark(0, begin)
            file.seek(begin)
        return self._shape(Mark(0, begin), names), mark

    def _shape(self, begin: Mark, names: tuple[str, ...]) -> _Shape:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"{self.path}: found column {', '.join(twice)} twice; name the columns with columns=a,b,c"
            )
        unknown = sorted(set(self.text) - set(names))
        if names and unknown:
            raise ConfigError(f"{self.path}: found no column {', '.join(unknown)}; it has {', '.join(names)}")
        try:
            encoded = tuple(msgspec.json.encode(name).decode() + ":" for name in names)
        except UnicodeEncodeError as exc:
            raise ConfigError(
                f"{self.path}: the names of its columns are not UTF-8; name them with columns=a,b,c"
            ) from exc
        return _Shape(begin, encoded, tuple(name in self.text for name in names))

    def _read_rows(self, blocks: Iterator[bytes], mark: Mark, shape: _Shape) -> Iterator[tuple[list[bytes], Mark]]:
        rows = self._rows(blocks, mark)
        while chunk := list(itertools.islice(rows, CHUNK_RECORDS)):
            end = chunk[-1][2]
            self.index.add(end)
            yield [shape.value(raw, row) for raw, row, _ in chunk], end

    def _rows(self, blocks: Iterator[bytes], mark: Mark) -> Iterator[tuple[bytes, list[str] | None, Mark]]:
        """Each row from *mark*: its bytes, its cells (None where there are none to be had), and the mark of its end."""
        record, byte = mark.record, mark.byte
        for raw, row in self._taken(blocks):
            record, byte = record + 1, byte + len(raw)
            yield raw, row, Mark(record, byte)

    def _taken(self, blocks: Iterator[bytes]) -> Iterator[tuple[bytes, list[str] | None]]:
        csv.field_size_limit(_CELL_BYTES)  # of the whole process: its default refuses cells that are in order
        lines = _Lines(blocks)
        reader = csv.reader(lines, strict=True)  # what is no CSV is kept as it stands, not mended
        while True:
            cells: list[str] | None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                cells = None
            raw = b"".join(lines.taken)
            lines.taken.clear()
            if self.follow and (lines.ended or not raw.endswith(b"\n")):
                return  # the row is not whole yet
            yield raw, cells


def _plain_lines(whole: bytes) -> list[bytes] | None:
    """The lines, where each is a row of its own and nothing in it needs care; None where a quote or the like is among them."""
    if b'"' in whole or (b"\r" in whole and whole.count(b"\r") != whole.count(b"\r\n") + whole.endswith(b"\r")):
        return None
    return whole.split(b"\n")


def _plain_values(shape: _Shape, lines: list[bytes]) -> list[bytes]:
    decoded = [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]
    rows = [line.split(",") if line else [] for line in decoded]
    if all(len(row) == len(shape.names) for row in rows):
        try:
            return shape.objects(rows)
        except UnicodeEncodeError:
            pass  # one of them is not UTF-8
    return [shape.value(line, row) for line, row in zip(lines, rows, strict=True)]


def _column(cells: Sequence[str], *, text: bool) -> Iterable[str]:
    """A column's cells as JSON; what occurs often is encoded once."""
    if not text and _NUMBERS.fullmatch("\n".join(cells)):
        return cells
    encoded = {cell: _cell(cell, text=text) for cell in set(cells)}
    return [encoded[cell] for cell in cells]


def _cell(cell: str, *, text: bool) -> str:
    if not text:
        if not cell:
            return "null"
        if _A_NUMBER.fullmatch(cell):
            return cell
    try:
        return msgspec.json.encode(cell).decode()
    except UnicodeEncodeError:
        return cell  # bytes that are not UTF-8: whoever encodes the row finds them

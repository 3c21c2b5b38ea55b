"""A file of JSON lines: a record a line, whatever stands in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, ClassVar

import attrs

from headrace.plugins.jsonl.file import BOM, CHUNK_RECORDS, Mark, RecordFile


@attrs.define(kw_only=True, eq=False)
class JsonLines(RecordFile):
    """
    One record a line; its value is the line's own bytes without the line's end, whether they are JSON or not.

    A line ends with a line feed, or a carriage return and a line feed. An empty line has a number and holds no record.
    """

    kind: ClassVar[str] = "JSON lines"

    def read(self, file: IO[bytes], mark: Mark) -> Iterator[tuple[list[bytes], Mark]]:
        record, byte, pieces = mark.record, mark.byte, list[bytes]()
        for block in self._blocks(file):
            lines = block.split(b"\n")
            pieces.append(lines[0])
            if len(lines) == 1:  # a line longer than a block
                continue
            returns = b"\r" in block or any(b"\r" in piece for piece in pieces)
            lines[0], pieces = b"".join(pieces), [lines.pop()]
            for i in range(0, len(lines), CHUNK_RECORDS):
                chunk = lines[i : i + CHUNK_RECORDS]
                end = Mark(record + len(chunk), byte + sum(map(len, chunk)) + len(chunk))
                self.index.add(end)
                yield self._values(chunk, first=record == 0, returns=returns), end
                record, byte = end.record, end.byte
        last = b"".join(pieces)
        if last and not self.follow:
            yield self._values([last], first=record == 0, returns=False), Mark(record + 1, byte + len(last))

    def _scan(self, file: IO[bytes], mark: Mark, position: int | None) -> Mark:
        if position == mark.record:
            return mark
        at = mark.byte
        for block in self._blocks(file):
            count = block.count(b"\n")
            if position is not None and mark.record + count >= position:
                inside = 0
                for _ in range(position - mark.record):
                    inside = block.find(b"\n", inside) + 1
                return Mark(position, at + inside)
            if count:
                mark = Mark(mark.record + count, at + block.rfind(b"\n") + 1)
                self.index.add(mark)
            at += len(block)
        return mark if self.follow or at == mark.byte else Mark(mark.record + 1, at)

    @staticmethod
    def _values(lines: list[bytes], *, first: bool, returns: bool) -> list[bytes]:
        if first:
            lines[0] = lines[0].removeprefix(BOM)
        return [line.removesuffix(b"\r") for line in lines] if returns else lines

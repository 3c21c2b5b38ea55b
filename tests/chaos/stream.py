"""
headrace's own command line with its log set to show each segment: ``python stream.py [--without RULE] stream SOURCE SINK …``.

A negative control names the protection that is taken away:

========= ===========================================================================================
condition A segment is written whether its name is free or not (B6)
hint      The group's committed offset is taken for the position (B11, B12)
base      After a refusal the end that was found is adopted, without fetching from there (B17, B26)
========= ===========================================================================================
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Literal

import s3fs

from headrace.cli import main
from headrace.commit import Holding
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Hint, Partition, Position


def without_condition() -> None:
    real = FileStore.create

    def create(self: FileStore, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if "/partition=" in key:
            (self.root / key).unlink(missing_ok=True)
        return real(self, key, body, metadata)

    FileStore.create = create

    call = s3fs.S3FileSystem._call_s3

    async def call_s3(self: s3fs.S3FileSystem, method: str, *arguments: object, **request: object) -> object:
        if method == "put_object" and "/partition=" in str(request["Key"]):
            del request["IfNoneMatch"]
        return await call(self, method, *arguments, **request)

    s3fs.S3FileSystem._call_s3 = call_s3


def without_look_up() -> None:
    def look_up(self: LakeSink, partition: Partition, hint: Hint | None) -> Position:
        chain, offset = self._chain(partition.stream), 0 if hint is None else hint.offset
        segment = None if hint is None else hint.segment
        return Position(offset, segment, chain.dataset.id, None, self.clock())

    LakeSink._look_up = look_up


def without_base() -> None:
    def looked_up(self: Holding, found: Position) -> Literal["go on", "fetch again"]:
        """Read on where reading was, and put it behind what was found."""
        if found.offset != self.position.offset:
            self.forget()
        self.position, self.base = found, found.offset
        return "go on"

    Holding.looked_up = looked_up


RULES = {"condition": without_condition, "hint": without_look_up, "base": without_base}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--without"]:
        RULES[sys.argv[2]]()
        del sys.argv[1:3]
    logging.getLogger("headrace").setLevel(logging.DEBUG)
    main()

"""The lakes of a run, by kind; each is made at its first use."""

from __future__ import annotations

import contextlib
from pathlib import Path

import attrs
from deployment import Disk, Lake

from headrace.testing.oracle import objects_in
from headrace.testing.servers.toxiproxy import Toxiproxy

KINDS = ("disk",)


@attrs.define(kw_only=True, eq=False)
class Lakes:
    """Use it as a context; what it made is gone after it."""

    folder: Path
    toxiproxy: Toxiproxy
    _made: dict[str, Lake] = attrs.field(factory=dict)
    _end: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    def get(self, kind: str) -> Lake:
        if kind not in self._made:
            disk = Disk.make(self.folder / kind)
            self._end.callback(disk.close)
            self._made[kind] = self._disk(disk)
        return self._made[kind]

    def _disk(self, disk: Disk) -> Lake:
        root = disk.folder / "lake"
        return Lake(
            kind="disk",
            uri=f"file://{root}",
            glob=str(root),
            disk=disk,
            objects=lambda: objects_in(root),
        )

    def close(self) -> None:
        self._end.close()

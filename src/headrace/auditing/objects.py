"""What lies in a dataset's prefix, by plain listings: the pin, the objects of each partition, the notes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import UnionType
from urllib.parse import quote

import attrs

from headrace.store import Store, StoredObject

_NAME = re.compile(r"(\d{20})\.(jsonl\.gz|jsonl\.zst|parquet)")
_NOTE = re.compile(r"(\d{20})-(\d{20})\.json")
_FIELDS: dict[str, type | UnionType] = {
    "id": str,
    "stream": str,
    "layout": int,
    "format": str,
    "compression": str,
    "isolation": str,
    "cluster": str,
    "topic": str | None,
    "partitions": int,
    "epoch": str,
}
_NAMES = 1_000
"""So many names beside the partitions' folders are looked at."""

_EXTENSIONS = {("jsonl", "gzip"): "jsonl.gz", ("jsonl", "zstd"): "jsonl.zst"}


@attrs.frozen
class Pin:
    """
    What ``_headrace/dataset.json`` says, field by field.

    Attributes:
        fields: All of it.
    """

    fields: dict[str, object]

    @property
    def fault(self) -> str:
        """Which field cannot be; "" where none is."""
        fields = {"epoch": "", **self.fields}
        wrong = [name for name, kind in _FIELDS.items() if name not in fields or not isinstance(fields[name], kind)]
        wrong += [] if "partitions" in wrong or self.partitions > 0 else ["partitions"]
        return ", ".join(f"{name} {self.fields.get(name)!r}" for name in wrong)

    @property
    def id(self) -> str:
        """The dataset's."""
        return str(self.fields.get("id", ""))

    @property
    def extension(self) -> str:
        """How its segments' names end."""
        kind = str(self.fields.get("format")), str(self.fields.get("compression"))
        return "parquet" if kind[0] == "parquet" else _EXTENSIONS.get(kind, "")

    @property
    def partitions(self) -> int:
        """How many there were when it was made."""
        count = self.fields.get("partitions")
        return count if isinstance(count, int) else 0


@attrs.frozen
class Named:
    """
    An object with the name of a segment.

    Attributes:
        item: As it was listed.

        start: By its name.

        extension: By its name.
    """

    item: StoredObject
    start: int
    extension: str


@attrs.frozen
class Listing:
    """
    A partition's folder and its notes.

    Attributes:
        segments: By their names, ascending.

        strangers: What readers who glob the folder read too, and is no segment by its name.

        noted: Accepted losses, ``(from, to)``.

        expired: What was deleted on purpose, or was about to be.
    """

    segments: tuple[Named, ...]
    strangers: tuple[StoredObject, ...]
    noted: tuple[tuple[int, int], ...]
    expired: tuple[tuple[int, int], ...]


def root_of(stream: str, epoch: str) -> str:
    """The dataset's prefix."""
    name = quote(stream, safe="").replace("~", "%7E")
    return f"{name}~{epoch}/" if epoch else f"{name}/"


def listed(store: Store, prefix: str, after: str = "") -> Iterator[StoredObject]:
    """List to the end, page by page."""
    more = True
    while more:
        page = store.list(prefix, after)
        yield from page.objects
        more = page.truncated
        after = page.objects[-1].key if page.objects else after


def read_pin(store: Store, root: str) -> Pin | None:
    """Read the pin; None where there is none. ValueError where it is none."""
    body = store.read(f"{root}_headrace/dataset.json")
    if body is None:
        return None
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - bytes of a store are wrong, no argument of a caller's
    return Pin(fields)


def folders(store: Store, root: str, begin: str = "partition=") -> list[str]:
    """List the folders whose names begin with something, ``"partition=0"``: one LIST each."""
    prefix, found, after = f"{root}{begin}", [], ""
    while objects := store.list(prefix, after).objects:
        folder = objects[0].key[len(root) :].partition("/")[0]
        found.append(folder)
        after = f"{root}{folder}/\U0010ffff"
    return found


def beside_folders(store: Store, root: str, extension: str) -> list[str]:
    """List what ends as a segment does and lies neither in a partition's folder nor in ours: the first of each name."""
    found, after = [], ""
    for _ in range(_NAMES):
        objects = store.list(root, after).objects
        if not objects:
            break
        key = objects[0].key
        name, slash, _ = key[len(root) :].partition("/")
        if name.startswith("partition="):
            after = f"{root}partition=\U0010ffff"
            continue
        if extension and name != "_headrace" and key.lower().endswith(f".{extension}"):
            found.append(key)
        after = f"{root}{name}/\U0010ffff" if slash else key
    return found


def number_of(folder: str) -> int | None:
    """A partition's number; None where the folder is no partition's."""
    digits = folder.removeprefix("partition=")
    return int(digits) if digits.isdecimal() and digits == str(int(digits)) else None


def listing(store: Store, root: str, number: int) -> Listing:
    """List one partition."""
    prefix = f"{root}partition={number}/"
    segments, strangers = [], []
    for item in listed(store, prefix):
        name = _NAME.fullmatch(item.key[len(prefix) :])
        if name is not None:
            segments.append(Named(item, int(name[1]), name[2]))
        else:
            strangers.append(item)
    return Listing(
        tuple(segments),
        tuple(strangers),
        tuple(_notes(store, f"{root}_headrace/gaps/partition={number}/")),
        tuple(_notes(store, f"{root}_headrace/expired/partition={number}/")),
    )


def _notes(store: Store, prefix: str) -> Iterator[tuple[int, int]]:
    for item in listed(store, prefix):
        name = _NOTE.fullmatch(item.key[len(prefix) :])
        if name is not None:
            yield int(name[1]), int(name[2])

"""A partition's chain as it lies there, object by object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import attrs

from headrace.auditing.objects import Listing, Named, listing
from headrace.auditing.result import AuditFinding, Hole
from headrace.auditing.trailers import Said, UnreadableError, read_trailer
from headrace.store import Store, StoredObject

T = TypeVar("T")
Map = Callable[[Callable[[Named], T], Iterable[Named]], Iterator[T]]

RESTORE = "restore the object from a copy; where there is none, load from the log while it still has these offsets"
MOVE = "move it out of the lake: readers who glob the prefix read it as well"


@attrs.frozen
class Link:
    """
    An object with a segment's name.

    Attributes:
        named: The object.

        said: Its trailer; None where it has none that holds.

        fault: Why it has none.
    """

    named: Named
    said: Said | None
    fault: str = ""

    @property
    def start(self) -> int:
        """By its name."""
        return self.named.start


@attrs.frozen
class Sound:
    """
    A segment that is what its name says.

    Attributes:
        named: The object.

        said: Its trailer.
    """

    named: Named
    said: Said


@attrs.frozen
class View:
    """
    What was seen of a partition.

    Attributes:
        number: Of the partition.

        listing: Its folder and notes.

        links: The objects that were asked for, ascending.

        strangers: What has no segment's name, with its trailer.

        beyond: Where the first object behind the part that was asked for starts; None: there is none.
    """

    number: int
    listing: Listing
    links: tuple[Link, ...]
    strangers: tuple[tuple[StoredObject, Said | None], ...]
    beyond: int | None = None


@attrs.frozen
class Judged:
    """
    A chain, judged.

    Attributes:
        number: Of the partition.

        start: Where it begins: behind what was expired.

        end: Where it ends, as far as that can be told.

        end_known: The last object says where it ends.

        links: The segments that are what their names say.

        damaged: Ranges of objects that are not, and ranges that are not there.

        findings: What is wrong.

        expired: What was deleted on purpose, at its head.

        holes: Offsets without a record, as far as trailers and notes tell.
    """

    number: int
    start: int
    end: int
    end_known: bool
    links: tuple[Sound, ...]
    damaged: tuple[tuple[int, int], ...]
    findings: tuple[AuditFinding, ...]
    expired: tuple[int, int] | None
    holes: Mapping[Hole, int]

    @property
    def digest(self) -> str:
        """One digest of the whole chain."""
        return hashlib.sha256("".join(link.said.digest for link in self.links).encode()).hexdigest()

    def is_damaged(self, start: int, end: int) -> bool:
        """Whether something of a range is told of already."""
        return any(a < end and start < b for a, b in self.damaged)


def view(
    store: Store, root: str, number: int, each: Map[Link | None], wanted: tuple[int, int | None] = (0, None)
) -> View:
    """Look at a partition: one listing, and a read of each trailer that was asked for."""
    found = listing(store, root, number)
    names = [n for n in found.segments if wanted[1] is None or n.start < wanted[1]]
    beyond = found.segments[len(names)].start if len(names) < len(found.segments) else None
    following = [*(n.start for n in names[1:]), beyond]
    names = [n for n, end in zip(names, following, strict=False) if end is None or end > wanted[0]]

    def read(named: Named) -> Link | None:
        try:
            said = read_trailer(store, named.item, named.extension)
        except UnreadableError as exc:
            return Link(named, None, str(exc))
        return None if said is None else Link(named, said)

    strangers = [(item, _said_by(store, item)) for item in found.strangers]
    return View(number, found, tuple(filter(None, each(read, names))), tuple(strangers), beyond)


def _said_by(store: Store, item: StoredObject) -> Said | None:
    for extension in ("jsonl.gz", "jsonl.zst", "parquet"):
        if item.key.endswith(extension):
            try:
                return read_trailer(store, item, extension)
            except UnreadableError:
                return None
    return None


def known_digests(views: Iterable[View]) -> dict[str, tuple[int, int]]:
    """Where each segment's digest is at home: partition and start."""
    return {
        link.said.digest: (seen.number, link.start)
        for seen in views
        for link in seen.links
        if link.said is not None and (link.said.partition, link.said.start) == (seen.number, link.start)
    }


def noted_until(found: Listing, start: int, first: int) -> int:
    """Up to where a loss at a segment's head was noted; *start* where none was, or a record of it is there after all."""
    return max((b for a, b in found.noted if a == start and b <= first), default=start)


def dataset_of(views: Iterable[View]) -> str | None:
    """The dataset that all trailers name; None where they do not agree, or there is none."""
    ids = {link.said.dataset_id for seen in views for link in seen.links if link.said is not None}
    return ids.pop() if len(ids) == 1 else None

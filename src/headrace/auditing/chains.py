"""A partition's chain as it lies there, object by object, and what is wrong with it (B2, B3, B8, B29)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import attrs

from headrace.auditing.objects import Listing, Named, listing
from headrace.auditing.result import AuditFinding, Hole, Kind
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


def judge(
    seen: View, dataset: str, stream: str, extension: str, homes: Mapping[str, tuple[int, int]], *, whole: bool = True
) -> Judged:
    """Walk along the objects; *whole*: from the chain's head on."""
    return _Walk(seen, dataset, stream, extension, homes).judged(whole=whole)


@attrs.define
class _Walk:
    seen: View
    dataset: str
    stream: str
    extension: str
    homes: Mapping[str, tuple[int, int]]
    position: int = 0
    good: list[Sound] = attrs.field(factory=list, init=False)
    damaged: list[tuple[int, int]] = attrs.field(factory=list, init=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    holes: dict[Hole, int] = attrs.field(factory=dict, init=False)

    def judged(self, *, whole: bool) -> Judged:
        links = self.seen.links
        expired = self._head(links) if whole else None
        start = self.position if whole or not links else links[0].start
        self.position = start
        end_known = True
        for i, link in enumerate(links):
            following = links[i + 1].start if i + 1 < len(links) else self.seen.beyond
            end_known = self._link(link, following)
        if self.seen.beyond is not None and self.seen.beyond > self.position:
            self._gap(self.seen.beyond)
            self.position = self.seen.beyond
        for item, said in self.seen.strangers:
            self._stranger(item, said)
        found = tuple(self.findings)
        good, damaged = tuple(self.good), tuple(self.damaged)
        return Judged(self.seen.number, start, self.position, end_known, good, damaged, found, expired, self.holes)

    def _head(self, links: Sequence[Link]) -> tuple[int, int] | None:
        """What was expired at the head; what of it nobody has noted is a gap."""
        head = links[0].start if links else self.seen.beyond or 0
        for a, b in sorted(self.seen.listing.expired):
            if a <= self.position:
                self.position = max(self.position, min(b, head))
        return (0, self.position) if self.position else None

    def _link(self, link: Link, following: int | None) -> bool:
        """Take the next object; say whether it is known where it ends."""
        said = self._fitting(link)
        if not isinstance(said, Said):
            end = following if following is not None else self._claimed(link)
            if link.start > self.position:
                self._gap(link.start)
            self.damaged.append((link.start, max(end, link.start + 1)))
            kind, evidence, advice = said
            self._find(kind, link.start, max(end, link.start + 1), evidence, advice)
            self.position = max(self.position, end)
            return following is not None
        if link.start > self.position:
            self._gap(link.start)
        if link.start < self.position:
            end = min(said.end, self.position)
            self.damaged.append((link.start, end))
            covers = f"{link.named.item.key} covers [{said.start}, {said.end})"
            evidence = f"{covers}, and the segment before it ends at {self.position}"
            self._find(
                "overlap", link.start, end, evidence, "keep the one that readers relied on, and move the other away"
            )
        else:
            self.good.append(Sound(link.named, said))
            self._count_holes(said)
        self.position = max(self.position, said.end)
        return True

    def _gap(self, end: int) -> None:
        self.damaged.append((self.position, end))
        evidence = f"no segment covers it; the next one starts at {end}"
        if not self.good and self.position == 0:
            evidence = f"the head of the chain is not there, and no note says that it was expired; it begins at {end}"
        advice = "restore the segments from a copy; where there is none, decide whether the log still has these offsets"
        self._find("gap", self.position, end, evidence, advice)

    def _claimed(self, link: Link) -> int:
        said = link.said
        return said.end if said is not None and said.start == link.start else link.start + 1

    def _fitting(self, link: Link) -> Said | tuple[Kind, str, str]:
        """The trailer of an object that is the segment of its name; or why it is not: kind, evidence, advice."""
        key, said = link.named.item.key, link.said
        if link.named.extension != self.extension:
            return "foreign", f"{key} is not .{self.extension}, as the pin says", MOVE
        if said is None:
            return "corrupt", f"{key}: {link.fault}", RESTORE
        if said.dataset_id != self.dataset:
            return "foreign", f"{key} says dataset {said.dataset_id}, the pin says {self.dataset}", MOVE
        if said.stream != self.stream:
            return "foreign", f"{key} says stream {said.stream!r}, expected {self.stream!r}", MOVE
        if (said.partition, said.start) == (self.seen.number, link.start):
            return said
        says = f"{key} says partition {said.partition}, [{said.start}, {said.end})"
        home = self.homes.get(said.digest)
        if home is not None:
            return (
                "duplicate",
                f"{says}: it is a copy of the segment at {home[1]} of partition {home[0]}",
                f"{MOVE}, then {RESTORE}",
            )
        kind: Kind = "foreign" if said.partition != self.seen.number else "corrupt"
        return (
            kind,
            f"{says}: it was moved here",
            f"{MOVE}, to where its trailer says; then look at what is missing here",
        )

    def _stranger(self, item: StoredObject, said: Said | None) -> None:
        if not item.key.endswith(f".{self.extension}"):
            return  # no reader's glob finds it
        if said is None:
            self._find("foreign", 0, 1, f"{item.key} is no segment by its name, nor by its bytes", MOVE)
            return
        home = self.homes.get(said.digest)
        kind: Kind = "duplicate" if home else "foreign"
        whose = (
            f"a copy of the segment at {home[1]} of partition {home[0]}" if home else f"of dataset {said.dataset_id}"
        )
        self._find(kind, said.start, said.end, f"{item.key} is no segment by its name: {whose}", MOVE)

    def _count_holes(self, said: Said) -> None:
        head = said.first - said.start
        inside = said.end - said.first - said.records
        self._add("not looked at", inside)
        if said.start == 0:
            self._add("before the first segment", head)
            return
        noted = noted_until(self.seen.listing, said.start, said.first) - said.start
        self._add("noted loss", noted)
        self._add("not looked at", head - noted)

    def _add(self, what: Hole, count: int) -> None:
        if count:
            self.holes[what] = self.holes.get(what, 0) + count

    def _find(self, kind: Kind, start: int, end: int, evidence: str, advice: str) -> None:
        self.findings.append(AuditFinding(kind, "lake", self.seen.number, start, end, evidence, advice))


def noted_until(found: Listing, start: int, first: int) -> int:
    """Up to where a loss at a segment's head was noted; *start* where none was, or a record of it is there after all."""
    return max((b for a, b in found.noted if a == start and b <= first), default=start)


def dataset_of(views: Iterable[View]) -> str | None:
    """The dataset that all trailers name; None where they do not agree, or there is none."""
    ids = {link.said.dataset_id for seen in views for link in seen.links if link.said is not None}
    return ids.pop() if len(ids) == 1 else None

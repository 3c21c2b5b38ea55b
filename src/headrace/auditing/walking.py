"""What is wrong with a partition's chain: a walk along its objects (B2, B3, B8, B29)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from headrace.auditing.chains import MOVE, RESTORE, Judged, Link, Sound, View, noted_until
from headrace.auditing.result import AuditFinding, Hole, Kind
from headrace.auditing.trailers import Said
from headrace.store import StoredObject


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

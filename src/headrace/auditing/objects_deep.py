"""One object, line by line: what its trailer says must be what its lines are (B4, B29)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import attrs

from headrace.auditing.chains import RESTORE, Sound
from headrace.auditing.lines import DamagedError, Line, lines_of
from headrace.auditing.result import AuditFinding, Kind
from headrace.auditing.trailers import Said


@attrs.define(eq=False)
class Reading:
    """
    The lines of an object, and when they are through, what is wrong with them.

    Attributes:
        link: The object.

        number: Of the partition.

        body: All of its bytes; None: it was gone.

        findings: Complete when `lines` is through.
    """

    link: Sound
    number: int
    body: bytes | None = attrs.field(repr=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)

    @property
    def said(self) -> Said:
        """Its trailer."""
        return self.link.said

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.findings

    def lines(self) -> Iterator[Line]:
        """Yield its records with new offsets, ascending: one that is there twice comes once, one out of order does not come."""
        said, body, key = self.said, self.body, self.link.named.item.key
        if body is None:
            self._find(
                "missing",
                said.start,
                said.end,
                f"{key} was listed and could not be read",
                "look again; then " + RESTORE,
            )
            return
        digest = hashlib.sha256(memoryview(body)[: len(body) - said.sealed_bytes]).hexdigest()
        changed = digest != said.digest or len(body) != self.link.named.item.size
        before, count, low, high, first = said.start - 1, 0, None, None, None
        try:
            for line in lines_of(body, self.link.named.extension):
                record = line.record
                count += 1
                low = record.timestamp_ms if low is None else min(low, record.timestamp_ms)
                high = record.timestamp_ms if high is None else max(high, record.timestamp_ms)
                first = record.offset if first is None else first
                if record.offset <= before:
                    kind: Kind = "duplicate" if record.offset == before else "corrupt"
                    what = "is there twice" if kind == "duplicate" else f"comes after {before}"
                    self._find(
                        kind, record.offset, record.offset + 1, f"{key}: the record at {record.offset} {what}", RESTORE
                    )
                    continue
                before = record.offset
                yield line
        except DamagedError as exc:
            self._find("corrupt", before + 1, max(said.end, before + 2), f"{key}: {exc}", RESTORE)
            return
        wrong = [
            f"{name} {told} in its trailer, {seen} in its lines"
            for name, told, seen in (
                ("records", said.records, count),
                ("first", said.first, first),
                ("end", said.end, before + 1),
                ("smallest time", said.min_ms, low),
                ("largest time", said.max_ms, high),
            )
            if told != seen
        ]
        if changed:
            what = (
                "; ".join(wrong)
                or "its lines agree with its trailer otherwise: it was compressed anew, or values were changed"
            )
            evidence = f"{key}: its bytes have digest {digest[:12]}…, its trailer says {said.digest[:12]}…; {what}"
            self._find("corrupt", said.start, said.end, evidence, RESTORE)
        elif wrong and not self.findings:
            self._find("corrupt", said.start, said.end, f"{key}: {'; '.join(wrong)}; it was written so", RESTORE)

    def _find(self, kind: Kind, start: int, end: int, evidence: str, advice: str) -> None:
        self.findings.append(AuditFinding(kind, "lake", self.number, start, end, evidence, advice))

"""
What a feed did not send, by its own word: the records of the stream ``<feed>.gaps`` beside the one that is looked at.

A convention on records, so that any feed may keep it (docs, "Live feeds", "Gaps"); the audit knows no feed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.chains import view
from headrace.auditing.lines import DamagedError, lines_of
from headrace.auditing.nanoseconds import nanoseconds
from headrace.auditing.objects import Pin, folders, number_of, read_pin, root_of
from headrace.auditing.result import AuditFinding, FeedGap
from headrace.auditing.walking import judge
from headrace.records import Record
from headrace.retry import Retry

RECEIVED, CONNECTION, BACKFILLED = "headrace.received_ns", "headrace.connection", "headrace.backfilled"
_SUFFIX = "gaps"


@attrs.frozen
class Told:
    """
    A gap with its history.

    Attributes:
        id: Its own.

        gap: As the newest revision says.

        run: Of which run of a producer; the connections of its records begin with it.

        revisions: Ascending: when each was written, in nanoseconds since the epoch, and how many were missing by it.
    """

    id: str
    gap: FeedGap
    run: str
    revisions: Sequence[tuple[int, int | None]]

    def missing(self, before_ns: int) -> int | None:
        """How many were missing by the last revision from before a moment; by the first where all are later."""
        known = [missing for ns, missing in self.revisions if ns < before_ns]
        return known[-1] if known else self.revisions[0][1]

    @property
    def began_ns(self) -> int:
        """After which nothing is certain; 0 where that is not known."""
        return _ns(self.gap.began, 0)

    @property
    def ended_ns(self) -> int:
        """From when on nothing is missing; far away while it lasts."""
        return _ns(self.gap.ended, 1 << 63)


@attrs.frozen
class FeedGaps:
    """
    All gap records beside a stream.

    Attributes:
        stream: Their stream's name.

        told: Each gap.

        field: Where the records of the stream that is looked at hold the feed's own count; "" where it counts none of them.

        findings: Why not all of them could be read.

        remarks: What in them was no gap record.
    """

    stream: str
    told: Sequence[Told]
    field: str
    findings: Sequence[AuditFinding]
    remarks: Sequence[str]


def beside(audit: Asked) -> str:
    """The name of the stream of gaps; "" where the stream's name has none, or is one itself."""
    feed, dot, kind = audit.stream.rpartition(".")
    return audit.gaps or (f"{feed}.{_SUFFIX}" if dot and kind != _SUFFIX else "")


def read_gaps(audit: Asked) -> FeedGaps | None:
    """Read them from the same lake; None where it has no such stream and none was named. Errors as a store's."""
    name = beside(audit)
    try:
        found = _pinned(audit, name) if name else None
    except ValueError as exc:
        return _untold(name, f"the pin of {name} cannot be read: {exc}", "restore it from a copy")
    if found is None:
        return (
            _untold(name, f"{audit.store.place} has no stream {name!r} of gaps", "check its name")
            if audit.gaps
            else None
        )
    root, pin = found
    records: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    findings: list[AuditFinding] = []
    fields, strange = dict[str, str](), 0
    for record in _records(audit, name, root, pin, findings):
        value = _value(record)
        if value is None:
            strange += 1
            continue
        if value.get("filled") is True and not _can_be_filled(value):
            evidence = f"{name}, gap {value['id']}: filled, and not by its numbers: somebody changed it, or another make wrote it"
            findings.append(
                AuditFinding("corrupt", "numbers", None, 0, 0, evidence, f"headrace audit LAKE --stream {name} --deep")
            )
        records.setdefault(value["id"], []).append((value["revision"], received_ns(record), value))
        fields |= {k: v for k, v in (value.get("numbers") or {}).items() if isinstance(v, str)}
    told = [_told(sorted(each, key=lambda r: r[:2])) for each in records.values()]
    told.sort(key=lambda t: (t.began_ns, t.gap.symbol, t.gap.producer))
    remarks = [f"{strange:,} records of {name} are no gap records"] if strange else []
    return FeedGaps(name, told, fields.get(audit.stream.rpartition(".")[2], ""), findings, remarks)


def received_ns(record: Record) -> int:
    """When a feed received it."""
    found = next((value for name, value in record.headers if name == RECEIVED), None)
    return int(found) if found is not None and found.isdigit() else max(0, record.timestamp_ms) * 1_000_000


def run_of(record: Record) -> str:
    """Which run of a producer received it; "" where it does not say."""
    found = next((value for name, value in record.headers if name == CONNECTION), None)
    return "" if found is None else found.decode("utf-8", "replace").rpartition("-")[0]


def fetched_for(record: Record) -> str:
    """Of which gap it was fetched from the exchange's history; "" where it came by itself."""
    found = next((value for name, value in record.headers if name == BACKFILLED), None)
    return "" if found is None else found.decode("utf-8", "replace")


def _pinned(audit: Asked, name: str) -> tuple[str, Pin] | None:
    asked = Retry(for_s=audit.retry_for_s)
    for root in dict.fromkeys((root_of(name, audit.epoch), root_of(name, ""))):
        pin = asked(partial(read_pin, audit.store, root))
        if pin is not None:
            return root, pin
        if asked(partial(folders, audit.store, root)):
            raise ValueError("it is not there, and segments are")
    return None


def _untold(name: str, evidence: str, advice: str) -> FeedGaps:
    return FeedGaps(name, (), "", [AuditFinding("unknown", "numbers", None, 0, 0, evidence, advice)], ())


def _records(audit: Asked, name: str, root: str, pin: Pin, findings: list[AuditFinding]) -> Iterator[Record]:
    """All of them; what could not be read is a finding: then nobody knows which gaps were told."""
    asked, store, advice = Retry(for_s=audit.retry_for_s), audit.store, f"headrace audit LAKE --stream {name} --deep"

    def unread(why: object) -> None:
        evidence = f"not all gap records could be read: {why}"
        findings.append(AuditFinding("unknown", "numbers", None, 0, 0, evidence, advice))

    numbers = {number_of(folder) for folder in asked(lambda: folders(store, root))}
    for number in sorted(n for n in numbers if n is not None):
        seen = asked(partial(view, store, root, number, map))
        judged = judge(seen, pin.id, name, pin.extension, {})
        if judged.findings:
            unread(judged.findings[0])
        for link in judged.links:
            body = asked(partial(store.read, link.named.item.key))
            try:
                yield from (line.record for line in lines_of(body or b"", link.named.extension))
            except DamagedError as exc:
                unread(f"{link.named.item.key}: {exc}")


def _value(record: Record) -> dict[str, Any] | None:
    try:
        value = json.loads(record.value or b"")
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("numbers") or {}, dict):
        return None
    kinds: Mapping[str, type] = {"id": str, "revision": int, "symbol": str, "cause": str}
    return value if all(type(value.get(field)) is kind for field, kind in kinds.items()) else None


def _can_be_filled(value: Mapping[str, Any]) -> bool:
    """Nobody knows that nothing is missing but by numbers on both sides."""
    known = _number(value.get("last_sequence")) is not None and _number(value.get("next_sequence")) is not None
    return known and value.get("missing") == 0


def _told(revisions: Sequence[tuple[int, int, dict[str, Any]]]) -> Told:
    *_, (_, _, value) = revisions
    gap = FeedGap(
        feed=str(value.get("feed") or ""),
        producer=str(value.get("producer") or ""),
        symbol=value["symbol"],
        cause=value["cause"],
        began=_text(value.get("from")),
        ended=_text(value.get("to")),
        last=_number(value.get("last_sequence")),
        next=_number(value.get("next_sequence")),
        missing=_number(value.get("missing")),
        filled=value.get("filled") is True,
        history=_text(value.get("backfill")) or "",
    )
    history = [(ns, _number(value.get("missing"))) for _, ns, value in revisions]
    return Told(value["id"], gap, value["id"].rpartition("-")[0], history)


def _number(found: object) -> int | None:
    return found if type(found) is int else None


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _ns(moment: str | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    try:
        return int(nanoseconds(moment.removesuffix("Z").replace("T", " ")) or otherwise)
    except ValueError:
        return otherwise

"""What an audit says: a verdict, what was counted, and every finding with its place, its evidence and the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

Verdict = Literal["complete", "incomplete", "unknown"]

Kind = Literal["gap", "overlap", "duplicate", "corrupt", "foreign", "ahead", "missing", "changed", "behind", "unknown"]
"""
What is wrong.

=========== ===============================================================================================
gap         offsets that no segment covers, or records of the log that their segment does not hold
overlap     two segments cover the same offsets
duplicate   the same record, segment or ledger row twice
corrupt     bytes that are not what their name, trailer or digest says
foreign     data of another dataset, topic, partition or format
ahead       further than what it was made from
missing     what was loaded by the ledger's word and is not there, or is there without the ledger's word; a number that a feed
            counted, and no record nor gap record has
changed     another content than what it was made from
behind      on its way; wrong only where everything was asked to have arrived (``caught_up``)
unknown     could not be told: something did not answer, or the evidence is gone
=========== ===============================================================================================
"""

Where = Literal["pin", "source", "lake", "ledger", "rows", "quarantine", "numbers"]
"""In which store of the stream's data; "numbers" are those by which a feed counts its messages."""

Hole = Literal["aborted", "no record", "before the first segment", "noted loss", "unverifiable", "not looked at"]
"""Why an offset below the chain's end holds no record; "no record" is a marker, or compacted."""

State = Literal["expired", "loaded", "in the lake", "in the log", "missing", "not asked for"]


@attrs.frozen
class AuditFinding:
    """
    One thing that is wrong, or could not be told.

    Attributes:
        kind: Its class.

        where: In which store of the stream's data.

        partition: Its number; None where it is about the stream as a whole.

        start: The first offset that it is about.

        end: Before this one.

        evidence: What was found, and what was expected.

        advice: What to do next: a command, or what a person decides.
    """

    kind: Kind
    where: Where
    partition: int | None
    start: int
    end: int
    evidence: str
    advice: str

    def __str__(self) -> str:
        place = "" if self.partition is None else f" of partition {self.partition}"
        return f"{self.kind} in the {self.where}, [{self.start}, {self.end}){place}: {self.evidence}; {self.advice}"


@attrs.frozen
class Span:
    """
    A range of offsets on its way.

    Attributes:
        state: How far it is.

        start: Its first offset.

        end: Before this one.

        records: In it; 0 where that is not known.

        quarantined: Of these, in quarantine.
    """

    state: State
    start: int
    end: int
    records: int = 0
    quarantined: int = 0


@attrs.frozen
class PartitionAudit:
    """
    What was counted of one partition. None: it was not asked, or did not answer.

    Attributes:
        number: Of the partition.

        low: Where the log begins.

        log_end: Where it ends, for a reader.

        chain_start: Where the chain begins: above 0 where its head was expired.

        chain_end: Where it ends.

        segments: Of the chain.

        records: In them, as their trailers say; as their lines say where they were read.

        nbytes: Of the objects.

        min_ms: The smallest timestamp.

        max_ms: The largest.

        digest: SHA-256 of the digests of its segments, in their order: two chains with the same digest hold the same bytes.

        ledger_end: How far the warehouse is.

        ledger_records: By the ledger.

        rows: In the table.

        quarantined: In quarantine.

        superseded: Hidden by newer records of their keys.

        compared: Records that were compared with the log, one by one.

        holes: Offsets without a record, by what is known of them.

        spans: The picture of it, ascending.
    """

    number: int
    low: int | None = None
    log_end: int | None = None
    chain_start: int = 0
    chain_end: int = 0
    segments: int = 0
    records: int = 0
    nbytes: int = 0
    min_ms: int | None = None
    max_ms: int | None = None
    digest: str = ""
    ledger_end: int | None = None
    ledger_records: int | None = None
    rows: int | None = None
    quarantined: int | None = None
    superseded: int | None = None
    compared: int | None = None
    holes: Mapping[Hole, int] = attrs.field(factory=dict)
    spans: Sequence[Span] = ()

    @property
    def behind_log(self) -> int | None:
        """Offsets that the log has and the lake not yet; holes at the log's end are among them."""
        if self.log_end is None or self.low is None:
            return None
        return max(0, self.log_end - max(self.low, self.chain_end))

    @property
    def behind_lake(self) -> int | None:
        """Offsets that the lake has and the warehouse not yet."""
        return None if self.ledger_end is None else max(0, self.chain_end - max(self.ledger_end, self.chain_start))


@attrs.frozen
class FeedGap:
    """
    What a live feed did not send, or its receiver did not get, by the receiver's own record: not lost by what came after it.

    Attributes:
        feed: Its name.

        producer: Who received: of two producers of one feed each has gaps of its own.

        symbol: Of what; * for all.

        cause: Why.

        began: After when something may be missing, ISO-8601 in UTC; None: since before its producer began.

        ended: Up to when; None while it lasts, and for good where the producer was killed.

        last: The last number before it, where the feed counts.

        next: The first number behind it, where the feed counts.

        missing: How many messages, by the record; None where the feed does not count.

        filled: Nothing is missing after all, by the record.

        history: What came of asking the exchange's history for it, by the record; "" where it was not asked.

        absent: How many of its numbers no record of the stream has, from whichever producer or from the exchange's history since;
            None: not looked at (not deep), or not counted.
    """

    feed: str
    producer: str
    symbol: str
    cause: str
    began: str | None = None
    ended: str | None = None
    last: int | None = None
    next: int | None = None
    missing: int | None = None
    filled: bool = False
    history: str = ""
    absent: int | None = None

    @property
    def numbers(self) -> str:
        """Between which it lies, for people: "5 to 7"; "" where the feed does not count, or none was left out."""
        if self.last is None or self.next is None or self.next <= self.last + 1:
            return ""
        return f"{self.last + 1}" if self.next == self.last + 2 else f"{self.last + 1} to {self.next - 1}"

    @property
    def state(self) -> Literal["filled", "missing", "open", "may be missing"]:
        """
        What of it is there.

        "filled": all of it is, by the records where they were looked at, else by the gap record. "missing": numbers of it are not
        there. "open": it lasts, or its producer was killed. "may be missing": the feed does not count, so nobody knows.
        """
        if self.absent is not None:
            return "missing" if self.absent else "filled"
        if self.filled:
            return "filled"
        if self.missing:
            return "missing"
        return "open" if self.ended is None else "may be missing"


@attrs.frozen
class AuditResult:
    """
    The verdict and all that it rests on.

    What is on its way is behind, and does not make a stream incomplete.

    Attributes:
        stream: Its name.

        lake: Where the lake is, without secrets.

        epoch: Of the dataset; "" for the first one.

        dataset_id: As pinned; "" where there is no pin.

        pin: What else the pin says.

        source: What it was compared with; "" for nothing.

        warehouse: The same.

        deep: Whether bytes were read, and not only names, trailers and counts.

        scope: What of it was asked for; "" for all.

        partitions: Ascending.

        findings: By partition and offset.

        remarks: What was not looked at, and why.

        gaps: What the feed did not send, where this is a feed's stream and its gap records are in the lake: not there, and not
            wrong.

        gaps_of: The stream of these records; "" where there is none.

        counted: Numbers of the feed that were held against the gap records; None: not looked at.

        versions: Of what took part.

        began_at: When, ISO-8601 in UTC.

        elapsed_s: How long it took.
    """

    stream: str
    lake: str
    epoch: str = ""
    dataset_id: str = ""
    pin: Mapping[str, object] = attrs.field(factory=dict)
    source: str = ""
    warehouse: str = ""
    deep: bool = False
    scope: str = ""
    partitions: Sequence[PartitionAudit] = ()
    findings: Sequence[AuditFinding] = ()
    remarks: Sequence[str] = ()
    gaps: Sequence[FeedGap] = ()
    gaps_of: str = ""
    counted: int | None = None
    versions: Mapping[str, str] = attrs.field(factory=dict)
    began_at: str = ""
    elapsed_s: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Incomplete where something is wrong; unknown where something could not be told; else complete."""
        if any(f.kind != "unknown" for f in self.findings):
            return "incomplete"
        return "unknown" if self.findings else "complete"

    @property
    def exit_code(self) -> int:
        """0 complete, 1 incomplete, 2 unknown."""
        return {"complete": 0, "incomplete": 1, "unknown": 2}[self.verdict]

    def document(self) -> dict[str, object]:
        """Return all of it as what JSON can hold."""
        partitions = [
            {**attrs.asdict(p), "behind_log": p.behind_log, "behind_lake": p.behind_lake} for p in self.partitions
        ]
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            **attrs.asdict(self),
            "partitions": partitions,
            "gaps": [{**attrs.asdict(gap), "state": gap.state} for gap in self.gaps],
        }

"""What an audit has seen so far, and what it has to say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.chains import Judged, Sound, View
from headrace.auditing.contracts import Contracts
from headrace.auditing.deep import Deep
from headrace.auditing.feed_gaps import FeedGaps
from headrace.auditing.numbers import Numbers
from headrace.auditing.objects import Pin, root_of
from headrace.auditing.result import AuditFinding, Kind, Where
from headrace.auditing.scope import Scope
from headrace.errors import HeadraceError, TransientError
from headrace.records import Extent, Partition
from headrace.retry import Retry
from headrace.tally import Tally

T = TypeVar("T")


@attrs.define(eq=False)
class Facts:
    """
    Filled step by step, against the flow (B30); what was not asked yet, or did not answer, is None or empty.

    Attributes:
        audit: Asks.

        scope: Which part is meant.

        contracts: Of the target's rows; None: none is known.

        pin: Of the dataset.

        tally: Of the target.

        views: What lies in each partition's folder.

        judged: Each partition's chain.

        wanted: Which offsets of each are meant.

        extents: Of the log.

        deep: What was found by reading everything.

        numbers: By which a feed counts, where everything was read.

        gaps: What the feed did not send; None: this is no feed's stream, or nobody kept that.

        absent: By gap, how many of its numbers no record has.

        findings: What is wrong, or could not be told.

        remarks: What was not looked at.
    """

    audit: Asked
    scope: Scope
    contracts: Contracts | None = None
    pin: Pin | None = attrs.field(default=None, init=False)
    tally: Tally | None = attrs.field(default=None, init=False)
    views: dict[int, View] = attrs.field(factory=dict, init=False)
    judged: dict[int, Judged] = attrs.field(factory=dict, init=False)
    wanted: dict[int, tuple[int, int | None]] = attrs.field(factory=dict, init=False)
    extents: Mapping[Partition, Extent] | None = attrs.field(default=None, init=False)
    deep: dict[int, Deep] = attrs.field(factory=dict, init=False)
    numbers: Numbers | None = attrs.field(default=None, init=False)
    gaps: FeedGaps | None = attrs.field(default=None, init=False)
    absent: dict[int, int] = attrs.field(factory=dict, init=False)
    findings: list[AuditFinding] = attrs.field(factory=list, init=False)
    remarks: list[str] = attrs.field(factory=list, init=False)

    @property
    def root(self) -> str:
        """The dataset's prefix."""
        return root_of(self.audit.stream, self.audit.epoch)

    @property
    def dataset(self) -> str:
        """The dataset's id, as pinned; "" where there is no pin."""
        return "" if self.pin is None else self.pin.id

    def partition(self, number: int) -> Partition:
        """Name a partition of the stream."""
        return Partition(self.audit.stream, number)

    def extent(self, number: int) -> Extent | None:
        """What the log holds of a partition; None where that is not known."""
        return (self.extents or {}).get(self.partition(number))

    def is_wanted(self, link: Sound) -> bool:
        """Whether a segment holds some of what is meant."""
        start, end = self.wanted[link.said.partition]
        return link.said.end > start and (end is None or link.said.start < end)

    def asked(self, call: Callable[[], T]) -> T:
        """Call, and call again what does not answer, for as long as the audit is told to."""
        return Retry(for_s=self.audit.retry_for_s)(call)

    def told(self, work: Callable[[], object], where: Where, who: str) -> bool:
        """Do it; what did not answer is a finding. Says whether it was done."""
        try:
            work()
        except TransientError as exc:
            self.find("unknown", where, f"{who} did not answer: {exc}", "see that it is there, and ask again")
            return False
        except HeadraceError as exc:
            self.find("unknown", where, f"{who} could not be read: {exc}", "do what the message says, and ask again")
            return False
        return True

    def find(self, kind: Kind, where: Where, evidence: str, advice: str) -> None:
        """Note what is wrong with the stream as a whole."""
        self.findings.append(AuditFinding(kind, where, None, 0, 0, evidence, advice))

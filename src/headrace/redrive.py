"""Tries quarantined records again, a bounded number at a time (S6)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator

import attrs

from headrace.errors import TransientError
from headrace.loader import Loader, LoadResult, QuarantinedRecord, Selection
from headrace.logs import event as log_event
from headrace.records import Partition
from headrace.retry import Retry
from headrace.rows import Rejected, row

_log = logging.getLogger("headrace.redrive")


_HELD_RECORDS, _HELD_BYTES = 1_000, 8 << 20
"""So much is listed at once, at most, but for one record however long it is."""


@attrs.frozen(order=True)
class Outlook:
    """
    What a contract says of records that are in quarantine for one reason.

    Attributes:
        column: Of the reason that quarantine names; "" where it is the record as a whole.

        reason: That quarantine names.

        column_now: Which column's value this contract refuses; "" where it refuses none, or the record as a whole.

        reason_now: Why it refuses; "" where it refuses nothing: the records would become rows.

        records: How many.
    """

    column: str
    reason: str
    column_now: str
    reason_now: str
    records: int


@attrs.frozen
class RedriveProgress:
    """
    How far a redrive is.

    Attributes:
        result: Sums over the transactions of this run.

        tried: Records that were typed again, as far as they were still in quarantine when they were listed.

        transactions: How many were committed.
    """

    result: LoadResult = attrs.field(factory=LoadResult)
    tried: int = 0
    transactions: int = 0


@attrs.define(kw_only=True, eq=False)
class Redrive:
    """
    Moves what a mended contract takes from quarantine to where it belongs. A run that is killed is simply run again.

    Loads and other redrives may run at the same time: each record is moved once. What is still refused stays, and says from
    then on why it is refused now.

    Attributes:
        loader: Of the target; closed by `run` and `plan`.

        selection: Which records; all, unless something is said.

        group_records: So many are tried in one transaction at most.

        group_bytes: And about so many bytes of them.

        retry_for_s: How long a warehouse that does not answer is tried again.

        observe: Called with the numbers after each transaction.
    """

    loader: Loader
    selection: Selection = attrs.field(factory=Selection)
    group_records: int = 50_000
    group_bytes: int = 64 << 20
    retry_for_s: float = 600.0
    observe: Callable[[RedriveProgress], None] | None = None
    progress: RedriveProgress = attrs.field(factory=RedriveProgress, init=False)
    _retry: Retry = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._retry = Retry(self.retry_for_s)

    def run(self) -> LoadResult:
        """
        Try the selected records again.

        Raises:
            ConfigError: The target was loaded by a newer contract (S7).
            SinkUnavailableError: The warehouse did not answer for `retry_for_s`. What was moved stays moved.
        """
        log_event(_log, logging.INFO, "redrive begins", target=self.loader.target)
        try:
            for group, tried in self._groups():
                result = self._retry(lambda group=group: self.loader.redrive(group))  # type: ignore[misc]
                self.progress = RedriveProgress(
                    self.progress.result + result, self.progress.tried + tried, self.progress.transactions + 1
                )
                if self.observe is not None:
                    self.observe(self.progress)
                if self._retry.hurry.is_set():
                    break
        finally:
            self.loader.close()
        done = self.progress
        log_event(_log, logging.INFO, "redrive ends", tried=done.tried, inserted=done.result.inserted)
        return done.result

    def plan(self) -> list[Outlook]:
        """
        Say what the contract says of the selected records now, by the reasons that quarantine names; nothing is written.

        Every record is typed, in plain Python, as a redrive would type it. With a business key, a record that becomes a row
        may still be hidden by a newer one.
        """
        contract = self._retry(self.loader.described)
        found: Counter[tuple[str, str, str, str]] = Counter()
        try:
            for record in self._records():
                known = record.record()
                about = {"timestamp_ms": known.timestamp_ms, "offset": known.offset}
                said = row(contract, known.value, key=known.key, **about)
                now = (said.column, said.reason) if isinstance(said, Rejected) else ("", "")
                found[record.column, record.reason, *now] += 1
                if self._retry.hurry.is_set():
                    break
        finally:
            self.loader.close()
        return sorted(Outlook(*reasons, records) for reasons, records in found.items())

    def stop(self) -> None:
        """End after the transaction under way. May be called from a signal handler or a thread."""
        self._retry.hurry.set()

    # ---- listing ------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[Selection, int]]:
        """Cut the selection into ranges of one partition each, with how many records each holds."""
        start, end, place, count, nbytes = 0, 0, None, 0, 0
        for record in self._records():
            here = (record.dataset_id, record.partition)
            full = count >= self.group_records or nbytes + len(record.line) > self.group_bytes
            if place is not None and (here != place or full):
                yield self._range(*place, start, end), count
                place = None
            if place is None:
                place, start, count, nbytes = here, record.offset, 0, 0
            end, count, nbytes = record.offset + 1, count + 1, nbytes + len(record.line)
        if place is not None:
            yield self._range(*place, start, end), count

    def _range(self, dataset_id: str, partition: Partition, start: int, end: int) -> Selection:
        return attrs.evolve(self.selection, dataset_id=dataset_id, partition=partition, start=start, end=end)

    def _records(self) -> Iterator[QuarantinedRecord]:
        """List what is selected; where the warehouse did not answer, on behind the last record that it gave."""
        counts = self._retry(lambda: self.loader.quarantine_counts(self.selection))
        for dataset_id, partition in sorted({(c.dataset_id, c.partition) for c in counts}):
            last = max(c.last for c in counts if (c.dataset_id, c.partition) == (dataset_id, partition))
            place = self._range(dataset_id, partition, self.selection.start, last + 1)  # what comes meanwhile can wait
            yield from self._inside(place)

    def _inside(self, place: Selection) -> Iterator[QuarantinedRecord]:
        listed = self.loader.quarantined(place)
        held: list[QuarantinedRecord] = []

        def follow() -> None:
            nonlocal listed
            nbytes = 0
            try:
                for record in listed:
                    held.append(record)
                    nbytes += len(record.line)
                    if len(held) == _HELD_RECORDS or nbytes >= _HELD_BYTES:
                        return
            except TransientError:  # what raised it goes on no further
                if not held:
                    listed = self.loader.quarantined(place)
                    raise
                listed = self.loader.quarantined(attrs.evolve(place, start=held[-1].offset + 1))

        while True:
            self._retry(follow)
            if not held:
                return
            place = attrs.evolve(place, start=held[-1].offset + 1)
            yield from held
            held.clear()

"""An owner of partitions that holds every event against what a source promises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import attrs

from headrace.errors import SourceUnavailableError
from headrace.records import Batch, BelowLog, Event, Failed, Hint, Partition, Reached, Record, Start
from headrace.source import Source

PATIENCE_S = 60.0
"""How long a source may take to say what it has to say."""


@attrs.define(eq=False)
class Reader:
    """
    Polls a source, tells it where to begin, and checks that what it says joins up.

    Attributes:
        source: What is read.

        begin: Where; a partition that is not named here begins where nothing is stored yet.

        poll_s: The time-out of a poll.

        refusals: So many assignments it cannot answer: it does not know where to begin, for now.

        hints: What came with each assignment.

        events: Every event, in its order.

        released: The partitions that were handed over.

        lost_partitions: Those that were gone already.
    """

    source: Source
    begin: Mapping[Partition, Start | None] = attrs.field(factory=dict)
    poll_s: float = 0.02
    refusals: int = 0
    hints: dict[Partition, Hint | None] = attrs.field(factory=dict)
    events: list[Event] = attrs.field(factory=list)
    released: list[Partition] = attrs.field(factory=list)
    lost_partitions: list[Partition] = attrs.field(factory=list)
    _starts: dict[Partition, Start | None] = attrs.field(factory=dict)
    _next: dict[Partition, int | None] = attrs.field(factory=dict)
    _waits: set[Partition] = attrs.field(factory=set)
    _polling: int | None = None
    _numbers: int = 0

    # ---- what the source calls --------------------------------------------------------------------------------------

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        self._inside()
        assert not set(hints) & set(self._starts), "what is owned already was assigned again"
        if self.refusals:
            self.refusals -= 1
            raise SourceUnavailableError("where to begin is not known, for now")
        self.hints.update(hints)
        for partition in hints:
            self._told(partition, self.begin[partition] if partition in self.begin else self.start(None))
        return {partition: self._starts[partition] for partition in hints}

    def release(self, partitions: Iterable[Partition]) -> None:
        self._inside()
        self.released += self._forget(partitions)

    def lost(self, partitions: Iterable[Partition]) -> None:
        self._inside()
        self.lost_partitions += self._forget(partitions)

    def _inside(self) -> None:
        assert self._polling == threading.get_ident(), "an owner is called from inside poll, on the thread that polls"

    def _forget(self, partitions: Iterable[Partition]) -> list[Partition]:
        gone = list(partitions)
        for partition in gone:
            assert partition in self._starts, f"{partition} was taken away and had not been given"
            del self._starts[partition]
        return gone

    # ---- what a test calls ------------------------------------------------------------------------------------------

    def start(self, offset: int | None) -> Start:
        """Make a start with a number that no other one has."""
        self._numbers += 1
        return Start(offset, None, self._numbers)

    def move(self, partition: Partition, start: Start | None) -> Start | None:
        """Move the source, and expect it to be there from now on."""
        self._told(partition, start)
        self.source.move({partition: start})
        return start

    def poll(self) -> list[Event]:
        """Poll once, check what comes, and keep it."""
        self._polling = threading.get_ident()
        try:
            found = list(self.source.poll(self, self.poll_s))
        finally:
            self._polling = None
        for event in found:
            self._check(event)
        self.events += found
        return found

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
            self.poll()

    def to_the_end(self, *only: Partition) -> None:
        """Poll until each owned partition, or each of these, was read to the end that its log has now."""
        extents = self.source.extents()
        self.until(lambda: bool(self.owned), "an assignment")
        wanted = only or tuple(self.owned)
        ended = lambda p: (self._next.get(p) or 0) >= extents[p].end and self._at_end(p)  # noqa: E731
        self.until(lambda: all(map(ended, wanted)), f"the end of {wanted}")

    def idle(self, polls: int = 5) -> list[Event]:
        """Poll some times, and return what came."""
        return [event for _ in range(polls) for event in self.poll()]

    @property
    def owned(self) -> list[Partition]:
        """The partitions that were assigned and not taken away."""
        return list(self._starts)

    def records(self, partition: Partition) -> list[Record]:
        """All records that came of a partition, under its newest assignment number."""
        start = self._starts[partition]
        number = None if start is None else start.assignment
        batches = [e for e in self.events if isinstance(e, Batch) and e.partition == partition]
        return [record for batch in batches if batch.assignment == number for record in batch.records()]

    # ---- what is checked --------------------------------------------------------------------------------------------

    def _told(self, partition: Partition, start: Start | None) -> None:
        before = self._starts.get(partition)
        self._starts[partition] = start
        if start is not None and (before is None or before.assignment != start.assignment):
            self._waits.discard(partition)
            self._next[partition] = start.offset

    def _at_end(self, partition: Partition) -> bool:
        start = self._starts.get(partition)
        told = [e for e in self.events if e.partition == partition and start and e.assignment == start.assignment]
        return bool(told) and isinstance(told[-1], Reached) and told[-1].at_end

    def _check(self, event: Event) -> None:
        assert event.partition in self._starts, f"{event.partition} is not owned: {event}"
        start = self._starts[event.partition]
        assert start is not None, f"{event.partition} is paused: {event}"
        assert event.assignment == start.assignment, f"expected assignment {start.assignment}: {event}"
        assert event.partition not in self._waits, f"{event.partition} waits to be moved: {event}"
        expected = self._next[event.partition]
        if isinstance(event, Batch):
            assert expected is None or event.start == expected, f"expected a batch from {expected}: {event}"
            _check_columns(event)
            self._next[event.partition] = event.end
        elif isinstance(event, Reached):
            assert expected is None or event.position >= expected, f"went back from {expected}: {event}"
            self._next[event.partition] = event.position
        else:
            assert isinstance(event, BelowLog | Failed)
            self._waits.add(event.partition)


def _check_columns(batch: Batch) -> None:
    """A batch is what it says: never empty, columns of one length, offsets that rise inside ``[start, end)``."""
    offsets = list(batch.offsets)
    assert offsets, f"empty: {batch}"
    assert offsets == sorted(set(offsets)), f"offsets do not rise: {offsets}"
    assert batch.start <= offsets[0], f"starts behind its first record: {batch.start}, {offsets[0]}"
    assert batch.end == offsets[-1] + 1, f"does not end behind its last record: {batch.end}, {offsets[-1]}"
    columns = (batch.timestamps_ms, batch.keys, batch.values, batch.headers, batch.timestamp_types)
    assert {len(offsets)} == {len(column) for column in columns if column is not None}
    assert {type(value) for value in (*batch.keys, *batch.values)} <= {bytes, type(None)}
    assert {type(ms) for ms in (*batch.timestamps_ms, *offsets)} == {int}
    assert batch.nbytes >= 0

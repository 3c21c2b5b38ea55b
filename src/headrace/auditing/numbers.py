"""The numbers by which a feed counts its messages, as they stand in a stream's records."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from headrace.auditing.feed_gaps import fetched_for, received_ns, run_of
from headrace.auditing.ranges import Edge, Ranges
from headrace.records import Record
from headrace.sequence import sequence_number


@attrs.define(eq=False)
class Numbers:
    """
    Takes every record of a stream. Safe from any thread, for each partition in its order.

    A run is one process of a producer from its start to its end. What a run received it stored in its order, so between two
    records of a run every number must be there, from whichever run, or be in a gap of this one.

    Attributes:
        field: Which field of a value holds the number; "": none, so that nothing is looked at.
    """

    field: str
    counted: int = attrs.field(default=0, init=False)
    of_a_feed: bool = attrs.field(default=False, init=False)
    _decoder: Any = attrs.field(init=False)
    _seen: dict[tuple[int, str, str], Ranges] = attrs.field(factory=dict, init=False)
    _until_ns: dict[tuple[str, str], int] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        wanted = [("number", Any, None)]
        head = msgspec.defstruct("Counted", wanted, rename={"number": self.field or "number"}, gc=False)
        self._decoder = msgspec.json.Decoder(head)

    def record(self, partition: int, record: Record) -> None:
        """Take the next record of a partition."""
        run = run_of(record)
        self.of_a_feed = self.of_a_feed or bool(run)
        number = self._number(record) if self.field else None
        if number is None:
            return
        symbol, ns = (record.key or b"").decode("utf-8", "replace"), received_ns(record)
        place = (partition, symbol, run)
        with self._lock:
            ranges = self._seen.setdefault(place, Ranges())
            self.counted += 1
            self._until_ns[run, symbol] = max(ns, self._until_ns.get((run, symbol), 0))
        ranges.add(number, Edge(record.offset, ns, fetched_for(record)))

    def _number(self, record: Record) -> int | None:
        try:
            found = self._decoder.decode(record.value or b"").number
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        return sequence_number(found)

    def symbols(self) -> Sequence[str]:
        """Those that are counted."""
        return sorted({symbol for _, symbol, _ in self._seen})

    def ranges(self, symbol: str) -> Mapping[tuple[int, str], Ranges]:
        """By partition and run."""
        return {(n, run): ranges for (n, s, run), ranges in self._seen.items() if s == symbol}

    def until_ns(self, run: str, symbol: str) -> int:
        """When the newest record of a run's symbol was received that is here."""
        return self._until_ns.get((run, symbol), 0)

"""What a look at a deployment found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

Level = Literal["wrong", "unknown", "look"]
_ENDS: tuple[Literal["stopped", "refused", "failed"], ...] = ("stopped", "refused", "failed")
VERSION = 1
"""Of the document: fields are added without a new one, none is taken away or means something else."""


@attrs.frozen
class Problem:
    """
    Something that somebody should know of.

    Attributes:
        level: "wrong": act; "unknown": it could not be told; "look": not now, but do.

        where: "feed", "log", "bronze", "silver", "quarantine" or "audit".

        what: What was found, and where.

        advice: What to do, as a command where there is one.
    """

    level: Level
    where: str
    what: str
    advice: str


@attrs.frozen
class PartitionStatus:
    """
    One partition in the three places. None: not asked for, or not told.

    Attributes:
        number: Which.

        log_low: Where the log begins.

        log_end: Where it ends.

        bronze_end: Where the chain ends.

        bronze_record_ms: The newest time of a record in the chain's last segment; None where it has none.

        bronze_put_s: When that segment was put there, seconds since the Unix epoch.

        bronze_start: Where that segment starts.

        silver_end: Where the ledger ends.

        silver_record_ms: The newest time of a record in the last segment that is loaded.

        waiting_s: Since when the oldest segment that is not loaded waits, seconds since the Unix epoch.
    """

    number: int
    log_low: int | None = None
    log_end: int | None = None
    bronze_end: int | None = None
    bronze_record_ms: int | None = None
    bronze_put_s: float | None = None
    bronze_start: int | None = None
    silver_end: int | None = None
    silver_record_ms: int | None = None
    waiting_s: float | None = None

    @property
    def bronze_lag(self) -> int | None:
        """Offsets that the log has and the lake has not."""
        if self.log_end is None or self.bronze_end is None:
            return None
        return max(0, self.log_end - max(self.bronze_end, self.log_low or 0))

    @property
    def silver_lag(self) -> int | None:
        """Offsets that the lake has and the table has not."""
        return None if self.silver_end is None or self.bronze_end is None else max(0, self.bronze_end - self.silver_end)


@attrs.frozen
class OpenGap:
    """
    An interval that a feed has told, in which messages may be missing, and that lasts.

    Attributes:
        feed: Which.

        symbol: Of what.

        since: After which nothing is certain, ISO-8601; None: before this producer began.

        cause: In its words.
    """

    feed: str
    symbol: str
    since: str | None
    cause: str

    @property
    def end(self) -> Literal["", "stopped", "refused", "failed"]:
        """How the run ended that has told it; "" where it has not said that it did."""
        last = self.cause.rpartition(", then ")[2]
        return next((end for end in _ENDS if end == last), "")


@attrs.frozen
class StreamStatus:
    """
    One stream of the lake.

    Attributes:
        stream: Its name.

        epoch: Its epoch; "" for the first.

        dataset: Its id.

        partitions: Ascending.

        gaps: Of a stream of gap records those that last; None of all others.

        gaps_from_ms: The time of the first gap record that was looked at, milliseconds since the Unix epoch; None: all were.
    """

    stream: str
    epoch: str
    dataset: str
    partitions: Sequence[PartitionStatus]
    gaps: Sequence[OpenGap] | None = None
    gaps_from_ms: int | None = None

    def total(self, name: str) -> int | None:
        """Sum a number over the partitions that have it; None where none has."""
        found = [value for p in self.partitions if (value := getattr(p, name)) is not None]
        return sum(found) if found else None

    def newest_ms(self, stage: Literal["bronze", "silver"]) -> int | None:
        """The newest time of a record there, in milliseconds since the Unix epoch."""
        found = [ms for p in self.partitions if (ms := getattr(p, f"{stage}_record_ms")) is not None and ms >= 0]
        return max(found, default=None)


@attrs.frozen
class Status:
    """
    A deployment at one moment.

    Attributes:
        at_s: When, seconds since the Unix epoch.

        lake: Without secrets, as are the others.

        warehouse: "" where none was named.

        source: "" where none was named.

        streams: Of the lake.

        quarantined: Records in quarantine; None where no warehouse was asked.

        problems: The worst first.

        requests: How many the lake's store was asked.
    """

    at_s: float
    lake: str
    warehouse: str
    source: str
    streams: Sequence[StreamStatus]
    quarantined: int | None
    problems: Sequence[Problem]
    requests: int

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong; 1: something is; 2: nothing that is known, but something could not be told."""
        levels = {problem.level for problem in self.problems}
        return 1 if "wrong" in levels else 2 if "unknown" in levels else 0

    def document(self) -> dict[str, object]:
        """Return all of it as what JSON can hold."""
        streams = [
            {
                **attrs.asdict(stream),
                "partitions": [
                    {**attrs.asdict(p), "bronze_lag": p.bronze_lag, "silver_lag": p.silver_lag}
                    for p in stream.partitions
                ],
            }
            for stream in self.streams
        ]
        return {"version": VERSION, "exit_code": self.exit_code, **attrs.asdict(self), "streams": streams}

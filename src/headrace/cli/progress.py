"""How far a run is, on standard error: one line that is drawn anew on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from headrace.flush import Progress
from headrace.gauges import Rate
from headrace.load import LoadProgress
from headrace.logs import event as log_event
from headrace.redrive import RedriveProgress
from headrace.units import format_bytes

T = TypeVar("T")

_log = logging.getLogger("headrace.progress")
_EVERY_S = 10.0


class Status:
    """One line on a terminal: what is done of what, then as many facts as there is room for, the first ones first."""

    def __init__(self, what: str, *, bounded: bool) -> None:
        self._console = Console(stderr=True)
        columns = [BarColumn(bar_width=None)] if bounded else [SpinnerColumn()]
        self._room = self._console.width - len(what) - (14 if bounded else 4)
        self._bars: Bars | None = None
        self._task = TaskID(0)
        if sys.stderr.isatty():
            text = TextColumn("{task.fields[text]}")
            self._bars = Bars(TextColumn(what), *columns, text, console=self._console, transient=True, expand=bounded)
            self._task = self._bars.add_task(what, total=None, text="")

    @property
    def drawn(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._bars is not None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, done: int, total: int | None, facts: Sequence[str]) -> None:
        """Draw it."""
        if self._bars is not None:
            self._bars.update(self._task, completed=done, total=total, text=fitting(facts, self._room))


def fitting(facts: Sequence[str], room: int) -> str:
    """Join as many facts, from the first on, as have room."""
    line = facts[0]
    for fact in facts[1:]:
        if len(line) + 2 + len(fact) > room:
            break
        line = f"{line}  {fact}"
    return line


class StreamProgress(Status):
    """Shows the numbers of a `Pipeline`; its `observe`."""

    def __init__(self, *, bounded: bool) -> None:
        super().__init__("streaming", bounded=bounded)
        self._logged_s = time.monotonic()

    def __call__(self, now: Progress) -> None:
        """Show them."""
        if self.drawn:
            rates = [f"{now.records_per_s:,.0f}/s", f"{format_bytes(now.bytes_per_s)}/s"]
            stored = [
                f"{now.segments:,} stored",
                f"oldest {now.oldest_s:.0f} s",
                f"{format_bytes(now.held_bytes)} held",
            ]
            if now.offsets_total is None:
                behind = [] if now.lag is None else [f"lag {now.lag:,}"]
                self.show(now.records, None, [f"{now.records:,} records", *rates, *behind, *stored])
            else:
                left = now.offsets_total - now.offsets_done
                facts = [f"{now.offsets_done:,}/{now.offsets_total:,}", *rates, f"{left:,} left", *stored[:1]]
                self.show(now.offsets_done, now.offsets_total, facts)
        elif time.monotonic() - self._logged_s >= _EVERY_S:
            self._logged_s = time.monotonic()
            log_event(
                _log,
                logging.INFO,
                "streaming",
                records=now.records,
                stored_records=now.stored_records,
                segments=now.segments,
                records_per_s=round(now.records_per_s),
                bytes_per_s=round(now.bytes_per_s),
                lag=now.lag,
                offsets_done=now.offsets_done,
                offsets_total=now.offsets_total,
                held_bytes=now.held_bytes,
                oldest_s=round(now.oldest_s, 1),
            )


class LoadStatus(Status):
    """Shows the numbers of a `Load`; its `observe`."""

    def __init__(self, *, segments: int | None) -> None:
        super().__init__("loading", bounded=segments is not None)
        self._total = segments
        self._rate = Rate()
        self._logged_s = time.monotonic()

    def __call__(self, now: LoadProgress) -> None:
        """Show them."""
        result = now.result
        (records_s,) = self._rate(now.elapsed_s, result.records)
        if self.drawn:
            facts = [f"{result.records:,} records", f"{records_s:,.0f}/s", f"{result.rejected:,} quarantined"]
            if self._total is not None:
                facts.insert(0, f"{result.segments:,}/{max(self._total, result.segments):,} segments")
            self.show(result.segments, self._total, facts)
        elif time.monotonic() - self._logged_s >= _EVERY_S:
            self._logged_s = time.monotonic()
            log_event(
                _log,
                logging.INFO,
                "loading",
                records=result.records,
                segments=result.segments,
                inserted=result.inserted,
                rejected=result.rejected,
                transactions=now.transactions,
                records_per_s=round(records_s),
            )


class RedriveStatus(Status):
    """Shows the numbers of a `Redrive`; its `observe`."""

    def __init__(self) -> None:
        super().__init__("redriving", bounded=False)

    def __call__(self, now: RedriveProgress) -> None:
        """Show them."""
        facts = [f"{now.tried:,} tried", f"{now.result.inserted:,} rows", f"{now.transactions:,} transactions"]
        self.show(now.tried, None, facts)
        if not self.drawn:
            log_event(_log, logging.INFO, "redriving", tried=now.tried, inserted=now.result.inserted)


class Looking:
    """Counts on a terminal what is looked at, where that takes a while."""

    def __init__(self, what: str, things: str = "segments") -> None:
        self._status = Status(f"reading {what}", bounded=False)
        self._things = things
        self._seen = 0

    def __enter__(self) -> Self:
        self._status.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.__exit__(kind, error, trace)

    def __call__(self, thing: object) -> None:
        """Count one more."""
        self._seen += 1
        self._status.show(self._seen, None, [f"{self._seen:,} {self._things}"])

    def each(self, things: Iterable[T]) -> Iterator[T]:
        """Yield them, counted."""
        for thing in things:
            self(thing)
            yield thing

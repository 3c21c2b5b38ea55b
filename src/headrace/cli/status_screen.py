"""Draws a `Status`: on a terminal one screen of 80 columns, in a pipe plain lines, or a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.cli.output import Output, plain
from headrace.status.result import Status, StreamStatus
from headrace.units import counted, format_seconds

_STYLES = {"wrong": "bold red", "unknown": "bold yellow", "look": "yellow"}
_VERDICTS = {0: ("nothing is wrong", "bold green"), 1: ("", "bold red"), 2: ("", "bold yellow")}
_COLUMNS = ("stream", "parts", "log end", "bronze", "lag", "age", "silver", "lag", "age")


class Screen:
    """
    Shows one status, or one after the other in the same place.

    Args:
        output: Where it goes.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live: Live | None = None
        self._before: Status | None = None

    def __enter__(self) -> Self:
        if self._output.drawn:
            self._live = Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: Status) -> None:
        """Show it; the rates are those since the one before."""
        if self._live is not None:
            self._live.update(_drawn(status, self._before), refresh=True)
        elif self._output.drawn:
            Console(highlight=False).print(_drawn(status, self._before))
        else:
            self._write(status)
        self._before = status

    def _write(self, status: Status) -> None:
        self._output.document(status.document())
        rows = []
        for stream in status.streams:
            for p in stream.partitions:
                ends = (p.log_end, p.bronze_end, p.bronze_lag, p.bronze_record_ms, p.silver_end, p.silver_lag)
                rows.append([stream.stream, p.number, *ends, p.silver_record_ms])
        names = (
            "log_end",
            "bronze_end",
            "bronze_lag",
            "bronze_record_ms",
            "silver_end",
            "silver_lag",
            "silver_record_ms",
        )
        self._output.table("", ("stream", "partition", *names), rows)
        if status.problems:
            told = [(p.level, p.where, p.what, p.advice) for p in status.problems]
            self._output.table("", ("level", "where", "problem", "what to do"), told)
        for text in _not_looked_at(status):
            self._output.line(text)
        self._output.line(_verdict(status)[0])


def _verdict(status: Status) -> tuple[str, str]:
    text, style = _VERDICTS[status.exit_code]
    levels: Counter[str] = Counter(problem.level for problem in status.problems)
    parts = [f"{levels[word]} {word}" for word in _STYLES if levels[word]]
    return (", ".join([*filter(None, [text]), *parts]), style)


def _not_looked_at(status: Status) -> Iterator[str]:
    """Of which gap records nothing is known: there were too many behind them."""
    for stream in status.streams:
        if stream.gaps_from_ms is not None:
            at = datetime.fromtimestamp(stream.gaps_from_ms / 1000, UTC)
            yield f"gaps before {at:%Y-%m-%d %H:%M:%S} UTC were not looked at: {stream.stream}"


def _drawn(status: Status, before: Status | None) -> RenderableType:
    text, style = _verdict(status)
    head = Text.assemble((text, style), (f"  {_clock(status.at_s)} UTC, {status.requests} requests to the lake", "dim"))
    parts: list[RenderableType] = [head, _table(status)]
    rates = _rates(status, before)
    if rates:
        parts.append(Text(rates, style="dim"))
    if status.quarantined is not None:
        parts.append(
            Text(
                f"in quarantine: {counted(status.quarantined, 'record')}",
                style="yellow" if status.quarantined else "dim",
            )
        )
    if any(stream.gaps is not None for stream in status.streams):
        lasting = sum(len(stream.gaps or ()) for stream in status.streams)
        parts.append(Text(f"feed gaps that last: {lasting}", style="red" if lasting else "dim"))
        parts += (Text(plain(text), style="yellow") for text in _not_looked_at(status))
    for problem in status.problems:
        parts.append(Text.assemble((f"{problem.where}: ", _STYLES[problem.level]), plain(problem.what)))
        parts.append(Text(f"  -> {plain(problem.advice)}", style="bold"))
    return Group(*parts)


def _table(status: Status) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    shown = _shown_columns(status)
    for i in shown:
        table.add_column(_COLUMNS[i], justify="left" if i == 0 else "right", overflow="fold" if i == 0 else "ellipsis")
    for stream in status.streams:
        cells = _cells(stream, status.at_s)
        table.add_row(*(cells[i] for i in shown))
    return table


def _shown_columns(status: Status) -> list[int]:
    """Without what was not asked for."""
    hidden: set[int] = set()
    if not any(stream.total("log_end") is not None for stream in status.streams):
        hidden |= {2, 4}
    if not status.warehouse:
        hidden |= {6, 7, 8}
    return [i for i in range(len(_COLUMNS)) if i not in hidden]


def _cells(stream: StreamStatus, at_s: float) -> list[Text]:
    name = stream.stream + (f"~{stream.epoch}" if stream.epoch else "")
    numbers = [stream.total(each) for each in ("log_end", "bronze_end", "bronze_lag", "silver_end", "silver_lag")]
    log, bronze, lag, silver, behind = (Text("" if n is None else f"{n:,}") for n in numbers)
    for cell, number in ((lag, numbers[2]), (behind, numbers[4])):
        cell.style = "yellow" if number else ""
    ages = [_age(stream.newest_ms(stage), at_s) for stage in ("bronze", "silver")]
    if numbers[3] is None:
        ages[1] = ""
    return [
        Text(plain(name, kept="")),
        Text(str(len(stream.partitions))),
        log,
        bronze,
        lag,
        Text(ages[0]),
        silver,
        behind,
        Text(ages[1]),
    ]


def _age(ms: int | None, at_s: float) -> str:
    return "" if ms is None else f"{format_seconds(max(0, round(at_s - ms / 1000)))}"


def _rates(status: Status, before: Status | None) -> str:
    """How many offsets a second each place grew, over all streams."""
    if before is None or status.at_s <= before.at_s:
        return ""
    found = []
    for name, place in (("log_end", "log"), ("bronze_end", "bronze"), ("silver_end", "silver")):
        sums = [[s.total(name) for s in each.streams] for each in (status, before)]
        now, then = (sum(n for n in each if n is not None) for each in sums)
        if any(n is not None for n in sums[0]):
            found.append(f"{place} {(now - then) / (status.at_s - before.at_s):,.0f}/s")
    return "growing: " + ", ".join(found)


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S}"

"""The demo's report: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import attrs
import duckdb

from headrace.demo.check import Count
from headrace.demo.streaming import Kill
from headrace.segment import Segment
from headrace.units import format_bytes

_WIDTH, _PRICE_HEIGHT, _VOLUME_HEIGHT, _LEFT, _TOP = 360, 150, 46, 44, 10
_NEW_YORK = timedelta(hours=-4)  # daylight saving time, in all of the sessions


@attrs.frozen
class Page:
    """
    What the report shows.

    Attributes:
        counts: By partition, and for each stream together.

        chains: For each stream its partitions' segments.

        kills: What was killed, and where.

        problems: Why exactness cannot be shown; none where it can.

        warehouse: The DuckDB file that the chart is read from.

        versions: Of what took part.

        elapsed_s: Of the whole demo.
    """

    counts: Sequence[Count]
    chains: Mapping[str, Mapping[int, Sequence[Segment]]]
    kills: Sequence[Kill]
    problems: Sequence[str]
    warehouse: Path
    versions: Mapping[str, str]
    elapsed_s: float


@attrs.frozen
class Minute:
    """A bar, as silver holds it."""

    time: datetime
    close: float
    volume: int


def render(page: Page) -> str:
    """Return the page's HTML."""
    template = Template(files("headrace.demo").joinpath("page.html").read_text(encoding="utf-8"))
    streams = [c for c in page.counts if c.partition is None]
    return template.substitute(
        verdict_class="bad" if page.problems else "good",
        verdict=_verdict(page),
        problems=_problems(page.problems),
        published=f"{sum(c.published for c in streams):,}",
        silver=f"{sum(c.silver for c in streams):,}",
        quarantine=f"{sum(c.quarantine for c in streams):,}",
        segments=f"{sum(c.segments for c in streams):,}",
        kills=len(page.kills),
        elapsed=f"{page.elapsed_s:.1f}",
        sessions="".join(_session(day, minutes) for day, minutes in _sessions(page.warehouse)),
        counts="".join(map(_count_row, page.counts)),
        chains="".join(_stream(stream, chains, page.kills) for stream, chains in page.chains.items()),
        versions=", ".join(f"{escape(name)} {escape(version)}" for name, version in page.versions.items()),
    )


def _problems(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f'<ul class="bad">{items}</ul>' if items else ""


def _verdict(page: Page) -> str:
    if page.problems:
        return "Not shown"
    times = f"{len(page.kills)} times" if len(page.kills) != 1 else "once"
    return f"Every record exactly once, though the process was killed {times}"


# ---- the chart ------------------------------------------------------------------------------------------------------


def _sessions(warehouse: Path) -> list[tuple[str, list[Minute]]]:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute(
            "SELECT time::TIMESTAMP, close::DOUBLE, volume::BIGINT FROM bars WHERE symbol = 'AAPL' ORDER BY time"
        ).fetchall()
    days: dict[str, list[Minute]] = {}
    for time, *rest in rows:
        local = time + _NEW_YORK
        days.setdefault(f"{local:%A, %-d %B %Y}", []).append(Minute(local, *rest))
    return list(days.items())


def _session(day: str, minutes: Sequence[Minute]) -> str:
    # by closing prices: single trades far off, such as one before the split was known, would flatten the day
    low, high = min(m.close for m in minutes), max(m.close for m in minutes)
    top = math.sqrt(max(m.volume for m in minutes) or 1)
    begin, end = minutes[0].time, minutes[-1].time
    span = max(1.0, (end - begin).total_seconds())
    height = _TOP + _PRICE_HEIGHT + 10 + _VOLUME_HEIGHT + 22

    def x(time: datetime) -> float:
        return _LEFT + (time - begin).total_seconds() / span * (_WIDTH - _LEFT - 8)

    def y(price: float) -> float:
        return _TOP + (high - price) / max(high - low, 1e-9) * _PRICE_HEIGHT

    foot = _TOP + _PRICE_HEIGHT + 10 + _VOLUME_HEIGHT
    line = " ".join(f"{x(m.time):.1f},{y(m.close):.1f}" for m in minutes)
    area = f"{x(begin):.1f},{_TOP + _PRICE_HEIGHT} {line} {x(end):.1f},{_TOP + _PRICE_HEIGHT}"
    volume = "".join(f"M{x(m.time):.1f} {foot}v-{math.sqrt(m.volume) / top * _VOLUME_HEIGHT:.1f}" for m in minutes)
    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(p):.1f}" y2="{y(p):.1f}" class="grid"/>'
        f'<text x="{_LEFT - 6}" y="{y(p) + 4:.1f}" text-anchor="end">{p:.2f}</text>'
        for p in (low, (low + high) / 2, high)
    )
    hours = "".join(
        f'<text x="{x(at):.1f}" y="{foot + 16}" text-anchor="middle">{at:%-H:%M}</text>' for at in _hours(begin, end)
    )
    change = (minutes[-1].close / minutes[0].close - 1) * 100
    traded = sum(m.volume for m in minutes)
    about = f"{day}: {minutes[0].close:.2f} to {minutes[-1].close:.2f} ({change:+.2f} %), from {low:.2f} to {high:.2f}"
    return (
        f"<figure><figcaption><b>{escape(day)}</b>"
        f" <span>{minutes[-1].close:.2f}, {change:+.2f} %, {traded:,} shares</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img"><title>AAPL, {escape(about)}</title>'
        f'{grid}<polygon points="{area}" class="area"/><polyline points="{line}" class="price"/>'
        f'<path d="{volume}" class="volume"/>{hours}</svg></figure>'
    )


def _hours(begin: datetime, end: datetime) -> list[datetime]:
    wanted = [
        begin.replace(hour=h, minute=m, second=0, microsecond=0)
        for h, m in ((4, 0), (9, 30), (12, 0), (16, 0), (20, 0))
    ]
    return [at for at in wanted if begin <= at <= end]


# ---- counts and chains ----------------------------------------------------------------------------------------------


def _count_row(count: Count) -> str:
    cells = [count.published, count.bronze, count.silver, count.quarantine, count.segments]
    numbers = "".join(f"<td>{cell:,}</td>" for cell in cells)
    sign = '<td class="good">yes</td>' if count.exact else '<td class="bad">no</td>'
    where = "all partitions" if count.partition is None else f"partition {count.partition}"
    kind = ' class="all"' if count.partition is None else ""
    return f'<tr{kind}><th scope="row">{escape(count.stream)}</th><td class="text">{where}</td>{numbers}{sign}</tr>'


def _stream(stream: str, chains: Mapping[int, Sequence[Segment]], kills: Sequence[Kill]) -> str:
    longest = max((segments[-1].end for segments in chains.values() if segments), default=1)
    rows = "".join(_chain(stream, n, segments, longest, kills) for n, segments in chains.items() if segments)
    return f'<h3>{escape(stream)}</h3><div class="chains">{rows}</div>'


def _chain(stream: str, number: int, segments: Sequence[Segment], longest: int, kills: Sequence[Kill]) -> str:
    width = 1000
    scale = width / longest
    blocks = "".join(
        f'<rect x="{s.start * scale:.2f}" y="4" width="{max(1.0, (s.end - s.start) * scale - 1.5):.2f}" height="22" rx="2"'
        f' class="segment"><title>[{s.start:,}, {s.end:,}): {s.trailer.records:,} records, {format_bytes(s.size)}</title></rect>'
        for s in segments
    )
    marks = "".join(
        f'<path d="M{kill.ends.get(number, 0) * scale:.2f} 0v30" class="kill">'
        f"<title>killed here: {kill.ends.get(number, 0):,} records were stored</title></path>"
        for kill in kills
        if kill.stream == stream or stream.startswith(f"{kill.stream}-")
    )
    records = sum(s.trailer.records for s in segments)
    size = format_bytes(sum(s.size for s in segments))
    pieces = _several(len(segments), "segment")
    label = f"partition {number}: {pieces}, {_several(records, 'record')}, {size}"
    return (
        f'<div class="chain"><span>{number}</span><svg viewBox="0 0 {width} 30" preserveAspectRatio="none" role="img">'
        f"<title>{escape(stream)} {label}</title>{blocks}{marks}</svg><span>{pieces}, {size}</span></div>"
    )


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

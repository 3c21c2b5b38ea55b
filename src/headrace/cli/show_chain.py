"""The chain of one partition, segment by segment, with what is wrong at its place."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from headrace.chain import Chain
from headrace.cli.exits import DATA, DONE
from headrace.cli.links import Link, links, noted_losses
from headrace.cli.output import Output, when
from headrace.cli.progress import Looking
from headrace.segment import Trailer
from headrace.units import format_bytes

_HEAD, _TAIL, _AROUND = 3, 20, 2


def show_chain(output: Output, chain: Chain, number: int, *, every: bool, deep: bool) -> int:
    """Show the chain; the exit code says whether it is whole."""
    with Looking(f"{chain.dataset.stream}/{number}") as looking:
        found = list(looking.each(links(chain, number, deep=deep)))
    notes, broken = noted_losses(chain, number), [link for link in found if link.broken]
    shown = found if every or not output.drawn else _worth_showing(found)
    columns, rows, styles = _chain_rows(output, shown)
    output.table(f"{chain.dataset.stream}/{number} in {chain.store.place}, times in UTC", columns, rows, styles)
    if hidden := len(found) - sum(link is not None for link in shown):
        output.line(f"{hidden:,} segments in between are in order; --all shows them", style="dim")
    tell(output, broken)
    for start, end in notes:
        output.remark(f"noted loss: the records [{start}, {end}) were gone before they were read", style="yellow")
    segments = [link.segment for link in found if link.segment is not None]
    output.document(
        {
            "stream": chain.dataset.stream,
            "partition": number,
            "dataset": chain.dataset.id,
            "ok": not broken,
            "end": max((s.end for s in segments), default=0),
            "segments": [{"key": s.key, "size": s.size, **_trailer_document(s.trailer)} for s in segments],
            "noted_losses": [{"start": a, "end": b} for a, b in notes],
            "expired": expired_document(found),
            "broken": [link_document(link) for link in broken],
        }
    )
    if output.drawn and not broken:
        records = sum(s.trailer.records for s in segments)
        end = segments[-1].end if segments else 0
        gone = max((link.end or 0 for link in found if link.state == "expired"), default=0)
        whence = f" from {gone:,}, below which all was expired," if gone else ""
        output.line(
            f"{len(segments):,} segments, {records:,} records, one line without a gap{whence} to {end:,}", style="dim"
        )
    return DATA if broken else DONE


def _worth_showing(found: list[Link]) -> list[Link | None]:
    """The first ones, the newest, and what is around trouble; None stands for those between."""
    if len(found) <= _HEAD + _TAIL + 10:
        return list(found)
    keep = {*range(_HEAD), *range(len(found) - _TAIL, len(found))}
    for i, link in enumerate(found):
        if link.state != "ok":
            keep |= set(range(max(0, i - _AROUND), min(len(found), i + _AROUND + 1)))
    shown: list[Link | None] = []
    for i, link in enumerate(found):
        if i in keep:
            shown.append(link)
        elif shown[-1] is not None:
            shown.append(None)
    return shown


def _chain_rows(output: Output, shown: Sequence[Link | None]) -> tuple[list[str], list[list[object]], list[str | None]]:
    columns = ["start", "end", "records", "first time", "last time", "bytes", "digest", "state"]
    keep = set(columns)
    if output.drawn:
        told = any(link is not None and link.state != "ok" for link in shown)
        keep -= {"digest"} if output.width < 105 else set()
        keep -= {"first time"} if output.width < 90 else set()
        keep -= {"last time", "bytes"} if output.width < 60 else set()
        keep -= set() if told else {"state"}
    rows, styles = [], []
    for link in shown:
        cells = _cells(link, drawn=output.drawn)
        rows.append([cells.get(c) for c in columns if c in keep])
        quiet = link is None or link.state == "expired"
        styles.append("dim" if quiet else "bold red" if link is not None and link.broken else None)
    return [c for c in columns if c in keep], rows, styles


def _cells(link: Link | None, *, drawn: bool) -> dict[str, object]:
    if link is None:
        return {"start": "…", "state": None}
    cells: dict[str, object] = {"start": link.start, "end": link.end, "state": link.state}
    if link.segment is not None:
        t = link.segment.trailer
        size = format_bytes(link.segment.size) if drawn else link.segment.size
        cells |= {"records": t.records, "bytes": size, "digest": t.digest[:12] if drawn else t.digest}
        cells |= {"first time": when(t.min_ms), "last time": when(t.max_ms)}
    return cells


def tell(output: Output, broken: list[Link]) -> None:
    """Say in words what is wrong."""
    for link in broken:
        output.remark(f"{link.state}: {link.words}", style="red")


def _trailer_document(trailer: Trailer) -> dict[str, object]:
    fields = attrs.asdict(trailer)
    del fields["partition"], fields["dataset_id"]
    return fields


def expired_document(found: list[Link]) -> list[dict[str, object]]:
    """What was deleted on purpose, as fields."""
    return [{"start": link.start, "end": link.end} for link in found if link.state == "expired"]


def link_document(link: Link) -> dict[str, object]:
    """What is wrong, as fields."""
    return {"state": link.state, "start": link.start, "end": link.end, "message": link.words}

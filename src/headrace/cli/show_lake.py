"""A lake at a glance: its datasets, as pinned, and their partitions."""

from __future__ import annotations

from typing import Any, NoReturn

import attrs

from headrace.chain import Chain, streams
from headrace.cli.exits import DATA, DONE
from headrace.cli.links import Link, links, noted_losses
from headrace.cli.output import Output, when
from headrace.cli.progress import Looking
from headrace.cli.show_chain import expired_document, link_document, tell
from headrace.errors import ConfigError
from headrace.store import Store
from headrace.units import counted, format_bytes


def show_lake(output: Output, store: Store, stream: str, epoch: str, *, deep: bool) -> int:
    """Show the lake; the exit code says whether every chain is whole."""
    wanted = [(s, e) for s, e in streams(store) if stream in ("", s) and epoch in ("", e)]
    if not wanted:
        _refuse(store, stream, epoch)
    documents: list[dict[str, Any]] = []
    broken: list[Link] = []
    rows: list[tuple[object, ...]] = []
    for name, its_epoch in wanted:
        chain = Chain.open(store, name, its_epoch)
        found = [_Summary.of(chain, number, deep=deep) for number in chain.partitions()]
        broken += [link for summary in found for link in summary.broken]
        documents.append({**attrs.asdict(chain.dataset), "partitions": [summary.document() for summary in found]})
        rows += [summary.row(chain) for summary in found]
        if output.drawn:
            _show_dataset(output, chain, found)
    if not output.drawn:
        output.table("", ("stream", "epoch", "dataset", *_Summary.columns), rows)
    tell(output, broken)
    output.document({"lake": store.place, "ok": not broken, "datasets": documents})
    return DATA if broken else DONE


def _refuse(store: Store, stream: str, epoch: str) -> NoReturn:
    there = ", ".join(f"{s} (epoch {e})" if e else s for s, e in streams(store))
    if not there:
        raise ConfigError(
            f"{store.place} holds no stream; check the path, or write one: headrace stream SOURCE {store.place}"
        )
    named = " ".join([f"stream {stream!r}" if stream else "stream", *([f"of epoch {epoch!r}"] if epoch else [])])
    raise ConfigError(f"{store.place} holds no {named}; it has: {there}")


@attrs.frozen
class _Summary:
    """A partition in one row."""

    columns = ("partition", "segments", "records", "end", "bytes", "first time", "last time", "state")

    number: int
    links: list[Link]
    notes: list[tuple[int, int]]

    @classmethod
    def of(cls, chain: Chain, number: int, *, deep: bool) -> _Summary:
        with Looking(f"{chain.dataset.stream}/{number}") as looking:
            return cls(number, list(looking.each(links(chain, number, deep=deep))), noted_losses(chain, number))

    @property
    def broken(self) -> list[Link]:
        return [link for link in self.links if link.broken]

    def document(self) -> dict[str, object]:
        segments = [link.segment for link in self.links if link.segment is not None]
        firsts, lasts = [s.trailer.min_ms for s in segments], [s.trailer.max_ms for s in segments]
        return {
            "partition": self.number,
            "segments": len(segments),
            "records": sum(s.trailer.records for s in segments),
            "end": max((s.end for s in segments), default=0),
            "bytes": sum(s.size for s in segments),
            "min_ms": min(firsts, default=None),  # -1: some record has no time
            "max_ms": max(lasts, default=None),
            "noted_losses": [{"start": a, "end": b} for a, b in self.notes],
            "expired": expired_document(self.links),
            "broken": [link_document(link) for link in self.broken],
        }

    def row(self, chain: Chain) -> tuple[object, ...]:
        return (chain.dataset.stream, chain.dataset.epoch, chain.dataset.id, *self.cells())

    def cells(self) -> tuple[object, ...]:
        found = self.document()
        state = ", ".join(sorted({link.state for link in self.broken})) or "ok"
        if gone := [link.end for link in self.links if link.state == "expired"]:
            state += f", expired below {gone[-1]}"
        if self.notes:
            state += f", {len(self.notes)} noted loss{'es' if len(self.notes) > 1 else ''}"
        numbers = [found[name] for name in ("partition", "segments", "records", "end", "bytes")]
        return (*numbers, when(found["min_ms"]), when(found["max_ms"]), state)


def _show_dataset(output: Output, chain: Chain, found: list[_Summary]) -> None:
    pin = chain.dataset
    output.line()
    output.line(pin.stream + (f", epoch {pin.epoch}" if pin.epoch else ""), style="bold")
    about = [f"dataset {pin.id[:8]}", pin.format, pin.compression, pin.isolation, f"cluster {pin.cluster}"]
    about += [f"topic {pin.topic if len(pin.topic) <= 24 else pin.topic[:20] + '…'}"] if pin.topic else []
    output.line(
        ", ".join([*about, f"{counted(pin.partitions, 'partition')} when it was made"]),
        style="dim",
    )
    if not found:
        output.line("no segments yet")
        return
    keep = _fitting(output.width)
    columns = [c for c in _Summary.columns if c in keep]
    rows = []
    for summary in found:
        cells = dict(zip(_Summary.columns, summary.cells(), strict=True))
        cells["bytes"] = format_bytes(summary.document()["bytes"])  # type: ignore[arg-type]  # a number
        rows.append([cells[c] for c in columns])
    output.table("", columns, rows, ["red" if s.broken else None for s in found])


def _fitting(width: int) -> set[str]:
    """The columns that a terminal has room for."""
    least = {"partition", "records", "end", "state"}
    if width >= 60:
        least |= {"segments", "bytes"}
    if width >= 90:
        least |= {"last time"}
    if width >= 115:
        least |= {"first time"}
    return least

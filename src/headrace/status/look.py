"""One look at a deployment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from headrace.chain import Chain, streams
from headrace.errors import ConfigError, HeadraceError
from headrace.loader import Loader, Selection
from headrace.records import Extent, Partition
from headrace.source import Source
from headrace.status.asking import Asked, CountedStore, ask, made_from
from headrace.status.audited import of_audit
from headrace.status.gaps import GapRecords, Lasting
from headrace.status.judging import of_chain, of_gaps, of_quarantine, silent
from headrace.status.result import PartitionStatus, Problem, Status, StreamStatus
from headrace.store import Store

GAPS = ".gaps"
_ORDER = {"wrong": 0, "unknown": 1, "look": 2}


@attrs.define(kw_only=True, eq=False)
class Look:
    """
    Looks at log, lake and warehouse as often as it is called. What does not answer is a problem, and no error.

    A look asks the lake for two requests a stream, one LIST for its partitions and one for each, and for each partition two that
    find its end where it was looked at before, about eleven where not; where the table is behind a few more. Of gap records
    those are read that are new since the last look, at the first as far back as `GapRecords` may: two for each segment. Where a
    partition seems to stand still the log is asked for its next record: a transaction's marker is none.

    Attributes:
        store: The lake's.

        warehouse: Makes the loader for one look; None: there is none.

        source: The log; None: it is not asked.

        stream: Only this one; "" for all of the lake.

        epoch: Of it.

        late_s: What waits longer than that stands still, in seconds.

        audit: What ``headrace audit --json`` has printed; None: not looked at.

        audit_oldest_s: An older audit is a problem of its own.

        uris: Of lake, warehouse and source, without secrets.

        clock: Seconds since the Unix epoch.
    """

    store: Store
    warehouse: Callable[[], Loader] | None = None
    source: Source | None = None
    stream: str = ""
    epoch: str = ""
    late_s: float = 300.0
    audit: Path | None = None
    audit_oldest_s: float = 172_800.0
    uris: tuple[str, str, str] = ("", "", "")
    clock: Callable[[], float] = time.time
    _begun: dict[str, dict[int, int]] = attrs.field(factory=dict, init=False)
    """By dataset and partition where the last segment started."""
    _gaps: dict[str, GapRecords] = attrs.field(factory=dict, init=False)
    """By dataset of gap records."""
    _bare: set[tuple[Partition, int, int]] = attrs.field(factory=set, init=False)
    """Ranges of the log in which there is no record, and never will be."""

    def __call__(self) -> Status:
        """
        Look once.

        Raises:
            ConfigError: The lake has no such stream.
        """
        store, problems, at_s = CountedStore(self.store), list[Problem](), self.clock()
        extents = self._extents(problems)
        found: list[StreamStatus] = []
        quarantined = None
        loader = None
        try:
            loader = self.warehouse() if self.warehouse is not None else None
            chains = [Chain.open(store, *each) for each in self._wanted(store)]
            problems += self._strangers(chains, extents)
            alone = len({c.dataset.stream for c in chains if not c.dataset.stream.endswith(GAPS)}) == 1
            found = [self._of(chain, loader, extents, problems, at_s, alone=alone) for chain in chains]
            if loader is not None:
                quarantined = self._quarantined(loader, problems)
        except ConfigError:
            raise
        except HeadraceError as error:
            problems.append(silent("bronze", error, self.uris[0]))
        finally:
            if loader is not None:
                loader.close()
        if self.audit is not None:
            problems += of_audit(self.audit, at_s, self.audit_oldest_s)
        problems.sort(key=lambda problem: _ORDER[problem.level])
        return Status(at_s, *self.uris, found, quarantined, problems, store.requests)

    def close(self) -> None:
        """Close what is looked at."""
        self.store.close()
        if self.source is not None:
            self.source.close()

    def _extents(self, problems: list[Problem]) -> Mapping[Partition, Extent]:
        try:
            return self.source.extents() if self.source is not None else {}
        except HeadraceError as error:
            problems.append(silent("log", error, self.uris[2]))
            return {}

    def _strangers(self, chains: list[Chain], extents: Mapping[Partition, Extent]) -> Iterator[Problem]:
        """Yield the logs that have a stream's name and are not what any of its epochs was made from."""
        for stream, extent in {p.stream: extent for p, extent in extents.items()}.items():
            ours = [chain for chain in chains if chain.dataset.stream == stream]
            if ours and not any(made_from(chain, extent) for chain in ours):
                yield Problem(
                    "wrong",
                    "log",
                    f"{stream} in {self.uris[2]} is not the log that the lake was made from: another cluster or topic id",
                    "name the right one; where the topic was made again: a new epoch",
                )

    def _wanted(self, store: Store) -> list[tuple[str, str]]:
        there = streams(store)
        wanted = [(s, e) for s, e in there if self.stream in ("", s) and self.epoch in ("", e)]
        if not wanted:
            names = ", ".join(f"{s} (epoch {e})" if e else s for s, e in there) or "none"
            raise ConfigError(
                f"{store.place} has no stream {self.stream!r}{f' of epoch {self.epoch}' if self.epoch else ''}; it has: {names}"
            )
        return wanted

    def _of(
        self,
        chain: Chain,
        loader: Loader | None,
        extents: Mapping[Partition, Extent],
        problems: list[Problem],
        at_s: float,
        *,
        alone: bool,
    ) -> StreamStatus:
        pin = chain.dataset
        before = self._begun.get(pin.id, {})
        gaps = pin.stream.endswith(GAPS)
        try:
            asked = ask(chain, None if gaps else loader, extents, before, alone=alone)
        except HeadraceError as error:
            if loader is None or gaps:
                raise
            problems.append(silent("silver", error, self.uris[1]))
            asked = ask(chain, None, extents, before, alone=alone)
        self._begun[pin.id] = {p.number: p.bronze_start for p in asked.partitions if p.bronze_start is not None}
        problems += of_chain(
            pin.stream,
            asked,
            at_s,
            self.late_s,
            self.uris,
            lambda p: self._has_record(Partition(pin.stream, p.number), p),
        )
        lasting = self._lasting(chain, asked, problems) if gaps else None
        if lasting is None:
            return StreamStatus(pin.stream, pin.epoch, pin.id, asked.partitions)
        return StreamStatus(pin.stream, pin.epoch, pin.id, asked.partitions, lasting.gaps, lasting.from_ms)

    def _lasting(self, chain: Chain, asked: Asked, problems: list[Problem]) -> Lasting | None:
        ends = {p.number: p.bronze_end for p in asked.partitions if p.bronze_end is not None}
        try:
            found = self._gaps.setdefault(chain.dataset.id, GapRecords()).read(chain, ends)
        except HeadraceError as error:
            problems.append(silent("feed", error, self.uris[0]))
            return None
        problems += of_gaps(found)
        return found

    def _has_record(self, partition: Partition, status: PartitionStatus) -> bool:
        """Whether the log has a record behind the lake's end; where it cannot say there is one."""
        start, end = max(status.log_low or 0, status.bronze_end or 0), status.log_end or 0
        if self.source is None or (partition, start, end) in self._bare:
            return self.source is None
        try:
            found = next(iter(self.source.reread(partition, start, end)), None)
        except HeadraceError:
            return True
        if found is None:
            self._bare.add((partition, start, end))
        return found is not None

    def _quarantined(self, loader: Loader, problems: list[Problem]) -> int | None:
        try:
            count = sum(each.records for each in loader.quarantine_counts(Selection()))
        except HeadraceError as error:
            problems.append(silent("quarantine", error, self.uris[1]))
            return None
        problems += of_quarantine(count, self.uris[1])
        return count

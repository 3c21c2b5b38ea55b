"""Loads what the ledger lacks: from the chains of a dataset into one target."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal

import attrs

from headrace.chain import Chain, start_of, streams
from headrace.dataset import Dataset, read_dataset
from headrace.errors import (
    ConfigError,
    CorruptSegmentError,
    GapError,
    HeadraceError,
    PositionConflictError,
    TooManyRejectedError,
    TransientError,
)
from headrace.layout import Layout
from headrace.loader import LEAST_REJECTED, MAX_REJECTED, Change, Line, LoadableSegment, Loader, LoadResult
from headrace.logs import event as log_event
from headrace.records import Partition
from headrace.retry import Retry
from headrace.segment import Segment

_log = logging.getLogger("headrace.load")

_CONFLICTS = 10
"""
So often a load is refused though the ledger stands where it stood, before it believes that ledger and chain do not fit.

Where the ledger moves, other loaders are at work, and this one may be refused as often as they like.
"""


@attrs.frozen
class LoadProgress:
    """
    How far a load is.

    Attributes:
        result: Sums over the transactions of this run.

        transactions: How many were committed.

        segments_total: What was found to do; more may come with `follow`.

        elapsed_s: Since the run began.
    """

    result: LoadResult
    transactions: int
    segments_total: int
    elapsed_s: float


@attrs.define(kw_only=True, eq=False)
class Load:
    """
    Brings one target up to date with one dataset. A run that is killed at any moment is simply run again.

    Attributes:
        chain: The dataset.

        loader: Of the target; closed by `run`.

        group_bytes: Segments are loaded together up to about this size, compressed: many small ones cost one transaction.

        group_segments: And at most so many.

        max_rejected: The share of a transaction's records that may go to quarantine, 0 to 1; above it nothing of the partitions
            that are so bad is written, the others go on. Fewer than 100 bad records stop nothing; those of small transactions
            are counted together, until they are 100.

        begin_at: Where a partition begins that was never loaded: its number to an offset at which a segment starts; or
            "oldest": behind the head that `headrace.Expire` deleted, where it did. A ledger row of its own kind says so (B29).

        until: Load no segment that starts at or after this offset; all records below it are loaded then, as far as they are in
            the lake.

        until_ms: Load a partition up to its first segment of which every record is of this time or later, by the records'
            own timestamps in milliseconds since the epoch. One without a timestamp counts as before.

        evolve: Fields of the stream that the contract does not name become columns, which may be null (`Loader.evolve`). Does
            what `alter` does, too.

        alter: Make a table that is there fit the contract before anything is loaded (`Loader.alter`), where that changes no
            value of it; else the run is refused.

        follow: Go on looking for new segments until `stop`.

        look_every_s: How often, while following.

        retry_for_s: How long a warehouse or a store that does not answer is tried again.

        observe: Called with the numbers after each transaction.

        clock: Monotonic seconds.
    """

    chain: Chain
    loader: Loader
    group_bytes: int = 16 << 20
    group_segments: int = 500
    max_rejected: float = MAX_REJECTED
    begin_at: Mapping[int, int] | Literal["oldest"] | None = None
    until: int | None = None
    until_ms: int | None = None
    evolve: bool = False
    alter: bool = False
    follow: bool = False
    look_every_s: float = 5.0
    retry_for_s: float = 600.0
    observe: Callable[[LoadProgress], None] | None = None
    clock: Callable[[], float] = time.monotonic
    progress: LoadProgress = attrs.field(default=LoadProgress(LoadResult(), 0, 0, 0.0), init=False)
    _retry: Retry = attrs.field(init=False)
    _positions: Mapping[Line, int | None] = attrs.field(factory=dict, init=False)
    _damaged: dict[int, int] = attrs.field(factory=dict, init=False)  # partition and start of what cannot be loaded
    _unjudged: LoadResult = attrs.field(factory=LoadResult, init=False)  # of transactions too small to be judged alone

    def __attrs_post_init__(self) -> None:
        self._retry = Retry(self.retry_for_s)
        if not 0 <= self.max_rejected <= 1:
            raise ConfigError(f"found max_rejected={self.max_rejected}, expected a share from 0 to 1")
        if self.follow and (self.until, self.until_ms) != (None, None):
            raise ConfigError("found follow with an end (until): a run that goes on for ever has none")

    def run(self) -> LoadResult:
        """
        Load every segment that the ledger lacks.

        Returns:
            What was done, summed.

        Raises:
            DataError: The chain has a gap, an overlap or a segment that is not what it says. What was loaded stays loaded,
                the other partitions were loaded as far as they go.
            TooManyRejectedError: Too much breaks the contract. The partitions that it names are where they were, the others
                were loaded; or, where it came of many small transactions, these are written and the run has ended.
            SinkUnavailableError: The warehouse did not answer for `retry_for_s`.
        """
        self.loader.max_rejected, self.loader.evolve = self.max_rejected, self.evolve
        began_s = self.clock()
        log_event(_log, logging.INFO, "load begins", dataset=self.chain.dataset.id, target=self.loader.target)
        conflicts = 0
        stood_at: Mapping[Line, int | None] = {}
        try:
            self._retry(self._refuse_a_second_epoch)
            if self.alter or self.evolve:
                for change in self._retry(self.loader.alter):
                    log_event(
                        _log, logging.WARNING, "table altered", target=self.loader.target, statement=change.statement
                    )
            while not self._retry.hurry.is_set():
                try:
                    self._load_all(began_s)
                except PositionConflictError as error:
                    # another loader went on meanwhile: the next walk begins where the ledger is now
                    log_event(_log, logging.INFO, "another loader was first", error=error)
                    conflicts = conflicts + 1 if stood_at == self._positions else 1
                    stood_at = self._positions
                    if conflicts == _CONFLICTS:
                        raise
                    continue
                conflicts = 0
                if not self.follow or self._retry.hurry.wait(self.look_every_s):
                    break
        finally:
            self.loader.close()
        done = self.progress.result
        if done.records and done.rejected == done.records:
            log_event(_log, logging.WARNING, "every record broke the contract", records=done.records)
        log_event(_log, logging.INFO, "load ends", records=done.records, inserted=done.inserted, rejected=done.rejected)
        return done

    def plan(self) -> list[Change]:
        """
        Say what DDL a run with `alter` would begin with and, with `evolve`, which columns it would add; nothing is done.

        With `evolve` everything is read that the ledger lacks, up to the first segment that cannot be.
        """
        self.loader.evolve = self.evolve
        try:
            found = {change.what: change for change in self._retry(self.loader.changes)}
            for group in self._groups(self._lacking({}, begin=False)) if self.evolve else ():
                planned = self._retry(lambda group=group: self.loader.changes(self._loadable(group)))  # type: ignore[misc]
                found = {change.what: change for change in planned} | found  # what comes first decides
        finally:
            self.loader.close()
        return list(found.values())

    def stop(self) -> None:
        """End after the transaction under way. May be called from a signal handler or a thread."""
        self._retry.hurry.set()

    def _load_all(self, began_s: float) -> None:
        """Load what is lacking; a partition that cannot go on stops alone, and its error is raised at the end."""
        stopped: dict[int, HeadraceError] = {}
        self._damaged.clear()
        for group in self._groups(self._lacking(stopped)):
            self._load_or_part(self._sound(group), began_s, stopped)
            if self._retry.hurry.is_set():
                break
        if stopped:
            first, *others = dict.fromkeys(stopped.values())  # one error may have stopped several
            for other in others:
                first.add_note(f"and: {other}")
            raise first

    def _lacking(self, stopped: dict[int, HeadraceError], *, begin: bool = True) -> Iterator[Segment]:
        """Walk each partition's chain from where the ledger ends (B29, S1)."""
        dataset = self.chain.dataset
        # those that the pin counts as well: a chain that is gone is not "nothing to do"
        numbers = sorted({*self._retry(self.chain.partitions), *range(dataset.partitions)})
        lines = self._lines(dataset, numbers)
        positions = self._positions = dict(self._retry(lambda: self.loader.positions(lines)))
        for line in lines:
            try:
                position = positions[line]
                if position is None:
                    position = self._begin(line, write=begin)
                yield from self._walk(line.partition.number, position, stopped)
            except TransientError:
                raise
            except HeadraceError as error:
                self._stop(line.partition, error, stopped)

    def _begin(self, line: Line, *, write: bool) -> int:
        """Say where a line begins that was never loaded; *write* it into the ledger where that is not the chain's beginning."""
        number = line.partition.number
        head = self._retry(lambda: next(self.chain.objects(number), None))
        if self.begin_at is None or head is None:
            return 0
        if self.begin_at == "oldest":
            position = start_of(head)
            if position == 0 or self._retry(lambda: self.chain.expired(number, 0, position)) != [(0, position)]:
                return 0  # the walk says what is missing, if anything is
        else:
            position = self.begin_at.get(number, 0)
            first = self._retry(lambda: next(self.chain.objects(number, position), None))
            if position and (first is None or start_of(first) != position):
                there = "none after it does" if first is None else f"the next one starts at {start_of(first)}"
                raise ConfigError(
                    f"{line.partition}: found begin_at={position}, and no segment starts there; {there}: `headrace show LAKE"
                    f" --partition {number}` lists them"
                )
        if position and write:
            self._retry(lambda: self.loader.begin(line, position))
            log_event(_log, logging.WARNING, "begins behind the head", partition=str(line.partition), position=position)
        return position

    def _walk(self, number: int, position: int, stopped: Mapping[int, HeadraceError]) -> Iterator[Segment]:
        """Walk one chain, until it has stopped, or is as far as it shall go."""
        walk = self.chain.walk_on(number, position, self._retry)
        while number not in stopped and (segment := next(walk, None)) is not None:
            if self.until is not None and segment.start >= self.until:
                return
            if self.until_ms is not None and segment.trailer.min_ms >= self.until_ms:
                return
            yield segment

    def _lines(self, dataset: Dataset, numbers: Iterable[int]) -> list[Line]:
        return [Line(dataset.id, Partition(dataset.stream, n), self.loader.target) for n in numbers]

    def _stop(self, partition: Partition, error: HeadraceError, stopped: dict[int, HeadraceError]) -> None:
        stopped[partition.number] = error
        where = {"stream": partition.stream, "partition": partition.number}
        log_event(_log, logging.ERROR, "partition stopped", **where, error=error)

    def _load_or_part(self, group: list[Segment], began_s: float, stopped: dict[int, HeadraceError]) -> None:
        """
        Load a group; where an object in it is damaged, what lies before it and the other partitions (B29).

        A partition of which too much breaks the contract stops alone as well: nobody else's records wait for its mending.
        """
        while group:
            try:
                self._load(group, began_s)
            except (CorruptSegmentError, GapError) as error:
                broken = next((s for s in group if _is_of(error, s)), None)
                if broken is None:
                    raise
                group = self._without(group, broken, error, stopped)
            except TooManyRejectedError as error:
                worst = {s.partition: s for s in reversed(group) if s.partition in error.partitions}
                if not worst:
                    raise
                for first in worst.values():
                    group = self._without(group, first, error, stopped)
            else:
                return

    def _without(
        self, group: list[Segment], broken: Segment, error: HeadraceError, stopped: dict[int, HeadraceError]
    ) -> list[Segment]:
        """Stop the partition of a segment that cannot be loaded; what is left of the group can."""
        self._stop(broken.partition, error, stopped)
        self._damaged[broken.partition.number] = broken.start
        return self._sound(group)

    def _sound(self, group: list[Segment]) -> list[Segment]:
        """The segments before those that were found damaged."""
        return [s for s in group if s.start < self._damaged.get(s.partition.number, s.end)]

    def _refuse_a_second_epoch(self) -> None:
        """A topic that was copied into a second dataset would be twice in one table (B9)."""
        mine = self.chain.dataset
        for stream, epoch in streams(self.chain.store):
            if stream != mine.stream or epoch == mine.epoch:
                continue
            other = read_dataset(self.chain.store, Layout(stream, epoch))
            if other is None or (other.cluster, other.topic) != (mine.cluster, mine.topic):
                continue
            if any(self.loader.positions(self._lines(other, range(other.partitions))).values()):
                raise ConfigError(
                    f"{self.loader.target} holds records of {_name(other)}, which is of the same topic as {_name(mine)}: both in"
                    " one table would be every record twice. Load it into a table of its own, then swap"
                )

    def _groups(self, segments: Iterator[Segment]) -> Iterator[list[Segment]]:
        group: list[Segment] = []
        failure: HeadraceError | None = None
        try:
            for segment in segments:
                full = len(group) >= self.group_segments or sum(s.size for s in group) + segment.size > self.group_bytes
                if group and full:
                    yield group
                    group = []
                group.append(segment)
        except HeadraceError as error:  # what was found before it is loaded first
            failure = error
        if group:
            yield group
        if failure is not None:
            raise failure

    def _loadable(self, group: list[Segment]) -> list[LoadableSegment]:
        return [LoadableSegment(s, self.chain.format, body=partial(self.chain.read, s)) for s in group]

    def _load(self, group: list[Segment], began_s: float) -> None:
        loadable = self._loadable(group)
        result = self._retry(lambda: self.loader.load(loadable))
        for segment in group:
            log_event(
                _log,
                logging.DEBUG,
                "segment loaded",
                stream=segment.partition.stream,
                partition=segment.partition.number,
                start=segment.start,
                end=segment.end,
                records=segment.trailer.records,
                writer=segment.trailer.writer,
                target=self.loader.target,
            )
        self.progress = LoadProgress(
            self.progress.result + result,
            self.progress.transactions + 1,
            self.progress.segments_total + len(group),
            self.clock() - began_s,
        )
        if self.observe is not None:
            self.observe(self.progress)
        self._judge(result)

    def _judge(self, result: LoadResult) -> None:
        """Count what each transaction refused, but too little of it to be judged alone: many of them fill a quarantine, too."""
        recent = self._unjudged = self._unjudged + result
        if recent.rejected < LEAST_REJECTED:
            return
        self._unjudged = LoadResult()
        if recent.rejected > self.max_rejected * recent.records:
            raise TooManyRejectedError(
                f"{self.loader.target}: {recent.rejected:,} of the last {recent.records:,} records, of {recent.segments:,}"
                f" segments loaded by the few, break the contract ({recent.rejected / recent.records:.1%}), expected at most"
                f" {100 * self.max_rejected:g}%. They are in quarantine, where `headrace quarantine list` says why, and the"
                " ledger is behind them: mend the contract, load again and redrive them; or load on with a higher --max-rejected",
                rejected=recent.rejected,
                records=recent.records,
            )


def _name(dataset: Dataset) -> str:
    return f"{dataset.stream!r}, epoch {dataset.epoch!r}" if dataset.epoch else f"{dataset.stream!r}"


def _is_of(error: CorruptSegmentError | GapError, segment: Segment) -> bool:
    if isinstance(error, CorruptSegmentError):
        return error.key == segment.key
    return (error.partition, error.start) == (segment.partition, segment.start)

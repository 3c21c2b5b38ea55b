"""Runs a source into a sink: one thread reads and encodes, workers compress and commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from typing import Literal

import attrs

from headrace.commit import Held, Holding, check_identity
from headrace.committer import Committer
from headrace.errors import (
    ConfigError,
    GapError,
    HeadraceError,
    IdentityError,
    PositionConflictError,
    SinkUnavailableError,
    SourceUnavailableError,
    TransientError,
)
from headrace.flush import FlushPolicy, Progress
from headrace.gauges import Lags, Rate
from headrace.holdings import Holdings
from headrace.logs import event as log_event
from headrace.records import Batch, Event, Extent, Failed, Hint, Identity, Partition, Position, Reached, Start
from headrace.retry import Retry
from headrace.sink import Sink
from headrace.source import Source

_log = logging.getLogger("headrace.pipeline")

_POLL_S = 0.02
"""A poll waits for a full chunk or this long: what a record's latency grows by when the stream is slow."""

_REREAD_S = 1.0
"""A source that does not answer is asked again after so long."""


@attrs.define(kw_only=True, eq=False)
class Pipeline:
    """
    Carries records from a source to a sink, each exactly once where the sink's guarantee is that.

    `run` returns when a bounded run is done, or after `stop`. A partition that cannot go on stops alone; the others go
    on, and `run` raises its error at the end.

    Attributes:
        source: What is read; closed by `run`.

        sink: Where it goes; closed by `run`.

        flush: When a draft is committed.

        memory_bytes: Bounds drafts, commits under way and the source's own queue together: when it is reached the oldest
            draft is committed early, then the source is paused.

        until_end: Stop where each owned partition ended when it was assigned.

        on_gap: What to do where retention took records that were never read: stop the partition and name them, or
            record the loss in the sink as a note and go on.

        puts_in_flight: How many commits are sent at once, one a partition.

        retry_for_s: How long a sink or source that does not answer is tried again before the run ends with its error.

        release_timeout_s: How long a hand-over or an end waits for commits to succeed. One attempt that was sent by then is
            waited for besides: as long as the sink's own time-out lets it take.

        observe: Called with the numbers at most every `observe_every_s`, on the reading thread.

        executor: Where commits run; its own threads unless given.

        clock: Monotonic seconds.

        stopping: Set by `stop`: no more reading, and no more attempts at what is read next.

        hurry: Waits between attempts of a commit end when it is set, as it is at the end of the run; the `wait` of both is how
            they wait.
    """

    source: Source
    sink: Sink
    flush: FlushPolicy = attrs.field(factory=FlushPolicy)
    memory_bytes: int = 256 << 20
    until_end: bool = False
    on_gap: Literal["stop", "note"] = attrs.field(default="stop", validator=attrs.validators.in_(("stop", "note")))
    puts_in_flight: int = 8
    retry_for_s: float = 600.0
    release_timeout_s: float = 30.0
    observe: Callable[[Progress], None] | None = None
    observe_every_s: float = 0.1
    executor: Executor | None = None
    clock: Callable[[], float] = time.monotonic
    stopping: threading.Event = attrs.field(factory=threading.Event, repr=False)
    hurry: threading.Event = attrs.field(factory=threading.Event, repr=False)

    stopped: dict[Partition, HeadraceError] = attrs.field(factory=dict, init=False)
    """The partitions that cannot go on, each with its error."""

    progress: Progress = attrs.field(factory=Progress, init=False)
    _held: Holdings = attrs.field(init=False)
    _retry: Retry = attrs.field(init=False)
    _committer: Committer = attrs.field(init=False)
    _acknowledged: dict[Partition, Hint] = attrs.field(factory=dict, init=False)
    _moved: set[Partition] = attrs.field(factory=set, init=False)  # what may be acknowledged may have changed
    _pinned: dict[str, Identity] = attrs.field(factory=dict, init=False)
    _asked_s: float | None = attrs.field(default=None, init=False)  # when the last assignment came, be it an empty one
    _paused: bool = attrs.field(default=False, init=False)
    _begun: list[Partition] = attrs.field(factory=list, init=False)  # assigned in this poll
    _unread_s: float | None = attrs.field(default=None, init=False)  # since when the source does not answer
    _closing: bool = attrs.field(default=False, init=False)
    _assignments: int = attrs.field(default=0, init=False)
    _began_s: float = attrs.field(init=False)
    _observed_s: float = attrs.field(default=0.0, init=False)
    _total: int = attrs.field(default=0, init=False)
    _rate: Rate = attrs.field(factory=Rate, init=False)
    _lags: Lags = attrs.field(factory=Lags, init=False)

    def __attrs_post_init__(self) -> None:
        if self.source.queue_bytes * 2 > self.memory_bytes:
            raise ConfigError(
                f"memory_bytes is {self.memory_bytes}, expected at least twice the source's queue_bytes,"
                f" {self.source.queue_bytes}: raise the one or lower the other"
            )
        if self.sink.rereads and not self.source.rereadable:
            raise ConfigError(
                f"the sink is to be {self.sink.guarantee}, and the source cannot be read again from a position: after a crash"
                " records would be missing; ask for at-least-once, or keep the feed in Kafka or a lake first"
            )
        if self.until_end and not self.source.rereadable:
            raise ConfigError("the run is to go to the end, and a live feed has none: run it until it is stopped")
        self._retry = Retry(self.retry_for_s, self.stopping)
        self._committer = Committer(
            identities=self.source.identities,
            puts_in_flight=self.puts_in_flight,
            retry=Retry(self.retry_for_s, self.hurry),
            executor=self.executor,
        )
        self._held = Holdings(
            sink=self.sink,
            flush=self.flush,
            committer=self._committer,
            memory_bytes=self.memory_bytes,
            clock=self.clock,
        )
        self._began_s = self.clock()

    # ---- running ------------------------------------------------------------------------------------------

    def run(self) -> Progress:
        """
        Run to the end of a bounded run, or until `stop`; then commit what is held, acknowledge, and close both sides.

        Returns:
            The last numbers.

        Raises:
            HeadraceError: What ended the run, or the error of a partition that stopped. All that was acknowledged is
                stored; the next run goes on from there. SinkUnavailableError too where the end left records of a live feed
                unstored, which nobody can read again.
        """
        log_event(_log, logging.INFO, "run begins", until_end=self.until_end, guarantee=self.sink.guarantee)
        try:
            while not self.stopping.is_set() and not self._finished():
                self.step()
            unstored = self._finish()
            self._measure(last=True)
        finally:
            self._close()
        log_event(_log, logging.INFO, "run ends", records=self.progress.records, segments=self.progress.segments)
        if self.stopped:
            raise self._why_stopped()
        if unstored and not self.source.rereadable:
            raise SinkUnavailableError(
                f"{unstored:,} records or more were received and are not stored: the sink did not answer within"
                f" {self.release_timeout_s:g} s of the end. A feed cannot be read again: what is missing lies in the gap with"
                " which its next run begins"
            )
        return self.progress

    def stop(self) -> None:
        """End the run soon: stop reading, commit, acknowledge, leave. For another thread; a signal handler may start one."""
        self.stopping.set()

    def step(self) -> None:
        """One turn: read, take the answers of commits, begin others, acknowledge. `run` does nothing else."""
        for event in self._poll():
            self._take(event)
        self._settle()
        self._held.close_old()
        self._bound_memory()
        self._held.commit_ready()
        self._acknowledge()
        self._observe()

    def _poll(self) -> Sequence[Event]:
        """Read on; a source that does not answer is asked again for `retry_for_s`, as a sink is."""
        try:
            events = self.source.poll(self, self._wait_s())
        except TransientError as error:
            now = self.clock()
            self._unread_s = now if self._unread_s is None else self._unread_s
            if self.stopping.is_set():
                return []  # nothing was read, and nothing more is wanted
            if now - self._unread_s >= self.retry_for_s:
                raise
            log_event(_log, logging.WARNING, "reading again", error=error)
            self.stopping.wait(min(_REREAD_S, self.retry_for_s))
            return []
        self._unread_s = None
        return events

    def _finished(self) -> bool:
        """Whether nothing is left to do: every owned partition of a bounded run is read and stored, or all stopped."""
        if self._asked_s is None or self._unread_s is not None:
            return False  # what there is to do is not known
        if not self._held and not self.stopped:
            # the group gave us nothing: it may be about to, so a bounded run waits a while before it believes that
            return self.until_end and self.clock() - self._asked_s > self.release_timeout_s
        if not self.until_end:
            return not self._held
        if not all(h.done for h in self._held):
            return False
        while self._held.close_oldest():
            pass
        self._held.commit_ready()
        return not any(h.drafts or h.below is not None for h in self._held)

    def _wait_s(self) -> float:
        due_s = self._held.due_s()
        if self._paused or (due_s is None and self._held.under_way):
            return _POLL_S / 4  # an answer is all there is to wait for
        return _POLL_S if due_s is None else min(_POLL_S, due_s)

    # ---- what a source tells its owner --------------------------------------------------------------------

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        """Look the positions up, all at once, and begin to hold; `Owner.assigned`."""
        self._asked_s = self.clock()
        if not hints:
            return {}
        self._retry(lambda: self._bind(self._extents(hints)))
        positions = self._retry(lambda: self.sink.positions(hints))
        extents = self._retry(lambda: self._extents(hints))  # asked after the look-up (B14)
        starts: dict[Partition, Start | None] = {}
        for partition, hint in hints.items():
            self.stopped.pop(partition, None)
            try:
                starts[partition] = self._begin(partition, hint, positions[partition], extents[partition])
            except HeadraceError as error:
                starts[partition] = None
                self._stop_partition(partition, error, move=False)
        self._begun += starts
        log_event(_log, logging.INFO, "partitions assigned", partitions=len(starts), stopped=len(self.stopped))
        return starts

    def _extents(self, wanted: Iterable[Partition]) -> Mapping[Partition, Extent]:
        """What the log holds now, of these at least: a server that lags behind may not know all of them yet."""
        found = self.source.extents()
        missing = [str(p) for p in wanted if p not in found]
        if missing:
            raise SourceUnavailableError(
                f"the source says nothing of {', '.join(missing)}; a server may lag behind, or be away"
            )
        return found

    def release(self, partitions: Iterable[Partition]) -> None:
        """Commit once what is held, acknowledge, forget; `Owner.release` (B28)."""
        partitions = list(partitions)
        ours = [p for p in partitions if p in self._held]
        try:
            self._drain(ours)
            self._acknowledge()
        except TransientError as error:  # the next owner reads again what was not stored
            log_event(_log, logging.WARNING, "released without a commit", partitions=len(ours), error=error)
        self.lost(partitions)

    def lost(self, partitions: Iterable[Partition]) -> None:
        """Forget what is held; `Owner.lost` (B28)."""
        for partition in partitions:
            self._forget(partition)
            if not self._closing:  # another reader's, and so is what stopped it here
                self.stopped.pop(partition, None)
        self._held.count()

    def _bind(self, extents: Mapping[Partition, Extent]) -> None:
        if any(p.stream not in self._pinned for p in extents):
            self._pinned.update(self.sink.bind(extents))

    def _begin(self, partition: Partition, hint: Hint | None, position: Position | Exception, extent: Extent) -> Start:
        if isinstance(position, Exception):
            raise position
        self._check_identity(partition, extent)
        if position.offset > extent.high:
            raise IdentityError(
                f"{partition}: the lake reaches {position.offset}, the log ends at {extent.high}; it was cut back, or is"
                " another one: begin a new epoch, or restore the log"
            )
        empty = position.offset == 0 and position.segment is None
        counted = partition.number < self._pinned[partition.stream].partitions
        # a start policy holds for the partitions that the pin counts; one added later is read from its beginning (B22)
        start = Start(position.offset, position.leader_epoch, self._next_assignment())
        if empty and counted:
            start = attrs.evolve(start, offset=None, begun=_begun(hint, position, extent))
        holding = Holding.begin(partition, position, start, hint)
        if self.until_end:
            holding.until = extent.end
            self._total += max(0, extent.end - max(position.offset, extent.low))
        self._held.begin(holding)
        return start

    def _check_identity(self, partition: Partition, extent: Extent) -> None:
        """What is compared with the chain must be what it was made from: positions of another topic mean nothing (B7, B20)."""
        check_identity(partition, extent.identity, self._pinned[partition.stream])

    def _next_assignment(self) -> int:
        self._assignments += 1
        return self._assignments

    # ---- events -------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        holding = self._held.get(event.partition)
        if holding is None or holding.assignment != event.assignment:
            return  # of an earlier assignment (B17)
        try:
            if isinstance(event, Batch):
                if holding.accept(event):
                    self._count(records=len(event), nbytes=event.nbytes)
                    self._held.add(holding, event)
            elif isinstance(event, Reached):
                holding.reached(event)
                self._moved.add(event.partition)
            elif isinstance(event, Failed):
                raise event.error
            else:
                # what is held is stored first; only then is it known what lies between (B18)
                holding.below = event.low
                self._held.close_draft(event.partition)
                self._step_over(holding)
        except TransientError:
            raise
        except HeadraceError as error:
            self._stop_partition(event.partition, error)
        else:
            self._rest(holding)

    def _rest(self, holding: Holding) -> None:
        """A bounded run does not read on where it is done: a log that grows would never end (B19)."""
        if holding.done and not holding.resting:
            holding.resting = True
            self.source.move({holding.partition: None})

    def _step_over(self, holding: Holding) -> None:
        """Go on where the log begins, once nothing is held any more below it (B18)."""
        if holding.below is None or holding.drafts:
            return
        p, low, kind = holding.position.offset, holding.below, holding.below_log(holding.below)
        if kind == "gap":  # of this log, and not of another one that took its name
            extents = self._retry(lambda: self._extents([holding.partition]))
            self._check_identity(holding.partition, extents[holding.partition])
        where: dict[str, object] = {"stream": holding.partition.stream, "partition": holding.partition.number}
        if kind == "gap" and self.on_gap == "stop":
            raise GapError(
                f"{holding.partition}: the records [{p}, {low}) may be lost: the log begins at {low} and nothing after {p} is"
                ' stored. Restore them to the log, or accept the loss with on_gap="note" (--on-gap note)',
                partition=holding.partition,
                start=p,
                end=low,
            )
        if kind == "gap":
            self._retry(lambda: self.sink.note(holding.partition, p, low))
            log_event(_log, logging.WARNING, "loss noted", **where, start=p, end=low)
        holding.step_over(low, "noted" if kind == "gap" else kind, self._next_assignment())
        self._move(holding, low)

    def _move(self, holding: Holding, offset: int) -> None:
        if self._paused:
            return  # it is read from there when all are read again
        self.source.move({holding.partition: Start(offset, holding.position.leader_epoch, holding.assignment)})

    # ---- the answers of commits ---------------------------------------------------------------------------

    def _settle(self) -> None:
        for holding, held in self._held.answered():
            try:
                self._take_answer(holding, held)
            except TransientError:
                # tried for as long as was asked: the run ends, the next one finds out; a hand-over of others goes on
                self._held.requeue(holding)
                raise
            except HeadraceError as error:
                self._stop_partition(holding.partition, error)

    def _take_answer(self, holding: Holding, held: Held) -> None:
        commit, held.commit = held.commit, None
        assert commit is not None, "only what was sent is answered"  # noqa: S101 - our own state
        try:
            position = commit.result()
        except PositionConflictError as error:
            self._conflict(holding, error)
        else:
            self._stored(holding, held, position)
        self._moved.add(holding.partition)
        self._held.requeue(holding)
        self._step_over(holding)

    def _stored(self, holding: Holding, held: Held, position: Position) -> None:
        holding.stored(position)
        held.discard()
        self._count(stored_records=held.records, segments=1)
        log_event(
            _log,
            logging.DEBUG,
            "segment stored",
            stream=holding.partition.stream,
            partition=holding.partition.number,
            start=held.draft.position,
            end=position.offset,
            records=held.records,
        )

    def _conflict(self, holding: Holding, error: PositionConflictError) -> None:
        """Somebody else was first: whose object it is does not matter, where the chain stands and with what does (B25, B26)."""
        partition, found = holding.partition, error.found or self._look_up(holding.partition)
        log_event(
            _log,
            logging.INFO,
            "position looked up again",
            stream=partition.stream,
            partition=partition.number,
            expected=error.expected,
            found=found.offset,
        )
        if holding.looked_up(found, rereadable=self.source.rereadable) == "fetch again":
            self._held.unqueue(partition)
            holding.restart(Start(found.offset, found.leader_epoch, self._next_assignment()))
            self._move(holding, found.offset)
        self._held.count()

    def _look_up(self, partition: Partition) -> Position:
        position = self._retry(lambda: self.sink.positions({partition: None}))[partition]
        if isinstance(position, Exception):
            raise position
        return position

    def _finish(self) -> int:
        """Store what is held and what the source says at the end, step by step. Return how many records were not stored."""
        deadline = self.clock() + self.release_timeout_s
        while True:
            events = self.source.finish()
            for event in events:
                self._take(event)
            unstored = self._drain([h.partition for h in self._held], deadline)
            self._acknowledge()
            if unstored or not events:
                return unstored

    def _drain(self, partitions: list[Partition], deadline: float | None = None) -> int:
        """Commit what is held of these, in order, for at most `release_timeout_s`. Return how many records were not stored."""
        deadline = self.clock() + self.release_timeout_s if deadline is None else deadline
        for partition in partitions:
            self._held.close_draft(partition)
        while any(h.drafts for h in map(self._held.get, partitions) if h is not None):
            self._held.commit_ready()
            under_way = [held.commit for held in self._held.under_way if held.commit is not None]
            left_s = deadline - self.clock()
            if not under_way or left_s <= 0:
                break
            wait(under_way, timeout=left_s, return_when=FIRST_COMPLETED)
            self._settle()
        unstored = sum(held.records for p in partitions if (h := self._held.get(p)) is not None for held in h.drafts)
        if unstored:
            again = "left unstored, to be read again" if self.source.rereadable else "left unstored"
            log_event(_log, logging.WARNING, again, records=unstored)
        return unstored

    # ---- the rest -----------------------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        """Only what is stored (B27)."""
        held = [h for p in self._moved if (h := self._held.get(p)) is not None]
        self._moved.clear()
        hints = {h.partition: h.hint() for h in held if self._acknowledged.get(h.partition) != h.hint()}
        if hints:
            self._acknowledged.update(hints)
            self.source.acknowledge(hints)

    def _bound_memory(self) -> None:
        """Commit the oldest early when three quarters are used, pause the source when all is; go on below three quarters."""
        budget = self.memory_bytes - self.source.queue_bytes
        if self._paused and self._begun:
            self.source.move({p: None for p in self._begun if p in self._held})
        self._begun.clear()
        if self._held.above(budget * 3 // 4):
            self._held.hurry_oldest(budget // 4)
            if not self._paused and self._held.held_bytes > budget:
                self._paused = True
                self.source.move(dict.fromkeys(h.partition for h in self._held))
                log_event(_log, logging.INFO, "paused", held_bytes=self._held.held_bytes, budget=budget)
        elif self._paused:
            self._paused = False
            rest = [h for h in self._held if h.below is None and not h.resting]
            self.source.move({h.partition: h.resume() for h in rest})

    def _stop_partition(self, partition: Partition, error: HeadraceError, *, move: bool = True) -> None:
        """This partition cannot go on; the others do."""
        self.stopped[partition] = error
        self._forget(partition)
        if move:
            self.source.move({partition: None})
        if not self.source.rereadable:
            self.stop()  # what goes on coming would wait for a partition that takes no more, and be lost unseen
        log_event(
            _log, logging.ERROR, "partition stopped", stream=partition.stream, partition=partition.number, error=error
        )

    def _forget(self, partition: Partition) -> None:
        self._held.forget(partition)
        self._acknowledged.pop(partition, None)
        self._moved.discard(partition)

    def _why_stopped(self) -> HeadraceError:
        first, *others = self.stopped.values()
        for other in others:
            first.add_note(f"and: {other}")
        return first

    def _count(self, *, records: int = 0, nbytes: int = 0, stored_records: int = 0, segments: int = 0) -> None:
        so_far = self.progress
        self.progress = attrs.evolve(
            so_far,
            records=so_far.records + records,
            nbytes=so_far.nbytes + nbytes,
            stored_records=so_far.stored_records + stored_records,
            segments=so_far.segments + segments,
        )

    def _observe(self) -> None:
        now = self.clock()
        if self.observe is not None and now - self._observed_s >= self.observe_every_s:
            self._observed_s = now
            self.observe(self._measure())

    def _measure(self, *, last: bool = False) -> Progress:
        now = self.clock()
        left = sum(max(0, h.until - h.next) for h in self._held if h.until is not None and h.next is not None)
        oldest = min((h.drafts[0].opened_s for h in self._held if h.drafts), default=now)
        records_per_s, bytes_per_s = self._rate(now - self._began_s, self.progress.records, self.progress.nbytes)
        if last or self._lags.due(now):
            self._lags.count(now, self._held, self.source.ends())
        self.progress = attrs.evolve(
            self.progress,
            offsets_total=self._total if self.until_end else None,
            offsets_done=max(0, self._total - left),
            held_bytes=self._held.count(),
            oldest_s=now - oldest,
            lag=sum(self._lags.found.values()) if self._lags.found else None,
            lags=self._lags.found,
            records_per_s=records_per_s,
            bytes_per_s=bytes_per_s,
            elapsed_s=now - self._began_s,
        )
        return self.progress

    def _close(self) -> None:
        self._closing = True
        self.hurry.set()
        self.stopping.set()
        self.lost([h.partition for h in self._held])
        try:
            self.source.close()
        finally:
            self._committer.close()
            self.sink.close()


def _begun(hint: Hint | None, position: Position, extent: Extent) -> int | None:
    """Where the reading of an empty chain began before, if the hint knows and the log still has it."""
    ours = hint is not None and hint.segment is None and hint.dataset_id == position.dataset_id
    return hint.offset if hint is not None and ours and extent.low <= hint.offset <= extent.high else None

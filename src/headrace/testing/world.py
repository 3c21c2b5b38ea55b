"""
What writers of one partition live in: a log that changes under them, a store that holds their writes back, and time.

Everything that can happen is a method here and happens when it is called, the same every time. `headrace.testing.machine` lets
Hypothesis choose; a test may as well play one story, line by line. After each event `check` compares the lake with the log.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Literal, ParamSpec, TypeVar

import attrs

from headrace.chain import Chain
from headrace.errors import DataError, GapError, HeadraceError, IdentityError
from headrace.expire import Expire
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.records import Hint, Partition
from headrace.sink import Sink
from headrace.store import Page, Store
from headrace.testing.held import HeldPut, HeldStore
from headrace.testing.log import MemoryLog, PartitionLog
from headrace.testing.oracle import Finding, Oracle, StoredSegment, objects_of, pinned_topic, read_lake
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore
from headrace.testing.turns import Turn, TurnExecutor, Turns

P = ParamSpec("P")
T = TypeVar("T")

MakeSink = Callable[[Store, str, Callable[[], float]], Sink]
"""Makes a sink of its own for each writer, as a process would: over this store, for this epoch, with this clock."""

DAY_S = 86_400.0


class ViolationError(AssertionError):
    """The lake holds what it must not hold, or lacks what it must hold, or a writer stopped without a reason."""


class _NoWait(threading.Event):
    """Waits for nothing: a retry comes at once."""

    def wait(self, timeout: float | None = None) -> bool:
        return True


class _Inline(Executor):
    """Runs a job where it is submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)
        return future


class _KilledError(BaseException):
    """As SIGKILL: nobody catches it."""


@attrs.define(kw_only=True, eq=False)
class _Killing(Store):
    """A store whose caller is killed after so many deletions of segments."""

    inner: Store
    deletions: int

    @property
    def place(self) -> str:  # type: ignore[override]  # the inner one's
        return self.inner.place

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        return self.inner.create(key, body, metadata)

    def list(self, prefix: str, after: str = "") -> Page:
        return self.inner.list(prefix, after)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        return self.inner.read(key, start, end)

    def delete(self, key: str) -> None:
        if "/_headrace/" not in key:
            if not self.deletions:
                raise _KilledError
            self.deletions -= 1
        self.inner.delete(key)


@attrs.define(eq=False)
class Writer:
    """
    A process with a pipeline in it.

    Attributes:
        name: For messages.

        epoch: Of the dataset that it writes to.

        misled: Its hint was made up, or an old one: it may miss segments that never were, or are deleted by now.

        source: What it reads.

        pipeline: Runs in `main`.

        executor: Runs its commits.

        main: Its main thread.

        ended: The error that ended it.
    """

    name: str
    epoch: str
    misled: bool = attrs.field(repr=False)
    source: MemorySource = attrs.field(repr=False)
    pipeline: Pipeline = attrs.field(repr=False)
    executor: TurnExecutor = attrs.field(repr=False)
    main: Turn = attrs.field(repr=False)
    ended: HeadraceError | None = None

    @property
    def threads(self) -> list[Turn]:
        """Its main thread and those of its commits."""
        return [t for t in (self.main, *self.executor.jobs) if not t.done]

    @property
    def looking(self) -> list[Turn]:
        """Its threads that wait inside a listing or a read."""
        return [t for t in self.threads if t.where.startswith(("LIST", "GET"))]

    @property
    def ready(self) -> bool:
        """Whether its main thread waits for nothing."""
        return not self.main.done and not self.main.where.startswith(("PUT", "LIST", "GET"))


@attrs.define(kw_only=True, eq=False, repr=False)
class World:
    """
    One partition, any number of writers that all believe that they own it, and everything that can happen to them.

    Attributes:
        make_sink: Makes the writers' sinks.

        inner: The store under the lake; small pages let a listing be overtaken between two of them.

        make_source: Makes the writers' sources; takes the fields of `MemorySource`.

        make_expire: Makes what the operator deletes with; takes the fields of `Expire`.

        now_s: What every clock says.

        log: What is read.

        store: What is written to.

        writers: Those that have not ended.

        epoch: Where the operator tells writers to write by now.

        topics: The partitions of every topic id that the log ever had.

        deleted: The segments that the operator deleted, by epoch.

        hints: All that were ever acknowledged.

        cut_at: Where the log was cut back, as long as it is this log.

        cut: Some log was cut back.

        broken: Something was found; nothing that comes later means anything.

        seen: How often something happened that is worth to have happened.
    """

    make_sink: MakeSink
    inner: Store = attrs.field(factory=lambda: MemoryStore(page_size=2))
    make_source: Callable[..., MemorySource] = MemorySource
    make_expire: Callable[..., Expire] = Expire
    now_s: float = 1000.0
    log: MemoryLog = attrs.field(factory=MemoryLog)
    turns: Turns = attrs.field(factory=Turns)
    store: HeldStore = attrs.field(init=False)
    writers: list[Writer] = attrs.field(factory=list, init=False)
    epoch: str = attrs.field(default="", init=False)
    topics: dict[str, dict[int, PartitionLog]] = attrs.field(init=False)
    deleted: dict[str, list[StoredSegment]] = attrs.field(factory=lambda: {"": []}, init=False)
    hints: list[Hint] = attrs.field(factory=list, init=False)
    cut_at: int | None = attrs.field(default=None, init=False)
    cut: bool = attrs.field(default=False, init=False)
    broken: bool = attrs.field(default=False, init=False)
    seen: Counter[str] = attrs.field(factory=Counter, init=False)
    _names: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.store = HeldStore(inner=self.inner, turns=self.turns, clock=self.clock)
        self.topics = {self.log.topic: self.log.logs}

    @property
    def partition(self) -> Partition:
        return Partition(self.log.stream, 0)

    @property
    def partition_log(self) -> PartitionLog:
        return self.log.logs[0]

    def clock(self) -> float:
        return self.now_s

    # ---- the log ------------------------------------------------------------------------------------------

    def produce(self, *values: bytes | None, fate: Literal["record", "open"] = "record") -> None:
        """Append records; the key tells each from every other one, some have headers."""
        for value in values:
            self._names += 1
            headers = [("h", b"\xff"), ('"value":', None)] if self._names % 5 == 0 else []
            self.log.produce(value, key=b"%d" % self._names, headers=headers, fate=fate)

    def transact(self, *values: bytes | None, committed: bool) -> None:
        """Append a transaction: its records, which a reader may or may not see, and its marker."""
        self.produce(*values, fate="open")
        self.log.settle(abort=not committed)

    @property
    def compactable(self) -> list[int]:
        """The records that compaction may remove: all but the last."""
        log = self.partition_log
        return [o for o in range(log.low, log.high - 1) if log.entries[o].fate == "record"]

    def retain(self, by: int) -> None:
        """
        Let retention take so many offsets.

        It leaves the place where the log was cut back: without that no client can tell any more that it was.
        """
        low = self.partition_log.low + by
        self.log.retain(low if self.cut_at is None else min(low, self.cut_at))

    def cut_back(self, by: int, *values: bytes | None) -> None:
        """Let an unclean election cut so many offsets off, and append others under the new leader."""
        self.cut = True
        self.cut_at = max(self.partition_log.low, self.partition_log.high - by)
        if any(s.end > self.cut_at for s in self.segments(self.epoch)):
            self._saw("the log was cut back below what is stored")
        self.log.cut_back(self.cut_at)
        self.produce(*values)

    def recreate(self, *values: bytes | None) -> None:
        """Delete the topic and make it again; the operator names a new epoch."""
        if self.writers:
            self._saw("the topic was made again under a running writer")
        self.log.recreate()
        self.topics[self.log.topic] = self.log.logs
        self.cut_at = None
        self.begin_epoch()
        self.produce(*values)

    def begin_epoch(self) -> None:
        """Tell writers from now on to write to a new dataset."""
        self.epoch = f"e{len(self.deleted)}"
        self.deleted[self.epoch] = []

    # ---- writers ------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        hint: Hint | None = None,
        misled: bool = False,
        epoch: str | None = None,
        records: int = 1000,
        memory_bytes: int = 1 << 20,
        on_gap: Literal["stop", "note"] = "stop",
        fine: bool = False,
    ) -> Writer:
        """
        Begin a process, and give it its first turn.

        Args:
            hint: What it is told with its assignment.

            misled: The hint is not the group's last one.

            epoch: Where it writes; where the operator says unless given.

            records: How many it puts into a segment.

            memory_bytes: Its budget; 1: it pauses its source while anything is held.

            on_gap: What it does at a gap.

            fine: Pause at listings and reads too.
        """
        self._names += 1
        epoch = self.epoch if epoch is None else epoch
        source = self.make_source(
            log=self.log, hints={self.partition: hint}, idle=lambda _: None, acknowledged=self._acknowledged
        )
        executor = TurnExecutor(self.turns, f"w{self._names}")
        flush = FlushPolicy(records=records, age_s=60.0)
        pipeline = self._pipeline(source, epoch, flush, on_gap, executor, memory_bytes)

        def work() -> None:
            try:
                while not pipeline.stopped:
                    pipeline.step()
                    self.turns.pause("turn")
            except HeadraceError as error:
                writer.ended = error

        main = self.turns.start(work, f"w{self._names}")
        writer = Writer(main.name, epoch, misled, source, pipeline, executor, main)
        self.writers.append(writer)
        self.run(main, fine=fine)
        return writer

    def _pipeline(
        self,
        source: MemorySource,
        epoch: str,
        flush: FlushPolicy,
        on_gap: Literal["stop", "note"],
        executor: Executor,
        memory_bytes: int = 1 << 20,
    ) -> Pipeline:
        return Pipeline(
            source=source,
            sink=self.make_sink(self.store, epoch, self.clock),
            flush=flush,
            on_gap=on_gap,
            executor=executor,
            memory_bytes=memory_bytes,
            clock=self.clock,
            release_timeout_s=0.0,  # a hand-over sends what it holds, and waits for nothing
            until_end=isinstance(executor, _Inline),
            stopping=_NoWait(),
            hurry=_NoWait(),
        )

    def run(self, turn: Turn, *, fine: bool = False) -> None:
        """Give a thread its turn."""
        self._guard(lambda: self.turns.run(turn, fine=fine))

    def work(self, writer: Writer, rounds: int) -> None:
        """Let a writer work undisturbed, its writes answered at once, while all others hang."""
        for _ in range(rounds):
            if writer in self.writers and writer.ready:
                self.run(writer.main)
            for put in [p for p in self.store.in_flight if p.sender in writer.threads]:
                self.land(put)
            for put in [p for p in self.store.landed if p.sender in writer.threads]:
                self.answer(put)

    def rebalance(self, writer: Writer, *, lost: bool) -> None:
        """Take the partition away, in time or too late, and give it back with the group's hint."""
        (writer.source.lose if lost else writer.source.take_away)([self.partition])
        self.run(writer.main)
        writer.source.hints = {self.partition: self.log.committed.get(self.partition)}
        writer.misled = False
        writer.source.give([self.partition])

    def crash(self, writer: Writer) -> None:
        """End a process without a word; what it sent may still land."""
        self._end(writer)

    def _end(self, writer: Writer) -> None:
        self.writers.remove(writer)
        writer.executor.kill()
        if not writer.main.done:
            self.turns.kill(writer.main)
        self.store.forget_senders()
        writer.pipeline.sink.close()

    def _guard(self, action: Callable[[], object]) -> None:
        """Do it; a writer whose main thread has ended by it is gone."""
        try:
            action()
        except BaseException:
            self.broken = True
            raise
        for writer in [w for w in self.writers if w.main.done]:
            self._end(writer)
            self._check_stop(writer)

    # ---- writes on their way ------------------------------------------------------------------------------

    def land(self, put: HeldPut) -> None:
        """Let a write arrive, whatever became of its sender."""
        rivals = [p for p in self.store.in_flight if p.key == put.key and p is not put]
        self.store.land(put)
        if rivals and _is_segment(put):
            self._saw("two writes of one key were on their way")
        if put.sender is None and _is_segment(put):
            fate = "was stored" if put.answer else "was refused"
            self._saw(f"a late write {fate} after its sender {'gave up' if put.error else 'was gone'}")
        if "/_headrace/gaps/" in put.key and put.answer:
            self._saw("a loss was noted")

    def answer(self, put: HeldPut, *, fine: bool = False) -> None:
        """Let the answer arrive, if anybody waits for it."""
        if put.sender is not None:
            self._guard(lambda: self.store.answer(put, fine=fine))

    def lose(self, put: HeldPut, *, fine: bool = False) -> None:
        """Let a sender give up waiting; its write may have landed, or may yet."""
        if put.answer and _is_segment(put):
            self._saw("the answer to a stored write was lost")
        self._guard(lambda: self.store.lose(put, fine=fine))

    def refuse(self, put: HeldPut) -> None:
        """Let the store not take a write, for now."""
        self._guard(lambda: self.store.refuse(put))

    @property
    def awaited(self) -> list[HeldPut]:
        """The writes for whose answer somebody waits."""
        return [p for p in (*self.store.in_flight, *self.store.landed) if p.sender is not None]

    # ---- time and the operator ----------------------------------------------------------------------------

    def pass_a_day(self, oldest: int, *, killed_after: int | None = None) -> None:
        """
        Let a day pass, and the operator delete that many of the oldest segments. Errors as for `expire`.

        A signed request lives for minutes: what is on its way arrives never. A process may have slept all the time.
        """
        self.now_s += DAY_S
        for put in list(self.store.in_flight):
            self.store.drop(put)
        self.expire(oldest, killed_after=killed_after)

    def expire(self, oldest: int, *, killed_after: int | None = None) -> None:
        """
        Let `Expire` delete that many of the oldest segments, if they are old enough.

        Args:
            oldest: How many are to go.

            killed_after: It is killed after so many of them; None: it is not.

        Raises:
            ViolationError: What is left is no chain, or the notes say otherwise.
        """
        before = self.segments(self.epoch)
        if not before or not oldest:
            return
        store = self.store if killed_after is None else _Killing(inner=self.store, deletions=killed_after)
        chain = Chain.open(store, self.log.stream, self.epoch)
        expire = self.make_expire(
            chain=chain, older_than_s=DAY_S, keep=max(1, len(before) - oldest), without_ledger=True, clock=self.clock
        )
        try:
            expire.run()
        except _KilledError:
            self._saw("the deletion of old segments was killed")
        there = {segment.key for segment in self.segments(self.epoch)}
        gone = [segment for segment in before if segment.key not in there]
        self.deleted[self.epoch] += gone
        for _ in gone:
            self._saw("an old segment was deleted")
        self._check_notes(chain, before, gone)

    def _check_notes(self, chain: Chain, before: Sequence[StoredSegment], gone: Sequence[StoredSegment]) -> None:
        """What was deleted is the head, and the notes say so; what is not noted is there."""
        if list(gone) != list(before[: len(gone)]) or len(gone) == len(before):
            self.broken = True
            raise ViolationError(f"deleted: {[s.start for s in gone]} of {[s.start for s in before]}")
        head = before[len(gone)].start
        if chain.expired(0) != ([(0, head)] if head else []):
            self.broken = True
            raise ViolationError(f"expired: the notes say {chain.expired(0)}, the chain begins at {head}")

    # ---- what must hold -----------------------------------------------------------------------------------

    def segments(self, epoch: str) -> Sequence[StoredSegment]:
        """Read the chain of a dataset, around the code under test."""
        lake = read_lake(objects_of(self.inner), self.log.stream, epoch)
        return lake[0].segments if 0 in lake else ()

    def check(self) -> None:
        """
        Hold the lake against the log: each record at most once, unchanged, in one chain, and nothing left out in silence.

        Raises:
            ViolationError: It is not so.
        """
        objects = objects_of(self.inner)
        for epoch, deleted in self.deleted.items():
            lake = read_lake(objects, self.log.stream, epoch)
            self._fail_on(Oracle({0: deleted}).check(lake, self._logs(objects, epoch)))
        for writer in self.writers:
            self._is_not_stuck(writer)

    def _is_not_stuck(self, writer: Writer) -> None:
        """After its turn nothing that is ready to be stored may wait for what never comes."""
        if writer.main.done or writer.main.where != "turn":
            return
        for holding in writer.pipeline._held:  # noqa: SLF001 - what it holds can be seen from inside only
            if holding.drafts and holding.drafts[0].closed and holding.drafts[0].commit is None:
                draft = holding.drafts[0].draft
                raise ViolationError(f"stuck: {writer.name} holds [{draft.position}, {draft.end}) and does not send it")

    def finish(self) -> None:
        """
        End all writers, let everything land, and let one fresh writer without faults bring what is missing.

        Raises:
            ViolationError: It could not, or did not.
        """
        for writer in list(self.writers):
            self._end(writer)
        if self.broken:
            return
        for put in list(self.store.in_flight):
            self.land(put)
        self.check()
        self._remember()
        try:
            try:
                self._bring_the_rest()
            except IdentityError:
                if not self.cut:
                    raise
                self.begin_epoch()  # what the message says
                self._bring_the_rest()
        except HeadraceError as error:
            raise ViolationError(f"the last writer stopped: {type(error).__name__}: {error}") from error
        self.check()
        lake = read_lake(objects_of(self.inner), self.log.stream, self.epoch)
        self._fail_on(Oracle({0: self.deleted[self.epoch]}).missing(lake, self.log.logs))

    def _bring_the_rest(self) -> None:
        known = {self.partition: self.log.committed.get(self.partition)}
        source = self.make_source(log=self.log, hints=known, idle=lambda _: None, acknowledged=self._acknowledged)
        self._pipeline(source, self.epoch, FlushPolicy(records=2), "note", _Inline()).run()

    def _logs(self, objects: Mapping[str, bytes], epoch: str) -> Mapping[int, PartitionLog]:
        """Find what a dataset was made from: whatever its pin says; nothing where it has none."""
        topic = pinned_topic(objects, self.log.stream, epoch)
        return {} if topic is None else self.topics[topic]

    def _acknowledged(self, hints: Mapping[Partition, Hint]) -> None:
        """Nothing is acknowledged that is not stored (B27)."""
        self.hints += hints.values()
        writer = next((w for w in self.writers if w.main is self.turns.mine), None)
        epoch = self.epoch if writer is None else writer.epoch
        objects = objects_of(self.inner)
        if self._logs(objects, epoch) is not self.log.logs or self.cut:
            return
        lake, oracle = read_lake(objects, self.log.stream, epoch), Oracle({0: self.deleted[epoch]})
        for partition, hint in hints.items():
            self._fail_on(oracle.acknowledged(lake, self.partition_log, partition.number, hint))

    def _check_stop(self, writer: Writer) -> None:
        """A writer stops only for a reason."""
        logs = self._logs(objects_of(self.inner), writer.epoch)
        for error in [*writer.pipeline.stopped.values(), *([writer.ended] if writer.ended else [])]:
            reasons = {
                GapError: bool(logs) and logs[0].low > getattr(error, "start", 0),
                IdentityError: self.cut or len(self.topics) > 1,
                DataError: writer.misled,
            }
            if not reasons.get(type(error), False):
                self.broken = True
                raise ViolationError(
                    f"{writer.name} stopped without a reason: {type(error).__name__}: {error}"
                ) from error
            self._saw(f"a writer stopped: {type(error).__name__}")

    def _fail_on(self, findings: list[Finding]) -> None:
        if findings:
            self.broken = True
            raise ViolationError("\n".join(map(str, findings)))

    def _saw(self, what: str) -> None:
        self.seen[what] += 1

    def _remember(self) -> None:
        """Count what only the finished lake shows."""
        objects = objects_of(self.inner)
        for epoch in self.deleted:
            logs = self._logs(objects, epoch)
            for segment in self.segments(epoch):
                inside = {*range(segment.start, segment.end)} - {*segment.offsets}
                for fate in {logs[0].entries[o].fate for o in inside if o < logs[0].high} - {"record", "open"}:
                    self._saw(f"a segment covers a hole: {fate}")
        if sum(1 for epoch in self.deleted if self.segments(epoch)) > 1:
            self._saw("two epochs hold segments")


def _is_segment(put: HeldPut) -> bool:
    return "/_headrace/" not in put.key

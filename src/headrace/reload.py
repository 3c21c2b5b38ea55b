"""Loads the history anew, by a newer contract and into a target of its own, and lets readers see that one instead (S7)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import attrs

from headrace.chain import Chain, start_of
from headrace.errors import ConfigError, DataError, ExpiredError, PositionConflictError
from headrace.load import Load, LoadProgress
from headrace.loader import MAX_REJECTED, Line, Loader, LoadResult
from headrace.logs import event as log_event
from headrace.records import Partition
from headrace.retry import Retry

T = TypeVar("T")

_log = logging.getLogger("headrace.reload")

_ROUNDS = 100
"""So often it catches up with a target that is loaded meanwhile, before it says that this does not end."""


@attrs.define(kw_only=True, eq=False)
class Reload:
    """
    Replaces a target by one that was loaded anew. Killed at any moment, it is simply run again.

    Readers see the old target, whole and still being loaded, until one transaction lets them see the new one. From then on
    nothing can be loaded into the old one.

    Attributes:
        chain: The dataset.

        name: By which readers know the target.

        make: Makes the loader of a target, by the newer contract.

        target: The new one.

        begin_at: As of `Load`: where the chain's head was expired, the new target lacks what the old one has of it.

        evolve: As of `Load`; columns that the stream brought to the old target are not the new one's, unless it meets them too.

        group_bytes: As of `Load`.

        max_rejected: As of `Load`.

        retry_for_s: As of `Load`.

        observe: Called with the numbers of the load under way.
    """

    chain: Chain
    name: str
    make: Callable[[str], Loader]
    target: str
    begin_at: Mapping[int, int] | Literal["oldest"] | None = None
    evolve: bool = False
    group_bytes: int = 16 << 20
    max_rejected: float = MAX_REJECTED
    retry_for_s: float = 600.0
    observe: Callable[[LoadProgress], None] | None = None
    result: LoadResult = attrs.field(factory=LoadResult, init=False)
    _retry: Retry = attrs.field(init=False)
    _load: Load | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._retry = Retry(self.retry_for_s)
        if self.target.lower() == self.name.lower():  # databases do not tell case
            raise ConfigError(f"found the new target {self.target!r}, expected another name than the one it replaces")

    def run(self) -> bool:
        """
        Load, compare, swap.

        Returns:
            True: readers see the new target. False: it was stopped before.

        Raises:
            ExpiredError: The head of a chain is not there any more, so the new target would lack it (`begin_at`).
            DataError: As of `Load.run`; or the new target does not hold as many records as the old one. Nothing was swapped.
            PositionConflictError: The old target is loaded faster than this one; or it holds another dataset too, which is to be
                loaded into this one first.
            ConfigError: The warehouse cannot swap targets, or there is nothing to replace.
        """
        with self.make(self.target) as loader:
            new = loader.target  # as the warehouse writes it
            if type(loader).take_over is Loader.take_over:
                loader.take_over(self.name)  # it refuses: told before a history is loaded for nothing
        old = self._asked(lambda loader: loader.current(), self.name)
        if old != new and not any(self._positions(old).values()):
            raise ConfigError(
                f"{old} holds nothing of {self.chain.dataset.stream!r}: there is nothing to replace, load it"
            )
        stood: object = None
        for attempt in range(_ROUNDS):
            self._catch_up(old)
            if self._retry.hurry.is_set():
                return False
            try:
                if old != new:
                    self._compare(old)
                self._asked(lambda loader: loader.take_over(self.name), self.target)
            except PositionConflictError as error:  # the old one went on meanwhile
                log_event(_log, logging.INFO, "catching up", error=error)
                stands = self._positions(old), self._positions(self.target)
                if attempt == _ROUNDS - 1 or stands == stood:
                    raise
                stood = stands
            else:
                log_event(_log, logging.INFO, "readers see the new target", name=self.name, old=old, target=self.target)
                return True
        raise AssertionError

    def stop(self) -> None:
        """End after the transaction under way; what was loaded stays. May be called from a signal handler or a thread."""
        self._retry.hurry.set()
        if self._load is not None:
            self._load.stop()

    def _catch_up(self, old: str) -> None:
        self._load = Load(
            chain=self.chain,
            loader=self.make(self.target),
            group_bytes=self.group_bytes,
            max_rejected=self.max_rejected,
            begin_at=self.begin_at,
            evolve=self.evolve,
            retry_for_s=self.retry_for_s,
            observe=self.observe,
        )
        if self._retry.hurry.is_set():
            return
        try:
            self._load.run()
        except ExpiredError as error:
            error.add_note(
                f"so {self.target} would lack of {error.partition} what {old} has of [{error.start}, {error.end}); readers still"
                " see all of it. To replace it all the same, say so: begin_at, --begin-at oldest"
            )
            raise
        finally:
            self.result += self._load.progress.result

    def _compare(self, old: str) -> None:
        """Hold the new target against the old one's ledger, line by line, and against what it really holds."""
        before, now = self._positions(old), self._positions(self.target)
        for number, end in before.items():
            position = now[number]
            if end is None:
                continue
            if position is None or position < end:
                raise PositionConflictError(
                    f"{self.target} is at {position} of partition {number}, {old} at {end}", expected=end, found=None
                )
            self._compare_line(old, number, end)

    def _compare_line(self, old: str, number: int, end: int) -> None:
        start, partition = self._begun(number), Partition(self.chain.dataset.stream, number)
        was, now = (self._line(partition, target) for target in (old, self.target))
        expected = self._asked(lambda loader: loader.recorded(was, start, end), old)
        loaded = self._asked(lambda loader: loader.recorded(now, start, end), self.target)
        census = self._asked(lambda loader: loader.census(now, start, end), self.target)
        there = loaded if census is None else census.rows + census.quarantined + census.superseded
        if not expected == loaded == there:
            begun_later = loaded == there and (expected or 0) < (loaded or 0)
            remedy = (
                f"See where {old} begins, and begin there (--begin-at)"
                if begun_later
                else "Find out who changed which by hand"
            )
            raise DataError(
                f"{partition}: of [{start}, {end}) the ledger has {expected} records in {old} and {loaded} in {self.target},"
                f" which holds {there}; nothing was swapped, readers still see {old}. {remedy}, then reload into"
                " yet another table (--into)"
            )

    def _begun(self, number: int) -> int:
        """Where the new target begins to hold what the old one may."""
        if self.begin_at is None:
            return 0
        if self.begin_at != "oldest":
            return self.begin_at.get(number, 0)
        head = self._retry(lambda: next(self.chain.objects(number), None))
        return 0 if head is None else start_of(head)

    # ---- asking -------------------------------------------------------------------------------------------

    def _line(self, partition: Partition, target: str) -> Line:
        return Line(self.chain.dataset.id, partition, target)

    def _positions(self, target: str) -> dict[int, int | None]:
        dataset = self.chain.dataset
        numbers = sorted({*self._retry(self.chain.partitions), *range(dataset.partitions)})
        lines = {n: self._line(Partition(dataset.stream, n), target) for n in numbers}
        found = self._asked(lambda loader: loader.positions(list(lines.values())), target)
        return {number: found[line] for number, line in lines.items()}

    def _asked(self, call: Callable[[Loader], T], target: str) -> T:
        with self.make(target) as loader:
            return self._retry(lambda: call(loader))

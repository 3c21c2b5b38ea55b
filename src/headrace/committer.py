"""Sends drafts: a few at a time, each retried at its own position until its answer is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor

import attrs

from headrace.commit import Held, Holding
from headrace.errors import HeadraceError, SourceUnavailableError
from headrace.records import Identity, Partition, Position
from headrace.retry import Retry


@attrs.define(eq=False)
class _Identities:
    """One look-up of the streams' identities, made when it is first needed, shared by the commits of one flush (B20)."""

    _ask: Callable[[], Mapping[str, Identity]]
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _found: Mapping[str, Identity] | None = None

    def of(self, partition: Partition) -> Identity:
        """Return the stream's identity; a failure is not remembered, so that a retry asks again."""
        with self._lock:
            if self._found is None:
                self._found = self._ask()
            found = self._found.get(partition.stream)
            if found is None:
                self._found = None
                raise SourceUnavailableError(
                    f"{partition.stream} is not in the source's answer; it may have been deleted"
                )
        return found


@attrs.define(kw_only=True, eq=False)
class Committer:
    """
    Runs commits in worker threads.

    Attributes:
        identities: Asks the source what its streams are, now.

        puts_in_flight: How many commits are sent at once, one a partition.

        retry: Tries one commit again: what a commit needs is in its key, not in the attempt.

        executor: Where commits run; its own threads unless given.
    """

    identities: Callable[[], Mapping[str, Identity]]
    puts_in_flight: int
    retry: Retry
    executor: Executor | None = None
    _own: ThreadPoolExecutor | None = None

    def submit(self, work: list[tuple[Holding, Held]]) -> None:
        """
        Send these drafts, one of each holding, and keep the answers in `Held.commit`.

        Their identities are looked up after this call began, so after their last records were read (B20).
        """
        identities = _Identities(self.identities)
        for holding, held in work:
            held.commit = self._pool().submit(
                self._commit, holding.partition, held, holding.base, holding.position, identities
            )

    def close(self) -> None:
        """Wait for the commits under way, which are tried once more at the most, then end the threads."""
        self.retry.hurry.set()
        if self._own is not None:
            self._own.shutdown(wait=True, cancel_futures=True)

    def _commit(
        self, partition: Partition, held: Held, base: int | None, at: Position, identities: _Identities
    ) -> Position:
        assert base is not None, "a draft is filled only after its start was resolved"  # noqa: S101 - our own state

        def attempt() -> Position:
            if held.given_back:  # what is left of it is no longer what was read (B28)
                raise HeadraceError(f"{partition}: the draft of {at.offset} was given back, it is not sent again")
            return held.draft.commit(base, at, identities.of(partition))

        return self.retry(attempt)

    def _pool(self) -> Executor:
        if self.executor is not None:
            return self.executor
        if self._own is None:
            self._own = ThreadPoolExecutor(self.puts_in_flight, thread_name_prefix="headrace-commit")
        return self._own

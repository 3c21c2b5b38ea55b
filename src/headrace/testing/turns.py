"""Threads that run one at a time, each until it pauses: any interleaving, chosen by a test, and the same every time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

import attrs

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE_S = 60.0


class Killed(BaseException):
    """Unwinds a thread whose process is gone. No error of headrace's: nothing may catch it and go on."""


@attrs.define(eq=False)
class Turn:
    """
    A thread that waits for its turn.

    Attributes:
        name: For messages.

        where: What it paused at; "" before its first instruction.

        fine: Pause at reads and listings too, not only at writes.

        done: It has ended.

        error: What it ended with, unless it was killed.

        killed: Its process is gone: it does nothing more when its turn comes.
    """

    name: str
    where: str = ""
    fine: bool = False
    done: bool = False
    error: BaseException | None = None
    killed: bool = False
    _go: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0), repr=False)
    _back: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0), repr=False)

    def give(self) -> None:
        """Let it run until it pauses or ends; for whoever hands out the turns."""
        self._go.release()
        if not self._back.acquire(timeout=_PATIENCE_S):
            raise TimeoutError(f"{self.name} did not pause within {_PATIENCE_S} s after {self.where!r}")

    def begin(self) -> None:
        """Wait for the first turn; for the thread itself."""
        self._go.acquire()
        if self.killed:
            raise Killed

    def pause(self, where: str) -> None:
        """Give the turn back, and wait for the next one; for the thread itself."""
        if self.killed:
            raise Killed
        self.where = where
        self._back.release()
        self.begin()

    def end(self, error: BaseException | None) -> None:
        """Give the turn back for good; for the thread itself."""
        self.error, self.done = error, True
        self._back.release()


@attrs.define(eq=False)
class Turns:
    """
    Hands control to one thread at a time.

    Threads that were not started here run as they like; for them `pause` does nothing.
    """

    _here: threading.local = attrs.field(factory=threading.local)

    def start(self, work: Callable[[], object], name: str = "") -> Turn:
        """Make a thread for *work*; it does nothing before its first `run`."""
        turn = Turn(name)
        threading.Thread(target=self._main, args=(turn, work), name=name, daemon=True).start()
        return turn

    def run(self, turn: Turn, *, fine: bool = False) -> None:
        """Let it run until it pauses or ends, and raise what it ended with."""
        assert not turn.done, f"{turn.name} has ended"
        turn.fine = fine
        turn.give()
        if turn.error is not None:
            raise turn.error

    def kill(self, turn: Turn) -> None:
        """End it where it stands, without a word: nothing but `finally` runs any more."""
        turn.killed = True
        while not turn.done:
            turn.give()

    def pause(self, where: str, *, fine: bool = False) -> Turn | None:
        """
        Stop the calling thread until its next turn.

        Args:
            where: For messages.

            fine: A pause that only a turn with the same flag makes.

        Returns:
            The thread's turn; None for a thread that was not started here, which goes on at once.
        """
        turn = self.mine
        if turn is not None and (turn.fine or not fine):
            turn.pause(where)
        return turn

    @property
    def mine(self) -> Turn | None:
        """The calling thread's turn."""
        return getattr(self._here, "turn", None)

    def _main(self, turn: Turn, work: Callable[[], object]) -> None:
        self._here.turn = turn
        failure: BaseException | None = None
        try:
            turn.begin()
            work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by whoever gave the turn
            failure = error
        turn.end(failure)


@attrs.define(eq=False)
class TurnExecutor(Executor):
    """
    Runs each job in a thread of its own, at once, until it pauses.

    Attributes:
        turns: Who hands out control.

        name: Of the threads.

        jobs: Those that have not ended.
    """

    turns: Turns
    name: str = ""
    jobs: list[Turn] = attrs.field(factory=list)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin the job: it has paused or ended when this returns."""
        future: Future[T] = Future()

        def work() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        self.jobs = [job for job in self.jobs if not job.done]
        job = self.turns.start(work, f"{self.name} commit")
        self.jobs.append(job)
        self.turns.run(job)
        return future

    def kill(self) -> None:
        """End all jobs where they stand."""
        for job in self.jobs:
            self.turns.kill(job)

"""
Crash points: each single I/O of a component, made to fail before it happens, after it, or with its process.

A component under test asks a `Gate` before each I/O. `Wire` lets any client's object ask, `headrace.testing.store.GatedStore` any
store. What the gate says is chosen by whoever plays: the state machine of `headrace.testing.silver`, or a `CrashPoint`, which
lets the I/O of one number fail; the suites of `headrace.testing.contracts.crash` try every number, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import attrs
import pytest

from headrace.testing.turns import Killed

__all__ = ["WAYS", "CrashPoint", "Fate", "Gate", "Killed", "Way", "Wire", "asking", "nothing_fails"]

Fate = Literal["do", "lose the statement", "lose the answer"]
"""
What becomes of a statement: it is executed, or never arrives, or its answer is lost; then the connection is broken.
"""

Gate = Callable[[str], Fate]
"""
What a component asks before each I/O, with a few words that say which: a statement's first ones, as a rule. It may wait for its
turn, then says what becomes of it; or it raises `Killed`, and the process is gone. COMMIT's name is "COMMIT".
"""

Way = Literal["lose the statement", "lose the answer", "kill"]
"""How one I/O fails: before it happens, after it, or the process dies in front of it."""

WAYS: tuple[Way, ...] = get_args(Way)


def nothing_fails(_what: str) -> Fate:
    """Let every I/O happen."""
    return "do"


def die() -> None:
    """Unwind the thread as SIGKILL would: nobody catches it, only ``finally`` runs."""
    raise Killed


@attrs.define(eq=False)
class CrashPoint:
    """
    A gate that lets the I/O of one number fail, once.

    Attributes:
        number: Which, from 1.

        way: How.

        kill: Ends the process; unless it does, its thread is unwound and every later I/O of it ends it again.

        asked: What was asked so far; with *number* of them or more the point was reached.
    """

    number: int
    way: Way
    kill: Callable[[], None] = die
    asked: list[str] = attrs.field(factory=list)
    _dead: bool = False

    @property
    def reached(self) -> bool:
        return len(self.asked) >= self.number

    def restart(self) -> None:
        """Begin a new process, for which nothing fails any more."""
        self._dead = False

    def __call__(self, what: str) -> Fate:
        if self._dead:
            self.kill()
        self.asked.append(what)
        if len(self.asked) != self.number:
            return "do"
        if self.way == "kill":
            self._dead = True
            self.kill()
            return "do"
        return self.way


@attrs.define(eq=False)
class Wire:
    """
    A client's object, a connection as a rule, that asks a gate before it does I/O, and breaks where it is told to.

    Everything but the named calls goes through. After a loss each named call fails as the first one did.

    Attributes:
        real: The client's object.

        gate: Whom to ask.

        lost: Makes what the client raises when its connection is gone.

        calls: The methods that do I/O.

        broken: The connection is gone.
    """

    real: Any
    gate: Gate
    lost: Callable[[], Exception]
    calls: Collection[str] = ("execute", "executemany", "commit", "rollback")
    broken: bool = False

    def asks(self, method: str, args: tuple[Any, ...]) -> str:
        """Name a call for the gate; "" lets it through unasked. By default a statement's first three words."""
        if args and isinstance(args[0], str):
            return " ".join(args[0].split()[:3])
        return method.upper()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in self.calls:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            what = self.asks(name, args)
            fate = self.gate(what) if what and not self.broken else "do"
            if what and (self.broken or fate == "lose the statement"):
                self.broken = True
                raise self.lost()
            result = found(*args, **kwargs)
            if fate == "lose the answer":
                self.broken = True
                raise self.lost()
            return result

        return call


@contextmanager
def asking(module: object, names: Collection[str], gate: Gate) -> Iterator[None]:
    """
    Let these functions of a module, system calls of `os` as a rule, ask a gate before each call, as long as the block lasts.

    For components whose I/O is no client's: the gate is to kill or to stop the process, since nothing is lost of a system call.
    """

    def asked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            gate(name)
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(module, name, asked(name, getattr(module, name)))
        yield

"""A store whose writes are held back: sent, and landed when the test says so, if ever, whatever became of the sender."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

import attrs

from headrace.errors import CommitUnknownError, HeadraceError, SinkUnavailableError
from headrace.store import Page, Store
from headrace.testing.turns import Turn, Turns


@attrs.define(eq=False)
class HeldPut:
    """
    A write on its way.

    Attributes:
        key: Where to.

        body: The whole object.

        metadata: As it was given.

        sender: Who waits for the answer; None when nobody does.

        answer: What the store answered; None while it has not landed.

        error: What the sender is to be told instead.
    """

    key: str
    body: bytes = attrs.field(repr=lambda body: f"{len(body)} bytes")
    metadata: Mapping[str, str] = attrs.field(repr=False)
    sender: Turn | None = attrs.field(repr=lambda turn: turn.name if turn else "nobody")
    answer: bool | None = None
    error: HeadraceError | None = None


@attrs.define(kw_only=True, eq=False)
class HeldStore(Store):
    """
    Any store, with every write held back that comes from a thread of `turns`.

    A held write lands with `land`, its answer comes with `answer`; or the sender gives up with `lose`, and the write may
    land later all the same, or never. Reads and listings pause where a turn asks for it. Writes from other threads pass.

    Attributes:
        inner: Keeps the objects.

        turns: Whose threads are held.

        clock: What the store says of an object's age.

        passes: Writes to keys that match this pattern are not held: the probe's race is not what is played here.

        in_flight: Sent, and not landed, oldest first.

        landed: The sender does not know it yet.
    """

    inner: Store
    turns: Turns
    clock: Callable[[], float] = time.time
    passes: str = r".*/_headrace/probes/.*"
    in_flight: list[HeldPut] = attrs.field(factory=list, init=False)
    landed: list[HeldPut] = attrs.field(factory=list, init=False)
    _created_s: dict[str, float] = attrs.field(factory=dict, init=False)

    @property
    def place(self) -> str:  # type: ignore[override]  # the inner one's
        return self.inner.place

    def identity(self) -> str:
        return self.inner.identity()

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        turn = self.turns.mine
        if turn is None or re.fullmatch(self.passes, key):
            return self._create(key, body, metadata)
        put = HeldPut(key, bytes(body), dict(metadata), turn)
        self.in_flight.append(put)
        try:
            self.turns.pause(f"PUT {key}")
        finally:
            put.sender = None
        if put.error is not None:
            raise put.error
        assert put.answer is not None, f"{turn.name} went on before the answer to its PUT of {key}"
        return put.answer

    def list(self, prefix: str, after: str = "") -> Page:
        self.turns.pause(f"LIST {prefix}", fine=True)
        page = self.inner.list(prefix, after)
        return Page([attrs.evolve(o, modified_s=self._created_s.get(o.key)) for o in page.objects], page.truncated)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        self.turns.pause(f"GET {key}", fine=True)
        return self.inner.read(key, start, end)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def _create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        created = self.inner.create(key, body, metadata)
        if created:
            self._created_s[key] = self.clock()
        return created

    # ---- what a test does ---------------------------------------------------------------------------------

    def land(self, put: HeldPut) -> None:
        """Let the store take the write, or refuse it; the sender still waits."""
        self.in_flight.remove(put)
        put.answer = self._create(put.key, put.body, put.metadata)
        if put.sender is not None:
            self.landed.append(put)

    def answer(self, put: HeldPut, *, fine: bool = False) -> None:
        """Tell the sender what the store answered; it runs until its next pause."""
        assert put.answer is not None, "a write is answered when it has landed"
        self._tell(put, fine=fine)

    def lose(self, put: HeldPut, *, fine: bool = False) -> None:
        """Let the sender give up waiting: it does not know whether the write landed, or will."""
        put.error = CommitUnknownError(f"{put.key}: no answer")
        self._tell(put, fine=fine)

    def refuse(self, put: HeldPut, *, fine: bool = False) -> None:
        """Answer that nothing was written, and none of it will land later."""
        put.error = SinkUnavailableError(f"{put.key}: not now")
        self.in_flight.remove(put)
        self._tell(put, fine=fine)

    def drop(self, put: HeldPut) -> None:
        """Let the write get lost on its way, for good."""
        self.in_flight.remove(put)

    def forget_senders(self) -> None:
        """Take out what landed and has no sender any more."""
        self.landed = [put for put in self.landed if put.sender is not None]

    def _tell(self, put: HeldPut, *, fine: bool) -> None:
        sender = put.sender
        if put in self.landed:
            self.landed.remove(put)
        assert sender is not None, "nobody waits for this answer"
        self.turns.run(sender, fine=fine)

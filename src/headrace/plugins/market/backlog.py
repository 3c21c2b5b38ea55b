"""What was received and not yet taken: bounded, and nothing is ever dropped from it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from headrace.records import Headers

_TICK_S = 0.05


@attrs.frozen
class Chunk:
    """
    Records of one kind that came together, as columns of equal length; never empty.

    Attributes:
        kind: Which stream they belong to.

        received_ns: When they came, in nanoseconds since the epoch.

        keys: None where a message is about nothing known.

        values: The messages' bytes.

        headers: Ours.

        nbytes: Of keys, values and headers.

        behind: Only to be said when all that came before is stored.
    """

    kind: str
    received_ns: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    headers: Sequence[Headers]
    nbytes: int
    behind: bool = False


@attrs.define(kw_only=True)
class Backlog:
    """
    A queue between the thread that receives and the one that polls.

    Attributes:
        limit_bytes: More is held only while what is held is less than this: by one frame at the most.
    """

    limit_bytes: int
    held_bytes: int = 0
    _frames: deque[Sequence[Chunk]] = attrs.field(factory=deque)
    _changed: threading.Condition = attrs.field(factory=threading.Condition)

    @property
    def full(self) -> bool:
        """Whether nothing more is taken at the moment."""
        return self.held_bytes >= self.limit_bytes

    def put(self, chunks: Sequence[Chunk]) -> None:
        """
        Add behind the others, however much that is: who receives asks for room before it takes a frame.

        What is put at once is taken at once: of a frame one kind does not go before another.
        """
        with self._changed:
            self._frames.append(chunks)
            self.held_bytes += sum(c.nbytes for c in chunks)
            self._changed.notify_all()

    def wait_for_room(self, given_up: Callable[[], bool]) -> bool:
        """Wait until there is room; False where *given_up* came true before."""
        with self._changed:
            while self.full:
                if given_up():
                    return False
                self._changed.wait(_TICK_S)
        return True

    def take(self, records: int, timeout_s: float) -> list[Chunk]:
        """Take the oldest chunks of about so many records; wait for the first one at most *timeout_s*."""
        with self._changed:
            if not self._frames and timeout_s > 0:
                self._changed.wait_for(lambda: bool(self._frames), timeout_s)
            taken: list[Chunk] = []
            count = 0
            while self._frames and count < records:
                frame = self._frames.popleft()
                taken += frame
                count += sum(len(c.values) for c in frame)
            self.held_bytes -= sum(c.nbytes for c in taken)
            self._changed.notify_all()
        return taken

    def __len__(self) -> int:
        with self._changed:
            return sum(len(c.values) for frame in self._frames for c in frame)

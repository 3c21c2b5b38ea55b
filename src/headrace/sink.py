"""What records are committed to: a compare-and-append log whose position lives with the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace.finding import Finding
    from headrace.records import Batch, Extent, Hint, Identity, Partition, Position

Guarantee = Literal["exactly-once", "at-least-once"]


class Draft(ABC):
    """
    What a sink will commit at one position: batches of one partition, encoded as they arrive.

    `add` and `discard` are called from the reader's thread, `commit` from a worker's; never two at a time, and no `add`
    after the first `commit`.

    Attributes:
        position: Where the draft is to be committed.

        digest: SHA-256 of what is to be stored, from the first commit on; None before, and of a sink that tells none. By it a
            draft of a live feed is known to be what a look-up finds stored, as after an answer that was lost. Without it that
            counts as another writer's, and the draft as not stored.
    """

    position: int
    digest: str | None = None

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Memory that the draft holds now, in bytes."""

    @property
    @abstractmethod
    def end(self) -> int:
        """The last record's offset + 1: the position after the commit. `position` while it is empty."""

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Encode *batch* while it is in the CPU's cache. No record is refused: what cannot be encoded is kept raw."""

    @abstractmethod
    def commit(self, base: int, at: Position, identity: Identity) -> Position:
        """
        Store the draft at *at*, all of it or nothing, durable when this returns.

        Args:
            base: Where the source was told to fetch from: the draft covers ``[base, end)`` (B17, B23).

            at: The position as it is known; ``at.offset`` must be the draft's own. One that is too old is looked up again.

            identity: Of the stream, from a look-up that began after the draft's last record was read (B20).

        Returns:
            The position after the draft.

        Raises:
            PositionConflictError: Nothing was written by this call, and never will be by it; `found` says where the
                chain ends.
            IdentityError: The stream is not the pinned one. Nothing was written.
            SinkUnavailableError: Nothing was written; call again.
            CommitUnknownError: All or nothing was written; call again, the position decides.
        """

    def discard(self) -> None:
        """Give the memory back; the draft is not used again."""


class Sink(ABC):
    """
    Where drafts are committed, one after the other, each at the position that the one before left.

    Attributes:
        guarantee: What a reader of the sink may rely on after any crash.

        rereads: The guarantee holds only for a source that can be read again from the position that is found here.

        live_age_s: How old a draft of a live feed may grow unless somebody says otherwise, in seconds: a crash loses as much.
    """

    guarantee: Guarantee = "exactly-once"
    rereads: bool = False
    live_age_s: float = 10.0

    @abstractmethod
    def bind(self, extents: Mapping[Partition, Extent]) -> Mapping[str, Identity]:
        """
        Pin each stream on first use, and check it on every other: before any position is asked for (B7, B10).

        Returns:
            For each stream its identity as pinned (B22).

        Raises:
            IdentityError: The stream is another than the pinned one; the message says what differs.
            ConfigError: The place cannot hold the guarantee that was asked for.
            SinkUnavailableError: It did not answer; calling again is safe.
        """

    @abstractmethod
    def positions(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        """
        Look up how far each partition is stored; a hint says where to look first and can never change the answer (B11).

        Returns:
            For each partition its position, or the error that stops this one partition.

        Raises:
            SinkUnavailableError: It did not answer; calling again is safe.
        """

    @abstractmethod
    def draft(self, partition: Partition, position: int, buffer_bytes: int) -> Draft:
        """
        Open a draft to be committed at *position*; it may be opened before the one in front of it is committed (B24).

        Args:
            partition: Whose records it will hold.

            position: Where it will be committed.

            buffer_bytes: About how much it may hold before it encodes or compresses.
        """

    def note(self, partition: Partition, start: int, end: int) -> None:
        """
        Record that the records of ``[start, end)`` are lost and that the loss is accepted (B18).

        Raises:
            ConfigError: This sink keeps no notes: the gap cannot be accepted here.
        """
        raise ConfigError(f"{type(self).__name__} cannot note the loss of [{start}, {end}) of {partition}")

    def check(self) -> Iterable[Finding]:
        """
        Say whether the sink is fit to be written to, for `headrace doctor`: nothing is pinned or made. Errors as for
        `Source.check`.
        """
        return ()

    def close(self) -> None:
        """Free what is held; drafts that were not committed are gone. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

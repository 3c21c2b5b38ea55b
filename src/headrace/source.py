"""What records are read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from headrace.errors import ConfigError
from headrace.finding import Finding
from headrace.metric import Metric

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace.records import Batch, Event, Extent, Hint, Identity, Partition, Start


class Owner(Protocol):
    """The pipeline, as a source sees it. Called only from inside `Source.poll`, on the thread that polls."""

    def assigned(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Start | None]:
        """
        Take these partitions over, all at once, and say where to fetch from; None: do not fetch.

        An empty mapping says that the group gave this reader nothing, for now.
        """

    def release(self, partitions: Iterable[Partition]) -> None:
        """Commit what is held of these, then forget them: another reader takes over when this returns."""

    def lost(self, partitions: Iterable[Partition]) -> None:
        """Forget these: another reader may have them already."""


class Source(ABC):
    """
    A stream's records, in order, from any position it is told.

    A source keeps no progress of its own and never decides where to begin: positions live with the data, in the sink.
    It connects at the first call that needs a connection. `poll`, `move`, `acknowledge` and `close` are called from one
    thread; `extents` and `identities` may be called from any thread meanwhile.

    Attributes:
        rereadable: False for a live feed: what was missed cannot be read again.

        queue_bytes: About how much the client library may hold of its own accord; the pipeline counts it as used.
    """

    rereadable: bool = True
    queue_bytes: int = 0

    @abstractmethod
    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        """
        Wait at most about *timeout_s* for something to say, and say it in the order of the log.

        A partition's batches join up: each starts at the later of the end of the one before and the last
        `Reached.position`; the first one at `Start.offset`. Every event carries the assignment number of the `Start` from
        which it was read. After `BelowLog` nothing more comes of that partition until it is moved.

        Raises:
            SourceUnavailableError: Nothing was lost; polling again may help.
            ConfigError: The source cannot be read as configured; polling again does not help.
        """

    @abstractmethod
    def move(self, starts: Mapping[Partition, Start | None]) -> None:
        """
        Fetch these partitions from there; None pauses. Explicit always: no reset policy ever chooses (B16).

        What was read of an earlier assignment number and not yet returned is dropped. So is what was returned and is not
        acknowledged: a live feed, which cannot read it again, says that it is missing, wherever the new start is.
        """

    @abstractmethod
    def extents(self) -> Mapping[Partition, Extent]:
        """
        Ask the servers, now, what the log holds: for every partition of the stream.

        Raises:
            SourceUnavailableError: They did not answer; a time-out is never taken for "there is no id".
        """

    def identities(self) -> Mapping[str, Identity]:
        """
        Ask the servers, now, what each stream is: what a commit compares (B20), and cheaper than `extents` where it can be.

        A stream that is not there at the moment is left out. May be called from any thread; errors as for `extents`.
        """
        return {partition.stream: extent.identity for partition, extent in self.extents().items()}

    def ends(self) -> Mapping[Partition, int]:
        """
        Return where the log ends, of partitions that are read, as far as is known without asking anybody.

        For gauges only; called from the thread that polls, about once a second.
        """
        return {}

    def metrics(self) -> Iterable[Metric]:
        """Return numbers that only this kind of source knows, without asking anybody. May be called from any thread."""
        return ()

    def unanswered(self) -> str:
        """
        Say in few words, without secrets, why nobody answers now; "" where somebody does, or where `poll` raises it.

        For `/ready`, of a source that goes on connecting by itself. Asks nobody, and may be called from any thread.
        """
        return ""

    def finish(self) -> Sequence[Event]:
        """
        Receive no more, and say what was received and not said yet: as much as may be stored at a time.

        Called before the last commits of a run, and again when what it said is stored and acknowledged, until it says nothing. A
        source that can be read again has nothing to say. Like `poll`, from the same thread, but never for long.
        """
        return ()

    def acknowledge(self, hints: Mapping[Partition, Hint]) -> None:
        """Tell the source how far the sink stored. A hint and a lag gauge; losing it loses nothing (B12, B27)."""

    def reread(self, partition: Partition, start: int, end: int, *, aborted: bool = False) -> Iterator[Batch]:
        """
        Yield what the log has now of ``[start, end)``, ascending, beside everybody who reads it: for `headrace audit`.

        No group is joined, and no reader is disturbed. Where the log begins above *start*, it begins there. May be called from
        several threads at once.

        Args:
            partition: Of it.

            start: The first offset.

            end: Before this one.

            aborted: Records of transactions that were aborted as well.

        Raises:
            ConfigError: This source cannot, before anything is yielded.
            SourceUnavailableError: It did not answer; what was yielded is right.
        """
        raise ConfigError(f"{type(self).__name__} cannot be read again beside its readers")

    def check(self) -> Iterable[Finding]:
        """
        Say whether the source is fit to be read, for `headrace doctor`. Changes nothing, joins no group.

        What it cannot go on from it may raise: any HeadraceError becomes a finding.
        """
        extents = self.extents()
        held = sum(e.end - e.low for e in extents.values())
        yield Finding("readable", "fine", f"{len(extents)} partitions, {held} offsets between their ends")

    def close(self) -> None:
        """Leave the group and free what is held. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

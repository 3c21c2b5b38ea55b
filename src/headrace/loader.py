"""What loads segments into a warehouse: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from headrace.errors import CorruptSegmentError, DataError
from headrace.formats import Format
from headrace.records import Partition
from headrace.segment import Segment

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace.finding import Finding


@attrs.frozen(order=True)
class Line:
    """
    One line of the ledger: a partition of a dataset on its way into one target (S1).

    Attributes:
        dataset_id: The dataset; a topic that was made again repeats offsets, a dataset id never repeats.

        partition: Of the stream.

        target: The table that is loaded.
    """

    dataset_id: str
    partition: Partition
    target: str


@attrs.frozen
class LoadableSegment:
    """
    A segment with its bytes: what a loader is given.

    Attributes:
        segment: Its place and its trailer.

        format: How to read its bytes.

        body: Reads the whole object, verified against its trailer: ``body() -> bytes``. Each call reads it again.
    """

    segment: Segment
    format: Format
    body: Callable[[], bytes] = attrs.field(repr=False, eq=False)

    def lines(self) -> Iterator[bytes]:
        """
        Yield its records as JSON lines (`headrace.envelope`), whatever its format, in pieces that end anywhere.

        Raises:
            CorruptSegmentError: Its bytes are not those that were written; what was yielded before is not to be trusted.
        """
        try:
            yield from self.format.lines(self.body())
        except CorruptSegmentError:
            raise
        except DataError as exc:
            raise CorruptSegmentError(
                f"{self.segment.key} ({self.segment.partition}): {exc}", key=self.segment.key
            ) from exc


@attrs.frozen
class Selection:
    """
    Which quarantined records to try again.

    Attributes:
        partition: None: of all.

        start: The first offset.

        end: Before this offset; None: to the end.

        reason: None: whatever the reason.
    """

    partition: Partition | None = None
    start: int = 0
    end: int | None = None
    reason: str | None = None


@attrs.frozen
class LoadResult:
    """
    What one transaction did. ``records == inserted + superseded + rejected`` (S10).

    Attributes:
        segments: How many were loaded by this call; those that another loader had loaded are not counted.

        records: Read from them. 0 for a redrive.

        inserted: Rows that are in the target now.

        superseded: Records that a newer one of the same business key hides.

        rejected: Records that went to quarantine; negative where a redrive took them out.
    """

    segments: int = 0
    records: int = 0
    inserted: int = 0
    superseded: int = 0
    rejected: int = 0

    def __add__(self, other: LoadResult) -> LoadResult:
        return LoadResult(*(a + b for a, b in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))


@attrs.frozen
class Census:
    """
    What a target really holds of a range of offsets, counted there and not in the ledger (S10).

    Attributes:
        rows: Distinct records in the table, deleted ones too.

        quarantined: Records in quarantine.

        superseded: Records that a newer one hides, by the ledger.
    """

    rows: int
    quarantined: int
    superseded: int


class Loader(ABC):
    """
    Loads one target by one contract.

    Attributes:
        target: The table's name.

        contract: The class that says what a row is (`headrace.contract`).
    """

    target: str
    contract: type

    @abstractmethod
    def positions(self, lines: Sequence[Line]) -> Mapping[Line, int | None]:
        """
        Say how far each line is loaded; None where nothing of it ever was.

        Only the ledger is read: nothing is made, and a contract that the target does not know is no error.

        Raises:
            SinkUnavailableError: The warehouse did not answer, or is locked by another process for longer than we wait.
        """

    @abstractmethod
    def load(self, segments: Sequence[LoadableSegment]) -> LoadResult:
        """
        Load one or more segments, ascending in each partition, in ONE transaction (S2).

        Segments that the ledger already holds are left out, so a repeated call is safe.

        Raises:
            PositionConflictError: The ledger is not at a segment's start. Nothing was written.
            CorruptSegmentError: A segment does not hold what its trailer says. Nothing was written.
            SinkUnavailableError: Nothing was written; call again.
            CommitUnknownError: All or nothing was written; call again, the ledger decides (S5).
        """

    @abstractmethod
    def redrive(self, selection: Selection) -> LoadResult:
        """Type quarantined records again and load those that now keep the contract, in ONE transaction (S6)."""

    def census(self, line: Line, start: int, end: int) -> Census | None:
        """Count what the target holds of ``[start, end)`` of a line; None: this loader cannot tell."""
        return None

    def check(self) -> Iterable[Finding]:
        """Say whether the warehouse is fit to be loaded, for `headrace doctor`: nothing is made. Errors as `Source.check`."""
        return ()

    def close(self) -> None:
        """Free what is held. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

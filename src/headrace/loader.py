"""What loads segments into a warehouse: rows, quarantine and ledger in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from headrace.contract import Contract
from headrace.envelope import decode
from headrace.errors import ConfigError, CorruptSegmentError, DataError
from headrace.formats import Format
from headrace.records import Partition, Record
from headrace.segment import Segment
from headrace.tally import Stored, Tally

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace.finding import Finding


MAX_REJECTED = 0.5
"""
The share of bad records that is taken, unless told otherwise.

A contract that refuses more than it takes is not this stream's contract, or no longer: what it made of the rest is not to be
trusted either, and a quarantine of millions is a second lake to clean up.
"""

LEAST_REJECTED = 100
"""
Fewer bad records in one call stop nothing, whatever their share.

A small segment is easily bad as a whole, and so few records are looked at and redriven sooner than a load is set going again.
"""


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
        Yield its records as a lake's JSON lines, whatever its format, in pieces that end anywhere.

        `headrace.rowwise.typed` reads them.

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
    Which quarantined records are meant: those of which all that is said here is true.

    Attributes:
        partition: None: of all.

        start: The first offset.

        end: Before this offset; None: to the end.

        reason: None: whatever the reason.

        column: Which column's; "" is the record as a whole. None: whatever the column.

        stream: None: of all.

        dataset_id: None: of all.
    """

    partition: Partition | None = None
    start: int = 0
    end: int | None = None
    reason: str | None = None
    column: str | None = None
    stream: str | None = None
    dataset_id: str | None = None


@attrs.frozen
class QuarantinedRecord:
    """
    A record that broke its contract.

    Attributes:
        dataset_id: Where it comes from, with its partition and offset.

        partition: In that dataset.

        offset: In that partition.

        timestamp_ms: The record's own, -1 where it has none.

        contract: Which contract refused it last; a redrive counts.

        version: Of that contract.

        column: Which column's value; "" where it is the record as a whole.

        reason: Why, in words, without the value.

        line: The line of the lake with the whole record, to the byte; `record` takes it apart.
    """

    dataset_id: str
    partition: Partition
    offset: int
    timestamp_ms: int
    contract: str
    version: int
    column: str
    reason: str
    line: bytes = attrs.field(repr=False)

    def record(self) -> Record:
        """Return the record that the line holds; DataError where it is no line of a lake."""
        return decode(self.line)


@attrs.frozen(order=True)
class QuarantineCount:
    """
    How many records of a partition one contract refuses for one reason.

    Attributes:
        dataset_id: The dataset.

        partition: Of it.

        column: As in `QuarantinedRecord`, and so are the next three.

        reason: Why.

        contract: By which.

        version: Of that contract.

        records: How many.

        first: The lowest offset.

        last: The highest.
    """

    dataset_id: str
    partition: Partition
    column: str
    reason: str
    contract: str
    version: int
    records: int
    first: int
    last: int


@attrs.frozen
class LoadResult:
    """
    What one transaction did. ``records == inserted + superseded + rejected`` (S10).

    Attributes:
        segments: How many were loaded by this call; those that another loader had loaded are not counted.

        records: Read from them. 0 for a redrive.

        inserted: Rows that the target has more than before.

        superseded: Records that were accepted and are not one more row: a newer one of their business key hides them, or they
            hide an older one. 0 where the contract has no key.

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

        superseded: Records that newer ones of their business keys hide: what the ledger's segments that lie inside the range
            hold more than the other two. 0 where the contract has no key.
    """

    rows: int
    quarantined: int
    superseded: int


@attrs.frozen
class Change:
    """
    What has to be altered so that a target fits a contract.

    Attributes:
        what: In words.

        statement: The DDL; "" where it cannot be done: the history has to be loaded into a new target.
    """

    what: str
    statement: str = ""


def refuse_impossible(target: str, changes: Iterable[Change]) -> None:
    """ConfigError where one of *changes* cannot be made."""
    wrong = [change.what for change in changes if not change.statement]
    if wrong:
        raise ConfigError(
            f"{target} cannot be altered to fit the contract: {'; '.join(wrong)}. Nothing was changed: give the contract what is"
            " missing (| None, a default, a wider type), or load the history into a new table by it (headrace reload)"
        )


def counted(records: Iterable[QuarantinedRecord]) -> list[QuarantineCount]:
    """Count records by partition, column, reason and contract."""
    found: dict[tuple[str, Partition, str, str, str, int], list[int]] = {}
    for r in records:
        kind = (r.dataset_id, r.partition, r.column, r.reason, r.contract, r.version)
        known = found.setdefault(kind, [0, r.offset, r.offset])
        known[:] = known[0] + 1, min(known[1], r.offset), max(known[2], r.offset)
    return sorted(QuarantineCount(*kind, *known) for kind, known in found.items())


class Loader(ABC):
    """
    Loads one target by one contract.

    `positions`, `load` and `redrive` have to be there. Every other method has a default that is right for a loader which cannot:
    it returns what says so, or raises ConfigError, and what is built on it is refused with that message. The page "Test your
    plugin" says, method by method, what that is.

    Attributes:
        target: The table's name.

        contract: The class that says what a row is; `headrace.contract.Contract.of` describes it.

        max_rejected: The share of a call's records that may go to quarantine, 0 to 1; above it `load` refuses
            (`headrace.rowwise.check_share`). `headrace.Load` sets it before its first call.

        evolve: Fields of the stream that the contract does not name become columns, when a call of `load` meets them. A column
            that was made so is the target's from then on, whatever this says. `headrace.Load` sets it, and calls `alter` first:
            a loader without `alter` need not look at it.
    """

    target: str
    contract: type
    max_rejected: float = MAX_REJECTED
    evolve: bool = False

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
            TooManyRejectedError: More than `max_rejected` of the records break the contract. Nothing was written.
            SinkUnavailableError: Nothing was written; call again.
            CommitUnknownError: All or nothing was written; call again, the ledger decides (S5).
        """

    def begin(self, line: Line, position: int) -> None:
        """
        Let a line that was never loaded begin at *position*: what is before it will not be in this target (B29).

        A ledger row of the kind ``begin_at``, without records, in a transaction as a load's (S1). The same call again changes
        nothing.

        Raises:
            PositionConflictError: The line has begun elsewhere.
            ConfigError: This loader cannot.
            SinkUnavailableError: Nothing was written; call again. `CommitUnknownError` likewise, the ledger decides.
        """
        raise ConfigError(f"{self.target}: this loader cannot begin behind the head of a chain")

    @abstractmethod
    def redrive(self, selection: Selection) -> LoadResult:
        """
        Type quarantined records again and load those that now keep the contract, in ONE transaction (S6).

        Those that do not stay, and say from then on by which contract and why they are refused now; `LoadResult` does not
        count them.

        Raises:
            ConfigError: The target was loaded by a newer contract (S7). Nothing was written.
            SinkUnavailableError: Nothing was written; call again.
            CommitUnknownError: All or nothing was written; call again, what was taken out is not taken twice (S5).
        """

    def described(self) -> Contract:
        """What a row of the target is: the contract, and the columns that the stream has brought."""
        return Contract.of(self.contract)

    def changes(self, segments: Sequence[LoadableSegment] = ()) -> Sequence[Change]:
        """
        Say what `alter` would do now; nothing where the target is not there yet. Nothing is made or changed.

        Args:
            segments: With `evolve`, also what columns a load of these would add.

        Raises:
            ConfigError: This loader does not alter tables, or the target was loaded by a newer contract (S7).
        """
        raise ConfigError(
            f"{self.target}: this loader does not alter tables; do it by other means, or load into a new one"
        )

    def alter(self) -> Sequence[Change]:
        """
        Make the target fit the contract, before any transaction (S4), and return what was done.

        May be repeated, and done by several at once: what is done already is not done again.

        Raises:
            ConfigError: As for `changes`; or a change cannot be made, and then none was.
            SinkUnavailableError: Call again.
        """
        raise ConfigError(
            f"{self.target}: this loader does not alter tables; do it by other means, or load into a new one"
        )

    def quarantined(self, selection: Selection) -> Iterator[QuarantinedRecord]:
        """
        Yield what is in quarantine, ascending by dataset, stream, partition and offset, in bounded memory.

        Nothing is made or changed, and which contract the loader has does not matter. No snapshot: what comes or goes
        meanwhile may be there or not, and other calls may be made between two records.

        Raises:
            ConfigError: This loader cannot say.
            SinkUnavailableError: As for `positions`.
        """
        raise ConfigError(f"{self.target}: this loader does not show its quarantine; look at its table by other means")

    def quarantine_counts(self, selection: Selection) -> Sequence[QuarantineCount]:
        """
        Count what is in quarantine, ascending, with the errors of `quarantined`.

        This one reads every record; a loader may know better.
        """
        return counted(self.quarantined(selection))

    def recorded(self, line: Line, start: int, end: int) -> int | None:
        """Count the records of the segments in ``[start, end)`` of a line by the ledger alone; None: this loader cannot tell."""
        return None

    def current(self) -> str:
        """Name the target that readers of this one see: itself, unless another one has taken over. Nothing is made."""
        return self.target

    def take_over(self, name: str) -> None:
        """
        Let the readers of the target *name* see this one from now on, all at once; they read the view ``<name>_current``.

        In the transaction that does it the target that they saw until now is closed: nothing can be loaded into it any more
        (`current` is what to load). It is not deleted. A repeated call changes nothing.

        Raises:
            PositionConflictError: That target is ahead of this one in some line of the ledger. Nothing was changed.
            ConfigError: This loader cannot.
            SinkUnavailableError: Nothing was changed; call again. `CommitUnknownError` likewise.
        """
        raise ConfigError(f"{self.target}: this loader cannot take over from another target; rename the tables by hand")

    def census(self, line: Line, start: int, end: int) -> Census | None:
        """Count what the target holds of ``[start, end)`` of a line; None: this loader cannot tell."""
        return None

    def tally(self, dataset_id: str, stream: str) -> Tally | None:
        """
        Count what the tables hold of a dataset beside what the ledger says, in one transaction; for `headrace audit`.

        Nothing is made or changed.

        Returns:
            None: there is no such target.

        Raises:
            ConfigError: This loader cannot tell.
            SinkUnavailableError: As for `positions`.
        """
        raise ConfigError(f"{self.target}: this loader does not count its tables; an audit cannot look into them")

    def stored(self, line: Line, start: int, end: int, *, cells: bool = True) -> Stored:
        """
        Read what the tables hold of ``[start, end)`` of a line, at one moment; for `headrace audit --deep`.

        Args:
            line: The partition, the dataset and the target.

            start: From this offset on.

            end: Before this one.

            cells: Also read every column that `described` names. False: the contract is not known, and nobody looks at cells.

        Raises:
            ConfigError: As for `tally`, and so is SinkUnavailableError.
        """
        raise ConfigError(f"{self.target}: this loader does not read its rows; an audit cannot compare them")

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

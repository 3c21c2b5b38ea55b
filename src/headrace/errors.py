"""
Every error that headrace raises on purpose.

::

    HeadraceError
    ├─ ConfigError (ValueError)       a wrong setting, or a place that cannot be written to; never retried
    │  └─ IdentityError               the log or the lake is not the one that was pinned
    ├─ PluginError                    a plugin broke its contract or cannot be loaded
    │  ├─ PluginNotFoundError (LookupError)
    │  └─ MissingExtraError (ImportError)
    ├─ DataError                      this data is not what its place says; never skipped in silence
    │  ├─ GapError                    records are gone that were never stored, or whose segments are
    │  │  └─ ExpiredError             `headrace.Expire` deleted these segments, and has noted it
    │  ├─ CorruptSegmentError         an object does not hold what its name and trailer say
    │  └─ TooManyRejectedError        most of what was to be loaded breaks the contract
    ├─ PositionConflictError          somebody else moved the position; look it up again
    └─ TransientError                 the same call may succeed later: the only ones that are retried
       ├─ SourceUnavailableError
       ├─ SinkUnavailableError        nothing was written
       └─ CommitUnknownError          all or nothing was written; the same call again settles it

A client library's exception never leaves its plugin: it is the ``__cause__`` of one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.records import Partition, Position


class HeadraceError(Exception):
    """The root: catch this to catch all that headrace raises on purpose."""


class ConfigError(HeadraceError, ValueError):
    """A setting is wrong, or a place cannot be used as asked. Nothing was written; trying again does not help."""


class IdentityError(ConfigError):
    """The log is not the one that the dataset is pinned to, or was cut back. Nothing was written."""


class PluginError(HeadraceError):
    """A plugin cannot be loaded, or broke the contract of its interface."""


class PluginNotFoundError(PluginError, LookupError):
    """No installed plugin makes what was asked for; the message lists those that exist."""


class MissingExtraError(PluginError, ImportError):
    """The plugin is there but its client library is not; the message says which extra installs it."""


class DataError(HeadraceError):
    """Data is not what its place says. Nothing was skipped, nothing was written."""


class GapError(DataError):
    """
    Records of ``[start, end)`` are gone: they were never stored, or the segments that held them are not there.

    The partition has stopped at *start*. Where they were never stored, ``on_gap="note"`` records the loss in the lake and
    goes on.

    Attributes:
        partition: Where the records were.

        start: The first missing offset.

        end: The first offset that exists again.
    """

    def __init__(self, message: str, *, partition: Partition, start: int, end: int) -> None:
        super().__init__(message)
        self.partition = partition
        self.start = start
        self.end = end


class ExpiredError(GapError):
    """
    Records of ``[start, end)`` were stored, and their segments were deleted by `headrace.Expire`, as its notes say.

    No loss, and nothing to restore unless the records are wanted again: what still reads there comes too late.
    """


class CorruptSegmentError(DataError):
    """
    An object does not hold what its name and its trailer say.

    Attributes:
        key: The object's key in its store.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class TooManyRejectedError(DataError):
    """
    More of what was to be loaded breaks the contract than is allowed. Nothing is lost.

    Attributes:
        rejected: How many records break it.

        records: Of how many.

        partitions: Those of which, each alone, more breaks it than is allowed; the others may be loaded without them. Empty
            where it is not known.
    """

    def __init__(
        self, message: str, *, rejected: int, records: int, partitions: frozenset[Partition] = frozenset()
    ) -> None:
        super().__init__(message)
        self.rejected = rejected
        self.records = records
        self.partitions = partitions


class PositionConflictError(HeadraceError):
    """
    The position is not where the caller stands; nothing was written by this call.

    Attributes:
        expected: The offset at which the caller wanted to commit.

        found: The position that was looked up afterwards; None where it must still be looked up.
    """

    def __init__(self, message: str, *, expected: int, found: Position | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class TransientError(HeadraceError):
    """The same call may succeed later. The only errors that headrace retries."""


class SourceUnavailableError(TransientError):
    """The source did not answer. Nothing was read past the position."""


class SinkUnavailableError(TransientError):
    """The sink did not answer, or refused for now. Nothing was written."""


class CommitUnknownError(TransientError):
    """The write was sent and its answer is not known: all or nothing was written; the same call again settles it."""

"""
Carries a stream to the lake and on to the warehouse, every record exactly once.

What programs use stands here; nothing is imported until it is asked for. Contracts are written with `headrace.contract`,
logging is set up by `headrace.logs`, and whoever writes a plugin tests it with `headrace.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.auditing.making import audit
    from headrace.auditing.result import AuditFinding, AuditResult, FeedGap, PartitionAudit, Span
    from headrace.auditing.run import Audit
    from headrace.chain import Chain
    from headrace.errors import (
        CommitUnknownError,
        ConfigError,
        CorruptSegmentError,
        DataError,
        ExpiredError,
        GapError,
        HeadraceError,
        IdentityError,
        MissingExtraError,
        PluginError,
        PluginNotFoundError,
        PositionConflictError,
        SinkUnavailableError,
        SourceUnavailableError,
        TooManyRejectedError,
        TransientError,
    )
    from headrace.expire import Expire, Expiry
    from headrace.finding import Finding
    from headrace.flush import FlushPolicy, Progress
    from headrace.hookspecs import Component, Ended, hookimpl
    from headrace.load import Load, LoadProgress
    from headrace.loader import (
        Census,
        Change,
        Line,
        LoadableSegment,
        Loader,
        LoadResult,
        QuarantineCount,
        QuarantinedRecord,
        Selection,
    )
    from headrace.pipeline import Pipeline
    from headrace.records import (
        Batch,
        BelowLog,
        Event,
        Extent,
        Failed,
        Headers,
        Hint,
        Identity,
        Partition,
        Position,
        Reached,
        Record,
        Start,
        TimestampType,
    )
    from headrace.redrive import Outlook, Redrive, RedriveProgress
    from headrace.registry import Plugin, Registry
    from headrace.reload import Reload
    from headrace.segment import Segment, Trailer
    from headrace.sink import Draft, Guarantee, Sink
    from headrace.source import Owner, Source
    from headrace.store import Page, Store, StoredObject
    from headrace.tally import LedgerRow, Stored, StoredRow, Stray, Tally
    from headrace.uri import URI

    __version__: str

__all__ = [
    "URI",
    "Audit",
    "AuditFinding",
    "AuditResult",
    "Batch",
    "BelowLog",
    "Census",
    "Chain",
    "Change",
    "CommitUnknownError",
    "Component",
    "ConfigError",
    "CorruptSegmentError",
    "DataError",
    "Draft",
    "Ended",
    "Event",
    "Expire",
    "ExpiredError",
    "Expiry",
    "Extent",
    "Failed",
    "FeedGap",
    "Finding",
    "FlushPolicy",
    "GapError",
    "Guarantee",
    "Headers",
    "HeadraceError",
    "Hint",
    "Identity",
    "IdentityError",
    "LedgerRow",
    "Line",
    "Load",
    "LoadProgress",
    "LoadResult",
    "LoadableSegment",
    "Loader",
    "MissingExtraError",
    "Outlook",
    "Owner",
    "Page",
    "Partition",
    "PartitionAudit",
    "Pipeline",
    "Plugin",
    "PluginError",
    "PluginNotFoundError",
    "Position",
    "PositionConflictError",
    "Progress",
    "QuarantineCount",
    "QuarantinedRecord",
    "Reached",
    "Record",
    "Redrive",
    "RedriveProgress",
    "Registry",
    "Reload",
    "Segment",
    "Selection",
    "Sink",
    "SinkUnavailableError",
    "Source",
    "SourceUnavailableError",
    "Span",
    "Start",
    "Store",
    "Stored",
    "StoredObject",
    "StoredRow",
    "Stray",
    "Tally",
    "TimestampType",
    "TooManyRejectedError",
    "Trailer",
    "TransientError",
    "__version__",
    "audit",
    "hookimpl",
]

_HOMES = {
    "headrace.auditing.making": ("audit",),
    "headrace.auditing.result": (
        "AuditFinding",
        "AuditResult",
        "FeedGap",
        "PartitionAudit",
        "Span",
    ),
    "headrace.auditing.run": ("Audit",),
    "headrace.chain": ("Chain",),
    "headrace.errors": (
        "CommitUnknownError",
        "ConfigError",
        "CorruptSegmentError",
        "DataError",
        "ExpiredError",
        "GapError",
        "HeadraceError",
        "IdentityError",
        "MissingExtraError",
        "PluginError",
        "PluginNotFoundError",
        "PositionConflictError",
        "SinkUnavailableError",
        "SourceUnavailableError",
        "TooManyRejectedError",
        "TransientError",
    ),
    "headrace.expire": (
        "Expire",
        "Expiry",
    ),
    "headrace.finding": ("Finding",),
    "headrace.flush": (
        "FlushPolicy",
        "Progress",
    ),
    "headrace.hookspecs": (
        "Component",
        "Ended",
        "hookimpl",
    ),
    "headrace.load": (
        "Load",
        "LoadProgress",
    ),
    "headrace.loader": (
        "Census",
        "Change",
        "Line",
        "LoadableSegment",
        "Loader",
        "LoadResult",
        "QuarantineCount",
        "QuarantinedRecord",
        "Selection",
    ),
    "headrace.pipeline": ("Pipeline",),
    "headrace.records": (
        "Batch",
        "BelowLog",
        "Event",
        "Extent",
        "Failed",
        "Headers",
        "Hint",
        "Identity",
        "Partition",
        "Position",
        "Reached",
        "Record",
        "Start",
        "TimestampType",
    ),
    "headrace.redrive": (
        "Outlook",
        "Redrive",
        "RedriveProgress",
    ),
    "headrace.registry": (
        "Plugin",
        "Registry",
    ),
    "headrace.reload": ("Reload",),
    "headrace.segment": (
        "Segment",
        "Trailer",
    ),
    "headrace.sink": (
        "Draft",
        "Guarantee",
        "Sink",
    ),
    "headrace.source": (
        "Owner",
        "Source",
    ),
    "headrace.store": (
        "Page",
        "Store",
        "StoredObject",
    ),
    "headrace.tally": (
        "LedgerRow",
        "Stored",
        "StoredRow",
        "Stray",
        "Tally",
    ),
    "headrace.uri": ("URI",),
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562), so that `import headrace` costs next to nothing."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - reads the installed metadata, which few programs need

        found: object = version("headrace")
    else:
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

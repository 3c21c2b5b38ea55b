"""
The conformance kit: what whoever writes a source, a sink, a loader or a store tests it with.

Derive from a suite, say in its fixtures how yours is made, and run pytest; the page "Test your plugin" says which suite is for
what. All names here are public and keep to semantic versioning; what lies in the modules beside them may change. Nothing is
imported until it is asked for, and then pytest and Hypothesis have to be there: ``pip install 'headrace[testing]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.testing.contracts.audited_loader import AuditedLoaderContract
    from headrace.testing.contracts.audited_source import AuditedSourceContract
    from headrace.testing.contracts.crash import (
        LoaderCrashContract,
        SinkCrashContract,
        SourceCrashContract,
        StoreCrashContract,
    )
    from headrace.testing.contracts.keyed_loader import KeyedLoaderContract
    from headrace.testing.contracts.loader import (
        Cells,
        LedgerRow,
        LoaderContract,
        Place,
        Warehouse,
        segment,
    )
    from headrace.testing.contracts.reader import Reader
    from headrace.testing.contracts.sink import (
        ExactlyOnceSinkContract,
        SinkContract,
        SinkPlace,
        Writer,
    )
    from headrace.testing.contracts.source import (
        GroupSourceContract,
        GrowingSourceContract,
        Log,
        RetentionSourceContract,
        SourceContract,
    )
    from headrace.testing.contracts.store import StoreContract
    from headrace.testing.contracts.values import (
        HEADERS,
        KEYS,
        LINES,
        VALUES,
        hostile_records,
    )
    from headrace.testing.fake_s3 import FakeS3, Fault
    from headrace.testing.faults import (
        CrashPoint,
        Fate,
        Gate,
        Killed,
        Way,
        Wire,
        asking,
        nothing_fails,
    )
    from headrace.testing.log import MemoryLog
    from headrace.testing.machine import LakeMachine
    from headrace.testing.oracle import (
        Oracle,
        objects_in,
        objects_of,
        read_lake,
    )
    from headrace.testing.processes import Job, kill_at_every_io, zombie_at_every_io
    from headrace.testing.silver import SilverMachine
    from headrace.testing.source import MemorySource
    from headrace.testing.store import (
        CheckThenWriteStore,
        GatedStore,
        LaggingStore,
        MemoryStore,
        OverwritingStore,
        answers_lost,
    )
    from headrace.testing.ticks import real_bars, real_ticks
    from headrace.testing.warehouse import MemoryLoader, MemoryWarehouse
    from headrace.testing.world import ViolationError, World

__all__ = [
    "HEADERS",
    "KEYS",
    "LINES",
    "VALUES",
    "AuditedLoaderContract",
    "AuditedSourceContract",
    "Cells",
    "CheckThenWriteStore",
    "CrashPoint",
    "ExactlyOnceSinkContract",
    "FakeS3",
    "Fate",
    "Fault",
    "Gate",
    "GatedStore",
    "GroupSourceContract",
    "GrowingSourceContract",
    "Job",
    "KeyedLoaderContract",
    "Killed",
    "LaggingStore",
    "LakeMachine",
    "LedgerRow",
    "LoaderContract",
    "LoaderCrashContract",
    "Log",
    "MemoryLoader",
    "MemoryLog",
    "MemorySource",
    "MemoryStore",
    "MemoryWarehouse",
    "Oracle",
    "OverwritingStore",
    "Place",
    "Reader",
    "RetentionSourceContract",
    "SilverMachine",
    "SinkContract",
    "SinkCrashContract",
    "SinkPlace",
    "SourceContract",
    "SourceCrashContract",
    "StoreContract",
    "StoreCrashContract",
    "ViolationError",
    "Warehouse",
    "Way",
    "Wire",
    "World",
    "Writer",
    "answers_lost",
    "asking",
    "hostile_records",
    "kill_at_every_io",
    "nothing_fails",
    "objects_in",
    "objects_of",
    "read_lake",
    "real_bars",
    "real_ticks",
    "segment",
    "zombie_at_every_io",
]

_HOMES = {
    "headrace.testing.contracts.audited_loader": ("AuditedLoaderContract",),
    "headrace.testing.contracts.audited_source": ("AuditedSourceContract",),
    "headrace.testing.contracts.crash": (
        "LoaderCrashContract",
        "SinkCrashContract",
        "SourceCrashContract",
        "StoreCrashContract",
    ),
    "headrace.testing.contracts.keyed_loader": ("KeyedLoaderContract",),
    "headrace.testing.contracts.loader": ("Cells", "LedgerRow", "LoaderContract", "Place", "Warehouse", "segment"),
    "headrace.testing.contracts.reader": ("Reader",),
    "headrace.testing.contracts.sink": ("ExactlyOnceSinkContract", "SinkContract", "SinkPlace", "Writer"),
    "headrace.testing.contracts.source": (
        "GroupSourceContract",
        "GrowingSourceContract",
        "Log",
        "RetentionSourceContract",
        "SourceContract",
    ),
    "headrace.testing.contracts.store": ("StoreContract",),
    "headrace.testing.contracts.values": ("HEADERS", "KEYS", "LINES", "VALUES", "hostile_records"),
    "headrace.testing.fake_s3": ("FakeS3", "Fault"),
    "headrace.testing.faults": ("CrashPoint", "Fate", "Gate", "Killed", "Way", "Wire", "asking", "nothing_fails"),
    "headrace.testing.log": ("MemoryLog",),
    "headrace.testing.machine": ("LakeMachine",),
    "headrace.testing.oracle": ("Oracle", "objects_in", "objects_of", "read_lake"),
    "headrace.testing.processes": ("Job", "kill_at_every_io", "zombie_at_every_io"),
    "headrace.testing.silver": ("SilverMachine",),
    "headrace.testing.source": ("MemorySource",),
    "headrace.testing.store": (
        "CheckThenWriteStore",
        "GatedStore",
        "LaggingStore",
        "MemoryStore",
        "OverwritingStore",
        "answers_lost",
    ),
    "headrace.testing.ticks": ("real_bars", "real_ticks"),
    "headrace.testing.warehouse": ("MemoryLoader", "MemoryWarehouse"),
    "headrace.testing.world": ("ViolationError", "World"),
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""An audit of what a loader has made of a chain that the tests know: nothing of it may be found wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.auditing.result import AuditResult
from headrace.auditing.run import Audit
from headrace.dataset import Dataset
from headrace.loader import LoadableSegment, Loader
from headrace.testing.store import MemoryStore


def audited(
    dataset_id: str, stream: str, segments: Iterable[LoadableSegment], loader: Loader, earlier: Sequence[type] = ()
) -> AuditResult:
    """
    Put segments into a lake as they are, and audit that lake and the loader's table, each record and each cell.

    Args:
        dataset_id: Of the segments, and so is the next one.

        stream: Whole chains of it.

        segments: JSON lines in gzip.

        loader: It has the newest contract.

        earlier: The contracts that have loaded before.
    """
    store, pin = MemoryStore(), Dataset(dataset_id, stream, 1, "jsonl", "gzip", "read_committed", "memory", None, 1)
    store.objects[f"{stream}/_headrace/dataset.json"] = pin.to_json()
    for each in segments:
        place = f"partition={each.segment.partition.number}/{each.segment.start:020d}.{each.format.extension}"
        store.objects[f"{stream}/{place}"] = each.body()
    return Audit(
        store=store, stream=stream, loader=loader, earlier=earlier, deep=True, workers=1, retry_for_s=0.0
    ).run()

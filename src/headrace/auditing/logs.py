"""The lake beside the log that it was made from: identity, beginning and end of each partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace.auditing.chains import Judged
from headrace.auditing.objects import Pin
from headrace.auditing.result import AuditFinding
from headrace.records import Extent, Identity, Partition

EPOCH = "begin a new epoch for the new topic (epoch=NAME); what is in the lake stays as it is"


def identity_findings(pin: Pin, extents: Mapping[Partition, Extent]) -> Iterator[AuditFinding]:
    """Whether the log is the one that the dataset is pinned to (B7, B20)."""
    found: Identity | None = next((extent.identity for extent in extents.values()), None)
    if found is None:
        yield AuditFinding(
            "unknown", "source", None, 0, 0, "the source names no partition of this stream", "check its name"
        )
        return
    for what, now in (("cluster", found.cluster), ("topic", found.topic)):
        was = pin.fields.get(what)
        if was is not None and now is not None and was != now:
            evidence = (
                f"the pin says {what} {was}, the source is {what} {now}: a topic that was made again, or another one"
            )
            yield AuditFinding("foreign", "source", None, 0, 0, evidence, EPOCH)
    if pin.fields.get("isolation") != found.isolation:
        evidence = f"the pin says {pin.fields.get('isolation')}, the source reads {found.isolation}"
        advice = "give the source the isolation of the pin, or restore the pin from a copy"
        yield AuditFinding("foreign", "source", None, 0, 0, evidence, advice)
    if pin.partitions > found.partitions:
        evidence = f"the pin counts {pin.partitions} partitions, the source {found.partitions}: a topic never loses one"
        yield AuditFinding("foreign", "source", None, 0, 0, evidence, EPOCH)
    if pin.fields.get("topic") is None and found.topic is not None:
        evidence = "the pin has no topic id: whether the topic was deleted and made again could not be told"
        advice = (
            "where ids were switched off, switch them off here too (topic_id=off); else restore the pin from a copy"
        )
        yield AuditFinding("unknown", "source", None, 0, 0, evidence, advice)


def identity_remarks(extents: Mapping[Partition, Extent]) -> Iterator[str]:
    """What of the log's identity nobody can tell."""
    if extents and all(extent.identity.topic is None for extent in extents.values()):
        yield "whether the topic was deleted and made again: the source has no id of it"


def log_findings(judged: Judged, extent: Extent | None, partitions: int) -> Iterator[AuditFinding]:
    """What is wrong between a chain and its log (B14, B18)."""
    number, end = judged.number, judged.end
    if extent is None and not 0 <= number < partitions:
        if not judged.links:
            return  # what else is known of it is told elsewhere
        evidence = f"the source has {partitions} partitions, and the lake holds records of partition {number}"
        yield AuditFinding("foreign", "source", number, judged.start, end, evidence, EPOCH)
    elif extent is None:
        yield AuditFinding(
            "unknown",
            "source",
            number,
            end,
            end,
            "the source says nothing of it: it has no leader now",
            "ask again later",
        )
    elif end > extent.high and judged.end_known:
        evidence = f"the chain ends at {end}, the log at {extent.high}: it was cut back, or is another one"
        yield AuditFinding(
            "ahead", "lake", number, extent.high, end, evidence, f"find out what happened to the log; {EPOCH}"
        )
    elif end > extent.end and judged.end_known:
        evidence = f"the chain ends at {end}, readers see only up to {extent.end}: a transaction is still open there"
        yield AuditFinding("ahead", "lake", number, extent.end, end, evidence, "find out who wrote the newest segments")
    elif judged.links and extent.low > end:
        evidence = (
            f"the chain ends at {end}, the log begins at {extent.low}: records may be lost, or only holes were there"
        )
        advice = "start the stream: it knows by what it acknowledged, and stops with the range where records are lost"
        yield AuditFinding("unknown", "source", number, end, extent.low, evidence, advice)

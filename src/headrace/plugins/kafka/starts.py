"""Where an empty lake begins: a policy, turned into offsets that the client is told (B16, B22)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from headrace.errors import ConfigError, SourceUnavailableError
from headrace.plugins.kafka.cluster import EARLIEST, LATEST, Cluster, at_time
from headrace.records import Partition, Start


def start_time_ms(policy: str) -> int | None:
    """Milliseconds of a policy that is a time; None for the two that are names. ConfigError for anything else."""
    if policy in ("earliest", "latest"):
        return None
    try:
        when = datetime.fromisoformat(policy)
    except ValueError as exc:
        raise ConfigError(
            f"found start={policy}, expected earliest, latest or a time such as 2026-01-31T09:30:00Z"
        ) from exc
    if when.tzinfo is None:
        raise ConfigError(f"found start={policy}, expected a time with its zone, such as {policy}Z")
    return int(when.timestamp() * 1000)


def resolved(starts: Mapping[Partition, Start], policy: str, cluster: Cluster) -> dict[Partition, int]:
    """
    Turn starts into offsets. The policy holds where nothing is stored, and where it was not resolved before.

    Raises:
        SourceUnavailableError: The leader of a partition is away; nothing was decided.
    """
    found = {p: s.offset for p, s in starts.items() if s.offset is not None}
    if policy != "earliest":
        found |= {p: s.begun for p, s in starts.items() if s.offset is None and s.begun is not None}
    open_ = [p for p in starts if p not in found]
    if open_:
        time_ms = start_time_ms(policy)
        named = LATEST if policy == "latest" else EARLIEST
        spec = named if time_ms is None else at_time(time_ms)
        offsets = cluster.offsets(open_, spec)
        if offsets.keys() < set(open_):
            away = ", ".join(str(p) for p in open_ if p not in offsets)
            raise SourceUnavailableError(f"where to begin with {away} is not known: their leader is away")
        ends = {p: cluster.offset(p, LATEST) for p in open_ if offsets[p] < 0}  # none so late
        found |= {p: ends.get(p, offsets[p]) for p in open_}
    return found

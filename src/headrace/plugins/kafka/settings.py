"""What a consumer is told: what exactly-once rests on, what is good for speed and memory, and what the user says."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.plugins.kafka.client import merged

_CLASSIC_ONLY = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.protocol.type")
_LARGEST = 1 << 20
"""A broker's default for the largest batch: an answer may hold one. A larger one comes alone, whatever is asked for."""

_SMALLEST = 64 << 10
"""Of one partition less than that is not asked for."""


def classic_only(given: Mapping[str, str]) -> bool:
    """Whether a setting was given that only the classic group protocol has."""
    return any(name in given for name in _CLASSIC_ONLY)


def consumer_settings(
    *,
    bootstrap: str,
    group: str,
    instance: str,
    protocol: str,
    isolation: str,
    queue_bytes: int,
    given: Mapping[str, str],
) -> dict[str, object]:
    """Return librdkafka's settings. ConfigError where one is given that the protocol fixes otherwise."""
    fixed: dict[str, object] = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,  # only what is stored is acknowledged (B27)
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # never begins anywhere but where it was told to (B16)
        "enable.partition.eof": True,
        "isolation.level": isolation,
    }
    if instance:
        fixed["group.instance.id"] = instance
    if protocol == "classic":
        fixed["partition.assignment.strategy"] = "cooperative-sticky"
    defaults = {
        "client.id": "headrace",
        # a full queue stops a partition for this long; the default of 1,000 ms makes everything 4 times slower
        "fetch.queue.backoff.ms": 10,
        # half of the queue may wait, the rest is for one answer a broker. An answer comes compressed, and each of its
        # records takes hundreds of bytes more in memory: 1 MiB of small ones is 100 MiB, so it is never larger than it must be
        "queued.max.messages.kbytes": max(1, queue_bytes >> 11),
        "fetch.max.bytes": _LARGEST,
        "max.partition.fetch.bytes": min(_LARGEST, max(_SMALLEST, queue_bytes // 2)),
        "reconnect.backoff.max.ms": 5000,
    }
    return merged(fixed, defaults, given)

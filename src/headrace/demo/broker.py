"""
librdkafka's own broker, inside this process: for the demo and for fast tests; no server, no JVM.

``python -m headrace.demo.broker`` prints its address and keeps it until it is ended.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

_log = logging.getLogger("headrace.kafka.embedded")


@contextmanager
def embedded_broker() -> Iterator[str]:
    """
    Yield the addresses of a Kafka broker that lives as long as the block, and serves other processes too.

    Its limits: a topic is made when it is first asked for, with four partitions; each keeps about 5 MB, then drops from its
    head; it has no topic ids (``topic_id=off``) and no transactions that could be relied on.
    """
    host = Producer({"bootstrap.servers": "embedded", "test.mock.num.brokers": 1, "log_level": 0}, logger=_log)
    brokers = host.list_topics(timeout=10).brokers.values()
    try:
        yield ",".join(f"{b.host}:{b.port}" for b in brokers)
    finally:
        host.flush(0)
        del host


if __name__ == "__main__":
    with embedded_broker() as addresses:
        print(addresses, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})

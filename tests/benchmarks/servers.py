"""A real broker and a real S3 server while something is measured, a topic filled, and the server's own count of requests."""

from __future__ import annotations

import re
import secrets
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from confluent_kafka import Producer

from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.s3 import S3Endpoint
from headrace.testing.servers.topics import Topics

PARTITIONS = 16
VALUE_BYTES = 84

_BATCH_RECORDS = 10_000
_COUNTED = re.compile(r'^minio_api_requests_total\{name="(\w+)".*\} (\d+)', re.MULTILINE)
_COUNT_AGE_S = 1.2  # what MinIO says of itself is up to a second old
_VERBS = {
    "PutObject": "PUT",
    "GetObject": "GET",
    "HeadObject": "GET",
    "ListObjectsV2": "LIST",
    "DeleteObject": "DELETE",
}


@attrs.define(kw_only=True, eq=False)
class CountingMinio(Minio):
    """Says how often it was asked for what, to whoever asks."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MINIO_PROMETHEUS_AUTH_TYPE": "public"}

    def requests(self) -> Counter[str]:
        """Count the requests until now, by verb; made by another client than the one that is measured, and by the server."""
        time.sleep(_COUNT_AGE_S)
        with urllib.request.urlopen(f"{self.endpoint.url}/minio/metrics/v3/api/requests", timeout=20) as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for name, count in _COUNTED.findall(text):
            found[_VERBS.get(name, name)] += int(count)
        return found


@attrs.frozen
class Servers:
    """
    What is measured against.

    Attributes:
        bootstrap: The broker's address.

        minio: The S3 server.
    """

    bootstrap: str
    minio: CountingMinio

    @property
    def topics(self) -> Topics:
        return Topics(bootstrap=self.bootstrap)

    @property
    def endpoint(self) -> S3Endpoint:
        return self.minio.endpoint

    def lake(self, scheme: str = "s3", **settings: str) -> str:
        """Return the URI of a lake that is empty."""
        return self.endpoint.uri(self.endpoint.bucket(), scheme, **settings)

    def source(self, topic: str, **settings: object) -> str:
        """Return the URI of a topic, read by a group of its own."""
        settings = {"group": f"bench-{secrets.token_hex(4)}", **settings}
        return f"kafka://{self.bootstrap}/{topic}?" + "&".join(f"{name}={value}" for name, value in settings.items())

    def topic(self, records: int, partitions: int = PARTITIONS) -> str:
        """Make a topic and spread so many records over its partitions."""
        name = self.topics.make(partitions=partitions, config={"retention.ms": "-1"})
        self.publish(name, records, partitions)
        return name

    def publish(self, name: str, records: int, partitions: int = PARTITIONS) -> None:
        """Spread so many records over the partitions of a topic."""
        producer = self.producer(linger_ms=50)
        share = records // partitions
        for begin in range(0, share, _BATCH_RECORDS):
            values = [{"value": value_of(number)} for number in range(begin, min(begin + _BATCH_RECORDS, share))]
            for partition in range(partitions):
                while producer.produce_batch(name, [dict(v) for v in values], partition) < len(values):
                    raise RuntimeError(f"the queue of the producer is full; {name} cannot be filled")
                while len(producer) > _BATCH_RECORDS * PARTITIONS:  # not more, however many there are
                    producer.poll(0.05)
        if left := producer.flush(120):
            raise RuntimeError(f"{left} records of {name} were not published")

    def producer(self, linger_ms: int) -> Producer:
        """Make a producer that waits for all replicas."""
        settings: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "linger.ms": linger_ms,
            "compression.type": "zstd",
            "queue.buffering.max.messages": 0,
        }
        return Producer(settings)


def value_of(number: int) -> bytes:
    """Make a value of 84 bytes, in which something changes from record to record as it does in a feed."""
    price = 90 + number * 7919 % 1000 / 100
    head = f'{{"symbol":"AAPL","price":{price:.2f},"size":{number * 31 % 900 + 100},"sequence":{number:010d},"note":"'
    head = head.replace('"sequence":0', '"sequence":1')  # a number of JSON has no zero in front
    return (head + "x" * (VALUE_BYTES - len(head) - 2) + '"}').encode()


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Start both; their time and memory are not ours, but the processors are."""
    with (
        Kafka(folder=folder / "kafka", quick=False) as kafka,
        CountingMinio(folder=folder / "minio") as minio,
    ):
        yield Servers(kafka.bootstrap, minio)

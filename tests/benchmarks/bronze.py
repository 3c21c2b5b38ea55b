"""Kafka to the lake, and a file to the lake."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import attrs
from confluent_kafka import Consumer, Message, TopicPartition
from material import PARTITIONS, broker, fill_topic, fresh, write_lines
from sides import Comparison, Goal, Side, Stopwatch

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.kafka.source import KafkaSource
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Event
from headrace.source import Owner

QUEUE_BYTES = 16 << 20
_FLUSH_BYTES = 8 << 20
"""Small enough that segments are stored while the rest is read, as in a run that does not end."""


@attrs.define(kw_only=True, eq=False)
class TimedKafkaSource(KafkaSource):
    """Starts the watch when the first records are in hand: to join a group takes seconds, and once."""

    watch: Stopwatch = attrs.field(factory=Stopwatch)
    begun: bool = False

    def poll(self, owner: Owner, timeout_s: float) -> Sequence[Event]:
        events = super().poll(owner, timeout_s)
        if events and not self.begun:
            self.begun = True
            self.watch.start()
        return events

    def close(self) -> None:
        self.watch.stop()  # all is stored and acknowledged
        super().close()


@contextmanager
def kafka(folder: Path, records: int, address: str) -> Iterator[list[Comparison]]:
    """The pipeline against bare loops over the same topic."""
    with broker(address) as bootstrap:
        topic = f"bench-{folder.name}"
        fill_topic(bootstrap, topic, records, make=bool(address))
        groups = (f"{topic}-{number}" for number in itertools.count())

        def bare(chunk: int) -> Side:
            return Side(f"bare consume({chunk})", lambda watch: bare_loop(bootstrap, topic, records, chunk, watch))

        def pipeline(name: Literal["jsonl", "parquet"], compression: Literal["gzip", "zstd"]) -> Side:
            def run(watch: Stopwatch) -> int:
                source = TimedKafkaSource(
                    bootstrap=bootstrap,
                    topics=(topic,),
                    group=next(groups),
                    topic_id="on" if address else "off",
                    group_protocol="auto" if address else "classic",
                    queue_bytes=QUEUE_BYTES,
                    watch=watch,
                )
                return _to_lake(source, folder / "lake", name, compression, records)

            return Side(f"to the lake, {name} {compression}", run)

        kinds: list[tuple[Literal["jsonl", "parquet"], Literal["gzip", "zstd"], dict[int, str]]] = [
            ("jsonl", "gzip", {10_000: "0.65 | 0.85", 1000: "0.40 | 0.55"}),
            ("jsonl", "zstd", {10_000: "0.65 | 0.85", 1000: "0.40 | 0.55"}),
            ("parquet", "zstd", {10_000: "0.90 | 1.0", 1000: "0.50 | 0.65"}),
        ]

        yield [
            Comparison(
                "bronze from Kafka",
                [bare(10_000), bare(1000), *(pipeline(name, compression) for name, compression, _ in kinds)],
                [
                    Goal(f"to the lake, {name} {compression}", f"bare consume({chunk})", goal)
                    for name, compression, goals in kinds
                    for chunk, goal in goals.items()
                ],
                {"broker": address or "embedded", "partitions": PARTITIONS, "queue_bytes": QUEUE_BYTES},
            )
        ]


def bare_loop(
    bootstrap: str, topic: str, records: int, chunk: int, watch: Stopwatch, partitions: int = PARTITIONS
) -> int:
    """Read all values, with the client's settings that the source uses, and do nothing with them."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": QUEUE_BYTES >> 10,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    count = len(consumer.consume(1, timeout=30))
    watch.start()
    while count < records:
        # no more than there are: it would wait for a full chunk
        messages = consumer.consume(min(chunk, records - count), timeout=1)
        count += len(list(map(Message.value, messages)))
    watch.stop()
    consumer.close()
    return count


@contextmanager
def jsonl(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """A file against its lines."""
    path = folder / "ticks.jsonl"
    write_lines(path, records)

    def lines(_: Stopwatch) -> int:
        with path.open("rb") as file:
            return sum(1 for _ in file)

    def pipeline(_: Stopwatch) -> int:
        return _to_lake(JsonlSource(path=str(path)), folder / "lake", "jsonl", "gzip", records)

    yield [
        Comparison(
            "bronze from a file",
            [Side("its lines, nothing done", lines), Side("to the lake, gzip", pipeline)],
            [Goal("to the lake, gzip", "its lines, nothing done")],
        )
    ]


def _to_lake(
    source: KafkaSource | JsonlSource,
    lake: Path,
    name: Literal["jsonl", "parquet"],
    compression: Literal["gzip", "zstd"],
    records: int,
) -> int:
    sink = LakeSink(store=FileStore(root=fresh(lake)), format=name, compression=compression)
    done = Pipeline(source=source, sink=sink, flush=FlushPolicy(bytes=_FLUSH_BYTES), until_end=True).run()
    if done.stored_records != records:
        raise RuntimeError(f"found {done.stored_records} records stored, expected {records}")
    return done.stored_records

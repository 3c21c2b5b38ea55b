"""Kafka to S3: real servers, 16 partitions, values of 84 bytes."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import bronze
from servers import PARTITIONS, VALUE_BYTES, Servers, servers, value_of
from sides import Comparison, Goal, Sheet, Side, Stopwatch
from workers import Worker, once

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.registry import Registry
from headrace.testing.servers.toxiproxy import Toxiproxy
from headrace.uri import URI

FLUSH_BYTES = 4 << 20
"""Before compression: two or three segments of each partition are stored while the rest is read."""

_LAKES = {
    "jsonl gzip, s3fs": ("s3", {}),
    "jsonl gzip, obstore": ("s3+obstore", {}),
    "parquet zstd, s3fs": ("s3", {"format": "parquet"}),
}
_GOALS = {
    "jsonl gzip, s3fs": {10_000: "0.65 | 0.85", 1000: "0.40 | 0.55"},
    "jsonl gzip, obstore": {10_000: "0.65 | 0.85", 1000: "0.40 | 0.55"},
    "parquet zstd, s3fs": {10_000: "0.90 | 1.0", 1000: "0.50 | 0.65"},
}
_MIB = 1 << 20


@contextmanager
def s3(folder: Path, records: int) -> Iterator[list[Comparison]]:
    """The pipeline to S3 against bare loops over the same topic."""
    with servers(folder) as service:
        records = records // PARTITIONS * PARTITIONS
        topic = service.topic(records)

        def bare(chunk: int) -> Side:
            def run(watch: Stopwatch) -> int:
                return bronze.bare_loop(service.bootstrap, topic, records, chunk, watch, PARTITIONS)

            return Side(f"bare consume({chunk})", run)

        def lake(name: str) -> Side:
            scheme, settings = _LAKES[name]

            def run(watch: Stopwatch) -> int:
                return stream(service, topic, service.lake(scheme, **settings), records, watch)

            return Side(f"to S3, {name}", run)

        yield [
            Comparison(
                "bronze on S3",
                [bare(10_000), bare(1000), *map(lake, _LAKES)],
                [
                    Goal(f"to S3, {name}", f"bare consume({chunk})", goal)
                    for name, goals in _GOALS.items()
                    for chunk, goal in goals.items()
                ],
                {
                    "partitions": PARTITIONS,
                    "value_bytes": VALUE_BYTES,
                    "flush_bytes": FLUSH_BYTES,
                    "cpu_goal": "1.3 | 1.0",
                },
            )
        ]


def stream(service: Servers, topic: str, sink: str, records: int, watch: Stopwatch) -> int:
    """Carry a topic into a lake; the watch runs from the first record until all is stored."""
    registry = Registry.discover()
    uri = URI.parse(service.source(topic, queue_bytes=bronze.QUEUE_BYTES))
    source = bronze.TimedKafkaSource.from_uri(uri, registry)
    source.watch = watch
    flush = FlushPolicy(bytes=FLUSH_BYTES)
    done = Pipeline(source=source, sink=registry.sink(sink), flush=flush, until_end=True).run()
    if done.stored_records != records:
        raise RuntimeError(f"found {done.stored_records} records stored, expected {records}")
    return done.stored_records


# ---- one process --------------------------------------------------------------------------------------------------


_USUAL: Mapping[str, int] = {}
_SMALL_FETCHES = {"queue_bytes": 4 * _MIB, "message.max.bytes": 64 << 10, "fetch.max.bytes": 256 << 10}
"""An answer of a broker is compressed, and what is in it takes many times that in memory: where that matters, ask for less."""


@contextmanager
def process(folder: Path, records: int) -> Iterator[list[Sheet]]:
    """What a process takes of memory and of the store, and how long it takes until it has a record."""
    with servers(folder) as service:
        records = records // PARTITIONS * PARTITIONS
        topic, small = service.topic(records), service.topic(records // 10)
        kept = service.lake()

        def first(name: str, reading: Mapping[str, int] = _USUAL, **order: Any) -> Sequence[object]:
            scheme, settings = _LAKES[name]
            lake = service.lake(scheme, **settings)
            return _process(
                service, service.source(topic, **reading), lake, _BEGIN_PUTS, flush_bytes=32 * _MIB, **order
            )

        def small_first() -> Sequence[object]:
            return _process(service, service.source(small, group="kept"), kept, _BEGIN_PUTS, flush_bytes=_MIB // 4)

        def small_again() -> Sequence[object]:
            service.publish(small, records // 10)
            return _process(service, service.source(small, group="kept"), kept, 0, flush_bytes=_MIB // 4)

        yield [
            Sheet(
                "a process",
                (
                    *("RSS MiB", "peak", "segments", "PUT", "LIST", "GET", "other", "PUT a segment"),
                    *("join s", "look-up s", "first record s"),
                ),
                {
                    **{name: partial(first, name) for name in _LAKES},
                    "jsonl gzip, s3fs, memory 64 MiB": partial(first, "jsonl gzip, s3fs", memory_bytes=64 * _MIB),
                    "jsonl gzip, s3fs, small fetches": partial(first, "jsonl gzip, s3fs", _SMALL_FETCHES),
                    "jsonl gzip, obstore, small fetches": partial(first, "jsonl gzip, obstore", _SMALL_FETCHES),
                    "small segments, an empty lake": small_first,
                    "small segments, the next run": small_again,
                },
                {"partitions": PARTITIONS, "records": records, "goal_of_peak_MB": "128 | 96"},
            )
        ]


_BEGIN_PUTS = 11
"""Of a lake's first run: 8 that race, one that must lose, what was found, the pin."""


def _process(service: Servers, source: str, lake: str, begin_puts: int, **order: Any) -> Sequence[object]:
    before = service.minio.requests()
    found = once({"source": source, "sink": lake, **order})
    requests = service.minio.requests() - before
    put, listed, got = (requests.pop(verb, 0) for verb in ("PUT", "LIST", "GET"))
    spans = [("joined_s", "assigned_s"), ("assigned_s", "looked_up_s"), ("assigned_s", "first_s")]
    return [
        *(found[name] / _MIB for name in ("rss_began", "rss_peak")),
        *(found["segments"], put, listed, got, " ".join(f"{n} {verb}" for verb, n in sorted(requests.items()))),
        (put - begin_puts) / max(1, found["segments"]),
        *(max(0.0, found[end] - found[begin]) for begin, end in spans),
    ]


# ---- how long it takes until a record is durable --------------------------------------------------------------------


@contextmanager
def latency(folder: Path, _records: int) -> Iterator[list[Sheet]]:
    """A feed of 5,000 records a second, by flush age and client, also with 50 ms before the store."""
    with servers(folder) as service, Toxiproxy(folder=folder / "toxiproxy") as toxiproxy:
        proxy = toxiproxy.proxy("minio", service.minio.port)
        far = attrs.evolve(service.endpoint, url=f"http://127.0.0.1:{proxy.port}")
        feed(
            service, service.topic(0), _FEED_S
        )  # a broker that has just begun takes seconds for what takes milliseconds later

        def row(scheme: str, age_s: float, delay_ms: int = 0, puts_in_flight: int = 8) -> Sequence[object]:
            topic = service.topic(0)
            endpoint = far if delay_ms else service.endpoint
            order = {
                "source": service.source(topic, start="latest"),
                "until_end": False,
                "sink": endpoint.uri(endpoint.bucket(), scheme),
                "flush_age_s": age_s,
                "puts_in_flight": puts_in_flight,
            }
            delayed = proxy.toxic("latency", latency=delay_ms) if delay_ms else nullcontext()
            with delayed, Worker(order) as worker:
                worker.say()
                begun_s = feed(service, topic, _FEED_S + 4 * age_s)
                time.sleep(2 * age_s + 1)
                worker.say()
                found = worker.found()
            waits = sorted(_waits(service, order["sink"], found["commits"], begun_s, begun_s + _FEED_S))
            puts = sorted(end - begin for _, begin, end, _, _ in found["commits"])
            return [
                *(waits[int(len(waits) * share)] * 1000 for share in (0.5, 0.99)),
                waits[-1] * 1000,
                (waits[int(len(waits) * 0.99)] - age_s) * 1000,
                *(puts[int(len(puts) * share)] * 1000 for share in (0.5, 0.99)),
                len(puts),
                len(waits),
            ]

        rows: dict[str, Callable[[], Sequence[object]]] = {
            f"{label}, age {age_s:g} s{f', {delay} ms before the store' if delay else ''}"
            f"{f', {puts} PUTs in flight' if puts != 8 else ''}": partial(row, scheme, age_s, delay, puts)
            for scheme, label, age_s, delay, puts in (
                ("s3", "s3fs", 1.0, 0, 8),
                ("s3", "s3fs", 0.1, 0, 8),
                ("s3+obstore", "obstore", 1.0, 0, 8),
                ("s3+obstore", "obstore", 0.1, 0, 8),
                ("s3", "s3fs", 1.0, 50, 8),
                ("s3", "s3fs", 0.1, 50, 8),
                ("s3", "s3fs", 0.1, 50, 16),
                ("s3+obstore", "obstore", 0.1, 50, 8),
                ("s3+obstore", "obstore", 0.1, 50, 16),
            )
        }
        yield [
            Sheet(
                "produced to durable, ms",
                ("p50", "p99", "most", "p99 over age", "PUT p50", "PUT p99", "PUTs", "records"),
                rows,
                {"partitions": PARTITIONS, "records_per_s": _FEED_PER_S, "goal": "p99 <= age + 100 | 50 ms"},
            )
        ]


_FEED_PER_S = 5000
_FEED_S = 8.0
_WARM_S = 4.0
_TICK_S = 0.01


def feed(service: Servers, topic: str, for_s: float) -> float:
    """Publish evenly, for so long and some seconds before, in which a run may begin; return when those were over."""
    producer = service.producer(linger_ms=2)
    began_s, sent = time.time(), 0
    while (now := time.time()) < began_s + _WARM_S + for_s:
        for _ in range(int((now - began_s) * _FEED_PER_S) - sent):
            producer.produce(topic, value_of(sent), partition=sent % PARTITIONS)
            sent += 1
        producer.poll(0)
        time.sleep(_TICK_S)
    producer.flush(30)
    return began_s + _WARM_S


def _waits(
    service: Servers, sink: str, commits: Sequence[Sequence[Any]], begin_s: float, end_s: float
) -> Iterator[float]:
    """Say for each record how long it took from its own time, which the producer gave it, until its object was durable."""
    bucket = URI.parse(sink).host
    with closing(service.endpoint.client()) as client:
        for key, _, durable_s, _, _ in commits:
            if durable_s < begin_s:
                continue
            body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for line in gzip.decompress(body).splitlines():
                produced_s = json.loads(line)["timestamp_ms"] / 1000
                if begin_s <= produced_s < end_s:
                    yield durable_s - produced_s

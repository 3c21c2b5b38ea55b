"""What is measured with: real trades, repeated to any number; lakes and topics made of them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.demo.market import symbols, trades
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Extent, Identity, Partition, Record

PARTITIONS = 4
"""What the embedded broker makes of a topic."""

_SEGMENT_RECORDS = 125_000
_BATCH_RECORDS = 1000
_BAD = b'{"symbol":"IBM","time":"2013-10-07T14:00:00.000Z","price":"181.86","size":100,"exchange":"P","conditions":"0"}'


def ticks() -> list[Record]:
    """Every packaged trade."""
    return [record for symbol in symbols("tick") for record in trades(symbol)]


def write_lake(
    root: Path,
    records: int,
    compression: Literal["gzip", "zstd"] = "gzip",
    *,
    bad_every: int = 0,
    segment_records: int = _SEGMENT_RECORDS,
) -> None:
    """Write so many trades in order, over all partitions; each *bad_every*-th one breaks the contract."""
    sink = LakeSink(store=FileStore(root=root), compression=compression)
    identity = Identity("bench", "ticks", "read_uncommitted", PARTITIONS)
    partitions = [Partition("ticks", number) for number in range(PARTITIONS)]
    sink.bind({partition: Extent(0, records, records, identity) for partition in partitions})
    positions = sink.positions(dict.fromkeys(partitions))
    tape = itertools.cycle(ticks())
    for partition, count in zip(partitions, _shares(records), strict=True):
        at = positions[partition]
        if isinstance(at, Exception):
            raise at
        for begin in range(0, count, segment_records):
            draft = sink.draft(partition, at.offset, 1 << 20)
            for offsets in _chunks(begin, min(begin + segment_records, count)):
                rows = [_placed(next(tape), offset, bad_every) for offset in offsets]
                draft.add(Batch.of(partition, rows, assignment=1))
            at = draft.commit(at.offset, at, identity)
            draft.discard()
    sink.close()


def write_lines(path: Path, records: int) -> None:
    """Write so many trades as JSON lines."""
    tape = itertools.cycle([record.value or b"" for record in ticks()])
    with path.open("wb") as file:
        for offsets in _chunks(0, records):
            file.write(b"\n".join(itertools.islice(tape, len(offsets))) + b"\n")


@contextmanager
def broker(address: str) -> Iterator[str]:
    """Yield *address*, or that of librdkafka's own broker, in another process: its work is not ours."""
    if address:
        yield address
        return
    # the broker stands with the test kit, or with the demo
    module = "headrace.testing.brokers" if find_spec("headrace.testing.brokers") else "headrace.demo.broker"
    program = f"from {module} import embedded_broker\nwith embedded_broker() as b: print(b, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("\n", timeout=30)


def fill_topic(bootstrap: str, topic: str, records: int, *, make: bool) -> None:
    """
    Publish so many trades, spread over the partitions; *make* the topic, unless the broker is the embedded one, which cannot.

    Compressed, as feeds are: the embedded broker keeps about 5 MB of each partition, and then drops from its head.

    Raises:
        RuntimeError: The broker did not keep all of them: ask for fewer, or take a real one.
    """
    if make:
        admin = AdminClient({"bootstrap.servers": bootstrap})  # kept: its answers die with it
        # the trades are years old, and retention goes by their time
        admin.create_topics([NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})])[topic].result(timeout=20)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50,
            "compression.type": "zstd",
            "queue.buffering.max.messages": 200_000,
        }
    )
    tape = itertools.cycle(ticks())
    for number in range(records):
        record = next(tape)
        while True:
            try:
                producer.produce(
                    topic, record.value, record.key, partition=number % PARTITIONS, timestamp=record.timestamp_ms
                )
                break
            except BufferError:
                producer.poll(0.05)
        if number % _BATCH_RECORDS == 0:
            producer.poll(0)
    left = producer.flush(60)
    found = _watermarks(bootstrap, topic)
    if left or found != [(0, share) for share in _shares(records)]:
        raise RuntimeError(
            f"found {found} in {topic} at {bootstrap}, {left} not sent; expected {records} records from 0 on in"
            f" {PARTITIONS} partitions: ask for fewer (--records), or name a real broker (--kafka)"
        )


def _watermarks(bootstrap: str, topic: str) -> list[tuple[int, int]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    try:
        return [
            consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10) for number in range(PARTITIONS)
        ]
    finally:
        consumer.close()


def fresh(folder: Path) -> Path:
    """Empty a folder, or the place of one."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _shares(records: int) -> Sequence[int]:
    return [len(range(number, records, PARTITIONS)) for number in range(PARTITIONS)]


def _chunks(begin: int, end: int) -> Iterator[range]:
    for start in range(begin, end, _BATCH_RECORDS):
        yield range(start, min(start + _BATCH_RECORDS, end))


def _placed(record: Record, offset: int, bad_every: int) -> Record:
    bad = bad_every and offset % bad_every == bad_every - 1
    return Record(offset, record.timestamp_ms, record.key, _BAD if bad else record.value)

"""Reads a range of a partition beside everybody else: by a consumer of its own, in no group (`headrace audit`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.errors import DataError, SourceUnavailableError
from headrace.plugins.kafka.client import made, told
from headrace.plugins.kafka.columns import UnreadableError, batch_of, offset_of
from headrace.records import Batch, Partition

_CHUNK = 1000
_TURN_S = 0.05
_SETTINGS = {
    "client.id": "headrace",
    "group.id": "headrace-audit",  # never joined, nothing is committed to it
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",  # what retention took meanwhile is passed over
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 4096,
    "reconnect.backoff.max.ms": 5000,
}


def reread(
    settings: Mapping[str, object], partition: Partition, start: int, end: int, *, aborted: bool, timeout_s: float
) -> Iterator[Batch]:
    """
    Yield the records of ``[start, end)``, as far as the log has them.

    Raises:
        DataError: The client library cannot read a record.
        SourceUnavailableError: Nothing came for *timeout_s*, and the end was not reached.
    """
    if start >= end:
        return
    isolation = "read_uncommitted" if aborted else "read_committed"
    consumer = made(Consumer, {**_SETTINGS, **settings, "isolation.level": isolation})
    try:
        consumer.assign([TopicPartition(partition.stream, partition.number, start)])
        yield from _batches(consumer, partition, start, end, timeout_s)
    except UnreadableError as exc:
        raise DataError(str(exc)) from exc
    except KafkaException as exc:
        raise told(exc.args[0], f"read {partition} again", SourceUnavailableError) from exc
    finally:
        consumer.close()


def _batches(consumer: Consumer, partition: Partition, start: int, end: int, timeout_s: float) -> Iterator[Batch]:
    at_end, heard_s = False, time.monotonic()
    while not at_end:
        messages = consumer.consume(_CHUNK, _TURN_S)  # it waits for all of them, whatever has come
        if messages:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > timeout_s:
            raise SourceUnavailableError(f"{partition}: nothing came for {timeout_s:g} s, from {start} on; ask again")
        records: list[Message] = []
        for message in messages:
            error = message.error()
            if error is None:
                at_end |= offset_of(message) >= end - 1
                if start <= offset_of(message) < end:
                    records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_end = True
            elif not error.retriable() and error.code() not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
                raise told(error, f"read {partition} again", SourceUnavailableError)
        if records:
            yield batch_of(records, partition, 0, start)
            start = offset_of(records[-1]) + 1

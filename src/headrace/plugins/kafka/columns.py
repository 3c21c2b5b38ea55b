"""Messages into columns: one call per column and chunk, no Python object of ours per record."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message

from headrace.errors import DataError
from headrace.records import Batch, Headers, Partition, TimestampType

_TYPES: dict[int, TimestampType] = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}


def batch_of(messages: list[Message], partition: Partition, assignment: int, start: int) -> Batch:
    """Make a batch of messages of one partition, none of them an error."""
    first, last = messages[0].offset(), messages[-1].offset()
    assert first is not None and last is not None, "a record has an offset"  # noqa: S101, PT018 - librdkafka's promise
    # offsets of one partition only grow, so the two ends prove the middle
    dense = last - first + 1 == len(messages)
    stamps = list(map(Message.timestamp, messages))
    keys, values = list(map(Message.key, messages)), list(map(Message.value, messages))
    headers = _headers(messages, partition)
    return Batch(
        partition=partition,
        assignment=assignment,
        leader_epoch=messages[-1].leader_epoch(),
        start=start,
        end=last + 1,
        offsets=range(first, last + 1) if dense else list(map(Message.offset, messages)),  # type: ignore[arg-type]
        timestamps_ms=[ms for _, ms in stamps],
        keys=keys,
        values=values,
        headers=headers,
        timestamp_types=_timestamp_types([kind for kind, _ in stamps]),
        nbytes=sum(map(len, messages)) + _nbytes(keys) + _header_bytes(headers),
    )


def _timestamp_types(kinds: list[int]) -> list[TimestampType] | None:
    if kinds.count(TIMESTAMP_CREATE_TIME) == len(kinds):
        return None
    return [_TYPES.get(kind, "none") for kind in kinds]


def _headers(messages: list[Message], partition: Partition) -> list[Headers | None] | None:
    try:
        column = list(map(Message.headers, messages))
    except (SystemError, UnicodeDecodeError) as exc:  # the client's own, where a name is not UTF-8
        raise DataError(
            f"{partition}: the client library cannot read the headers of a record in [{messages[0].offset()},"
            f" {messages[-1].offset()}]: a header's name is not UTF-8, which Kafka's protocol asks for; no record of it was read"
        ) from exc
    if column.count(None) == len(column):
        return None
    return column  # type: ignore[return-value]  # the client's list of pairs


def _nbytes(column: Sequence[bytes | None]) -> int:
    try:
        return sum(map(len, column))  # type: ignore[arg-type]  # None raises, and is rare
    except TypeError:
        return sum(len(cell) for cell in column if cell is not None)


def _header_bytes(column: Sequence[Headers | None] | None) -> int:
    if column is None:
        return 0
    return sum(len(name) + len(value or b"") for headers in column for name, value in headers or ())

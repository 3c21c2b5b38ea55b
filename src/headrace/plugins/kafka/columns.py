"""Messages into columns: one call per column and chunk, no Python object of ours per record."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, Message

from headrace.errors import DataError
from headrace.records import Batch, Headers, Partition, TimestampType

_TYPES: dict[int, TimestampType] = {TIMESTAMP_CREATE_TIME: "create", TIMESTAMP_LOG_APPEND_TIME: "append"}


class UnreadableError(DataError):
    """A record that the client library cannot read."""

    before: list[Message]
    """What lies before it."""


def runs(messages: list[Message], topics: tuple[str, ...]) -> Iterator[tuple[Partition, list[Message]]]:
    """Split what one call returned into runs of one partition; mostly it is one."""
    if not messages:
        return
    numbers = list(map(Message.partition, messages))
    if len(topics) == 1 and numbers.count(numbers[0]) == len(numbers):
        yield Partition(topics[0], numbers[0] or 0), messages
        return
    i = 0
    for (topic, number), group in itertools.groupby(zip(map(Message.topic, messages), numbers, strict=True)):
        count = sum(1 for _ in group)
        yield Partition(topic or "", number or 0), messages[i : i + count]
        i += count


def from_offset(run: list[Message], offset: int) -> list[Message]:
    """Leave out what lies before *offset*; offsets of one partition only grow."""
    return run if offset_of(run[0]) >= offset else [m for m in run if offset_of(m) >= offset]


def by_leader(run: list[Message]) -> Iterator[list[Message]]:
    """Split a run where another leader took over; epochs only rise, so its ends say whether one did."""
    if run[0].leader_epoch() == run[-1].leader_epoch():
        yield run
        return
    for _, group in itertools.groupby(run, lambda m: m.leader_epoch()):
        yield list(group)


def offset_of(message: Message) -> int:
    """Return a record's offset, which it always has."""
    offset = message.offset()
    assert offset is not None, "a record has an offset"  # noqa: S101 - librdkafka's promise
    return offset


def batch_of(messages: list[Message], partition: Partition, assignment: int, start: int) -> Batch:
    """Make a batch of messages of one partition, none of them an error."""
    first, last = offset_of(messages[0]), offset_of(messages[-1])
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
    left = iter(messages)
    try:
        column = list(map(Message.headers, left))
    except (SystemError, UnicodeDecodeError) as exc:  # the client's own; asked once more it says that there are none
        at = len(messages) - len(list(left)) - 1
        error = UnreadableError(
            f"{partition}: the client library cannot read the headers of the record at {offset_of(messages[at])}: a header's name"
            " is not UTF-8, which Kafka's protocol asks for; nothing from it on is read. Copy what you need of it, delete the"
            ' log up to it and it, and accept the loss with on_gap="note" (--on-gap note)'
        )
        error.before = messages[:at]
        raise error from exc
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

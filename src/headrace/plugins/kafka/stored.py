"""
What stands in the side topic, one value a key, as JSON, for people too.

::

    ["pin", TOPIC, EPOCH, STREAM]                          which stream's positions these are, and under which ids (B7)
    ["position", TOPIC, EPOCH, STREAM, PARTITION]          how far it is published
    ["note", TOPIC, EPOCH, STREAM, PARTITION, FROM, TO]    a loss that was accepted (B18)
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from headrace.errors import DataError
from headrace.records import Identity

T = TypeVar("T")

LAYOUT_VERSION = 1


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the positions of one stream in one topic are about, written once and compared ever after.

    Attributes:
        layout: The version of keys and values in the side topic.

        dataset: Random, minted when the pin was made.

        cluster: The source's.

        topic: The source's topic id.

        isolation: What the reader was allowed to see.

        partitions: How many the stream had.

        target: The id of the topic that is published to.

        transactional_id_prefix: Two prefixes would not fence each other.
    """

    layout: int = LAYOUT_VERSION
    dataset: str
    cluster: str
    topic: str | None
    isolation: str
    partitions: int
    target: str
    transactional_id_prefix: str

    @property
    def identity(self) -> Identity:
        """The stream's identity as pinned."""
        return Identity(self.cluster, self.topic, self.isolation, self.partitions)

    def differences(self, other: Pin) -> list[str]:
        """Say what differs, all but dataset and number of partitions; empty where both mean the same."""
        return [
            f"{name} is {getattr(self, name)!r} in the pin, {getattr(other, name)!r} now"
            for name in self.__struct_fields__
            if name not in ("dataset", "partitions") and getattr(self, name) != getattr(other, name)
        ]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far a partition is published.

    Attributes:
        position: The next record to be published: the end of the newest draft.

        start: Where that draft began.

        dataset: Of the pin.

        leader_epoch: Under which its last record was read.

        records: How many it holds.

        writer: Host and process, for people: no decision reads it.
    """

    position: int
    start: int
    dataset: str
    leader_epoch: int | None
    records: int
    writer: str


def key(*parts: str | int) -> bytes:
    """Name something in the side topic."""
    return msgspec.json.encode(parts)


def decoded(topic: str, name: bytes, body: bytes | None, kind: type[T]) -> T | None:
    """Read the value of a key, if it has one; DataError where it is none of ours."""
    if body is None:
        return None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as exc:
        raise DataError(
            f"{topic}: the value of {name.decode()} is none of ours ({exc}); whoever wrote it, nothing may be published until it"
            " is mended, or a new epoch begun (epoch=NAME)"
        ) from exc

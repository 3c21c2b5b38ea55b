"""What stands beside a committed offset: where a look-up may begin (B12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from headrace.records import Hint

if TYPE_CHECKING:
    from confluent_kafka import TopicPartition


class _Metadata(msgspec.Struct):
    dataset: str | None = None
    segment: tuple[int, int] | None = None


def metadata(hint: Hint) -> str:
    """Write what stands beside the committed offset."""
    return msgspec.json.encode(_Metadata(hint.dataset_id, hint.segment)).decode()


def hint_of(place: TopicPartition) -> Hint | None:
    """Read the committed offset and its metadata; anybody's metadata but ours is none."""
    if place.offset < 0:
        return None
    try:
        found = msgspec.json.decode(place.metadata or "{}", type=_Metadata)
    except msgspec.MsgspecError:
        found = _Metadata()
    return Hint(place.offset, found.segment, found.dataset)

"""The pin: what a dataset is, written once and compared ever after."""

from __future__ import annotations

import attrs
import msgspec

from headrace.errors import ConfigError, DataError
from headrace.layout import Layout
from headrace.records import Identity
from headrace.store import Store

LAYOUT_VERSION = 1


@attrs.frozen
class Dataset:
    """
    One stream in one lake, from one topic identity: the content of ``_headrace/dataset.json`` (B7).

    Attributes:
        id: Random, 32 hexadecimal digits, minted when the pin was made.

        stream: The stream's name.

        layout: The version of keys, lines and trailers.

        format: "jsonl".

        compression: "gzip" or "zstd".

        isolation: What the reader was allowed to see.

        cluster: The source's cluster id.

        topic: The source's topic id; None where ids were switched off by name.

        partitions: How many there were when the pin was made: a start policy such as "latest" holds for these (B22).

        epoch: "" for the stream's first dataset.
    """

    id: str
    stream: str
    layout: int
    format: str
    compression: str
    isolation: str
    cluster: str
    topic: str | None
    partitions: int
    epoch: str = ""

    @property
    def identity(self) -> Identity:
        """The stream's identity as pinned."""
        return Identity(self.cluster, self.topic, self.isolation, self.partitions)

    @property
    def keys(self) -> Layout:
        """Where its objects lie."""
        return Layout(self.stream, self.epoch)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(attrs.asdict(self)), indent=2)

    def differences(self, other: Dataset) -> list[str]:
        """Say what differs, all but id and number of partitions; empty where both are one dataset (B7)."""
        return [
            f"{a.name} is {getattr(self, a.name)!r} in the lake, {getattr(other, a.name)!r} now"
            for a in attrs.fields(Dataset)
            if a.name not in ("id", "partitions") and getattr(self, a.name) != getattr(other, a.name)
        ]


def read_dataset(store: Store, layout: Layout) -> Dataset | None:
    """Read the pin; None where there is none. DataError where it is no pin; ConfigError where it is of a newer layout."""
    body = store.read(layout.pin)
    if body is None:
        return None
    where = f"{store.place}/{layout.pin}"
    try:
        found = msgspec.json.decode(body, type=dict[str, object])
        version = found.get("layout")
        if version != LAYOUT_VERSION:
            raise ConfigError(
                f"{where}: found layout {version!r}, expected {LAYOUT_VERSION}; this lake was written by another version"
                " of headrace (or by something else): install that one, or write to another place"
            )
        return msgspec.convert(found, Dataset)
    except msgspec.MsgspecError as exc:
        raise DataError(f"{where} is no pin of a dataset ({exc}); restore it, nothing may be written here") from exc

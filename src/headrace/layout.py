"""
Where everything of a dataset lies in its store.

::

    <stream>[~<epoch>]/partition=<n>/<start, 20 digits>.jsonl.gz     the chain: what readers glob
    <stream>[~<epoch>]/_headrace/dataset.json                        the pin
    <stream>[~<epoch>]/_headrace/gaps/partition=<n>/<from>-<to>.json notes of accepted losses
    <stream>[~<epoch>]/_headrace/expired/partition=<n>/<from>-<to>.json  what was let go, before it was deleted
    <stream>[~<epoch>]/_headrace/probes/<hash>.json                  what store and client were found to do
    <stream>[~<epoch>]/_headrace/tmp/                                a local disk's files on their way

A segment's key is a pure function of dataset, partition and the chain position it starts at (B1): no event time, no host,
no random part. That is what makes two writers of one position meet at one key.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import attrs

from headrace.errors import ConfigError

_EPOCH = re.compile(r"[A-Za-z0-9_-]+")
_RANGE = re.compile(r"(\d{20})-(\d{20})\.json")
_SEGMENT = re.compile(r"(\d{20})\.(.+)")
_STREAM_BYTES = 249
"""The longest topic name of Kafka (org.apache.kafka.common.internals.Topic), and what a trailer has room for."""


@attrs.frozen
class Layout:
    """
    The keys of one dataset.

    Attributes:
        stream: The stream's name, as it is.

        epoch: The name of a new beginning of the same stream; "" for the first (B9).
    """

    stream: str
    epoch: str = ""

    def __attrs_post_init__(self) -> None:
        if self.stream in ("", ".", "..") or len(self.stream.encode()) > _STREAM_BYTES:
            raise ConfigError(
                f"found stream name {self.stream!r}, expected 1 to {_STREAM_BYTES} bytes, not '.' or '..'"
            )
        if self.epoch and not _EPOCH.fullmatch(self.epoch):
            raise ConfigError(f"found epoch {self.epoch!r}, expected letters, digits, '-' and '_'")

    @property
    def root(self) -> str:
        """The dataset's prefix, with its slash: a stream's name, percent-encoded, so that no two become one (B1, B9)."""
        # quote() leaves "~", which divides stream and epoch here
        name = quote(self.stream, safe="").replace("~", "%7E")
        return f"{name}~{self.epoch}/" if self.epoch else f"{name}/"

    @property
    def pin(self) -> str:
        return f"{self.root}_headrace/dataset.json"

    @property
    def probes(self) -> str:
        return f"{self.root}_headrace/probes/"

    def partition(self, number: int) -> str:
        """The prefix of one partition; its slash keeps ``partition=1`` from meaning ``partition=10`` too (B1)."""
        return f"{self.root}partition={number}/"

    def before(self, number: int, start: int) -> str:
        """A key that sorts before the segment at *start* and after all smaller ones: its name without an extension."""
        return f"{self.partition(number)}{start:020d}"

    def segment(self, number: int, start: int, extension: str) -> str:
        return f"{self.before(number, start)}.{extension}"

    def gaps(self, number: int) -> str:
        return f"{self.root}_headrace/gaps/partition={number}/"

    def gap(self, number: int, start: int, end: int) -> str:
        return f"{self.gaps(number)}{start:020d}-{end:020d}.json"

    def expired(self, number: int) -> str:
        return f"{self.root}_headrace/expired/partition={number}/"

    def expiry(self, number: int, start: int, end: int) -> str:
        return f"{self.expired(number)}{start:020d}-{end:020d}.json"


def parse_segment(name: str) -> tuple[int, str] | None:
    """Take start and extension from the last part of a key; None where it is no segment's."""
    match = _SEGMENT.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def parse_range(name: str) -> tuple[int, int] | None:
    """Take from and to from the last part of a note's key; None where it is no note's."""
    match = _RANGE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def parse_root(folder: str) -> tuple[str, str]:
    """Take stream and epoch from a dataset's prefix, without its slash: the reverse of `Layout.root`."""
    name, _, epoch = folder.partition("~")
    return unquote(name), epoch

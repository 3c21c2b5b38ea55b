"""How records lie in a segment: JSON lines, or Parquet."""

from __future__ import annotations

from headrace.errors import ConfigError
from headrace.formats.base import Content, Format, Workers
from headrace.formats.jsonl import JsonLines
from headrace.formats.parquet import Parquet

__all__ = ["COMPRESSIONS", "Content", "Format", "Workers", "format_of"]

COMPRESSIONS = {"jsonl": ("gzip", "zstd"), "parquet": ("zstd", "snappy")}
"""What each format can be compressed with; the first one is its default."""


def format_of(name: str, compression: str) -> Format:
    """
    Return the format called *name*, with this compression.

    Raises:
        ConfigError: There is no such format, or it is not compressed so.
        MissingExtraError: The compression's library is not installed.
    """
    if name not in COMPRESSIONS:
        raise ConfigError(f"found format {name!r}, expected {' or '.join(map(repr, COMPRESSIONS))}")
    if compression not in COMPRESSIONS[name]:
        expected = " or ".join(map(repr, COMPRESSIONS[name]))
        raise ConfigError(f"found compression {compression!r} of format {name!r}, expected {expected}")
    return JsonLines.of(compression) if name == "jsonl" else Parquet(compression)

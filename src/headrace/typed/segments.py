"""What each staged file is: a table beside the staged rows, which gives every row its place in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.errors import CorruptSegmentError
from headrace.loader import LoadableSegment

if TYPE_CHECKING:
    import duckdb

_SEGMENTS = (
    'CREATE OR REPLACE TEMP TABLE segments(file INTEGER, dataset VARCHAR, stream VARCHAR, "partition" INTEGER,'
    " start_offset BIGINT, end_offset BIGINT, records BIGINT, digest VARCHAR)"
)

Place = tuple[str, str, int]
"""Dataset, stream and partition of a file."""


def describe(connection: duckdb.DuckDBPyConnection, segments: Sequence[LoadableSegment]) -> None:
    """Make the table ``segments`` for files that hold one segment each, numbered from 0."""
    connection.execute(_SEGMENTS)
    connection.executemany(
        "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (number, t.dataset_id, t.partition.stream, t.partition.number, t.start, t.end, t.records, t.digest)
            for number, t in enumerate(loadable.segment.trailer for loadable in segments)
        ],
    )


def describe_places(connection: duckdb.DuckDBPyConnection, places: Sequence[Place]) -> None:
    """Make the table ``segments`` for files of lines that were taken out of quarantine: only their places are known."""
    connection.execute(_SEGMENTS)
    connection.executemany(
        "INSERT INTO segments BY NAME SELECT ? AS file, ? AS dataset, ? AS stream, ? AS partition",
        [(number, *place) for number, place in enumerate(places)],
    )


def check_counts(segments: Sequence[LoadableSegment], counts: Mapping[int, tuple[int, int, int, int]]) -> None:
    """
    Compare what was staged with what the trailers say (B4, B29).

    Args:
        segments: One a file.

        counts: Of `headrace.typed.staging.Staging.counts`.

    Raises:
        CorruptSegmentError: A segment holds other records than its trailer names.
    """
    for number, loadable in enumerate(segments):
        trailer = loadable.segment.trailer
        good, bad, first, last = counts.get(number, (0, 0, -1, -1))
        if (good + bad, first, last + 1) != (trailer.records, trailer.first, trailer.end):
            raise CorruptSegmentError(
                f"{loadable.segment.key} ({trailer.partition}): found {good + bad} records in [{first}, {last + 1}), its trailer"
                f" says {trailer.records} in [{trailer.first}, {trailer.end})",
                key=loadable.segment.key,
            )

"""Refuses a load of which too much breaks the contract, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headrace.records import Partition
from headrace.share import REASONS, exceeds, too_many

if TYPE_CHECKING:
    import duckdb


def check_share(
    connection: duckdb.DuckDBPyConnection,
    counts: Mapping[int, tuple[int, int, int, int]],
    max_rejected: float,
    target: str,
) -> None:
    """
    Compare what was refused with what may be; called when the tables ``refused`` and ``segments`` are made.

    Args:
        connection: On which the lines were staged.

        counts: Of `headrace.typed.staging.Staging.counts`.

        max_rejected: The share of the records that may go to quarantine, 0 to 1.

        target: For the message.

    Raises:
        TooManyRejectedError: There are `LEAST_REJECTED` or more, and they are more than that share. It names the partitions of
            which so much is bad, however few their records are.
    """
    rejected = sum(bad for _, bad, *_ in counts.values())
    records = rejected + sum(good for good, *_ in counts.values())
    if not exceeds(rejected, records, max_rejected):
        return
    reasons = connection.execute(
        'SELECT count(*) AS n, "column", reason, min((stream, "partition", _offset))'
        f" FROM refused JOIN segments ON file = _file GROUP BY ALL ORDER BY n DESC, 2, 3 LIMIT {REASONS + 1}"
    ).fetchall()
    raise too_many(
        target,
        max_rejected,
        _by_partition(connection, counts),
        [
            (number, column, reason, Partition(stream, partition), offset)
            for number, column, reason, (stream, partition, offset) in reasons
        ],
    )


def _by_partition(
    connection: duckdb.DuckDBPyConnection, counts: Mapping[int, tuple[int, int, int, int]]
) -> dict[Partition, tuple[int, int]]:
    found: dict[Partition, tuple[int, int]] = {}
    for file, stream, number in connection.execute('SELECT file, stream, "partition" FROM segments').fetchall():
        good, bad, *_ = counts[file]
        known_good, known_bad = found.get(Partition(stream, number), (0, 0))
        found[Partition(stream, number)] = known_good + good, known_bad + bad
    return found

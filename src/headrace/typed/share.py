"""Refuses a load of which too much breaks the contract, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from headrace.errors import TooManyRejectedError
from headrace.loader import LEAST_REJECTED
from headrace.records import Partition

if TYPE_CHECKING:
    import duckdb

_REASONS = 3


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
    if rejected < LEAST_REJECTED or rejected <= max_rejected * records:
        return
    found = connection.execute(
        'SELECT "column", reason, count(*) AS n, min((stream, "partition", _offset))'
        f" FROM refused JOIN segments ON file = _file GROUP BY ALL ORDER BY n DESC, 1, 2 LIMIT {_REASONS + 1}"
    ).fetchall()
    reasons = "; ".join(
        f"{number:,} of {column or 'the record as a whole'}: {reason}, first at {place[0]}/{place[1]} offset {place[2]}"
        for column, reason, number, place in found[:_REASONS]
    )
    more = "; and others" if len(found) > _REASONS else ""
    raise TooManyRejectedError(
        f"{target}: {rejected:,} of {records:,} records break the contract ({rejected / records:.1%}), expected at most"
        f" {100 * max_rejected:g}%: {reasons}{more}. Nothing was written and nothing is lost, the ledger stays where it is:"
        " mend the contract and load again, or take them into quarantine with a higher --max-rejected and redrive them later",
        rejected=rejected,
        records=records,
        partitions=_worst(connection, counts, max_rejected),
    )


def _worst(
    connection: duckdb.DuckDBPyConnection, counts: Mapping[int, tuple[int, int, int, int]], max_rejected: float
) -> frozenset[Partition]:
    """The partitions of which alone more is refused than may be."""
    sums: dict[Partition, tuple[int, int]] = {}
    for file, stream, number in connection.execute('SELECT file, stream, "partition" FROM segments').fetchall():
        good, bad, *_ = counts[file]
        known_good, known_bad = sums.get(Partition(stream, number), (0, 0))
        sums[Partition(stream, number)] = known_good + good, known_bad + bad
    return frozenset(place for place, (good, bad) in sums.items() if bad > max_rejected * (good + bad))

"""How much of a load may break its contract, and what is said where it is too much: the same in every warehouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.errors import TooManyRejectedError
from headrace.loader import LEAST_REJECTED
from headrace.records import Partition

REASONS = 3
"""So many are told."""

Reason = tuple[int, str, str, Partition, int]
"""How many records, of which column ("" of the record as a whole), why, and where the first of them is."""


def exceeds(rejected: int, records: int, max_rejected: float) -> bool:
    """Whether so many of so many records are `LEAST_REJECTED` or more, and more than the share that may go to quarantine."""
    return rejected >= LEAST_REJECTED and rejected > max_rejected * records


def too_many(
    target: str, max_rejected: float, found: Mapping[Partition, tuple[int, int]], reasons: Sequence[Reason]
) -> TooManyRejectedError:
    """
    Make the error of a call that writes nothing.

    Args:
        target: For the message.

        max_rejected: The share that may go to quarantine, 0 to 1.

        found: Of each partition how many records are good, and how many are not. The error names those of which alone more is
            bad than may be, however few their records are.

        reasons: The most frequent first; more than `REASONS` are told as others.
    """
    rejected = sum(bad for _, bad in found.values())
    records = rejected + sum(good for good, _ in found.values())
    told = "; ".join(
        f"{number:,} of {column or 'the record as a whole'}: {reason}, first at {partition} offset {offset}"
        for number, column, reason, partition, offset in reasons[:REASONS]
    )
    more = "; and others" if len(reasons) > REASONS else ""
    return TooManyRejectedError(
        f"{target}: {rejected:,} of {records:,} records break the contract ({rejected / records:.1%}), expected at most"
        f" {100 * max_rejected:g}%: {told}{more}. Nothing was written and nothing is lost, the ledger stays where it is:"
        " mend the contract and load again, or take them into quarantine with a higher --max-rejected and redrive them later",
        rejected=rejected,
        records=records,
        partitions=frozenset(p for p, (good, bad) in found.items() if bad > max_rejected * (good + bad)),
    )

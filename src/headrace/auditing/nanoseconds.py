"""A moment as a number, so that no setting of a warehouse has a say in how it is compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds(text: str | None) -> str | None:
    """Nanoseconds since the Unix epoch of ``2013-10-07 13:30:00.123456789``, in UTC; None of None."""
    if text is None:
        return None
    moment, _, fraction = text.partition(".")
    seconds = (datetime.fromisoformat(f"{moment}+00:00") - _EPOCH) // timedelta(seconds=1)
    return str(seconds * 10**9 + int(fraction.ljust(9, "0") or 0))

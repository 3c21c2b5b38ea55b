"""When a stock exchange is open: by its own calendar, in its own time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

_NEW_YORK = ZoneInfo("America/New_York")
_OPENS, _CLOSES, _CLOSES_EARLY = time(9, 30), time(16, 0), time(13, 0)


def is_open(moment: datetime) -> bool:
    """
    Say whether it is regular trading hours of the New York Stock Exchange: without holidays, half days to 13:00.

    Args:
        moment: With its zone.
    """
    there = moment.astimezone(_NEW_YORK)
    hours = _hours(there.date())
    return hours is not None and hours[0] <= there.time() < hours[1]


def opened(moment: datetime) -> datetime | None:
    """Return when the session began that runs at this moment, in UTC; None where none runs."""
    if not is_open(moment):
        return None
    day = moment.astimezone(_NEW_YORK).date()
    return datetime.combine(day, _OPENS, _NEW_YORK).astimezone(UTC)


@lru_cache(maxsize=64)
def _hours(day: date) -> tuple[time, time] | None:
    """When the exchange is open on that day, in New York; None: not at all."""
    if day.weekday() >= 5 or day in _calendar(day.year, "public"):
        return None
    return _OPENS, _CLOSES_EARLY if day in _calendar(day.year, "half_day") else _CLOSES


@lru_cache(maxsize=8)
def _calendar(year: int, category: str) -> frozenset[date]:
    return frozenset(holidays.financial_holidays("XNYS", years=year, categories=(category,)))

"""The number by which a feed counts its messages: who counts live and who counts again later read it alike."""

from __future__ import annotations

_DIGITS = 18
"""A text of more digits is no number of a feed."""

_EXACT = 1 << 53
"""A float says each whole number up to here."""


def sequence_number(found: object) -> int | None:
    """Read a feed's own number, of which a text or a float may be the form; None where it is no whole number."""
    if type(found) is int:  # not a bool
        return found
    if isinstance(found, str):
        return int(found) if found.isdecimal() and len(found) <= _DIGITS else None
    if isinstance(found, float):
        return int(found) if found.is_integer() and abs(found) <= _EXACT else None
    return None

"""What an examination finds, and what to do about it."""

from __future__ import annotations

from typing import Literal

import attrs

State = Literal["fine", "wrong", "unknown"]


@attrs.frozen
class Finding:
    """
    One thing that was looked at.

    Attributes:
        subject: What was looked at, in a word or two.

        state: "fine"; "wrong": somebody should do something; "unknown": it could not be told.

        found: What was found.

        advice: What to do; "" where there is nothing to do.
    """

    subject: str
    state: State
    found: str
    advice: str = ""

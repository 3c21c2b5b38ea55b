"""What an exchange keeps: where its past is asked for, and what an answer holds. No I/O, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import attrs


class HistoryRefusedError(Exception):
    """What was asked for is not to be had: asking again does not help. The text says why in few words, for the gap record."""


class HistoryLostError(Exception):
    """
    This request brought nothing; the same one may later. The text says why in few words.

    Attributes:
        wait_s: How long to wait at the least before the next one, in seconds.
    """

    def __init__(self, cause: str, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


@attrs.frozen(kw_only=True)
class Wanted:
    """
    What is missing of one symbol.

    Attributes:
        symbol: Whose.

        from_ns: What was sent before is not missing, by our clock.

        to_ns: What was sent behind is not missing, by our clock.

        last: The last number before it; None where the feed does not count, or it is not known.

        next: The first number behind it; None as before.
    """

    symbol: str
    from_ns: int
    to_ns: int
    last: int | None = None
    next: int | None = None


@attrs.frozen
class Page:
    """
    What one answer holds of what is wanted.

    Attributes:
        values: Messages in the shape of the stream, oldest first; their contract takes both.

        numbers: The feed's own count of each; None where it has none.

        following: The next page's address; "" where this is the last.
    """

    values: Sequence[bytes]
    numbers: Sequence[int] | None
    following: str


class History(ABC):
    """
    The past of a feed, page by page.

    Attributes:
        kinds: The streams that it has.
    """

    kinds: tuple[str, ...]

    def headers(self) -> Mapping[str, str]:
        """HTTP headers of each request. ConfigError where a credential is not in the environment."""
        return {}

    @abstractmethod
    def first(self, kind: str, wanted: Wanted) -> str:
        """Return the first page's address."""

    @abstractmethod
    def page(self, kind: str, wanted: Wanted, address: str, headers: Mapping[str, str], body: bytes) -> Page:
        """Understand an answer. HistoryLostError where it is none to what was asked."""


def spliced(head: bytes, value: bytes) -> bytes:
    """
    Put the fields in front that an answer has once for all of its messages; the message's own bytes stay as they are.

    Args:
        head: ``{"T":"t","S":"AAPL",``

        value: An object. HistoryLostError where it is none.
    """
    if value[:1] != b"{" or value[1:].lstrip()[:1] != b'"':
        raise HistoryLostError("an answer that holds no messages")
    return head + value[1:]

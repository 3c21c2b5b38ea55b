"""What a feed speaks: how a conversation with an exchange begins, and what its frames hold. No I/O, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Self

import attrs

from headrace.errors import ConfigError, PluginError
from headrace.plugins.market.history import History

OTHER = "other"
"""The kind of what a feed sent and nobody understood: kept to the byte, like everything else."""

GAPS = "gaps"
"""The kind of our own records that say what may be missing."""


class FeedRefusedError(ConfigError):
    """The exchange does not take these credentials or this subscription: connecting again does not help."""


class FeedLostError(Exception):
    """
    This connection is of no more use; another one may be.

    Attributes:
        cause: In few words, for the gap record.

        wait_s: How long to wait at the least before the next one, in seconds.
    """

    def __init__(self, cause: str, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.wait_s = wait_s


@attrs.frozen
class Messages:
    """
    Messages of one kind out of one frame, in their order, as columns of equal length; PluginError where they are not.

    Attributes:
        kind: Which stream they belong to: "trades".

        values: Their bytes exactly as they stand in the frame.

        symbols: What each is about; None where that is not known.

        numbers: The feed's own count by symbol, which grows by one; None where it has none.

        places: Where each stands among all that is kept of the frame, of every kind: each of 0, 1, 2, … once; None: all of a
            kind stand behind those of the kind before.
    """

    kind: str
    values: Sequence[bytes]
    symbols: Sequence[str | None]
    numbers: Sequence[int | None] | None = None
    places: Sequence[int] | None = None

    def __attrs_post_init__(self) -> None:
        count = len(self.values)
        for name, column in (("symbols", self.symbols), ("numbers", self.numbers), ("places", self.places)):
            if column is not None and len(column) != count:
                raise PluginError(
                    f"messages of kind {self.kind!r}: found {count:,} values and {len(column):,} {name}, expected one for each"
                )


@attrs.frozen
class Heard:
    """
    What a frame held.

    Attributes:
        messages: What is kept.

        replies: What is to be sent.

        subscribed: From now on nothing is missing; said again it changes nothing.

        asked: The exchange confirms no subscription: something may be missing until a message shows that it has read our words.

        held: Symbols of which nothing is missing from now on, where they are not all subscribed at once.

        ping: The answer to a ping that is sent behind our words shows that they were read.

        latest: By symbol the number of the last message that the exchange says it has sent, where it says so without sending one.
    """

    messages: Sequence[Messages] = ()
    replies: Sequence[str] = ()
    subscribed: bool = False
    latest: Mapping[str, int] = attrs.field(factory=dict)
    asked: bool = False
    held: Sequence[str] = ()
    ping: bool = False


class Dialogue(ABC):
    """One connection's conversation, from its first message on."""

    @abstractmethod
    def begin(self) -> Heard:
        """
        Say what is sent as soon as the connection is there: nobody has read it yet, so something may be missing.

        Where the exchange will confirm nothing it is `asked`, and subscribed with the first message that `hear` understands. It
        is subscribed here only where nothing has to be asked for.
        """

    @abstractmethod
    def hear(self, frame: bytes) -> Heard:
        """
        Understand one frame. What cannot be understood is kept as `OTHER`, never refused.

        Raises:
            FeedRefusedError: The exchange refuses us for good.
            FeedLostError: The exchange ends this connection, or it is of no more use.
        """


class Feed(ABC):
    """
    An exchange's stream: where it is, what of it is wanted, and how it speaks. A value: each connection has its own `Dialogue`.

    Attributes:
        name: What its streams' names begin with: "coinbase".

        symbols: What is subscribed to; gaps are told for each of them. ``("*",)`` for all.

        kinds: The streams that it brings, besides `OTHER` and `GAPS`.

        heartbeat_s: A connection on which nothing at all comes for so long is dead, in seconds; None: the exchange sends no
            heartbeats, so only pings tell.

        safe_url: The address as it may be shown: without credentials.
    """

    name: str
    symbols: tuple[str, ...]
    kinds: tuple[str, ...]
    heartbeat_s: float | None = None
    safe_url: str

    @abstractmethod
    def url(self) -> str:
        """Say where to connect to. ConfigError where a credential is not in the environment."""

    def headers(self) -> Mapping[str, str]:
        """HTTP headers of the handshake; errors as for `url`."""
        return {}

    @abstractmethod
    def dialogue(self) -> Dialogue:
        """Begin a conversation; errors as for `url`."""

    def resolved(self, get: Callable[[str, Mapping[str, str]], bytes]) -> Self:
        """
        Return the feed with symbols in the place of patterns; it is asked once, before the first connection.

        Args:
            get: Asks an address, with these HTTP headers, and returns the answer's body; its errors pass.

        Raises:
            ConfigError: A pattern matches nothing, or the exchange's list cannot be understood.
        """
        return self

    def history(self) -> History | None:
        """Say where the feed's past can be asked for; None: nowhere."""
        return None

    def quiet_s(self, moment: datetime) -> float | None:
        """For how long no message of a market is normal at this moment (UTC), in seconds; None: for any time."""
        return None

    def numbers(self) -> Mapping[str, str]:
        """
        Say in which field of a message the feed's own count stands, for each kind that holds all of it.

        The gap records carry it, so that `headrace audit` finds what was lost behind the exchange. A kind whose numbers go on in
        another kind is not named.
        """
        return {}

    def credentials(self) -> Sequence[tuple[str, bool]]:
        """Name the environment variables that are needed, and say of each whether it is there."""
        return ()

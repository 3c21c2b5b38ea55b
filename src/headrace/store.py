"""The four verbs that a lake needs of whatever keeps its objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import attrs

from headrace.errors import ConfigError
from headrace.finding import Finding


@attrs.frozen
class StoredObject:
    """
    A line of a listing.

    Attributes:
        key: Relative to the store's root, ``/`` between parts.

        size: In bytes.

        modified_s: When it was put there, seconds since the Unix epoch by the store's own clock; None where the store does
            not tell. Never earlier than that, but for a second that is cut off: it is what an object's age is taken from.
    """

    key: str
    size: int
    modified_s: float | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Page:
    """
    A part of a listing, ascending by key (as UTF-8 bytes).

    Attributes:
        objects: At most as many as the store lists at once.

        truncated: True where more may follow the last one; a look-up ends only at a page that is not (B11).
    """

    objects: Sequence[StoredObject]
    truncated: bool


class Store(ABC):
    """
    Objects by key. Safe to call from several threads.

    A lake needs one thing of a store that not every store gives: `create` must be one atomic step, so that of any number
    of writers of one key exactly one is told True. The probe (B10) finds those that do not.

    Attributes:
        place: Where it is, for people, without secrets: the root as a URI.
    """

    place: str

    @abstractmethod
    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        """
        Write the object if there is none of that name, in one request that nothing repeats of its own accord (B6, B15).

        Args:
            key: Where.

            body: The whole object.

            metadata: For people and other tools, where the store keeps any; no decision reads it (B4).

        Returns:
            True: it is stored, durable, with these bytes. False: an object of this name is there already.

        Raises:
            ConfigError: The store cannot create without overwriting, or may not be written to.
            SinkUnavailableError: It is not stored; call again.
            CommitUnknownError: It is stored or not; call again, the key decides.
        """

    @abstractmethod
    def list(self, prefix: str, after: str = "") -> Page:
        """
        List objects whose key begins with *prefix* and sorts after *after*; both are plain strings, not folders.

        Raises:
            SinkUnavailableError: It did not answer.
            ConfigError: The place may not be read.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """
        Return ``body[start:end]``, with a slice's meaning of negative numbers; None where there is no such object.

        Raises:
            SinkUnavailableError: It did not answer.
            ConfigError: The object may not be read.
        """

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none. Only `expire` and the probe's own keys come here."""
        raise ConfigError(f"{type(self).__name__} at {self.place} cannot delete {key!r}")

    def identity(self) -> str:
        """Name what a probe's verdict is about: the endpoint or disk, the bucket, the class and its version (B10)."""
        return f"{type(self).__module__}.{type(self).__qualname__} {self.place}"

    def check(self) -> Iterable[Finding]:
        """Say what only this kind of store knows of itself, for `headrace doctor`; what every store must do a lake tries out."""
        return ()

    def close(self) -> None:
        """Free what is held. A second call does nothing."""

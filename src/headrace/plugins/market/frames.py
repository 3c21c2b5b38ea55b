"""Takes a frame of JSON apart: each message keeps the bytes that it had in the frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import attrs
import msgspec

from headrace.plugins.market.feed import Messages

H = TypeVar("H")

BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def elements(text: bytes) -> list[bytes]:
    """Return those of a JSON array, each with the bytes that it has there; what is no array is one itself."""
    if text[:1] not in b"[ \t\r\n":
        return [text]
    try:
        return [bytes(raw) for raw in _ARRAY.decode(text)]
    except BROKEN:
        return [text]


def split(frame: bytes) -> list[bytes]:
    """
    Return the messages of a frame, each with the bytes that it has there: those of an array, or the frame itself.

    A frame that is no JSON is one message, and so is an empty array.
    """
    return elements(frame) or [frame]


@attrs.define
class Frames(Generic[H]):
    """
    Splits frames, and looks into their messages.

    Attributes:
        head: A struct of what has to be known of a message; each of its fields has a default.
    """

    head: type[H]
    _heads: msgspec.json.Decoder[list[H]] = attrs.field(init=False)
    _head: msgspec.json.Decoder[H] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._heads = msgspec.json.Decoder(list[self.head])  # type: ignore[name-defined]
        self._head = msgspec.json.Decoder(self.head)

    def split(self, frame: bytes) -> tuple[list[bytes], list[H | None]]:
        """Return the messages with their heads; None for one that is no object, or whose fields are of other types."""
        values = split(frame)
        if len(values) > 1:
            try:
                return values, list(self._heads.decode(frame))
            except BROKEN:
                pass  # one of them has none
        return values, [self._of(value) for value in values]

    def _of(self, value: bytes) -> H | None:
        try:
            return self._head.decode(value)
        except BROKEN:
            return None


def grouped(
    values: Sequence[bytes],
    kinds: Sequence[str | None],
    symbols: Sequence[str | None],
    numbers: Sequence[int | None] | None = None,
) -> list[Messages]:
    """Group messages by kind, each group in its order, with their places; None is left out."""
    first = kinds[0] if kinds else None
    if first is not None and kinds.count(first) == len(kinds):
        return [Messages(first, values, symbols, numbers)]
    if None in kinds:
        kept = [i for i, kind in enumerate(kinds) if kind is not None]
        kinds, values, symbols = [kinds[i] for i in kept], [values[i] for i in kept], [symbols[i] for i in kept]
        numbers = None if numbers is None else [numbers[i] for i in kept]
    found: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        if kind is not None:  # it never is, here
            found.setdefault(kind, []).append(place)
    return [
        Messages(
            kind,
            [values[i] for i in places],
            [symbols[i] for i in places],
            None if numbers is None else [numbers[i] for i in places],
            places,
        )
        for kind, places in found.items()
    ]


def counted(messages: Sequence[Messages]) -> tuple[Sequence[str | None], Sequence[int | None]]:
    """Return the symbols and the feed's own numbers of a frame, in its order: one count may go over several kinds."""
    of_kinds = [(m, m.numbers) for m in messages if m.numbers]
    if not of_kinds:
        return (), ()
    if len(of_kinds) == 1:
        return of_kinds[0][0].symbols, of_kinds[0][1]
    symbols = [symbol for m, _ in of_kinds for symbol in m.symbols]
    numbers = [number for _, of_kind in of_kinds for number in of_kind]
    places = [place for m, _ in of_kinds for place in m.places or ()]
    if len(places) < len(symbols):
        return symbols, numbers  # one kind is behind the other
    order = sorted(range(len(places)), key=places.__getitem__)
    return [symbols[i] for i in order], [numbers[i] for i in order]


def words(found: Mapping[str, object], *names: str) -> str:
    """What an exchange said, for a message of ours: short, on one line."""
    text = "; ".join(str(found[name]) for name in names if found.get(name))
    return " ".join(text.split())[:200] or "no reason given"

"""A record's key and time, taken from its value."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import attrs
import msgspec

from headrace.errors import ConfigError

Unit = Literal["auto", "s", "ms", "us", "ns"]
_TOPS: tuple[tuple[Unit, int], ...] = (("s", 10**11), ("ms", 10**14), ("us", 10**17))
_NONE = msgspec.Raw(b"null")
_DIGITS: dict[Unit, int] = {"s": 3, "ms": 0, "us": -3, "ns": -6}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


@attrs.frozen
class Fields:
    """
    Looks into values for the two fields that become a record's key and timestamp.

    Attributes:
        key: The field's name; "" for no key.

        timestamp: The field's name; "" for no timestamp.

        unit: Of a timestamp that is a number; "auto" tells by its size.
    """

    key: str = ""
    timestamp: str = ""
    unit: Unit = "auto"
    _decoder: msgspec.json.Decoder[Any] = attrs.field(init=False, repr=False, eq=False)
    _quick: msgspec.json.Decoder[Any] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        names = list(dict.fromkeys(name for name in (self.key, self.timestamp) if name))
        fields = [(f"field{i}", msgspec.Raw, _NONE) for i in range(len(names))]
        try:
            found = msgspec.defstruct("Found", fields, rename={f"field{i}": name for i, name in enumerate(names)})
        except ValueError as exc:
            raise ConfigError(f"found fields {names}, expected names without quotes and control characters") from exc
        object.__setattr__(self, "_decoder", msgspec.json.Decoder(found))
        object.__setattr__(self, "_quick", msgspec.json.Decoder(self._quick_struct()))

    def _quick_struct(self) -> type[Any]:
        """What nearly every value is: its key a text, its time a number or a text."""
        wanted: list[tuple[str, Any, Any]] = []
        if self.key:
            wanted.append(("key", str | None, None))
        if self.timestamp and self.timestamp != self.key:
            wanted.append(("stamp", int | float | str | None, None))
        if self.timestamp and self.timestamp == self.key:
            return msgspec.defstruct("Neither", [("never", int)])  # one field twice: the slow way
        return msgspec.defstruct(
            "Quick", wanted, rename={"key": self.key or "key", "stamp": self.timestamp or "stamp"}, gc=False
        )

    def of(self, values: Sequence[bytes]) -> tuple[list[bytes | None], list[int]]:
        """Return the keys, and the timestamps in milliseconds; -1 where there is none."""
        if not self.key and not self.timestamp:
            return [None] * len(values), [-1] * len(values)
        try:
            quick = list(map(self._quick.decode, values))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass  # one of them is no object, or its key is no text
        else:
            return self._columns(quick)
        found = [self._decoded(value) for value in values]
        return [key for key, _ in found], [stamp for _, stamp in found]

    def _columns(self, found: list[Any]) -> tuple[list[bytes | None], list[int]]:
        keys: list[bytes | None] = [None] * len(found)
        if self.key:
            keys = [None if f.key is None else f.key.encode() for f in found]
        if not self.timestamp:
            return keys, [-1] * len(found)
        # most feeds count milliseconds: those need no look at the unit
        low, top = {"auto": (_TOPS[0][1], _TOPS[1][1]), "ms": (0, _LAST_MS)}.get(self.unit, (0, 0))
        stamps = [f.stamp for f in found]
        return keys, [s if type(s) is int and low <= s < top else milliseconds(s, self.unit) for s in stamps]

    def _decoded(self, value: bytes) -> tuple[bytes | None, int]:
        try:
            found = msgspec.structs.astuple(self._decoder.decode(value))
            key = _key(bytes(found[0])) if self.key else None
            stamp = milliseconds(msgspec.json.decode(found[-1]), self.unit) if self.timestamp else -1
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None, -1  # a poison record has no fields; it goes its way all the same
        return key, stamp


def _key(raw: bytes) -> bytes | None:
    """A text's own bytes, or the JSON as it stands."""
    if raw == b"null":
        return None
    return msgspec.json.decode(raw, type=str).encode() if raw.startswith(b'"') else raw


def milliseconds(found: object, unit: Unit) -> int:
    """
    Milliseconds since the epoch of ISO-8601 text (UTC where it names no zone) or of a number.

    A part of a millisecond is cut off. -1 where it is no time, or one outside of the years 1970 to 9999.
    """
    try:
        if isinstance(found, str):
            when = datetime.fromisoformat(found)
            ms = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // _MS
        elif isinstance(found, (int, float)) and not isinstance(found, bool):
            if unit == "auto":
                # below 10^11 are seconds up to the year 5138, and the same span in each finer unit
                unit = next((u for u, top in _TOPS if abs(found) < top), "ns")
            # by way of its digits: 1402063200.123 is not a binary fraction
            ms = int(Decimal(repr(found)).scaleb(_DIGITS[unit]))
        else:
            return -1
    except (ValueError, ArithmeticError):
        return -1
    return ms if 0 <= ms <= _LAST_MS else -1

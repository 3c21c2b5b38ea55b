"""What was seen of one field, and the column that takes all of it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import InvalidOperation
from typing import get_args

import attrs

from headrace.cells import Rejected, cell
from headrace.columns import Column, Kind, Shape
from headrace.json_text import Number, exact

_DIGITS = 38
_HEADROOM = (4, 2)
"""Digits more than were seen, before and behind the point."""

_CHOICES = 10
_EACH_CHOICE = 20
"""A text may be one of a few when it has at most so many values, each seen so often on average."""

_TYPES: dict[Kind, str] = {
    "text": "str",
    "integer": "int",
    "decimal": "Decimal",
    "boolean": "bool",
    "timestamp": "datetime",
}
_EPOCHS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEARS = (631_152_000, 4_102_444_800)
"""1990 and 2100 in seconds: a whole number between them may be a moment."""


@attrs.define
class Field:
    """
    What was seen of one field.

    Attributes:
        name: In the record.

        seen: In so many records.

        null: In so many of these it is null.

        missing: In so many it is not there.

        kinds: How often it was of which JSON type.

        whole: Digits before the point, at most.

        scale: Digits behind it.

        integers: How many numbers are written without fraction and exponent, and fit into 64 bits.

        low: The lowest of these.

        high: The highest.

        moments: Texts that are an ISO-8601 time with its zone.

        numbers: Texts that are a number.

        texts: The different texts, while they are few.
    """

    name: str
    seen: int = 0
    null: int = 0
    missing: int = 0
    kinds: Counter[str] = attrs.field(factory=Counter)
    whole: int = 1
    scale: int = 0
    integers: int = 0
    low: int = 0
    high: int = 0
    moments: int = 0
    numbers: int = 0
    texts: Counter[str] | None = attrs.field(factory=Counter)

    def see(self, found: object) -> None:
        """Count one value, as `headrace.json_text.parsed` gives it."""
        self.seen += 1
        if found is None:
            self.null += 1
        elif isinstance(found, Number):
            self.kinds["number"] += 1
            self._see_number(found)
        elif isinstance(found, str):
            self.kinds["text"] += 1
            self._see_text(found)
        else:
            self.kinds["boolean" if isinstance(found, bool) else "array" if isinstance(found, list) else "object"] += 1

    def column(self, name: str) -> Column | None:
        """Return the column that takes all that was seen; None where there is no such one."""
        nullable = self.null + self.missing > 0
        match sorted(self.kinds):
            case []:
                return Column(name, "text", nullable=True)
            case ["text"]:
                kind: Kind = "timestamp" if self.moments == self.kinds["text"] else "text"
                return Column(name, kind, nullable=nullable)
            case ["boolean"]:
                return Column(name, "boolean", nullable=nullable)
            case ["number"] if self.integers == self.kinds["number"]:
                return Column(name, "integer", nullable=nullable)
            case ["number"] if self.whole + self.scale <= _DIGITS:
                room = _DIGITS - self.whole - self.scale
                scale = self.scale + min(_HEADROOM[1], room)
                whole = self.whole + min(_HEADROOM[0], _DIGITS - self.whole - scale)
                return Column(name, "decimal", nullable=nullable, precision=whole + scale, scale=scale)
            case ["array"] | ["object"] | ["array", "object"]:
                shapes = tuple(shape for shape in get_args(Shape) if shape in self.kinds)
                return Column(name, "json", nullable=nullable, shapes=shapes)
        return None

    def why_not(self) -> str:
        """Say why there is no column; "" where there is one."""
        if len(self.kinds) > 1 and not {"array", "object"} >= self.kinds.keys():
            return (
                ", ".join(f"{kind} in {count:,}" for kind, count in self.kinds.most_common())
                + ": no one type takes all; name one, and the others go to quarantine"
            )
        if self.column("any") is None:
            return f"numbers of {self.whole} digits before the point and {self.scale} behind it: more than {_DIGITS}"
        return ""

    def notes(self) -> list[str]:
        """Say what a person may want to know, or decide."""
        total = self.seen + self.missing
        notes = []
        if self.null or self.missing:
            parts = [(self.null, "null"), (self.missing, "not there")]
            notes.append(", ".join(f"{what} in {n:,}" for n, what in parts if n) + f" of {total:,}")
        if not self.kinds:
            notes.append("never anything else: which type it has is not known")
        if list(self.kinds) == ["number"]:
            notes += self._about_numbers()
        if list(self.kinds) == ["text"] and self.moments < self.kinds["text"]:
            notes += self._about_texts()
        return notes

    def _about_numbers(self) -> list[str]:
        if self.integers < self.kinds["number"]:
            return [f"up to {self.whole} digits before and {self.scale} behind the point were seen"]
        notes = [f"{self.low} to {self.high}"]
        for unit, per_s in _EPOCHS.items():
            if _YEARS[0] * per_s <= self.low and self.high <= _YEARS[1] * per_s:
                moments = [
                    f"{datetime.fromtimestamp(n // per_s, UTC):%Y-%m-%d %H:%M:%S}" for n in (self.low, self.high)
                ]
                notes.append(
                    f'a time since 1970? {moments[0]} to {moments[1]} in {unit}: then datetime = column(unit="{unit}")'
                )
        return notes

    def _about_texts(self) -> list[str]:
        notes = []
        if self.moments:
            notes.append(
                f"a time with its zone in {self.moments:,} of {self.kinds['text']:,} texts: no time in the others"
            )
        if self.numbers == self.kinds["text"]:
            notes.append("all texts are numbers: int or Decimal, with column(text=True)?")
        elif self.numbers:
            notes.append(f"a number in {self.numbers:,} of {self.kinds['text']:,} texts")
        if self.texts and len(self.texts) * _EACH_CHOICE <= self.kinds["text"]:
            notes.append(f"one of a few? column(one_of={tuple(sorted(self.texts))!a})")
        return notes

    def _see_number(self, digits: Number) -> None:
        try:
            _, figures, exponent = exact(digits)
        except InvalidOperation:
            self.whole = max(self.whole, 10**6)
            return
        self.whole = max(self.whole, len(figures) + exponent if figures else 1)
        self.scale = max(self.scale, -exponent)
        try:
            number = int(cell(Column(self.name, "integer"), digits) or 0)
        except Rejected:
            return
        self.low, self.high = (min(self.low, number), max(self.high, number)) if self.integers else (number, number)
        self.integers += 1

    def _see_text(self, text: str) -> None:
        self.moments += _takes(Column(self.name, "timestamp"), text)
        self.numbers += _takes(Column(self.name, "decimal", precision=38, scale=12, text=True), text)
        if self.texts is not None:
            self.texts[text] += 1
            if len(self.texts) > _CHOICES or len(text) > 40:
                self.texts = None


def type_of(column: Column) -> str:
    """The annotation of a column."""
    shapes = {"array": "list", "object": "dict"}
    names = [_TYPES[column.kind]] if column.kind != "json" else [shapes[shape] for shape in column.shapes]
    return " | ".join([*names, *(["None"] if column.nullable else [])])


def _takes(column: Column, text: str) -> bool:
    try:
        cell(column, text)
    except Rejected:
        return False
    return True

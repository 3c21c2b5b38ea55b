"""One column of a contract: what it holds, where it comes from, what its values must keep."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import attrs

Kind = Literal["text", "integer", "decimal", "boolean", "timestamp", "json"]
Unit = Literal["iso", "s", "ms", "us", "ns"]
Shape = Literal["array", "object"]
Origin = Literal["value", "key", "timestamp", "offset"]

MAX_BYTES = 16_000_000
"""
Bytes of a text or a nested value in UTF-8. Snowflake's limits, by its reference of data types, are 16 MB for a VARIANT and
16,777,216 bytes for a VARCHAR: this fits both, whatever an MB is, and every warehouse gets the same rows.
"""


@attrs.frozen
class Column:
    """
    One column of a row.

    Attributes:
        name: In the table.

        kind: "text", "integer" (of 64 bits), "decimal" (exact), "boolean", "timestamp" (a moment in UTC with nanoseconds), or
            "json" (a nested value).

        nullable: Whether null, or no such field, is a value.

        source: Where it is in the record's value: the names from the outside in. Empty where it is not in the value.

        precision: Digits of a decimal, at most 38.

        scale: Of these, behind the point.

        unit: How a moment is written: "iso" is ISO-8601 text with its zone, the others an integer since the Unix epoch.

        text: A number that is written as a JSON string.

        minimum: Smallest value.

        maximum: Largest value.

        one_of: The only values of a text.

        max_length: Characters that a text has at most (Unicode code points).

        default: The cell, as `headrace.rowwise.TypedRow` has it, in the place of null and of no such field; None: no default.

        record: Which part of the record it comes from: "value", or its "key", "timestamp" or "offset".

        shapes: What a nested value may be on its outside.

        comment: What the class's docstring says of it under ``Attributes:``, or one that it inherits from.
    """

    name: str
    kind: Kind
    nullable: bool = False
    source: tuple[str, ...] = ()
    precision: int = 38
    scale: int = 9
    unit: Unit = "iso"
    text: bool = False
    minimum: int | Decimal | None = None
    maximum: int | Decimal | None = None
    one_of: tuple[str, ...] = ()
    max_length: int | None = None
    default: str | None = None
    record: Origin = "value"
    shapes: tuple[Shape, ...] = ()
    comment: str = ""

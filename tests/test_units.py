"""Sizes and times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.units import format_bytes, parse_bytes, parse_seconds, parse_share


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("7b", 7),
        ("64KB", 64_000),
        ("64kib", 65_536),
        ("32MiB", 33_554_432),
        ("32M", 33_554_432),
        ("1.5GiB", 1_610_612_736),
        ("2 TB", 2_000_000_000_000),
        (" 1 k ", 1024),
    ],
)
def test_sizes(text: str, count: int):
    """KB counts in thousands, KiB and K in 1,024s; case and blanks do not matter."""
    assert count == parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("30s", 30.0), ("500ms", 0.5), ("1.5h", 5400.0), ("5m", 300.0), ("5min", 300.0), ("7D", 604_800.0)],
)
def test_times(text: str, seconds: float):
    """A time without a unit is in seconds; m is minutes."""
    assert seconds == pytest.approx(parse_seconds(text))


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e3", "1,5k", "12 monkeys", "1 2", "0x10", "\u0661", "nan", "1.k", ".5k"]
)
@pytest.mark.parametrize("parse", [parse_bytes, parse_seconds])
def test_nonsense(parse, text: str):
    """What is no quantity is refused, with what was found and what would have been right."""
    with pytest.raises(ConfigError, match=r"found '.*', expected a (size|time): .* \(for example 32MiB or 30s\)"):
        parse(text)


def test_units_are_not_mixed_up():
    """A time is no size, and a size is no time."""
    with pytest.raises(ConfigError, match="found '30s', expected a size"):
        parse_bytes("30s")
    with pytest.raises(ConfigError, match="found '32MiB', expected a time"):
        parse_seconds("32MiB")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (33_554_432, "32.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1024**5, "1024.0 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str):
    """A size is shown in the largest unit of which it has one."""
    assert text == format_bytes(count)


@given(st.integers(0, 2**50))
def test_bytes_are_exact(count: int):
    """A plain number of bytes is read to the byte."""
    assert count == parse_bytes(str(count))


@given(st.integers(0, 2**45))
def test_shown_sizes_can_be_read(count: int):
    """What is shown can be given back, and is the size to its last shown digit."""
    shown = format_bytes(count)
    unit = parse_bytes(f"1{shown.split()[1]}")
    assert abs(count - parse_bytes(shown)) <= 0.05 * unit + 1


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("100 %", 1.0), ("0.5%", 0.005)])
def test_shares(text: str, share: float):
    """With the sign it is of a hundred, without it of one."""
    assert share == pytest.approx(parse_share(text))


@pytest.mark.parametrize("text", ["", "5", "101%", "-1%", "x%", "nan", "1,5%"])
def test_no_shares(text: str):
    """More than everything is no share."""
    with pytest.raises(ConfigError):
        parse_share(text)

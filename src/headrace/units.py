"""Sizes, times and counts as people write them: ``32MiB``, ``30s``, ``1 segment``."""

from __future__ import annotations

import re

from headrace.errors import ConfigError

_BYTES = {"": 1, "b": 1} | {
    letter + unit: base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("ib", 1024), ("", 1024))
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", re.ASCII)


def parse_bytes(text: str) -> int:
    """Read a size: ``1000``, ``64KB`` (1,000 each), ``32MiB`` or ``32M`` (1,024 each). ConfigError if it is none."""
    number, unit = _split(text, "a size", _BYTES)
    return int(number * _BYTES[unit])


def parse_seconds(text: str) -> float:
    """Read a time: ``30`` or ``30s``, ``500ms``, ``5m``, ``2h``, ``7d``. ConfigError if it is none."""
    number, unit = _split(text, "a time", _SECONDS)
    return number * _SECONDS[unit]


def parse_share(text: str) -> float:
    """Read a share: ``5%`` or ``0.05``, from 0 to 1. ConfigError if it is none."""
    match = _SHARE.fullmatch(text)
    found = -1.0 if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 <= found <= 1:
        raise ConfigError(f"found {text!r}, expected a share from 0% to 100%, such as 5%")
    return found


def counted(number: int, word: str) -> str:
    """Write a number and what it counts: ``1 segment``, ``1,200 segments``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """Write a size for people: ``32.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Write a time for people, in one unit: ``36 h``, ``3 d``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _split(text: str, what: str, units: dict[str, float] | dict[str, int]) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"found {text!r}, expected {what}: a number and one of {known} (for example 32MiB or 30s)")
    return float(match[1]), match[2].lower()

"""What is followed: a list in the URI, a file, or patterns that an exchange's own list is held against."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import ConfigError
from headrace.plugins.market.frames import BROKEN
from headrace.uri import URI


def symbols_of(uri: URI, text: str) -> tuple[str, ...]:
    """
    Return the symbols of a list such as ``AAPL,MSFT``, and those of the file that ``?symbols_file=`` names, one a line.

    Lines that begin with ``#`` are passed over. ConfigError where there is none, or the file cannot be read.
    """
    found = [s.strip() for s in text.strip("/").split(",")]
    path = uri.settings.get("symbols_file") or uri.settings.get("symbols-file")
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(
                f"symbols_file={path} cannot be read ({exc}); expected a file of symbols, one a line"
            ) from exc
        found += [line.strip() for line in lines if not line.lstrip().startswith("#")]
    symbols = tuple(dict.fromkeys(s for s in found if s))
    if not symbols:
        raise ConfigError(f"found no symbol in {uri}, expected a list such as AAPL,MSFT, or ?symbols_file=PATH")
    return symbols


def is_pattern(symbol: str) -> bool:
    """Whether it stands for many: ``A*``."""
    return "*" in symbol


def matched(symbols: Sequence[str], listed: Collection[str], where: str) -> tuple[str, ...]:
    """
    Put symbols in the place of patterns, in the order of the alphabet; ConfigError where a pattern matches none.

    Args:
        symbols: Some of them patterns.

        listed: All that there are.

        where: Who has listed them, for messages.
    """
    found: dict[str, None] = {}
    for symbol in symbols:
        hits = sorted(s for s in listed if fnmatchcase(s, symbol)) if is_pattern(symbol) else [symbol]
        if not hits:
            raise ConfigError(f"{symbol} matches none of the {len(listed):,} symbols of {where}; check the pattern")
        found |= dict.fromkeys(hits)
    return tuple(found)


def listed(body: bytes, field: str, where: str) -> list[str]:
    """Return the names in an exchange's list: a JSON array of objects, each with its name in a field. ConfigError else."""
    try:
        named: list[dict[str, object]] = msgspec.json.decode(body, type=list[dict[str, object]])
        return [str(each[field]) for each in named]
    except (*BROKEN, KeyError):
        raise ConfigError(f"{where} answered with no list of symbols; check the address") from None


def kinds_of(uri: URI) -> dict[str, Any]:
    """Return what ``?kinds=trades,quotes`` asks for, as an argument of a feed; empty where it is not there."""
    found = uri.settings.get("kinds")
    return {} if found is None else {"wanted": tuple(k.strip() for k in found.split(",") if k.strip())}

"""What is followed: a list in the URI, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
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


def kinds_of(uri: URI) -> dict[str, Any]:
    """Return what ``?kinds=trades,quotes`` asks for, as an argument of a feed; empty where it is not there."""
    found = uri.settings.get("kinds")
    return {} if found is None else {"wanted": tuple(k.strip() for k in found.split(",") if k.strip())}

"""Credentials come from the environment only: texts name the variables, never the values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from headrace.errors import ConfigError

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def variable(name: str) -> str:
    """Return an environment variable's value. ConfigError where it is not there."""
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not in the environment; credentials of a feed come from there: export {name}=…")
    return value


def filled(text: str) -> str:
    """Put values in the place of ``${NAME}``. ConfigError where one is not in the environment."""
    return _NAME.sub(lambda found: variable(found[1]), text)


def named(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield the variables that the texts name, and whether each is there."""
    for name in dict.fromkeys(found for text in texts for found in _NAME.findall(text)):
        yield name, bool(os.environ.get(name))

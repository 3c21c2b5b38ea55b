"""Credentials come from the environment only: texts name the variables, never the values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from headrace.errors import ConfigError

_SHORT, _PART = 6, 12
"""What is shorter is no secret, and would spoil texts; what is cut off is looked for from so many characters on."""

_USER = re.compile(r"^([a-z]+://)?[^/?#]*@", re.IGNORECASE)
_CUT = re.compile(
    r"^([a-z]+://)?(?!\[)[^/?#@]*:(?!//|([0-9]+|\$\{\w+\})[/?#])[^/?#@]*[/?#].*@.*", re.IGNORECASE | re.DOTALL
)
"""What looks like a host and a port is a user and the beginning of a password, which a '/', a '?' or a '#' has cut."""

_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def shown(address: str) -> str:
    """Return an address without what may hold a key: a user, a password, and the query; ``***`` where no host can be told."""
    whole = _CUT.sub(r"\1***", address)
    return _USER.sub(r"\1", re.split(r"[?#]", whole, maxsplit=1)[0])


def variable(name: str) -> str:
    """Return an environment variable's value. ConfigError where it is not there."""
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not in the environment; credentials of a feed come from there: export {name}=…")
    return value


def filled(text: str) -> str:
    """Put values in the place of ``${NAME}``. ConfigError where one is not in the environment."""
    return _NAME.sub(lambda found: variable(found[1]), text)


def hidden(text: str, names: Iterable[str]) -> str:
    """Put ``${NAME}`` in the place of values in a text that comes from outside, also where it is cut off inside of one."""
    for name in names:
        value = os.environ.get(name, "")
        if len(value) >= _SHORT:
            text = text.replace(value, f"${{{name}}}")
        for length in range(len(value) - 1, _PART - 1, -1):
            text = text.replace(value[:length], f"${{{name}}}")
    return text


def named(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield the variables that the texts name, and whether each is there."""
    for name in dict.fromkeys(found for text in texts for found in _NAME.findall(text)):
        yield name, bool(os.environ.get(name))

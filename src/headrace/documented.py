"""A contract's docstring: what it says of the table, and under ``Attributes:`` of each column."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"    ([A-Za-z][A-Za-z0-9_]*)(?: *\([^)]*\))?: *(.*)")


def comments(doc: str) -> tuple[str, dict[str, str]]:
    """
    Take a docstring apart: the text before ``Attributes:``, and what stands there under each name, on one line.

    It is Google's style of docstrings: ``name: what it is``, indented by four, longer ones indented further.
    """
    text, heading, section = inspect.cleandoc(doc).partition("\nAttributes:\n")
    if not heading:
        return text.strip(), {}
    found: dict[str, list[str]] = {}
    words: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if (entry := _ENTRY.fullmatch(line)) is not None:
            words = found.setdefault(entry[1], [])
            words.append(entry[2])
        elif line.strip():
            words.append(line.strip())
    return text.strip(), {name: " ".join(filter(None, lines)) for name, lines in found.items()}

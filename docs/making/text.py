"""Docstrings and cells, as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap

SECTIONS = ("Attributes", "Args", "Raises", "Returns", "Yields")


def cell(text: str) -> str:
    """A text in one cell of a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Outside of code, what Markdown would take for a tag, an emphasis or a link."""
    parts = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(
        part if part.startswith("`") else re.sub(r"(?<!\w)_(?=\w)|(?<=\w)_(?!\w)", r"\\_", part.replace("<", "&lt;"))
        for part in parts
    )


def doc(thing: object) -> str:
    """A docstring of Google's sections, as Markdown."""
    out: list[str] = []
    for block in re.split(r"\n(?=[A-Z][a-z]+:\n)", inspect.getdoc(thing) or ""):
        title, _, rest = block.partition(":\n")
        if title not in SECTIONS:
            out.append(_paragraphs(block))
            continue
        rest = textwrap.dedent(rest)
        entries = re.findall(r"(?m)^(\w[\w.* ,]*): (.*(?:\n(?: +.*|(?=\n)))*)", rest)
        if title in {"Returns", "Yields"} or not entries:
            out.append(f"*{title}:* {escaped(' '.join(rest.split()))}")
        else:
            out.append(
                f"*{title}:*\n\n"
                + "\n".join(f"- `{name}`: {escaped(' '.join(words.split()))}" for name, words in entries)
            )
    return "\n\n".join(out)


def _paragraphs(block: str) -> str:
    """Prose is folded anew; what follows a double colon, or is indented, stays code."""
    out = []
    for paragraph in re.split(r"\n\s*\n", block.strip("\n")):
        if paragraph.startswith("    "):
            out.append(f"```text\n{textwrap.dedent(paragraph)}\n```")
        elif paragraph.strip() != "::":
            out.append(escaped(" ".join(paragraph.removesuffix("::").split())))
    return "\n\n".join(out)

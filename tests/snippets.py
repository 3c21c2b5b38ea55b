"""
Puts code into pages: ``python tests/snippets.py docs/pages/plugins.md`` fills the block behind each marker anew.

A marker is ``<!-- code: FILE -->`` for a whole file, ``<!-- code: FILE NAME -->`` for a function, class, constant or
``Class.method``; ``Class.fields`` is a class down to its first method. A test compares, so that what a page shows is what is
tested.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- code: (\S+)(?: ([\w., ]+))? -->\n```(?:python|toml|bash)\n).*?(\n```)", re.DOTALL)


def code(file: str, names: str | None) -> str:
    """A file, or definitions of it, one below the other."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if names is None:
        return text.strip("\n")
    return "\n\n".join(definition(text, name) for name in names.split(", "))


def definition(text: str, name: str) -> str:
    body: list[ast.stmt] = ast.parse(text).body
    whole = name.removesuffix(".fields")
    for part in whole.split("."):
        (node,) = (n for n in body if _name(n) == part)
        body = getattr(node, "body", [])
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno
    if whole != name:
        last = max(n.end_lineno or 0 for n in body if isinstance(n, ast.AnnAssign))
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : last]))


def _name(node: ast.stmt) -> str:
    if isinstance(node, ast.Assign):
        return getattr(node.targets[0], "id", "")
    return getattr(node, "name", "")


def filled(page: str) -> str:
    """The page with every block as its file has it."""
    return BLOCK.sub(lambda found: found[1] + code(found[2], found[3]) + found[4], page)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")

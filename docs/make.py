"""
Writes the pages that are made from the code, and ``llms.txt``: ``python docs/make.py``.

With ``--check`` nothing is written: the exit code is 1 where a page is not what the code says now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from making import api, commands, dags, llms, settings

PAGES = Path(__file__).parent / "pages"
MADE: dict[str, Callable[[], str]] = {
    "reference/cli.md": commands.page,
    "reference/settings.md": settings.page,
    "reference/api.md": api.page,
    "reference/dags.md": dags.page,
    "llms.txt": llms.page,  # last: it quotes the pages
}


def _marked(name: str, text: str) -> str:
    """With a word below the title, for whoever would change the page itself."""
    title, rest = text.split("\n", 1)
    note = "\n<!-- made by docs/make.py: change the code, then run `python docs/make.py` -->\n"
    return f"{title}\n{note}{rest}" if name.endswith(".md") else text


def main() -> int:
    stale = []
    for name, make in MADE.items():
        path, text = PAGES / name, _marked(name, make())
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/pages/{name} is not what the code says now: run `python docs/make.py`")
        return 1 if stale else 0
    print(f"written: {', '.join(stale) or 'nothing, all is as it was'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

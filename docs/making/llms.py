"""``llms.txt`` (llmstxt.org): each page of the site with its first sentence, for programs that read."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
HEAD = """# headrace

> A Python library that carries a stream from Kafka to a lake (bronze: JSON lines or Parquet on S3 or a disk) and on to a
> warehouse (silver: DuckDB, Snowflake), every record exactly once. Each commit to the lake is one create-only PUT, each
> load one transaction with a ledger in it.

Install it from a checkout with `pip install '.[kafka,duckdb,cli]'`. Components are named by URIs, such as
`kafka://127.0.0.1:9092/trades?group=bronze` and `file:///lake`. Links are relative to the root of the site.
"""


def page() -> str:
    text = HEAD
    for depth, title, path in nav():
        if not path:
            text += f"\n## {title}\n\n" if depth == 0 else ""
        elif path != "index.md":
            text += f"- [{title or _title(path)}]({_url(path)}): {_sentence(path)}\n"
    return text


def nav() -> list[tuple[int, str, str]]:
    """The entries of mkdocs.yml's nav in their order: how deep, title ("" for the page's own), path ("" for a group)."""
    block = re.search(r"(?m)^nav:\n((?: +.*\n)+)", (DOCS / "mkdocs.yml").read_text(encoding="utf-8"))
    assert block is not None
    found = []
    for line in block[1].splitlines():
        entry = re.fullmatch(r"( *)- (?:([^:]+):)? ?(\S+\.md)?", line)
        assert entry is not None, line
        found.append((len(entry[1]) // 4, entry[2] or "", entry[3] or ""))
    return found


def _url(path: str) -> str:
    return path.removesuffix("index.md") if path.endswith("index.md") else f"{path.removesuffix('.md')}/"


def _text(path: str) -> str:
    text = (DOCS / "pages" / path).read_text(encoding="utf-8")
    return re.sub(r"(?sm)<!--.*?-->\s*|^```.*?^```$", "", text)


def _title(path: str) -> str:
    return _text(path).partition("\n")[0].removeprefix("# ")


def _sentence(path: str) -> str:
    """The first sentence of the first paragraph, without links."""
    for paragraph in _text(path).split("\n\n")[1:]:
        if re.match(r"[A-Za-z`*]", paragraph):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())).replace("**", "")
            return re.split(r"(?<=[.:?])\s(?=[A-Z`0-9])", plain)[0].rstrip(":.") + "."
    return _title(path)

"""The page of the example DAGs: their files, as the tests run them."""

from __future__ import annotations

import ast
from pathlib import Path

DAGS = Path(__file__).parents[2] / "examples" / "dags"
HEAD = """# The example DAGs

The files of `examples/dags`, as `nox -s airflow` runs them. How they are set up, and what they were put through, says
[Airflow](../airflow.md).

"""
FILES = ("headrace_places", "bronze_to_silver", "bars", "nightly_audit", "redrive_quarantine")


def page() -> str:
    return HEAD + "\n".join(_file(name) for name in FILES)


def _file(name: str) -> str:
    source = (DAGS / f"{name}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return f"## {name}.py\n\n{first}\n\n```python\n{source}```\n"

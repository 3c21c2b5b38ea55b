"""The page of guarantees names tests that are there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/pages/guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py(?:::\w+)?)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_is_there(name: str):
    """A guarantee without its test would be a claim."""
    path, _, test = name.partition("::")
    functions = {
        n.name for n in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if isinstance(n, ast.FunctionDef)
    }
    assert (not test) or test in functions


def test_every_promise_has_a_test():
    """No line of the tables stands alone."""
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not re.match(r"\| (promise|fault|without) ", line)
    ]
    assert len(rows) > 30
    assert [] == [row for row in rows if "tests/" not in row and "| chaos" not in row]


def test_the_page_of_the_live_run_is_made_from_its_results():
    """Nor here; and what was missing in that run was told, to the number."""
    results = ROOT / "tests/live/results.json"
    made = subprocess.run(
        [sys.executable, ROOT / "tests/live/page.py", results], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs/pages/live.md").read_text(encoding="utf-8") == made.stdout
    found = json.loads(results.read_text(encoding="utf-8"))
    wrong = [found["verdict"][name] for name in ("unexplained", "overclaimed", "doubled", "changed", "disordered")]
    assert [0, 0, 0, 0, 0] == wrong
    assert [0, 0] == [audit["code"] for audit in found["audits"].values()]
    assert [] == found["alarms"]


def test_the_page_of_chaos_is_made_from_its_results():
    """Nobody wrote a number by hand, and the run that it shows found nothing, with every fault."""
    results = ROOT / "tests/chaos/results.json"
    made = subprocess.run(
        [sys.executable, ROOT / "tests/chaos/page.py", results], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs/pages/chaos.md").read_text(encoding="utf-8") == made.stdout
    found = json.loads(results.read_text(encoding="utf-8"))
    wrong = [
        found[name] for name in ("lost", "duplicated", "changed", "disordered", "broken", "bad_rounds", "never_drawn")
    ]
    assert [0, 0, 0, 0, 0, [], []] == wrong
    assert all(about["lost"] + about["duplicated"] for about in found["controls"].values())

"""
Makes a page of the faults that the kit convicts: ``python page.py > planted.md``.

The tables are those that the tests here are made from: each row is a test that passes only where the kit convicts.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent

TITLE = """# Faults that the kit convicts

Each line is a component that was broken on purpose, in one place, and what of the kit convicts it; the same suite or story
acquits the component that the fault was planted into. Each line is a test of headrace's own, so a suite that no longer sees
a fault fails there first. This page is made from the tables of those tests (`tests/contracts/page.py`), and a test
compares the two.
"""

RARE = (
    "What loses or doubles records only when something fails, or in an order of events that is rare. `T1` to `T19` are the"
    " [traces of the protocol](protocol.md#traces) that broke easier wordings."
)

SUITES = {
    "test_stores.py": ("store", "BROKEN", "StoreContract"),
    "test_sinks.py": ("sink", "BROKEN", "ExactlyOnceSinkContract"),
    "test_sources.py": ("source", "BROKEN", "SourceContract"),
    "test_loaders.py": ("loader", "BROKEN", "LoaderContract"),
}
OTHERS = (
    ("test_loaders.py", "loader with a key", "BROKEN_KEYS", "KeyedLoaderContract"),
    ("test_loaders.py", "loader that an audit asks", "BROKEN_AUDITED", "AuditedLoaderContract"),
)

STORIES = {
    "test_without_b2_two_writers_begin_a_chain": (
        "sink",
        "the first segment stands at its first record's offset",
        "B2, T1",
    ),
    "test_without_b11_a_deleted_head_is_written_again": ("sink", "it follows the chain from a hint", "B11, T2"),
    "test_without_b16_a_reset_loses_records_in_silence": (
        "source",
        "it goes to the log's beginning by itself",
        "B16, T3",
    ),
    "test_without_b26_what_was_missed_is_never_fetched": (
        "pipeline",
        "after a refusal it adopts the end and goes on",
        "B26, T4",
    ),
    "test_without_b24_a_write_lands_at_a_position_that_was_only_hoped_for": (
        "pipeline",
        "it sends the next write before the answer",
        "B24, T7",
    ),
    "test_a_store_that_ignores_the_condition_breaks_a_chain": ("store", "it ignores the condition", "B6"),
    "test_a_store_that_does_not_keep_its_word_is_refused": ("store", "it overwrites, or lists late: the probe", "B10"),
}
"""What the stories of `tests/test_machine.py` are about: wordings of the protocol that look right."""

Row = tuple[str, str, str]


def assigned(file: Path, name: str) -> ast.expr:
    """What a module assigns to a name, unread."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    raise LookupError(f"{file} has no {name}")


def planted() -> Iterator[Row]:
    table = assigned(HERE / "test_planted.py", "PLANTED")
    assert isinstance(table, ast.List)
    for call in table.elts:
        assert isinstance(call, ast.Call)
        kind, fault, rule, by = (ast.literal_eval(argument) for argument in call.args[:4])
        yield kind, f"{fault} ({rule})", f"`{by}`"


def stories() -> Iterator[Row]:
    tree = ast.parse((HERE.parent / "test_machine.py").read_text(encoding="utf-8"))
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for test, (kind, fault, rule) in STORIES.items():
        assert test in there, test
        yield kind, f"{fault} ({rule})", "`World`"


def suites() -> Iterator[Row]:
    for file, kind, name, suite in [*((file, *about) for file, about in SUITES.items()), *OTHERS]:
        table = assigned(HERE / file, name)
        assert isinstance(table, ast.Dict)
        for key, value in zip(table.keys, table.values, strict=True):
            fault = ast.literal_eval(key) if key else ""
            assert isinstance(value, ast.Tuple)
            if fault != "nothing":
                tests = sorted(ast.literal_eval(value.elts[1]))
                yield kind, fault, f"`{suite}`: " + ", ".join(t.removeprefix("test_").replace("_", " ") for t in tests)


def page() -> str:
    """Write it."""
    of_rules, of_promises = [*planted(), *stories()], [*suites()]
    lines = [
        TITLE,
        f"## {len(of_rules)} faults against the rules",
        "",
        RARE,
        "",
        "| component | fault | convicted by |",
        "|---|---|---|",
        *(f"| {kind} | {fault} | {by} |" for kind, fault, by in sorted(of_rules)),
        "",
        f"## {len(of_promises)} faults against the promises of an interface",
        "",
        "| component | fault: it … | convicted by, of the suite |",
        "|---|---|---|",
        *(f"| {kind} | {fault} | {by} |" for kind, fault, by in sorted(of_promises)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

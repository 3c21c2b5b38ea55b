"""Every fault that we know of is named at its place, and the page that says so is made by this run."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest
from audit_faults import FAULTS, Fault, names, page, told
from audit_world import healthy

from headrace.auditing.result import AuditResult

PAGE = Path(__file__).parents[2] / "docs/pages/audit-faults.md"

Told = dict[Fault, AuditResult]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("faults")
    pattern = healthy(folder / "healthy")
    assert duckdb.__version__
    return {fault: told(fault, pattern, folder / str(n)) for n, fault in enumerate(FAULTS)}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.name}{', deep' if f.deep else ''}")
def test_a_fault_is_named_at_its_place(results: Told, fault: Fault):
    """The audit says its class, the partition and the offsets, with evidence and a next step, and ends with 1, or with 2."""
    result = results[fault]

    assert any(names(finding, fault.expected) for finding in result.findings), list(map(str, result.findings))
    assert all(finding.evidence and finding.advice for finding in result.findings)
    wanted = ("unknown", 2) if fault.expected[0] == "unknown" else ("incomplete", 1)
    assert wanted == (result.verdict, result.exit_code)


def test_the_faults_are_many():
    """At least thirty different ones."""
    assert len({fault.name for fault in FAULTS}) >= 90


def test_the_page_is_made_by_this_run(results: Told):
    """The table in the docs is what was found just now; HEADRACE_WRITE_DOCS=1 writes it."""
    found = page(list(results.items()))
    if os.environ.get("HEADRACE_WRITE_DOCS"):
        PAGE.write_text(found, encoding="utf-8")

    assert found == PAGE.read_text(encoding="utf-8")
    assert "missed" not in found

"""What the modules here share: how a contract is seen to fail."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest


@pytest.fixture
def failing(pytester: pytest.Pytester) -> Callable[[str], set[str]]:
    """Run the text of a test module, as a stranger's, and return the names of the tests that failed, without parameters."""

    def run(text: str) -> set[str]:
        pytester.makepyfile(test_stranger=textwrap.dedent(text))
        done = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:randomly", "-q", "--tb=no")
        passed, _, failed = done.listoutcomes()
        assert passed, "what is broken in one place keeps most of the contract: else the test is about something else"
        return {report.nodeid.rpartition("::")[2].partition("[")[0] for report in failed}

    return run

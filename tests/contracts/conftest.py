"""What the modules here share: how a contract is seen to fail."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable

import pytest


@pytest.fixture
def failing(pytester: pytest.Pytester) -> Callable[..., set[str]]:
    """
    Run the text of a test module, as a stranger's, and return the names of the tests that failed, without parameters.

    Given names, only these tests run: what a broken component is expected to fail. One whose preparation fails did not run.
    """

    def run(text: str, wanted: Iterable[str] = ()) -> set[str]:
        pytester.makepyfile(test_stranger=textwrap.dedent(text))
        selected = ["-k", " or ".join(sorted(wanted))] if wanted else []
        done = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:randomly", "-q", "--tb=no", *selected)
        passed, _, failed = done.listoutcomes()
        assert passed or wanted
        return {report.nodeid.rpartition("::")[2].partition("[")[0] for report in failed if report.when == "call"}

    return run

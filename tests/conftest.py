"""What holds for every test: profiles of Hypothesis, sets of extras, and no service test that skips unseen."""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Verbosity, settings

CI = os.environ.get("CI", "").lower() in ("true", "1")
SERVICES = Path(__file__).parent / "services"

sys.path.insert(0, str(Path(__file__).parent))  # `playing` stands beside the tests

settings.register_profile("default", deadline=None)
# the same examples in every run, so that a change is never blamed for what another one did
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile(
    "nightly",
    parent=settings.get_profile("default"),
    max_examples=2_000,
    print_blob=True,
    verbosity=Verbosity.normal,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "default"))


CLIENTS = {
    "confluent_kafka": ("headrace.plugins.kafka", "headrace.testing.servers.topics"),
    "duckdb": (
        "audit_faults",
        "audit_world",
        "headrace.plugins.duckdb",
        "headrace.plugins.snowflake",
        "headrace.typed",
        "headrace.demo.account",
        "headrace.demo.agreement",
        "headrace.demo.check",
        "headrace.demo.demo",
        "headrace.demo.live",
        "headrace.demo.page",
    ),
    "s3fs": ("botocore", "headrace.plugins.lake.s3"),
    "websockets": (
        "headrace.demo.live",
        "headrace.demo.tape",
        "headrace.plugins.market.alpaca",
        "headrace.plugins.market.coinbase",
        "headrace.plugins.market.connection",
        "headrace.plugins.market.json_feed",
        "headrace.plugins.market.source",
        "headrace.plugins.market.supervisor",
        "headrace.testing.servers.chromium",
        "headrace.testing.servers.exchange",
        "market_following",
    ),
    "urllib3": ("headrace.plugins.market.backfill", "headrace.plugins.market.fetching"),
    "snowflake": ("headrace.plugins.snowflake",),
    "typer": ("headrace.cli",),
    "jsonschema": (),
    "yaml": (),
    "prometheus_client": ("headrace.watching.ended", "headrace.watching.meters", "headrace.watching.watching"),
}
"""What comes with an extra, and which of our modules cannot be imported without it."""
MISSING = {
    name for client, modules in CLIENTS.items() if find_spec(client) is None for name in (client, *modules)
}  # none of it where all extras are installed


@pytest.fixture
def logging_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command of the CLI sets up for its process is gone after the test; no setting of whoever runs it is seen."""
    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


LONGEST = ("test_chaos.py", "test_loaders.py", "test_machine.py", "test_benchmarks.py")
"""Files that take minutes: begun first, so that no processor waits for one of them in the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist, where it is there, begin files in their order; by default those of few tests come last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: a test that restarts a broker waits more than it computes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_report_header() -> list[str]:
    return (
        [f"not installed, so what needs them is left out: {', '.join(sorted(MISSING & set(CLIENTS)))}"]
        if MISSING
        else []
    )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the modules whose imports need an extra that is not installed: the core stands alone."""
    if not MISSING or collection_path.suffix != ".py":
        return None
    imported: set[str] = set()
    for node in ast.parse(collection_path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return True if any(name == m or name.startswith(f"{m}.") for name in imported for m in MISSING) else None


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn the skip into a failure: in CI a service that is missing is a fault of CI, not a reason to pass."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"in CI a service test may not skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("services"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if CI and report.skipped and collector.path.is_relative_to(SERVICES):
        _refuse_skip(report)
    return report

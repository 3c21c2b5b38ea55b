"""What an import brings with it: nothing that was not asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CLIENTS = {
    "airflow",
    "backports",
    "confluent_kafka",
    "duckdb",
    "fsspec",
    "holidays",
    "hypothesis",
    "isal",
    "obstore",
    "prometheus_client",
    "pyarrow",
    "pytest",
    "rich",
    "s3fs",
    "snowflake",
    "structlog",
    "typer",
    "urllib3",
    "websockets",
}
"""Whatever takes long to import, or comes with an extra."""


def brought(code: str) -> set[str]:
    """The modules that this code imports, in a process of its own."""
    program = (
        f"import json, sys\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    # -I: neither this folder nor the environment has a say
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_import_is_light():
    """`import headrace` imports no module of ours but itself, and no dependency, not even attrs."""
    modules = brought("import headrace")
    assert {"headrace"} == {m for m in modules if m.partition(".")[0] == "headrace"}
    assert set() == packages(modules) & (CLIENTS | {"attr", "attrs", "msgspec", "pluggy", "tenacity", "asyncio"})


def test_version_is_read_late():
    """The metadata is read when somebody asks for the version, not before."""
    assert "importlib.metadata" not in brought("import headrace")
    assert "importlib.metadata" in brought("import headrace; headrace.__version__")


@pytest.mark.parametrize(
    "code",
    [
        "from headrace import *",
        "from headrace import Pipeline",
        "from headrace import Registry; assert Registry.discover().schemes('source')",
        "import headrace.airflow",
    ],
    ids=["everything", "pipeline", "discover", "airflow"],
)
def test_core_brings_no_client_library(code: str):
    """All public names together, and the discovery of all plugins, bring no client library."""
    assert set() == packages(brought(code)) & CLIENTS


def test_listener_hears():
    """The negative control: what the tests above look for would be found."""
    assert {"fsspec"} <= packages(brought("import headrace, fsspec")) & CLIENTS

"""In CI no service test passes by not running."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "services/test_module.py": "import pytest\npytest.importorskip('headrace_no_such_client')\n",
    "test_services.py": (
        "import pytest\n@pytest.mark.services\ndef test_one():\n    pytest.skip('no broker here')\n"
        "@pytest.mark.services\n@pytest.mark.xfail\ndef test_known():\n    assert False\n"
    ),
    "test_other.py": "import pytest\ndef test_two():\n    pytest.skip('an optional library is missing')\n",
}


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("true", "1 failed, 1 skipped, 1 xfailed, 1 error"), ("", "3 skipped, 1 xfailed")],
    ids=["ci", "local"],
)
def test_service_that_is_missing(tmp_path: Path, ci: str, outcome: str):
    """A skip for a missing service fails in CI and a skip elsewhere; other skips are skips everywhere."""
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    for name, text in TESTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers = services: x\naddopts = --import-mode=importlib -p no:cacheprovider\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False
    )
    assert outcome in done.stdout.splitlines()[-1]
    assert (ci == "true") == ("in CI a service test may not skip" in done.stdout)

"""
Makes the locks of the images anew: every package with its version and hashes, for all platforms and Pythons of one lock.

    python docker/relock.py            lock, lock.parquet, airflow.lock, that of Airflow's tests, tools.lock: the newest that fits
    python docker/relock.py --check    say what pyproject.toml asks for and a lock lacks; nothing is written, nobody is asked
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT = {
    "airflow",
    "all",
    "testing",
    "parquet",
}  # pyarrow alone would be 40 % of the image; Airflow has an image of its own
SLIM = sorted(set(PROJECT["optional-dependencies"]) - WITHOUT)
LOCKS = {"lock": SLIM, "lock.parquet": [*SLIM, "parquet"]}
"""Which extras of headrace each holds."""


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def asked(extras: Sequence[str]) -> set[str]:
    """Names of what headrace needs with these extras."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {name_of(requirement) for each in lists for requirement in each}


def locked(lock: str) -> dict[str, str]:
    """The packages of a lock, with their versions."""
    text = (HERE / lock).read_text(encoding="utf-8")
    return {name_of(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", text)}


def lacking() -> list[str]:
    return [
        f"docker/{lock} lacks {name}"
        for lock, extras in LOCKS.items()
        for name in sorted(asked(extras) - locked(lock).keys())
    ]


def compiled(source: str, lock: str, *options: str) -> None:
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
    quiet = ["--no-annotate", "--no-header", "--no-emit-index-url", "--upgrade"]
    subprocess.run([*command, *quiet, *options, source, "-o", lock], cwd=HERE.parent, check=True)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        compiled("docker/tools.in", "docker/tools.lock")
        compiled("docker/airflow.in", "docker/airflow.lock")
        compiled("tests/airflow/requirements.in", "tests/airflow/lock", "--constraint=docker/airflow.lock")
        for lock, extras in LOCKS.items():
            compiled("pyproject.toml", f"docker/{lock}", *(f"--extra={extra}" for extra in extras))
    found = lacking()
    print("\n".join(found) or "every lock holds what pyproject.toml asks for")
    sys.exit(bool(found))

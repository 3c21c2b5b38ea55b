"""What `import headrace` costs, and what it brings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sides import Comparison, Goal, Side, Stopwatch

_CLIENTS = ("confluent_kafka", "duckdb", "isal", "pyarrow", "rich", "s3fs", "snowflake", "structlog", "typer")
_BROUGHT = f"import headrace, json, sys; print(json.dumps([m for m in {_CLIENTS!r} if m in sys.modules]))"


@contextmanager
def headrace_alone(_folder: Path, _records: int) -> Iterator[list[Comparison]]:
    """A process that imports headrace, against one that imports nothing; a record is an import."""
    brought = json.loads(_python(_BROUGHT))

    def side(name: str, code: str) -> Side:
        def run(_: Stopwatch) -> int:
            _python(code)
            return 1

        return Side(name, run)

    yield [
        Comparison(
            "import",
            [side("python -c pass", "pass"), side("python -c 'import headrace'", "import headrace")],
            [Goal("python -c 'import headrace'", "python -c pass")],
            {"client_libraries": brought, "import_ms": [_import_ms() for _ in range(5)]},
        )
    ]


def _import_ms() -> float:
    program = "import time; t = time.perf_counter(); import headrace; print((time.perf_counter() - t) * 1000)"
    return float(_python(program))


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

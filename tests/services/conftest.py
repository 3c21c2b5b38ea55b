"""What the service tests share: a pipeline that runs beside the test, and a lake read by hand."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import attrs
import pytest

from headrace.pipeline import Pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))  # the audit's world, which its own tests have beside them

# a page of text for each request: to keep it costs more than to send it
for name in ("aiobotocore", "botocore", "s3fs", "urllib3"):
    logging.getLogger(name).setLevel(logging.INFO)

# each client reads the descriptions of its service, a megabyte of JSON: once is enough for hundreds of them
with contextlib.suppress(ModuleNotFoundError):
    import botocore.session

    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


@attrs.define(eq=False)
class Running:
    """A pipeline in a thread of its own."""

    pipeline: Pipeline
    error: BaseException | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipeline.stop()
        self.ended()

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def ended(self, timeout_s: float = 60) -> BaseException | None:
        """Wait for its end, and return what it raised."""
        assert self._thread is not None
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "it did not end"
        return self.error


@pytest.fixture
def running() -> Iterator[Callable[[Pipeline], Running]]:
    """Run pipelines beside the test; those that still run at its end are stopped."""
    with_end: list[Running] = []

    def run(pipeline: Pipeline) -> Running:
        with_end.append(Running(pipeline).__enter__())
        return with_end[-1]

    yield run
    for each in with_end:
        each.__exit__()


@pytest.fixture
def stored() -> Callable[[Path], dict[tuple[str, int, int], bytes]]:
    """Read a lake by hand: values by prefix, partition and offset. Twice at one place is an error."""

    def read(lake: Path) -> dict[tuple[str, int, int], bytes]:
        found: dict[tuple[str, int, int], bytes] = {}
        for path in sorted(lake.glob("*/partition=*/*.jsonl.gz")):
            stream, number = path.parent.parent.name, int(path.parent.name.partition("=")[2])
            for line in gzip.decompress(path.read_bytes()).splitlines():
                place = (stream, number, json.loads(line)["offset"])
                assert place not in found, f"twice: {place}"
                found[place] = line.partition(b'"value":')[2][:-1]
        return found

    return read

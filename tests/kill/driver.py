"""
A run that dies where it is told to: ``python driver.py MODE FILE LAKE [ARGUMENTS]``.

Not a test: what the tests start in processes of their own, so that there is something to kill.
"""

from __future__ import annotations

import builtins
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Self

import attrs

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.lake import local
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.registry import Registry


def pipeline(file: Path, lake: Path, records: int, store: type[FileStore] = FileStore) -> Pipeline:
    source = Registry.discover().source(f"jsonl://{file}")
    assert isinstance(source, JsonlSource)
    sink = LakeSink(store=store(root=lake), format="parquet" if lake.suffix == ".parquet" else "jsonl")
    return Pipeline(source=source, sink=sink, flush=FlushPolicy(records=records), until_end=True, retry_for_s=5.0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tear_write(count: int) -> None:
    """Die in the middle of the write of this number: half of it is on the disk."""
    writes = itertools.count(1)

    @attrs.define
    class Torn:
        file: object

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def write(self, body: bytes) -> int:
            if next(writes) == count:
                self.file.write(body[: len(body) // 2])  # type: ignore[attr-defined]
                self.file.flush()  # type: ignore[attr-defined]
                die()
            return int(self.file.write(body))  # type: ignore[attr-defined]

    def opened(path: object, mode: str = "r", **kwargs: object) -> object:
        file = builtins.open(path, mode, **kwargs)  # type: ignore[call-overload]  # noqa: PTH123, SIM115 - a stand-in
        return Torn(file) if mode == "wb" else file

    local.open = opened  # type: ignore[attr-defined]


def forked(work: Callable[[], object]) -> int:
    """Run it in a process of its own and return how that ended, as `os.waitpid` says it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the parent is told by the code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def every_write(file: Path, folder: Path, records: int, kind: str) -> None:
    """
    Kill a first run in its first write, another in its second, and so on, until one ends unharmed; each then gets a second run.

    Each pair has a lake of its own in *folder*; the last line printed is their number.
    """
    if kind == ".parquet":
        import_module("headrace.formats.arrow")  # once, before all the forks
    for count in itertools.count(1):
        lake = folder / f"write-{count}{kind}"

        def first(count: int = count, lake: Path = lake) -> None:
            tear_write(count)
            pipeline(file, lake, records).run()

        status = forked(first)
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        # with other segments than before: the chain may not depend on them
        assert forked(lambda lake=lake: pipeline(file, lake, records + 1).run()) == 0
        if os.WIFEXITED(status):
            print(count - 1)
            return


class Replacing(FileStore):
    """A store that writes a segment whether its name is free or not: the negative control."""

    def _link(self, temporary: Path, path: Path) -> bool:
        if super()._link(temporary, path):
            return True
        if path.parent.name.startswith("partition="):  # pin and probe stay as they should be
            temporary.replace(path)
            return True
        return False


def zombie(file: Path, lake: Path, records: int, store: type[FileStore]) -> None:
    """Stop when the first segment is written and not yet linked; go on when the parent says so."""
    link, times = os.link, itertools.count(1)

    def asleep(source: str, target: str, **more: object) -> None:
        if "partition=" in str(target) and next(times) == 1:
            # sent to the thread: sent to the process, another thread may take it while this one goes on
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        link(source, target, **more)  # type: ignore[arg-type]

    os.link = asleep  # type: ignore[assignment]
    pipeline(file, lake, records, store).run()


def jump() -> None:
    """The wall clock jumps, forth and back, by up to a day, at every look."""
    real, chance = time.time, random.Random(1)
    time.time = lambda: real() + chance.uniform(-86_400, 86_400)


def main() -> None:
    mode, file, lake, *rest = sys.argv[1:]
    if mode == "every-write":
        every_write(Path(file), Path(lake), int(rest[0]), rest[1])
    elif mode == "zombie":
        zombie(Path(file), Path(lake), int(rest[0]), Replacing if rest[1:] == ["replacing"] else FileStore)
    elif mode == "run":
        pipeline(Path(file), Path(lake), int(rest[0]), Replacing if rest[1:] == ["replacing"] else FileStore).run()
    elif mode == "jumping":
        jump()
        pipeline(Path(file), Path(lake), int(rest[0])).run()


if __name__ == "__main__":
    main()

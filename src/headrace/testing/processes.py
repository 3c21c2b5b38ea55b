"""
Real processes that are killed at each of their I/Os, and processes that sleep there and wake up too late.

A job is a function of a module, called with a folder and a gate: it makes the component as a process would, lets its I/O ask the
gate, works to its end and returns; may it be killed, the next call goes on. `kill_at_every_io` runs it in processes of their
own and kills the first one at its first I/O, the second one at its second, until one ends by itself. `zombie_at_every_io`
lets them stop there instead, as an owner that was declared dead; another one does the work, and then the first wakes up::

    def job(folder, gate):
        MyLoader(path=folder / "silver.db", contract=Tick, target="t", gate=gate).load(SEGMENTS)

    def test_killed(tmp_path):
        for folder in kill_at_every_io(job, tmp_path):
            assert whole(folder)

All of it happens below one interpreter of its own that forks, so that neither threads nor clients of the tests are in it.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from headrace.testing.faults import CrashPoint, Fate, Gate, nothing_fails

__all__ = ["Job", "kill_at_every_io", "zombie_at_every_io"]

Job = Callable[[Path, Gate], object]

_MOST = 400


def kill_at_every_io(job: Job, folder: Path, *, every: int = 1, timeout_s: float = 120.0) -> list[Path]:
    """
    Kill a process of the job at each of its I/Os, and let another one bring each to its end.

    Args:
        job: What the processes do.

        folder: Where each pair of them gets a folder of its own.

        every: Only every so many I/Os, from the first one on.

        timeout_s: For all of it.

    Returns:
        A folder for each, in which the caller looks whether all is as it should be; the last one was never killed.

    Raises:
        AssertionError: A run that nobody killed failed; the message has its traceback.
    """
    return _played("kill", job, folder, every, timeout_s)


def zombie_at_every_io(job: Job, folder: Path, *, every: int = 1, timeout_s: float = 120.0) -> list[Path]:
    """
    Stop a process of the job in front of each of its I/Os, run another one, wake the first, and run a last one.

    The second process may fail, as it does where the first one holds a lock; so may the first one when it wakes up: it was
    overtaken. The last one may not. Takes, returns and raises as `kill_at_every_io`.
    """
    return _played("zombie", job, folder, every, timeout_s)


def _played(how: str, job: Job, folder: Path, every: int, timeout_s: float) -> list[Path]:
    name, file = job.__qualname__, inspect.getfile(job)
    assert name.isidentifier(), f"found {name}, expected a function of a module: it is imported by another process"
    command = [sys.executable, "-m", __name__, how, file, name, str(folder), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    return [folder / f"{how}-{number}" for number in done.stdout.split()]


# ---- in the other process ---------------------------------------------------------------------------------------------


def _forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent is told by the code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def _ended(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleeping_at(number: int) -> Gate:
    """Stop the process in front of the I/O of this number, and let it happen when the process wakes up."""
    numbers = itertools.count(1)

    def gate(_what: str) -> Fate:
        if next(numbers) == number:
            # sent to the thread: sent to the process, another thread may take it while this one goes on
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return "do"

    return gate


def _killed(job: Job, folder: Path, number: int) -> bool:
    """Kill one, run another; whether there was such an I/O."""
    status = _ended(_forked(lambda: job(folder, CrashPoint(number, "kill", _die))))
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"I/O {number}: the job failed"
    assert _ended(_forked(lambda: job(folder, nothing_fails))) == 0, f"I/O {number}: the job after a kill failed"
    return killed


def _overtaken(job: Job, folder: Path, number: int) -> bool:
    """Let one sleep, another one work, the first one wake up; whether there was such an I/O."""
    asleep = _forked(lambda: job(folder, _sleeping_at(number)))
    _, status = os.waitpid(asleep, os.WUNTRACED)
    slept = os.WIFSTOPPED(status)
    assert slept or status == 0, f"I/O {number}: the job failed"
    if slept:
        _ended(_forked(lambda: job(folder, nothing_fails)))
        os.kill(asleep, signal.SIGCONT)
        _ended(asleep)
    assert _ended(_forked(lambda: job(folder, nothing_fails))) == 0, f"I/O {number}: the job after a zombie failed"
    return slept


def _main() -> None:
    how, file, name, root, every = sys.argv[1:]
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    job: Job = getattr(module, name)
    play = {"kill": _killed, "zombie": _overtaken}[how]
    for number in itertools.count(1, int(every)):
        assert number <= _MOST, f"more than {_MOST} I/Os in one run"
        folder = Path(root) / f"{how}-{number}"
        folder.mkdir(parents=True)
        more = play(job, folder, number)
        sys.stdout.write(f"{number}\n")
        if not more:
            assert number > 1, "nothing asked the gate: the job's I/O does not go through it"
            return


if __name__ == "__main__":
    _main()

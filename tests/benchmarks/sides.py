"""Two or more ways of doing the same, measured in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs


@attrs.define
class Stopwatch:
    """Wall and CPU seconds of this process and its children; a side that has to set up first starts it when it is ready."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    _began: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin, or begin anew."""
        self._began = (time.perf_counter(), _cpu_s())

    def tell(self, wall_s: float, cpu_s: float) -> None:
        """Take what a side measured itself."""
        self.wall_s, self.cpu_s, self._began = wall_s, cpu_s, None

    def stop(self) -> None:
        """End; the second time does nothing."""
        if self._began is not None:
            self.wall_s, self.cpu_s = time.perf_counter() - self._began[0], _cpu_s() - self._began[1]
            self._began = None


def _load() -> float:
    """How many wanted a processor in the last minute, on the average: what is measured among them."""
    return round(os.getloadavg()[0], 1)


def _cpu_s() -> float:
    # a child counts when it has ended
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@attrs.frozen
class Side:
    """
    One way.

    Attributes:
        name: For people.

        run: Does it once, and says how many records it did.
    """

    name: str
    run: Callable[[Stopwatch], int]


@attrs.frozen
class Goal:
    """
    A ratio that DESIGN asks for.

    Attributes:
        of: The side that is judged.

        to: The side that it is judged by.

        text: The floor and the goal, or "" where there is none.
    """

    of: str
    to: str
    text: str = ""


@attrs.frozen
class Comparison:
    """
    What is measured together.

    Attributes:
        name: For people.

        sides: In their turns.

        goals: The ratios that are printed.

        facts: What else a reader of the numbers must know.
    """

    name: str
    sides: Sequence[Side]
    goals: Sequence[Goal]
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Sheet:
    """
    What is measured once and is no rate: a row each.

    Attributes:
        name: For people.

        headings: Of the cells, without the row's own name.

        rows: By name, what measures the row and returns its cells.

        facts: What else a reader of the numbers must know.
    """

    name: str
    headings: Sequence[str]
    rows: Mapping[str, Callable[[], Sequence[Any]]]
    facts: Mapping[str, Any] = attrs.field(factory=dict)


def fill(sheet: Sheet, told: Callable[[str], None]) -> dict[str, Any]:
    """Measure the rows one after the other, and return what is kept."""
    rows, loads = [], [_load()]
    for name, row in sheet.rows.items():
        told(f"{sheet.name}: {name}")
        rows.append([name, *row()])
        loads.append(_load())
    return {
        "name": sheet.name,
        "headings": list(sheet.headings),
        "rows": rows,
        "facts": {**sheet.facts, "load_average": loads},
    }


def measure(comparison: Comparison, repeat: int, told: Callable[[str], None]) -> dict[str, Any]:
    """Run all sides *repeat* times, in turns, and return what is kept."""
    seen: dict[str, list[tuple[int, float, float]]] = {side.name: [] for side in comparison.sides}
    loads = [_load()]
    for turn in range(repeat):
        for side in comparison.sides:
            told(f"{comparison.name}: {side.name}, {turn + 1} of {repeat}")
            gc.collect()
            watch = Stopwatch()
            watch.start()
            records = side.run(watch)
            watch.stop()
            seen[side.name].append((records, watch.wall_s, watch.cpu_s))
        loads.append(_load())
    return {
        "name": comparison.name,
        "sides": [_side(name, runs) for name, runs in seen.items()],
        "ratios": [_ratio(goal, seen) for goal in comparison.goals],
        "facts": {**comparison.facts, "load_average": loads},
    }


def _side(name: str, runs: Sequence[tuple[int, float, float]]) -> dict[str, Any]:
    return {
        "name": name,
        "records": [records for records, _, _ in runs],
        "wall_s": [wall_s for _, wall_s, _ in runs],
        "records_per_s": _spread([records / wall_s for records, wall_s, _ in runs]),
        "cpu_s_per_million": _spread([cpu_s / records * 1e6 for records, _, cpu_s in runs]),
    }


def _ratio(goal: Goal, seen: Mapping[str, Sequence[tuple[int, float, float]]]) -> dict[str, Any]:
    """Compare turn by turn: the two of a turn ran one after the other."""
    turns = list(zip(seen[goal.of], seen[goal.to], strict=True))
    rates = [(a[0] / a[1]) / (b[0] / b[1]) for a, b in turns]
    cpus = [(a[2] / a[0]) / (b[2] / b[0]) for a, b in turns if b[2]]
    return {"of": goal.of, "to": goal.to, "goal": goal.text, "rate": _spread(rates), "cpu": _spread(cpus or [0.0])}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}

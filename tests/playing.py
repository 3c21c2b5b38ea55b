"""Plays a state machine in rounds, so that what is only likely is come upon."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from headrace.testing.machine import WritersMachine

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

ROUNDS = 40
"""How often what is only likely is tried: what one choice of runs misses, another one has."""


def play(machine: type[WritersMachine], examples: int) -> None:
    """Run a machine in rounds; each runs the same way as long as neither the code nor Hypothesis changes."""
    for round_ in range(ROUNDS):
        run_state_machine_as_test(
            seed(round_)(machine),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=QUIET,
            ),
        )

"""
Targets that another one has taken over from (`Loader.take_over`): what their readers see, and that nothing goes into them.

The lock row of such a target names its successor in the place of a contract, with a version that no contract has; so whoever
would load it fails at the first statement of its transaction, also one that was on its way (S2, S7).
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.errors import ConfigError, PositionConflictError
from headrace.records import Partition

REPLACED = 2**31 - 1
"""The version that a closed target's lock row has."""


def successor(following: Mapping[str, str], target: str) -> str:
    """The target that readers of *target* see; *following* has of each target that was replaced the one that did it."""
    while target in following:
        target = following[target]
    return target


def predecessors(following: Mapping[str, str], target: str) -> list[str]:
    """The targets whose readers see *target*, but for itself."""
    return sorted(name for name in following if successor(following, name) == target)


def refuse_replaced(following: Mapping[str, str], target: str) -> None:
    """ConfigError where another target has taken over from this one."""
    now = successor(following, target)
    if now != target:
        raise ConfigError(
            f"{target} was replaced by {now} (headrace reload), which its readers see now: load ?table={now} instead; nothing"
            f" was written to {target}, which may be dropped"
        )


def refuse_ahead(old: str, target: str, place: tuple[str, str, int], was: int, now: int) -> None:
    """PositionConflictError: *old* is ahead of *target* in a dataset's stream and partition, so its readers would go back."""
    dataset, stream, number = place
    raise PositionConflictError(
        f"{old} is at {was} of {Partition(stream, number)} (dataset {dataset}), {target} at {now}: load {target} first",
        expected=was,
        found=None,
    )

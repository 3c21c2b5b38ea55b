"""Batches of the Kafka source are of one leader each."""

from __future__ import annotations

import attrs

from headrace.plugins.kafka.columns import by_leader


@attrs.frozen
class Message:
    at: int
    epoch: int | None

    def leader_epoch(self) -> int | None:
        return self.epoch


def test_a_run_is_split_where_another_leader_took_over() -> None:
    """A part of a batch is then of the batch's leader too: a segment never names a later one than its last record's (B5)."""
    run = [Message(0, 4), Message(1, 4), Message(5, 6), Message(6, 6), Message(7, 9)]

    assert [run[:2], run[2:4], run[4:]] == list(by_leader(run))


def test_a_run_of_one_leader_is_passed_on() -> None:
    """So is one from a broker that knows no leader epochs."""
    for epoch in (3, None):
        run = [Message(o, epoch) for o in range(3)]
        [same] = by_leader(run)
        assert same is run

"""Puts a run under watch: its numbers are counted and served, where somebody asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import attrs

from headrace.load import Load
from headrace.metric import Metric
from headrace.pipeline import Pipeline
from headrace.recording import Recording
from headrace.sink import Sink
from headrace.source import Source
from headrace.watching.around import around_lake, around_loader, around_sink, around_source
from headrace.watching.health import Health
from headrace.watching.meters import Meters
from headrace.watching.serving import Serving


@attrs.define(kw_only=True, eq=False)
class Watching:
    """
    Serves a run's health and numbers while it is entered. Without a place it does nothing, and costs nothing.

    Attributes:
        place: ``[HOST:]PORT``; "" for none.

        run: The run's id, as in the log.

        command: Whose process it is.

        stall_s: So long without a sign of life the loop is not alive.
    """

    place: str
    run: str
    command: str
    stall_s: float
    meters: Meters | None = attrs.field(default=None, init=False)
    health: Health = attrs.field(init=False)
    port: int = attrs.field(default=0, init=False)
    _stack: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __attrs_post_init__(self) -> None:
        self.health = Health(self.stall_s)
        if self.place:
            self.meters = Meters(self.run, self.command)

    def source(self, source: Source) -> Source:
        """Return the source to run with."""
        if self.meters is None:
            return source
        self.meters.look(source.metrics)
        self.health.look("source", source.unanswered)
        return around_source(source, self.meters, self.health)

    def sink(self, sink: Sink) -> Sink:
        """Return the sink to run with."""
        return sink if self.meters is None else around_sink(sink, self.meters, self.health)

    def pipeline(self, pipeline: Pipeline) -> None:
        """Look at a pipeline's numbers at each scrape."""
        if self.meters is not None:
            meters = self.meters
            meters.look(lambda: _of_pipeline(pipeline, meters, self.health))

    def load(self, run: Load) -> None:
        """Watch a load that has not begun."""
        if self.meters is not None:
            run.loader = around_loader(run.loader, self.meters, self.health)
            run.chain = attrs.evolve(run.chain, store=around_lake(run.chain.store, self.meters, self.health))
            self.meters.look(lambda: _of_load(run, self.health))

    def recording(self, recording: Recording) -> None:
        """Watch a recording that has not begun."""
        if self.meters is not None:
            recording.source = self.source(recording.source)
            self.meters.look(lambda: _of_recording(recording, self.health))

    def __enter__(self) -> Self:
        if self.meters is not None:
            self.health.beat()
            self.port = self._stack.enter_context(Serving(self.place, self.health, self.meters)).port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _quiet(health: Health) -> Metric:
    return Metric("headrace_loop_quiet_seconds", "Time since the loop's last sign of life.", health.quiet_s)


def _of_pipeline(pipeline: Pipeline, meters: Meters, health: Health) -> Iterator[Metric]:
    now = pipeline.progress
    # measured by the loop: where that stands still the record goes on ageing
    oldest_s = now.oldest_s + health.quiet_s if now.oldest_s > 0 else 0.0
    yield _quiet(health)
    for name, text, value in (
        ("records_read_total", "Records read and taken.", now.records),
        ("read_bytes_total", "Of their keys, values and headers.", now.nbytes),
        ("memory_held_bytes", "Memory in drafts and commits under way.", now.held_bytes),
        ("memory_limit_bytes", "What --memory allows drafts, commits and the client's queue.", pipeline.memory_bytes),
        ("oldest_unflushed_age_seconds", "How long the oldest record that is not stored is here.", oldest_s),
        ("partitions_stopped", "Partitions that cannot go on, and wait for somebody.", len(pipeline.stopped)),
    ):
        yield Metric(f"headrace_{name}", text, value)
    for partition, lag in now.lags.items():
        labels = {"stream": partition.stream, "partition": str(partition.number)}
        yield Metric("headrace_lag_records", "Offsets that the log has and the sink has not.", lag, labels)
        stored_ms = meters.stored_ms.get(partition)
        if lag == 0 or stored_ms is not None:
            behind_s = 0.0 if lag == 0 or stored_ms is None else max(0.0, meters.clock() - stored_ms / 1000)
            yield Metric(
                "headrace_lag_seconds",
                "0 without a lag; else the age of the last stored record, by its own time.",
                behind_s,
                labels,
            )


def _of_load(run: Load, health: Health) -> Iterator[Metric]:
    now, done = run.progress, run.progress.result
    yield _quiet(health)
    for name, text, value in (
        ("records", "Records loaded.", done.records),
        ("rows", "Rows that the table has more than before.", done.inserted),
        ("quarantined", "Records that broke the contract.", done.rejected),
        ("superseded", "Records that a newer one of their key hides, or that hide one.", done.superseded),
        ("segments", "Segments loaded.", done.segments),
        ("transactions", "Transactions committed.", now.transactions),
    ):
        yield Metric(f"headrace_load_{name}_total", text, value, {"target": run.loader.target})


def _of_recording(recording: Recording, health: Health) -> Iterator[Metric]:
    yield _quiet(health)
    yield Metric("headrace_records_read_total", "Messages written to files.", sum(recording.counts.copy().values()))

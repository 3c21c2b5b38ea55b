"""``headrace stream``: from a source to a sink."""

from __future__ import annotations

from enum import StrEnum
from signal import Signals
from typing import Annotated

import attrs
import typer

from headrace.cli.exits import code_of_stop
from headrace.cli.options import AsJson, LogFormat, LogLevel, RetryFor, begin, size, some_seconds
from headrace.cli.output import Output, message_of, places_of
from headrace.cli.progress import StreamProgress
from headrace.cli.signals import stopping
from headrace.cli.watching import STREAM_STALL_S, Serve, StallAfter, watching
from headrace.errors import ConfigError, HeadraceError
from headrace.flush import FlushPolicy, Progress
from headrace.logs import redacted
from headrace.pipeline import Pipeline
from headrace.registry import Registry
from headrace.source import Source
from headrace.trimming import Trimming
from headrace.units import counted, format_bytes
from headrace.uri import URI

_QUEUE_BYTES = (1 << 20, 32 << 20)
"""A client library's own queue is an eighth of the memory, but not less or more than this."""


_LEAST_MEMORY = 4 << 20


class OnGap(StrEnum):
    """What to do where records are gone."""

    STOP = "stop"
    NOTE = "note"


def stream(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What is read, a URI.", show_default=False)],
    sink: Annotated[str, typer.Argument(metavar="SINK", help="Where it goes, a URI.", show_default=False)],
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end", help="End where the source ended when the run began. Without it: run until stopped."
        ),
    ] = False,
    flush_bytes: Annotated[
        int,
        typer.Option(
            parser=size, metavar="SIZE", show_default="64MiB", help="Commit a segment at this size, before compression."
        ),
    ] = 64 << 20,
    flush_records: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default="no limit", help="Commit a segment at this many records."),
    ] = None,
    flush_age: Annotated[
        float | None,
        typer.Option(
            parser=some_seconds,
            metavar="TIME",
            show_default="60s; of a live feed 100ms into a topic, 10s into a lake",
            help="Commit a segment when its first record was read this long ago.",
        ),
    ] = None,
    memory: Annotated[
        int,
        typer.Option(
            parser=size,
            metavar="SIZE",
            show_default="256MiB",
            help="Bound on records in memory: drafts, commits under way and the client library's queue.",
        ),
    ] = 256 << 20,
    on_gap: Annotated[
        OnGap,
        typer.Option(
            help="Where records are gone that were never read: stop that partition, or note the loss and go on."
        ),
    ] = OnGap.STOP,
    retry_for: RetryFor = 600.0,
    puts_in_flight: Annotated[int, typer.Option(min=1, metavar="N", help="Commits sent at once, one a partition.")] = 8,
    serve: Serve = "",
    stall_after: StallAfter = STREAM_STALL_S,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Carry a stream from SOURCE to SINK. Killed at any moment, it is simply run again.

    A run without an end is stopped by SIGTERM or Ctrl-C: it commits what it holds and leaves. A partition that cannot go
    on stops alone; the others go on, and the exit code says so at the end.

    For example:

    headrace stream 'kafka://127.0.0.1:9092/trades?group=bronze' file:///lake

    headrace stream 'jsonl:///ticks.jsonl?key=symbol&timestamp=time' file:///lake --until-end

    headrace stream file:///lake kafka://127.0.0.1:9092/replayed --until-end

    headrace stream alpaca://iex/AAPL,MSFT 'kafka://127.0.0.1:9092/{stream}?create_partitions=4'
    """
    if memory < _LEAST_MEMORY:
        raise ConfigError(
            f"found --memory {format_bytes(memory)}, expected {format_bytes(_LEAST_MEMORY)} or more: a block of records, one"
            " that is being compressed, and what the client library reads ahead"
        )
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    reader, writer = URI.parse(source), URI.parse(sink)
    output.keep({"source": redacted(str(reader)), "sink": redacted(str(writer))})
    reading, writing = _source(registry, reader, memory), registry.sink(writer)
    if flush_age is None:
        flush_age = 60.0 if reading.rereadable else writing.live_age_s
    watch = watching(serve, stall_after, output, "stream")
    pipeline = Pipeline(
        source=watch.source(reading),
        sink=watch.sink(writing),
        flush=FlushPolicy(bytes=flush_bytes, records=flush_records, age_s=flush_age),
        memory_bytes=memory,
        until_end=until_end,
        on_gap=on_gap.value,
        retry_for_s=retry_for,
        puts_in_flight=puts_in_flight,
    )
    watch.pipeline(pipeline)
    trimming = Trimming()
    try:
        with watch, StreamProgress(bounded=until_end) as progress, stopping(pipeline.stop) as stop:

            def observe(now: Progress) -> None:
                progress(now)
                trimming()

            pipeline.observe = observe
            pipeline.run()
    except HeadraceError:
        _report(output, pipeline, quiet=pipeline.progress.records == 0)
        raise
    output.keep({"stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    _report(output, pipeline)
    output.document({})
    return code_of_stop(stop.signal, endless=not until_end)


def _source(registry: Registry, uri: URI, memory_bytes: int) -> Source:
    source = registry.source(uri)
    if source.queue_bytes and not {"queue_bytes", "queue-bytes"} & set(uri.settings):
        least, most = _QUEUE_BYTES
        source.queue_bytes = max(least, min(most, memory_bytes // 8))
    return source


def _report(output: Output, pipeline: Pipeline, *, quiet: bool = False) -> None:
    """Say what was done, also before an error that ended it."""
    done = pipeline.progress
    stopped = [
        {"stream": p.stream, "partition": p.number, "type": type(e).__name__, "message": message_of(e), **places_of(e)}
        for p, e in pipeline.stopped.items()
    ]
    numbers = attrs.asdict(done, filter=attrs.filters.exclude(attrs.fields(Progress).lags))
    lags = {str(partition): lag for partition, lag in done.lags.items()}
    output.keep({**numbers, "lags": lags, "guarantee": pipeline.sink.guarantee, "stopped_partitions": stopped})
    if quiet:
        return
    rate = done.records / max(done.elapsed_s, 1e-9)
    output.line(
        f"{counted(done.stored_records, 'record')} in {counted(done.segments, 'segment')}, {format_bytes(done.nbytes)},"
        f" in {done.elapsed_s:.1f} s ({rate:,.0f} records/s), {pipeline.sink.guarantee}"
    )

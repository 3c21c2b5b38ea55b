"""``headrace record``: keeps what a feed sends as files."""

from __future__ import annotations

from signal import Signals
from typing import Annotated

import typer

from headrace.cli.exits import code_of_stop
from headrace.cli.options import AsJson, LogFormat, LogLevel, begin, some_seconds
from headrace.cli.output import Output
from headrace.cli.signals import stopping
from headrace.cli.watching import STREAM_STALL_S, Serve, StallAfter, watching
from headrace.logs import redacted
from headrace.recording import Recording
from headrace.registry import Registry
from headrace.uri import URI


def record(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(metavar="FEED", help="What is recorded, a URI.", show_default=False)],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Where to; {stream} in its name gives each stream a file.", show_default=False
        ),
    ],
    for_time: Annotated[
        float | None,
        typer.Option(
            "--for", parser=some_seconds, metavar="TIME", show_default="no limit", help="End after this time."
        ),
    ] = None,
    records: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", show_default="no limit", help="End after about so many messages."),
    ] = None,
    serve: Serve = "",
    stall_after: StallAfter = STREAM_STALL_S,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Keep what FEED sends as FILE: a message a line, to the byte. One that is no line of JSON is wrapped.

    What may be missing is in a file beside it, FILE with .gaps in its name. The source jsonl:///FILE?recorded=true replays a
    recording at any pace, and gives back every message to the byte. A run without an end is stopped by SIGTERM or Ctrl-C.

    For example:

    headrace record coinbase://BTC-USD btc.jsonl --for 10m

    headrace record alpaca://iex/AAPL 'rec/{stream}.jsonl'
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    uri = URI.parse(feed)
    output.keep({"source": redacted(str(uri))})
    recording = Recording(source=registry.source(uri), path=file, for_s=for_time, records=records)
    watch = watching(serve, stall_after, output, "record")
    watch.recording(recording)
    try:
        with watch, stopping(recording.stop) as stop:
            recording.run()
    finally:
        _report(output, recording)
    output.keep({"stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    output.document({})
    return code_of_stop(stop.signal, endless=for_time is None and records is None)


def _report(output: Output, recording: Recording) -> None:
    output.keep({"files": recording.counts})
    for name, count in recording.counts.items():
        output.line(f"{name}: {count:,} lines")

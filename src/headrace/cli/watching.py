"""The options by which a process is seen from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import some_seconds
from headrace.cli.output import Output
from headrace.watching.watching import Watching

Serve = Annotated[
    str,
    typer.Option(
        "--serve",
        metavar="[HOST:]PORT",
        envvar="HEADRACE_SERVE",
        show_default="nothing is served",
        help="Serve /live, /ready and /metrics over HTTP while it runs; on 127.0.0.1 unless a host is given. Port 0 takes any"
        " that is free, and the log says which.",
    ),
]
StallAfter = Annotated[
    float,
    typer.Option(
        "--stall-after",
        parser=some_seconds,
        metavar="TIME",
        envvar="HEADRACE_STALL_AFTER",
        show_default="2m; of a load 30m",
        help="So long without a turn of its loop /live answers 503.",
    ),
]
STREAM_STALL_S = 120.0
LOAD_STALL_S = 1800.0


def watching(serve: str, stall_after: float, output: Output, command: str) -> Watching:
    """Return what watches this process; without a place nothing does."""
    return Watching(place=serve, run=output.run or "", command=command, stall_s=stall_after)

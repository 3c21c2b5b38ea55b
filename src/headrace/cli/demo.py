"""``headrace demo``: the whole path on real market data, killed on the way."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from headrace.cli.audit import not_sent
from headrace.cli.options import AsJson, LogFormat, LogLevel, begin
from headrace.errors import MissingExtraError


def demo(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default="a new one", help="Where to leave the lake, the warehouse and the page."
        ),
    ] = None,
    kafka: Annotated[
        str, typer.Option(metavar="HOST:PORT", show_default="an embedded one", help="The Kafka broker to publish to.")
    ] = "",
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="From an exchange on this machine instead: a feed with an outage, and what it did not bring."
        ),
    ] = False,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Show the whole way, on real market data.

    Carries real AAPL, IBM and BAC data from Kafka to bronze to silver, is killed on the way, and counts every record.
    Exit code 1 says that the counts do not show each record exactly once.

    With --live a local exchange sends numbered trades, and breaks off in between: each number is one row in the end, or told by
    a gap record. Exit code 1 says that this could not be shown.
    """
    for client in ("confluent_kafka", "duckdb", *(("websockets",) if live else ())):
        if find_spec(client) is None:
            raise MissingExtraError(f"the demo needs {client}, which is not installed: pip install 'headrace[all]'")
    signal.signal(signal.SIGTERM, _end)
    output = begin(context, log_level, log_format, as_json=json)
    if live:
        from headrace.demo import live as from_an_exchange  # noqa: PLC0415 - brings client libraries

        return from_an_exchange.run(folder=folder, kafka=kafka, output=output, not_sent=not_sent)
    from headrace.demo.demo import run  # noqa: PLC0415 - brings client libraries

    return run(folder=folder, kafka=kafka, output=output)


def _end(number: int, _: FrameType | None) -> None:
    """End by an exception, so that the process which is being killed on purpose does not outlive this one."""
    raise SystemExit(128 + number)

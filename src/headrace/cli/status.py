"""``headrace status``: how the deployment stands, from outside."""

from __future__ import annotations

import threading
from pathlib import Path
from signal import SIGTERM
from typing import Annotated

import typer

from headrace.auditing.making import looked_at
from headrace.cli.lake import open_store
from headrace.cli.options import AsJson, Epoch, Lake, LogFormat, LogLevel, StreamName, begin, some_seconds
from headrace.cli.signals import stopping
from headrace.cli.status_screen import Screen
from headrace.logs import redacted
from headrace.registry import Registry
from headrace.status.look import Look
from headrace.uri import URI


def status(
    context: typer.Context,
    lake: Lake,
    warehouse: Annotated[
        str,
        typer.Argument(metavar="[WAREHOUSE]", help="The target that is loaded from it.", show_default=False),
    ] = "",
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SOURCE",
            show_default=False,
            help="The log, such as kafka://127.0.0.1:9092/trades; no group is joined.",
        ),
    ] = "",
    stream: StreamName = "",
    epoch: Epoch = "",
    late: Annotated[
        float,
        typer.Option(
            parser=some_seconds,
            metavar="TIME",
            show_default="5m",
            help="What waits for longer stands still: a few times --flush-age, or the time between two loads.",
        ),
    ] = 300.0,
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="What `headrace audit --json` printed last; its findings are shown.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until stopped, and show rates.")] = False,
    every: Annotated[
        float, typer.Option(parser=some_seconds, metavar="TIME", show_default="5s", help="How often, with --watch.")
    ] = 5.0,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Show how far the log, LAKE and WAREHOUSE are, how fresh, and what is wrong, with what to do.

    It looks from outside: no process of ours need run, nothing is written, no group is joined. Exit code 0: nothing is wrong;
    1: something is; 2: something could not be told. It proves nothing: that is `headrace audit`.

    For example:

    headrace status file:///lake

    headrace status file:///lake 'duckdb:///silver.duckdb?table=trades' --source kafka://127.0.0.1:9092/trades --watch
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    store, named, named_epoch = open_store(registry, lake)
    look = Look(
        store=store,
        warehouse=(lambda: registry.ledger(warehouse)) if warehouse else None,
        source=looked_at(registry, source) if source else None,
        stream=stream or named,
        epoch=epoch or named_epoch,
        late_s=late,
        audit=audit,
        uris=(store.place, _shown(warehouse), _shown(source)),
    )
    screen = Screen(output)
    try:
        if not watch:
            found = look()
            screen.show(found)
            return found.exit_code
        return _watch(look, screen, every)
    finally:
        look.close()


def _watch(look: Look, screen: Screen, every_s: float) -> int:
    ended = threading.Event()
    with stopping(ended.set) as stop, screen:
        found = look()
        screen.show(found)
        while not ended.wait(every_s):
            found = look()
            screen.show(found)
    return found.exit_code if stop.signal == SIGTERM else 130


def _shown(uri: str) -> str:
    return redacted(str(URI.parse(uri))) if uri else ""

"""``headrace expire``: deletes old segments of a lake, the only safe way."""

from __future__ import annotations

from signal import Signals
from typing import Annotated

import attrs
import typer

from headrace.cli.exits import code_of_stop
from headrace.cli.lake import open_chain
from headrace.cli.options import AsJson, Epoch, Lake, LogFormat, LogLevel, RetryFor, StreamName, begin, seconds
from headrace.cli.output import Output
from headrace.cli.progress import Looking
from headrace.cli.signals import stopping
from headrace.errors import HeadraceError
from headrace.expire import Expire, Expiry
from headrace.logs import redacted
from headrace.registry import Registry
from headrace.units import format_bytes
from headrace.uri import URI


def expire(
    context: typer.Context,
    lake: Lake,
    older_than: Annotated[
        float,
        typer.Option(
            parser=seconds,
            metavar="TIME",
            show_default=False,
            help="Segments that were put into the lake longer ago go, such as 30d; at least 1d.",
        ),
    ],
    keep: Annotated[
        int, typer.Option(min=1, metavar="N", help="The newest N of each partition stay, however old they are.")
    ] = 1,
    loaded_by: Annotated[
        list[str] | None,
        typer.Option(
            "--loaded-by",
            metavar="WAREHOUSE",
            show_default=False,
            help="A target that is loaded from here: what it still lacks stays. For each target once.",
        ),
    ] = None,
    without_ledger: Annotated[
        bool, typer.Option("--without-ledger", help="There is no target whose ledger counts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it: only say what would go.")] = False,
    stream: StreamName = "",
    epoch: Epoch = "",
    retry_for: RetryFor = 600.0,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Delete old segments of LAKE: oldest first, never a partition's newest, never one that a target still lacks.

    Without --yes nothing is deleted: it says what would go, and why the first one that stays does. What goes is noted in
    the lake, so that `headrace show` can tell it from what somebody else deleted. Killed at any moment, it is simply run
    again. Nothing else may delete segments, and no lifecycle rule: it knows neither order nor "newest".

    For example:

    headrace expire file:///lake --older-than 30d --loaded-by 'duckdb:///silver.duckdb?table=trades'

    headrace expire file:///lake --older-than 7d --keep 100 --without-ledger --yes
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    chain = open_chain(registry, lake, stream, epoch)
    run = Expire(
        chain=chain,
        older_than_s=older_than,
        keep=keep,
        ledgers={redacted(str(URI.parse(target))): registry.ledger(target) for target in loaded_by or []},
        without_ledger=without_ledger,
        retry_for_s=retry_for,
    )
    output.keep({"lake": chain.store.place, "stream": chain.dataset.stream, "dataset": chain.dataset.id})
    if not yes:
        planned = run.plan()
        _report(output, planned, "would go")
        output.document({"deleted": False})
        if any(expiry.segments for expiry in planned):
            output.remark("nothing was deleted: --yes does it")
        return 0
    try:
        with Looking(f"old segments of {chain.dataset.stream}") as looking, stopping(run.stop) as stop:
            run.observe = looking
            run.run()
    except HeadraceError:
        _report(output, list(run.done.values()), "gone")
        raise
    _report(output, list(run.done.values()), "gone")
    output.document({"deleted": True, "stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    return code_of_stop(stop.signal, endless=False)


def _report(output: Output, found: list[Expiry], what: str) -> None:
    found = sorted(found, key=lambda expiry: expiry.partition)
    documents = [
        {"partition": e.partition.number, **attrs.asdict(e, filter=lambda a, _: a.name != "partition")} for e in found
    ]
    output.keep(
        {"partitions": documents, "segments": sum(e.segments for e in found), "bytes": sum(e.nbytes for e in found)}
    )
    columns = ["partition", "from", "to", "segments", "bytes", "what follows stays because"]
    rows = [
        [e.partition.number, e.start, e.end, e.segments, format_bytes(e.nbytes) if output.drawn else e.nbytes, e.stays]
        for e in found
    ]
    output.table(f"{what} of {found[0].partition.stream}" if found else "", columns, rows)

"""``headrace load``: from a lake to a warehouse."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from signal import Signals
from typing import Annotated, Literal

import attrs
import typer

from headrace.chain import Chain
from headrace.cli import options
from headrace.cli.exits import DATA, DONE, code_of_stop
from headrace.cli.lake import open_chain
from headrace.cli.output import Output
from headrace.cli.progress import LoadStatus
from headrace.cli.signals import stopping
from headrace.cli.watching import LOAD_STALL_S, Serve, StallAfter, watching
from headrace.errors import HeadraceError
from headrace.load import Load
from headrace.loader import MAX_REJECTED, Line, Loader, LoadResult
from headrace.logs import redacted
from headrace.records import Partition
from headrace.registry import Registry
from headrace.units import counted
from headrace.uri import URI


def load(
    context: typer.Context,
    lake: options.Lake,
    warehouse: Annotated[
        str, typer.Argument(metavar="WAREHOUSE", help="The target, a URI with its table.", show_default=False)
    ],
    contract: options.ContractName,
    stream: options.StreamName = "",
    epoch: options.Epoch = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on looking for new segments until stopped.")] = False,
    every: Annotated[
        float,
        typer.Option(
            parser=options.some_seconds, metavar="TIME", show_default="5s", help="How often to look, with --follow."
        ),
    ] = 5.0,
    group: options.Group = 16 << 20,
    max_rejected: options.MaxRejected = MAX_REJECTED,
    until: Annotated[
        str,
        typer.Option(
            metavar="OFFSET|TIME",
            show_default=False,
            help="An offset: load no segment that starts at or after it. A time with its zone, 2024-03-01T00:00:00Z: load each"
            " partition up to the first segment of which all records are of then or later.",
        ),
    ] = "",
    begin_at: options.BeginAt = None,
    alter: Annotated[
        bool,
        typer.Option(
            "--alter",
            help="Alter a table that is there to fit the contract, where that changes no value in it: add columns, widen"
            " decimals, take NOT NULL away. Without it no table is altered.",
        ),
    ] = False,
    evolve: options.Evolve = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only print the DDL of --alter and, where that is given, of --evolve. Code 1: it cannot be done, load into a"
            " new table.",
        ),
    ] = False,
    retry_for: options.RetryFor = 600.0,
    serve: Serve = "",
    stall_after: StallAfter = LOAD_STALL_S,
    json: options.AsJson = False,
    log_level: options.LogLevel = "",
    log_format: options.LogFormat = "",
) -> int:
    """
    Load what WAREHOUSE lacks of LAKE. Killed at any moment, it is simply run again.

    Rows, quarantine and ledger are written in one transaction. A record that breaks the contract goes to quarantine, with
    the reason; it stops nothing, unless most records do: that ends the run before they are written.

    For example:

    headrace load file:///lake 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade

    headrace load file:///lake 'duckdb:///silver.duckdb?table=trades' --contract shop.contracts:Trade --follow --every 10s
    """
    from headrace.contract import load_contract  # noqa: PLC0415 - its imports are not needed by other commands

    output, registry = options.begin(context, log_level, log_format, as_json=json), Registry.discover()
    sys.path.append("")  # a module of the current folder, after all that is installed
    end, end_ms = _end(until)
    uri = URI.parse(warehouse)
    loader = registry.loader(uri, load_contract(contract))
    chain = open_chain(registry, lake, stream, epoch, wait_s=every if follow else None)
    output.keep({"lake": chain.store.place, "stream": chain.dataset.stream, "warehouse": redacted(str(uri))})
    run = Load(
        chain=chain,
        loader=loader,
        follow=follow,
        look_every_s=every,
        group_bytes=group,
        max_rejected=max_rejected,
        begin_at=beginning(begin_at or []),
        alter=alter,
        evolve=evolve,
        until=end,
        until_ms=end_ms,
        retry_for_s=retry_for,
    )
    if plan:
        return _plan(output, run)
    watch = watching(serve, stall_after, output, "load")
    watch.load(run)
    try:
        with (
            watch,
            LoadStatus(segments=_to_do(chain, loader, follow=follow or bool(until))) as progress,
            stopping(run.stop) as stop,
        ):
            run.observe = progress
            run.run()
    except HeadraceError:
        _report(output, run, quiet=run.progress.transactions == 0)
        raise
    output.keep({"stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    _report(output, run)
    output.document({})
    return code_of_stop(stop.signal, endless=follow)


def _plan(output: Output, run: Load) -> int:
    loader, found = run.loader, run.plan()
    possible = all(change.statement for change in found)
    output.document({"target": loader.target, "possible": possible, "changes": [attrs.asdict(each) for each in found]})
    rows = [[change.what, change.statement or "impossible: load the history into a new table"] for change in found]
    output.table(f"what would be altered in {loader.target}", ["what", "statement"], rows)
    output.remark("nothing was changed" if found else f"{loader.target} fits the contract, or is not there yet")
    return DONE if possible else DATA


def beginning(words: list[str]) -> Literal["oldest"] | dict[int, int] | None:
    """Read the words of --begin-at."""
    if words == ["oldest"]:
        return "oldest"
    pairs = [word.partition(":")[::2] for word in words]
    once = len({number for number, _ in pairs}) == len(pairs)
    if not once or not all(number.isdecimal() and offset.isdecimal() for number, offset in pairs):
        expected = "expected 'oldest' alone, or PARTITION:OFFSET once for each partition, such as 3:41207"
        raise typer.BadParameter(f"found {' '.join(words)!r}, {expected}", param_hint="--begin-at")
    return {int(number): int(offset) for number, offset in pairs} or None


def _end(text: str) -> tuple[int | None, int | None]:
    """Read an offset or a time: one of them, or none."""
    if not text or text.isdecimal():
        return int(text) if text else None, None
    try:
        when: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        expected = "expected an offset, or a time with its zone, such as 2024-03-01T00:00:00Z"
        raise typer.BadParameter(f"found {text!r}, {expected}", param_hint="--until")
    return None, -((datetime.fromtimestamp(0, UTC) - when) // timedelta(milliseconds=1))  # rounded up


def _to_do(chain: Chain, loader: Loader, *, follow: bool) -> int | None:
    """Count the segments that a bounded run will load, where somebody looks at a bar; None where that cannot be said."""
    if follow or not sys.stderr.isatty():
        return None
    partitions = [Partition(chain.dataset.stream, number) for number in chain.partitions()]
    lines = [Line(chain.dataset.id, partition, loader.target) for partition in partitions]
    try:
        positions = loader.positions(lines)
        return sum(1 for line in lines for _ in chain.objects(line.partition.number, positions[line] or 0))
    except HeadraceError:
        return None  # the run meets it too, and tells it


def _report(output: Output, run: Load, *, quiet: bool = False) -> None:
    """Say what was done, also before an error that ended it."""
    done = run.progress.result
    output.keep(
        {
            "target": run.loader.target,
            **attrs.asdict(done),
            "transactions": run.progress.transactions,
            "elapsed_s": run.progress.elapsed_s,
        }
    )
    if quiet:
        return
    if not done.segments:
        output.line(f"{run.loader.target} lacks nothing: no segment was loaded")
        return
    output.line(summary(done, run.loader.target))


def summary(done: LoadResult, target: str) -> str:
    """One line for people."""
    what = f"{counted(done.records, 'record')} of {counted(done.segments, 'segment')} into {target}"
    return f"{what}: {counted(done.inserted, 'row')}, {done.rejected:,} quarantined, {done.superseded:,} superseded"

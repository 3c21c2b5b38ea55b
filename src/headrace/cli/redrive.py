"""``headrace redrive``: what a mended contract takes goes from quarantine to where it belongs."""

from __future__ import annotations

import sys
from signal import Signals
from typing import Annotated

import attrs
import typer

from headrace.cli.exits import code_of_stop
from headrace.cli.options import AsJson, ContractName, LogFormat, LogLevel, RetryFor, begin
from headrace.cli.output import Output
from headrace.cli.progress import RedriveStatus
from headrace.cli.selecting import From, OfColumn, OfPartition, OfStream, Reason, To, Warehouse, nothing_in, selected
from headrace.cli.signals import stopping
from headrace.errors import HeadraceError
from headrace.logs import redacted
from headrace.redrive import Redrive
from headrace.registry import Registry
from headrace.units import counted
from headrace.uri import URI


def redrive(
    context: typer.Context,
    warehouse: Warehouse,
    contract: ContractName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Type everything and say what would happen, by reason; write nothing.")
    ] = False,
    stream: OfStream = "",
    partition: OfPartition = None,
    start: From = 0,
    end: To = None,
    reason: Reason = None,
    column: OfColumn = None,
    group: Annotated[
        int, typer.Option(min=1, metavar="N", show_default="50000", help="Records in one transaction, at most.")
    ] = 50_000,
    retry_for: RetryFor = 600.0,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Try the records in the quarantine of WAREHOUSE again, by a contract that was mended.

    What keeps it becomes a row, once, also while loads run; what does not stays, and says from then on why it is refused now.
    Killed at any moment, it is simply run again.

    For example:

    headrace redrive 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade --dry-run

    headrace redrive 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade --column price
    """
    from headrace.contract import load_contract  # noqa: PLC0415 - its imports are not needed by other commands

    output, selection = (
        begin(context, log_level, log_format, as_json=json),
        selected(stream, partition, start, end, reason, column),
    )
    sys.path.append("")  # a module of the current folder, after all that is installed
    uri = URI.parse(warehouse)
    loader = Registry.discover().loader(uri, load_contract(contract))
    run = Redrive(loader=loader, selection=selection, group_records=group, retry_for_s=retry_for)
    output.keep({"warehouse": redacted(str(uri)), "target": loader.target})
    if dry_run:
        with stopping(run.stop) as stop:
            _forecast(output, run)
        return code_of_stop(stop.signal, endless=False)
    try:
        with RedriveStatus() as progress, stopping(run.stop) as stop:
            run.observe = progress
            run.run()
    except HeadraceError:
        _report(output, run)
        raise
    _report(output, run)
    output.document({"stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    return code_of_stop(stop.signal, endless=False)


def _forecast(output: Output, run: Redrive) -> None:
    found = run.plan()
    names = ["column", "reason", "records", "becomes", "because of", "reason now"]
    rows = [
        [o.column, o.reason, o.records, "rows" if not o.reason_now else "refused", o.column_now, o.reason_now]
        for o in found
    ]
    taken = sum(o.records for o in found if not o.reason_now)
    tried = sum(o.records for o in found)
    output.document(
        {"dry_run": True, "tried": tried, "would_load": taken, "outlook": [attrs.asdict(each) for each in found]}
    )
    output.table(f"what {run.loader.contract.__name__} says of the quarantine of {run.loader.target}", names, rows)
    if not tried:
        output.remark(nothing_in(run.loader.target))
    output.remark(f"{taken:,} of {counted(tried, 'record')} would become rows; nothing was written")


def _report(output: Output, run: Redrive) -> None:
    done = run.progress
    if not done.tried:
        output.remark(nothing_in(run.loader.target))
    output.keep({"tried": done.tried, **attrs.asdict(done.result), "transactions": done.transactions})
    hidden = f", {done.result.superseded:,} superseded" if done.result.superseded else ""
    output.line(
        f"{counted(done.tried, 'record')} of the quarantine of {run.loader.target} tried:"
        f" {counted(done.result.inserted, 'row')}{hidden},"
        f" {done.tried + done.result.rejected:,} stay"
    )

"""``headrace reload``: the history anew by a newer contract, and then what readers see."""

from __future__ import annotations

import re
import sys
from signal import Signals
from typing import Annotated

import attrs
import typer

from headrace.cli import options
from headrace.cli.exits import code_of_stop
from headrace.cli.lake import open_chain
from headrace.cli.load import beginning, summary
from headrace.cli.output import Output
from headrace.cli.progress import LoadStatus
from headrace.cli.selecting import Warehouse
from headrace.cli.signals import stopping
from headrace.errors import ConfigError, HeadraceError
from headrace.loader import MAX_REJECTED, Loader
from headrace.logs import redacted
from headrace.registry import Registry
from headrace.reload import Reload
from headrace.uri import URI

_VERSION = re.compile(r"_v[0-9]+$")


def reload(
    context: typer.Context,
    lake: options.Lake,
    warehouse: Warehouse,
    contract: options.ContractName,
    into: Annotated[
        str,
        typer.Option(
            "--into", metavar="TABLE", show_default="its name with _v and the contract's version", help="The new table."
        ),
    ] = "",
    stream: options.StreamName = "",
    epoch: options.Epoch = "",
    group: options.Group = 16 << 20,
    max_rejected: options.MaxRejected = MAX_REJECTED,
    begin_at: options.BeginAt = None,
    evolve: options.Evolve = False,
    retry_for: options.RetryFor = 600.0,
    json: options.AsJson = False,
    log_level: options.LogLevel = "",
    log_format: options.LogFormat = "",
) -> int:
    """
    Load the history of LAKE anew by a newer contract, into a table of its own, and let readers see that one instead.

    Readers of the view TABLE_current see the old table until the new one holds as many records, and then the new one. From then
    on the old one cannot be loaded any more; it is not dropped. Killed at any moment, it is simply run again.

    For example:

    headrace reload file:///lake 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade
    """
    from headrace.contract import Contract, load_contract  # noqa: PLC0415 - its imports are not needed by other commands

    output, registry = options.begin(context, log_level, log_format, as_json=json), Registry.discover()
    sys.path.append("")  # a module of the current folder, after all that is installed
    uri, kept = URI.parse(warehouse), load_contract(contract)
    name = uri.settings.get("table", "")
    if not name:
        raise ConfigError(f"found {uri}, expected the table to replace: add ?table=NAME")

    def make(target: str) -> Loader:
        return registry.loader(attrs.evolve(uri, settings={**uri.settings, "table": target}), kept)

    run = Reload(
        chain=open_chain(registry, lake, stream, epoch),
        name=name,
        make=make,
        target=into or f"{_VERSION.sub('', name)}_v{Contract.of(kept).version}",
        begin_at=beginning(begin_at or []),
        evolve=evolve,
        group_bytes=group,
        max_rejected=max_rejected,
        retry_for_s=retry_for,
    )
    output.keep({"lake": run.chain.store.place, "warehouse": redacted(str(uri)), "name": name, "target": run.target})
    try:
        with LoadStatus(segments=None) as progress, stopping(run.stop) as stop:
            run.observe = progress
            swapped = run.run()
    except HeadraceError:
        _report(output, run, swapped=False)
        raise
    _report(output, run, swapped=swapped)
    if not swapped:
        output.line("it was stopped before it was through: run it again, and it goes on where it was")
    output.document({"stopped_by": None if stop.signal is None else Signals(stop.signal).name})
    return code_of_stop(None if swapped else stop.signal, endless=False)


def _report(output: Output, run: Reload, *, swapped: bool) -> None:
    done = run.result
    output.keep({"swapped": swapped, **attrs.asdict(done)})
    output.line(summary(done, run.target))
    if swapped:
        output.line(f"readers of {run.name}_current see {run.target}; load ?table={run.target} from now on")
    else:
        output.line(f"readers of {run.name}_current see what they saw before")

"""``headrace contract infer``: the first draft of a contract, from what is in a lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.exits import DONE
from headrace.cli.lake import open_chain
from headrace.cli.options import Epoch, Lake, LogFormat, LogLevel, StreamName, begin
from headrace.errors import ConfigError
from headrace.registry import Registry
from headrace.units import counted


def infer(
    context: typer.Context,
    lake: Lake,
    stream: StreamName = "",
    epoch: Epoch = "",
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="CLASS", show_default=False, help="Of the class; from the stream's where absent."
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default=False, help="A new file; standard output where absent."),
    ] = None,
    records: Annotated[
        int, typer.Option("--records", min=1, metavar="N", help="How many records to look at, at most.")
    ] = 20_000,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Write a contract as a Python file, from a sample of LAKE: the first, the last and some segments between of each partition.

    Types and nulls are those of all values in the sample; what is in doubt stands in comments. It is a draft: read it, correct
    it, then load by it.

    For example:

    headrace contract infer file:///lake --stream trades --name Trade --out trades.py

    headrace load file:///lake 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade
    """
    from headrace.infer import class_name, written  # noqa: PLC0415 - its imports are not needed by other commands
    from headrace.sample import sample  # noqa: PLC0415 - as above

    output = begin(context, log_level, log_format)
    if name and (not name.isidentifier() or class_name(name) != name):
        raise ConfigError(f"found --name {name!r}, expected the name of a class such as {class_name(name)}")
    chain = open_chain(Registry.discover(), lake, stream, epoch)
    found = sample(chain, records)
    if not found.values:
        raise ConfigError(
            f"{chain.store.place} has no record of {chain.dataset.stream!r}: there is nothing to infer from"
        )
    where = (
        f"{counted(found.segments, 'segment')} in {counted(found.partitions, 'partition')} of {chain.dataset.stream!a}"
    )
    text = written(found.values, name or class_name(chain.dataset.stream), where)
    if out is None:
        typer.echo(text, nl=False)
        return DONE
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written ({exc.strerror}); name another file with --out") from exc
    output.remark(f"{out}: a contract from {len(found.values):,} records; read it before it is used")
    return DONE

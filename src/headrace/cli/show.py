"""``headrace show``: what is in a lake, down to the bytes of one record."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.chain import Chain
from headrace.cli.lake import open_chain, open_store
from headrace.cli.options import AsJson, Epoch, Lake, LogFormat, LogLevel, StreamName, begin
from headrace.cli.show_chain import show_chain
from headrace.cli.show_lake import show_lake
from headrace.cli.show_record import show_record
from headrace.errors import ConfigError
from headrace.registry import Registry


def show(
    context: typer.Context,
    lake: Lake,
    stream: StreamName = "",
    epoch: Epoch = "",
    partition: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", show_default=False, help="Show the chain of this partition, segment by segment."
        ),
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", show_default=False, help="Show the record at this offset, byte for byte."),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="With --offset: write the bytes of the record's value, unchanged, and nothing else."
        ),
    ] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show every segment on a terminal too, not only the newest and those near trouble."),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Read every object and compare it with its digest. Without it: names and trailers."
        ),
    ] = False,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Show what is in LAKE, down to one record.

    Alone: its streams and partitions. With --partition: the chain of one, segment by segment. With --offset: one record,
    byte for byte. Exit code 1 says that a chain is broken, and where, or that there is no such record.

    For example:

    headrace show file:///lake

    headrace show file:///lake --stream trades --partition 3

    headrace show file:///lake --stream trades --partition 3 --offset 41207 --raw
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    if raw and (json or offset is None):
        raise typer.BadParameter("it goes with --offset, and not with --json", param_hint="--raw")
    if partition is None and offset is None:
        store, named, named_epoch = open_store(registry, lake)
        return show_lake(output, store, stream or named, epoch or named_epoch, deep=deep)
    chain = open_chain(registry, lake, stream, epoch)
    number = _only(chain) if partition is None else partition
    _check_partition(chain, number)
    if offset is not None:
        return show_record(output, chain, number, offset, raw=raw)
    return show_chain(output, chain, number, every=every, deep=deep)


def _check_partition(chain: Chain, number: int) -> None:
    """Refuse a partition that the stream does not have; one without segments is there, if the pin counts it."""
    numbers = sorted({*chain.partitions(), *range(chain.dataset.partitions)})
    if number not in numbers:
        raise ConfigError(
            f"{chain.store.place}: stream {chain.dataset.stream!r} has no partition {number}; it has: {_ranges(numbers)}"
        )


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers shortly: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs) or "none"


def _only(chain: Chain) -> int:
    numbers = chain.partitions()
    if len(numbers) != 1:
        raise typer.BadParameter(f"the stream has {len(numbers)} partitions: name one", param_hint="--partition")
    return numbers[0]

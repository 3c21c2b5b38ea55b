"""``headrace audit``: is everything there, from the log's offsets to the warehouse's rows?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from headrace.auditing.making import made, unanswered
from headrace.auditing.result import AuditResult, FeedGap, PartitionAudit
from headrace.cli.options import AsJson, Epoch, Lake, LogFormat, LogLevel, StreamName, begin, seconds
from headrace.cli.output import Output
from headrace.cli.progress import Looking
from headrace.errors import ConfigError, TransientError
from headrace.units import counted

_SHOWN = 10
"""So many gaps of a feed are shown."""

_STYLES = {"complete": "bold green", "incomplete": "bold red", "unknown": "bold yellow"}


def audit(
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
            help="The log that it was made from, such as kafka://127.0.0.1:9092/trades; no group is joined.",
        ),
    ] = "",
    contract: Annotated[
        list[str] | None,
        typer.Option(
            "--contract",
            metavar="MODULE:CLASS",
            show_default=False,
            help="What a row is: --deep compares rows cell by cell, and cannot say complete without. Once for each version that"
            " rows were loaded by.",
        ),
    ] = None,
    stream: StreamName = "",
    epoch: Epoch = "",
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Read every object line by line, compare with the log record by record where it still has them, and with the"
            " table row by row. Without it: names, trailers, counts.",
        ),
    ] = False,
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="OFFSET|TIME", show_default=False, help="Only from there on; a time with its zone."
        ),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="OFFSET|TIME", show_default=False, help="Only up to there.")
    ] = "",
    gaps: Annotated[
        str,
        typer.Option(
            "--gaps",
            metavar="STREAM",
            show_default="FEED.gaps beside FEED.KIND",
            help="The stream of LAKE that says what a live feed did not send.",
        ),
    ] = "",
    caught_up: Annotated[
        bool,
        typer.Option("--caught-up", help="What is on its way is not complete: the last task of a job may ask for it."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", show_default=False, help="Write a page for people as well, in one file."
        ),
    ] = None,
    retry_for: Annotated[
        float,
        typer.Option(
            "--retry-for",
            parser=seconds,
            metavar="TIME",
            show_default="30s",
            help="How long to try what does not answer.",
        ),
    ] = 30.0,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Hold the log, LAKE and WAREHOUSE against each other, and say what is wrong, where, and what to do.

    It reads around what wrote them: names, trailers and bytes in the lake, SQL on the tables. It writes nothing, and may run
    while everything runs: what is on its way is behind, not wrong. Exit code 0: complete; 1: not; 2: something could not be
    told, such as a store that did not answer.

    For example:

    headrace audit file:///lake 'duckdb:///silver.duckdb?table=trades' --source kafka://127.0.0.1:9092/trades

    headrace audit file:///lake 'duckdb:///silver.duckdb?table=trades' --contract trades.py:Trade --deep --html audit.html
    """
    from headrace.contract import load_contract  # noqa: PLC0415 - its imports are not needed by other commands

    output = begin(context, log_level, log_format, as_json=json)
    sys.path.append("")  # a module of the current folder, after all that is installed
    kept = [load_contract(each) for each in contract or ()]
    with ExitStack() as stack:
        try:
            run = made(stack, lake, warehouse, source=source, stream=stream, epoch=epoch, contract=kept)
        except TransientError as error:
            result = unanswered(lake, stream, error)
        else:
            run.deep, run.since, run.until, run.caught_up = deep, since, until, caught_up
            run.retry_for_s, run.gaps = retry_for, gaps
            with Looking(f"{run.stream} in {run.store.place}", "objects") as looking:
                run.observe = looking
                result = run.run()
    if html is not None:
        _write(html, result)
    _show(output, result)
    output.document(result.document())
    return result.exit_code


def _write(file: Path, result: AuditResult) -> None:
    from headrace.auditing.page import render  # noqa: PLC0415 - only where a page is wanted

    try:
        file.write_text(render(result), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}") from exc


def _show(output: Output, result: AuditResult) -> None:
    columns = ["partition", "log", "chain", "ledger", "records", "rows", "quarantine", "superseded", "behind", "holes"]
    rows = [_cells(p) for p in result.partitions]
    kept = [i for i in range(len(columns)) if not output.drawn or i < 3 or any(row[i] is not None for row in rows)]
    output.table(result.stream, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows])
    for finding in result.findings:
        style = "yellow" if finding.kind == "unknown" else "red"
        where = (
            ""
            if finding.partition is None
            else f" {result.stream}/{finding.partition} [{finding.start}, {finding.end})"
        )
        output.remark(f"{finding.kind} in the {finding.where}{where}: {finding.evidence}", style)
        output.remark(f"  {finding.advice}")
    for line in not_sent(result):
        output.remark(line)
    for remark in result.remarks:
        output.remark(f"not looked at: {remark}")
    output.remark(f"{result.verdict}: {summary(result)}", _STYLES[result.verdict])


def not_sent(result: AuditResult) -> Iterator[str]:
    """What a feed did not send, for people: a line for all, then one for each gap of which something is not there."""
    if not result.gaps_of:
        return
    states = Counter(gap.state for gap in result.gaps)
    said = [
        f"{counted(len(result.gaps), 'gap')} in {result.gaps_of}",
        *(f"{n:,} {state}" for state, n in states.items()),
    ]
    looked = "" if result.counted is None else f"; {counted(result.counted, 'number')} of the feed held against them"
    yield f"not sent by the feed: {', '.join(said)}{looked}"
    left = [gap for gap in result.gaps if gap.state != "filled"]
    yield from (f"  {told(gap)}" for gap in left[:_SHOWN])
    if len(left) > _SHOWN:
        yield f"  {len(left) - _SHOWN:,} more are in the JSON (--json)"


def told(gap: FeedGap) -> str:
    """One gap in a line."""
    missing = gap.missing if gap.absent is None else gap.absent
    which = f" {gap.numbers}:" if gap.numbers else ""
    what = "something may be missing" if missing is None else f"{counted(missing, 'message')} missing"
    when = f"{gap.began or 'its start'} to {gap.ended or 'no end'}"
    asked = f"; history: {gap.history}" if gap.history else ""
    return f"{gap.symbol}{which} {what}, {gap.cause} ({when}, producer {gap.producer}){asked}"


def summary(result: AuditResult) -> str:
    """One line for people."""
    records = sum(p.records for p in result.partitions)
    parts = [f"{counted(records, 'record')} in {counted(sum(p.segments for p in result.partitions), 'segment')}"]
    if result.warehouse:
        parts.append(counted(sum(p.rows or 0 for p in result.partitions), "row"))
        parts.append(f"{sum(p.quarantined or 0 for p in result.partitions):,} quarantined")
    late = sum((p.behind_log or 0) + (p.behind_lake or 0) for p in result.partitions)
    parts += [f"{counted(late, 'offset')} behind"] if late else []
    parts.append(counted(len(result.findings), "finding"))
    return ", ".join(parts)


def _cells(p: PartitionAudit) -> list[object]:
    log = None if p.low is None else f"[{p.low}, {p.log_end})"
    behind = None if p.behind_log is None and p.behind_lake is None else (p.behind_log or 0) + (p.behind_lake or 0)
    holes = ", ".join(f"{count} {what}" for what, count in sorted(p.holes.items()))
    chain = f"[{p.chain_start}, {p.chain_end})"
    return [p.number, log, chain, p.ledger_end, p.records, p.rows, p.quarantined, p.superseded, behind, holes or None]

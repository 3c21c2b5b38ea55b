"""``headrace quarantine``: what broke its contract, counted, one by one, or all of it in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import attrs
import msgspec
import typer

from headrace.cli.exits import DATA, DONE
from headrace.cli.options import AsJson, LogFormat, LogLevel, begin
from headrace.cli.output import Output
from headrace.cli.progress import Looking
from headrace.cli.selecting import From, OfColumn, OfPartition, OfStream, Reason, To, Warehouse, nothing_in, selected
from headrace.cli.show_record import fields_of, print_fields, record_rows
from headrace.errors import ConfigError
from headrace.loader import QuarantinedRecord, Selection
from headrace.records import Partition
from headrace.registry import Registry
from headrace.units import counted


def counts(
    context: typer.Context,
    warehouse: Warehouse,
    stream: OfStream = "",
    partition: OfPartition = None,
    start: From = 0,
    end: To = None,
    reason: Reason = None,
    column: OfColumn = None,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Count what is in the quarantine of WAREHOUSE, by partition, column, reason and contract. Exit code 0, also where it is empty.

    For example:

    headrace quarantine list 'duckdb:///silver.duckdb?table=trades'

    headrace quarantine list 'duckdb:///silver.duckdb?table=trades' --stream trades --column price
    """
    output, selection = (
        begin(context, log_level, log_format, as_json=json),
        selected(stream, partition, start, end, reason, column),
    )
    with Registry.discover().ledger(warehouse) as loader:
        found = loader.quarantine_counts(selection)
    rows = [
        [c.partition.stream, c.partition.number, c.column, c.reason, c.contract, c.version, c.records, c.first, c.last]
        for c in found
    ]
    names = ["stream", "partition", "column", "reason", "contract", "version", "records", "first", "last"]
    documents = [
        {"dataset": c.dataset_id, **dict(zip(names, row, strict=True))} for c, row in zip(found, rows, strict=True)
    ]
    total = sum(c.records for c in found)
    output.document({"target": loader.target, "records": total, "quarantine": documents})
    output.table(f"quarantine of {loader.target}", names, rows)
    output.remark(counted(total, "record") if total else nothing_in(loader.target))
    return DONE


def show(
    context: typer.Context,
    warehouse: Warehouse,
    stream: Annotated[str, typer.Option("--stream", metavar="NAME", show_default=False, help="The record's stream.")],
    partition: Annotated[int, typer.Option("--partition", min=0, metavar="N", help="Its partition.")],
    offset: Annotated[int, typer.Option("--offset", min=0, metavar="N", help="Its offset.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the bytes of the record's value, unchanged, and nothing else.")
    ] = False,
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Show one quarantined record: where it is in the log, why it is refused, and its bytes. Exit code 1 where it is not there.

    For example:

    headrace quarantine show 'duckdb:///silver.duckdb?table=trades' --stream trades --partition 3 --offset 9238
    """
    output = begin(context, log_level, log_format, as_json=json)
    if raw and json:
        raise typer.BadParameter("it does not go with --json", param_hint="--raw")
    place = Partition(stream, partition)
    with Registry.discover().ledger(warehouse) as loader:
        found = list(loader.quarantined(Selection(partition=place, start=offset, end=offset + 1)))
    if not found:
        output.document({"target": loader.target, "records": []})
        output.remark(f"the quarantine of {loader.target} has no record of {place} at offset {offset}")
        return DATA
    if raw and len(found) > 1:
        names = ", ".join(each.dataset_id for each in found)
        raise ConfigError(f"{place} at offset {offset} is there of {len(found)} datasets ({names}): leave --raw out")
    if raw:
        sys.stdout.buffer.write(found[0].record().value or b"")
        return DONE
    output.document({"target": loader.target, "records": [_document(each) for each in found]})
    for each in found:
        _show(output, each)
    return DONE


def export(
    context: typer.Context,
    warehouse: Warehouse,
    to_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Else standard output."),
    ] = None,
    stream: OfStream = "",
    partition: OfPartition = None,
    start: From = 0,
    end: To = None,
    reason: Reason = None,
    column: OfColumn = None,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Write quarantined records as JSON lines, each with its place, its reason and the lake's line, to the byte.

    The lake's line stands in the field `record` as it is; no other field holds bytes of the record. A file is there only when
    it is whole. It needs as much memory for a million records as for one.

    For example:

    headrace quarantine export 'duckdb:///silver.duckdb?table=trades' -o bad.jsonl

    headrace quarantine export 'duckdb:///silver.duckdb?table=trades' --column price | jq .record.value
    """
    output, selection = (
        begin(context, log_level, log_format),
        selected(stream, partition, start, end, reason, column),
    )
    written = 0
    with (
        Registry.discover().ledger(warehouse) as loader,
        _written(to_file) as file,
        Looking(f"the quarantine of {loader.target}", "records") as looking,
    ):
        for record in looking.each(loader.quarantined(selection)):
            file.write(_line(record))
            written += 1
    if to_file is not None:
        output.line(f"{written:,} records of {loader.target} in {to_file}")
    return DONE


@contextmanager
def _written(path: Path | None) -> Iterator[BinaryIO]:
    """Write to standard output, or beside a file that is put in its place when all is written."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder; name a file with --output")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}; name another file with --output") from exc
    finally:
        part.unlink(missing_ok=True)


def _place(record: QuarantinedRecord) -> dict[str, object]:
    return {
        "dataset": record.dataset_id,
        "stream": record.partition.stream,
        "partition": record.partition.number,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "contract": record.contract,
        "version": record.version,
        "column": record.column,
        "reason": record.reason,
    }


def _line(record: QuarantinedRecord) -> bytes:
    return msgspec.json.encode({**_place(record), "record": msgspec.Raw(record.line)}) + b"\n"


def _document(record: QuarantinedRecord) -> dict[str, object]:
    return {**_place(record), "record": fields_of(record.record())}


def _show(output: Output, record: QuarantinedRecord) -> None:
    print_fields(
        output,
        {
            "stream": f"{record.partition}",
            "dataset": record.dataset_id,
            **record_rows(attrs.evolve(record.record(), offset=record.offset)),
            "column": record.column or "none: the record as a whole",
            "reason": record.reason,
            "contract": f"{record.contract} version {record.version}",
        },
    )

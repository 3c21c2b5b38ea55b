"""One record of a lake, byte for byte."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Mapping

from headrace.chain import Chain
from headrace.cli.exits import DATA, DONE
from headrace.cli.output import Output, plain, when
from headrace.records import Record
from headrace.segment import Segment


def show_record(output: Output, chain: Chain, number: int, offset: int, *, raw: bool) -> int:
    """Show the record at *offset*, or say why there is none."""
    segment = chain.covering(number, offset)
    inside = segment is not None and offset < segment.end
    record = _find(chain, segment, offset) if segment is not None and inside else None
    if segment is None or record is None:
        return _show_none(output, chain, number, offset, segment if inside else None)
    if raw:
        sys.stdout.buffer.write(record.value or b"")
        if record.value is None:
            output.remark(f"{chain.dataset.stream}/{number} at {offset} is a tombstone: it has no value")
        return DONE
    place = f"{chain.store.place}/{segment.key}"
    if output.as_json:
        output.document(
            {
                "stream": chain.dataset.stream,
                "partition": number,
                "record": fields_of(record),
                "object": place,
                "writer": segment.trailer.writer,
            }
        )
        return DONE
    print_fields(output, {**record_rows(record), "object": place, "writer": segment.trailer.writer})
    return DONE


def record_rows(record: Record) -> dict[str, str]:
    """A record's fields as people read them."""
    headers = "\n".join(f"{name}: {_printable(value)}" for name, value in record.headers) or "none"
    value = "none, a tombstone" if record.value is None else _printable(record.value)
    kind = {"create": "set by the producer", "append": "set by the broker"}.get(
        record.timestamp_type, record.timestamp_type
    )
    return {
        "offset": str(record.offset),
        "time": f"{when(record.timestamp_ms)} UTC ({record.timestamp_ms} ms, {kind})"
        if record.timestamp_ms >= 0
        else "none",
        "key": "none" if record.key is None else _printable(record.key),
        "headers": headers,
        "value": value,
        "size": f"{0 if record.value is None else len(record.value):,} bytes",
    }


def print_fields(output: Output, rows: Mapping[str, str]) -> None:
    """Show names and texts, one below the other; what may be copied is not folded."""
    for name, text in rows.items():
        for i, line in enumerate(text.split("\n")):
            output.line(f"{name if i == 0 else '':8} {line}", whole=name in ("key", "headers", "value", "object"))


def _find(chain: Chain, segment: Segment, offset: int) -> Record | None:
    for batch in chain.batches(segment):
        if batch.start <= offset < batch.end:
            return next((record for record in batch.records() if record.offset == offset), None)
    return None


def _show_none(output: Output, chain: Chain, number: int, offset: int, segment: Segment | None) -> int:
    if segment is None:
        newest = chain.newest(number)
        end = 0 if newest is None else newest.end
        if offset >= end:
            why = f"the chain ends at {end}"
        elif chain.expired(number, offset, offset + 1):
            why = f"its segment was expired: deleted on purpose, as the notes in {chain.layout.expired(number)} say"
        else:
            why = "no segment covers it; --partition shows where the chain is broken"
    elif offset < segment.trailer.first:
        why = f"{segment.key} begins with {segment.trailer.first}: before it nothing was in the log, or it was noted as lost"
    else:
        why = f"{segment.key} covers it and has no such record: it was a marker, or was compacted away"
    output.document({"stream": chain.dataset.stream, "partition": number, "record": None, "why": why})
    output.remark(f"{chain.dataset.stream}/{number} has no record at offset {offset}: {why}")
    return DATA


def fields_of(record: Record) -> dict[str, object]:
    """A record by the names of a bronze line; bytes that are no UTF-8 as base64."""
    return {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "timestamp_type": record.timestamp_type,
        **_content("key", record.key),
        "headers": [{"key": name, **_content("value", value)} for name, value in record.headers],
        **_content("value", record.value),
    }


def _content(name: str, content: bytes | None) -> dict[str, str | None]:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": b64encode(content).decode()}


def _printable(content: bytes | None) -> str:
    """Bytes as text where they are text, else as Python writes them; nothing that commands a terminal."""
    if content is None:
        return "none"
    try:
        return plain(content.decode())
    except UnicodeDecodeError:
        return repr(content)

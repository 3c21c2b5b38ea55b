"""Reads a quarantine table piece by piece, in the order of the log."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from headrace.loader import QuarantineCount, QuarantinedRecord, Selection
from headrace.plugins.snowflake.connection import Session
from headrace.plugins.snowflake.tables import PLACE, Tables, name
from headrace.records import Partition
from headrace.typed.segments import Place
from headrace.typed.spool import Spooled, no_room

_RECORDS_AT_ONCE = 5_000
_BYTES_AT_ONCE = 16 << 20
"""A piece ends behind the record that reaches it, so one record is held however long it is."""

_SEEN = ", ".join(map(name, PLACE[:3]))


def where(selection: Selection) -> tuple[str, list[object]]:
    """The selection as a condition on a quarantine table, with its values."""
    found, values = ["_OFFSET >= %s"], [selection.start]
    named: dict[str, object] = {
        "_STREAM": selection.stream,
        "_DATASET": selection.dataset_id,
        "REASON": selection.reason,
        '"COLUMN"': selection.column,
        "_OFFSET <": selection.end,
    }
    if selection.partition is not None:
        named |= {"_STREAM =": selection.partition.stream, "_PARTITION": selection.partition.number}
    given: list[object] = [*values]
    for column, wanted in named.items():
        if wanted is not None:
            found.append(f"{column} %s" if column[-1] in "<=" else f"{column} = %s")
            given.append(wanted)
    return " AND ".join(found), given


def counts(session: Session, tables: Tables, selection: Selection) -> list[QuarantineCount]:
    """Count by partition, column, reason and contract, ascending."""
    condition, values = where(selection)
    kinds = f'{_SEEN}, "COLUMN", REASON, CONTRACT, CONTRACT_VERSION'
    found = session.execute(
        f"SELECT {kinds}, COUNT(*) AS N, MIN(_OFFSET) AS FIRST_OFFSET, MAX(_OFFSET) AS LAST_OFFSET FROM {tables.quarantine}"
        f" WHERE {condition} GROUP BY {kinds}",
        *values,
    )
    return sorted(
        QuarantineCount(d, Partition(s, int(p)), column, reason, contract, int(version), int(n), int(first), int(last))
        for d, s, p, column, reason, contract, version, n, first, last in found
    )


def records(session: Session, tables: Tables, selection: Selection) -> Iterator[QuarantinedRecord]:
    """Yield the records, ascending."""
    condition, values = where(selection)
    places = session.execute(
        f"SELECT DISTINCT {_SEEN} FROM {tables.quarantine} WHERE {condition} ORDER BY {_SEEN}", *values
    )
    for dataset, stream, number in places:
        inside = f"{condition} AND _DATASET = %s AND _STREAM = %s AND _PARTITION = %s"
        given = [*values, dataset, stream, int(number)]
        piece: list[QuarantinedRecord] | None = None
        while piece is None or piece:
            if piece:
                given[0] = piece[-1].offset + 1
            piece = _piece(session, tables, inside, given)
            yield from piece


def _piece(session: Session, tables: Tables, condition: str, values: list[object]) -> list[QuarantinedRecord]:
    """The first records of one partition; how long they are is asked before they are read."""
    sizes = session.execute(
        f"SELECT _OFFSET, OCTET_LENGTH(LINE) AS N FROM {tables.quarantine} WHERE {condition} ORDER BY _OFFSET"
        f" LIMIT {_RECORDS_AT_ONCE}",
        *values,
    )
    if not sizes:
        return []
    sums = itertools.accumulate(int(size) for _, size in sizes)
    last = next((n for (n, _), held in zip(sizes, sums, strict=True) if held >= _BYTES_AT_ONCE), sizes[-1][0])
    found = session.execute(
        f'SELECT {_SEEN}, _OFFSET, _TIMESTAMP_MS, CONTRACT, CONTRACT_VERSION, "COLUMN", REASON, LINE FROM {tables.quarantine}'
        f" WHERE {condition} AND _OFFSET <= %s ORDER BY _OFFSET",
        *values,
        int(last),
    )
    return [
        QuarantinedRecord(d, Partition(s, int(p)), int(offset), int(ms), contract, int(version), *rest)
        for d, s, p, offset, ms, contract, version, *rest in found
    ]


def spool_quarantine(
    session: Session, tables: Tables, selection: Selection, folder: Path
) -> tuple[Spooled, list[Place]]:
    """Write the quarantined lines that were selected into *folder*, a file for each partition of each dataset."""
    files: list[Path] = []
    places: list[Place] = []
    longest = 0
    found = records(session, tables, selection)
    for place, group in itertools.groupby(found, key=lambda r: (r.dataset_id, r.partition.stream, r.partition.number)):
        files.append(folder / f"{len(files)}.jsonl")
        places.append(place)
        try:
            with files[-1].open("wb") as file:
                for record in group:
                    file.write(record.line + b"\n")
                    longest = max(longest, len(record.line) + 1)
        except OSError as exc:
            raise no_room(folder, exc) from exc
    return Spooled(files, longest), places

"""Tries quarantined records again: what is still in quarantine, under the lock, and nothing else (S6)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.contract import Contract
from headrace.errors import CommitUnknownError
from headrace.loader import LoadResult, Selection
from headrace.plugins.duckdb.quarantine import where
from headrace.plugins.duckdb.rows import changed, inserted, write_rows
from headrace.plugins.duckdb.tables import HELD, PLACE, quarantine
from headrace.typed.columns import quoted
from headrace.typed.segments import Place
from headrace.typed.spool import Spooled, no_room

if TYPE_CHECKING:
    import duckdb


def spool_quarantine(
    connection: duckdb.DuckDBPyConnection, target: str, selection: Selection, folder: Path
) -> tuple[Spooled, list[Place]]:
    """Write the quarantined lines that were selected into *folder*, a file for each partition of each dataset."""
    condition, values = where(selection)
    cursor = connection.execute(
        f"SELECT _dataset, _stream, _partition, line FROM {quoted(quarantine(target))} WHERE {condition} ORDER BY 1, 2, 3",
        values,
    )
    files: list[Path] = []
    places: list[Place] = []
    longest = 0
    for place, rows in itertools.groupby(iter(cursor.fetchone, None), key=lambda row: row[:3]):
        files.append(folder / f"{len(files)}.jsonl")
        places.append(place)
        try:
            with files[-1].open("wb") as file:
                for *_, line in rows:
                    file.write(line + b"\n")
                    longest = max(longest, len(line) + 1)
        except OSError as exc:
            raise no_room(folder, exc) from exc
    return Spooled(files, longest), places


def take_back(
    connection: duckdb.DuckDBPyConnection, target: str, contract: Contract, held: Mapping[str, object]
) -> LoadResult:
    """
    Move what was staged from quarantine into the target, with a ledger row of its own kind for each line.

    What is refused again stays, and says from now on by which contract and why.

    Args:
        connection: Inside a transaction that holds the lock row.

        target: The table.

        contract: What was staged by.

        held: Target and attempt.
    """
    table = quoted(quarantine(target))
    same = 'q._dataset = s.dataset AND q._stream = s.stream AND q._partition = s."partition" AND q._offset = r._offset'
    still = f"EXISTS (SELECT 1 FROM {table} q WHERE {same})"
    about = {**held, "contract": contract.name, "version": contract.version}
    added = write_rows(connection, target, contract, held, still)
    lines = connection.execute(
        f"INSERT INTO headrace_ledger SELECT {PLACE}, $target, 'redrive', s.first, s.last + 1, 0, {inserted(contract, 's.n')},"
        f" s.n - {inserted(contract, 's.n')}, -s.n, NULL, $contract, $version, $attempt, now()"
        f" FROM (SELECT s.file, {PLACE}, min(r._offset) AS first, max(r._offset) AS last, count(*) AS n"
        f" FROM staged r JOIN segments s ON s.file = r._file WHERE {still} GROUP BY ALL) s WHERE {HELD}",
        about,
    ).fetchall()[0][0]
    removed = changed(
        connection,
        f"DELETE FROM {table} q USING staged r, segments s WHERE r._file = s.file AND {same} AND {HELD}",
        held,
    )
    if removed < added or (not contract.key and removed != added) or bool(lines) != bool(removed):
        raise CommitUnknownError(f"{target}: {added} rows went in and {removed} left quarantine; nothing is kept")
    connection.execute(
        f'UPDATE {table} q SET contract = $contract, contract_version = $version, "column" = r."column", reason = r.reason'
        f" FROM refused r, segments s WHERE r._file = s.file AND {same} AND {HELD} AND (q.contract, q.contract_version,"
        ' q."column", q.reason) <> ($contract, $version, r."column", r.reason)',
        about,
    )
    return LoadResult(0, 0, added, removed - added, -removed)

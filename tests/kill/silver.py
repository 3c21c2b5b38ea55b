"""
Loads real ticks into a warehouse while the loader is killed again and again: ``silver.py run FOLDER WAREHOUSE``.

WAREHOUSE is a URI with ``{table}`` in it, or ``emulator`` for an emulated Snowflake. Trades, quotes (where there are some) and
bars, each sent twice, go into a lake; every thousandth record or so is broken. A loader in a process of its own is ended with
SIGKILL, at random moments and inside of COMMIT, until it has been killed often enough and ends by itself. Then every record must
be a row, in quarantine or superseded, and none twice; and the rows are those that `csv` and `decimal` make of the vendor's
files, to the last digit.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from headrace.chain import Chain
from headrace.demo import market
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.loader import Line, Selection
from headrace.pipeline import Pipeline
from headrace.plugins.market import Bar, Quote, Trade
from headrace.records import Partition
from headrace.registry import Registry

BROKEN_EVERY = 1009
BROKEN = b'{"symbol":"IBM","price":"not a number"}'
CONTRACTS = {"trades": Trade, "quotes": Quote, "bars": Bar}
EASTERN = timedelta(hours=4)  # every session lies in daylight saving time
GROUP_SEGMENTS = 5

Row = tuple[Any, ...]
Query = Callable[[str], Iterator[Row]]


# ---- the lake -------------------------------------------------------------------------------------------------


def values(table: str, data: Path) -> Iterator[bytes]:
    """What is sent, before some of it is broken."""
    if table == "bars":
        for number, symbol in enumerate([*market.symbols("tick", data)] * 2):
            for record in market.bars(symbol, data):
                value = json.loads(record.value or b"", parse_float=str)
                value["volume"] += number // len(market.symbols("tick", data))  # sent again, corrected
                text = json.dumps(value)
                for price in ("open", "high", "low", "close"):
                    text = text.replace(f'"{price}": "{value[price]}"', f'"{price}": {value[price]}')
                yield text.encode()
        return
    for symbol in market.symbols("tick", data):
        if table == "trades" or any((data / "tick" / symbol.lower()).glob("*_quote.zip")):
            records = market.trades(symbol, data) if table == "trades" else market.quotes(symbol, data)
            yield from (record.value or b"" for record in records)


def write(folder: Path, data: Path, limit: int, segment_records: int) -> dict[str, int]:
    """Write the lake; return how many records each stream has."""
    counts = {}
    for table in CONTRACTS:
        count = 0
        with (folder / f"{table}.jsonl").open("wb") as file:
            for count, value in enumerate(values(table, data), start=1):
                file.write((BROKEN if count % BROKEN_EVERY == 0 else value) + b"\n")
                if count == limit:
                    break
        if count:
            counts[table] = count
            registry = Registry.discover()
            source, sink = (
                registry.source(f"jsonl://{folder}/{table}.jsonl"),
                registry.sink(f"file://{folder}/lake"),
            )
            Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=segment_records)).run()
    return counts


# ---- the loader that dies -------------------------------------------------------------------------------------


def load(lake: str, warehouse: str, tables: Sequence[str], die_at: int, die_after_s: float, *, ledger: bool) -> None:
    """Load all tables; the parent is told of each transaction. At COMMIT number *die_at* die so long after it began."""
    registry, commits = Registry.discover(), 0
    for table in tables:
        loader = registry.loader(warehouse.replace("{table}", table), CONTRACTS[table])
        place, name = committing(type(loader))
        commit = getattr(place, name)

        def watched(*args: object, _commit: Any = commit) -> object:
            nonlocal commits
            commits += 1
            if commits == die_at:
                threading.Thread(target=_die, args=(die_after_s,), daemon=True).start()
            say("commit")
            return _commit(*args)

        chain = Chain.open(registry.store(lake), table)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, watched)
            if not ledger:
                patch.setattr(type(loader), "positions", lambda _self, lines: dict.fromkeys(lines))
                patch.setattr(type(loader), "_lacking", lambda _self, _connection, segments: list(segments))
            done = Load(chain=chain, loader=loader, group_segments=GROUP_SEGMENTS, retry_for_s=60)
            done.observe = lambda _: say("committed")
            done.run()


def committing(kind: type) -> tuple[type, str]:
    """Which method of which class says COMMIT for a loader of this kind."""
    if hasattr(kind, "_commit"):
        return kind, "_commit"
    return import_module("headrace.plugins.snowflake.connection").Session, "commit"


def _die(after_s: float) -> None:
    time.sleep(after_s)
    os.kill(os.getpid(), 9)


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def killed_load(folder: Path, warehouse: str, tables: Sequence[str], kills: int, seed: int, *, ledger: bool) -> None:
    """Run loaders until *kills* of them were killed and one ended by itself."""
    chance, done, inside = random.Random(seed), 0, 0
    while True:
        in_commit = done % 2 == 0 and done < kills
        die_at = chance.randint(1, 4) if in_commit else 0
        child = [sys.executable, __file__, "load", f"file://{folder}/lake", warehouse, ",".join(tables), str(die_at)]
        child += [f"{chance.uniform(0, 0.004):.6f}", "ledger" if ledger else "no-ledger"]
        goal = chance.randint(0, 3) if done < kills and not in_commit else 10**9
        with subprocess.Popen(child, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last, committed = "", 0
            while committed < goal and (line := process.stdout.readline()):
                last = line.strip()
                committed += last == "committed"
            if goal < 10**9:
                time.sleep(chance.uniform(0, 0.4))  # anywhere in what comes next: reading, typing, inserting
                process.kill()
            process.stdout.read()
            code = process.wait()
        if code == 0 and done >= kills:
            break
        if code != -9:
            raise SystemExit(f"the loader ended with {code} after {done} kills")
        done += 1
        inside += last == "commit"
        where = f"at COMMIT {die_at}" if in_commit else f"after {committed} transactions"
        print(f"kill {done}: {where}{', before its answer' if last == 'commit' else ''}", flush=True)
    print(f"{done} kills, {inside} of them inside of COMMIT")


# ---- what must be true ----------------------------------------------------------------------------------------


def verify_counts(folder: Path, warehouse: str, counts: dict[str, int]) -> list[str]:
    """Ask the loader of each table, whatever the warehouse: rows + quarantine + superseded = records."""
    problems, registry = [], Registry.discover()
    for table, records in counts.items():
        with registry.loader(warehouse.replace("{table}", table), CONTRACTS[table]) as loader:
            chain = Chain.open(registry.store(f"file://{folder}/lake"), table)
            line = Line(chain.dataset.id, Partition(table, 0), loader.target)
            position, found = loader.positions([line])[line], loader.census(line, 0, records)
            broken = sum(count.records for count in loader.quarantine_counts(Selection()))
        assert found is not None
        total = found.rows + found.quarantined + found.superseded
        print(
            f"{table}: {records:,} records = {found.rows:,} rows + {found.quarantined:,} quarantined"
            f" + {found.superseded:,} superseded"
        )
        if (position, total) != (records, records) or broken != records // BROKEN_EVERY:
            problems.append(
                f"{table}: position {position}, {total} accounted for, {broken} broken, of {records} records"
            )
    return problems


def verify_rows(query: Query, data: Path, counts: dict[str, int]) -> list[str]:
    """Compare tables with what the vendor's files say: each row once, at its place, with all its digits."""
    problems = []
    for table, records in counts.items():
        names = ", ".join(CONTRACTS[table].__annotations__)
        source = f"{table}_current" if table == "bars" else table
        found = map(naive, query(f"SELECT _offset, {names} FROM {source} ORDER BY _offset"))
        wrong = sum(1 for one, other in zip_all(oracle(table, data, records), found) if one != other)
        if wrong:
            problems.append(f"{table}: {wrong} rows are missing, added, doubled or changed")
        ledger = f"FROM headrace_ledger WHERE upper(target) = '{table.upper()}' AND kind = 'load'"
        doubled = len(list(query(f"SELECT start_offset {ledger} GROUP BY start_offset HAVING count(*) > 1")))
        if doubled:
            problems.append(f"{table}: {doubled} segments are in the ledger more than once")
    return problems


def naive(row: Row) -> Row:
    """A row with its moment in UTC as the oracle writes it, without a zone."""
    offset, symbol, when, *rest = row
    return (
        offset,
        symbol,
        when.replace(tzinfo=None) if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None),
        *rest,
    )


def zip_all(left: Iterator[Row], right: Iterator[Row]) -> Iterator[tuple[Row | None, Row | None]]:
    """Side by side by offset, the first column; what one side lacks is None."""
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            yield a, None
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            yield None, b
            b = next(right, None)
        else:
            yield a, b
            a, b = next(left, None), next(right, None)


def oracle(table: str, data: Path, records: int) -> Iterator[Row]:
    """The rows, each with its offset, by `csv` and `decimal` alone."""
    kept: dict[tuple[str, datetime], Row] = {}
    for offset, row in enumerate(published(table, data)):
        if offset == records:
            break
        if (offset + 1) % BROKEN_EVERY == 0:
            continue
        if table == "bars":
            kept[row[0], row[1]] = (offset, *row)
        else:
            yield (offset, *row)
    yield from sorted(kept.values())


def published(table: str, data: Path) -> Iterator[Row]:
    symbols = sorted(folder.name for folder in (data / "tick").iterdir())
    kind, what = ("minute", "trade") if table == "bars" else ("tick", table.removesuffix("s"))
    for again in range(2 if table == "bars" else 1):
        for symbol in symbols:
            for packed in sorted((data / kind / symbol).glob(f"*_{what}.zip")):
                midnight = datetime.combine(date.fromisoformat(packed.name[:8]), datetime.min.time()) + EASTERN
                for cells in read(packed):
                    time_ = midnight + timedelta(milliseconds=int(cells[0]))
                    yield (symbol.upper(), time_, *columns(table, cells, again))


def read(packed: Path) -> list[list[str]]:
    with zipfile.ZipFile(packed) as archive:
        return list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))


def columns(table: str, cells: list[str], again: int) -> Row:
    if table == "bars":
        return (*(Decimal(c) / 10_000 for c in cells[1:5]), Decimal(cells[5]) + again)
    if table == "trades":
        return Decimal(cells[1]) / 10_000, Decimal(cells[2]), cells[3], cells[4], cells[5] == "1"
    bid, ask = (
        (Decimal(price) / 10_000, Decimal(size or 0)) if int(price or 0) else (None, None)
        for price, size in (cells[1:3], cells[3:5])
    )
    return (*bid, *ask, cells[5], cells[6], cells[7] == "1")


# ---- the command ----------------------------------------------------------------------------------------------


@contextmanager
def reached(warehouse: str, folder: Path) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Query]]]]:
    """The warehouse's URI, and what opens it for queries when all loaders are gone."""
    if warehouse != "emulator":
        yield warehouse, partial(duckdb_queries, warehouse.partition("://")[2].partition("?")[0])
        return
    from headrace.testing.servers.snowflake import Snowflake  # noqa: PLC0415 - its extra is needed here only

    with Snowflake(folder=folder / "snowflake", idle_s=2.0) as server:  # of a loader that is gone, it rolls back
        endpoint, schema = server.endpoint, server.endpoint.schema()
        with endpoint.connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE IF NOT EXISTS {endpoint.database}")
            connection.cursor().execute(f"CREATE SCHEMA {endpoint.database}.{schema}")
        yield endpoint.uri(schema, "{table}"), partial(snowflake_queries, endpoint, schema)


@contextmanager
def duckdb_queries(database: str) -> Iterator[Query]:
    import duckdb  # noqa: PLC0415 - its extra is needed here only

    with duckdb.connect(database, read_only=True) as connection:
        yield lambda sql: iter(connection.execute(sql).fetchone, None)


@contextmanager
def snowflake_queries(endpoint: Any, schema: str) -> Iterator[Query]:
    with endpoint.connect(database=endpoint.database, schema=schema) as connection:
        yield lambda sql: iter(connection.cursor().execute(sql).fetchall())


def run(arguments: argparse.Namespace) -> int:
    folder, began_s = Path(arguments.folder), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, {datetime.now(UTC):%Y-%m-%d}", flush=True)
    counts = write(folder, arguments.data, arguments.records, arguments.segment_records)
    print(f"{sum(counts.values()):,} records in the lake after {time.monotonic() - began_s:.0f} s", flush=True)
    ledger = not arguments.without_ledger
    with reached(arguments.warehouse, folder) as (warehouse, opened):
        killed_load(folder, warehouse, list(counts), arguments.kills, arguments.seed, ledger=ledger)
        problems = verify_counts(folder, warehouse, counts)
        with opened() as query:
            problems += verify_rows(query, arguments.data, counts)
    for problem in problems:
        print(f"WRONG: {problem}")
    print(f"{'wrong' if problems else 'each record once'}, after {time.monotonic() - began_s:.0f} s")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("folder")
    running.add_argument("warehouse", help="a URI with {table} in it, or: emulator")
    running.add_argument("--data", type=Path, default=Path(str(files("headrace.demo").joinpath("data"))))
    running.add_argument("--kills", type=int, default=10)
    running.add_argument("--records", type=int, default=10**9, help="of each stream")
    running.add_argument("--segment-records", type=int, default=5_000)
    running.add_argument("--seed", type=int, default=random.randrange(10**6))
    running.add_argument("--without-ledger", action="store_true", help="the negative control")
    if sys.argv[1:2] == ["load"]:
        lake, warehouse, tables, die_at, after_s, ledger = sys.argv[2:]
        load(lake, warehouse, tables.split(","), int(die_at), float(after_s), ledger=ledger == "ledger")
        return 0
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())

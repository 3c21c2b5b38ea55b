"""
Every way in which data can be wrong that we know of, and what the audit must say of it.

``python tests/audit/audit_faults.py > docs/pages/audit-faults.md`` plants each of them and writes down what it said.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
from audit_world import Last, Small, Tick, Tick2, World, copied, healthy
from feed_world import FeedWorld

from headrace.auditing.result import AuditFinding, AuditResult
from headrace.chain import Chain
from headrace.compression import Gzip
from headrace.load import Load
from headrace.loader import Selection
from headrace.records import Partition
from headrace.segment import Trailer
from headrace.trailer import TRAILER_BYTES, decode, encode

Plant = Callable[[World], object]


@attrs.frozen
class Fault:
    """
    One way to be wrong.

    Attributes:
        name: In words.

        plant: Does it to a healthy world.

        expected: Kind, where, partition, start, end.

        deep: Only a deep audit can see it.

        kept: The contract of the table that is looked at; None: no table is, so that only log and lake can tell.

        log: Whether it is compared with the log.

        feed: It is planted in the lake of a feed's trades and gap records.

        part: What else the audit is asked: from where on, up to where.
    """

    name: str
    plant: Plant
    expected: tuple[str, str, int | None, int, int]
    deep: bool = False
    kept: type | None = Tick
    log: bool = True
    feed: bool = False
    part: Mapping[str, object] = attrs.field(factory=dict, hash=False)


# ---- the lake's ---------------------------------------------------------------------------------------------------


def at(start: int, number: int = 0, extension: str = "jsonl.gz") -> Callable[[World], Path]:
    return lambda world: world.folder / f"lake/ticks/partition={number}/{start:020d}.{extension}"


def removed(start: int, number: int = 0) -> Plant:
    return lambda world: at(start, number)(world).unlink()


def doubled(start: int, name: str, number: int = 0) -> Plant:
    def plant(world: World) -> None:
        path = at(start)(world)
        shutil.copy(path, path.parent.parent / f"partition={number}" / name)

    return plant


def changed(start: int, change: Callable[[bytes], bytes]) -> Plant:
    def plant(world: World) -> None:
        path = at(start)(world)
        body = path.read_bytes()
        path.write_bytes(change(body))
        assert body != path.read_bytes(), "the fault did nothing"

    return plant


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda body: (
        body[:place] + bytes([body[place] ^ 4]) + body[place + 1 :] if place >= 0 else flipped(len(body) + place)(body)
    )


def forged(lines: Callable[[list[bytes]], list[bytes]], **changes: object) -> Callable[[bytes], bytes]:
    """Write the lines anew, with a trailer that fits them: only the records are wrong."""

    def change(body: bytes) -> bytes:
        said = decode(body[-TRAILER_BYTES:], Gzip(), key="")
        found = lines(gzip.decompress(body).splitlines(keepends=True))
        offsets = [json.loads(line)["offset"] for line in found]
        times = [json.loads(line)["timestamp_ms"] for line in found]
        block = Gzip().join([Gzip().block(b"".join(found))])
        fits = {"records": len(set(offsets)), "first": min(offsets), "end": max(offsets) + 1}
        fits |= {"min_ms": min(times), "max_ms": max(times)}
        trailer: Trailer = attrs.evolve(said, **{**fits, "digest": hashlib.sha256(block).hexdigest(), **changes})
        return block + encode(trailer, Gzip())

    return change


def without(offset: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for line in lines if not line.startswith(b'{"offset":%d,' % offset)]


def twice(offset: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for each in lines for line in [each] * (1 + each.startswith(b'{"offset":%d,' % offset))]


def swapped_lines(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def one_digit(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"price":8.25', b'"price":8.26') for line in lines]


def with_aborted(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[0].replace(b'"offset":11,', b'"offset":12,'), *lines[1:]]


def overlapping(world: World) -> None:
    body = forged(lambda lines: [line.replace(b'"offset":6,', b'"offset":8,') for line in lines[:1]], start=8)(
        at(6)(world).read_bytes()
    )
    at(8)(world).write_bytes(body)


def recompressed(body: bytes) -> bytes:
    return gzip.compress(gzip.decompress(body), 9)


def recompressed_with_trailer(body: bytes) -> bytes:
    return gzip.compress(gzip.decompress(body), 9) + body[-TRAILER_BYTES:]


def swapped(world: World) -> None:
    one, other = at(0)(world), at(0, 1)(world)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def moved(world: World) -> None:
    at(6)(world).rename(at(7)(world))


def of_partition(body: bytes) -> bytes:
    return forged(list, partition=Partition("other", 0))(body)


def other_dataset(body: bytes) -> bytes:
    return forged(list, dataset_id="f" * 32)(body)


def edited(body: bytes) -> bytes:
    return body[:-TRAILER_BYTES] + body[-TRAILER_BYTES:].replace(b'"records":5', b'"records":4')


def pinned(**changes: object) -> Plant:
    def plant(world: World) -> None:
        path = world.folder / "lake/ticks/_headrace/dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return plant


def pin_gone(world: World) -> None:
    (world.folder / "lake/ticks/_headrace/dataset.json").unlink()


def pin_damaged(world: World) -> None:
    (world.folder / "lake/ticks/_headrace/dataset.json").write_text('{"id":')


def noted(kind: str, start: int, end: int) -> Plant:
    def plant(world: World) -> None:
        folder = world.folder / f"lake/ticks/_headrace/{kind}/partition=0"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{start:020d}-{end:020d}.json").write_text("{}")

    return plant


def both(*plants: Plant) -> Plant:
    def plant(world: World) -> None:
        for each in plants:
            each(world)

    return plant


def stranger_folder(world: World) -> None:
    folder = world.folder / "lake/ticks/partition=00"
    folder.mkdir()
    shutil.copy(at(6)(world), folder)


def later_partition(world: World) -> None:
    """One that was added after the pin was made, so that only its folder says that it is there."""
    pinned(partitions=1)(world)
    shutil.rmtree(world.folder / "lake/ticks/partition=1")


def uncommitted(world: World) -> None:
    """A record of a transaction that is still open, as a reader stored it who was not to see it."""
    world.produce(3, fate="open")
    body = forged(lambda lines: [lines[-1].replace(b'"offset":26,', b'"offset":27,')], start=27)(
        at(22)(world).read_bytes()
    )
    at(27)(world).write_bytes(body)


# ---- the log's ----------------------------------------------------------------------------------------------------


def made_again(world: World) -> None:
    world.log.recreate()
    world.produce(40)
    world.produce(20, 1)


def cut_back(world: World) -> None:
    world.log.cut_back(20)


# ---- the warehouse's ----------------------------------------------------------------------------------------------

LINE_8 = '{"offset":8,"timestamp_ms":1008,"key":"k","headers":null,"value":{"symbol":"C","price":8.25,"size":8}}'
LEDGER = "target = 'ticks' AND \"partition\" = 0"
IN_RANGE = "_partition = 0 AND _offset ="


def sql(*statements: str) -> Plant:
    def plant(world: World) -> None:
        for statement in statements:
            world.sql(statement)

    return plant


def ledger_row(start: int, changes: str) -> Plant:
    """Put a row like that of the load at *start* into the ledger, with *changes*."""
    return sql(
        f"INSERT INTO headrace_ledger SELECT * REPLACE ({changes}) FROM headrace_ledger WHERE {LEDGER} AND start_offset = {start} AND kind = 'load'"
    )


def put_in(table: str, change: str, of: str) -> Plant:
    """Put a record like the one at an offset into a table, with a change."""
    return sql(f"INSERT INTO {table} SELECT * REPLACE ({change}) FROM {table} WHERE {IN_RANGE} {of}")


def redriven(*statements: str) -> Plant:
    """A table of which records left quarantine since, and then something."""

    def plant(world: World) -> None:
        world.sql("DROP VIEW ticks_current; DROP TABLE ticks; DROP TABLE ticks_quarantine; DROP TABLE headrace_ledger")
        world.sql("DELETE FROM headrace_lock")
        Load(chain=Chain.open(world.store, "ticks"), loader=world.loader(Small, "ticks"), max_rejected=1.0).run()
        world.loader(Tick2, "ticks").redrive(Selection())
        sql(*statements)(world)

    return plant


# ---- a feed's -----------------------------------------------------------------------------------------------------


def of_feed(kind: str, start: int, lines: Callable[[list[bytes]], list[bytes]]) -> Plant:
    """Change a segment of a feed's stream, which has one partition with records."""

    def plant(world: World) -> None:
        [path] = (world.folder / "feed" / f"coinbase.{kind}").glob(f"partition=*/{start:020d}.jsonl.gz")
        path.write_bytes(forged(lines, **({} if start else {"start": 0}))(path.read_bytes()))

    return plant


def without_gap(name: str) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for line in lines if b'"id":"%s"' % name.encode() not in line]


def filled(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"filled":false', b'"filled":true') if b'"missing":2' in line else line for line in lines]


def in_line(of: bytes, by: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Change the line at 8."""
    return lambda lines: [line.replace(of, by) if line.startswith(b'{"offset":8,') else line for line in lines]


FAULTS = (
    # the lake's objects
    Fault("a segment is removed", removed(6), ("gap", "lake", 0, 6, 11)),
    Fault("the first segment is removed", removed(0), ("gap", "lake", 0, 0, 6)),
    Fault("the newest segment is removed", removed(22), ("ahead", "ledger", 0, 22, 27)),
    Fault("all segments of a partition are removed", both(removed(0, 1), removed(5, 1)), ("ahead", "ledger", 1, 0, 8)),
    Fault("a segment is removed, and a note says it was expired", both(noted("expired", 6, 11), removed(6)), ("gap", "lake", 0, 6, 11)),
    Fault("the head is removed, and a note explains a part", both(noted("expired", 0, 6), removed(0), removed(6)), ("gap", "lake", 0, 6, 11)),
    Fault("a segment is doubled under another start", doubled(6, f"{8:020d}.jsonl.gz"), ("duplicate", "lake", 0, 8, 11)),
    Fault("a segment is doubled under a name that is no segment's", doubled(6, "copy of 6.jsonl.gz"), ("duplicate", "lake", 0, 6, 11)),
    Fault("a segment is doubled into another partition", doubled(6, f"{8:020d}.jsonl.gz", 1), ("duplicate", "lake", 1, 8, 9)),
    Fault("a segment is moved to another start", moved, ("corrupt", "lake", 0, 7, 11)),
    Fault("two segments are swapped between partitions", swapped, ("foreign", "lake", 0, 0, 6)),
    Fault("a segment overlaps the one before", overlapping, ("overlap", "lake", 0, 8, 9)),
    Fault("a segment is truncated", changed(6, lambda body: body[:-700]), ("corrupt", "lake", 0, 6, 11)),
    Fault("a segment is empty", changed(6, lambda _: b""), ("corrupt", "lake", 0, 6, 11)),
    Fault("a bit of the trailer flips", changed(6, flipped(-500)), ("corrupt", "lake", 0, 6, 11)),
    Fault("a bit of the trailer's frame flips", changed(6, flipped(-3)), ("corrupt", "lake", 0, 6, 11)),
    Fault("a bit of the lines flips", changed(6, flipped(60)), ("corrupt", "lake", 0, 6, 11), deep=True),
    Fault("the trailer is edited", changed(6, edited), ("corrupt", "lake", 0, 6, 11)),
    Fault("the trailer is edited with its checksum", changed(6, forged(list, records=4)), ("changed", "ledger", 0, 6, 11)),
    Fault("the trailer's end is edited with its checksum", changed(6, forged(list, end=13)), ("overlap", "lake", 0, 11, 13)),
    Fault("a segment is compressed anew", changed(6, recompressed), ("corrupt", "lake", 0, 6, 11)),
    Fault("a segment is compressed anew, its trailer kept", changed(6, recompressed_with_trailer), ("corrupt", "lake", 0, 6, 11), deep=True),
    Fault("a segment is of another topic of the same name", changed(6, other_dataset), ("foreign", "lake", 0, 6, 11)),
    Fault("a segment is of another stream", changed(6, of_partition), ("foreign", "lake", 0, 6, 11)),
    Fault("a segment is of another format", doubled(6, f"{6:020d}.jsonl.zst"), ("foreign", "lake", 0, 6, 11)),
    Fault("a file that is no segment lies among them", lambda w: at(6)(w).with_name("notes.jsonl.gz").write_bytes(b"x"), ("foreign", "lake", 0, 0, 1)),
    Fault("a segment lies beside the partitions' folders", lambda w: shutil.copy(at(6)(w), w.folder / "lake/ticks"), ("foreign", "lake", None, 0, 0)),
    Fault("a folder looks like a partition's and is none", stranger_folder, ("foreign", "lake", None, 0, 0)),
    Fault("a segment at the end of the part that is asked for is removed", removed(6), ("gap", "lake", 0, 6, 11), kept=None, log=False, part={"until": 11}),
    Fault("the segments before the part that is asked for are removed, and some of it", both(removed(0), removed(6)), ("gap", "lake", 0, 0, 11), kept=None, log=False, part={"since": 7}),
    Fault("all segments are removed, and only the pin is left", both(*(removed(start) for start in (0, 6, 11, 22)), removed(0, 1), removed(5, 1)), ("unknown", "lake", None, 0, 0), kept=None, log=False),
    Fault("a partition that was added later is removed", later_partition, ("ahead", "ledger", 1, 0, 8), log=False),
    Fault("a record of a transaction that is still open is stored", uncommitted, ("ahead", "lake", 0, 27, 28), kept=None),
    # the lines inside, with trailers that fit them
    Fault("lines are out of order", changed(6, forged(swapped_lines)), ("corrupt", "lake", 0, 8, 9), deep=True),
    Fault("a line is doubled", changed(6, forged(twice(8))), ("duplicate", "lake", 0, 8, 9), deep=True),
    Fault("a line is dropped", changed(6, forged(without(8))), ("gap", "lake", 0, 8, 9), deep=True, kept=None),
    Fault("a line is dropped, and nobody has the log", changed(6, forged(without(8))), ("changed", "ledger", 0, 6, 11), log=False),
    Fault("a line is dropped, and a note says that it was lost", both(noted("gaps", 6, 7), changed(6, forged(without(6), start=6))), ("gap", "lake", 0, 6, 7), deep=True, kept=None),
    Fault("the first line of the part that is asked for is dropped", changed(6, forged(without(6), start=6)), ("gap", "lake", 0, 6, 7), deep=True, kept=None, part={"since": 6}),
    Fault("a value is changed by one digit", changed(6, forged(one_digit)), ("changed", "lake", 0, 8, 9), deep=True, kept=None),
    Fault("a record of an aborted transaction is stored", changed(11, forged(with_aborted)), ("foreign", "lake", 0, 12, 13), deep=True, kept=None),
    Fault("a line has a field twice", changed(6, forged(in_line(b'"key":"k"', b'"key":"x","key":"k"'))), ("corrupt", "lake", 0, 8, 11), deep=True, kept=None, log=False),
    Fault("a line has a field that is none of ours", changed(6, forged(in_line(b'"key":"k"', b'"key":"k","value_b64":"e30="'))), ("corrupt", "lake", 0, 8, 11), deep=True, kept=None, log=False),
    Fault("a value is no strict JSON, so that readers of the whole prefix may fail", changed(6, forged(in_line(b"8.25", b"NaN"))), ("corrupt", "lake", 0, 8, 11), deep=True, kept=None, log=False),
    # the pin, and the log that it names
    Fault("the pin is removed", pin_gone, ("missing", "pin", None, 0, 0)),
    Fault("the pin is damaged", pin_damaged, ("corrupt", "pin", None, 0, 0)),
    Fault("the pin's id is changed", pinned(id="e" * 32), ("changed", "pin", None, 0, 0)),
    Fault("the pin's topic is changed", pinned(topic="another"), ("foreign", "source", None, 0, 0)),
    Fault("the pin's cluster is changed", pinned(cluster="another"), ("foreign", "source", None, 0, 0)),
    Fault("the pin's stream is changed", pinned(stream="another"), ("changed", "pin", None, 0, 0)),
    Fault("the pin's epoch is changed", pinned(epoch="b"), ("changed", "pin", None, 0, 0)),
    Fault("the pin's number of partitions is gone", pinned(partitions=None), ("corrupt", "pin", None, 0, 0)),
    Fault("the pin's number of partitions is higher", pinned(partitions=9), ("foreign", "source", None, 0, 0)),
    Fault("the pin's isolation is changed", pinned(isolation="read_uncommitted"), ("foreign", "source", None, 0, 0)),
    Fault("the pin's topic is gone", pinned(topic=None), ("unknown", "source", None, 0, 0)),
    Fault("the pin's format is changed", pinned(compression="zstd"), ("foreign", "lake", 0, 0, 27)),
    Fault("the topic was deleted and made again", made_again, ("foreign", "source", None, 0, 0)),
    Fault("the log was cut back", cut_back, ("ahead", "lake", 0, 20, 27)),
    # the ledger
    Fault("a ledger row is removed", sql(f"DELETE FROM headrace_ledger WHERE {LEDGER} AND start_offset = 6"), ("missing", "ledger", 0, 6, 11)),
    Fault("the newest ledger row is removed", sql(f"DELETE FROM headrace_ledger WHERE {LEDGER} AND start_offset = 22"), ("missing", "ledger", 0, 22, 27)),
    Fault("a ledger row is doubled", ledger_row(6, "'again' AS attempt"), ("duplicate", "ledger", 0, 6, 11)),
    Fault("a ledger row overlaps another", ledger_row(6, "8 AS start_offset"), ("overlap", "ledger", 0, 8, 11)),
    Fault("the ledger is ahead of the lake", ledger_row(22, "27 AS start_offset, 40 AS end_offset"), ("ahead", "ledger", 0, 27, 40)),
    Fault("a ledger row has another digest", sql(f"UPDATE headrace_ledger SET digest = repeat('0', 64) WHERE {LEDGER} AND start_offset = 6"), ("changed", "ledger", 0, 6, 11)),
    Fault("a ledger row's counts do not add up", sql(f"UPDATE headrace_ledger SET inserted = inserted + 1 WHERE {LEDGER} AND start_offset = 6"), ("corrupt", "ledger", 0, 6, 11)),
    Fault("a ledger row hides a row as superseded, in a table without a key", sql(f"UPDATE headrace_ledger SET inserted = inserted - 1, superseded = 1 WHERE {LEDGER} AND start_offset = 6"), ("corrupt", "ledger", 0, 6, 11)),
    Fault("a ledger row is of a kind that is none", ledger_row(22, "'moved' AS kind"), ("corrupt", "ledger", 0, 22, 27)),
    Fault("a ledger row is of a partition that is not there", ledger_row(22, '9 AS "partition"'), ("ahead", "ledger", 9, 0, 27)),
    Fault("a ledger row is of a dataset that is not there", ledger_row(22, "'another' AS dataset"), ("missing", "rows", None, 0, 0)),
    Fault("a redrive is in the ledger twice", redriven("INSERT INTO headrace_ledger SELECT * FROM headrace_ledger WHERE kind = 'redrive' AND \"partition\" = 0"), ("duplicate", "ledger", 0, 16, 26)),
    Fault("a redrive is gone from the ledger", redriven("DELETE FROM headrace_ledger WHERE kind = 'redrive' AND \"partition\" = 0"), ("changed", "quarantine", 0, 11, 27)),
    Fault("a redrive's counts do not add up", redriven("UPDATE headrace_ledger SET inserted = inserted + 1 WHERE kind = 'redrive' AND \"partition\" = 0"), ("corrupt", "ledger", 0, 16, 26)),
    Fault("segments are expired that were never loaded", both(noted("expired", 0, 11), removed(0), removed(6), sql(*(f"DELETE FROM {table} WHERE _partition = 0 AND _offset >= 6" for table in ("ticks", "ticks_quarantine")), f"DELETE FROM headrace_ledger WHERE {LEDGER} AND start_offset >= 6")), ("gap", "ledger", 0, 6, 11)),
    Fault("the table was never loaded from this stream", sql("DELETE FROM ticks", "DELETE FROM ticks_quarantine", "DELETE FROM headrace_ledger"), ("unknown", "rows", None, 0, 0)),
    # rows and quarantine
    Fault("a row is removed", sql(f"DELETE FROM ticks WHERE {IN_RANGE} 8"), ("missing", "rows", 0, 6, 11)),
    Fault("a row is removed", sql(f"DELETE FROM ticks WHERE {IN_RANGE} 8"), ("missing", "rows", 0, 8, 9), deep=True),
    Fault("all rows of a segment are removed", sql("DELETE FROM ticks WHERE _partition = 0 AND _offset BETWEEN 6 AND 10"), ("missing", "rows", 0, 6, 11), deep=True),
    Fault("a row is doubled", sql(f"INSERT INTO ticks SELECT * FROM ticks WHERE {IN_RANGE} 8"), ("duplicate", "rows", 0, 6, 11)),
    Fault("a row is doubled", sql(f"INSERT INTO ticks SELECT * FROM ticks WHERE {IN_RANGE} 8"), ("duplicate", "rows", 0, 8, 9), deep=True),
    Fault("one row is removed, and another doubled", sql(f"DELETE FROM ticks WHERE {IN_RANGE} 8", f"INSERT INTO ticks SELECT * FROM ticks WHERE {IN_RANGE} 7"), ("missing", "rows", 0, 6, 11)),
    Fault("a row is changed by one digit", sql(f"UPDATE ticks SET price = price + 0.000001 WHERE {IN_RANGE} 8"), ("changed", "rows", 0, 8, 9), deep=True),
    Fault("a row's value becomes NULL", sql(f"UPDATE ticks SET size = NULL WHERE {IN_RANGE} 8"), ("changed", "rows", 0, 8, 9), deep=True),
    Fault("a row's moment is a nanosecond later", sql(f"UPDATE ticks SET time = make_timestamp_ns(epoch_ns(time) + 1) WHERE {IN_RANGE} 8"), ("changed", "rows", 0, 8, 9), deep=True),
    Fault("a row's place is another one", sql(f"UPDATE ticks SET _offset = 12 WHERE {IN_RANGE} 11"), ("foreign", "rows", 0, 12, 13), deep=True),
    Fault("a row is there that no record made", sql(f"INSERT INTO ticks SELECT * REPLACE (12 AS _offset) FROM ticks WHERE {IN_RANGE} 11"), ("foreign", "rows", 0, 11, 22)),
    Fault("a row is there beyond the ledger", sql(f"INSERT INTO ticks SELECT * REPLACE (99 AS _offset) FROM ticks WHERE {IN_RANGE} 11"), ("missing", "ledger", 0, 99, 100)),
    Fault("a row is there of a partition that is not", put_in("ticks", "9 AS _partition", "4"), ("missing", "ledger", 9, 4, 5)),
    Fault("a row is there before the first offset", put_in("ticks", "-1 AS _offset", "4"), ("missing", "ledger", 0, -1, 0)),
    Fault("a row is there of a dataset that is not", put_in("ticks", "'another' AS _dataset", "4"), ("foreign", "rows", None, 0, 0)),
    Fault("a row is there of a stream that is not", put_in("ticks", "'tick' AS _stream", "4"), ("foreign", "rows", None, 0, 0)),
    Fault("a quarantined record is there of a dataset that is not", put_in("ticks_quarantine", "'another' AS _dataset", "5"), ("foreign", "quarantine", None, 0, 0)),
    Fault("a record is both quarantined and loaded", sql(f"INSERT INTO ticks SELECT * REPLACE (5 AS _offset) FROM ticks WHERE {IN_RANGE} 4"), ("duplicate", "quarantine", 0, 0, 6)),
    Fault("a quarantined record is lost", sql(f"DELETE FROM ticks_quarantine WHERE {IN_RANGE} 5"), ("missing", "quarantine", 0, 0, 6)),
    Fault("a quarantined record is lost", sql(f"DELETE FROM ticks_quarantine WHERE {IN_RANGE} 5"), ("missing", "quarantine", 0, 5, 6), deep=True),
    Fault("a quarantined record is doubled", sql(f"INSERT INTO ticks_quarantine SELECT * FROM ticks_quarantine WHERE {IN_RANGE} 5"), ("duplicate", "quarantine", 0, 0, 6)),
    Fault("a quarantined line is changed", sql(f"UPDATE ticks_quarantine SET line = 'x'::BLOB WHERE {IN_RANGE} 5"), ("changed", "quarantine", 0, 5, 6), deep=True),
    Fault("a quarantined record was made a row by hand", sql(f"DELETE FROM ticks_quarantine WHERE {IN_RANGE} 5", f"INSERT INTO ticks SELECT * REPLACE (5 AS _offset) FROM ticks WHERE {IN_RANGE} 4"), ("changed", "quarantine", 0, 0, 6)),
    Fault("a row was put into quarantine by hand, and the ledger says so", sql(f"INSERT INTO ticks_quarantine SELECT _dataset, _stream, _partition, _offset, _timestamp_ms, 'Tick', 1, 'price', 'not a number', '{LINE_8}'::BLOB, now() FROM ticks WHERE {IN_RANGE} 8", f"DELETE FROM ticks WHERE {IN_RANGE} 8", f"UPDATE headrace_ledger SET inserted = inserted - 1, rejected = rejected + 1 WHERE {LEDGER} AND start_offset = 6"), ("changed", "quarantine", 0, 8, 9), deep=True),
    # a table with a key
    Fault("a key's row is removed", sql("DELETE FROM last WHERE symbol = 'A'"), ("missing", "rows", None, 0, 0), kept=Last),
    Fault("a key's row is removed", sql("DELETE FROM last WHERE symbol = 'A'"), ("missing", "rows", 0, 24, 25), deep=True, kept=Last),
    Fault("a key has two rows", sql("INSERT INTO last SELECT * REPLACE (8 AS _offset) FROM last WHERE symbol = 'A'"), ("duplicate", "rows", None, 0, 0), kept=Last),
    Fault("a record of a table with a key is in quarantine as well", put_in("last_quarantine", "8 AS _offset", "5"), ("changed", "quarantine", 0, 6, 11), kept=Last),
    Fault("a key's row is of a dataset that is not there", sql("UPDATE last SET _dataset = 'another' WHERE symbol = 'A'"), ("foreign", "rows", None, 0, 0), kept=Last),
    Fault("a key's row is of an older record", sql("UPDATE last SET _offset = 6, price = 6.25, size = 6, time = make_timestamp_ns(1006000000), _timestamp_ms = 1006 WHERE symbol = 'A'"), ("changed", "rows", 0, 6, 7), deep=True, kept=Last),
    Fault("a key's row is changed by one digit", sql("UPDATE last SET price = price + 0.000001 WHERE symbol = 'A'"), ("changed", "rows", 0, 24, 25), deep=True, kept=Last),
    # a feed that counts, in a lake of its own; nobody has its log
    Fault("a feed's message is removed, and no gap record says so", of_feed("trades", 0, without(2)), ("missing", "numbers", 0, 1, 4), deep=True, feed=True),
    Fault("a feed's message that came late is removed", of_feed("trades", 6, without(6)), ("missing", "numbers", 0, 3, 5), deep=True, feed=True),
    Fault("a gap record says that the gap was filled, and it was not", of_feed("gaps", 0, filled), ("corrupt", "numbers", None, 0, 0), deep=True, feed=True),
    Fault("the pin of the gap records is damaged", lambda w: (w.folder / "feed/coinbase.gaps/_headrace/dataset.json").write_text("x"), ("unknown", "numbers", None, 0, 0), deep=True, feed=True),
    Fault("the pin of the gap records is removed", lambda w: (w.folder / "feed/coinbase.gaps/_headrace/dataset.json").unlink(), ("unknown", "numbers", None, 0, 0), deep=True, feed=True),
    Fault("a gap record is removed", of_feed("gaps", 0, without_gap("one-2")), ("missing", "numbers", 0, 3, 7), deep=True, feed=True),
)  # fmt: skip


def told(fault: Fault, pattern: World, folder: Path) -> AuditResult:
    """Plant a fault in a copy of a healthy world, and ask."""
    world = copied(pattern, folder)
    fault.plant(world)
    if fault.feed:
        return FeedWorld(world.folder / "feed").audit()
    more = {} if fault.log else {"source": None}
    return world.audit(fault.kept, deep=fault.deep, **more, **fault.part)


def names(finding: AuditFinding, expected: tuple[str, str, int | None, int, int]) -> bool:
    """Whether a finding is the one that was expected."""
    return (finding.kind, finding.where, finding.partition, finding.start, finding.end) == expected


TITLE = """# What the audit finds

Each of these {count} faults was planted in a small healthy stream (a log with aborted transactions, markers and compaction, a
lake on disk, two tables in DuckDB; or a live feed's trades with the records of its gaps), and `headrace audit` was asked. It named every one of them at the place where it is.
One of the class *unknown* is a loss of evidence: exit code 2.
This page is made by that run (`tests/audit/audit_faults.py`), and a test makes it again and compares.

| what is wrong | found by | class | where | partition | offsets |
|---|---|---|---|---:|---|
"""


def page(rows: list[tuple[Fault, AuditResult]]) -> str:
    """Write it."""
    lines = []
    for fault, result in rows:
        found = next((f for f in result.findings if names(f, fault.expected)), None)
        told = "**missed** | | | " if found is None else f"{found.kind} | {found.where} | {_place(found)}"
        by = "`--deep`" if fault.deep else "names, trailers, counts"
        lines.append(f"| {fault.name} | {by} | {told} |")
    return TITLE.format(count=len(rows)) + "\n".join(lines) + "\n"


def _place(found: AuditFinding) -> str:
    return "all | " if found.partition is None else f"{found.partition} | [{found.start}, {found.end})"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        pattern = healthy(Path(place) / "healthy")
        told_all = [(fault, told(fault, pattern, Path(place) / str(i))) for i, fault in enumerate(FAULTS)]
    sys.stdout.write(page(told_all))

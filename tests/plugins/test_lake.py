"""The lake's sink on a local disk: pin, probe, look-up and the one conditional write."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
import pytest

from headrace.chain import Chain
from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    CorruptSegmentError,
    DataError,
    GapError,
    IdentityError,
    PositionConflictError,
    SinkUnavailableError,
)
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Batch, Extent, Hint, Identity, Partition, Position, Record
from headrace.store import Page, Store, StoredObject
from headrace.testing.store import MemoryStore

TICKS = Partition("ticks", 0)
IDENTITY = Identity("cluster", "topic", "read_committed", 4)


def extents(identity: Identity = IDENTITY, high: int = 10**6) -> dict[Partition, Extent]:
    return {Partition("ticks", n): Extent(0, high, high, identity) for n in range(identity.partitions)}


def bound(store: Store, **settings: object) -> LakeSink:
    sink = LakeSink(store=store, **settings)  # type: ignore[arg-type]
    sink.bind(extents())
    return sink


def position(sink: LakeSink, partition: Partition = TICKS, hint: Hint | None = None) -> Position:
    found = sink.positions({partition: hint})[partition]
    if isinstance(found, Exception):
        raise found
    return found


def put(sink: LakeSink, start: int, end: int, *, at: Position | None = None, base: int | None = None) -> Position:
    draft = sink.draft(TICKS, start, 1 << 20)
    draft.add(Batch.of(TICKS, [Record(o, o, b"k", b'{"n":%d}' % o) for o in range(start, end)], assignment=1))
    return draft.commit(start if base is None else base, at or position(sink), IDENTITY)


def lake(root: Path, *ends: int) -> LakeSink:
    """A lake with one chain, a segment up to each of *ends*."""
    sink = bound(FileStore(root=root))
    start = 0
    for end in ends:
        put(sink, start, end)
        start = end
    return sink


def object_of(root: Path, start: int) -> Path:
    return root / "ticks" / "partition=0" / f"{start:020d}.jsonl.gz"


# ---- the commit ---------------------------------------------------------------------------------------------------


def test_commit_writes_one_object_that_any_reader_reads(tmp_path: Path) -> None:
    """The segment is one gzip file of JSON lines whose name is its position."""
    sink = lake(tmp_path, 3)

    lines = gzip.decompress(object_of(tmp_path, 0).read_bytes()).splitlines()
    assert [{"n": 0}, {"n": 1}, {"n": 2}] == [json.loads(line)["value"] for line in lines]
    assert (3, (0, 3)) == (position(sink).offset, position(sink).segment)


def test_a_second_writer_of_a_position_is_refused_and_told_where_the_chain_ends(tmp_path: Path) -> None:
    """Of two writers of one position one wins, and the other learns the new end (B25)."""
    sink = lake(tmp_path, 3)
    zombie = bound(FileStore(root=tmp_path))
    old = position(zombie)
    put(sink, 3, 5)

    with pytest.raises(PositionConflictError) as excinfo:
        put(zombie, 3, 9, at=old)

    assert (3, 5) == (excinfo.value.expected, excinfo.value.found and excinfo.value.found.offset)
    assert 5 == position(sink).offset


def test_a_repeated_commit_of_a_stored_draft_is_refused(tmp_path: Path) -> None:
    """After a lost reply the same draft finds its own object: a conflict like any other, never a second copy (T9)."""
    sink = lake(tmp_path)
    draft = sink.draft(TICKS, 0, 1 << 20)
    draft.add(Batch.of(TICKS, [Record(0, 0, None, b"1")], assignment=1))
    at = position(sink)
    draft.commit(0, at, IDENTITY)

    with pytest.raises(PositionConflictError) as excinfo:
        draft.commit(0, at, IDENTITY)

    assert excinfo.value.found is not None
    assert draft.end == excinfo.value.found.offset


def test_commit_refuses_what_does_not_cover_the_position(tmp_path: Path) -> None:
    """A draft fetched from above the position may miss records: only a note lets it pass (B23)."""
    sink = lake(tmp_path, 3)

    with pytest.raises(DataError, match=r"\[3, 5\) is not covered"):
        put(sink, 3, 7, base=5)

    sink.note(TICKS, 3, 5)
    assert 7 == put(sink, 3, 7, base=5).offset
    assert (tmp_path / "ticks/_headrace/gaps/partition=0" / f"{3:020d}-{5:020d}.json").exists()


def test_commit_refuses_a_stream_that_was_made_again(tmp_path: Path) -> None:
    """The topic id is compared at each attempt (B20, T12)."""
    sink = lake(tmp_path, 3)
    draft = sink.draft(TICKS, 3, 1 << 20)
    draft.add(Batch.of(TICKS, [Record(3, 0, None, b"1")], assignment=1))

    with pytest.raises(IdentityError, match="topic other"):
        draft.commit(3, position(sink), attrs.evolve(IDENTITY, topic="other"))

    assert not object_of(tmp_path, 3).exists()


def test_an_old_position_is_looked_up_before_it_is_written_to(tmp_path: Path) -> None:
    """No write goes out later than position_max_age_s after its chain was seen (B15, T19)."""
    now = [0.0]
    sink = bound(FileStore(root=tmp_path), clock=lambda: now[0])
    old = position(sink)
    lake(tmp_path, 3, 5)
    object_of(tmp_path, 0).unlink()  # an operator deleted it, rightly: it is old by now, and not the newest
    now[0] = 3601.0

    with pytest.raises(PositionConflictError) as excinfo:
        put(sink, 0, 3, at=old)

    assert excinfo.value.found is not None
    assert (5, 3601.0) == (excinfo.value.found.offset, excinfo.value.found.looked_up_s)
    assert not object_of(tmp_path, 0).exists()
    now[0] = 3600.0
    put(sink, 0, 3, at=old)  # the negative control: a younger position writes into the hole


def test_a_chain_that_vanished_under_a_writer_stops_it(tmp_path: Path) -> None:
    """A refused write that then finds no chain at all is no new beginning (B13)."""

    class Refusing(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            return False if "partition=" in key else super().create(key, body, metadata)

    lake(tmp_path, 3)
    sink = bound(Refusing(root=tmp_path))
    at = position(sink)
    object_of(tmp_path, 0).unlink()

    with pytest.raises(DataError, match="the chain is empty"):
        put(sink, 3, 5, at=at)


def test_refused_and_then_not_there_is_not_known(tmp_path: Path) -> None:
    """A refusal by an object that is gone says nothing: the same call again decides (B25)."""

    class Refusing(FileStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
            return False if "partition=" in key else super().create(key, body, metadata)

    sink = bound(Refusing(root=tmp_path))

    with pytest.raises(CommitUnknownError):
        put(sink, 0, 3)


# ---- the look-up --------------------------------------------------------------------------------------------------


@attrs.define
class Listing(Store):
    """Keys without objects: counts requests."""

    starts: list[int]
    prefix: str
    page: int = 10
    lists: int = 0
    place: str = "listing://"

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        raise NotImplementedError

    def list(self, prefix: str, after: str = "") -> Page:
        self.lists += 1
        keys = [k for s in self.starts if (k := f"{self.prefix}{s:020d}.jsonl.gz") > after and k.startswith(prefix)]
        return Page([StoredObject(k, 1) for k in keys[: self.page]], truncated=len(keys) > self.page)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        raise NotImplementedError


def test_the_last_key_is_found_whatever_the_hint_and_the_log_say(tmp_path: Path) -> None:
    """The look-up equals max() on random chains with hints and ends that are right, stale, ahead or absurd (B11)."""
    dataset = Chain.open(lake(tmp_path, 1).store, "ticks").dataset
    rng = random.Random(7)
    for _ in range(400):
        count = rng.choice((0, 1, 2, 9, 10, 11, 30, 95))
        starts = [0]
        for _ in range(count):
            starts.append(starts[-1] + rng.choice((1, 1, 2, 50, 100_000)))
        starts = starts[rng.choice((0, 0, len(starts) // 3)) : count]
        hint = rng.choice((None, 0, rng.randrange(starts[-1] + 2 if starts else 2), 10**18))
        high = rng.choice((None, 0, starts[-1] + 3 if starts else 3, 10**18))
        store = Listing(starts, "ticks/partition=0/")

        found = Chain(store, dataset)._last_key(0, hint, high)

        assert (max(starts) if starts else None) == (found and int(found.key[-29:-9])), (starts, hint, high)
        assert store.lists < 90


def test_a_look_up_with_a_right_hint_costs_one_listing(tmp_path: Path) -> None:
    """Two requests for a chain of any length: one LIST, one trailer."""
    dataset = Chain.open(lake(tmp_path, 1).store, "ticks").dataset
    store = Listing(list(range(0, 50_000, 10)), "ticks/partition=0/", page=1000)

    Chain(store, dataset)._last_key(0, 49_990, 50_000)

    assert 1 == store.lists


def test_covering_finds_the_segment_that_holds_an_offset(tmp_path: Path) -> None:
    """The last segment that starts at or before an offset, in few listings."""
    sink = lake(tmp_path, 3, 5, 9, 20)
    chain = Chain.open(sink.store, "ticks")
    small = Chain(FileStore(root=tmp_path, page_size=1), chain.dataset)

    for offset in range(25):
        expected = max(s for s in (0, 3, 5, 9) if s <= offset)
        for each in (chain, small):
            found = each.covering(0, offset)
            assert found is not None
            assert expected == found.start


def test_a_foreign_object_with_a_segments_name_stops_the_partition(tmp_path: Path) -> None:
    """A trailer that does not agree with key and pin is not a position (B8)."""
    sink = lake(tmp_path, 3, 5)
    object_of(tmp_path, 5).write_bytes(object_of(tmp_path, 3).read_bytes())

    with pytest.raises(CorruptSegmentError, match=r"expected dataset .* from 5"):
        position(sink)


def test_a_flipped_bit_in_a_trailer_stops_the_partition(tmp_path: Path) -> None:
    """An end that cannot be trusted is not used (B8)."""
    sink = lake(tmp_path, 3)
    path = object_of(tmp_path, 0)
    body = bytearray(path.read_bytes())
    body[-200] ^= 1
    path.write_bytes(body)

    with pytest.raises(CorruptSegmentError):
        position(sink)


def test_a_chain_that_was_acknowledged_and_is_gone_stops_the_partition(tmp_path: Path) -> None:
    """An empty chain whose hint names a segment of this dataset is lost, not new (B13)."""
    sink = lake(tmp_path, 3)
    hint = Hint(3, (0, 3), position(sink).dataset_id)
    object_of(tmp_path, 0).unlink()

    with pytest.raises(DataError, match="the chain is empty"):
        position(sink, hint=hint)
    assert 0 == position(sink, hint=attrs.evolve(hint, dataset_id="another")).offset


def test_names_that_are_no_segments_are_passed_over(tmp_path: Path) -> None:
    """What other tools leave beside the segments does not stop anything."""
    sink = lake(tmp_path, 3)
    folder = object_of(tmp_path, 0).parent
    for name in (".DS_Store", "_SUCCESS", "notes.txt", ".00000000000000000000.jsonl.gz.crc"):
        (folder / name).write_bytes(b"x")

    assert 3 == position(sink).offset
    assert [(0, 3)] == [(s.start, s.end) for s in Chain.open(sink.store, "ticks").walk(0)]


# ---- walking ------------------------------------------------------------------------------------------------------


def test_walk_yields_the_chain_from_any_link(tmp_path: Path) -> None:
    """Each segment starts where the one before ended; at the end there is nothing to do (B29)."""
    chain = Chain.open(lake(tmp_path, 3, 5, 9).store, "ticks")

    assert [(0, 3), (3, 5), (5, 9)] == [(s.start, s.end) for s in chain.walk(0)]
    assert [(5, 9)] == [(s.start, s.end) for s in chain.walk(0, 5)]
    assert [] == list(chain.walk(0, 9))


@pytest.mark.parametrize(("gone", "missing"), [(0, (0, 3)), (3, (3, 5))])
def test_walk_names_what_is_missing(tmp_path: Path, gone: int, missing: tuple[int, int]) -> None:
    """A missing head or middle is a gap with its range, never passed over (B29)."""
    chain = Chain.open(lake(tmp_path, 3, 5, 9).store, "ticks")
    object_of(tmp_path, gone).unlink()

    with pytest.raises(GapError) as excinfo:
        list(chain.walk(0))

    assert missing == (excinfo.value.start, excinfo.value.end)


def test_walk_tells_a_lost_chain_from_nothing_to_do(tmp_path: Path) -> None:
    """A chain that ends below what was loaded was lost or begun anew (B29)."""
    chain = Chain.open(lake(tmp_path, 3, 5).store, "ticks")
    object_of(tmp_path, 3).unlink()

    with pytest.raises(DataError, match="ends at 3, expected it to reach 5"):
        list(chain.walk(0, 5))
    object_of(tmp_path, 0).unlink()
    with pytest.raises(DataError, match="is empty"):
        list(chain.walk(0, 5))


def test_read_refuses_bytes_that_are_not_those_that_were_written(tmp_path: Path) -> None:
    """The digest in the trailer covers every byte before it."""
    chain = Chain.open(lake(tmp_path, 300).store, "ticks")
    segment = next(chain.walk(0))
    body = bytearray(object_of(tmp_path, 0).read_bytes())
    body[40] ^= 1
    object_of(tmp_path, 0).write_bytes(body)

    with pytest.raises(CorruptSegmentError, match="its bytes are not those"):
        chain.read(segment)


# ---- pin and probe ------------------------------------------------------------------------------------------------


def test_bind_pins_once_and_returns_what_was_pinned(tmp_path: Path) -> None:
    """The number of partitions stays as pinned though the topic grew (B7, B22)."""
    lake(tmp_path, 3)
    grown = attrs.evolve(IDENTITY, partitions=9)

    assert {"ticks": IDENTITY} == LakeSink(store=FileStore(root=tmp_path)).bind(extents(grown))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topic": "b"}, "topic is 'topic' in the lake, 'b' now"),
        ({"cluster": "b"}, "cluster is 'cluster' in the lake, 'b' now"),
        ({"isolation": "read_uncommitted"}, "isolation is 'read_committed' in the lake"),
        ({"partitions": IDENTITY.partitions - 1}, "partitions now, and had"),  # what comes to the last one is not read
    ],
)
def test_another_stream_of_the_same_name_is_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    """Two datasets never share a prefix; the message says what differs and the way out (B7)."""
    lake(tmp_path, 3)

    with pytest.raises(IdentityError, match=words) as excinfo:
        LakeSink(store=FileStore(root=tmp_path)).bind(extents(attrs.evolve(IDENTITY, **change)))

    assert "epoch=NAME" in str(excinfo.value)


def test_another_compression_is_refused(tmp_path: Path) -> None:
    """Another extension would be another key for the same position (B7)."""
    if sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd", reason="needs headrace[zstd]")
    lake(tmp_path, 3)

    with pytest.raises(IdentityError, match="compression is 'gzip' in the lake, 'zstd' now"):
        LakeSink(store=FileStore(root=tmp_path), compression="zstd").bind(extents())


def test_a_new_epoch_begins_beside_the_old_one(tmp_path: Path) -> None:
    """Nothing of the old epoch is touched (B9)."""
    lake(tmp_path, 3)
    sink = LakeSink(store=FileStore(root=tmp_path), epoch="b")
    sink.bind(extents(attrs.evolve(IDENTITY, topic="again")))

    assert 0 == position(sink).offset
    assert {"ticks", "ticks~b"} == {p.name for p in tmp_path.iterdir()}


def test_segments_without_a_pin_are_refused(tmp_path: Path) -> None:
    """Nobody can tell whose they are (B7, T11)."""
    lake(tmp_path, 3)
    (tmp_path / "ticks/_headrace/dataset.json").unlink()

    with pytest.raises(DataError, match="holds segments but no"):
        LakeSink(store=FileStore(root=tmp_path)).bind(extents())


def test_a_lake_of_another_layout_is_refused(tmp_path: Path) -> None:
    """A newer layout is not guessed at."""
    lake(tmp_path, 3)
    path = tmp_path / "ticks/_headrace/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 99}))

    with pytest.raises(ConfigError, match="found layout 99, expected 1"):
        LakeSink(store=FileStore(root=tmp_path)).bind(extents())


class Overwriting(FileStore):
    """A store that ignores the condition."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return True


class CheckingFirst(Overwriting):
    """A store that looks, and then writes: right for one writer at a time, wrong for two at once (T10)."""

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        if (self.root / key).exists():
            return False
        os.sched_yield()
        return super().create(key, body, metadata)


def test_a_store_that_overwrites_is_refused(tmp_path: Path) -> None:
    """Exactly-once needs a store that refuses (B10)."""
    with pytest.raises(ConfigError, match="cannot hold exactly-once"):
        LakeSink(store=Overwriting(root=tmp_path)).bind(extents())


def test_a_store_that_checks_and_then_writes_is_refused(tmp_path: Path) -> None:
    """One write after the other would not find it: the probe's writers race (B10, T10)."""
    with pytest.raises(ConfigError, match="were told that they did, expected 1"):
        LakeSink(store=CheckingFirst(root=tmp_path)).bind(extents())


def test_at_least_once_must_be_asked_for_by_name(tmp_path: Path) -> None:
    """Then a store that overwrites is taken, and the sink says what it gives."""
    sink = LakeSink(store=Overwriting(root=tmp_path), guarantee="at-least-once")
    sink.bind(extents())

    assert "at-least-once" == sink.guarantee


def test_the_probe_runs_once_per_store(tmp_path: Path) -> None:
    """The verdict is remembered in the lake, and its racing objects are gone."""
    lake(tmp_path, 3)
    bound(FileStore(root=tmp_path))

    assert [".json"] == [p.suffix for p in (tmp_path / "ticks/_headrace/probes").iterdir()]


# ---- the local disk -----------------------------------------------------------------------------------------------


def test_no_temporary_file_stays(tmp_path: Path) -> None:
    """A stored segment leaves nothing behind."""
    lake(tmp_path, 3, 5)

    assert [] == list((tmp_path / "ticks/_headrace/tmp").iterdir())


def test_a_refused_write_leaves_the_stored_object_as_it_is(tmp_path: Path) -> None:
    """Another attempt never opens the file that became the object (B6)."""
    store = FileStore(root=tmp_path)

    assert store.create("s/a", b"first", {})
    assert not store.create("s/a", b"second, and longer", {})
    assert b"first" == store.read("s/a")


def test_the_folder_is_synced_before_a_name_is_relied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a listing returned cannot vanish in a power loss, nor can a new folder (B6)."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = FileStore(root=tmp_path)
    store.create("s/partition=0/a", b"x", {})
    assert {str(tmp_path), f"{tmp_path}/s", f"{tmp_path}/s/partition=0"} <= set(synced)
    synced.clear()
    store.list("s/partition=0/")
    assert [f"{tmp_path}/s/partition=0"] == synced


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, SinkUnavailableError, "free some space, nothing is lost"),
        (errno.EIO, SinkUnavailableError, "cannot create"),
        (errno.EACCES, ConfigError, "check the path and its permissions"),
        (errno.EROFS, ConfigError, "check the path and its permissions"),
    ],
)
def test_a_disk_that_cannot_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], words: str
) -> None:
    """A full disk is tried again, a forbidden one is not; in both cases nothing is stored."""

    def refuse(path: object, *_: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    store = FileStore(root=tmp_path)
    store.create("s/a", b"", {})
    monkeypatch.setattr("headrace.plugins.lake.local._write", refuse)

    with pytest.raises(error, match=words):
        store.create("s/b", b"x", {})
    monkeypatch.undo()
    assert ["s/a"] == [o.key for o in store.list("").objects]


def test_a_file_system_without_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a link a write cannot be refused (B6)."""

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)

    with pytest.raises(ConfigError, match="cannot link"):
        FileStore(root=tmp_path).create("s/a", b"x", {})


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A root that cannot hold a lake says so."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot create"):
        FileStore(root=tmp_path / "file").create("s/a", b"x", {})


def keys(store: Store, prefix: str = "", after: str = "") -> Iterable[str]:
    return [o.key for o in store.list(prefix, after).objects]


def test_listing_follows_the_order_of_keys(tmp_path: Path) -> None:
    """Folders sort with their slash, as keys do, and a prefix ends where it ends."""
    store = FileStore(root=tmp_path)
    names = ["a.b", "a/b", "a0", "a/b/c" + "x", "p=1/x", "p=10/x", "p=2/x", "ä/x"]
    for name in names:
        if name != "a/b":  # a file and a folder cannot share a name
            store.create(f"s/{name}", b"1", {})
    expected = sorted((f"s/{n}" for n in names if n != "a/b"), key=str.encode)

    assert expected == keys(store)
    assert ["s/p=1/x"] == keys(store, "s/p=1/")
    for i, key in enumerate(expected):
        assert expected[i + 1 :] == keys(store, "", key)


def test_several_streams_lie_side_by_side(tmp_path: Path) -> None:
    """Names are percent-encoded, so that no two streams become one (B1, B9)."""
    sink = LakeSink(store=FileStore(root=tmp_path))
    names = ["a/b", "a~b", "a%2Fb", "ä", "_headrace", "partition=0"]
    sink.bind({Partition(n, 0): Extent(0, 9, 9, IDENTITY) for n in names})

    assert len(names) == len(list(tmp_path.iterdir()))
    assert names == [Chain.open(sink.store, n).dataset.stream for n in names]


class Dangling(MemoryStore):
    """Lists what it cannot give back."""

    gone: bool = False

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        return None if self.gone and "/partition=" in key else super().read(key, start, end)


def test_what_is_listed_and_cannot_be_read_does_not_hold_a_look_up_for_ever():
    """It may be there a moment later: that is for the caller's patience, which ends."""
    store = Dangling()
    sink = LakeSink(store=store)
    partition = Partition("ticks", 0)
    identity = Identity("c", "t", "read_committed", 1)
    sink.bind({partition: Extent(0, 10, 10, identity)})
    at = sink.positions({partition: None})[partition]
    draft = sink.draft(partition, 0, 1 << 20)
    draft.add(Batch.of(partition, [Record(0, 0, None, b"1")], assignment=1))
    draft.commit(0, at, identity)
    store.gone = True
    with pytest.raises(SinkUnavailableError, match="is listed, and was not there to be read"):
        sink.positions({partition: None})

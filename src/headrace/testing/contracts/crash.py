"""
Every I/O of a component made to fail, one after the other: before it happens, after it, and with its process.

Each suite plays one story as often as the component does I/O in it: in the first round the first I/O fails, in the second the
second, until a round ends unharmed. Whatever failed, the story goes on as its caller would: it calls again, or begins anew as
another process. What must never be there is looked for after each failure, and at the end all must be there, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pytest

from headrace.errors import (
    CommitUnknownError,
    ConfigError,
    PositionConflictError,
    SinkUnavailableError,
    TransientError,
)
from headrace.loader import Line, LoadableSegment, Selection
from headrace.records import Extent, Identity, Partition, Position, Reached, Record, Start
from headrace.sink import Draft, Sink
from headrace.store import Store
from headrace.tally import Stored, Tally
from headrace.testing.contracts.loader import (
    BAD,
    DATASET,
    GOOD,
    PARTITIONS,
    REDRIVABLE,
    TARGET,
    LenientTick,
    Place,
    Tick,
    Warehouse,
    segment,
)
from headrace.testing.contracts.reader import Reader
from headrace.testing.contracts.sink import SinkPlace, Writer
from headrace.testing.contracts.source import Log
from headrace.testing.faults import WAYS, CrashPoint, Gate, Killed, Way, nothing_fails

T = TypeVar("T")

ROUNDS = 400
"""A component that does more I/O in one story is not what these tests are for."""

_CALLS = 4
_RETRIED = (SinkUnavailableError, CommitUnknownError)
"""What the interfaces let a component raise for an I/O that failed, as far as it writes."""


def crash_points(way: Way) -> Iterator[CrashPoint]:
    """Yield a crash point for each I/O, until one was not reached."""
    for number in range(1, ROUNDS):
        point = CrashPoint(number, way)
        yield point
        if not point.reached:
            assert number > 1, "nothing asked the gate: the component's I/O does not go through it"
            return
    raise AssertionError(f"more than {ROUNDS} I/Os in one story")


def again(point: CrashPoint, call: Callable[[], T], after: Callable[[], object], *retried: type[Exception]) -> T:
    """
    Call until it answers, as its caller would.

    Args:
        point: What fails.

        call: Makes its component anew each time, so that it stands for another process, too.

        after: Called after each failure: what it finds there must be right.

        retried: What the interface lets it raise for an I/O that failed.
    """
    for _ in range(_CALLS):
        try:
            return call()
        except Killed:
            point.restart()
        except retried:
            pass
        after()
    raise AssertionError(f"{_CALLS} calls failed, and only one I/O did: {point.asked}")


class LoaderCrashContract:
    """A loader: rows, quarantine and ledger of one call are there together or not at all, whichever I/O failed."""

    @pytest.fixture
    def make_warehouse(self) -> Callable[[Gate], Warehouse]:
        """Return what makes a warehouse in which nothing is, whose loaders ask a gate before each I/O of a transaction."""
        raise NotImplementedError

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_a_load_and_a_redrive(self, make_warehouse: Callable[[Gate], Warehouse], way: Way) -> None:
        """All or nothing after each failure, nothing where that is said; the same call again ends exactly once (S2, S5, S6)."""
        for point in crash_points(way):
            self._play(make_warehouse(point), point)

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_an_audit(self, make_warehouse: Callable[[Gate], Warehouse], way: Way) -> None:
        """What an audit asks fails, or is answered right: a failure is never an empty table."""
        armed: list[CrashPoint] = []
        warehouse = make_warehouse(lambda what: armed[-1](what) if armed else "do")
        _load(warehouse, [segment(n, [GOOD[0][0], BAD[2], GOOD[1][0]]) for n in (0, 3)])
        answers = set()
        for number in range(1, ROUNDS):
            armed.append(point := CrashPoint(number, way))
            try:
                asked = [again(point, partial(ask, warehouse), lambda: None, *_RETRIED) for ask in (_tally, _stored)]
            except ConfigError:
                return  # `Loader.tally` and `stored` are optional, and say so
            answers.add(str(asked))
            assert len(answers) == 1, f"{point.asked}: {answers}"
            if not point.reached:  # a loader may ask nobody to read
                return

    def _play(self, warehouse: Warehouse, point: CrashPoint) -> None:
        values: list[bytes | None] = [GOOD[0][0], BAD[2], GOOD[1][0], BAD[REDRIVABLE]]
        first, *others = segments = [segment(n, values) for n in (0, 4, 8)]

        def redrive() -> None:
            with warehouse.open(LenientTick, TARGET) as loader:
                loader.redrive(Selection())

        def look(done: int, expected: int) -> None:
            rows, refused = _places(warehouse)
            loaded = sum(row.records for row in warehouse.ledger(TARGET))
            assert loaded in {done, expected}
            assert len(rows) + len(refused) == loaded
            assert not set(rows) & set(refused)

        def true(call: Callable[[], None]) -> None:
            """Nothing was written where SinkUnavailableError says so."""
            before = _places(warehouse)
            try:
                call()
            except SinkUnavailableError:
                assert _places(warehouse) == before, (
                    f"something was written, and SinkUnavailableError told: {point.asked}"
                )
                raise

        again(point, partial(true, partial(_load, warehouse, [first])), partial(look, 0, 4), *_RETRIED)
        again(point, partial(true, partial(_load, warehouse, others)), partial(look, 4, 12), *_RETRIED)
        again(point, partial(true, redrive), partial(look, 12, 12), *_RETRIED)
        bad = [4 * n + 1 for n in range(3)]
        assert _places(warehouse) == ([n for n in range(12) if n not in bad], bad), point.asked
        assert [row.start for row in sorted(warehouse.ledger(TARGET))] == [s.segment.start for s in segments]


class SinkCrashContract:
    """A sink that delivers exactly once: what is stored is a beginning of what was read, whichever I/O failed."""

    identity = Identity("cluster", "topic", "read_committed", 1)

    @pytest.fixture
    def make_place(self) -> Callable[[Gate], SinkPlace]:
        """Return what makes a place where nothing is, whose sinks ask a gate before each I/O."""
        raise NotImplementedError

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_a_commit(self, make_place: Callable[[Gate], SinkPlace], way: Way) -> None:
        """Nothing is lost or doubled by a failure; what a writer goes on from is what is stored (B25, B26)."""
        for point in crash_points(way):
            self._play(make_place(point), point)

    def _play(self, place: SinkPlace, point: CrashPoint) -> None:
        partition = Partition("ticks", 0)
        records = [Record(n, 1_700_000_000_000 + n, b"k", b'{"n":%d}' % n) for n in range(12)]

        def stored() -> list[int]:
            found = [record.offset for record in place.read(partition)]
            assert found == list(range(len(found)))
            return found

        def write() -> None:
            with place.open() as sink:
                sink.bind({partition: Extent(0, 12, 12, self.identity)})
                self._write(sink, partition, records)

        again(point, write, stored, *_RETRIED)
        assert stored() == list(range(12)), point.asked

    def _write(self, sink: Sink, partition: Partition, records: Sequence[Record]) -> None:
        """Commit four records at a time from where the chain ends; a commit that is not answered is called again."""
        writer = Writer(sink, partition, self.identity)
        at = writer.position()
        while at.offset < len(records):
            draft = writer.draft(at.offset, records[at.offset : at.offset + 4])
            at = self._committed(writer, draft, at)

    def _committed(self, writer: Writer, draft: Draft, at: Position) -> Position:
        for left in range(_CALLS, 0, -1):
            try:
                return writer.commit(draft, at)
            except PositionConflictError as told:
                if told.found is None:
                    raise
                return told.found
            except _RETRIED:
                if left == 1:
                    raise
        raise AssertionError("not reached")


class StoreCrashContract:
    """A store: an object is there whole or not at all, whichever I/O failed, and the same call again settles it."""

    @pytest.fixture
    def make_store(self) -> Callable[[Gate], Store]:
        """Return what opens a store over one place, the same each time; it asks a gate before each I/O. The place is empty."""
        raise NotImplementedError

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_a_store(self, make_store: Callable[[Gate], Store], way: Way) -> None:
        """A create that failed is called again: True or False, and the object holds the bytes; a read never holds others."""
        for point in crash_points(way):
            self._play(partial(make_store, point), make_store(nothing_fails), f"s/{way}/{point.number:06}", point)

    def _play(self, opened: Callable[[], Store], around: Store, key: str, point: CrashPoint) -> None:
        body = b"%d" % point.number * 1000

        def whole() -> None:
            assert around.read(key) in {None, body}

        again(point, lambda: opened().create(key, body, {}), whole, *_RETRIED)
        assert around.read(key) == body
        assert again(point, lambda: opened().create(key, b"other", {}), whole, *_RETRIED) is False
        assert again(point, lambda: opened().read(key), whole, *_RETRIED) == body
        page = again(point, lambda: opened().list(key), whole, *_RETRIED)
        assert [o.key for o in page.objects] == [key]
        assert around.read(key) == body


class SourceCrashContract:
    """A source: no failure makes it leave a record out, repeat one, or say an end that is none."""

    @pytest.fixture
    def make_log(self) -> Callable[[Gate], Log]:
        """Return what makes an empty log, whose sources ask a gate before each I/O; appending asks nobody."""
        raise NotImplementedError

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_a_read(self, make_log: Callable[[Gate], Log], way: Way) -> None:
        """A poll that failed is called again, a process that died begins where its reader had got to."""
        for point in crash_points(way):
            self._play(make_log(point), point)

    @pytest.mark.parametrize("way", WAYS)
    def test_every_io_of_reading_again(self, make_log: Callable[[Gate], Log], way: Way) -> None:
        """A range that is read again comes whole, or fails behind records that are right: a failure is never the end."""
        for number in range(1, ROUNDS):
            point = CrashPoint(number, way)
            log = make_log(point)
            values = self._filled(log)
            partition, seen = Partition(log.stream, 0), list[bytes | None]()

            def ask(log: Log = log, partition: Partition = partition, seen: list[bytes | None] = seen) -> None:
                seen.clear()
                with log.open() as source:
                    for batch in source.reread(partition, 0, source.extents()[partition].end):
                        seen.extend(record.value for record in batch.records())

            def look(values: Sequence[bytes] = values, seen: list[bytes | None] = seen) -> None:
                assert seen == values[: len(seen)]

            try:
                again(point, ask, look, TransientError)
            except ConfigError:
                return  # `Source.reread` is optional, and it says so
            assert seen == values, point.asked
            if not point.reached:
                return

    def _filled(self, log: Log) -> list[bytes]:
        values = [b'{"n":%d}' % n for n in range(30)]
        for begin in (0, 10, 20):
            log.append(0, [Record(n, 0, None, values[n]) for n in range(begin, begin + 10)])
        return values

    def _play(self, log: Log, point: CrashPoint) -> None:
        values = self._filled(log)
        partition, read, ends = Partition(log.stream, 0), list[Record](), list[int]()
        done = False
        while not done:
            begin_at = {partition: Start(read[-1].offset + 1, None, 1_000)} if read else {}
            reader = Reader(log.open(), begin_at, poll_s=0.001)
            done = _to_the_end(reader, partition, point)
            read += reader.records(partition) if partition in reader.owned else []
            ends += [
                e.position for e in reader.events if isinstance(e, Reached) and e.at_end and e.partition == partition
            ]
            reader.source.close()
        assert [record.value for record in read] == values, point.asked
        assert min(ends) > read[-1].offset, f"an end was said where there was none: {ends}, {point.asked}"


def _to_the_end(reader: Reader, partition: Partition, point: CrashPoint) -> bool:
    """Poll to the end, also after a poll that failed; whether it got there before its process died."""
    for _ in range(_CALLS):
        try:
            reader.to_the_end(partition)
        except Killed:
            point.restart()
            return False
        except TransientError:
            continue
        return True
    raise AssertionError(f"{_CALLS} polls failed, and only one I/O did: {point.asked}")


def _load(warehouse: Warehouse, wanted: Sequence[LoadableSegment]) -> None:
    with warehouse.open(Tick, TARGET) as loader:
        loader.load(wanted)


def _tally(warehouse: Warehouse) -> Tally | None:
    with warehouse.open(Tick, TARGET) as loader:
        return loader.tally(DATASET, PARTITIONS[0].stream)


def _stored(warehouse: Warehouse) -> Stored:
    with warehouse.open(Tick, TARGET) as loader:
        return loader.stored(Line(DATASET, PARTITIONS[0], TARGET), 0, 6)


def _places(warehouse: Warehouse) -> tuple[list[int], list[int]]:
    """The offsets of rows and of what is in quarantine."""
    rows: list[tuple[Place, object]] = [*warehouse.rows(TARGET)]
    return sorted(place[2] for place, _ in rows), sorted(place[2] for place, _ in warehouse.quarantined(TARGET))

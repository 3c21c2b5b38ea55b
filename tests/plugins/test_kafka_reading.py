"""What the Kafka source makes of what its client returns: leaders that lag, logs that were cut back."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import attrs
import pytest
from confluent_kafka import KafkaError, Message

from headrace.errors import DataError, IdentityError
from headrace.plugins.kafka import columns
from headrace.plugins.kafka.cluster import EARLIEST
from headrace.plugins.kafka.places import AGAIN_S, Places
from headrace.plugins.kafka.reading import Reading
from headrace.records import Batch, BelowLog, Event, Failed, Hint, Partition, Reached, Start

T = Partition("t", 0)
GONE = KafkaError(KafkaError._AUTO_OFFSET_RESET, "fetch failed: out of range")


@attrs.define(eq=False)
class Client:
    """A consumer that notes from where it is told to fetch."""

    fetches: list[int] = attrs.field(factory=list)
    asked: list[str] = attrs.field(factory=list)

    def incremental_assign(self, places: Sequence[object]) -> None:
        self.asked.append("assign")

    def incremental_unassign(self, places: Sequence[object]) -> None:
        self.asked.append("unassign")

    def pause(self, places: Sequence[object]) -> None:
        self.asked.append("pause")

    def resume(self, places: Sequence[object]) -> None:
        self.asked.append("resume")

    def seek(self, place: object) -> None:
        self.fetches.append(place.offset)


@attrs.define
class Log:
    """The brokers' answers."""

    low: int = 0
    high: int = 100

    def offset(self, partition: Partition, spec: object) -> int:
        return self.low if spec is EARLIEST else self.high


@attrs.define(eq=False)
class World:
    log: Log = attrs.field(factory=Log)
    client: Client = attrs.field(factory=Client)
    now: float = 0.0
    places: Places = attrs.field(init=False)
    reading: Reading = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        client, clock = self.client, lambda: self.now
        self.places = Places(consumer=lambda: client, cluster=self.log, policy="earliest", timeout_s=30.0, clock=clock)
        self.reading = Reading(topics=("t",), member=None, places=self.places, cluster=self.log)
        self.places.give(client, [T])
        self.places.move({T: Start(10, 3, 1)})
        self.places.todo.clear()

    def records(self, begin: int, end: int, epoch: int) -> list[Event]:
        return self.reading.events([message(n, epoch) for n in range(begin, end)])

    def says(self, error: KafkaError, offset: int) -> list[Event]:
        return self.reading.events([message(offset, 3, error)])


@pytest.fixture
def world() -> World:
    return World()


def message(offset: int, epoch: int, error: KafkaError | None = None) -> Message:
    more = {} if error is None else {"error": error}
    return Message(
        topic="t", partition=0, offset=offset, value=b"v", timestamp=(1, 5), latency=0.0, leader_epoch=epoch, **more
    )


def spans(events: Sequence[Event]) -> list[tuple[int, int]]:
    return [(e.start, e.end) for e in events if isinstance(e, Batch)]


def test_a_fetch_begins_at_the_record_before(world: World):
    """It proves that the log is the same, and is not read again."""
    assert [9] == world.client.fetches
    assert [(10, 12)] == spans(world.records(9, 12, 3))


def test_another_record_where_one_was_stored(world: World):
    """A log that was cut back and has grown past the position again is refused (B21)."""
    (told,) = world.records(9, 15, 4)
    assert isinstance(told, Failed)
    assert isinstance(told.error, IdentityError)
    assert "cut back" in str(told.error)
    assert [] == world.records(15, 16, 4)


def test_without_the_record_before_it_would_be_read_on(world: World):
    """The negative control of the test before: a fetch that begins at the position itself has nothing to compare."""
    world.places.cursor(T).proven = True
    assert [(10, 15)] == spans(world.records(10, 15, 4))


def test_a_record_before_that_compaction_took(world: World):
    """Where it is gone nobody can tell, and the log is read on."""
    assert [(10, 13)] == spans(world.records(11, 13, 4))


def test_a_record_before_that_retention_took(world: World):
    """A log that begins at the position is fetched from there; one that begins above it is said."""
    world.log.low = 10
    assert [] == world.says(GONE, 9)
    assert [9, 10] == world.client.fetches
    assert [(10, 12)] == spans(world.records(10, 12, 4))
    world.log.low = 20
    assert [BelowLog(T, 1, 12, 20)] == world.says(GONE, 12)


def test_a_log_that_ends_below_the_position(world: World):
    """It was cut back, whether the client says so or the log's end does."""
    world.log.high = 5
    (told,) = world.says(GONE, 9)
    assert isinstance(told.error, IdentityError)
    other = World()
    (told,) = other.says(KafkaError(KafkaError._LOG_TRUNCATION, "truncation"), 9)
    assert isinstance(told.error, IdentityError)


def test_a_broker_that_lags_behind_is_asked_again(world: World):
    """Records of an older leader are not taken; when the newer one answers they come, with nothing left out (B20)."""
    world.records(9, 12, 3)
    for _ in range(3):
        assert [] == world.records(12, 15, 2)
        assert [] == world.records(15, 16, 3)  # nothing is read meanwhile
        world.now += AGAIN_S
        world.places.fetch_again()
        assert 11 == world.client.fetches[-1]
        assert [] == world.records(11, 12, 3)
    assert [(12, 15)] == spans(world.records(12, 15, 4))


def test_a_broker_that_never_catches_up(world: World):
    """Its partition stops when it has been asked for long enough."""
    world.records(9, 12, 3)
    told: list[Event] = []
    while not told:
        assert world.now <= 31
        told = world.records(12, 15, 2)
        world.now += AGAIN_S
        world.places.fetch_again()
    assert isinstance(told[0], Failed)
    assert "lags behind" in str(told[0].error)


def test_an_end_below_the_position(world: World):
    """A broker whose log ends below what was read lags behind, or was cut back: never said to be the end."""
    eof = KafkaError(KafkaError._PARTITION_EOF, "end")
    assert [] == world.says(eof, 9)
    world.now += AGAIN_S
    world.places.fetch_again()
    assert [Reached(T, 1, 10, at_end=True)] == world.reading.events([message(9, 3), message(10, 3, eof)])


def test_nothing_is_asked_behind_an_assignment():
    """What is asked of a partition after its assignment may overtake its start inside librdkafka; then it stands still."""
    world = World()
    others = [T, Partition("t", 1)]
    world.places.give(world.client, others[1:])
    world.client.asked.clear()

    world.places.move({partition: Start(10, 3, 2) for partition in others})

    assert world.client.asked == ["unassign", "resume", "assign"]


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Offsets of records whose headers the client library fails to read, once; asked again it says that there are none."""
    offsets: set[int] = set()

    def headers(asked: Message) -> None:
        if asked.offset() in offsets:
            offsets.remove(asked.offset())
            raise SystemError("returned a result with an exception set")

    kept = {name: getattr(Message, name) for name in ("topic", "partition", "offset", "timestamp", "key", "value")}
    monkeypatch.setattr(columns, "Message", SimpleNamespace(**kept, headers=headers))
    return offsets


def test_a_record_that_cannot_be_read(world: World, unreadable: set[int]):
    """What lies before it is read; it is told by its offset when that is stored, as the way out takes both from the log."""
    unreadable.add(12)
    events = world.records(10, 20, 3)
    assert [(10, 12)] == spans(events)
    assert world.records(20, 30, 3) == world.reading.said_late() == []
    world.reading.stored({T: Hint(11, None, "d")})
    assert [] == world.reading.said_late()
    world.reading.stored({T: Hint(12, None, "d")})
    (failed,) = world.reading.said_late()
    assert isinstance(failed, Failed)
    assert DataError is type(failed.error)
    assert "t/0: the client library cannot read the headers of the record at 12: a header's name is not UTF-8" in str(
        failed.error
    )
    assert [] == world.reading.said_late()


def test_the_next_record_cannot_be_read(world: World, unreadable: set[int]):
    """Where nothing lies before it, it is told at once; from elsewhere the partition is read on, and nothing old is said."""
    unreadable.update((10, 31))
    (failed,) = world.records(10, 20, 3)
    assert "the record at 10:" in str(failed.error)
    world.places.move({T: Start(30, 3, 2)})
    assert [(30, 31)] == spans(world.records(30, 32, 3))
    world.reading.forget([T])
    world.reading.stored({T: Hint(31, None, "d")})
    assert [] == world.reading.said_late()

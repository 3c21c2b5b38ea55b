"""Positions in a topic, played: writers that fence each other at every moment, die, and are not answered, make one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.errors import CommitUnknownError, SinkUnavailableError, TransientError
from headrace.plugins.kafka.line import Line
from headrace.plugins.kafka.transactions import FencedError, Transactions

WRITERS = 3
GAMES = 300


@attrs.define(eq=False)
class World:
    """
    The brokers: who has the id, what is committed, what is open; at every question somebody else may act first.

    Attributes:
        fencing: Whether the brokers refuse those whose id was taken over.
    """

    chance: random.Random
    fencing: bool = True
    epoch: int = 0
    opened: int | None = None  # by which epoch
    value: bytes | None = None
    records: list[int] = attrs.field(factory=list)
    writers: list[Writer] = attrs.field(factory=list)
    depth: int = 0

    def meanwhile(self) -> None:
        """Let somebody else act, or nobody."""
        idle = [writer for writer in self.writers if not writer.busy]
        if self.depth < 3 and idle and self.chance.random() < 0.25:
            self.depth += 1
            self.chance.choice(idle).step()
            self.depth -= 1


@attrs.define(eq=False)
class Positions:
    """What one writer has read."""

    world: World
    name: str = "positions"
    known: bytes | None = None

    def read(self, within_s: float) -> bool:
        self.world.meanwhile()
        if self.world.opened is not None and self.world.chance.random() < 0.3:
            return False  # and what is known is as old as it was
        self.known = self.world.value
        self.world.meanwhile()
        return True

    def read_all(self, within_s: float) -> None:
        while not self.read(within_s):
            pass

    def value(self, name: bytes) -> bytes | None:
        return self.known


@attrs.define(eq=False)
class Recorder:
    """What was given to the producer: a value, and numbers as records."""

    value: bytes | None = None
    records: list[int] = attrs.field(factory=list)

    def produce(self, topic: str, value: bytes, key: bytes, partition: int) -> None:
        self.value = value


@attrs.define(eq=False)
class FakeTransactions:
    """One writer's producer."""

    world: World
    mine: int | None = None
    timeout_s: float = 1.0
    request_timeout_s: float = 1.0

    @property
    def open(self) -> bool:
        return self.mine is not None

    def take_over(self) -> None:
        self.world.meanwhile()
        self.mine = None
        self.world.epoch += 1
        self.world.opened = None  # whatever was open is aborted
        self.mine = self.world.epoch
        self.world.meanwhile()

    def write(self, publish: Callable[[Any], None], told_as: Callable[[Any], Exception]) -> None:
        recorder = Recorder()
        publish(recorder)
        self._refuse_fenced()
        self.world.opened = self.mine
        self._refuse_fenced()
        how = self.world.chance.choices(
            ["committed", "refused", "unknown", "unknown but committed", "dead"], [8, 1, 1, 1, 1]
        )
        if how[0] in ("committed", "unknown but committed"):
            self.world.value, self.world.opened = recorder.value, None
            self.world.records += recorder.records
        if how[0] == "committed":
            return
        self.leave()
        if how[0] == "refused":
            self.world.opened = None
            raise told_as(None)
        raise CommitUnknownError("no answer")  # dead: what is open stays so

    def leave(self) -> None:
        self.mine = None

    def _refuse_fenced(self) -> None:
        self.world.meanwhile()
        if self.world.fencing and self.mine != self.world.epoch:
            self.leave()
            raise FencedError


@attrs.define(eq=False)
class Writer:
    """Publishes the numbers from 0, each draft behind where it believes that the line ends."""

    world: World
    line: Line
    at: int = 0
    end: int | None = None  # of the draft that waits for its answer
    busy: bool = False

    def step(self) -> None:
        """Commit a draft; whatever is raised, the same draft again the next time."""
        self.busy, end = True, self.end or self.at + self.world.chance.randint(1, 4)
        self.end = end

        def publish(recorder: Recorder) -> None:
            recorder.records = list(range(self.at, end))

        try:
            moved = self.line.move(self._expected, b"%d" % end, publish, lambda _: SinkUnavailableError("refused"))
        except TransientError:
            return
        finally:
            self.busy = False
        self.at, self.end = (end if moved else int(self.line.positions.value(b"") or b"0")), None

    def _expected(self, there: bytes | None) -> bool:
        return int(there or b"0") == self.at


class LooksFirst(Line):
    """The negative control: what was read before the id was taken over is believed."""

    def _verify(self, expected: Callable[[bytes | None], bool]) -> bool:
        if not self.transactions.open:
            self.positions.read_all(1)
            self._value, self._verified = self.positions.value(self.key), True
            self.transactions.take_over()
        return expected(self._value)


def played(seed: int, kind: type[Line] = Line, *, fencing: bool = True) -> list[int]:
    """All that was committed after a game of some steps and, without faults, one more draft of each writer."""
    world = World(random.Random(seed), fencing)
    for _ in range(WRITERS):
        at_once = {"patience": lambda _: 0.0, "sleep": lambda _: None}
        line = kind(key=b"k", positions=Positions(world), transactions=FakeTransactions(world), **at_once)
        world.writers.append(Writer(world, line))
    for _ in range(25):
        world.chance.choice(world.writers).step()
    return world.records


def test_one_line():
    """Whoever fences whom at which moment, and whatever answer is lost: each record once, in order, without a gap."""
    published = 0
    for seed in range(GAMES):
        records = played(seed)
        assert list(range(len(records))) == records, seed
        published += len(records)
    assert published > 20 * GAMES


@pytest.mark.parametrize("control", [{"fencing": False}, {"kind": LooksFirst}], ids=["no fencing", "looks first"])
def test_each_half_is_needed(control: dict[str, Any]):
    """The negative controls: without the fence, or with a position that was read before it, the same games break."""
    games = (played(seed, **control) for seed in range(GAMES))
    assert any(list(range(len(records))) != records for records in games)


def test_what_was_read_before_a_take_over_is_not_believed_after_it():
    """Where the reading behind a take-over fails, nothing is known: the next move reads again before it writes."""

    class Hidden(Positions):
        fails = False

        def read_all(self, within_s: float) -> None:
            if self.fails:
                raise SinkUnavailableError("a transaction was open")
            super().read_all(within_s)

    world = World(random.Random(0))
    world.chance.choices = lambda *_: ["committed"]  # type: ignore[method-assign]
    positions = Hidden(world)
    line = Line(key=b"k", positions=positions, transactions=FakeTransactions(world))

    def move(expected: bytes | None, value: bytes) -> bool:
        return line.move(
            lambda there: there == expected, value, lambda _: None, lambda _: SinkUnavailableError("refused")
        )

    assert move(None, b"1")
    world.value = b"2"  # by another one
    positions.fails = True
    with pytest.raises(SinkUnavailableError):
        move(b"2", b"3")
    positions.fails = False
    assert not move(b"1", b"behind")
    assert b"2" == world.value


@attrs.define(eq=False)
class Brokers:
    """
    A producer whose transaction is not committed.

    Attributes:
        refuse_commit: With what.

        refuse_abort: With what, if they do.
    """

    refuse_commit: KafkaError
    refuse_abort: KafkaError | None = None

    def begin_transaction(self) -> None:
        pass

    def commit_transaction(self, timeout_s: float) -> None:
        raise KafkaException(self.refuse_commit)

    def abort_transaction(self, timeout_s: float) -> None:
        if self.refuse_abort:
            raise KafkaException(self.refuse_abort)

    def purge(self) -> None:
        pass


_UNNAMED, _FATAL = KafkaError(KafkaError.UNKNOWN), KafkaError(KafkaError._FATAL)
_TAKEN, _AWAY = KafkaError(KafkaError._FENCED), KafkaError(KafkaError._TIMED_OUT)


@pytest.mark.parametrize(
    ("commit", "abort", "expected"),
    [
        (_TAKEN, None, FencedError),
        (_UNNAMED, _TAKEN, FencedError),  # seen of Kafka 4.1 when eight producers take one id over at once
        (_FATAL, KafkaError(KafkaError.INVALID_PRODUCER_EPOCH), FencedError),
        (_UNNAMED, _AWAY, CommitUnknownError),
        (_UNNAMED, None, SinkUnavailableError),
    ],
)
def test_why_it_was_not_committed(commit: KafkaError, abort: KafkaError | None, expected: type[Exception]):
    """That the id was taken over may be said first when one aborts; only where nobody says anything is it unknown."""
    transactions = Transactions(transactional_id="t", topic="ticks", settings={}, request_timeout_s=0, timeout_s=0)
    transactions._producer = Brokers(commit, abort)
    with pytest.raises(expected):
        transactions.write(lambda _: None, lambda error: SinkUnavailableError(error.str()))
    assert not transactions.open

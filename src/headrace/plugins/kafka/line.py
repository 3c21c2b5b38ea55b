"""
One value in the side topic, and the one producer that may move it: compare and append.

Who wants to move a position takes over its transactional id, which ends whatever another one had begun, *then* reads the
position, compares, and writes it in the same transaction as the records. Between the reading and the commit nobody else can
have committed: they would have had to take the id over, and then this commit is refused. So a position that was read before
the id was taken over is only a hint, and every commit stands on one that was read after.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from headrace.errors import HeadraceError, SinkUnavailableError
from headrace.plugins.kafka.positions import PositionsTopic
from headrace.plugins.kafka.transactions import FencedError, Transactions

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

SOON_S = 1.0
"""A transaction that is not decided within so long belongs to a producer that is gone: it is ended by taking its id over."""

_PATIENCE_S = 0.25
"""Whoever is fenced lets the other one finish before it takes the id over again; twice as long each time."""

_ATTEMPTS = 4


@attrs.define(kw_only=True, eq=False)
class Line:
    """
    A key of the side topic with its transactional id. Safe from several threads, one after the other.

    Attributes:
        key: Which value.

        positions: Where it is read.

        transactions: How it is written.

        patience: Seconds to let another one finish, made of the longest.

        clock: Monotonic seconds.

        sleep: Waits so many seconds.
    """

    key: bytes
    positions: PositionsTopic
    transactions: Transactions
    patience: Callable[[float], float] = lambda most_s: random.uniform(most_s / 2, most_s)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    _verified: bool = attrs.field(default=False, init=False)  # the value was read after the id was taken over
    _value: bytes | None = attrs.field(default=None, init=False)

    def take_over(self) -> None:
        """End what others have open under this id."""
        with self.lock:
            self._verified = False
            self.transactions.take_over()

    def move(
        self,
        expected: Callable[[bytes | None], bool],
        value: bytes,
        publish: Callable[[Producer], None],
        told_as: Callable[[KafkaError], HeadraceError],
    ) -> bool:
        """
        Write *value*, and what *publish* gives to the producer, in one transaction, if the value there is the expected one.

        Returns:
            False where it is another one: nothing was written. `PositionsTopic.value` says which.

        Raises:
            CommitUnknownError: All or nothing was written; call again.
            HeadraceError: Nothing was written: the brokers were away, or *told_as* says what they refused.
        """

        def all_of_it(producer: Producer) -> None:
            # first, so that whoever reads the position waits for this transaction from its beginning
            producer.produce(self.positions.name, value, self.key, 0)
            publish(producer)

        with self.lock:
            for attempt in range(_ATTEMPTS):
                if not self._verify(expected):
                    return False
                try:
                    self._verified = False
                    self.transactions.write(all_of_it, told_as)
                except FencedError:
                    self._let_finish(expected, _PATIENCE_S * 2**attempt)
                else:
                    self._value, self._verified = value, True
                    return True
        raise SinkUnavailableError(
            f"{self.key.decode()}: fenced {_ATTEMPTS} times: either another run publishes the same partition, or a"
            f" transaction takes longer than {self.transactions.timeout_s:g} s (flush less at a time, or raise"
            " transaction_timeout_s)"
        )

    def leave(self) -> bool:
        """Give the producer back, unless it is at work; it is made again when it is needed."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            self._verified = False
            self.transactions.leave()
        finally:
            self.lock.release()
        return True

    def _verify(self, expected: Callable[[bytes | None], bool]) -> bool:
        """Say whether the value is the expected one, so that only another take-over can change it."""
        if self._verified and expected(self._value):
            return True
        if self._verified or not self.transactions.open:
            # another one may have gone on: found out without disturbing it
            if self.positions.read(SOON_S) and not expected(self.positions.value(self.key)):
                return False
            self._verified = False  # whatever is raised below, what was read before is only a hint
            self.transactions.take_over()
        self.positions.read_all(self.transactions.timeout_s + self.transactions.request_timeout_s)
        self._value, self._verified = self.positions.value(self.key), True
        return expected(self._value)

    def _let_finish(self, expected: Callable[[bytes | None], bool], most_s: float) -> None:
        """Wait while another one, which has the id now, may still be at it."""
        until = self.clock() + self.patience(most_s)
        most = self.clock() + self.transactions.timeout_s
        while (now := self.clock()) < most:
            decided = self.positions.read(SOON_S)
            if decided and (now >= until or not expected(self.positions.value(self.key))):
                return
            self.sleep(0.02)

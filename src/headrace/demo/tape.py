"""An exchange that trades: numbered trades at made-up prices, whether anybody listens or not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import attrs

from headrace.testing.servers.exchange import Answer, CoinbaseExchange, coinbase_match

PRODUCTS = {"BTC-USD": 6_180_030, "ETH-USD": 241_250}
"""What is traded, and its first price in cents."""

UNKEPT = "ETH-USD"
"""Of this one the exchange has no history."""

_TURN_S = 0.01
_BEAT_TURNS = 50
_END_S = 30.0
_REFUSALS = 10_000
_UNAVAILABLE = 503


class Market(CoinbaseExchange):
    """An exchange that keeps what it has sent of one product, and forgets the other one."""

    def __init__(self) -> None:
        super().__init__(products=list(PRODUCTS), keeps=True, page=100)

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str], kept: int) -> Answer:
        if UNKEPT in path:
            return Answer(404, {"message": "NotFound"})
        return super().answer(path, query, headers, kept)


@attrs.define(kw_only=True, eq=False)
class Tape:
    """
    Trades on an exchange in a thread of its own; use it as a context.

    Attributes:
        exchange: Where.

        each_s: So many trades of each product a second.

        sent: How many of each there have been: numbered from 1.
    """

    exchange: CoinbaseExchange
    each_s: int
    sent: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(PRODUCTS, 0), init=False)
    _prices: dict[str, int] = attrs.field(factory=lambda: dict(PRODUCTS), init=False)
    _random: random.Random = attrs.field(factory=lambda: random.Random(20131007), init=False)
    _ending: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="headrace-demo-tape", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_END_S)

    def break_off(self, away_s: float) -> None:
        """Break all connections off, and take no new one for so long."""
        self.exchange.refuses = [_UNAVAILABLE] * _REFUSALS
        self.exchange.drop()
        self._ending.wait(away_s)
        self.exchange.refuses = []

    def _run(self) -> None:
        began_s, turns = time.monotonic(), 0
        while not self._ending.wait(max(0.0, began_s + turns * _TURN_S - time.monotonic())):
            turns += 1
            wanted = int(turns * _TURN_S * self.each_s)
            for product in PRODUCTS:
                while self.sent[product] < wanted:
                    self._trade(product)
            if turns % _BEAT_TURNS == 0:
                for product, number in self.sent.items():
                    self.exchange.beat(product, number)

    def _trade(self, product: str) -> None:
        self.sent[product] += 1
        self._prices[product] += self._random.choice((-25, -1, 0, 0, 1, 25))
        cents = self._prices[product]
        self.exchange.publish(
            coinbase_match(
                self.sent[product],
                product,
                price=f"{cents // 100}.{cents % 100:02d}",
                size=f"0.{self._random.randint(1, 9_999_999):08d}",
                side=self._random.choice(("buy", "sell")),
                time=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            )
        )

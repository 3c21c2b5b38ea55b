"""The lines of a sink: one for each partition of a source, and few of them with a producer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from headrace.plugins.kafka.line import Line
from headrace.plugins.kafka.positions import PositionsTopic
from headrace.plugins.kafka.transactions import Transactions

if TYPE_CHECKING:
    from headrace.plugins.kafka.sink import KafkaSink  # noqa: TC004 - its settings hold


@attrs.define(kw_only=True, eq=False)
class Lines:
    """
    Finds lines by their keys. Safe from any thread.

    Attributes:
        sink: Whose settings hold.

        side: Where the values are.
    """

    sink: KafkaSink
    side: PositionsTopic
    _all: OrderedDict[bytes, Line] = attrs.field(factory=OrderedDict, init=False)  # the last used at the end
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def of(self, key: bytes, *parts: str) -> Line:
        """
        Return the line of a key, always the same.

        Args:
            key: In the side topic.

            parts: Of its transactional id, besides topic and epoch: what the key is about.
        """
        with self._lock:
            if key not in self._all:
                self._all[key] = Line(key=key, positions=self.side, transactions=self._transactions(parts))
            self._all.move_to_end(key)
            return self._all[key]

    def close_some(self) -> None:
        """Give back the producers that were used longest ago, as many as there are too many; those at work stay."""
        with self._lock:
            lines = [line for line in self._all.values() if line.transactions.open]
        for line in lines[: max(0, len(lines) - self.sink.producers)]:
            line.leave()

    def close(self) -> None:
        """Give all producers back."""
        with self._lock:
            lines = list(self._all.values())
        for line in lines:
            line.leave()

    def settings(self, transactional_id: str) -> dict[str, object]:
        """librdkafka's, for the producer of an id; ConfigError where one was given that transactions rest on."""
        timeout_ms = int(self.sink.transaction_timeout_s * 1000)
        fixed = {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "delivery.timeout.ms": timeout_ms,  # a record that comes later comes too late
            "delivery.report.only.error": True,
        }
        return self.sink.producer_settings(fixed)

    def _transactions(self, parts: tuple[str, ...]) -> Transactions:
        sink = self.sink
        quoted = (quote(part, safe="") for part in (sink.topic, sink.epoch, *parts))  # no two become one
        transactional_id = ":".join([sink.transactional_id_prefix, *quoted])
        return Transactions(
            transactional_id=transactional_id,
            topic=sink.topic,
            settings=self.settings(transactional_id),
            request_timeout_s=sink.request_timeout_s,
            timeout_s=sink.transaction_timeout_s,
        )

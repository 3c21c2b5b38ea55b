"""Says once what is said over and over: of warnings and errors that repeat, the first at once, then a count now and then."""

from __future__ import annotations

import copy
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs

_KINDS = 500
"""So many kinds of repeated lines are followed; of more the one that was silent for longest is told, and forgotten."""

_NUMBERS = re.compile(r"\d+(\.\d+)?")


@attrs.define
class _Repeated:
    told_s: float
    count: int = 0
    last: logging.LogRecord | None = None


@attrs.define
class Sampling:
    """
    Which lines are written. The first of a kind is, and so is the last: with the number of those between, as ``repeated``.

    Lines are of one kind where logger, level, event and place (stream, partition, target, feed) are the same, and the error but
    for its numbers. Not safe from several threads: a handler has a lock.

    Attributes:
        every_s: A kind is told again at most so often, in seconds; 0: each line.

        clock: Monotonic seconds.
    """

    every_s: float
    clock: Callable[[], float] = time.monotonic
    _kinds: OrderedDict[tuple[object, ...], _Repeated] = attrs.field(factory=OrderedDict, init=False)

    def taken(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        """Yield what is to be written now that *record* came: it, or nothing, and what others kept back for long enough."""
        now_s = self.clock()
        yield from self._due(now_s)
        if self.every_s <= 0 or record.levelno < logging.WARNING:
            yield record
            return
        kind = _kind(record)
        known = self._kinds.get(kind)
        if known is not None:
            known.count += 1
            known.last = record
            return
        self._kinds[kind] = _Repeated(now_s)
        yield record
        if len(self._kinds) > _KINDS:
            _, oldest = self._kinds.popitem(last=False)
            yield from _summary(oldest)

    def rest(self) -> Iterator[logging.LogRecord]:
        """Yield the last of each kind that is not written yet."""
        kinds, self._kinds = self._kinds, OrderedDict()
        for known in kinds.values():
            yield from _summary(known)

    def _due(self, now_s: float) -> Iterator[logging.LogRecord]:
        for kind, known in list(self._kinds.items()):
            if now_s - known.told_s < self.every_s:
                return  # those behind it were told later
            del self._kinds[kind]
            if known.count:
                yield from _summary(known)
                self._kinds[kind] = _Repeated(now_s)


def _summary(known: _Repeated) -> Iterator[logging.LogRecord]:
    if known.last is not None:
        told = copy.copy(known.last)
        told.fields = {**getattr(told, "fields", {}), "repeated": known.count}
        yield told


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    fields = getattr(record, "fields", {})
    error = fields.get("error") or fields.get("cause") or ("" if hasattr(record, "what") else record.getMessage())
    places = tuple(fields.get(name) for name in ("stream", "partition", "target", "feed", "type"))
    return (record.name, record.levelno, getattr(record, "what", record.msg), *places, _NUMBERS.sub("#", str(error)))

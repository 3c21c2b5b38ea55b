"""Every interval in which something may be missing, as a record of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import attrs
import msgspec

from headrace.plugins.market.numbers import Numbers

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOT_STORED = "what was fetched is not stored"
"""Why a gap is not filled, though the exchange's history had it."""

_TRACKED = 10_000
"""Of a gap with more missing numbers it is not followed which of them come late."""

_FOLLOWED = 100
"""So many gaps of a symbol are followed at a time, the newest."""

_REPLAYED = 1_000
"""
A number so little below the last one is a message sent again; a lower one begins a new count: some exchanges count anew on each
connection, when they start, or at midnight. Behind a new connection 0 and 1 do as well.
"""


def moment(ns: int) -> str:
    """Nanoseconds since the epoch as ISO-8601 text in UTC."""
    seconds, rest = divmod(ns, 10**9)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def revision_of(value: bytes) -> tuple[str, int]:
    """Return of which gap a record is, and which revision."""
    found = msgspec.json.decode(value)
    return found["id"], found["revision"]


@attrs.define
class Missing:
    """
    One gap of one symbol. It is written when it is found, and again when more is known of it: the highest revision counts.

    Attributes:
        id: Of the gap: of all its revisions.

        symbol: Whose.

        cause: Why something may be missing.

        from_ns: After which nothing is certain; None: it was before this process began, so after the last record of the feed
            that was kept.

        to_ns: From when on nothing is missing; None: it lasts.

        last: The last number before it, where the feed counts.

        next: The first number behind it, where the feed counts.

        left: The missing numbers that have not come late; None where they are not known, or too many.

        fetched: Records that came from the exchange's history.

        fill: What came of asking for it there: "done", "partly: …", "not available: …"; None: it was not asked.

        unsure: The first revision by which less is missing than is known to be stored; 0: none.

        dropped: How often what had come of it was not stored.

        of: Of which count of the symbol its numbers are: so many were begun anew before.
    """

    id: str
    symbol: str
    cause: str
    from_ns: int | None
    to_ns: int | None = None
    last: int | None = None
    next: int | None = None
    left: Numbers | None = None
    revision: int = 0
    fetched: int = 0
    fill: str | None = None
    unsure: int = 0
    dropped: int = 0
    of: int = 0

    @property
    def counts_anew(self) -> bool:
        """Whether the numbers behind it are of another count than those before it."""
        return self.last is not None and self.next is not None and self.next <= self.last

    @property
    def missing(self) -> int | None:
        """How many messages are missing; None where the feed does not count."""
        if self.left is not None:
            return len(self.left)
        if self.last is None or self.next is None or self.counts_anew:
            return None
        return max(0, self.next - self.last - 1 - self.fetched)


@attrs.define
class Anew:
    """
    Where a feed seems to count anew.

    Attributes:
        last: Of the old count, the last number.

        first: Of the new one, the first.

        latest: Of the new one, the last.

        first_ns: When the first one of it came.

        latest_ns: When the last one did.
    """

    last: int
    first: int
    latest: int
    first_ns: int
    latest_ns: int


@attrs.define(kw_only=True)
class Gaps:
    """
    Knows for each symbol up to where nothing is missing. Not safe from several threads.

    Attributes:
        feed: The feed's name.

        symbols: What is subscribed to.

        producer: Who keeps these records: of two producers of one feed each has gaps of its own.

        run: What ids begin with: never used by another process, nor by the producer's next run.

        numbers: By kind, in which field of a message the feed's own count stands: an audit looks there.
    """

    feed: str
    symbols: Sequence[str]
    producer: str
    run: str
    numbers: Mapping[str, str] = attrs.field(factory=dict)
    out: list[tuple[str, bytes, bool]] = attrs.field(factory=list)
    """
    Records to be written: symbol, value, and whether it says that less is missing than was said. Such a one belongs behind what
    was received with it, the others before. Whoever writes them takes them out.
    """

    fillable: list[Missing] = attrs.field(factory=list)
    """Gaps of which is known since what to ask the exchange's history for: whoever does takes them out."""

    _ids: Iterable[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    _numbers: dict[str, int] = attrs.field(factory=dict, init=False)  # the last one of each symbol
    _heard_ns: dict[str, int] = attrs.field(factory=dict, init=False)  # when that was
    _open: dict[str, Missing] = attrs.field(factory=dict, init=False)  # the connection is not there, or not complete
    _uncounted: dict[str, Missing] = attrs.field(factory=dict, init=False)  # the first number behind it is not known
    _first: dict[str, list[Missing]] = attrs.field(factory=dict, init=False)  # no number was seen yet: the last one
    _counts: dict[str, int] = attrs.field(factory=dict, init=False)  # how often it counted anew
    _begun: dict[str, Anew] = attrs.field(factory=dict, init=False)  # a new count, or what is sent again
    _late: dict[str, list[Missing]] = attrs.field(factory=dict, init=False)  # whose numbers may come yet
    _unsure: dict[str, Missing] = attrs.field(factory=dict, init=False)  # by id: what came may not be stored yet

    # ---- connections --------------------------------------------------------------------------------------

    def begin(self, cause: str, from_ns: int | None) -> None:
        """From now on messages may be missing, of every symbol; what is open already stays as it is."""
        for symbol in self.symbols:
            if symbol not in self._open:
                last = self._numbers.get(symbol)
                gap = self._open[symbol] = self._write(self._new(symbol, cause, from_ns, last=last))
                if last is not None:  # one whose end was never counted goes on in this one
                    self._uncounted[symbol] = gap
                elif self.numbers:
                    self._first.setdefault(symbol, []).append(gap)

    def leave(self, cause: str) -> None:
        """The run ends: what is open says so."""
        for gap in self._open.values():
            gap.cause = f"{gap.cause}, then {cause}"
            self._write(gap)

    def end(self, now_ns: int, symbols: Sequence[str] | None = None) -> None:
        """From now on nothing is missing; of these symbols, of all where none are given."""
        for symbol in list(self._open) if symbols is None else symbols:
            gap = self._open.pop(symbol, None)
            if gap is not None:
                gap.to_ns = now_ns
                self._write(gap)
                first = self._first.get(symbol, [])
                if gap in first:  # those before it, between which no number came, are asked for by their time alone
                    self.fillable += first[:-1]
                    del first[:-1]
                elif gap is not self._uncounted.get(symbol):
                    self.fillable.append(gap)

    @property
    def open(self) -> list[str]:
        """Symbols of which messages may be missing from now on."""
        return list(self._open)

    def between(self, cause: str, from_ns: int | None, to_ns: int) -> None:
        """Messages may be missing of every symbol in this interval."""
        for symbol in self.symbols:
            self.fillable.append(self._write(self._new(symbol, cause, from_ns, to_ns=to_ns)))

    # ---- what the exchange's history has --------------------------------------------------------------------

    def fetched(self, gap: Missing, values: Sequence[bytes], numbers: Sequence[int] | None) -> list[bytes]:
        """Take what was fetched of a gap, return what of it was still missing. `settle` writes that down."""
        kept = list(values)
        if numbers is not None and gap.left is not None:
            kept = [v for v, n in zip(values, numbers, strict=True) if n in gap.left]
            gap.left.difference_update(numbers)
            if not gap.left and gap in (late := self._late.get(gap.symbol, [])):
                late.remove(gap)
        gap.fetched += len(kept)
        if kept:
            self._be_unsure(gap)
        return kept

    def settle(self, gap: Missing, fill: str) -> None:
        """Write what came of asking the exchange's history; it belongs behind what was fetched."""
        gap.fill = fill
        self._write(gap, less=True)

    # ---- what came late, and is stored or not --------------------------------------------------------------

    def stored(self, name: str, revision: int) -> None:
        """All that came before this revision of the gap with this id was written is stored."""
        gap = self._unsure.get(name)
        if gap is not None and revision >= gap.unsure:
            gap.unsure = 0
            del self._unsure[name]

    def dropped(self) -> dict[str, int]:
        """
        Something that came is not stored, and nobody knows what: all gaps that it may have made smaller are as large as at first,
        and are fetched again.

        Return by id the revision that says so: no lower one is to be said any more.
        """
        unsure, self._unsure = self._unsure, {}
        for gap in unsure.values():
            gap.fill = f"not available: {NOT_STORED}" if gap.fetched else gap.fill
            gap.unsure = gap.fetched = 0
            gap.dropped += 1
            if gap in (late := self._late.get(gap.symbol, [])):
                late.remove(gap)
            self._follow(gap)
            self._write(gap)
        self.fillable += unsure.values()
        return {gap.id: gap.revision for gap in unsure.values()}

    def _be_unsure(self, gap: Missing) -> None:
        """Less is missing from its next revision on, by what may still be lost on its way."""
        gap.unsure = gap.revision + 1
        self._unsure[gap.id] = gap

    # ---- numbers ------------------------------------------------------------------------------------------

    def count(self, symbols: Sequence[str | None], numbers: Sequence[int | None], heard_ns: int) -> None:
        """Take the feed's own numbers of messages that came at this moment."""
        known = self._numbers
        for symbol, number in zip(symbols, numbers, strict=True):
            if symbol is None or number is None:
                continue
            last = known.get(symbol)
            if last is not None and number == last + 1 and symbol not in self._uncounted and symbol not in self._first:
                known[symbol] = number  # nearly always
                self._heard_ns[symbol] = heard_ns
            else:
                self._jump(symbol, number, heard_ns)

    def latest(self, numbers: Mapping[str, int], heard_ns: int) -> None:
        """The exchange says that it has sent these: what we have not got by now is missing."""
        for symbol, number in numbers.items():
            known = self._numbers.setdefault(symbol, number)
            if number > known or (symbol in self._uncounted and not known - _REPLAYED < number < known):
                self._jump(symbol, number + 1, heard_ns, seen=False)
            elif number == known:
                self._heard_ns[symbol] = heard_ns

    def _jump(self, symbol: str, number: int, heard_ns: int, *, seen: bool = True) -> None:
        """A number that is not the next one. Where it was only announced, *number* is the first that may still come."""
        last, gap = self._numbers.get(symbol), self._uncounted.get(symbol)
        if seen and symbol in self._first:
            self._begin_at(symbol, number)
        if last is not None and number <= last:
            anew = (
                self._anew(symbol, number, last, heard_ns) if seen else Anew(last, number, number - 1, *[heard_ns] * 2)
            )
            if anew is None:
                self._came_late(symbol, number)
                return
            self._begin_anew(symbol, anew)
            if seen and anew.latest != number:
                self._jump(symbol, number, heard_ns)
            return
        if gap is not None:  # the first number behind a connection that was lost
            del self._uncounted[symbol]
            gap.next = number
            self._follow(gap)
            self._write(gap)
            self._fill_later(gap)
        elif last is not None and number > last + 1:
            cause = "numbers are missing" if seen else "announced and not sent"
            gap = self._new(symbol, cause, self._heard_ns.get(symbol), to_ns=heard_ns, last=last)
            gap.next = number
            self._follow(gap)
            self._write(gap)
            self._fill_later(gap)
        self._numbers[symbol], self._heard_ns[symbol] = number if seen else number - 1, heard_ns

    def _anew(self, symbol: str, number: int, last: int, heard_ns: int) -> Anew | None:
        """
        Say with what a new count began, where a number that is not above the last one shows it; None: it is sent again, or late.

        Behind a new connection one number that is far below does. On one that is up it may be a single message that is sent
        again, so the next one decides. What is not far below may be all of a frame that is sent again: not where it leaves out
        what we have already.
        """
        far, behind = number <= last - _REPLAYED, symbol in self._uncounted
        new = Anew(last, number, number, heard_ns, heard_ns)
        if behind and (far or number <= 1):
            return new
        begun = self._begun.get(symbol)
        begun = begun if begun is not None and begun.last == last else None
        if number == last:  # up to here it was sent again
            self._begun.pop(symbol, None)
        elif begun is not None and number > begun.latest:
            if far or not all(self._is_missing(symbol, n) for n in range(begun.latest + 1, number)):
                return begun
            begun.latest, begun.latest_ns = number, heard_ns
        elif begun is not None and far and number != begun.latest:
            return begun
        elif (far or number <= 1 or (behind and number < _REPLAYED)) and not self._is_missing(symbol, number):
            self._begun[symbol] = new
        return None

    def _is_missing(self, symbol: str, number: int) -> bool:
        return any(gap.left is not None and number in gap.left for gap in self._late.get(symbol, ()))

    def _begin_anew(self, symbol: str, anew: Anew) -> None:
        """Write that the feed counts anew, and count on from there. What was missing of the old count never comes late."""
        gap = self._uncounted.pop(symbol, None)
        if gap is None:
            gap = self._new(symbol, "counts anew", self._heard_ns.get(symbol), to_ns=anew.first_ns, last=anew.last)
        gap.next = anew.first
        self._write(gap)
        if gap.to_ns is not None:
            self.fillable.append(gap)
        self._begun.pop(symbol, None)
        self._late.pop(symbol, None)
        self._counts[symbol] = self._counts.get(symbol, 0) + 1
        self._numbers[symbol], self._heard_ns[symbol] = anew.latest, anew.latest_ns

    def _follow(self, gap: Missing) -> None:
        if gap.last is None or gap.next is None or gap.counts_anew:
            return
        if gap.next - gap.last - 1 <= _TRACKED:
            gap.left = Numbers(gap.last + 1, gap.next)
            if gap.left and gap.of == self._counts.get(gap.symbol, 0):
                late = self._late.setdefault(gap.symbol, [])
                late.append(gap)
                del late[:-_FOLLOWED]

    def _fill_later(self, gap: Missing) -> None:
        if gap.missing:
            self.fillable.append(gap)

    def _begin_at(self, symbol: str, number: int) -> None:
        """The first number that is seen at all: what is missing lies below it."""
        for gap in self._first.pop(symbol):
            gap.next = number
            if gap.to_ns is not None:
                self.fillable.append(gap)

    def _came_late(self, symbol: str, number: int) -> None:
        """A repeated number says nothing; one that was missing makes its gap smaller."""
        for gap in self._late.get(symbol, ()):
            if gap.left is not None and number in gap.left:
                gap.left.discard(number)
                self._be_unsure(gap)
                self._write(gap, less=True)
                if not gap.left:
                    self._late[symbol].remove(gap)
                return

    # ---- records ------------------------------------------------------------------------------------------

    def _new(
        self, symbol: str, cause: str, from_ns: int | None, *, to_ns: int | None = None, last: int | None = None
    ) -> Missing:
        number = next(iter(self._ids))
        of = self._counts.get(symbol, 0)
        return Missing(f"{self.run}-{number}", symbol, cause, from_ns, to_ns, last, of=of)

    def _write(self, gap: Missing, *, less: bool = False) -> Missing:
        gap.revision += 1
        value = {
            "id": gap.id,
            "revision": gap.revision,
            "feed": self.feed,
            "producer": self.producer,
            "symbol": gap.symbol,
            "from": None if gap.from_ns is None else moment(gap.from_ns),
            "to": None if gap.to_ns is None else moment(gap.to_ns),
            "last_sequence": gap.last,
            "next_sequence": gap.next,
            "missing": gap.missing,
            "cause": gap.cause,
            "filled": gap.missing == 0,
            "backfill": gap.fill,
            "backfilled": None if gap.fill is None else gap.fetched,
            **({"numbers": self.numbers} if self.numbers else {}),
        }
        self.out.append((gap.symbol, msgspec.json.encode(value), less or gap.id in self._unsure))
        return gap

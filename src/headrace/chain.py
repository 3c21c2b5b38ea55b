"""
The chain of a partition: its segments in order, each starting where the one before ended.

Two ways to ask it. `newest` finds the chain's end in a few requests, whatever its length: that is the position of a
writer (B11). `walk` goes along it link by link and lets nothing pass that does not fit: that is a loader's or an
auditor's (B29).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import attrs

from headrace.dataset import Dataset, read_dataset
from headrace.errors import (
    ConfigError,
    CorruptSegmentError,
    DataError,
    ExpiredError,
    GapError,
    SinkUnavailableError,
    TransientError,
)
from headrace.formats import Format, format_of
from headrace.layout import Layout, parse_range, parse_root, parse_segment
from headrace.records import Batch, Partition
from headrace.segment import Segment
from headrace.store import Store, StoredObject

_LOOKS = 5
"""How often a segment may be gone between the LIST that names it and the read; the caller waits and asks again."""

_TOP = 10**19
"""Above every key: 19 nines is the largest start that Kafka's signed 64-bit offsets allow, and more."""


@attrs.frozen
class Chain:
    """
    All chains of one dataset, read from its store. Keeps nothing: every answer is the store's, now.

    Attributes:
        store: Where the objects are.

        dataset: As pinned.
    """

    store: Store
    dataset: Dataset

    @classmethod
    def open(cls, store: Store, stream: str, epoch: str = "") -> Chain:
        """Read the stream's pin. ConfigError where the store has no such dataset; it names those that it has."""
        layout = Layout(stream, epoch)
        dataset = read_dataset(store, layout)
        if dataset is None:
            there = ", ".join(s + (f" (epoch {e})" if e else "") for s, e in streams(store)) or "none"
            raise ConfigError(
                f"{store.place} has no stream {stream!r}{f' of epoch {epoch}' if epoch else ''}; it has: {there}"
            )
        return cls(store, dataset)

    @property
    def layout(self) -> Layout:
        return self.dataset.keys

    @property
    def format(self) -> Format:
        """How its objects are to be read, as pinned."""
        return format_of(self.dataset.format, self.dataset.compression)

    def partitions(self) -> list[int]:
        """List the partitions that have objects, ascending: one LIST each."""
        prefix = f"{self.layout.root}partition="
        numbers, after = [], ""
        while objects := self.store.list(prefix, after).objects:
            folder = objects[0].key[len(prefix) :].partition("/")[0]
            if folder.isdecimal():
                numbers.append(int(folder))
            after = f"{prefix}{folder}/\U0010ffff"
        return sorted(numbers)

    # ---- the end of a chain: a writer's position ----------------------------------------------------------

    def newest(self, number: int, hint: int | None = None, high: int | None = None) -> Segment | None:
        """
        Find the last segment of a partition; None where it has none (B11).

        Ascending LISTs that end only at a page that is not truncated, then one read of that object's trailer: so neither
        a deleted middle nor a wrong hint nor a listing that changes meanwhile can make the answer too high, and one that
        is too low is refused when it is written to.

        Args:
            number: Of the partition.

            hint: The start of the segment that may be the newest: where the first LIST begins, nothing more.

            high: The log's end, above which no key is expected: only saves requests.

        Raises:
            CorruptSegmentError: The last object is not what its key says (B8).
            SinkUnavailableError: What is listed cannot be read.
        """
        key = ""
        for _ in range(_LOOKS):
            last = self._last_key(number, hint, high)
            if last is None:
                return None
            segment = self.segment(number, last)
            if segment is not None:
                return segment
            hint, key = None, last.key  # gone between the LIST and the read: look again
        raise SinkUnavailableError(
            f"{self.store.place}/{key} ({self._at(number)}) is listed, and was not there to be read {_LOOKS} times; the"
            " store may not have it back yet, or has lost what it lists: look there if this does not pass"
        )

    def _last_key(self, number: int, hint: int | None, high: int | None) -> StoredObject | None:
        """Halve between the last key seen and the log's end until a page is not truncated."""
        found, more = self._page(number, hint or 0)
        if not found and hint:
            found, more = self._page(number, 0)  # the hint is ahead of the lake
        if not found:
            return None
        above = _TOP if high is None or high <= start_of(found[-1]) else high
        while more:
            last = start_of(found[-1])
            if above <= last + 1:
                above = _TOP  # the belief was wrong
            middle = (last + 1 + above) // 2
            later, later_more = self._page(number, middle)
            if later:
                found, more = later, later_more
            elif middle == last + 1:
                break
            else:
                above = middle
        return found[-1]

    def _page(self, number: int, start: int) -> tuple[list[StoredObject], bool]:
        """List the segments that start at or after *start*; the flag says whether more follow."""
        prefix, extension = self.layout.partition(number), self.format.extension
        page = self.store.list(prefix, self.layout.before(number, start))
        found = []
        for item in page.objects:
            name = parse_segment(item.key[len(prefix) :])
            if name is not None and name[1] != extension:
                raise DataError(
                    f"{self.store.place}/{item.key}: found a segment of another format, expected .{extension} as pinned;"
                    " two writers share this prefix: move the foreign objects away"
                )
            if name is not None:
                found.append(item)
        # digits sort below ":", so a name beyond it comes after every segment
        more = page.truncated and page.objects[-1].key < f"{prefix}:"
        if more and not found:
            raise DataError(f"{self.store.place}/{prefix} holds foreign objects, expected segments: move them away")
        return found, more

    def covering(self, number: int, position: int) -> Segment | None:
        """
        Find the last segment that starts at or before *position*; None where none does: the head is gone, or nothing is there.

        Raises:
            CorruptSegmentError: It is not what its key says.
        """
        best: StoredObject | None = None
        low, high = 0, position + 1  # a start that is wanted is in [low, high)
        while low < high:
            middle = low if best is None else (low + high) // 2
            found, more = self._page(number, middle)
            fit = [item for item in found if start_of(item) <= position]
            if fit:
                best = fit[-1]
                low = start_of(best) + 1
                if len(fit) < len(found) or not more:
                    break
            elif best is None:
                break
            else:
                high = middle
        return None if best is None else self.segment(number, best)

    # ---- along a chain: a loader's and an auditor's way ---------------------------------------------------

    def walk(self, number: int, position: int = 0) -> Iterator[Segment]:
        """
        Yield the segments from *position* to the chain's end, each one where the one before ended (B29).

        Args:
            number: Of the partition.

            position: Where what is known ends: 0, or the end of a segment that was seen before.

        Raises:
            ExpiredError: The segments at the head were deleted by `headrace.Expire`.
            GapError: Segments are missing between two others, or at the head.
            DataError: Two segments overlap, or the chain ends below *position*: it was lost, or begun anew.
            CorruptSegmentError: An object is not what its key says.
        """
        begun = position
        for item in self.objects(number, position):
            start = start_of(item)
            if start > position:
                self._missing(number, position, start)
            if start < position:
                raise DataError(
                    f"{self.store.place}/{item.key} ({self._at(number)}): starts at {start}, inside the segment before it,"
                    f" which ends at {position}; keep the one that readers relied on and move the other away"
                )
            segment = self.segment(number, item)
            if segment is None:
                self._missing(number, position, None)
            else:
                yield segment
                position = segment.end
        if begun == position and begun > 0:
            self._check_end(number, begun)

    def walk_on(
        self, number: int, position: int, again: Callable[[Callable[[], Segment | None]], Segment | None]
    ) -> Iterator[Segment]:
        """
        Walk as `walk` does; a listing or a read that failed is begun again where it had got to.

        Args:
            number: Of the partition.

            position: As for `walk`.

            again: Calls what it is given, and calls again while that raises a `TransientError`; `Retry`, as a rule.

        Raises:
            TransientError: As *again* raised the last one.
            HeadraceError: As for `walk`.
        """
        walk = self.walk(number, position)

        def following() -> Segment | None:
            nonlocal walk
            try:
                return next(walk, None)
            except TransientError:  # what raised it walks no further
                walk = self.walk(number, position)
                raise

        while (segment := again(following)) is not None:
            yield segment
            position = segment.end

    def from_start(self, number: int, position: int = 0) -> Iterator[Segment]:
        """Yield the segments that start at or after *position*, whatever lies between them: for looking, not for loading."""
        for item in self.objects(number, position):
            segment = self.segment(number, item)
            if segment is not None:
                yield segment

    def objects(self, number: int, position: int = 0) -> Iterator[StoredObject]:
        """Yield the keys and sizes of the segments that start at or after *position*; nothing is read of them."""
        start, more = position, True
        while more:
            found, more = self._page(number, start)
            yield from found
            if found:
                start = start_of(found[-1]) + 1

    def _check_end(self, number: int, position: int) -> None:
        """No key at or after *position*: the chain must end there, or it is not the chain that was seen before (B29)."""
        newest = self.newest(number)
        if newest is not None and newest.end > position:
            if newest.start >= position:
                return  # written since
            raise DataError(
                f"{self._at(number)}: the segment at {newest.start} ends at {newest.end}, expected a segment that ends at"
                f" {position}; the chain is not the one that was loaded"
            )
        if newest is None or newest.end < position:
            found = "is empty" if newest is None else f"ends at {newest.end}"
            raise DataError(
                f"{self._at(number)}: the chain {found}, expected it to reach {position}, up to which it was read before;"
                " it was lost or begun anew: restore the segments, or load this dataset into a new target"
            )

    def _missing(self, number: int, start: int, end: int | None) -> None:
        partition = Partition(self.dataset.stream, number)
        where = f"from {start}" if end is None else f"[{start}, {end})"
        expired = self.expired(number, start, start + 1 if end is None else end)
        if expired and expired[0] == (start, start + 1 if end is None else end):
            raise ExpiredError(
                f"{self._at(number)}: the segments {where} were expired: deleted on purpose, as the notes in"
                f" {self.layout.expired(number)} say; restore them from a copy, keep to a table that was loaded before they"
                " went, or let a new one begin behind them (begin_at, --begin-at oldest)",
                partition=partition,
                start=start,
                end=start if end is None else end,
            )
        known = "".join(f"; [{a}, {b}) of it was expired, and that alone is in order" for a, b in expired)
        raise GapError(
            f"{self._at(number)}: no segment covers {where}; segments were deleted: restore them from a copy{known}",
            partition=partition,
            start=start,
            end=start if end is None else end,
        )

    # ---- what was let go ----------------------------------------------------------------------------------

    def expired(self, number: int, start: int = 0, end: int = _TOP) -> list[tuple[int, int]]:
        """
        List what was expired of ``[start, end)``, ascending, as ranges that do not touch.

        Notes are written before anything is deleted, so one may say more than was done. Segments are deleted oldest first:
        where one is there, nothing behind it was expired, whatever a note says.
        """
        head = next(self.objects(number), None)
        end = end if head is None else min(end, start_of(head))
        found: list[tuple[int, int]] = []
        for noted_from, noted_to in sorted(ranges(self.store, self.layout.expired(number))):
            a, b = max(noted_from, start), min(noted_to, end)
            if found and a <= found[-1][1]:
                found[-1] = (found[-1][0], max(b, found[-1][1]))
            elif a < b:
                found.append((a, b))
        return found

    # ---- one object ---------------------------------------------------------------------------------------

    def segment(self, number: int, item: StoredObject) -> Segment | None:
        """
        Read an object's trailer and hold it against its key and the pin (B8); None where it is gone.

        Raises:
            CorruptSegmentError: It is not what its key says.
        """
        seal = self._seal(item)
        if seal is None:
            return None
        where = f"{self.store.place}/{item.key}"
        found = self.format.trailer(seal, key=where)
        key = (self.dataset.id, Partition(self.dataset.stream, number), start_of(item))
        if (found.dataset_id, found.partition, found.start) != key or found.end <= found.start:
            raise CorruptSegmentError(
                f"{where}: its trailer says dataset {found.dataset_id}, {found.partition}, [{found.start}, {found.end});"
                f" expected dataset {key[0]}, {key[1]}, from {key[2]}. It was copied here or damaged: move it away",
                key=item.key,
            )
        return Segment(item.key, item.size, found, item.modified_s)

    def _seal(self, item: StoredObject) -> bytes | None:
        """Read the end of an object, from its trailer on: with a second read where that is longer than usual (B5)."""
        tail = self.store.read(item.key, -self.format.tail_bytes)
        size = self.format.seal_bytes(tail) if tail is not None else 0
        if tail is not None and len(tail) < min(size, item.size):
            tail = self.store.read(item.key, -size)
        return None if tail is None else tail[-size:]

    def read(self, segment: Segment) -> bytes:
        """
        Read a segment's whole object, checked against its trailer and the digest in it.

        Raises:
            CorruptSegmentError: The bytes are others than those that were written.
            GapError: The object is gone.
        """
        body = self.store.read(segment.key)
        if body is None:
            self._missing(segment.partition.number, segment.start, segment.end)
            raise AssertionError
        where = f"{self.store.place}/{segment.key}"
        if len(body) != segment.size or not self.format.holds(body, segment.trailer, key=where):
            raise CorruptSegmentError(
                f"{where} ({segment.partition}, [{segment.start}, {segment.end})): its bytes are not"
                f" those that its trailer's digest {segment.trailer.digest[:12]}… names; restore the object from a copy",
                key=segment.key,
            )
        return body

    def batches(self, segment: Segment, assignment: int = 0) -> Iterator[Batch]:
        """
        Yield a segment's records, about 1 MiB at a time. Errors as for `read`, before the first batch or later.

        Args:
            segment: Of this chain.

            assignment: Which number the batches carry.
        """
        body = self.read(segment)
        try:
            for batch in self.format.batches(body, segment.partition, assignment, segment.start):
                yield attrs.evolve(batch, leader_epoch=segment.trailer.leader_epoch)
        except DataError as exc:
            where = f"{self.store.place}/{segment.key} ({segment.partition}, [{segment.start}, {segment.end}))"
            raise CorruptSegmentError(f"{where}: {exc}; it was written so: its digest holds", key=segment.key) from exc

    def _at(self, number: int) -> str:
        return f"{self.store.place} ({self.dataset.stream}/{number})"


def streams(store: Store) -> list[tuple[str, str]]:
    """List the datasets of a lake as (stream, epoch): one LIST each."""
    found, after = [], ""
    while objects := store.list("", after).objects:
        folder = objects[0].key.partition("/")[0]
        with suppress(ConfigError):  # a folder that is none of ours
            layout = Layout(*parse_root(folder))
            if store.read(layout.pin, 0, 1) is not None:
                found.append((layout.stream, layout.epoch))
        after = f"{folder}/\U0010ffff"
    return found


def ranges(store: Store, prefix: str) -> Iterator[tuple[int, int]]:
    """Yield what notes under a prefix are about, by their names: ``(from, to)``."""
    after, more = "", True
    while more:
        page = store.list(prefix, after)
        yield from filter(None, (parse_range(item.key[len(prefix) :]) for item in page.objects))
        more = page.truncated
        after = page.objects[-1].key if page.objects else after


def start_of(item: StoredObject) -> int:
    """Where a segment starts, by its name."""
    return int(item.key.rpartition("/")[2][:20])

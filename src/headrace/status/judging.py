"""Says what is wrong with what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import dropwhile

from headrace.errors import HeadraceError
from headrace.status.asking import Asked
from headrace.status.gaps import Lasting
from headrace.status.result import OpenGap, PartitionStatus, Problem
from headrace.units import counted, format_seconds

_NAMED = 8


def of_chain(
    stream: str,
    asked: Asked,
    at_s: float,
    late_s: float,
    uris: tuple[str, str, str],
    has_record: Callable[[PartitionStatus], bool],
) -> Iterator[Problem]:
    """
    Judge a stream's partitions.

    Args:
        stream: Its name.

        asked: What was found.

        at_s: Now.

        late_s: What waits longer stands still.

        uris: Of lake, warehouse and source, for the commands that are advised.

        has_record: Whether a record is in the log behind the lake's end, and not only markers.
    """
    lake = uris[0]
    for number, error in asked.errors.items():
        yield Problem(
            "wrong",
            "bronze",
            f"{stream}/{number}: {error}",
            f"headrace show {lake} --stream {stream} --partition {number}",
        )
    for p in asked.partitions:
        yield from _of_log(stream, p, uris)
        yield from _ahead(stream, p, uris)
    yield from _standing_still(stream, asked.partitions, at_s, late_s, uris[2], has_record)
    yield from _not_loaded(stream, asked.partitions, at_s, late_s, uris)


def _of_log(stream: str, p: PartitionStatus, uris: tuple[str, str, str]) -> Iterator[Problem]:
    lake, _, source = uris
    name = f"{stream}/{p.number}"
    if p.bronze_end is None or p.log_end is None or p.log_low is None:
        return
    if p.bronze_end > p.log_end and p.bronze_end > p.log_low:
        yield Problem(
            "wrong",
            "log",
            f"{name}: the lake reaches {p.bronze_end:,}, the log ends at {p.log_end:,}: it was cut back, or made again",
            f"restore the log, or begin a new epoch: headrace stream {source} '{lake}?epoch=NAME'",
        )
    elif 0 < p.bronze_end < p.log_low:
        yield Problem(
            "wrong",
            "log",
            f"{name}: retention took {counted(p.log_low - p.bronze_end, 'offset')}"
            f" [{p.bronze_end:,}, {p.log_low:,}) before they were stored",
            "restore them to the log, or accept the loss: headrace stream … --on-gap note",
        )


def _ahead(stream: str, p: PartitionStatus, uris: tuple[str, str, str]) -> Iterator[Problem]:
    if p.silver_end is not None and p.bronze_end is not None and p.silver_end > p.bronze_end:
        yield Problem(
            "wrong",
            "silver",
            f"{stream}/{p.number}: loaded up to {p.silver_end:,}, the lake ends at {p.bronze_end:,}: segments are gone",
            f"headrace audit {uris[0]} '{uris[1]}'; restore them from a copy",
        )


def _standing_still(
    stream: str,
    partitions: Sequence[PartitionStatus],
    at_s: float,
    late_s: float,
    source: str,
    has_record: Callable[[PartitionStatus], bool],
) -> Iterator[Problem]:
    """One problem for all partitions that lag and of which nothing was stored for too long."""
    late = [p for p in partitions if p.bronze_lag and (p.bronze_put_s is None or at_s - p.bronze_put_s > late_s)]
    # a log that ends with a transaction's marker stays ahead of the lake. Of the rest after the first one no more is asked
    found = list(dropwhile(lambda p: not has_record(p), late))
    if not found:
        return
    lag = sum(p.bronze_lag or 0 for p in found)
    times = [p.bronze_put_s for p in found if p.bronze_put_s is not None]
    since = f"nothing was stored for {_time(at_s - max(times))}" if times else "nothing was ever stored"
    yield Problem(
        "wrong",
        "bronze",
        f"{stream} stands still in {_named(found, partitions)}: {counted(lag, 'offset')} behind the log, and {since}",
        f"does `headrace stream` run? Look in its log for `partition stopped`; then headrace doctor '{source}'",
    )


def _not_loaded(
    stream: str, partitions: Sequence[PartitionStatus], at_s: float, late_s: float, uris: tuple[str, str, str]
) -> Iterator[Problem]:
    """One problem for all partitions of which a segment waits for too long."""
    found = [p for p in partitions if p.silver_lag and p.waiting_s is not None and at_s - p.waiting_s > late_s]
    if not found:
        return
    lag = sum(p.silver_lag or 0 for p in found)
    oldest_s = min(p.waiting_s for p in found if p.waiting_s is not None)
    yield Problem(
        "wrong",
        "silver",
        f"{stream} is not loaded in {_named(found, partitions)}: {counted(lag, 'offset')} behind the lake, the oldest segment"
        f" waits for {_time(at_s - oldest_s)}",
        f"does `headrace load` run, and how did it end? By hand: headrace load {uris[0]} '{uris[1]}' --contract …",
    )


def _named(found: Sequence[PartitionStatus], of: Sequence[PartitionStatus]) -> str:
    """The partitions in words: all of them, or some by number."""
    if len(found) == len(of):
        return f"all of its {len(of)} partitions" if len(of) > 1 else f"its partition {of[0].number}"
    numbers = ", ".join(str(p.number) for p in found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
    return f"{len(found)} of {len(of)} partitions ({numbers})"


def _time(seconds: float) -> str:
    return format_seconds(round(seconds))


_AFTER = {
    "": "look in the producer's log for `feed lost`: while it runs it connects again by itself; if it was killed, start it again",
    "stopped": "its producer was ended: start `headrace stream` of the feed again",
    "refused": "its producer ended with code 2: mend what its log says, then start `headrace stream` of the feed again",
    "failed": "its producer ended with an error: look in its log, and start `headrace stream` of the feed again",
}


def of_gaps(found: Lasting) -> Iterator[Problem]:
    """Judge the gaps that last, and those that may: one problem a feed and cause."""
    for (feed, cause), gaps in _alike(found.gaps):
        text = f"{feed} is not heard since {_since(gaps)} ({cause}): {_symbols(gaps)}"
        yield Problem("wrong", "feed", text, _AFTER[gaps[0].end])
    for (feed, cause), gaps in _alike(found.doubtful):
        yield Problem(
            "look",
            "feed",
            f"{feed}: a producer without a name told no end of what it did not hear since {_since(gaps)} ({cause}), and another"
            f" one began: {_symbols(gaps)}",
            "if it was killed: nothing; if it still runs: look in its log for `feed lost`. producer=NAME tells them apart",
        )


def _alike(gaps: Sequence[OpenGap]) -> Iterable[tuple[tuple[str, str], list[OpenGap]]]:
    alike: dict[tuple[str, str], list[OpenGap]] = {}
    for gap in gaps:
        alike.setdefault((gap.feed, gap.cause), []).append(gap)
    return alike.items()


def _symbols(gaps: Sequence[OpenGap]) -> str:
    return ", ".join(gap.symbol for gap in gaps[:5]) + (", …" if len(gaps) > 5 else "")


def _since(gaps: Sequence[OpenGap]) -> str:
    return min((gap.since for gap in gaps if gap.since), default="its producer began")


def of_quarantine(records: int, warehouse: str) -> Iterator[Problem]:
    """Judge what is in quarantine: nothing is lost, and somebody has to mend the contract."""
    if records:
        yield Problem(
            "look",
            "quarantine",
            f"{counted(records, 'record')} broke the contract",
            f"headrace quarantine list '{warehouse}'; mend the contract, then headrace redrive",
        )


def silent(where: str, error: HeadraceError, uri: str) -> Problem:
    """Say that a place could not be asked."""
    return Problem("unknown", where, f"{type(error).__name__}: {error}", f"headrace doctor '{uri}'")

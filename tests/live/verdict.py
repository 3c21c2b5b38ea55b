"""Compares what the exchange sent with silver: what is not there must be told by a gap record, and nothing else."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import attrs
import duckdb
from exchange import EACH, FRAME, SYMBOLS

_KILL_WINDOW_NS = 60 * 10**9
"""What a process that is killed takes with it was received so long before at the most."""

_CUT_NS = 20 * 10**9
"""What came late is stored, and said to be, within so long; on a busy machine."""


@attrs.frozen(kw_only=True)
class Verdict:
    """
    What was found; `unexplained` and what follows must be 0.

    Attributes:
        sent: Messages.

        rows: Of silver.

        missing: Numbers that were sent and are no rows.

        gaps: Gap records in silver.

        by_numbers: Missing numbers that a gap record tells by its numbers.

        by_start: Missing numbers between a producer's end and the next one's first gap.

        open: Missing numbers behind a gap that was not closed before its producer was killed.

        unexplained: Missing numbers that no gap record tells.

        overclaimed: Numbers that a gap record calls missing, and that are rows; not where the producer ended soon after it: that
            something came late is said when it is stored.

        doubled: Rows of a number beyond the first.

        changed: Rows that are not what was sent.

        disordered: Places where a symbol's order is not the one in which it was sent, beyond those that were sent so.

        quarantined: Records in quarantine.

        examples: Of what is wrong.
    """

    sent: int
    rows: int
    missing: int
    gaps: int
    by_numbers: int
    by_start: int
    open: int
    unexplained: int
    overclaimed: int
    doubled: int
    changed: int
    disordered: int
    quarantined: int
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        wrong = self.unexplained + self.overclaimed + self.doubled + self.changed + self.disordered + self.quarantined
        return wrong == 0


class Sent:
    """When each number was sent, by the exchange's own file."""

    def __init__(self, path: Path) -> None:
        frames = list(FRAME.iter_unpack(path.read_bytes()))
        self._times, self._firsts = [at for at, _ in frames], [first for _, first in frames]
        self.end = self._firsts[-1] + EACH if frames else 1

    def at_ns(self, number: int) -> int:
        return self._times[bisect.bisect_right(self._firsts, number) - 1]


@attrs.frozen
class Told:
    """A gap record, as silver has it."""

    symbol: str
    began_ns: int | None
    ended_ns: int | None
    last: int | None
    next: int | None
    missing: int | None


def judge(trades: Path, gaps: Path, sent: Sent, interrupted_ns: Sequence[int], disorders: int) -> Verdict:
    """
    Compare number by number.

    Args:
        trades: The database with the table ``trades``.

        gaps: The database with the table ``gaps``.

        sent: By the exchange.

        interrupted_ns: When the producer was seen to have ended.

        disorders: How often numbers were sent out of order.
    """
    with duckdb.connect() as silver:
        silver.execute(f"ATTACH '{trades}' AS silver (READ_ONLY)")
        if gaps.exists():
            silver.execute(f"ATTACH '{gaps}' AS told (READ_ONLY)")
        else:  # no gap record ever came
            silver.execute("ATTACH ':memory:' AS told")
            silver.execute("CREATE TABLE told.gaps_quarantine (line BLOB)")
            names = "began TIMESTAMPTZ, ended TIMESTAMPTZ, last_sequence BIGINT, next_sequence BIGINT, missing BIGINT"
            silver.execute(f"CREATE TABLE told.gaps (symbol TEXT, {names})")
        silver.execute("USE silver")
        one = lambda sql: silver.execute(sql).fetchone()[0]  # noqa: E731
        rows, distinct = silver.execute("SELECT count(*), count(DISTINCT (symbol, number)) FROM trades").fetchone()
        changed = one(
            "SELECT count(*) FROM trades WHERE price <> (100 + number % 977) + (number % 100)::DECIMAL(18, 2) / 100"
            " OR size <> 1 + number % 300"
        )
        turned = one(
            "SELECT count(*) FROM (SELECT number < lag(number) OVER (PARTITION BY symbol ORDER BY _partition, _offset) AS back"
            " FROM trades) WHERE back"
        )
        runs = _missing(silver, sent.end)
        told = [
            Told(*row)
            for row in silver.execute(
                "SELECT symbol, epoch_ns(began), epoch_ns(ended), last_sequence, next_sequence, missing FROM told.gaps"
            ).fetchall()
        ]
        over = sum(_overclaimed(silver, gap) for gap in told if gap.missing and not _cut_short(gap, interrupted_ns))
        quarantined = one("SELECT count(*) FROM trades_quarantine") + one("SELECT count(*) FROM told.gaps_quarantine")
    counts = dict.fromkeys(("by_numbers", "by_start", "open", "unexplained"), 0)
    examples: list[str] = []
    for symbol, first, last in runs:
        for number, how in _explained(symbol, first, last, told, sent, interrupted_ns):
            counts[how] += number
            if how == "unexplained" and len(examples) < 10:
                examples.append(f"{symbol} {first} to {last}: {number} in no gap record; sent at {sent.at_ns(first)}")
    return Verdict(
        sent=(sent.end - 1) * len(SYMBOLS),
        rows=rows,
        missing=sum(last - first + 1 for _, first, last in runs),
        gaps=len(told),
        **counts,
        overclaimed=over,
        doubled=rows - distinct,
        changed=changed,
        disordered=max(0, turned - disorders * len(SYMBOLS)),
        quarantined=quarantined,
        examples=tuple(examples),
    )


def _missing(silver: duckdb.DuckDBPyConnection, end: int) -> list[tuple[str, int, int]]:
    """Runs of numbers that are no rows: symbol, first and last."""
    found = silver.execute(
        "SELECT symbol, number + 1, following - 1 FROM (SELECT symbol, number, lead(number, 1, $end)"
        " OVER (PARTITION BY symbol ORDER BY number) AS following FROM trades) WHERE following > number + 1",
        {"end": end},
    ).fetchall()
    firsts = dict(silver.execute("SELECT symbol, min(number) FROM trades GROUP BY ALL").fetchall())
    heads = [(symbol, 1, firsts.get(symbol, end) - 1) for symbol in SYMBOLS if firsts.get(symbol, end) > 1]
    return sorted([*heads, *found])


def _overclaimed(silver: duckdb.DuckDBPyConnection, gap: Told) -> int:
    """How many of the numbers that a gap calls missing are rows."""
    if gap.last is None or gap.next is None or gap.missing is None:
        return 0
    between = silver.execute(
        "SELECT count(DISTINCT number) FROM trades WHERE symbol = ? AND number > ? AND number < ?",
        [gap.symbol, gap.last, gap.next],
    ).fetchone()[0]
    return max(0, gap.missing - (gap.next - gap.last - 1 - between))


def _cut_short(gap: Told, interrupted_ns: Sequence[int]) -> bool:
    """Whether its producer may have ended before it could say more."""
    ended_ns = gap.ended_ns
    return ended_ns is not None and any(ended_ns <= at_ns <= ended_ns + _CUT_NS for at_ns in interrupted_ns)


def _explained(
    symbol: str, first: int, last: int, told: Sequence[Told], sent: Sent, interrupted_ns: Sequence[int]
) -> list[tuple[int, str]]:
    """How many numbers of a run are told, and how."""
    ours = [gap for gap in told if gap.symbol == symbol]
    found: list[tuple[int, str]] = []
    position = first
    while position <= last:
        numbered = [g for g in ours if g.missing and g.last < position < g.next]
        if numbered:
            until = min(last, max(g.next for g in numbered) - 1)
            found.append((until - position + 1, "by_numbers"))
        elif _by_start(position, last, ours, sent, interrupted_ns):
            until = last
            found.append((until - position + 1, "by_start"))
        elif any(g.last is not None and g.next is None and g.last < position and g.ended_ns is None for g in ours):
            until = last
            found.append((until - position + 1, "open"))
        else:
            until = position
            found.append((1, "unexplained"))
        position = until + 1
    return found


def _by_start(first: int, last: int, ours: Sequence[Told], sent: Sent, interrupted_ns: Sequence[int]) -> bool:
    """Whether a producer ended behind or among these, and the next one says that it does not know what was before."""
    for gap in ours:
        if gap.began_ns is not None or gap.ended_ns is None or sent.at_ns(last) > gap.ended_ns:
            continue
        for ended_ns in interrupted_ns:
            behind_ns = sent.at_ns(last + 1) if last + 1 < sent.end else ended_ns
            if ended_ns - _KILL_WINDOW_NS <= sent.at_ns(first) and behind_ns >= ended_ns and ended_ns <= gap.ended_ns:
                return True
    return False

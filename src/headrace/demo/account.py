"""Accounts for every number that an exchange sent, with a reader that is not ours: DuckDB over files and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import duckdb

from headrace.demo.check import glob_of


@attrs.frozen
class Account:
    """
    What became of a product's trades, which are numbered from 1.

    Attributes:
        product: Its name.

        sent: Trades, by the exchange.

        records: In the lake; some may be there twice, an exchange repeats its last one to whoever comes.

        received: Different numbers among them.

        fetched: Of the records those that came from the exchange's history.

        rows: In the warehouse.

        distinct: Different numbers among them.

        foreign: Rows of numbers that were never sent.

        quarantined: Of all products.

        told: Missing numbers that lie in a gap record.

        claimed: Numbers that gap records say are missing.
    """

    product: str
    sent: int
    records: int
    received: int
    fetched: int
    rows: int
    distinct: int
    foreign: int
    quarantined: int
    told: int
    claimed: int

    @property
    def missing(self) -> int:
        """How many are no rows."""
        return self.sent - self.distinct

    @property
    def problems(self) -> list[str]:
        """What does not add up."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.received != self.rows:
            yield f"{self.received:,} numbers in bronze and {self.rows:,} rows in silver"
        if self.rows != self.distinct:
            yield f"{self.rows - self.distinct:,} rows too many"
        if self.foreign:
            yield f"{self.foreign:,} rows that were never sent"
        if self.quarantined:
            yield f"{self.quarantined:,} in quarantine"
        if self.told != self.missing:
            yield f"{self.missing - self.told:,} numbers are missing and in no gap record"
        if self.claimed != self.missing:
            yield f"{self.missing:,} numbers are missing, and gap records say {self.claimed:,}"


_GAPS = "SELECT symbol, last_sequence AS last, next_sequence AS next, missing FROM gaps_current WHERE missing > 0"


def accounts(lake: Path, database: Path, stream: str, sent: Mapping[str, int]) -> list[Account]:
    """Count by product; *sent* says how many trades of each there were."""
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        columns = "{'value': 'JSON', 'headers': 'JSON'}"
        lines = f"read_json('{glob_of(lake, stream)}', format = 'newline_delimited', columns = {columns})"
        in_lake = {
            product: counts
            for product, *counts in connection.execute(
                "SELECT value->>'product_id', count(*), count(DISTINCT value->>'trade_id'),"
                f" count(*) FILTER (CAST(headers AS VARCHAR) LIKE '%headrace.backfilled%') FROM {lines} GROUP BY 1"
            ).fetchall()
        }
        rows = {
            product: counts
            for product, *counts in connection.execute(
                "SELECT symbol, count(*), count(DISTINCT id) FROM trades_current GROUP BY 1"
            ).fetchall()
        }
        ((quarantined,),) = connection.execute(
            "SELECT (SELECT count(*) FROM trades_quarantine) + (SELECT count(*) FROM gaps_quarantine)"
        ).fetchall()
        claimed = dict(connection.execute(f"SELECT symbol, sum(missing) FROM ({_GAPS}) GROUP BY 1").fetchall())
        found = []
        for product, count in sent.items():
            ((foreign, told),) = connection.execute(
                "SELECT (SELECT count(*) FROM trades_current WHERE symbol = $product AND id NOT BETWEEN 1 AND $count),"
                " (SELECT count(*) FROM range(1, $count + 1) AS t(n)"
                "  WHERE n NOT IN (SELECT id FROM trades_current WHERE symbol = $product)"
                f"  AND EXISTS (FROM ({_GAPS}) AS g WHERE g.symbol = $product AND n > g.last AND n < g.next))",
                {"product": product, "count": count},
            ).fetchall()
            records, received, fetched = in_lake.get(product, (0, 0, 0))
            of_silver, distinct = rows.get(product, (0, 0))
            found.append(
                Account(
                    product=product,
                    sent=count,
                    records=records,
                    received=received,
                    fetched=fetched,
                    rows=of_silver,
                    distinct=distinct,
                    foreign=foreign,
                    quarantined=quarantined,
                    told=told,
                    claimed=int(claimed.get(product, 0)),
                )
            )
    return found

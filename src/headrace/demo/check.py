"""Counts what arrived, with a reader that is not ours: DuckDB over the lake's files and over the warehouse."""

from __future__ import annotations

from pathlib import Path

import attrs
import duckdb

from headrace.demo.feed import Feed

_COLUMNS = (
    "{'offset': 'BIGINT', 'timestamp_ms': 'BIGINT', 'key': 'VARCHAR', 'key_b64': 'VARCHAR', 'value': 'JSON',"
    " 'value_b64': 'VARCHAR'}"
)


@attrs.frozen
class Count:
    """
    What was found of one stream.

    Attributes:
        stream: Its name.

        partition: None: of all of them together.

        published: Records that were published.

        bronze: Lines in the lake.

        distinct: Different places (partition and offset) among them.

        silver: Rows in the warehouse.

        quarantine: Records in its quarantine.

        segments: Objects in the lake.
    """

    stream: str
    partition: int | None
    published: int
    bronze: int
    distinct: int
    silver: int
    quarantine: int
    segments: int

    @property
    def exact(self) -> bool:
        """Whether every record is in bronze once, and once in silver or in quarantine."""
        return self.published == self.bronze == self.distinct == self.silver + self.quarantine


def glob_of(lake: Path, stream: str) -> str:
    """The glob that any reader takes."""
    return f"{lake}/{stream}/partition=*/*.jsonl.gz"


def count_partitions(lake: Path, database: Path, feed: Feed, topic: str, published: dict[int, int]) -> list[Count]:
    """Count one stream by partition; *published* is what the broker holds of its *topic*."""
    with duckdb.connect(str(database), read_only=True) as connection:
        lines = (
            f"read_json('{glob_of(lake, topic)}', format = 'newline_delimited', hive_partitioning = true,"
            f" filename = true, columns = {_COLUMNS})"
        )
        bronze = connection.execute(
            f'SELECT "partition", count(*), count(DISTINCT "offset"), count(DISTINCT filename) FROM {lines} GROUP BY 1'
        ).fetchall()
        silver = dict(connection.execute(f"SELECT _partition, count(*) FROM {feed.stream} GROUP BY 1").fetchall())
        refused = dict(
            connection.execute(f"SELECT _partition, count(*) FROM {feed.stream}_quarantine GROUP BY 1").fetchall()
        )
    found = {int(number): rest for number, *rest in bronze}
    numbers = sorted({*found, *silver, *refused, *(n for n, count in published.items() if count)})
    counts = []
    for n in numbers:
        lines_, distinct, segments = found.get(n, [0, 0, 0])
        counts.append(
            Count(feed.stream, n, published.get(n, 0), lines_, distinct, silver.get(n, 0), refused.get(n, 0), segments)
        )
    return counts


def total(counts: list[Count], feed: Feed) -> Count:
    """Add the partitions up, against what was in the feed."""
    sums = [
        sum(getattr(c, name) for c in counts) for name in ("bronze", "distinct", "silver", "quarantine", "segments")
    ]
    return Count(feed.stream, None, feed.records, *sums)


def differences(lake: Path, feed: Feed, topic: str) -> int:
    """
    Compare contents: each symbol's records in the lake, in their order, with those of the feed, to the byte.

    Records without a key have no order among them: each may go to a partition of its own. They are compared as a set.

    Returns:
        How many are missing, added, changed or out of order.
    """

    def ranked(table: str, content: str, order: str) -> str:
        keyless = f"CASE WHEN key IS NULL THEN {content} END"
        return f"SELECT *, row_number() OVER (PARTITION BY key ORDER BY {keyless}, {order}) AS rank FROM {table}"

    with duckdb.connect() as connection:
        raw = "auto_detect = false, header = false, delim = '\x01', quote = '', escape = '', max_line_size = 4194304"
        connection.execute(
            'CREATE TABLE bronze AS SELECT line, r.key AS key, r.value_b64 AS b64, "partition" AS n, r."offset" AS m FROM'
            ' (SELECT line, "partition", from_json(line, \'{"offset":"BIGINT","key":"VARCHAR","value_b64":"VARCHAR"}\') AS r'
            f" FROM read_csv('{glob_of(lake, topic)}', columns = {{'line': 'VARCHAR'}}, hive_partitioning = true, {raw}))"
        )
        connection.execute("CREATE TABLE feed(n INTEGER, key VARCHAR, value BLOB)")
        lines = feed.path.read_bytes().splitlines()
        connection.execute(
            "INSERT INTO feed SELECT unnest(?), unnest(?), unnest(?)",
            [list(range(len(lines))), [_symbol(line) for line in lines], lines],
        )
        return int(
            connection.execute(
                f"WITH b AS ({ranked('bronze', 'b64', 'n, m')}),"
                f" f AS ({ranked('feed', 'to_base64(value)', 'n')})"
                " SELECT count(*) FROM b FULL JOIN f ON b.key IS NOT DISTINCT FROM f.key AND b.rank = f.rank"
                " WHERE b.line IS NULL OR f.value IS NULL OR CASE WHEN b.b64 IS NULL"
                " THEN NOT ends_with(b.line, '\"value\":' || decode(f.value) || '}') ELSE from_base64(b.b64) <> f.value END"
            ).fetchall()[0][0]
        )


def silver_differences(lake: Path, database: Path, feed: Feed, topic: str) -> int:
    """
    Compare silver with the lake: each record is one row of the same values, or one record in quarantine, and nothing else is.

    Returns:
        How many are missing, added, doubled or changed.
    """
    with duckdb.connect(str(database), read_only=True) as connection:
        columns = connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? AND NOT starts_with(column_name, '_')",
            [feed.stream],
        ).fetchall()
        changed = " OR ".join(
            f"CAST(b.value->>'{name}' AS {kind}) IS DISTINCT FROM s.\"{name}\"" for name, kind in columns
        )
        return int(
            connection.execute(
                f'WITH b AS (SELECT "partition" AS n, "offset" AS m, value FROM read_json(\'{glob_of(lake, topic)}\','
                f" format = 'newline_delimited', hive_partitioning = true, columns = {_COLUMNS})),"
                f" s AS (SELECT *, _partition AS n, _offset AS m FROM {feed.stream}),"
                f" q AS (SELECT _partition AS n, _offset AS m FROM {feed.stream}_quarantine),"
                " places AS (SELECT n, m FROM s UNION ALL SELECT n, m FROM q)"
                " SELECT (SELECT count(*) FROM b FULL JOIN places p USING (n, m) WHERE b.m IS NULL OR p.m IS NULL)"
                " + (SELECT count(*) - count(DISTINCT (n, m)) FROM places)"
                f" + (SELECT count(*) FROM b JOIN s USING (n, m) WHERE {changed})"
            ).fetchall()[0][0]
        )


def _symbol(line: bytes) -> str | None:
    """The key that was published with a line: the symbol, where the line is JSON."""
    if not line.startswith(b'{"symbol":"') or not line.endswith(b"}"):
        return None
    return line[11:].partition(b'"')[0].decode()

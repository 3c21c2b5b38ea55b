"""
Looks at a lake while it is written, as its readers do: ``python reader.py``; the first line of its input says where, as JSON.

One look is DuckDB over the glob, and says how many records and how many different ones it found. It prints a line of JSON each.
"""

from __future__ import annotations

import json
import os
import sys
import time

import duckdb

QUERY = """
SELECT count(*), count(DISTINCT (partition, "offset"))
FROM read_json($glob, format = 'newline_delimited', hive_partitioning = true, maximum_object_size = 33554432,
               columns = {'offset': 'BIGINT', 'timestamp_ms': 'BIGINT', 'partition': 'BIGINT'})
"""


def connected(endpoint: str | None) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 1})
    if endpoint is not None:
        import s3fs  # noqa: PLC0415

        connection.register_filesystem(
            s3fs.S3FileSystem(
                endpoint_url=endpoint,
                key=os.environ["AWS_ACCESS_KEY_ID"],
                secret=os.environ["AWS_SECRET_ACCESS_KEY"],
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        )
    return connection


def main() -> None:
    where = json.loads(sys.stdin.readline())
    connection = connected(where.get("endpoint"))
    while True:
        began_s = time.monotonic()
        try:
            rows, distinct = connection.execute(QUERY, {"glob": where["glob"]}).fetchall()[0]
            look = {"rows": rows, "distinct": distinct}
        except Exception as exc:  # noqa: BLE001 - a server that is down; the next look will tell
            look = {"error": f"{type(exc).__name__}: {exc}"[:300]}
        print(json.dumps({**look, "took_s": round(time.monotonic() - began_s, 3)}), flush=True)
        time.sleep(where.get("every_s", 1.0))


if __name__ == "__main__":
    main()

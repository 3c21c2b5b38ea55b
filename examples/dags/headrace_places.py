"""What the example DAGs share: which streams there are, where lake and warehouses are, how tasks are retried. It holds no DAG."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from headrace.airflow import retry_policy, uri

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

STREAMS: dict[str, str] = json.loads(os.environ.get("HEADRACE_STREAMS", "null")) or {
    "trades": "headrace.demo.contracts:Trade",
    "bars": "headrace.demo.contracts:Bar",
}
"""Streams of the lake, each with its contract; a table has the name of its stream. HEADRACE_STREAMS has others, as JSON."""

LAKE, SOURCE, SILVER = "headrace_lake", "headrace_source", "headrace_silver"
REPORTS, BARS = "headrace_reports", "headrace_bars"
"""
Ids of connections: the lake, the log, the warehouse, the folders of reports and of bars.

The DAGs pass these about, and no URI: a task's arguments are shown in the user interface, and what it returns is kept.
"""

WAREHOUSES = [SILVER]
"""What is loaded and audited; with `[SILVER, "headrace_snowflake"]` every stream goes into both."""

LAKE_GREW = Asset("headrace_lake_grew")
"""Whoever writes the lake may ring this (POST /api/v2/assets/events); nothing is lost where nobody does."""

SILVER_SOUND = Asset("headrace_silver_sound")
"""Rung when silver was loaded and the audit found it complete."""

BARS_SOUND = Asset("headrace_bars_sound")
"""Rung when bars were written and agree with the vendor's."""

RETRIES: dict[str, Any] = {
    # a process that is killed is run again; three times, so that one night of trouble is outlived and not more
    "retries": 3,
    # ten seconds, twenty, forty: what passes soon is not waited for, and a service that comes up again is not run over
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
    # what does not answer may answer later (a load has tried it for ten minutes by itself); data that is wrong stays wrong
    "retry_policy": retry_policy(),
}
"""Defaults of every task."""


def folder(connection_id: str) -> Path:
    """The folder of a connection whose URI is ``file:///…``."""
    from pathlib import Path

    return Path(uri(connection_id).removeprefix("file://"))


@contextmanager
def reading(connection_id: str, wait_s: float = 120.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the DuckDB file of a connection for reading; wait while a loader has it, for it is held a transaction at a time."""
    import time

    import duckdb

    file, until_s = uri(connection_id).removeprefix("duckdb://").partition("?")[0], time.monotonic() + wait_s
    while True:
        try:
            connection = duckdb.connect(file, read_only=True)
        except duckdb.IOException as error:
            if "lock" not in str(error) or time.monotonic() > until_s:
                raise
            time.sleep(0.1)  # DuckDB tells nobody when its file is free; the deadline above bounds the wait
        else:
            break
    with connection:
        yield connection


def sound(stream: str, warehouse: str, *, deep: bool = False, since: str | None = None, source: str = "") -> Any:
    """Audit one stream from the lake to one warehouse; from its log too, if *source* is a connection whose URI has {stream}."""
    from headrace import audit
    from headrace.contract import load_contract

    return audit(
        uri(LAKE),
        uri(warehouse, {"table": stream}),
        source=uri(source).replace("{stream}", stream) if source else "",
        stream=stream,
        contract=load_contract(STREAMS[stream]),
        deep=deep,
        since=since,
    )

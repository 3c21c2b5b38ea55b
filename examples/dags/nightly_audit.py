"""
Reads everything again, byte by byte, and fails on what is wrong: from the log's records to the rows of silver.

By default what is younger than 26 hours is read: a night's run overlaps the one before. `{"since": ""}` reads all there is. The
report of each stream is kept whether it is good or not; the task fails after it was written.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task
from headrace_places import REPORTS, RETRIES, STREAMS, WAREHOUSES, folder, sound

from headrace.airflow import must_be_complete


@dag(
    schedule=CronTriggerTimetable("30 2 * * *", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,  # the night that was missed is read by `since`, once
    max_active_runs=1,  # two of them would read the same
    dagrun_timeout=timedelta(hours=6),  # it ends before the market opens
    default_args=RETRIES,
    params={
        "warehouses": Param(WAREHOUSES, type="array", description="Connections of the warehouses."),
        "source": Param("", type="string", description="Connection of the log; empty: it is not compared with one."),
        "since": Param(None, type=["null", "string"], description="A time with its zone; empty: all."),
    },
    tags=["headrace"],
    doc_md=__doc__,
)
def nightly_audit():
    # It only reads, and needs a core for each: two at once leave the machine to the loads. An attempt that hangs leaves the
    # next one as long as it had itself, before the DAG's own time is over.
    @task(
        max_active_tis_per_dagrun=2,
        execution_timeout=timedelta(hours=2, minutes=45),
        map_index_template="{{ target_name }}",
    )
    def examine(stream: str) -> list[str]:
        """Audit one stream, keep the report, then fail by what it says."""
        import json
        import os

        from headrace.auditing.page import render

        context = get_current_context()
        context["target_name"], params, run = stream, context["params"], context["dag_run"]
        lately = (run.run_after - timedelta(hours=26)).isoformat()
        since = lately if params["since"] is None else params["since"] or None
        results, kept = [], []
        for warehouse in params["warehouses"]:
            result = sound(stream, warehouse, deep=True, since=since, source=params["source"])
            # at each attempt the same name: the last one stays
            report = folder(REPORTS) / stream / warehouse / f"{run.run_after:%Y%m%dT%H%M%S}"
            report.parent.mkdir(parents=True, exist_ok=True)
            for kind, text in {".json": json.dumps(result.document(), indent=1), ".html": render(result)}.items():
                draft = report.with_suffix(f".{os.getpid()}")
                draft.write_text(text, encoding="utf-8")
                draft.replace(report.with_suffix(kind))
            results.append(result)
            kept.append(f"{report}.html")
            print(f"{stream} in {warehouse}: {result.verdict}, {len(result.findings)} findings: {report}")
        must_be_complete(*results)
        return kept

    examine.expand(stream=list(STREAMS))


nightly_audit()

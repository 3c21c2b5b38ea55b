"""
Tries quarantined records again, after their contract was mended. Started by hand; `dry_run` only says what would happen.

Loads may run at the same time, and so may a second attempt: each record is moved once, under the target's lock.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task
from headrace_places import RETRIES, SILVER, STREAMS, sound

from headrace.airflow import must_be_complete, uri


@dag(
    schedule=None,  # a person mends a contract, and then starts this
    max_active_runs=1,  # two would only wait for each other
    dagrun_timeout=timedelta(hours=4),  # all of its tasks once; a person looks on, and starts it again
    default_args=RETRIES,
    params={
        "stream": Param(next(iter(STREAMS)), enum=list(STREAMS)),
        "warehouse": Param(SILVER, type="string", description="Connection of the warehouse."),
        "column": Param(None, type=["null", "string"], description="Only what was refused for this column."),
        "reason": Param(None, type=["null", "string"], description="Only what was refused for this reason."),
        "dry_run": Param(False, type="boolean", description="Only say what the contract says now."),
    },
    tags=["headrace"],
    doc_md=__doc__,
)
def redrive_quarantine():
    def run_of(params):
        """Make the run that these parameters mean."""
        from headrace import Redrive, Registry, Selection
        from headrace.contract import load_contract

        warehouse = uri(params["warehouse"], {"table": params["stream"]})
        loader = Registry.discover().loader(warehouse, load_contract(STREAMS[params["stream"]]))
        selection = Selection(stream=params["stream"], column=params["column"], reason=params["reason"])
        return Redrive(loader=loader, selection=selection)

    @task(execution_timeout=timedelta(hours=1))  # it types what redrive types, and writes nothing
    def forecast() -> list[dict[str, str | int]]:
        """Type every selected record, and say what comes of it; nothing is written."""
        import attrs

        return [attrs.asdict(each) for each in run_of(get_current_context()["params"]).plan()]

    @task.short_circuit(ignore_downstream_trigger_rules=True)  # it looks at a parameter: no time-out is needed
    def wanted() -> bool:
        """End here where it was only asked."""
        return not get_current_context()["params"]["dry_run"]

    @task(execution_timeout=timedelta(hours=2))  # ended or killed, it goes on with what is still in quarantine
    def redrive() -> dict[str, int]:
        """Move what the contract takes now."""
        run = run_of(get_current_context()["params"])
        done = run.run()
        return {"tried": run.progress.tried, "inserted": done.inserted, "superseded": done.superseded}

    @task(execution_timeout=timedelta(minutes=30))  # it counts rows, as the gate of bronze_to_silver does
    def check() -> str:
        """Nothing was lost on the way: records = rows + quarantine + superseded, as before."""
        params = get_current_context()["params"]
        must_be_complete(sound(params["stream"], params["warehouse"]))
        return "complete"

    forecast() >> wanted() >> redrive() >> check()


redrive_quarantine()

"""
Loads what silver lacks of bronze, every five minutes and whenever the lake's asset is rung.

What there is to do is found from the lake's chains and the ledger, never from an event: of events that come in a burst some
reach no run, and a run that is made by the clock carries none. Killed anywhere, run twice at once, late or early: rows,
quarantine and ledger are one transaction, so the next run goes on where the ledger is.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import AssetOrTimeSchedule, CronTriggerTimetable, Param, dag, get_current_context, task
from headrace_places import LAKE, LAKE_GREW, RETRIES, SILVER_SOUND, STREAMS, WAREHOUSES, sound

from headrace.airflow import must_be_complete, uri


@dag(
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("*/5 * * * *", timezone="UTC"), assets=[LAKE_GREW]),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,  # a run loads whatever is lacking: there is nothing to catch up by hand
    max_active_runs=1,  # a second run would find the first one's work and wait for its lock; correct, and of no use
    dagrun_timeout=timedelta(hours=2),  # four attempts at a load; what is cut off, the next run goes on with
    default_args=RETRIES,
    params={"warehouses": Param(WAREHOUSES, type="array", description="Connections of the warehouses to load.")},
    tags=["headrace"],
    doc_md=__doc__,
)
def bronze_to_silver():
    @task(execution_timeout=timedelta(minutes=10))  # a LIST for each partition and a look into the ledger
    def find_work() -> list[dict[str, str]]:
        """Return the targets that lack something, or cannot be asked: a warehouse that is away keeps no other from its load."""
        from headrace import Chain, Line, Partition, Registry, TransientError
        from headrace.contract import load_contract

        registry, lacking = Registry.discover(), []
        store = registry.store(uri(LAKE))
        for warehouse in get_current_context()["params"]["warehouses"]:
            for stream, contract in STREAMS.items():
                chain = Chain.open(store, stream)
                loader = registry.loader(uri(warehouse, {"table": stream}), load_contract(contract))
                lines = [Line(chain.dataset.id, Partition(stream, n), loader.target) for n in chain.partitions()]
                try:
                    positions = loader.positions(lines)
                except TransientError:
                    positions = dict.fromkeys(lines)  # its load tries for ten minutes, and says what is wrong
                loader.close()
                if any(next(chain.objects(line.partition.number, positions[line] or 0), None) for line in lines):
                    lacking.append({"stream": stream, "warehouse": warehouse})
        store.close()
        return lacking

    # DuckDB has one writer, and retries are no queue: of twelve loads at once nine failed, with five retries each still five.
    # Of a warehouse that takes many writers, let as many targets load at once as there are: each has a lock row of its own.
    # What half an hour is not enough for, the next attempt goes on with: each transaction of a load stays.
    @task(max_active_tis_per_dagrun=1, execution_timeout=timedelta(minutes=30), map_index_template="{{ target_name }}")
    def load(target: dict[str, str]) -> dict[str, int]:
        """Load one target; another attempt that is still at work loads something or nothing, and nothing twice."""
        import attrs

        from headrace import Chain, Load, Registry
        from headrace.contract import load_contract

        stream, warehouse = target["stream"], target["warehouse"]
        get_current_context()["target_name"] = f"{stream} into {warehouse}"
        registry = Registry.discover()
        store = registry.store(uri(LAKE))
        loader = registry.loader(uri(warehouse, {"table": stream}), load_contract(STREAMS[stream]))
        done = Load(chain=Chain.open(store, stream), loader=loader).run()
        store.close()
        return {name: n for name, n in attrs.asdict(done).items() if isinstance(n, int)}

    # none_failed: where nothing was lacking, load is skipped, and silver is looked at all the same. It counts rows and reads no
    # object, so half an hour is for a warehouse that was asleep.
    @task(trigger_rule="none_failed", execution_timeout=timedelta(minutes=30), map_index_template="{{ target_name }}")
    def check(stream: str) -> str:
        """Let nobody read on before chain, ledger and rows agree."""
        context = get_current_context()
        context["target_name"] = stream
        must_be_complete(*[sound(stream, warehouse) for warehouse in context["params"]["warehouses"]])
        return "complete"

    # One task rings, when all is done: of the events of a mapped task five of six reached no run. It rings after every run,
    # because a run that dies between a load and this task is followed by one that finds nothing to do. It writes one event.
    @task(outlets=[SILVER_SOUND], execution_timeout=timedelta(minutes=1))
    def publish() -> None:
        """Say that silver is sound."""
        loaded = get_current_context()["ti"].xcom_pull(task_ids="load") or []
        loaded = [loaded] if isinstance(loaded, dict) else loaded  # of a single target Airflow makes no list
        records = sum(done["records"] for done in loaded if done)
        get_current_context()["outlet_events"][SILVER_SOUND].extra = {"records": records}

    load.expand(target=find_work()) >> check.expand(stream=list(STREAMS)) >> publish()


bronze_to_silver()

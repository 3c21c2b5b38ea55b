"""The example DAGs: they import, parse fast, run to their end, and fail where they should."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import duckdb
import pytest
from standalone import DAGS

from headrace import Chain, Load, Registry
from headrace.contract import load_contract
from headrace.demo.contracts import Bar, Trade

NAMES = ("bars", "bronze_to_silver", "nightly_audit", "redrive_quarantine")
RECORDS = 24_293


def run(bag, name, **conf):
    """Run a DAG in this process; return its run and the states of its tasks."""
    done = bag.dags[name].test(run_conf=conf)  # it never raises for a task that failed
    states = {}
    for instance in done.get_task_instances():
        states.setdefault(instance.task_id, set()).add(instance.state)
    return done.state, states


def test_imports(bag):
    """Every file is read without an error, and is the DAG that its name says."""
    assert bag.import_errors == {}
    assert sorted(NAMES) == sorted(bag.dags)


@pytest.mark.parametrize("name", NAMES)
def test_limits(bag, name):
    """Every DAG catches up on nothing and has an end; every task has a time-out and retries."""
    dag = bag.dags[name]
    assert (False, 1) == (dag.catchup, dag.max_active_runs)
    assert dag.dagrun_timeout
    assert all(task.retries == 3 and task.retry_policy for task in dag.tasks)
    assert all(task.execution_timeout for task in dag.tasks if task.task_id != "wanted")
    assert {"default_pool"} == {task.pool for task in dag.tasks}  # any other one must be made by somebody
    assert not any(getattr(task, "deferrable", False) for task in dag.tasks)  # so no triggerer is needed


def test_parse_time():
    """Each file is parsed in less than 0.3 s, beyond what Airflow's own import takes, and imports no client library."""
    program = (
        "import sys, time; import airflow.sdk; from airflow.sdk import Asset, dag, task; import pendulum\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    began = time.process_time(); __import__(name); print(time.process_time() - began)\n"
        "print(*{'duckdb', 'snowflake', 'pyarrow', 's3fs', 'confluent_kafka', 'pandas'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, str(DAGS), *NAMES]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    *took_s, imported = found.stdout.splitlines()[-len(NAMES) - 1 :]
    assert max(map(float, took_s)) < 0.3, took_s
    assert imported == ""


def test_bronze_to_silver_to_bars(bag, deployment):
    """A day of trades arrives, once, and no new bars; the second run finds nothing; the bars of the day are the vendor's."""
    deployment.stream()
    registry = Registry.discover()
    chain = Chain.open(registry.store(f"file://{deployment.folder}/lake"), "bars")
    Load(chain=chain, loader=registry.loader(f"duckdb://{deployment.silver}?table=bars", Bar)).run()
    state, states = run(bag, "bronze_to_silver")
    assert state == "success", states
    assert states == {task: {"success"} for task in ("find_work", "load", "check", "publish")}
    assert deployment.count("SELECT count(*) FROM trades") == RECORDS

    state, states = run(bag, "bronze_to_silver")
    assert (state, states["load"], states["check"]) == ("success", {"skipped"}, {"success"})
    assert deployment.count("SELECT count(*) FROM trades") == RECORDS

    folder = deployment.folder / "files"
    state, states = run(bag, "bars")
    assert (state, states["check"]) == ("success", {"success"})
    assert ["2013-10-07.parquet"] == sorted(p.name for p in folder.iterdir() if p.is_file())
    of_file = "SELECT sum(trades)::BIGINT FROM '{}'".format(folder / "2013-10-07.parquet")
    assert deployment.count(of_file) == deployment.count("SELECT sum(trades)::BIGINT FROM trades_ohlcv_1m")
    assert run(bag, "bars")[1]["write"] == {"skipped"}

    with duckdb.connect(str(deployment.silver)) as silver:  # one trade too few: another volume than the vendor's
        silver.execute("DELETE FROM trades WHERE _offset = 12000")
    right = deployment.count(of_file)
    for _ in range(2):  # the second run finds the same, and says nothing better of it
        state, states = run(bag, "bars")
        assert (state, states["check"], states["publish"]) == ("failed", {"failed"}, {"upstream_failed"})
    assert ["2013-10-07.parquet"] == sorted(p.name for p in folder.iterdir() if p.is_file())
    assert right == deployment.count(of_file)

    state, states = run(bag, "bronze_to_silver")  # and the gate is shut, for chain, ledger and rows no longer agree
    assert (state, states["check"], states["publish"]) == ("failed", {"success", "failed"}, {"upstream_failed"})

    reports = deployment.folder / "reports"
    state, _ = run(bag, "nightly_audit", since="")
    found = {p.parts[-3]: json.loads(p.read_text())["verdict"] for p in reports.rglob("*.json")}
    assert (state, found) == ("failed", {"trades": "incomplete", "bars": "complete"})


def test_a_warehouse_that_is_away(bag, deployment, monkeypatch):
    """Who cannot be asked what it lacks is loaded all the same: it keeps no other from its load, and comes back in time."""
    deployment.stream(2_000)
    uri = f"duckdb://{deployment.silver}?lock_timeout_s=0.2"
    monkeypatch.setenv("AIRFLOW_CONN_HEADRACE_SILVER", json.dumps({"conn_type": "generic", "extra": {"uri": uri}}))
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(deployment.silver)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        run_load = Load.run

        def let_go_first(self):
            holder.stdin.close()
            holder.wait(30)
            return run_load(self)

        monkeypatch.setattr(Load, "run", let_go_first)
        done = bag.dags["bronze_to_silver"].test()
    tries = {(i.task_id, i.map_index): (i.state, i.try_number) for i in done.get_task_instances()}
    assert (done.state, tries["find_work", -1]) == ("success", ("success", 1))
    assert ("success", 1) == tries["load", 0] == tries["load", 1]
    assert deployment.count("SELECT count(*) FROM trades") == 2_000


def test_redrive(bag, deployment):
    """What a contract refused stays in quarantine, is looked at, and becomes rows once the contract takes it."""
    deployment.stream(2_000)
    refusing = "examples_refusing:Trade"
    (deployment.folder / "examples_refusing.py").write_text(
        "from decimal import Decimal\nfrom headrace.contract import column, contract\nfrom headrace.demo import contracts\n\n\n"
        "@contract(version=1)\nclass Trade(contracts.Trade):\n    price: Decimal = column(precision=18, scale=6, maximum=182)\n"
    )
    sys.path.insert(0, str(deployment.folder))
    try:
        registry = Registry.discover()
        loader = registry.loader(f"duckdb://{deployment.silver}?table=trades", load_contract(refusing))
        chain = Chain.open(registry.store(f"file://{deployment.folder}/lake"), "trades")
        done = Load(chain=chain, loader=loader, max_rejected=1.0).run()
    finally:
        sys.path.remove(str(deployment.folder))
    assert done.rejected > 100

    state, states = run(bag, "redrive_quarantine", dry_run=True)
    assert (state, states["redrive"]) == ("success", {"skipped"})
    assert deployment.count("SELECT count(*) FROM trades") == 2_000 - done.rejected
    state, states = run(bag, "redrive_quarantine", column="price", dry_run=False)  # dag.test keeps what was said before
    assert (state, states["redrive"], states["check"]) == ("success", {"success"}, {"success"})
    assert deployment.count("SELECT count(*) FROM trades") == 2_000
    assert registry.loader(f"duckdb://{deployment.silver}?table=trades", Trade)


def test_external_python(bag, deployment):
    """A task in an environment of its own, as the page on Airflow has it, loads as well."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db

    page = (DAGS.parents[1] / "docs" / "pages" / "airflow.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"(?s)```python\n(from airflow.sdk import task\n.*?)```", page)
    lake, silver = f"file://{deployment.folder}/lake", f"duckdb://{deployment.silver}?table=trades"
    call = f"    load('trades', {lake!r}, {silver!r}, 'headrace.demo.contracts:Trade')"
    text = f"{block}\n\n@dag(schedule=None)\ndef external():\n{call}\n\n\nexternal()\n"
    file = deployment.folder / "external_dag.py"
    file.write_text(f"from airflow.sdk import dag\n{text}".replace("/opt/headrace/bin/python", sys.executable))
    deployment.stream(2_000)
    external = type(bag)(dag_folder=str(file))
    assert external.import_errors == {}
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(external, "dags-folder", None)  # it lies outside of the folder that Airflow looks into
    assert run(external, "external") == ("success", {"load": {"success"}})
    assert deployment.count("SELECT count(*) FROM trades") == 2_000

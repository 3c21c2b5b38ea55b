"""
The Dockerfile and the services of docker-compose.yml, run without Docker: the same steps in a clean folder, the same commands.

What a container would add is not here: the base image, a network of its own, a root that nobody can write to (the user that runs
here has no right to write there, which is as good), limits of memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from project import ROOT, composed
from steps import Image, Stage
from world import World, open_folder, started, trades, until

from headrace.testing.servers.exchange import CoinbaseExchange

TRADES = 1_000
MEGABYTES = 300
"""What the image may have besides its base; docs/pages/compose.md has what it is."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    return Image(ROOT, folder / "image", {"REVISION": "0123abc"}, rehearsed={"airflow-installed"})


@pytest.fixture(scope="module")
def building(image: Image) -> Iterator[Future[list[Stage]]]:
    """Airflow's image and headrace's, made while servers start."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(image.build, "airflow", "headrace")


@pytest.fixture(scope="module")
def stage(building: Future[list[Stage]]) -> Stage:
    return building.result()[1]


@pytest.fixture(scope="module")
def exchange() -> Iterator[CoinbaseExchange]:
    with CoinbaseExchange() as running:
        yield running


@pytest.fixture(scope="module")
def world(folder: Path, image: Image, building: Future[list[Stage]], exchange: CoinbaseExchange) -> Iterator[World]:
    feed = f"coinbase://BTC-USD,ETH-USD?address={exchange.address}&heartbeat_s=900"
    with started(folder, image, {"FEED": feed, "FLUSH_AGE": "1h"}, lambda: building.result()[1]) as made:
        yield made


def tree(root: Path) -> set[tuple[str, int]]:
    """All files of the image but those of its one volume, with their times."""
    return {
        (str(path), path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_relative_to(root / "srv") and not path.is_dir()
    }


def test_the_pipeline_runs_and_stops_well(world: World, exchange: CoinbaseExchange):
    """
    Feed, bronze and silver are started at once, and are ready. Bronze holds a thousand trades, of which the lake has none; told
    to stop, it puts all into the lake in its grace period, and they come into the table. Killed instead, it puts nothing there:
    that is what the signal is good for. Started again it brings what was lost with it. The audit finds log, lake and table
    complete while the table is loaded, all end well, and nothing but the volume was written to.
    """
    before = tree(world.image.root)
    feed, bronze, silver, audit = map(world.service, ("feed", "bronze", "silver", "audit"))

    def held(records: int, behind: float) -> float:
        """Wait until the feed has published so many trades and bronze has read all that is not in the lake; return how many."""

        def read() -> bool:
            published = feed.metric("headrace_records_stored_total")
            matches = feed.metric("headrace_records_stored_total", stream="coinbase.trades")
            return matches == records and bronze.metric("headrace_records_read_total") == published - behind > 0

        until(read, "bronze holds all that was published")
        return feed.metric("headrace_records_stored_total")

    with feed, bronze, silver, audit:
        for each in (feed, bronze, silver):
            each.start()
        exchange.wait_for_clients()
        until(exchange.subscribed, "the feed is followed")
        exchange.publish(*trades(range(1, TRADES // 2 + 1)))
        published = held(TRADES, behind=0)
        assert feed.healthy()
        assert bronze.healthy()
        assert world.segments() == 0
        assert bronze.stop() == 0
        assert not bronze.healthy()
        assert world.segments() > 0
        until(lambda: silver.metric("headrace_load_rows_total") == TRADES, "the trades are in the table")
        until(lambda: world.rows() == TRADES, "the table is to be read")
        assert silver.healthy()

        bronze.start()
        exchange.publish(*trades(range(TRADES // 2 + 1, TRADES + 1)))
        held(2 * TRADES, behind=published)
        shown, ready = bronze.told()
        assert shown.splitlines()[1].startswith("coinbase.trades\t"), shown
        assert ready.strip() == "ok"
        there = world.segments()
        bronze.kill()
        assert world.segments() == there
        bronze.start()
        held(2 * TRADES, behind=published)
        assert [0, 0] == [each.stop() for each in (feed, bronze)]
        until(lambda: silver.metric("headrace_load_rows_total") == 2 * TRADES, "the others are in the table, too")
        code, told = audit.once()
        assert code == 0, told
        assert silver.stop() == 0
        assert world.rows() == 2 * TRADES
        (table,) = silver.told()
        assert re.findall(r"-USD\s*│\s*(\d+)", table) == [str(TRADES)] * 2, table
    assert before == tree(world.image.root)
    secret = world.minio.secret_key
    assert not [log.name for log in world.image.folder.glob("*.log") if secret in log.read_text()]


def test_the_image_has_what_was_asked_for(image: Image, stage: Stage):
    """
    A user with a number, a signal, labels; besides the base one environment, ready to run, and three empty folders that are the
    user's: nothing of the builder, no installer, no compiler, no cache.
    """
    assert ("10001:10001", "SIGTERM", ["headrace"]) == (stage.user, stage.stop_signal, stage.entrypoint)
    assert "0123abc" == stage.labels["org.opencontainers.image.revision"]
    assert {"etc/passwd", "etc/group"} == files_beside_the_environment(image.root)
    assert not (image.root / "build").exists()
    programs = {path.name for path in (image.root / "opt/headrace/bin").iterdir()}
    assert "headrace" in programs
    assert not {name for name in programs if re.match(r"pip|uv|hatch|cc$|gcc|g\+\+|cargo|rustc|make$", name)}
    modules = image.root.glob("opt/headrace/lib/python*/site-packages/headrace/*.py")
    uncompiled = [path.name for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))]
    assert not uncompiled, "nobody may write there later"
    size = sum(path.lstat().st_size for path in (image.root / "opt/headrace").rglob("*")) / 1e6
    print(f"{size:.0f} MB besides the base")
    assert size < MEGABYTES


def files_beside_the_environment(root: Path) -> set[str]:
    """The others, from the root; but for those that the services of the pipeline left in their volume."""
    apart = [root / "opt/headrace", root / "srv/headrace"]
    found = (path for path in root.rglob("*") if not any(path.is_relative_to(folder) for folder in apart))
    return {str(path.relative_to(root)) for path in found if not path.is_dir()}


def test_the_image_of_airflow_would_be_its_lock(image: Image, building: Future[list[Stage]]):
    """
    Every package that its lock names is there for this Python as a wheel, and fits: with headrace it is all that would be
    installed. The DAGs are in the folder that it is told of, and it runs as the same user.
    """
    airflow, headrace = building.result()
    assert ("10001:10001", ["airflow"], ["standalone"]) == (airflow.user, airflow.entrypoint, airflow.command)
    told = image.stages["airflow-installed"].told
    would = dict(re.findall(r"(?m)^ \+ ([\w.-]+)==(\S+)", told))
    lock = (ROOT / "docker/airflow.lock").read_text(encoding="utf-8")
    named = dict(re.findall(r"(?m)^([\w.-]+)==([^ ;\n]+)", lock))
    always = dict(re.findall(r"(?m)^([\w.-]+)==(\S+) \\$", lock))
    assert f"/headrace-{headrace.labels['org.opencontainers.image.version']}-py3-none-any.whl" in told
    assert len(always) > 100
    assert always.items() <= would.items() <= named.items()
    dags = airflow.root / airflow.environment["AIRFLOW__CORE__DAGS_FOLDER"].lstrip("/")
    assert {path.name for path in (ROOT / "examples/dags").glob("*.py")} == {path.name for path in dags.iterdir()}
    assert {"etc/passwd", "etc/group"} == {
        name for name in files_beside_the_environment(airflow.root) if not name.startswith("opt/dags/")
    }


def test_compose_reads_the_file(tmp_path: Path):
    """As `docker compose config` does: with .env, every profile, references checked; without a secret it says which."""
    services = composed(tmp_path / "with", {})
    assert {"feed", "bronze", "silver", "audit", "airflow"} < set(services)
    extra = json.loads(services["airflow"]["environment"]["AIRFLOW_CONN_HEADRACE_LAKE"])["extra"]
    assert extra["uri"] == services["bronze"]["command"][2]
    with pytest.raises(AssertionError, match=r"AIRFLOW_SECRET is missing a value: put it into \.env"):
        composed(tmp_path / "without", {"AIRFLOW_SECRET": ""})

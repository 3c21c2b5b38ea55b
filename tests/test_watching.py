"""`/live`, `/ready` and `/metrics`: every number is the truth, and who is asked is not held up."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import attrs
import duckdb
import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from headrace.chain import Chain
from headrace.contract import contract
from headrace.errors import ConfigError, MissingExtraError, SinkUnavailableError
from headrace.flush import FlushPolicy
from headrace.layout import parse_segment
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Partition
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource
from headrace.testing.store import MemoryStore
from headrace.watching.health import Health
from headrace.watching.meters import Meters
from headrace.watching.serving import Serving, parse_place
from headrace.watching.watching import Watching

HEADRACE = shutil.which("headrace", path=str(Path(sys.executable).parent)) or ""
RECORDS = 60


@contract(version=1)
class Tick:
    n: int


@attrs.define(kw_only=True, eq=False)
class CountingStore(MemoryStore):
    """Keeps its own count, and fails or lets a rival be first where it is told to."""

    asked: Counter = attrs.field(factory=Counter)
    faults: list[str] = attrs.field(factory=list)

    def create(self, key, body, metadata):
        self.asked["create"] += 1
        segment = parse_segment(key.rpartition("/")[2]) is not None
        if segment and self.faults:
            if self.faults.pop() == "silent":
                raise SinkUnavailableError("no answer")
            MemoryStore.create(self, key, body, metadata)  # a rival's, of the same bytes
        return MemoryStore.create(self, key, body, metadata)

    def list(self, prefix, after=""):
        self.asked["list"] += 1
        return MemoryStore.list(self, prefix, after)

    def read(self, key, start=0, end=None):
        self.asked["read"] += 1
        return MemoryStore.read(self, key, start, end)


class EndingSource(MemorySource):
    """Says where the log ends, as Kafka's does."""

    def ends(self):
        return {p: extent.end for p, extent in self.log.extents().items()}


def watching(**more) -> Watching:
    return Watching(**{"place": "0", "run": "r1", "command": "stream", "stall_s": 60.0} | more)


def get(port: int, path: str, accept: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(port: int) -> dict[str, float]:
    """By name and labels, as prometheus-client's own parser reads it."""
    status, text = get(port, "/metrics")
    assert 200 == status
    lint(text)
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


UNITS = ("seconds", "bytes", "records", "total", "info", "assigned", "stopped", "connected")


def lint(text: str) -> None:
    """What promtool's check holds against a page, and few series: no label that grows with the data."""
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("headrace_") or family.name.endswith("_created"):
            continue  # when a counter began is the client's own
        whole = f"{family.name}_total" if family.type == "counter" else family.name
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
        assert family.documentation.endswith("."), family.name
        assert whole.endswith(UNITS), f"{whole} has no unit"
        assert family.type != "unknown"
        for sample in family.samples:
            allowed = {"stream", "partition", "outcome", "operation", "of", "kind", "stage", "target", "feed"}
            assert set(sample.labels) - {"le"} <= allowed | ({"run", "command"} if "run_info" in sample.name else set())


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog(partitions=2)
    for n in range(RECORDS):
        made.produce(b'{"n":%d}' % n, partition=n % 2)
    return made


def test_every_number_of_a_run(log: MemoryLog):
    """After a run with a refusal and a store that was silent once each number is what the lake and the store say."""
    store, watch = CountingStore(faults=["rival", "silent"]), watching()
    source = EndingSource(log=log, hints={}, idle=lambda _: None, chunk=7)
    pipeline = Pipeline(
        source=watch.source(source),
        sink=watch.sink(LakeSink(store=store)),
        until_end=True,
        flush=FlushPolicy(records=10),
        observe=lambda _: None,
        memory_bytes=8 << 20,
    )
    watch.pipeline(pipeline)
    with watch:
        assert (503, "nothing was assigned to it yet\n") == get(watch.port, "/ready")
        pipeline.run()
        asked, found = store.asked.copy(), scrape(watch.port)
        _, text = get(watch.port, "/metrics", "application/openmetrics-text; version=1.0.0")
        assert list(open_families(text))
        assert (200, "ok\n") == get(watch.port, "/live")
        assert (200, "ok\n") == get(watch.port, "/ready")
        assert 404 == get(watch.port, "/")[0]
    bodies = {k: len(b) for k, b in store.objects.items() if parse_segment(k.rpartition("/")[2])}
    ours = len(bodies) - 1  # one of them is the rival's
    stored = sum(s.trailer.records for n in (0, 1) for s in Chain.open(store, "log").walk(n))
    truth = {
        "headrace_segment_size_bytes_count": ours,
        "headrace_segments_stored_total{stream=log}": ours,
        "headrace_put_duration_seconds_count{outcome=stored}": ours,
        "headrace_put_duration_seconds_count{outcome=refused}": 1,
        "headrace_put_duration_seconds_count{outcome=unavailable}": 1,
        "headrace_commit_duration_seconds_count{outcome=stored}": ours,
        "headrace_refusals_total": 1,
        "headrace_failures_total{of=commit}": 1,
        "headrace_records_read_total": pipeline.progress.records,
        "headrace_records_stored_total{stream=log}": pipeline.progress.stored_records,
        "headrace_read_bytes_total": pipeline.progress.nbytes,
        "headrace_memory_limit_bytes": 8 << 20,
        "headrace_memory_held_bytes": 0,
        "headrace_oldest_unflushed_age_seconds": 0,
        "headrace_partitions_assigned": 2,
        "headrace_partitions_stopped": 0,
        "headrace_rebalances_total{kind=assigned}": 1,
        "headrace_freshness_seconds_count{stage=bronze}": ours,
        "headrace_run_info{command=stream,run=r1}": 1,
        **{f"headrace_store_requests_total{{operation={what}}}": asked[what] for what in ("create", "list", "read")},
        **{f"headrace_lag_{what}{{partition={n},stream=log}}": 0 for n in (0, 1) for what in ("records", "seconds")},
    }
    assert truth == {name: found[name] for name in truth}
    assert (RECORDS, 6) == (stored, len(bodies))
    sizes = sorted(bodies.values())
    assert sum(sizes[1:]) - sizes[-1] <= found["headrace_segment_size_bytes_sum"] <= sum(sizes)
    for number in (0, 1):
        newest = [s.trailer.max_ms for s in Chain.open(store, "log").walk(number)][-1]
        assert newest / 1000 == found[f"headrace_bronze_newest_timestamp_seconds{{partition={number},stream=log}}"]


def test_every_number_of_a_load(log: MemoryLog, tmp_path: Path):
    """A load's numbers are those of its tables, and its freshness is counted for each segment."""
    log.produce(b'{"n":"no number"}')
    store = CountingStore()
    sink, source = LakeSink(store=store), MemorySource(log=log, hints={}, idle=lambda _: None)
    Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=10)).run()
    store.asked.clear()
    loader = DuckDBLoader(database=tmp_path / "w.duckdb", target="ticks", contract=Tick)
    run = Load(chain=Chain.open(store, "log"), loader=loader)
    store.asked.clear()
    with watching(command="load") as watch:
        watch.load(run)
        run.run()
        found = scrape(watch.port)
        assert (200, "ok\n") == get(watch.port, "/ready")
    with duckdb.connect(str(tmp_path / "w.duckdb")) as db:
        ledger = db.execute(
            "SELECT sum(records), sum(inserted), sum(rejected), count(*) FROM headrace_ledger"
        ).fetchone()
    names = ("records", "rows", "quarantined", "segments")
    assert ledger == tuple(found[f"headrace_load_{name}_total{{target=ticks}}"] for name in names)
    assert (RECORDS + 1, RECORDS, 1, 7) == ledger
    assert 7 == found["headrace_freshness_seconds_count{stage=silver}"]
    assert run.progress.transactions == found["headrace_load_duration_seconds_count{outcome=loaded}"]
    assert store.asked["read"] == found["headrace_store_requests_total{operation=read}"]


def test_rebalances(log: MemoryLog):
    """Partitions that come and go are counted, and those that are another's have no numbers any more."""
    watch, source = watching(), EndingSource(log=log, hints={}, idle=lambda _: None)
    pipeline = Pipeline(
        source=watch.source(source), sink=watch.sink(LakeSink(store=MemoryStore())), flush=FlushPolicy(records=5)
    )
    watch.pipeline(pipeline)
    with watch:
        pipeline.step()
        source.take_away([Partition("log", 0)])
        pipeline.step()
        source.lose([Partition("log", 1)])
        pipeline.step()
        found = scrape(watch.port)
        assert 0 == found["headrace_partitions_assigned"]
        assert [1, 1, 1] == [found[f"headrace_rebalances_total{{kind={k}}}"] for k in ("assigned", "released", "lost")]
        assert not [name for name in found if name.startswith("headrace_bronze_newest")]
        pipeline.stop()
        pipeline.run()


def test_a_loop_that_stands_still():
    """It is not alive after the bound, and is again when it turns; one that turns, or asks what is silent, always was."""
    now = [0.0]
    health = Health(30.0, clock=lambda: now[0])
    turning = Health(30.0, clock=lambda: now[0])
    with Serving("0", health, Meters("r", "c")) as stalled, Serving("0", turning, Meters("r", "c")) as other:
        now[0] = 29.0
        assert 200 == get(stalled.port, "/live")[0]
        turning.beat()
        now[0] = 31.0
        code, why = get(stalled.port, "/live")
        assert (503, "no sign of life for 31 s, expected one in 30 s: end it, nothing is lost\n") == (code, why)
        assert 503 == get(stalled.port, "/ready")[0]
        assert 200 == get(other.port, "/live")[0]
        health.beat()
        assert 200 == get(stalled.port, "/live")[0]


def test_a_pipeline_that_hangs_in_a_poll(log: MemoryLog):
    """A source that never returns stops the beats, whatever commits do meanwhile, and the age of what is held goes on."""
    now, inside, go_on = [0.0], threading.Event(), threading.Event()

    class Hanging(EndingSource):
        def idle_(self, _):
            inside.set()
            assert go_on.wait(20)

    watch = watching(stall_s=10.0)
    watch.health = Health(10.0, clock=lambda: now[0])
    source = Hanging(log=log, hints={})
    source.idle = source.idle_
    pipeline = Pipeline(
        source=watch.source(source),
        sink=watch.sink(LakeSink(store=MemoryStore())),
        observe=lambda _: None,
        observe_every_s=0,
    )
    watch.pipeline(pipeline)
    with watch:
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        assert inside.wait(20)
        assert 200 == get(watch.port, "/live")[0]
        now[0] = 11.0
        assert 503 == get(watch.port, "/live")[0]
        assert 11.0 <= scrape(watch.port)["headrace_oldest_unflushed_age_seconds"] < 20.0
        pipeline.stop()
        go_on.set()
        thread.join(20)
        assert 200 == get(watch.port, "/live")[0]  # it turned once more, and ended


def test_readiness():
    """Whoever does not answer is named until it does; a silence alone is no reason to be ended."""
    health = Health(60.0)
    health.begun = True
    assert "" == health.not_ready()
    health.failed("sink", SinkUnavailableError("secret"))
    assert "the sink does not answer (SinkUnavailableError)" == health.not_ready()
    assert "" == health.not_alive()
    health.answered("sink")
    assert "" == health.not_ready()


def test_readiness_of_what_connects_by_itself():
    """A source that connects on its own says itself whether it is answered, once it has its work; a poll's error goes first."""
    said = ["HTTP 503"]

    class Feed(MemorySource):
        def unanswered(self):
            return said[0]

    watch = watching()
    watch.source(Feed(log=MemoryLog(partitions=1)))
    assert "nothing was assigned to it yet" == watch.health.not_ready()
    watch.health.begun = True
    assert "the source does not answer (HTTP 503)" == watch.health.not_ready()
    watch.health.failed("source", SinkUnavailableError("x"))
    assert "the source does not answer (SinkUnavailableError)" == watch.health.not_ready()
    watch.health.answered("source")
    said[0] = ""
    assert "" == watch.health.not_ready()


def test_port_in_use():
    """A port that somebody has is told at once, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = str(other.getsockname()[1])
        with pytest.raises(
            ConfigError, match=f"--serve {place}: cannot listen on 127.0.0.1:{place}: .*port of its own"
        ):
            Serving(place, Health(1.0), Meters("r", "c"))


@pytest.mark.parametrize(
    ("expected", "place"), [(("127.0.0.1", 9464), "9464"), (("0.0.0.0", 1), "0.0.0.0:1"), (("::1", 0), "[::1]:0")]
)
def test_place(expected, place):
    """Loopback unless a host is given."""
    assert expected == parse_place(place)


@pytest.mark.parametrize("place", ["", "x", "host:", "70000", "-1", "1:2:"])
def test_wrong_place(place):
    """What is no place says what one looks like."""
    with pytest.raises(ConfigError, match="expected PORT or HOST:PORT"):
        parse_place(place)


def test_without_the_extra(monkeypatch):
    """Without prometheus-client a run is as it was; asked for numbers it says what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    source = MemorySource(log=MemoryLog(partitions=1))
    assert source is watching(place="").source(source)
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[metrics\]'"):
        watching()


def test_sigterm_while_being_scraped(tmp_path: Path):
    """A process that is asked all the time ends well at SIGTERM; every whole answer is one that can be read."""
    (tmp_path / "t.jsonl").write_text('{"n":1}\n' * 50)
    command = [HEADRACE, "stream", f"jsonl://{tmp_path}/t.jsonl?follow=true", f"file://{tmp_path}/lake"]
    with subprocess.Popen(
        [*command, "--serve", "0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        port = next(json.loads(line)["port"] for line in run.stderr if '"serving"' in line)
        answers: list[str] = []
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                try:
                    answers.append(get(port, "/metrics")[1])
                except OSError:
                    ended.wait(0.05)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        until_s = time.monotonic() + 30
        while not any("headrace_records_read_total 50.0" in answer for answer in answers[-3:]):
            assert time.monotonic() < until_s, answers[-1:]
            ended.wait(0.02)
        run.send_signal(signal.SIGTERM)
        run.stderr.read()
        code = run.wait(30)
        ended.set()
        for asker in askers:
            asker.join(20)
    assert 0 == code
    for answer in answers[-3:]:
        assert list(text_string_to_metric_families(answer))


def test_names_of_the_client():
    """What is registered twice would be a fault of ours: the client refuses it."""
    meters = Meters("r", "c")
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus_client.Counter("headrace_refusals", "Again.", registry=meters.registry)

"""What the Kafka source does when its brokers are away."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from headrace.errors import SourceUnavailableError
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.kafka.source import KafkaSource
from headrace.plugins.lake.sink import LakeSink
from headrace.testing.store import MemoryStore

BROKER = "from headrace.demo.broker import embedded_broker\nwith embedded_broker() as b: print(b, flush=True); input()"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        yield


@contextmanager
def broker() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A broker in a process of its own, so that it can be killed."""
    command = [sys.executable, "-c", BROKER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()
            child.wait()


def source(bootstrap: str, **settings: object) -> KafkaSource:
    settings = {"topic_id": "off", "group_protocol": "classic", "request_timeout_s": 2.0, **settings}
    return KafkaSource(bootstrap=bootstrap, topics=("t",), group="g", **settings)


def test_leaving_without_a_broker_is_bounded():
    """A run that is told to stop ends soon, whatever the client library waits for: service managers kill after 30 s."""
    store = MemoryStore()
    with broker() as (child, bootstrap):
        producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
        for _ in range(20):
            producer.produce("t", b"{}")
        assert 0 == producer.flush(10)
        run = Pipeline(
            source=source(bootstrap), sink=LakeSink(store=store), flush=FlushPolicy(age_s=0.2), release_timeout_s=2.0
        )
        thread = threading.Thread(target=run.run)
        thread.start()
        deadline = time.monotonic() + 30
        while run.progress.stored_records < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        child.kill()
        child.wait()
        began = time.monotonic()
        run.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert time.monotonic() - began < 20
    assert 20 == run.progress.stored_records


def test_a_broker_that_is_not_there():
    """It is asked again for as long as was said, and named in the error."""
    run = Pipeline(
        source=source("127.0.0.1:9", request_timeout_s=0.3), sink=LakeSink(store=MemoryStore()), retry_for_s=1.5
    )
    began = time.monotonic()
    with pytest.raises(SourceUnavailableError, match=r"127\.0\.0\.1:9"):
        run.run()
    assert 1.5 <= time.monotonic() - began < 30

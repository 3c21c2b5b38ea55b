"""What a stream takes of memory: measured in a process of its own, with one partition and with a thousand."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import textwrap

import pytest

from headrace.testing.servers.topics import Topics

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

MEMORY_BYTES = 32 << 20
ITSELF_BYTES = 64 << 20
"""What the client, its threads and a thousand partitions take, whatever `memory_bytes` is."""

RECORD_BYTES = 1000
RECORDS = 60_000

STREAM = """
    import json, sys, threading, time
    import attrs
    from headrace.flush import FlushPolicy
    from headrace.pipeline import Pipeline
    from headrace.plugins.kafka.source import KafkaSource
    from headrace.plugins.lake.sink import LakeSink
    from headrace.testing.store import MemoryStore

    def rss(name):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))

    class Slow(MemoryStore):  # keeps nothing, and takes its time
        def create(self, key, body, metadata):
            if key.endswith(".gz") and not gate.is_set():
                gate.wait(60)
            return super().create(key, body if "_headrace" in key else body[-4096:], metadata)

    bootstrap, topic, memory_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    gate = threading.Event()
    source = KafkaSource(bootstrap=bootstrap, topics=(topic,), group=topic, queue_bytes=memory_bytes // 8)
    sink, held, began, since = LakeSink(store=Slow()), [0], rss("VmRSS"), {}

    def observe(now):
        held[0] = max(held[0], now.held_bytes)
        since.setdefault(now.records, time.monotonic())
        if now.records and time.monotonic() - since[now.records] > 2:
            gate.set()  # nothing more is read: all that may be held is held

    run = Pipeline(source=source, sink=sink, until_end=True, memory_bytes=memory_bytes, observe=observe)
    done = run.run()
    print(json.dumps({"began": began, "peak": rss("VmHWM"), "held": held[0], "records": done.stored_records}))
"""


@pytest.mark.parametrize("partitions", [1, 1000])
def test_memory_holds(kafka_broker: str, partitions: int):
    """A sink that takes nothing: drafts, commits under way and the client's queue stay within `memory_bytes`, whatever comes."""
    topics = Topics(bootstrap=kafka_broker)
    name = topics.make(partitions=partitions)
    chance = random.Random(7)
    texts = [base64.b64encode(chance.randbytes(RECORD_BYTES * 3 // 4)) for _ in range(100)]  # as good as incompressible
    topics.fill(name, [b'{"text":"%s"}' % texts[n % 100] for n in range(RECORDS // partitions)], partitions)
    command = [sys.executable, "-c", textwrap.dedent(STREAM), kafka_broker, name, str(MEMORY_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert 0 == done.returncode, done.stderr[-3000:]
    found = json.loads(done.stdout)
    print(partitions, {name: number if name == "records" else f"{number >> 20} MiB" for name, number in found.items()})
    assert RECORDS // partitions * partitions == found["records"]
    assert found["held"] <= MEMORY_BYTES
    assert found["peak"] - found["began"] <= MEMORY_BYTES + ITSELF_BYTES

"""
A run into Kafka that dies or sleeps where it is told to: ``python kafka_sink_driver.py MODE FILE BOOTSTRAP TOPIC RECORDS [...]``.

Not a test: what the tests start in processes of their own, so that there is something to kill.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer

from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.kafka import exactly_once, line, lines, transactions
from headrace.plugins.kafka.sink import KafkaSink
from headrace.plugins.kafka.source import KafkaSource

STEPS = ("take over", "taken over", "begin", "position", "record", "commit", "committed")


def pipeline(file: str, bootstrap: str, topic: str, records: int) -> Pipeline:
    sink = KafkaSink(
        bootstrap=bootstrap,
        topic=topic,
        guarantee="exactly-once",
        positions_topic="positions-of-tests",
        client_settings={"linger.ms": "1", "log_level": "0"},
    )
    source = JsonlSource(path=file, stream="ticks")
    return Pipeline(source=source, sink=sink, flush=FlushPolicy(records=records), until_end=True, retry_for_s=60.0)


def before_each_step(act: Callable[[str, Producer], None]) -> None:
    """Let *act* happen before each step of a transaction, and after those that end something."""

    class Acting(Producer):
        def init_transactions(self, *args: object) -> None:
            act("take over", self)
            super().init_transactions(*args)
            act("taken over", self)

        def begin_transaction(self) -> None:
            act("begin", self)
            super().begin_transaction()

        def produce(self, topic: str, *args: object, **kwargs: object) -> None:
            act("position" if topic == "positions-of-tests" else "record", self)
            super().produce(topic, *args, **kwargs)

        def commit_transaction(self, *args: object) -> None:
            act("commit", self)
            super().commit_transaction(*args)
            act("committed", self)

    transactions.Producer = Acting  # type: ignore[misc]


def die(producer: Producer) -> None:
    """What was produced is at the brokers, in a transaction that stays open."""
    producer.flush(10)
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(producer: Producer) -> None:
    producer.flush(10)
    # sent to the thread: sent to the process, another thread may take it while this one goes on
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def forked(work: Callable[[], object]) -> int:
    """Run it in a process of its own and return how that ended, as `os.waitpid` says it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the parent is told by the code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def every_step(file: str, bootstrap: str, topic: str, records: int) -> None:
    """
    Kill a first run at its first step, another at its second, and so on, until one ends unharmed; each then gets a second run.

    Each pair has a topic of its own, ``TOPIC-1`` and so on; the steps at which they died are printed.
    """
    for number in itertools.count(1):
        mine, steps = f"{topic}-{number}", itertools.count(1)

        def act(name: str, producer: Producer, number: int = number, steps: itertools.count[int] = steps) -> None:
            if next(steps) == number:
                print(name, flush=True)
                die(producer)

        def first(mine: str = mine, act: Callable[[str, Producer], None] = act) -> None:
            before_each_step(act)
            pipeline(file, bootstrap, mine, records).run()

        status = forked(first)
        assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL, status
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        # with other drafts than before: the position may not depend on them
        assert forked(lambda mine=mine: pipeline(file, bootstrap, mine, records + 1).run()) == 0
        if os.WIFEXITED(status):
            return


def zombie(step: str) -> None:
    """Sleep at the second such step, which is the first of the records'; go on when the parent says so."""
    times = itertools.count(1)

    def act(name: str, producer: Producer) -> None:
        if name == step and next(times) == 2:
            sleep(producer)

    before_each_step(act)


def without_fencing() -> None:
    """The negative control: a transactional id that nobody else has fences nobody."""
    real = lines.Transactions

    def made(settings: dict[str, object], **fields: object) -> object:
        return real(**fields, settings={**settings, "transactional.id": secrets.token_hex(8)})

    lines.Transactions = made  # type: ignore[misc, assignment]


def by_group(topic: str, bootstrap: str, source: str, records: int) -> None:
    """The negative control: what the source's group has acknowledged is the position, and the run dies just before that."""

    def acknowledge(_self: KafkaSource, _hints: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    KafkaSource.acknowledge = acknowledge  # type: ignore[method-assign, assignment]
    # of a static member the next run takes the partition over at once
    reader = KafkaSource(bootstrap=bootstrap, topics=(source,), group=source, group_protocol="classic", instance="one")
    sink = KafkaSink(bootstrap=bootstrap, topic=topic)
    Pipeline(source=reader, sink=sink, flush=FlushPolicy(records=records), until_end=True).run()


def main() -> None:
    mode, file, bootstrap, topic, records, *rest = sys.argv[1:]
    line.SOON_S = exactly_once.SOON_S = 0.2  # type: ignore[misc]  # a test has no time
    if mode == "every-step":
        every_step(file, bootstrap, topic, int(records))
        return
    if mode == "by-group":
        by_group(topic, bootstrap, file, int(records))
        return
    if mode == "zombie":
        zombie(rest[0])
    if "without-fencing" in rest:
        without_fencing()
    pipeline(file, bootstrap, topic, int(records)).run()


if __name__ == "__main__":
    assert Path(sys.argv[2]).exists() or sys.argv[1] == "by-group"
    main()

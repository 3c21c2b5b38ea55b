"""
Publishes without end: ``python publish.py BOOTSTRAP TOPIC PARTITIONS RATE SEED``; SIGTERM ends it.

Values are ticks, and now and then something that an encoder stumbles over. A tenth comes in transactions, of which every third
is aborted. What was published is not remembered here: the brokers are asked for it at the end, by another client.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time

from confluent_kafka import KafkaException, Producer

ODD = (b"{}", None, b"null", b"\xff\xfe", b"a\nb", b' "padded" ', b"", b"NaN", b"\x00", b'{"a":1,"a":2}', b"1" * 5000)


def record(chance: random.Random, number: int) -> dict[str, object]:
    value = json.dumps({"n": number, "symbol": "AAPL", "price": chance.randrange(10**6) / 100}).encode()
    if chance.random() < 0.02:
        value = chance.choice(ODD)
    key = chance.choice((None, b"AAPL", b"\xff", b""))
    headers = [("h", chance.choice((None, b"x", b"\xfe")))] if chance.random() < 0.1 else None
    return {"value": value, "key": key, "headers": headers}


def plain(bootstrap: str, topic: str, partitions: int, rate: int, seed: int, stop: threading.Event) -> None:
    chance, number = random.Random(seed), 0
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20, "log_level": 0})
    while not stop.wait(0.05):
        for _ in range(max(1, rate // 20)):
            try:
                producer.produce(topic, partition=chance.randrange(partitions), **record(chance, number))
            except BufferError:
                break
            number += 1
        producer.poll(0)
    producer.flush(30)


def transactional(bootstrap: str, topic: str, partitions: int, rate: int, seed: int, stop: threading.Event) -> None:
    """A producer that failed for good is made anew: its open transaction is aborted by the brokers."""
    chance, number = random.Random(seed + 1), 0
    settings = {"transactional.id": f"{topic}-chaos", "transaction.timeout.ms": 10_000, "log_level": 0}
    while not stop.is_set():
        producer = Producer({"bootstrap.servers": bootstrap, **settings})
        try:
            producer.init_transactions(30)
            while not stop.wait(1.0):
                producer.begin_transaction()
                for _ in range(max(1, rate // 10)):
                    producer.produce(topic, partition=chance.randrange(partitions), **record(chance, number))
                    number += 1
                producer.flush(15)
                if chance.random() < 1 / 3:
                    producer.abort_transaction(15)
                else:
                    producer.commit_transaction(15)
        except (KafkaException, BufferError) as exc:
            print(f"producer is made anew: {exc}", flush=True)
            time.sleep(0.5)


def main() -> None:
    bootstrap, topic, *numbers = sys.argv[1:]
    partitions, rate, seed = map(int, numbers)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    work = (bootstrap, topic, partitions, rate, seed, stop)
    thread = threading.Thread(target=transactional, args=work)
    thread.start()
    plain(*work)
    thread.join()


if __name__ == "__main__":
    main()

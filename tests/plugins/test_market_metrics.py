"""What a feed says of itself on /metrics, against an exchange of this machine and against what the lake holds at the end."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from headrace.chain import Chain
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.market.coinbase import Coinbase, CoinbaseSource
from headrace.plugins.market.json_feed import JsonFeed, JsonFeedSource
from headrace.testing.servers.exchange import CoinbaseExchange, PlainExchange
from headrace.testing.store import MemoryStore
from headrace.watching.watching import Watching

SECOND = 10**9
QUEUE_BYTES = 1 << 20
NAMES = ("AAPL", "MSFT")


def scrape(port: int) -> Mapping[str, float]:
    """The feed's own numbers and the run's, without their label, and those of a stream by its name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.name.removeprefix("headrace_") + sample.labels.get("stream", ""): sample.value
        for family in families
        for sample in family.samples
        if not sample.labels or set(sample.labels) < {"feed", "stream"}
    }


def ready(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def trade(symbol: str, number: int) -> bytes:
    return b'{"T":"t","S":"%s","n":%d}' % (symbol.encode(), number)


def test_every_number_of_a_feed():
    """
    Connections, seconds and records of gaps, when it was heard last and what waits: at each moment of a feed that is subscribed,
    leaves a number out, breaks off, comes back, and sends what nobody takes for a while.
    """
    now_ns = [1_000 * SECOND]
    store = MemoryStore()
    with PlainExchange(confirms='{"T":"subscribed"}') as exchange:
        feed = JsonFeed(
            name="f",
            address=exchange.address,
            symbols=NAMES,
            send=("{symbols}",),
            kind="T",
            symbol="S",
            sequence="n",
            streams={"t": "trades"},
            control=("subscribed",),
            subscribed="subscribed",
        )
        source = JsonFeedSource(
            feed=feed,
            queue_bytes=QUEUE_BYTES,
            reconnect_first_s=0.01,
            now_ns=lambda: now_ns[0],
            subscribe_timeout_s=60.0,
        )
        watch = Watching(place="0", run="r", command="stream", stall_s=60.0)
        pipeline = Pipeline(
            source=watch.source(source),
            sink=watch.sink(LakeSink(store=store)),
            flush=FlushPolicy(records=2, age_s=0.05),
            memory_bytes=8 << 20,
        )
        watch.pipeline(pipeline)

        def until(true: Callable[[Mapping[str, float]], object], *, taking: bool = True) -> Mapping[str, float]:
            """Turn the pipeline, unless nothing is to be taken, until it is true of what a scrape says."""
            until_s = time.monotonic() + 30
            while not true(found := scrape(watch.port)):
                assert time.monotonic() < until_s, found
                if taking:
                    pipeline.step()
            return found

        with watch:
            found = scrape(watch.port)
            assert [0, 0, 0, 0, 0] == [
                found[f"feed_{name}"]
                for name in (
                    "connected",
                    "connections_total",
                    "gap_seconds_total",
                    "gap_records_total",
                    "backlog_bytes",
                )
            ]
            assert QUEUE_BYTES == found["feed_backlog_limit_bytes"]
            # subscribed, and then a number is missing
            found = until(lambda now: now["feed_connected"])
            told = 2 * len(NAMES)  # for each symbol a gap before it began, and that it has ended
            assert (1, told, 0) == (
                found["feed_connections_total"],
                found["feed_gap_records_total"],
                found["feed_gap_seconds_total"],
            )
            now_ns[0] += 10 * SECOND
            exchange.publish(trade("AAPL", 1), trade("MSFT", 1), trade("AAPL", 5))
            found = until(lambda now: now["feed_gap_records_total"] > told)
            assert (told + 1, 0, now_ns[0] / SECOND) == (
                found["feed_gap_records_total"],
                found["feed_gap_seconds_total"],
                found["feed_heard_timestamp_seconds"],
            )
            # breaks off: the gap lasts from when it was heard last until it is subscribed again
            exchange.reading.clear()
            exchange.drop()
            until(lambda now: now["feed_connections_total"] == 2)
            heard_s = now_ns[0] / SECOND
            now_ns[0] += 15 * SECOND
            found = scrape(watch.port)
            assert (0, 15, heard_s) == (
                found["feed_connected"],
                found["feed_gap_seconds_total"],
                found["feed_heard_timestamp_seconds"],
            )
            exchange.reading.set()
            until(lambda now: now["feed_connected"])
            now_ns[0] += 7 * SECOND
            assert 15 == scrape(watch.port)["feed_gap_seconds_total"]
            # nobody takes what comes: it waits, as so many bytes as are read then
            before = until(
                lambda now: (
                    (now.get("records_stored_totalf.trades"), now.get("records_stored_totalf.gaps"))
                    == (3, now["feed_gap_records_total"])
                )
            )
            exchange.publish(*(trade("MSFT", n) for n in range(2, 22)))
            until(lambda _: len(source._backlog) == 21, taking=False)  # and what the gap's next number is
            waiting = scrape(watch.port)
            assert waiting["feed_backlog_bytes"] > 20 * len(trade("MSFT", 2))
            after = until(lambda now: now["records_read_total"] == before["records_read_total"] + 21)
            assert waiting["feed_backlog_bytes"] == after["read_bytes_total"] - before["read_bytes_total"]
            assert 0 == after["feed_backlog_bytes"]
            pipeline.stop()
            pipeline.run()
            found = scrape(watch.port)
    told = sum(s.trailer.records for s in Chain.open(store, "f.gaps").walk(0))
    assert told == found["feed_gap_records_total"]
    assert 0 == found["feed_connected"]


def test_ready_while_the_exchange_answers():
    """An exchange that refuses every connection is one that does not answer: /ready says so, until one is subscribed."""
    with CoinbaseExchange() as exchange:
        exchange.refuses = [503] * 1_000
        source = CoinbaseSource(feed=Coinbase(address=exchange.address), reconnect_first_s=0.01, reconnect_most_s=0.05)
        watch = Watching(place="0", run="r", command="stream", stall_s=60.0)
        pipeline = Pipeline(source=watch.source(source), sink=watch.sink(LakeSink(store=MemoryStore())))

        def until(expected: tuple[int, str]) -> None:
            until_s = time.monotonic() + 30
            while (found := ready(watch.port)) != expected:
                assert time.monotonic() < until_s, found
                pipeline.step()

        with watch:
            assert (503, "nothing was assigned to it yet\n") == ready(watch.port)
            pipeline.step()
            assert 503 == ready(watch.port)[0]
            until((503, "the source does not answer (HTTP 503)\n"))
            exchange.refuses.clear()
            until((200, "ok\n"))
            exchange.refuses = [502] * 1_000
            exchange.drop()
            until((503, "the source does not answer (HTTP 502)\n"))
            pipeline.stop()
            pipeline.run()

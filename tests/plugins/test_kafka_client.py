"""What librdkafka says of itself reaches the log, and does not flood it."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import Producer

from headrace.errors import SinkUnavailableError
from headrace.plugins.kafka.client import ClientLog, made
from headrace.plugins.kafka.sink import KafkaSink
from headrace.records import Extent, Identity, Partition


def test_a_lost_connection_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture):
    """The same failure twenty times a second is one warning in ten seconds; another one is said at once."""
    now = 0.0
    log = ClientLog(clock=lambda: now)
    for i in range(400):
        now = i / 20
        log.log(
            logging.ERROR, "%s [%s] %s", "FAIL", "c", f"127.0.0.1:9: Connection refused (after {i}ms in state CONNECT)"
        )
    log.log(logging.ERROR, "%s [%s] %s", "FAIL", "c", "127.0.0.1:10: Connection refused (after 0ms in state CONNECT)")
    assert 3 == len(caplog.records)
    assert {logging.WARNING} == {record.levelno for record in caplog.records}


def test_debug_is_not_thinned_out(caplog: pytest.LogCaptureFixture):
    """Who asks librdkafka for its debug lines gets all of them."""
    log = ClientLog()
    with caplog.at_level(logging.DEBUG, "headrace.kafka.client"):
        for _ in range(5):
            log.log(logging.DEBUG, "%s", "FETCH")
    assert 5 == len(caplog.records)


def test_the_client_takes_it_for_a_logger(caplog: pytest.LogCaptureFixture):
    """A real client with nobody to talk to warns, and prints nothing by itself."""
    producer = made(Producer, {"bootstrap.servers": "127.0.0.1:9"})
    for _ in range(100):
        producer.poll(0.05)
        if caplog.records:
            break
    assert "Connection refused" in caplog.records[0].getMessage()


def test_a_sink_that_has_asked_for_its_topic_keeps_no_client_for_it():
    """It would keep each word of the connections that it loses, as nobody listens to it: in years of publishing that is much."""
    sink = KafkaSink(bootstrap="127.0.0.1:9", topic="ticks", request_timeout_s=0.05)
    extent = Extent(0, 0, 0, Identity("c", "t", "read_committed", 1))
    with pytest.raises(SinkUnavailableError):
        sink.bind({Partition("ticks", 0): extent})
    assert sink._topics._admin is None

"""What librdkafka says of itself reaches the log, and does not flood it."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import Producer

from headrace.plugins.kafka.client import ClientLog, made


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

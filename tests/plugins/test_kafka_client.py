"""What librdkafka says of itself reaches the log, and does not flood it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.errors import ConfigError, SinkUnavailableError
from headrace.plugins.kafka.client import ClientLog, made
from headrace.plugins.kafka.sink import KafkaSink
from headrace.records import Extent, Identity, Partition
from headrace.registry import Registry


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


@pytest.mark.parametrize("kind", ["source", "sink"])
def test_secrets_from_a_file(tmp_path: Path, kind: str):
    """A password need not stand in a URI, which the list of processes shows: it is in a file, as it is, and in no repr."""
    file = tmp_path / "kafka.properties"
    file.write_text(
        "# of the reader\n\nsasl.username = reader\nsasl.password=pa/ss@w=rd%41#\nsocket.keepalive.enable=true\n"
    )
    uri = f"kafka://127.0.0.1:9/trades?group=g&settings_file={file}&socket.keepalive.enable=false".replace(
        "group=g&" if kind == "sink" else "", ""
    )
    made = getattr(Registry.discover(), kind)(uri)
    assert {
        "sasl.username": "reader",
        "sasl.password": "pa/ss@w=rd%41#",
        "socket.keepalive.enable": "false",
    } == made.client_settings
    assert "pa/ss" not in f"{made!r} {made}"
    named = getattr(Registry.discover(), kind)(uri.replace("kafka://", "kafka://another@"))
    assert ("another", "pa/ss@w=rd%41#") == (
        named.client_settings["sasl.username"],
        named.client_settings["sasl.password"],
    )
    made.close()
    named.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3cret\n", r"line 1: expected name=value$"),
        ("a.b=1\na.b=s3cret\n", r"line 2: expected a name once$"),
        (None, r"cannot be read: No such file or directory$"),
        (b"\xff", r"cannot be read: it is no UTF-8$"),
    ],
)
def test_a_file_of_settings_that_is_none(tmp_path: Path, text: str | bytes | None, said: str):
    """What is wrong with it is told by its line, and nothing of what stands there."""
    file = tmp_path / "kafka.properties"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said) as found:
        Registry.discover().source(f"kafka://127.0.0.1:9/trades?group=g&settings_file={file}")
    assert "s3cret" not in str(found.value)

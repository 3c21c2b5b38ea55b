"""The Kafka sink's settings, without a broker."""

from __future__ import annotations

import pytest

from headrace.errors import ConfigError
from headrace.pipeline import Pipeline
from headrace.plugins.jsonl.source import JsonlSource
from headrace.plugins.kafka.sink import KafkaSink
from headrace.registry import Registry


def sink_of(settings: str) -> KafkaSink:
    sink = Registry.discover().sink(f"kafka://127.0.0.1:9/t{settings}")
    assert isinstance(sink, KafkaSink)
    return sink


def test_guarantee_is_chosen():
    """Nobody's readers have to change for the default; exactly once is asked for by name."""
    assert ("at-least-once", False) == (sink_of("").guarantee, sink_of("").rereads)
    chosen = sink_of("?guarantee=exactly-once&transaction_timeout_s=5s&producers=3")
    assert ("exactly-once", True, 5.0, 3) == (
        chosen.guarantee,
        chosen.rereads,
        chosen.transaction_timeout_s,
        chosen.producers,
    )
    with pytest.raises(ConfigError, match="guarantee=exactly"):
        sink_of("?guarantee=exactly")


@pytest.mark.parametrize(
    "setting", ["transactional.id=x", "enable.idempotence=false", "acks=1", "transaction.timeout.ms=5"]
)
def test_what_exactly_once_rests_on_is_fixed(setting: str):
    """A setting of the client that would undo it is refused by name."""
    chosen = sink_of(f"?guarantee=exactly-once&{setting}")
    assert chosen._positions is not None
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        chosen._positions._lines.settings("id")


def test_a_topic_for_each_stream():
    """``{stream}`` in the topic's name stands for the stream's; positions are about one topic, so not for exactly-once."""
    sink = KafkaSink(bootstrap="127.0.0.1:9", topic="raw-{stream}")
    assert ("raw-coins.trades", "raw-coins.gaps") == (sink.topic_of("coins.trades"), sink.topic_of("coins.gaps"))
    with pytest.raises(ConfigError, match="positions are about one topic"):
        KafkaSink(bootstrap="127.0.0.1:9", topic="raw-{stream}", guarantee="exactly-once")


def test_a_live_feed_is_refused():
    """What a crash took from a source that cannot be read again would be missing: exactly once is not claimed for it."""

    class Feed(JsonlSource):
        rereadable = False

    with pytest.raises(ConfigError, match="cannot be read again"):
        Pipeline(source=Feed(path="ticks.jsonl"), sink=sink_of("?guarantee=exactly-once"))
    Pipeline(source=Feed(path="ticks.jsonl"), sink=sink_of(""))

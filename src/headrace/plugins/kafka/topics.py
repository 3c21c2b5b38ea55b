"""The topics that a sink publishes to: found, or made with the settings that they need."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import attrs
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the client's stubs
    AdminClient,
    ConfigResource,
    NewTopic,
    TopicMetadata,
)

from headrace.errors import ConfigError, SinkUnavailableError
from headrace.logs import event as log_event
from headrace.plugins.kafka.client import asked, made, told

_log = logging.getLogger("headrace.kafka.sink")


@attrs.frozen
class NewSettings:
    """
    How a topic is made.

    Attributes:
        partitions: How many; 0: it is not made.

        replication: On how many brokers.

        config: Kafka's own settings of a topic.
    """

    partitions: int
    replication: int
    config: Mapping[str, str] = attrs.field(factory=dict)


@attrs.define(kw_only=True, eq=False)
class Topics:
    """
    Finds and makes topics.

    Attributes:
        settings: librdkafka's, for an admin client.

        timeout_s: How long each question waits.

        clock: Monotonic seconds.

        sleep: Waits so many seconds.
    """

    settings: Mapping[str, object] = attrs.field(repr=False)
    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    _admin: AdminClient | None = attrs.field(default=None, init=False)

    def replication(self, topic: str) -> int | None:
        """On how many brokers a topic's partitions are; None where there is no such topic, or it has no partitions yet."""
        about = self._about().get(topic)
        return (
            None if about is None or not about.partitions else min(len(p.replicas) for p in about.partitions.values())
        )

    def find(self, topic: str, new: NewSettings) -> None:
        """
        Find the topic, or make it.

        Raises:
            ConfigError: It is not there, and was not to be made.
            SinkUnavailableError: The brokers did not answer; calling again is safe.
        """
        if topic in self._about():
            return
        if new.partitions:
            self._create(topic, new)
        elif not self._auto_created(topic):
            raise ConfigError(
                f"{self._what(topic)}: it does not exist; make it, or add ?create_partitions=N to have it made"
            )

    def check_compacted(self, topic: str) -> None:
        """ConfigError where the topic forgets: a position that retention took would have everything published again."""
        about = ConfigResource(ConfigResource.Type.TOPIC, topic)
        what = f"ask for the settings of topic {topic!r}"
        try:
            found = self._client().describe_configs([about], request_timeout=self.timeout_s)[about]
            policy = found.result(self.timeout_s + 1)["cleanup.policy"].value
        except TimeoutError as exc:
            raise SinkUnavailableError(f"{what}: no answer") from exc
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise told(exc.args[0], what, SinkUnavailableError) from exc
            log_event(_log, logging.WARNING, "no right to see whether positions are kept", topic=topic)
            return
        if policy != "compact":
            raise ConfigError(
                f"{topic!r} keeps the positions, and has cleanup.policy={policy}, expected compact: what retention takes from"
                " it would be published again; set it, once all positions are there"
            )

    def rest(self) -> None:
        """Let the client go until the next question: it keeps what it says of its connections, and nobody listens."""
        self._admin = None

    def _create(self, topic: str, new: NewSettings) -> None:
        wanted = NewTopic(topic, new.partitions, new.replication, config=dict(new.config))
        answer = self._client().create_topics([wanted], request_timeout=self.timeout_s)[topic]
        try:
            answer.result(self.timeout_s + 1)
        except TimeoutError as exc:
            raise SinkUnavailableError(f"make topic {topic!r}: no answer") from exc
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise told(exc.args[0], f"make topic {topic!r}", SinkUnavailableError) from exc
        self._wait_for(topic)

    def _wait_for(self, topic: str) -> None:
        """A topic that was just made is known to some brokers before the others."""
        deadline = self.clock() + self.timeout_s
        while True:
            about = self._about().get(topic)
            if about is not None and about.partitions and all(p.leader >= 0 for p in about.partitions.values()):
                return
            if self.clock() >= deadline:
                raise SinkUnavailableError(f"topic {topic!r} was made, and has no leader yet; try again")
            self.sleep(0.05)

    def _auto_created(self, topic: str) -> bool:
        """Whether asking for the topic by name makes it: brokers with auto.create.topics.enable, and librdkafka's own."""
        try:
            self._client().list_topics(topic, timeout=self.timeout_s)
            return bool(self._client().list_topics(topic, timeout=self.timeout_s).topics[topic].partitions)
        except (KafkaException, KeyError):
            return False

    def _about(self) -> Mapping[str, TopicMetadata]:
        ask = lambda: self._client().list_topics(timeout=self.timeout_s).topics  # noqa: E731
        return asked(ask, self._what("topics"), SinkUnavailableError)

    def _what(self, topic: str) -> str:
        return f"find topic {topic!r} at {self.settings['bootstrap.servers']}"

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = made(AdminClient, self.settings)
        return self._admin


def create_settings(text: str) -> dict[str, str]:
    """Read ``NAME=VALUE,NAME=VALUE``: Kafka's own settings of a topic."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(name and equals for name, equals, _ in pairs):
        raise ConfigError(f"found create_settings={text}, expected NAME=VALUE, several divided by commas")
    return {name: value for name, _, value in pairs}

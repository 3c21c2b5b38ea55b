"""Topics for tests: made, filled, cut and deleted on a real broker, by Kafka's own questions and not through headrace."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]  # the client's stubs

_PATIENCE_S = 60.0
_ANSWER_S = 20.0


def wait(condition: Callable[[], object], what: str, timeout_s: float = _PATIENCE_S) -> None:
    """Ask until it is true. A broker that does not know a thing yet is asked again."""
    deadline = time.monotonic() + timeout_s
    why = ""
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except KafkaException as exc:
            why = f": {exc}"
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s:g} s: {what}{why}")


@attrs.define(kw_only=True, eq=False)
class Topics:
    """
    The topics of a cluster.

    Attributes:
        bootstrap: Its addresses.

        settings: Of every client, where the addresses ask for credentials.
    """

    bootstrap: str
    settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    _admin: AdminClient | None = attrs.field(default=None, init=False)

    @property
    def admin(self) -> AdminClient:
        """Kafka's own questions."""
        if self._admin is None:
            self._admin = AdminClient(self._client())
        return self._admin

    def _client(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.bootstrap, "log_level": 0, **self.settings}

    def make(
        self, name: str = "", partitions: int = 2, replicas: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Make a topic, of a name that no other has unless told, and wait until the brokers know it."""
        name = name or f"t-{secrets.token_hex(4)}"
        self.admin.create_topics([NewTopic(name, partitions, replicas, config=dict(config or {}))])[name].result(
            _ANSWER_S
        )
        wait(lambda: self.topic_id(name) and self._leaders(name, partitions), f"topic {name} is known")
        return name

    def topic_id(self, name: str) -> str:
        """Return a topic's id."""
        return str(self.admin.describe_topics(TopicCollection([name]))[name].result(_ANSWER_S).topic_id)

    def leader(self, name: str, number: int = 0) -> int:
        """Return the broker that leads a partition; -1 for none."""
        return int(self.admin.list_topics(name, timeout=_ANSWER_S).topics[name].partitions[number].leader)

    def replicas(self, name: str, number: int = 0) -> list[int]:
        """Return the brokers that keep a partition."""
        return list(self.admin.list_topics(name, timeout=_ANSWER_S).topics[name].partitions[number].replicas)

    def _leaders(self, name: str, partitions: int) -> bool:
        found = self.admin.list_topics(name, timeout=_ANSWER_S).topics[name].partitions
        return len(found) == partitions and all(p.leader > 0 for p in found.values())

    def delete(self, name: str) -> None:
        """Delete it, and wait until it is gone."""
        self.admin.delete_topics([name])[name].result(_ANSWER_S)
        wait(lambda: name not in self.admin.list_topics(timeout=_ANSWER_S).topics, f"topic {name} is gone")

    def grow(self, name: str, partitions: int) -> None:
        """Give it more partitions."""
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(_ANSWER_S)
        wait(lambda: self._leaders(name, partitions), f"topic {name} has grown")

    def forget(self, name: str, low: int, number: int = 0) -> None:
        """Let a partition's log begin at *low*, as retention does."""
        for future in self.admin.delete_records([TopicPartition(name, number, low)]).values():
            future.result(_ANSWER_S)

    def publish(
        self,
        name: str,
        values: Iterable[bytes | None],
        number: int = 0,
        *,
        keys: Sequence[bytes | None] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Append records to one partition, and wait until all of its replicas have them."""
        # idempotent: a batch that a broker refuses for a moment would otherwise be sent again behind the one after it
        producer = Producer({**self._client(), "enable.idempotence": True, **(settings or {})})
        failed: list[object] = []

        def told(error: object) -> None:
            if error is not None:
                failed.append(error)

        for i, value in enumerate(values):
            key = None if keys is None else keys[i]
            while True:
                try:
                    producer.produce(name, value, key, number, on_delivery=lambda error, _: told(error))
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
        left = producer.flush(_PATIENCE_S)
        assert not left, f"{left} records of {name} were not published"
        assert not failed, f"{len(failed)} records of {name} were not published: {failed[0]}"

    def fill(self, name: str, values: Sequence[bytes], partitions: int) -> None:
        """Append the same records to each of the first so many partitions."""
        producer = Producer(
            {**self._client(), "enable.idempotence": True, "queue.buffering.max.messages": 0, "linger.ms": 50}
        )
        for number in range(partitions):
            producer.produce_batch(name, [{"value": value} for value in values], number)
            producer.poll(0)
        assert not producer.flush(_PATIENCE_S), f"not all of {name} was published"

    def transaction(self, name: str, values: Iterable[bytes], number: int = 0, *, commit: bool) -> None:
        """Append records in a transaction of their own, and end it."""
        producer = Producer({**self._client(), "transactional.id": f"{name}-{secrets.token_hex(4)}"})
        producer.init_transactions(_ANSWER_S)
        producer.begin_transaction()
        for value in values:
            producer.produce(name, value, partition=number)
        assert not producer.flush(_ANSWER_S)
        (producer.commit_transaction if commit else producer.abort_transaction)(_ANSWER_S)

    def committed(self, group: str, name: str, number: int = 0) -> int:
        """Return what a group has acknowledged; -1001 for nothing."""
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(name, number)])
        found = self.admin.list_consumer_group_offsets([wanted])[group].result(_ANSWER_S)
        return int(found.topic_partitions[0].offset)

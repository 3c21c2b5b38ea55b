"""One transactional id: whoever took it over last is the only one whose transactions are committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from headrace.errors import CommitUnknownError, HeadraceError, SinkUnavailableError, TransientError
from headrace.plugins.kafka.client import made, told

_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}

_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}


class FencedError(Exception):
    """Another producer took the id over, or the brokers ended a transaction that was open for too long."""


@attrs.define(kw_only=True, eq=False)
class Transactions:
    """
    The producer of one transactional id. Not safe from several threads at once.

    Attributes:
        transactional_id: Its name.

        topic: What is published to.

        settings: librdkafka's.

        request_timeout_s: How long a question to the brokers waits.

        timeout_s: How long a transaction may be open before the brokers end it.

        clock: Monotonic seconds.
    """

    transactional_id: str
    topic: str
    settings: Mapping[str, object] = attrs.field(repr=False)
    request_timeout_s: float
    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    _producer: Producer | None = attrs.field(default=None, init=False)
    _failed: KafkaError | None = attrs.field(default=None, init=False)

    @property
    def open(self) -> bool:
        """Whether the id was taken over and, as far as is known, not by another one since."""
        return self._producer is not None

    def take_over(self) -> None:
        """
        Fence whoever had the id: what it has open is aborted, what it had decided is completed, before this returns.

        Raises:
            SinkUnavailableError: The brokers did not answer in time.
            ConfigError: They refuse: no right to this id, or a transaction.timeout.ms above the brokers' limit.
        """
        self.leave()
        producer = made(Producer, {**self.settings, "on_delivery": self._delivered})
        what = f"take over the transactional id {self.transactional_id!r}"
        try:
            # the first answer says who the brokers are, the second one comes from one of them: a client that is connected to
            # none but a bootstrap address may take half a second longer to find its coordinator
            for _ in range(2):
                producer.list_topics(self.topic, timeout=self.request_timeout_s)
            self._again(producer.init_transactions, self.timeout_s)
        except KafkaException as exc:
            if exc.args[0].code() in _FENCED:
                raise SinkUnavailableError(f"{what}: another producer did at the same time") from exc
            raise told(exc.args[0], what, SinkUnavailableError) from exc
        self._producer = producer

    def write(self, publish: Callable[[Producer], None], told_as: Callable[[KafkaError], HeadraceError]) -> None:
        """
        Publish in one transaction; it is committed when this returns.

        Args:
            publish: Gives the records to the producer.

            told_as: Makes our error of what the brokers refused; nothing was written then.

        Raises:
            FencedError: It was committed or not, and never will be later: the position decides.
            CommitUnknownError: The same.
            HeadraceError: What *told_as* made, or *publish* raised: it is aborted, and nothing was written.
        """
        producer = self._producer
        assert producer is not None, "an id is taken over before it is written under"  # noqa: S101 - our own state
        self._failed = None
        try:
            producer.begin_transaction()
            publish(producer)
            self._again(producer.commit_transaction, self.timeout_s)
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() in _FENCED:
                self.leave()
                raise FencedError(error.str()) from exc
            unsure = self._abort(producer)
            # brokers do not always say at once that another one has the id: it may come as an error that they have no name
            # for, or as one that was fatal before; to abort is refused with the reason
            if unsure and unsure.code() in _FENCED:
                raise FencedError(f"{error.str()}, then {unsure.str()}") from exc
            refused = told_as(self._failed or error)
            # to abort what had not begun is refused as well; asking again would not help, and the next run looks anyway
            if not (unsure and isinstance(refused, TransientError)):
                raise refused from exc
            raise CommitUnknownError(
                f"transaction of {self.transactional_id!r}: {error.name()}: {error.str()}"
            ) from exc
        except BaseException:
            self._abort(producer)
            raise

    def leave(self) -> None:
        """Forget the producer; a transaction that is open is aborted by whoever takes the id over, or at its time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    def _abort(self, producer: Producer) -> KafkaError | None:
        """Abort, or return why that is not sure: what was committed is refused. The producer is not used again."""
        try:
            self._again(producer.abort_transaction, self.request_timeout_s)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            return error
        finally:
            self.leave()
        return None

    def _again(self, call: Callable[[float], object], for_s: float) -> None:
        """Call until it is answered: one that timed out goes on where it was."""
        deadline = self.clock() + for_s + self.request_timeout_s
        while True:
            try:
                call(self.request_timeout_s)
            except KafkaException as exc:
                if not exc.args[0].retriable() or self.clock() >= deadline:
                    raise
            else:
                return

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None and error.code() not in _PURGED:  # the first one says why; the rest went with it
            self._failed = self._failed or error

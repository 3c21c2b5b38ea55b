"""
Exactly once into a topic: the position of each partition of the source moves in the transaction that publishes its records.

A topic has no name that one writer alone can create, as a lake has, but it has transactional ids, and whoever takes one over
fences those before. So each partition of a source is a `Line`: one id, one key in the side topic. A commit is one
transaction that holds the records and the position behind them, if the position before them is still the one that is expected.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import attrs
import msgspec

from headrace.commit import check_commit, check_identity
from headrace.errors import (
    ConfigError,
    DataError,
    HeadraceError,
    IdentityError,
    PositionConflictError,
    SinkUnavailableError,
)
from headrace.plugins.kafka.client import told
from headrace.plugins.kafka.cluster import LATEST, Cluster
from headrace.plugins.kafka.line import SOON_S, Line
from headrace.plugins.kafka.lines import Lines
from headrace.plugins.kafka.positions import PositionsTopic, as_sink
from headrace.plugins.kafka.publish import KafkaDraft, produce
from headrace.plugins.kafka.stored import Pin, Stored, decoded, key
from headrace.plugins.kafka.topics import NewSettings, Topics
from headrace.records import Hint, Identity, Partition, Position

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

    from headrace.plugins.kafka.sink import KafkaSink  # noqa: TC004 - each is the other's half

_AT_ONCE = 16
"""Ids that are taken over at once."""

_KEPT = {"cleanup.policy": "compact", "segment.bytes": str(16 << 20), "min.cleanable.dirty.ratio": "0.1"}
"""Of the side topic: small segments, as only those that are full are compacted, and a look-up reads what is left."""


@attrs.define(kw_only=True, eq=False)
class PositionsInTopic:
    """
    The positions of a sink's streams, and the commits that move them.

    Attributes:
        sink: Whose settings hold.

        topics: Finds and makes topics.
    """

    sink: KafkaSink
    topics: Topics
    _side: PositionsTopic = attrs.field(init=False)
    _cluster: Cluster = attrs.field(init=False)
    _pins: dict[str, Pin] = attrs.field(factory=dict, init=False)
    _notes: set[tuple[Partition, int, int]] = attrs.field(factory=set, init=False)
    _lines: Lines = attrs.field(init=False)
    _side_id: str | None = attrs.field(default=None, init=False)  # what was read of it is of no other topic

    def __attrs_post_init__(self) -> None:
        sink = self.sink
        self._cluster = Cluster(
            settings=sink.connection(), isolation="read_committed", topic_ids=True, timeout_s=sink.request_timeout_s
        )
        name = sink.positions_topic or f"{sink.topic}.headrace-positions"
        self._side = PositionsTopic(name=name, settings=sink.connection(), cluster=self._cluster)
        self._lines = Lines(sink=sink, side=self._side)

    # ---- opening ------------------------------------------------------------------------------------------

    def bind(self, identities: Mapping[str, Identity]) -> Mapping[str, Identity]:
        """Pin each stream on first use, and compare it on every other; `Sink.bind`."""
        replication = self.topics.replication(self.sink.topic) or 1
        self.topics.find(self._side.name, NewSettings(1, replication, _KEPT))
        self.topics.check_compacted(self._side.name)
        if self._side_id is None:  # asked for before anything is read of it
            with as_sink():
                self._side_id = self._cluster.identities((self._side.name,))[self._side.name].topic
        for stream, identity in identities.items():
            self._pins[stream] = self._pinned(stream, identity)
        return {stream: self._pins[stream].identity for stream in identities}

    def _pinned(self, stream: str, identity: Identity) -> Pin:
        with as_sink():
            target = self._cluster.identities((self.sink.topic,))[self.sink.topic].topic
        wanted = Pin(
            dataset=secrets.token_hex(16),
            cluster=identity.cluster,
            topic=identity.topic,
            isolation=identity.isolation,
            partitions=identity.partitions,
            target=target or "",
            transactional_id_prefix=self.sink.transactional_id_prefix,
        )
        name = key("pin", self.sink.topic, self.sink.epoch, stream)
        decided = self._side.read(SOON_S)
        found = decoded(self._side.name, name, self._side.value(name), Pin)
        if found is None:
            line = self._lines.of(name, stream)
            if not decided:  # by somebody who died at just this, or at records of other streams
                line.take_over()
                self._side.read_all(self.sink.transaction_timeout_s + self.sink.request_timeout_s)
            self._check_new(stream)
            line.move(lambda there: there is None, msgspec.json.encode(wanted), _nothing, partial(self._told, name))
            line.leave()
            # what counts is what is there, whoever was first
            self._side.read_all(self.sink.transaction_timeout_s + self.sink.request_timeout_s)
            found = decoded(self._side.name, name, self._side.value(name), Pin)
            if found is None:
                raise SinkUnavailableError(
                    f"{self._place}: the pin of {stream!r} is not there to be read yet; try again"
                )
        differences = found.differences(wanted)
        if differences:
            raise IdentityError(
                f"{self._place}: the positions of {stream!r} are pinned to another stream, topic or setting:"
                f" {'; '.join(differences)}. Undo the change, publish to another topic, or begin a new epoch, which publishes"
                " everything once more (epoch=NAME)"
            )
        return found

    def _check_new(self, stream: str) -> None:
        """Records without any positions: ours may have been deleted, and all would be published again."""
        sink = self.sink
        if sink.append or self._side.has(key("pin", sink.topic)[:-1]):
            return
        with as_sink():
            count = self._cluster.identities((sink.topic,))[sink.topic].partitions
            ends = self._cluster.offsets([Partition(sink.topic, n) for n in range(count)], LATEST)
        if any(ends.values()):
            raise ConfigError(
                f"{self._place}: the topic has records, and {self._side.name!r} no positions for it. Either others publish to"
                f" it, or it was published to at least once, or the positions were deleted: all of {stream!r} would be published"
                " behind what is there. If that is what is wanted, say so (append=on)"
            )

    # ---- looking up ---------------------------------------------------------------------------------------

    def look_up(self, hints: Mapping[Partition, Hint | None]) -> Mapping[Partition, Position | Exception]:
        """
        Look up how far each partition is published; `Sink.positions`.

        A transaction that somebody has left open would hide what was committed after it began: those under the ids of these
        partitions are ended, those of others are waited for.
        """
        began_s = self.sink.clock()
        self._check_topics({p.stream for p in hints})
        if not self._side.read(SOON_S):
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="headrace-takeover") as pool:
                list(pool.map(self._take_over, hints))
            self._side.read_all(self.sink.transaction_timeout_s + self.sink.request_timeout_s)
        return {p: self._told_of(p, hint, began_s) for p, hint in hints.items()}

    def _take_over(self, partition: Partition) -> None:
        self._line_of(partition).take_over()
        self._lines.close_some()

    def _told_of(self, partition: Partition, hint: Hint | None, began_s: float) -> Position | Exception:
        try:
            return self._position(partition, began_s, hint)
        except HeadraceError as error:
            return error

    def _position(self, partition: Partition, began_s: float, hint: Hint | None = None) -> Position:
        pin, found = self._pin(partition.stream), self._stored(partition, self._side.value(self._key(partition)))
        if found is None:
            if hint is not None and hint.segment is not None and hint.dataset_id == pin.dataset:
                raise DataError(
                    f"{self._place} ({partition}): no position, expected at least {hint.segment[1]}, which was acknowledged; it"
                    f" was deleted from {self._side.name!r}: restore it, or begin a new epoch (epoch=NAME)"
                )  # B13
            return Position(0, None, pin.dataset, None, began_s)  # B2
        if found.dataset != pin.dataset:
            raise DataError(
                f"{self._place} ({partition}): the position is of dataset {found.dataset}, the pin of {pin.dataset};"
                f" {self._side.name!r} was changed: restore it, or begin a new epoch (epoch=NAME)"
            )  # B8
        return Position(found.position, (found.start, found.position), pin.dataset, found.leader_epoch, began_s)

    def _check_topics(self, streams: Iterable[str]) -> None:
        """The topic must be the one that the positions are about, and these those that were read."""
        with as_sink():
            found = self._cluster.ids((self.sink.topic, self._side.name))
        if len(found) < 2:
            raise SinkUnavailableError(f"{self._place}: the topic, or its positions, are not there any more")
        if found[self._side.name] != self._side_id:
            raise IdentityError(
                f"{self._place}: {self._side.name!r} has the id {found[self._side.name]}, the positions were read from"
                f" {self._side_id}: it was made again, and they are gone with it. Restore them, or begin a new epoch, which"
                " publishes everything once more (epoch=NAME)"
            )
        for stream in streams:
            pinned, now = self._pin(stream).target, found[self.sink.topic]
            if pinned != now:
                raise IdentityError(
                    f"{self._place}: the topic has the id {now}, the positions of {stream!r} are about {pinned}: it was made"
                    " again. Begin a new epoch, which publishes everything once more (epoch=NAME)"
                )

    # ---- committing ---------------------------------------------------------------------------------------

    def commit(self, draft: KafkaDraft, base: int, at: Position, identity: Identity) -> Position:
        """Publish a draft and move its position, in one transaction; `Draft.commit`."""
        partition, p = draft.partition, draft.position
        pin = self._pin(partition.stream)
        check_commit(partition, p, base, at, noted=(partition, p, base) in self._notes)
        check_identity(partition, identity, pin.identity)
        began_s = self.sink.clock()
        if began_s - at.looked_up_s <= self.sink.position_max_age_s:  # B15
            moved = Stored(
                position=draft.end,
                start=p,
                dataset=pin.dataset,
                leader_epoch=draft.leader_epoch,
                records=draft.records,
                writer=f"{socket.gethostname()[:32]}/{os.getpid()}",
            )
            line = self._line_of(partition)
            done = line.move(
                lambda there: self._stands_at(partition, there, p),
                msgspec.json.encode(moved),
                partial(self._publish, draft),
                lambda error: draft.refused(error, self.sink.topic, SinkUnavailableError),
            )
            self._lines.close_some()
            if done:
                return Position(draft.end, (p, draft.end), pin.dataset, draft.leader_epoch, began_s)
            found = self._position(partition, began_s)
        else:
            found = self._look_again(partition)
        raise PositionConflictError(
            f"{partition}: expected the position {p}, as of the last look-up, found {found.offset}",
            expected=p,
            found=found,
        )

    def _look_again(self, partition: Partition) -> Position:
        found = self.look_up({partition: None})[partition]
        if isinstance(found, Exception):
            raise found
        return found

    def _stands_at(self, partition: Partition, there: bytes | None, position: int) -> bool:
        found = self._stored(partition, there)
        if found is None:
            return position == 0
        return (found.position, found.dataset) == (position, self._pin(partition.stream).dataset)

    def _stored(self, partition: Partition, there: bytes | None) -> Stored | None:
        return decoded(self._side.name, self._key(partition), there, Stored)

    def _publish(self, draft: KafkaDraft, producer: Producer) -> None:
        """
        Publish the records, wait until the brokers have them all, and only then ask which topics those are (B20).

        A topic that was made again meanwhile has lost what was published before, or some of the draft: IdentityError, and the
        transaction is aborted.
        """
        deadline = self.sink.clock() + self.sink.transaction_timeout_s

        def wait() -> None:
            producer.poll(0.05)
            if self.sink.clock() >= deadline:
                raise SinkUnavailableError(
                    f"{draft.partition}: {draft.records} records were not taken by {self.sink.bootstrap} in"
                    f" {self.sink.transaction_timeout_s:g} s; flush less at a time, or raise transaction_timeout_s"
                )

        produce(producer, self.sink.topic, self.sink.number(draft.partition), draft.batches, wait)
        while producer.flush(0.05):  # what was refused is out of the queue as well: the commit says so
            wait()
        self._check_topics([draft.partition.stream])

    def note(self, partition: Partition, start: int, end: int) -> None:
        """Record an accepted loss; `Sink.note`."""
        body = {"dataset": self._pin(partition.stream).dataset, "from": start, "to": end}
        name = key("note", self.sink.topic, self.sink.epoch, partition.stream, partition.number, start, end)
        line = self._lines.of(name, partition.stream, str(partition.number), "note")
        line.move(lambda there: there is None, msgspec.json.encode(body), _nothing, partial(self._told, name))
        line.leave()
        self._notes.add((partition, start, end))

    def close(self) -> None:
        """Give all producers back; drafts that were not committed are gone."""
        self._lines.close()

    # ---- the rest -----------------------------------------------------------------------------------------

    def _line_of(self, partition: Partition) -> Line:
        return self._lines.of(self._key(partition), partition.stream, str(partition.number))

    def _key(self, partition: Partition) -> bytes:
        return key("position", self.sink.topic, self.sink.epoch, partition.stream, partition.number)

    def _pin(self, stream: str) -> Pin:
        try:
            return self._pins[stream]
        except KeyError as exc:
            raise ConfigError(f"{stream!r} is not bound to {self._place}: call bind() before positions()") from exc

    def _told(self, name: bytes, error: KafkaError) -> HeadraceError:
        return told(error, f"{self._place}: write {name.decode()}", SinkUnavailableError)

    @property
    def _place(self) -> str:
        return f"kafka://{self.sink.bootstrap}/{self.sink.topic}"


def _nothing(_: Producer) -> None:
    """Publish no record beside the value."""

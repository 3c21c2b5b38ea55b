"""Brokers that ask who is there: users and passwords, certificates, tokens, rights; of reader, publisher and questions alike."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from headrace.errors import ConfigError
from headrace.pipeline import Pipeline
from headrace.registry import Registry
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.listeners import Security
from headrace.testing.servers.tls import Authority
from headrace.testing.servers.topics import Topics, wait

pytestmark = pytest.mark.services

Stored = Callable[[Path], Mapping[tuple[str, int, int], bytes]]
PASSWORD = "p@ss/w?rd #1"  # what a URI must escape
UNSIGNED = (
    "sasl.mechanism=OAUTHBEARER&enable.sasl.oauthbearer.unsecure.jwt=true&sasl.oauthbearer.config=principal%3Dalice"
)


@attrs.define
class Secured:
    cluster: Kafka
    authority: Authority
    topics: Topics

    def uri(self, how: str, topic: str, user: str = "alice", password: str = PASSWORD) -> str:
        """Return the URI of a topic, and of what proves who is there."""
        pair = self.authority.issue(user, user)
        own = f"ssl.certificate.location={quote(str(pair.certificate))}&ssl.key.location={quote(str(pair.key))}"
        known = f"{quote(user, '')}:{quote(password, '')}@"
        trusted = f"ssl.ca.location={quote(str(self.authority.certificate))}"
        listener, who, query = {
            "plain": ("sasl", known, "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN"),
            "scram-256": ("sasl", known, "security.protocol=sasl_plaintext&sasl.mechanism=SCRAM-SHA-256"),
            "scram-512": ("tls", known, f"security.protocol=sasl_ssl&sasl.mechanism=SCRAM-SHA-512&{trusted}"),
            "oauth": ("tls", "", f"security.protocol=sasl_ssl&{trusted}&{UNSIGNED}"),
            "mtls": (
                "mtls",
                "",
                f"security.protocol=ssl&{trusted}&{own}",
            ),
        }[how]
        return f"kafka://{who}{self.cluster.address(listener)}/{topic}?{query}"

    def allow(self, user: str, operation: AclOperation, kind: ResourceType, name: str) -> None:
        binding = AclBinding(
            kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW
        )
        self.topics.admin.create_acls([binding])[binding].result(20)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with users, certificates, and rights that must be given."""
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    users = {"alice": PASSWORD, "bob": "bob-secret"}
    try:
        with Kafka(folder=folder / "kafka", security=Security(users=users, authority=authority, acls=True)) as cluster:
            found = Secured(cluster, authority, Topics(bootstrap=cluster.bootstrap))
            for kind in (ResourceType.TOPIC, ResourceType.GROUP):
                found.allow("alice", AclOperation.ALL, kind, "*")
            yield found
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: {exc}")


def stream(source: str, sink: str) -> None:
    registry = Registry.discover()
    Pipeline(source=registry.source(source), sink=registry.sink(sink), until_end=True, retry_for_s=10).run()


@pytest.mark.parametrize("how", ["plain", "scram-256", "scram-512", "oauth", "mtls"])
def test_a_user_reads_and_publishes(secured: Secured, tmp_path: Path, stored: Stored, how: str):
    """With the right credentials records are read, with their topic's id, and published."""
    name, again = secured.topics.make(partitions=1), secured.topics.make(partitions=1)
    secured.topics.publish(name, [b"1", b"2"])
    stream(f"{secured.uri(how, name)}&group=g", f"file://{tmp_path}/lake")
    stream(f"file://{tmp_path}/lake", f"{secured.uri(how, again)}&guarantee=at-least-once")
    stream(f"{secured.uri(how, again)}&group=g", f"file://{tmp_path}/again")
    expected = {(n, 0, i): value for n in (name, again) for i, value in enumerate((b"1", b"2"))}
    assert expected == {**stored(tmp_path / "lake"), **stored(tmp_path / "again")}


def test_a_file_of_secrets(secured: Secured, tmp_path: Path, stored: Stored):
    """What the page on a secure Kafka writes into a file reaches every client: reader, publisher and questions."""
    name, again = secured.topics.make(partitions=1), secured.topics.make(partitions=1)
    secured.topics.publish(name, [b"1", b"2"])
    file = tmp_path / "kafka.properties"
    file.write_text(
        "security.protocol=sasl_ssl\nsasl.mechanism=SCRAM-SHA-512\nsasl.username=alice\n"
        f"sasl.password={PASSWORD}\nssl.ca.location={secured.authority.certificate}\n"
    )
    place = f"kafka://{secured.cluster.address('tls')}"
    stream(f"{place}/{name}?group=g&settings_file={file}", f"file://{tmp_path}/lake")
    stream(f"file://{tmp_path}/lake", f"{place}/{again}?settings_file={file}")
    stream(f"{place}/{again}?group=g&settings_file={file}", f"file://{tmp_path}/again")
    expected = {(n, 0, i): value for n in (name, again) for i, value in enumerate((b"1", b"2"))}
    assert expected == {**stored(tmp_path / "lake"), **stored(tmp_path / "again")}


@pytest.mark.parametrize("how", ["plain", "scram-256", "scram-512"])
def test_a_wrong_password(secured: Secured, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture):
    """It is refused as a setting that is wrong, at once, and told nowhere."""
    name, wrong = secured.topics.make(partitions=1), "wr0ng-secret"
    registry = Registry.discover()
    uri = f"{secured.uri(how, name, password=wrong)}&group=g&request_timeout_s=3"
    run = Pipeline(
        source=registry.source(uri), sink=registry.sink(f"file://{tmp_path}"), until_end=True, retry_for_s=30
    )
    with pytest.raises(ConfigError, match="AUTHENTICATION") as caught:
        run.run()
    assert wrong not in f"{caught.value!r} {run!r} {caplog.text}"


def test_a_broker_that_nobody_vouches_for(secured: Secured, tmp_path: Path):
    """Without the authority's certificate the broker is not believed."""
    name = secured.topics.make(partitions=1)
    ours = Authority(tmp_path)
    uri = secured.uri("scram-512", name).replace(str(secured.authority.certificate), str(ours.certificate))
    with pytest.raises(ConfigError, match="SSL"):
        stream(f"{uri}&group=g&request_timeout_s=3", f"file://{tmp_path}/lake")


def test_a_user_without_rights(secured: Secured, tmp_path: Path, stored: Stored):
    """Each right that is missing is named, with what to do; when all are given the records are read."""
    name = secured.topics.make(partitions=1)
    secured.topics.publish(name, [b"1"])
    uri = f"{secured.uri('scram-256', name, 'bob', 'bob-secret')}&group=bobs"

    def refused(what: str) -> None:
        with pytest.raises(ConfigError, match=what):
            stream(uri, f"file://{tmp_path}/{secrets.token_hex(4)}")

    refused("TOPIC_AUTHORIZATION_FAILED.*Describe and Read")
    secured.allow("bob", AclOperation.DESCRIBE, ResourceType.TOPIC, name)
    wait(lambda: _told(uri, tmp_path, "GROUP_AUTHORIZATION_FAILED"), "the right is known")
    refused("GROUP_AUTHORIZATION_FAILED.*Read on the consumer group")
    secured.allow("bob", AclOperation.READ, ResourceType.GROUP, "bobs")
    wait(lambda: _told(uri, tmp_path, "TOPIC_AUTHORIZATION_FAILED"), "the right is known")
    refused("TOPIC_AUTHORIZATION_FAILED.*Read")
    secured.allow("bob", AclOperation.READ, ResourceType.TOPIC, name)
    wait(lambda: _told(uri, tmp_path / "lake", ""), "the right is known")
    assert {(name, 0, 0): b"1"} == dict(stored(tmp_path / "lake"))

    sink = secured.uri("scram-256", name, "bob", "bob-secret")
    with pytest.raises(ConfigError, match=r"AUTHORIZATION_FAILED.*Write"):
        stream(f"file://{tmp_path}/lake", f"{sink}&guarantee=at-least-once")


def _told(uri: str, lake: Path, what: str) -> bool:
    """Whether it ends with that error; rights take a moment to be known."""
    try:
        stream(uri, f"file://{lake}")
    except ConfigError as error:
        return bool(what) and what in str(error)
    return not what

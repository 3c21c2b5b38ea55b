"""
Pytest fixtures of real servers: ``pytest_plugins = ["headrace.testing.fixtures"]``.

`kafka_broker`, `s3_server` and `snowflake_emulator` are what most tests need; the others are for tests that break a cluster, or
compare servers. Nothing is started, nor imported of a client library, before a test asks for it.

A server that the environment names is used; otherwise one is fetched or built, kept in the cache, and started; otherwise the
test skips and says what is missing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.kafka import Kafka
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.s3 import S3Endpoint, given
from headrace.testing.servers.snowflake import Snowflake, SnowflakeEndpoint
from headrace.testing.servers.versity import Versity


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The addresses of an Apache Kafka that outlives the tests: ``HEADRACE_TEST_KAFKA``, or one of our own."""
    if given := os.environ.get("HEADRACE_TEST_KAFKA"):
        yield given
        return
    try:
        with Kafka(folder=tmp_path_factory.mktemp("kafka")) as cluster:
            yield cluster.bootstrap
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: set HEADRACE_TEST_KAFKA=HOST:PORT, or: {exc}")


@pytest.fixture(scope="session")
def kafka_broker(kafka: str) -> str:
    """The addresses of a real Kafka broker, ``host:port``."""
    return kafka


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers of our own, which a test may kill and must start again; an unclean leader is allowed by topic only."""
    try:
        with Kafka(folder=tmp_path_factory.mktemp("kafka-cluster"), count=3) as cluster:
            yield cluster
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: {exc}")


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A MinIO that outlives the tests: ``HEADRACE_TEST_MINIO``, or one of our own."""
    if endpoint := given("HEADRACE_TEST_MINIO"):
        yield endpoint
        return
    try:
        with Minio(folder=tmp_path_factory.mktemp("minio")) as server:
            yield server.endpoint
    except ServerMissing as exc:
        pytest.skip(f"no MinIO: set HEADRACE_TEST_MINIO=http://KEY:SECRET@HOST:PORT, or: {exc}")


@pytest.fixture(scope="session")
def versity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A Versity S3 Gateway that outlives the tests: ``HEADRACE_TEST_VERSITY``, or one of our own."""
    if endpoint := given("HEADRACE_TEST_VERSITY"):
        yield endpoint
        return
    try:
        with Versity(folder=tmp_path_factory.mktemp("versity")) as server:
            yield server.endpoint
    except ServerMissing as exc:
        pytest.skip(f"no Versity S3 Gateway: set HEADRACE_TEST_VERSITY=http://KEY:SECRET@HOST:PORT, or: {exc}")


@pytest.fixture(scope="session", params=["minio", "versity"])
def s3(request: pytest.FixtureRequest) -> S3Endpoint:
    """Each S3 server that the tests know: what one hides another one shows."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param)
    return endpoint


@pytest.fixture(scope="session")
def s3_server(minio: S3Endpoint) -> S3Endpoint:
    """A real S3 server: ``bucket()`` makes a bucket, ``uri(…)`` names a lake in it."""
    return minio


@pytest.fixture(scope="session")
def snowflake_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeEndpoint]:
    """What the real connector takes for a Snowflake account; it is not durable, and lasts as long as the tests."""
    try:
        with Snowflake(folder=tmp_path_factory.mktemp("snowflake"), durable=False) as server:
            yield server.endpoint
    except ServerMissing as exc:
        pytest.skip(f"no Snowflake: set HEADRACE_TEST_SNOWFLAKE=CONNECTION, or: {exc}")


@pytest.fixture(scope="session")
def snowflake(request: pytest.FixtureRequest) -> SnowflakeEndpoint:
    """A Snowflake that outlives the tests: the connection ``HEADRACE_TEST_SNOWFLAKE`` of connections.toml, or the emulator."""
    logging.getLogger("snowflake.connector").setLevel(
        logging.WARNING
    )  # each statement is fifty lines that pytest would keep
    if name := os.environ.get("HEADRACE_TEST_SNOWFLAKE"):
        return SnowflakeEndpoint(
            {"connection_name": name}, os.environ.get("HEADRACE_TEST_SNOWFLAKE_DATABASE", "HEADRACE")
        )
    endpoint: SnowflakeEndpoint = request.getfixturevalue("snowflake_emulator")
    return endpoint

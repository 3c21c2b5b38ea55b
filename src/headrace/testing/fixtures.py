"""
Pytest fixtures of real servers: ``pytest_plugins = ["headrace.testing.fixtures"]``.

A server that the environment names is used; otherwise one is fetched or built, kept in the cache, and started; otherwise the
test skips and says what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.kafka import Kafka


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
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers of our own, which a test may kill and must start again; an unclean leader is allowed by topic only."""
    try:
        with Kafka(folder=tmp_path_factory.mktemp("kafka-cluster"), count=3) as cluster:
            yield cluster
    except ServerMissing as exc:
        pytest.skip(f"no Kafka: {exc}")

"""Both clients of S3 keep the contracts of stores and sinks, on servers whose code has nothing in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import attrs
import pytest

from headrace.plugins.lake.remote import RemoteStore
from headrace.plugins.lake.sink import LakeSink
from headrace.records import Partition, Record
from headrace.registry import Registry
from headrace.store import Store
from headrace.testing.contracts.sink import ExactlyOnceSinkContract, SinkPlace, Writer
from headrace.testing.contracts.store import StoreContract
from headrace.testing.oracle import read_lake
from headrace.testing.servers.s3 import S3Endpoint
from headrace.testing.store import answers_lost

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

SCHEMES = ["s3", "s3+obstore"]
PAIRS = [("minio", "s3"), ("versity", "s3+obstore")]
"""Stores are tried in all four ways; what stands on them, in these two."""


@contextlib.contextmanager
def stores_of(endpoint: S3Endpoint, scheme: str) -> Iterator[Callable[..., Store]]:
    """Make stores over one bucket of this test; all are closed."""
    bucket, stores = endpoint.bucket(), contextlib.ExitStack()

    def make(page_size: int = 1000, prefix: str = "lakes/a b") -> Store:
        uri = endpoint.uri(f"{bucket}/{prefix}", scheme, page_size=str(page_size))
        return stores.enter_context(contextlib.closing(Registry.discover().store(uri)))

    with stores:
        yield make


@pytest.fixture(params=SCHEMES)
def made(request: pytest.FixtureRequest, s3: S3Endpoint) -> Iterator[Callable[..., Store]]:
    with stores_of(s3, request.param) as make:
        yield make


class TestStore(StoreContract):
    @pytest.fixture
    def store(self, made: Callable[..., Store]) -> Store:
        return made(page_size=3)

    @pytest.fixture
    def other(self, made: Callable[..., Store]) -> Store:
        return made(page_size=4)


@attrs.define
class Lake:
    """Read back by another client, line by line."""

    stores: Callable[..., Store]
    endpoint: S3Endpoint
    opened: list[Store] = attrs.field(factory=list)

    def open(self) -> LakeSink:
        self.opened.append(self.stores(page_size=3))
        return LakeSink(store=self.opened[-1])

    def read(self, partition: Partition) -> Sequence[Record]:
        store = self.opened[0]
        assert isinstance(store, RemoteStore)
        found = self.endpoint.objects(store.bucket, store.prefix + "/")
        objects = {key.removeprefix(store.prefix + "/"): body for key, body in found.items()}
        stored = read_lake(objects, partition.stream).get(partition.number)
        return [] if stored is None else stored.records


class TestLakeSink(ExactlyOnceSinkContract):
    @pytest.fixture(params=PAIRS, ids=" ".join)
    def place(self, request: pytest.FixtureRequest) -> Iterator[SinkPlace]:
        server, scheme = request.param
        endpoint = request.getfixturevalue(server)
        with stores_of(endpoint, scheme) as make:
            yield Lake(make, endpoint)

    @pytest.fixture
    def lose_answer(self, writer: Writer) -> Callable[[bool], AbstractContextManager[object]]:
        return lambda written: answers_lost(writer.sink, written=written)

"""The fakes in memory pass what the real ones pass, and what stands on them gets over the failure of each single I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import HealthCheck, settings

from headrace.plugins.lake.sink import LakeSink
from headrace.plugins.lake.source import LakeSource
from headrace.records import Extent, Identity, Partition, Record
from headrace.sink import Sink
from headrace.source import Source
from headrace.store import Store
from headrace.testing.contracts.audited_loader import AuditedLoaderContract
from headrace.testing.contracts.crash import (
    LoaderCrashContract,
    SinkCrashContract,
    SourceCrashContract,
    StoreCrashContract,
)
from headrace.testing.contracts.keyed_loader import KeyedLoaderContract
from headrace.testing.contracts.loader import Warehouse
from headrace.testing.contracts.sink import Writer
from headrace.testing.contracts.source import Log
from headrace.testing.faults import Gate
from headrace.testing.oracle import objects_of, read_lake
from headrace.testing.silver import SilverMachine
from headrace.testing.store import GatedStore, MemoryStore
from headrace.testing.warehouse import MemoryWarehouse


class TestMemoryLoader(AuditedLoaderContract):
    @pytest.fixture
    def warehouse(self) -> Warehouse:
        return MemoryWarehouse()


class TestMemoryLoaderWithKeys(KeyedLoaderContract):
    @pytest.fixture
    def warehouse(self) -> Warehouse:
        return MemoryWarehouse()


class Memory(SilverMachine):
    audited = True

    def make_warehouse(self, gate: Gate) -> Warehouse:
        return MemoryWarehouse(gate)


class KeyedMemory(Memory):
    keyed = True


QUICK = settings(max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck))


class TestMemoryMachine(Memory.TestCase):
    settings = QUICK


class TestKeyedMemoryMachine(KeyedMemory.TestCase):
    settings = QUICK


# ---- each single I/O fails ------------------------------------------------------------------------------------------


class TestMemoryLoaderThatFails(LoaderCrashContract):
    @pytest.fixture
    def make_warehouse(self) -> Callable[[Gate], Warehouse]:
        return MemoryWarehouse


IDENTITY = Identity("c", "t", "read_committed", 1)


@attrs.define
class LakeLog:
    """A lake that is read through a store whose requests fail."""

    gate: Gate
    inner: MemoryStore = attrs.field(factory=lambda: MemoryStore(page_size=2))
    stream: str = "ticks"
    partitions: int = 1

    def append(self, number: int, records: Sequence[Record]) -> None:
        partition = Partition(self.stream, number)
        with LakeSink(store=self.inner) as sink:
            sink.bind({partition: Extent(0, 10**6, 10**6, IDENTITY)})
            Writer(sink, partition, IDENTITY).put(records)

    def open(self) -> Source:
        return LakeSource(store=GatedStore(inner=self.inner, gate=self.gate))


class TestLakeSourceWhoseStoreFails(SourceCrashContract):
    @pytest.fixture
    def make_log(self) -> Callable[[Gate], Log]:
        return LakeLog


@attrs.define
class Lake:
    """Read back by the oracle."""

    gate: Gate
    inner: MemoryStore = attrs.field(factory=MemoryStore)

    def open(self) -> Sink:
        return LakeSink(store=GatedStore(inner=self.inner, gate=self.gate))

    def read(self, partition: Partition) -> Sequence[Record]:
        found = read_lake(objects_of(self.inner), partition.stream).get(partition.number)
        return found.records if found else []


class TestLakeSinkWhoseStoreFails(SinkCrashContract):
    @pytest.fixture
    def make_place(self) -> Callable[[Gate], Lake]:
        return Lake


class TestMemoryStoreThatFails(StoreCrashContract):
    @pytest.fixture
    def make_store(self) -> Callable[[Gate], Store]:
        inner = MemoryStore()
        return lambda gate: GatedStore(inner=inner, gate=gate)

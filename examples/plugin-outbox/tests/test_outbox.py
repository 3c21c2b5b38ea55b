"""The source passes headrace's own suites, and rows reach a lake once, whatever fails on the way."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest
from headrace_outbox.source import OutboxSource

from headrace import ConfigError, DataError, FlushPolicy, Partition, Pipeline, Record, Registry, audit
from headrace.testing import (
    AuditedSourceContract,
    Gate,
    GrowingSourceContract,
    Log,
    RetentionSourceContract,
    SourceCrashContract,
    Wire,
    nothing_fails,
    objects_in,
    read_lake,
    real_ticks,
)

SCHEMA = """
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, created_ms INTEGER NOT NULL, key BLOB, value BLOB);
CREATE TABLE outbox_identity (id TEXT NOT NULL);
INSERT INTO outbox_identity VALUES (lower(hex(randomblob(16))));
"""


@attrs.define
class Application:
    """What fills the outbox."""

    path: Path
    gate: Gate = nothing_fails
    stream: str = "outbox"
    partitions: int = 1

    def __attrs_post_init__(self) -> None:
        if not self.path.exists():
            self.run(lambda connection: connection.executescript(SCHEMA))

    def run(self, work: Callable[[sqlite3.Connection], object]) -> None:
        with sqlite3.connect(self.path) as connection:
            work(connection)
        connection.close()

    def append(self, number: int, records: Sequence[Record]) -> None:
        rows = [(r.timestamp_ms, r.key, r.value) for r in records]
        self.run(lambda c: c.executemany("INSERT INTO outbox (created_ms, key, value) VALUES (?, ?, ?)", rows))

    def open(self) -> OutboxSource:
        return OutboxSource(database=str(self.path), records=20, connect=self.connect)

    def connect(self, *args: object, **more: object) -> Wire:
        real = sqlite3.connect(*args, **more)
        return Wire(real, self.gate, lambda: sqlite3.OperationalError("disk I/O error"))


class TestOutboxSource(AuditedSourceContract, GrowingSourceContract, RetentionSourceContract):
    carries = ("timestamp_ms", "timestamp_type", "key", "value")  # an outbox has no headers

    @pytest.fixture
    def log(self, tmp_path: Path) -> Log:
        return Application(tmp_path / "app.db")

    @pytest.fixture
    def forget(self, log: Log) -> Callable[[Partition, int], None]:
        return lambda _, low: log.run(lambda connection: connection.execute("DELETE FROM outbox WHERE id < ?", (low,)))


class TestEveryStatementFails(SourceCrashContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> Callable[[Gate], Log]:
        return lambda gate: Application(Path(tempfile.mkdtemp(dir=tmp_path)) / "app.db", gate)


def test_into_a_lake(tmp_path: Path):
    """Real ticks go through the installed plugin into a lake, each once; a second run begins where the first one ended."""
    ticks = list(real_ticks(2_000))
    application = Application(tmp_path / "app.db")
    for part in (ticks[:1_200], ticks[1_200:]):
        application.append(0, part)
        registry = Registry.discover()
        source, sink = registry.source(f"outbox://{tmp_path}/app.db"), registry.sink(f"file://{tmp_path}/lake")
        Pipeline(source=source, sink=sink, flush=FlushPolicy(records=500), until_end=True).run()
    lake = read_lake(objects_in(tmp_path / "lake"), "outbox")
    assert [tick.value for tick in ticks] == [record.value for record in lake[0].records]
    assert list(range(1, 2_001)) == [record.offset for record in lake[0].records]

    # the outbox is read again beside the lake, record by record
    result = audit(f"file://{tmp_path}/lake", source=f"outbox://{tmp_path}/app.db", deep=True)
    assert (result.verdict, result.partitions[0].compared) == ("complete", 2_000)


def test_all_rows_are_deleted(tmp_path: Path):
    """An outbox that was emptied ends where it ended."""
    application = Application(tmp_path / "app.db")
    application.append(0, [Record(0, 0, None, b"{}")] * 3)
    application.run(lambda connection: connection.execute("DELETE FROM outbox"))
    (extent,) = application.open().extents().values()
    assert (extent.low, extent.end) == (4, 4)


def test_no_outbox(tmp_path: Path):
    """What is not there is said, with the way out."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        OutboxSource(database=str(tmp_path / "none.db")).extents()
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(ConfigError, match="the README says how an outbox is made"):
        OutboxSource(database=str(tmp_path / "empty.db")).extents()


def test_no_sqlite_file(tmp_path: Path):
    """A file of another kind and a damaged one are named; the error is headrace's own."""
    application = Application(tmp_path / "app.db")
    application.append(0, [Record(0, 0, None, b"{}")] * 3)
    whole = application.path.read_bytes()
    application.path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    with pytest.raises(DataError, match="is damaged"):
        application.open().extents()
    application.path.write_bytes(b"no file of SQLite's" * 400)
    with pytest.raises(ConfigError, match="no SQLite file"):
        application.open().extents()

"""Rows that were loaded by several versions of a contract, and parts of a table with a key: each is held against what made it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from audit_world import Last, World, copied, healthy

from headrace.auditing.result import AuditResult
from headrace.chain import Chain
from headrace.contract import column, contract
from headrace.errors import ConfigError
from headrace.load import Load


@contract(version=2, key=("symbol",), order=("time", "price"))
class Last2:
    """The last tick of each symbol, with more digits and a venue; nobody wants its size any more."""

    symbol: str
    price: Decimal = column(precision=20, scale=8)
    time: datetime = column(record="timestamp", unit="ms")
    venue: str | None = column(default="X")


@contract(version=3, key=("symbol",), order=("time",))
class Otherwise:
    """In another order."""

    symbol: str
    time: datetime = column(record="timestamp", unit="ms")


@attrs.define
class Two:
    """A table with a key: the first records were loaded by version 1, the two newest of partition 0 by version 2."""

    world: World

    def audit(self, kept: type = Last2, earlier: Sequence[type] = (Last,), **more: object) -> AuditResult:
        return self.world.audit(loader=self.world.loader(kept, "last"), deep=True, earlier=earlier, **more)

    def said(self, **more: object) -> list[tuple[str, str, int | None, int, int]]:
        return [(f.kind, f.where, f.partition, f.start, f.end) for f in self.audit(**more).findings]

    def copy(self, folder: Path) -> Two:
        return Two(copied(self.world, folder))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    world = healthy(tmp_path_factory.mktemp("versions"))
    world.produce(2)
    world.stream()
    Load(chain=Chain.open(world.store, "ticks"), loader=world.loader(Last2, "last"), alter=True).run()
    return Two(world)


def test_each_row_by_its_version(two: Two, tmp_path: Path):
    """With all versions nothing is said of a healthy table, except which column nobody looks into; a changed row is named."""
    result = two.audit()
    assert [] == list(map(str, result.findings))
    assert ["size of version 1 of the contract: the newest has no such column, so nobody looked into it"] == list(
        result.remarks
    )
    changed = two.copy(tmp_path)
    changed.world.sql("UPDATE last SET venue = 'Y' WHERE symbol = 'C'")  # by version 1: X is what the default put there
    changed.world.sql("UPDATE last SET price = price + 0.00000001 WHERE symbol = 'A'")  # by version 2
    assert [("changed", "rows", 0, 23, 24), ("changed", "rows", 0, 27, 28)] == changed.said()


def test_a_version_that_is_not_given(two: Two):
    """Rows that nobody looked into are not complete: which versions are lacking is said; of a part only its own are needed."""
    result = two.audit(earlier=())
    assert ("unknown", 2) == (result.verdict, result.exit_code)
    assert {"unknown"} == {f.kind for f in result.findings}
    assert any("version 1 of the contract was not given" in f.evidence for f in result.findings)
    assert all("--contract" in f.advice for f in result.findings)
    assert "complete" == two.audit(earlier=(), since="1970-01-01T00:00:01.027+00:00").verdict

    other = two.audit(kept=Otherwise, earlier=(Last, Last2))
    assert any("another key or another order" in f.evidence for f in other.findings)
    assert "unknown" == other.verdict
    with pytest.raises(ConfigError, match="contracts of different versions"):
        two.audit(earlier=(Last2,))


def test_a_part_of_a_table_with_a_key(two: Two, tmp_path: Path):
    """What the part's records made must be there, or something newer; what others made is said not to be looked at."""
    part = two.audit(since=6, until=11)  # all of it is superseded by now
    assert [] == list(map(str, part.findings))
    assert [r for r in part.remarks if "outside the part" in r]
    assert not [r for r in two.audit().remarks if "outside the part" in r]

    wrong = two.copy(tmp_path)
    wrong.world.sql("DELETE FROM last WHERE symbol = 'C'")
    missing = ("missing", "rows", 0, 23, 24)
    assert [missing] == wrong.said(since=22)
    assert ("missing", "rows", 0, 8, 9) in wrong.said(since=6, until=11)  # newer ones of C were there: none is now
    older = "time = make_timestamp_ns(1001000000), _timestamp_ms = 1001, price = 1.25"
    wrong.world.sql(
        f"UPDATE last SET _offset = 1, {older} WHERE symbol = 'B'"
    )  # older than the part, and too old for it
    assert ("changed", "rows", 0, 1, 2) in wrong.said(since=22)

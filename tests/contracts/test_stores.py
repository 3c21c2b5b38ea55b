"""Every store keeps the contract, and the contract finds stores that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.plugins.lake.local import FileStore
from headrace.store import Store
from headrace.testing.contracts.store import StoreContract
from headrace.testing.store import MemoryStore

pytest_plugins = ["pytester"]


class TestFileStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return FileStore(root=tmp_path / "lake", page_size=3)

    @pytest.fixture
    def other(self, store: Store, tmp_path: Path) -> Store:
        return FileStore(root=tmp_path / "lake", page_size=4)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore(page_size=3)


STRANGER = """
import threading

import pytest
from headrace.store import Page
from headrace.testing.contracts.store import StoreContract
from headrace.testing.store import CheckThenWriteStore, LaggingStore, MemoryStore, OverwritingStore

{broken}

class TestBroken(StoreContract):
    @pytest.fixture
    def store(self):
        return Broken(page_size=3)
"""

BROKEN = {
    "nothing": ("class Broken(MemoryStore): pass", set()),
    "ignores the condition": (
        "class Broken(OverwritingStore): pass",
        {"test_create_never_overwrites", "test_one_of_many_writers_wins", "test_any_name_is_a_name"},
    ),
    "checks and then writes": ("class Broken(CheckThenWriteStore): pass", {"test_one_of_many_writers_wins"}),
    "lists late": (
        "class Broken(LaggingStore): pass",
        {"test_what_was_created_is_listed_at_once", "test_pages_join_up", "test_create_stores_these_bytes"},
    ),
    "writes in two parts": (
        """
class Broken(MemoryStore):
    def create(self, key, body, metadata):
        if not super().create(key, body[: len(body) // 2], metadata):
            return False
        threading.Event().wait(0.02 if len(body) > 1_000_000 else 0)
        self.objects[key] = body
        return True
""",
        {"test_an_object_is_seen_whole_or_not_at_all"},
    ),
    "takes a repeated write for its own": (
        """
class Broken(MemoryStore):
    def create(self, key, body, metadata):
        return super().create(key, body, metadata) or self.objects[key] == body
""",
        {"test_create_never_overwrites"},
    ),
    "says that nothing follows": (
        """
class Broken(MemoryStore):
    def list(self, prefix, after=""):
        return Page(super().list(prefix, after).objects, truncated=False)
""",
        {"test_a_page_that_is_not_truncated_ends_the_listing", "test_pages_join_up"},
    ),
    "takes the prefix for a folder": (
        """
class Broken(MemoryStore):
    def list(self, prefix, after=""):
        return super().list(prefix if not prefix or prefix.endswith("/") else prefix + "/", after)
""",
        {"test_prefix_and_after_are_plain_strings"},
    ),
    "sorts by code units": (
        """
class Broken(MemoryStore):
    def list(self, prefix, after=""):
        page = super().list(prefix, after)
        return Page(sorted(page.objects, key=lambda o: o.key.encode("utf-16-be")), page.truncated)
""",
        {"test_a_page_that_is_not_truncated_ends_the_listing"},
    ),
    "reads from the front only": (
        """
class Broken(MemoryStore):
    def read(self, key, start=0, end=None):
        return super().read(key, max(0, start), end)
""",
        {"test_read_is_a_slice"},
    ),
    "reads nothing where nothing is": (
        """
class Broken(MemoryStore):
    def read(self, key, start=0, end=None):
        return super().read(key, start, end) or b""
""",
        {"test_an_empty_object_is_not_a_missing_one"},
    ),
    "tells the time of something else": (
        """
import attrs

class Broken(MemoryStore):
    def list(self, prefix, after=""):
        page = super().list(prefix, after)
        return Page([attrs.evolve(o, modified_s=-n) for n, o in enumerate(page.objects)], page.truncated)
""",
        {"test_a_store_that_tells_times_tells_when_an_object_was_put"},
    ),
    "deletes only what is there": (
        """
class Broken(MemoryStore):
    def delete(self, key):
        del self.objects[key]
""",
        {"test_delete_can_be_repeated"},
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_store(failing: Callable[..., set[str]], how: str):
    """Each store that breaks one promise fails the tests that stand for it; one that keeps all passes."""
    broken, expected = BROKEN[how]
    failed = failing(STRANGER.format(broken=broken), expected)
    assert expected <= failed
    assert bool(expected) == bool(failed)

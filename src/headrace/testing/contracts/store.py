"""What every store keeps."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.store import Store, StoredObject

WRITERS = 8

KEYS = (
    "s/_headrace/dataset.json",
    "s/partition=0/00000000000000000000.jsonl.gz",
    "s/partition=0/00000000000000000042.jsonl.gz",
    "s/partition=1/x",
    "s/partition=10/x",
    "s/partition=2/x",
    "s.b/x",
    "s0",
    "S/x",
    "~s%2Fb/x",
    "s t/a+b",
    "s/a#b?c=d&e:f",
    "s/q'\"*[x]",
    "s/a\\b",
    "s/ä\u2028",
    "s/\U0001f4a5",
    "s/\uff5e",  # sorts before the one above as UTF-8, after it as UTF-16
    "s/.hidden",
    "z/" + "x" * 200,
)
"""No two of them could be one name, and none lies below another one."""


class StoreContract:
    """A store: `create` is one atomic step, listings are complete and in order, reads are slices."""

    @pytest.fixture
    def store(self) -> Store:
        """Return an empty store; with small pages where their size can be chosen."""
        raise NotImplementedError

    @pytest.fixture
    def other(self, store: Store) -> Store:
        """Return a second store over the same place, as another process has it; the same one where there is no such thing."""
        return store

    # ---- create -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    def test_create_stores_these_bytes(self, store: Store, other: Store, size: int) -> None:
        """True means that the object is there, whole, for everybody."""
        body = random.Random(size).randbytes(size)
        assert store.create("s/x", body, {"start": "0", "note": "a b"}) is True
        assert other.read("s/x") == body
        assert [(o.key, o.size) for o in other.list("").objects] == [("s/x", size)]

    def test_create_never_overwrites(self, store: Store, other: Store) -> None:
        """False means that an object of this name was there, and it is as it was; the same bytes are no exception."""
        assert store.create("s/x", b"first", {})
        for body in (b"second, and longer", b"2", b"", b"first"):
            assert other.create("s/x", body, {}) is False
            assert store.create("s/x", body, {}) is False
        assert store.read("s/x") == b"first"

    def test_one_of_many_writers_wins(self, store: Store, other: Store) -> None:
        """Of any number of writers that race for one key exactly one is told True, and the object holds its bytes."""
        together = threading.Barrier(WRITERS)

        def write(number: int, key: str) -> bool:
            together.wait(60)
            return (store, other)[number % 2].create(key, b"%d" % number * 10_000, {})

        with ThreadPoolExecutor(WRITERS) as pool:
            for key in (f"s/partition={n}/x" for n in range(5)):
                won = list(pool.map(write, range(WRITERS), [key] * WRITERS))
                assert won.count(True) == 1, key
                assert store.read(key) == b"%d" % won.index(True) * 10_000

    def test_an_object_is_seen_whole_or_not_at_all(self, store: Store, other: Store) -> None:
        """Nobody reads or lists a part of an object that is being created."""
        size = 2_000_000
        seen = []
        for key in ("s/a", "s/b", "s/c"):
            with ThreadPoolExecutor(1) as pool:
                writing = pool.submit(store.create, key, b"x" * size, {})
                while not writing.done():
                    seen += [len(found)] if (found := other.read(key)) is not None else []
                    seen += [o.size for o in other.list(key).objects]
                assert writing.result() is True
        assert set(seen) <= {size}

    def test_threads_do_not_disturb_each_other(self, store: Store) -> None:
        """Objects of different names are created at the same time."""
        keys = [f"s/partition={n % 5}/{n:03}" for n in range(50)]
        with ThreadPoolExecutor(WRITERS) as pool:
            assert all(pool.map(lambda key: store.create(key, key.encode(), {}), keys))
        assert list(_all(store)) == sorted(keys)
        assert [store.read(key) for key in keys] == [key.encode() for key in keys]

    @pytest.mark.parametrize("key", KEYS)
    def test_any_name_is_a_name(self, store: Store, other: Store, key: str) -> None:
        """A key comes back as it was given, whatever is in it."""
        assert store.create(key, b"x", {})
        assert not other.create(key, b"y", {})
        assert list(_all(other)) == [key]
        assert other.read(key) == b"x"

    # ---- list -------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def full(self, store: Store) -> Store:
        """Return the store with an object of every key, each as long as its name."""
        for key in random.Random(3).sample(KEYS, len(KEYS)):
            assert store.create(key, key.encode(), {})
        return store

    def test_an_empty_store_has_one_empty_page(self, store: Store) -> None:
        """Nothing is there, and nothing follows."""
        for prefix, after in (("", ""), ("s/", ""), ("", "s"), ("s/partition=0/", "s/partition=0/5")):
            page = store.list(prefix, after)
            assert (list(page.objects), page.truncated) == ([], False)

    def test_pages_join_up(self, full: Store) -> None:
        """All pages together are all objects with their sizes, ascending by the bytes of their names."""
        expected = sorted(KEYS, key=str.encode)
        assert list(_all(full)) == expected
        assert [o.size for o in full.list("").objects] == [
            len(k.encode()) for k in expected[: len(full.list("").objects)]
        ]

    def test_a_page_that_is_not_truncated_ends_the_listing(self, full: Store) -> None:
        """Where more follows the page says so: a look-up ends at the first page that does not."""
        expected = sorted(KEYS, key=str.encode)
        for i, key in enumerate(["", *expected]):
            page = full.list("", key)
            assert [o.key for o in page.objects] == expected[i:][: len(page.objects)]
            assert page.truncated or [o.key for o in page.objects] == expected[i:]

    def test_prefix_and_after_are_plain_strings(self, full: Store) -> None:
        """Neither has to be a folder, nor a key that exists, nor to go with the other one."""
        cuts = ["", "\U0010ffff", *(key[:n] for key in KEYS for n in range(1, len(key) + 1))]
        afters = [*cuts, *(f"{cut}/" for cut in cuts), *(f"{cut}\U0010ffff" for cut in cuts)]
        chance = random.Random(11)
        for _ in range(300):
            prefix, after = chance.choice(cuts), chance.choice(afters)
            expected = sorted((k for k in KEYS if k.startswith(prefix) and k.encode() > after.encode()), key=str.encode)
            assert list(_all(full, prefix, after)) == expected, (prefix, after)

    def test_what_was_created_is_listed_at_once(self, store: Store, other: Store) -> None:
        """Each listing that begins after a create shows it: a position that is too low costs a refused write each time."""
        for number in range(20):
            key = f"s/partition=0/{number:020}"
            store.create(key, b"x", {})
            assert list(_all(other, "s/partition=0/"))[-1:] == [key]
            assert [o.key for o in other.list(key).objects] == [key]

    def test_a_listing_keeps_what_was_there_while_others_write(self, store: Store, other: Store) -> None:
        """New objects may or may not be listed; those that were there before are."""
        old = [f"s/{number:04}" for number in range(0, 200, 10)]
        for key in old:
            store.create(key, b"x", {})
        stop = threading.Event()

        def write() -> None:
            for number in range(200):
                if number % 10 and not stop.is_set():
                    other.create(f"s/{number:04}", b"y", {})

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            try:
                for _ in range(5):
                    found = list(_all(store, "s/"))
                    assert found == sorted(set(found))
                    assert set(old) <= set(found)
            finally:
                stop.set()
            writing.result()

    def test_a_store_that_tells_times_tells_when_an_object_was_put(self, store: Store, other: Store) -> None:
        """By one clock, the store's: an object that was put later is not older; a name that was deleted begins anew."""
        for key in ("s/a", "s/b", "s/c"):
            store.create(key, b"x", {})
        first, second, third = (o.modified_s for o in _objects(other, "s/"))
        if first is None or second is None or third is None:
            assert first is second is third is None, "a store tells all times or none"
            return
        assert first <= second <= third
        assert third < first + 600
        store.delete("s/a")
        store.create("s/a", b"x", {})
        (again,) = (o.modified_s for o in _objects(other, "s/a"))
        assert again is not None
        assert again >= third

    # ---- read -------------------------------------------------------------------------------------------------------

    def test_read_is_a_slice(self, store: Store) -> None:
        """Start and end mean what they mean in a slice: beyond the end, negative, crossed."""
        body = bytes(range(100))
        store.create("s/x", body, {})
        ends = (None, 0, 1, 50, 99, 100, 101, 10**6, -1, -50, -100, -101, -(10**6))
        for start in (0, 1, 50, 99, 100, 101, 10**6, -1, -50, -100, -101, -(10**6)):
            for end in ends:
                assert store.read("s/x", start, end) == body[start:end], (start, end)

    def test_an_empty_object_is_not_a_missing_one(self, store: Store) -> None:
        """None says that there is no such object, and nothing else does."""
        store.create("s/partition=0/x", b"", {})
        assert store.read("s/partition=0/x", -1024) == b""
        for key in ("s/partition=0/y", "s/partition=0", "s", "t/x", "s/partition=0/x/y", "s/partition=0/"[:-2]):
            assert store.read(key) is None, key

    # ---- the rest ---------------------------------------------------------------------------------------------------

    def test_delete_can_be_repeated(self, store: Store, other: Store) -> None:
        """What is deleted is gone for everybody; where nothing is, nothing happens; the name is free again."""
        for key in ("s/x", "s/y", "s/z/1"):
            store.create(key, b"x", {})
        for key in ("s/x", "s/x", "never", "s", "s/z", "s/y/1"):
            store.delete(key)
        assert list(_all(other)) == ["s/y", "s/z/1"]
        assert other.read("s/x") is None
        assert other.create("s/x", b"again", {})
        assert store.read("s/x") == b"again"

    def test_identity_stays(self, store: Store, other: Store) -> None:
        """The probe's verdict is found again by another process."""
        store.create("s/x", b"", {})
        assert store.identity() == store.identity() == other.identity()
        assert store.place

    def test_close_can_be_repeated(self, store: Store) -> None:
        """A second call does nothing."""
        store.create("s/x", b"", {})
        store.close()
        store.close()


def _all(store: Store, prefix: str = "", after: str = "") -> Iterator[str]:
    """Every key, page by page."""
    return (o.key for o in _objects(store, prefix, after))


def _objects(store: Store, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
    while True:
        page = store.list(prefix, after)
        yield from page.objects
        if not page.truncated:
            return
        after = page.objects[-1].key

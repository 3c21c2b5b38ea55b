"""What a client of S3 makes of each answer, and how often it asks: by a server that lies and fails when it is told to."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.errors import CommitUnknownError, ConfigError, HeadraceError, SinkUnavailableError
from headrace.layout import Layout
from headrace.plugins.lake.probe import probe
from headrace.records import Extent, Identity, Partition
from headrace.registry import Registry
from headrace.store import Store
from headrace.testing.contracts.store import StoreContract
from headrace.testing.fake_s3 import BUCKET, SLOW_S, FakeS3, Fault
from headrace.testing.servers.s3 import S3Endpoint, given
from headrace.uri import URI

pytest.importorskip("s3fs")
pytest.importorskip("obstore")

for name in ("aiobotocore", "botocore", "s3fs"):
    logging.getLogger(name).setLevel(logging.INFO)  # a page of text for each request


@pytest.fixture(scope="module", autouse=True)
def models() -> Iterator[None]:
    """Each client reads the descriptions of its service, a megabyte of JSON: once is enough for hundreds of them."""
    import botocore.session  # noqa: PLC0415 - not where the extra is missing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


CLIENTS = ["s3", "s3+obstore"]
ONCE = "request_timeout_s=30s&retry_reads_s=0s"
IMPATIENT = "request_timeout_s=0.7s&retry_reads_s=0s"


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with FakeS3() as server:
        yield server


@pytest.fixture(params=CLIENTS)
def made(request: pytest.FixtureRequest) -> Iterator[Callable[..., Store]]:
    """Make stores by URI, with this client; all are closed."""
    with contextlib.ExitStack() as stores:

        def make(url: str, place: str = f"{BUCKET}/lake", more: str = ONCE) -> Store:
            uri = f"{request.param}://KEY:SECRET@{place}?endpoint_url={url}&region=us-east-1&{more}"
            return stores.enter_context(contextlib.closing(Registry.discover().store(uri)))

        yield make


@pytest.fixture
def store(made: Callable[..., Store], s3: FakeS3) -> Store:
    return made(s3.url)


class TestFakeS3(StoreContract):
    """A server that is told to do nothing wrong keeps what the real ones keep."""

    @pytest.fixture
    def stores(self, s3: FakeS3) -> Iterator[Callable[[int], Store]]:
        with contextlib.ExitStack() as opened:

            def make(page_size: int) -> Store:
                uri = S3Endpoint(s3.url, "key", "secret").uri(f"{BUCKET}/lake", "s3+obstore", page_size=str(page_size))
                return opened.enter_context(contextlib.closing(Registry.discover().store(uri)))

            yield make

    @pytest.fixture
    def store(self, stores: Callable[[int], Store]) -> Store:
        return stores(3)

    @pytest.fixture
    def other(self, stores: Callable[[int], Store]) -> Store:
        return stores(4)


def fault_for(made: Callable[..., Store], s3: FakeS3, fault: Fault) -> Store:
    """A store that does not wait long where the fault is that nothing comes."""
    return made(s3.url, more=IMPATIENT if fault.kind == "silence" else ONCE)


def answer(status: int, code: str = "", *, carried_out: bool = False) -> Fault:
    return Fault("answer", status, code, carried_out)


UNKNOWN = {
    "conflict": answer(409, "ConditionalRequestConflict"),
    "conflict, won": answer(409, "ConditionalRequestConflict", carried_out=True),
    "aborted": answer(409, "OperationAborted"),
    "internal": answer(500, "InternalError"),
    "internal, stored": answer(500, "InternalError", carried_out=True),
    "gateway": answer(502),
    "unavailable": answer(503, "ServiceUnavailable"),
    "gateway time-out": answer(504),
    "a page of a load balancer": answer(404, ""),
    "an error that calls itself success": answer(200, "InternalError"),
    "an error that calls itself success, stored": answer(200, "InternalError", carried_out=True),
    "reset": Fault("reset"),
    "reset, stored": Fault("reset", carried_out=True),
    "silence": Fault("silence"),
    "silence, stored": Fault("silence", carried_out=True),
}
NOT_STORED = {
    "slow down": answer(503, "SlowDown"),
    "too many": answer(429, "TooManyRequests"),
    "damaged": Fault("damage"),
    "bad digest": answer(400, "BadDigest"),
    "too slow": answer(400, "RequestTimeout"),
    "not up yet": answer(503, "XMinioServerNotInitialized"),
}
SETTINGS = {
    "denied": (answer(403, "AccessDenied"), "s3:PutObject"),
    "unknown key": (answer(403, "InvalidAccessKeyId"), "AWS_ACCESS_KEY_ID"),
    "wrong secret": (answer(403, "SignatureDoesNotMatch"), "AWS_ACCESS_KEY_ID"),
    "expired": (answer(400, "ExpiredToken"), "AWS_ACCESS_KEY_ID"),
    "clock": (answer(403, "RequestTimeTooSkewed"), "clock"),
    "no bucket": (answer(404, "NoSuchBucket"), "make the bucket"),
    "elsewhere": (answer(301, "PermanentRedirect"), "region="),
    "wrong region": (answer(400, "AuthorizationHeaderMalformed"), "region="),
    "no condition": (answer(501, "NotImplemented"), "create-only"),
    "no such class": (answer(400, "InvalidStorageClass"), "storage_class"),
    "key service": (answer(400, "KMS.NotFoundException"), "sse_kms_key_id"),
    "too large": (answer(400, "EntityTooLarge"), "smaller segments"),
    "anything else": (answer(400, "InvalidArgument"), "settings"),
}


@pytest.mark.parametrize("how", UNKNOWN)
def test_a_write_whose_answer_is_not_known(made: Callable[..., Store], s3: FakeS3, how: str):
    """It is said to be unknown, after one PUT; the same call again settles it, whatever had become of the first."""
    store = fault_for(made, s3, UNKNOWN[how])
    s3.fail("PUT", UNKNOWN[how])
    with pytest.raises(CommitUnknownError, match="cannot create"):
        store.create("s/x", b"body", {})
    assert 1 == s3.count("PUT")
    assert made(s3.url).create("s/x", b"body", {}) is not UNKNOWN[how].carried_out
    assert {"lake/s/x": b"body"} == s3.objects


@pytest.mark.parametrize("how", NOT_STORED)
def test_a_write_that_is_refused_for_now(store: Store, s3: FakeS3, how: str):
    """Nothing was stored, one PUT was sent, and a later one succeeds."""
    s3.fail("PUT", NOT_STORED[how])
    with pytest.raises(SinkUnavailableError):
        store.create("s/x", b"body", {})
    assert (1, {}) == (s3.count("PUT"), s3.objects)
    assert store.create("s/x", b"body", {})


@pytest.mark.parametrize("how", SETTINGS)
def test_a_write_that_a_setting_stands_against(store: Store, s3: FakeS3, how: str):
    """It is no use to try again, and the message says what is."""
    fault, way_out = SETTINGS[how]
    s3.fail("PUT", fault)
    with pytest.raises(ConfigError, match="cannot create") as raised:
        store.create("s/x", b"body", {})
    assert way_out in str(raised.value)
    assert "SECRET" not in str(raised.value)
    assert 1 == s3.count("PUT")


def test_a_name_that_is_taken(store: Store, s3: FakeS3):
    """A 412 is an answer and no error, and so is one PUT."""
    s3.objects["lake/s/x"] = b"there"
    assert store.create("s/x", b"body", {}) is False
    assert (1, {"lake/s/x": b"there"}) == (s3.count("PUT"), s3.objects)


@pytest.mark.parametrize("times", [1, 20])
def test_one_request_an_object(store: Store, s3: FakeS3, times: int):
    """An object of any size costs one PUT and nothing else, on a connection that was used before as well."""
    for number in range(times):
        assert store.create(f"s/{number}", bytes(7_000_000 if number == 0 else 10), {"start": "0"})
    assert [("PUT", f"lake/s/{n}") for n in range(times)] == [(a.method, a.key) for a in s3.asked]


def test_a_connection_that_breaks_is_not_used_for_a_second_try(store: Store, s3: FakeS3):
    """Nor below the client: aiohttp would repeat a PUT where a connection breaks that was kept from the request before."""
    assert store.create("s/a", b"", {})
    for carried_out in (False, True):
        s3.fail("PUT", Fault("reset", carried_out=carried_out))
        with pytest.raises(CommitUnknownError):
            store.create("s/b", b"", {})
        assert 1 == s3.count("PUT", "lake/s/b")
        s3.asked.clear()


def test_aiohttp_alone_repeats(s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
    """The negative control: with aiobotocore's own session the same fault has the PUT sent twice."""
    import headrace.plugins.lake.s3 as module  # noqa: PLC0415 - not where the extra is missing

    monkeypatch.setattr(module, "OnceSession", module.OnceSession.__base__)
    store = Registry.discover().store(f"s3://K:S@{BUCKET}/lake?endpoint_url={s3.url}&region=us-east-1&{ONCE}")
    s3.fail("PUT", Fault("reset", carried_out=True))
    assert store.create("s/b", b"", {}) is False  # refused by its own first attempt
    assert 2 == s3.count("PUT", "lake/s/b")
    store.close()


def test_a_redirect_is_not_followed(made: Callable[..., Store], s3: FakeS3):
    """A bucket of another region is a setting to mend, not a second request."""
    store = made(s3.url)
    s3.fail("PUT", Fault("answer", 301, "PermanentRedirect", headers=(("x-amz-bucket-region", "eu-west-1"),)))
    with pytest.raises(ConfigError, match="region="):
        store.create("s/x", b"", {})
    assert ["PUT"] == [a.method for a in s3.asked]


def test_nobody_listens(made: Callable[..., Store]):
    """Nothing was sent, so nothing was stored."""
    store = made("http://127.0.0.1:1")
    with pytest.raises(SinkUnavailableError):
        store.create("s/x", b"", {})
    with pytest.raises(SinkUnavailableError):
        store.list("")


def test_an_error_that_is_being_handled_is_another_one(store: Store, s3: FakeS3):
    """Whoever asks again while an error is handled is told of what happened then, not of the first one."""
    s3.fail("PUT", answer(403, "AccessDenied"), Fault("reset"))
    try:
        store.create("s/x", b"", {})
    except ConfigError:
        with pytest.raises(CommitUnknownError):
            store.create("s/x", b"", {})
    assert 2 == s3.count("PUT")


def test_each_write_carries_a_digest(store: Store, s3: FakeS3):
    """One that the store checks: Content-MD5, or SHA-256 as a checksum; and it waits for no leave to send the body."""
    store.create("s/x", b"body", {})
    headers = s3.asked[-1].headers
    digests = {"content-md5": hashlib.md5(b"body"), "x-amz-checksum-sha256": hashlib.sha256(b"body")}
    assert [True] == [headers[n] == base64.b64encode(d.digest()).decode() for n, d in digests.items() if n in headers]
    assert "expect" not in headers


# ---- reading ----------------------------------------------------------------------------------------------------


READS: dict[str, Callable[[Store], object]] = {
    "GET": lambda store: store.read("s/x"),
    "LIST": lambda store: store.list("s/").objects,
    "DELETE": lambda store: store.delete("s/x"),
}
FAILING = {k: v for k, v in {**UNKNOWN, **NOT_STORED}.items() if "stored" not in k and "damage" not in k}


@pytest.mark.parametrize("method", READS)
@pytest.mark.parametrize("how", FAILING)
def test_a_read_that_fails(made: Callable[..., Store], s3: FakeS3, method: str, how: str):
    """Nothing is said to be missing because a store did not answer: it is unavailable."""
    store = fault_for(made, s3, FAILING[how])
    if FAILING[how].status == 200 and (method != "LIST" or "obstore" in store.place):
        pytest.skip(
            "these bytes may be the object's, and obstore takes them for an empty listing: known, see the decision on S3 clients"
        )
    s3.objects["lake/s/x"] = b"body"
    s3.fail(method, FAILING[how])
    with pytest.raises(SinkUnavailableError):
        READS[method](store)
    assert 1 == s3.count(method)


@pytest.mark.parametrize("method", ["GET", "LIST"])
def test_half_an_answer(store: Store, s3: FakeS3, method: str):
    """Half of an object is not an object, and half of a listing is not its end."""
    s3.objects["lake/s/x"] = b"body" * 1000
    s3.fail(method, Fault("cut"))
    with pytest.raises(SinkUnavailableError):
        READS[method](store)


@pytest.mark.parametrize("method", READS)
def test_reads_are_tried_again(made: Callable[..., Store], s3: FakeS3, method: str):
    """They change nothing, so they may be repeated, here and not by the client."""
    store = made(s3.url, more="retry_reads_s=30s")
    s3.objects["lake/s/x"] = b"body"
    s3.fail(method, Fault(), Fault("reset"), answer(503, "SlowDown"))
    READS[method](store)
    assert 4 == s3.count(method)


@pytest.mark.parametrize("method", READS)
def test_a_read_that_a_setting_stands_against(store: Store, s3: FakeS3, method: str):
    """A bucket that is not there is not an empty lake, nor is one that may not be read."""
    for fault in (answer(404, "NoSuchBucket"), answer(403, "AccessDenied")):
        s3.fail(method, fault)
        with pytest.raises(ConfigError):
            READS[method](store)


def test_a_slow_link(made: Callable[..., Store], s3: FakeS3):
    """A second for each 256 KiB that is carried, up and down, besides the time-out that it takes longer than."""
    store, body = made(s3.url, more=IMPATIENT), os.urandom(1 << 20)
    for method in ("PUT", "GET"):
        s3.fail(method, Fault("slow"))
    for call, expected in ((lambda: store.create("s/x", body, {}), True), (lambda: store.read("s/x"), body)):
        began = time.monotonic()
        assert call() == expected
        assert time.monotonic() - began > SLOW_S * 0.9 > 0.7


def test_a_read_that_stands_still(made: Callable[..., Store], s3: FakeS3):
    """Half of a large object comes and then nothing more: that is noticed within the time-out, not after its allowance."""
    s3.objects["lake/s/x"] = bytes(32 << 20)  # allowed two minutes
    s3.fail("GET", Fault("stall"))
    began = time.monotonic()
    with pytest.raises(SinkUnavailableError):
        made(s3.url, more=IMPATIENT).read("s/x")
    assert time.monotonic() - began < 30


def test_what_obstore_takes_for_stored(s3: FakeS3):
    """A limit of this client, which the pages name: a 200 with an ETag and an error in its body; s3fs sees the error."""
    fault = Fault("answer", 200, "InternalError", headers=(("ETag", '"x"'),))
    s3.fail("PUT", fault, fault)
    uri = f"://K:S@{BUCKET}/lake?endpoint_url={s3.url}&region=us-east-1&{ONCE}"
    with contextlib.closing(Registry.discover().store(f"s3+obstore{uri}")) as store:
        assert store.create("s/x", b"", {}) is True
    with contextlib.closing(Registry.discover().store(f"s3{uri}")) as store, pytest.raises(CommitUnknownError):
        store.create("s/x", b"", {})
    assert {} == s3.objects


def test_what_is_missing(store: Store, s3: FakeS3):
    """A store says so by a code; a 404 of whatever stands before it is neither an end of a chain nor a deletion."""
    s3.objects["lake/s/x"] = b"body"
    for method, call in (("GET", store.read), ("DELETE", store.delete)):
        s3.fail(method, answer(404, ""), answer(404, "NoSuchKey"))
        with pytest.raises(SinkUnavailableError):
            call("s/x")
        assert call("s/x") is None


def test_pages(made: Callable[..., Store], s3: FakeS3):
    """A page of a thousand costs one LIST; it says that more follows where it may."""
    s3.objects.update({f"lake/s/{n:05}": b"" for n in range(1500)})
    store = made(s3.url)
    page = store.list("s/")
    assert (1000, True, 1) == (len(page.objects), page.truncated, s3.count("LIST"))
    page = store.list("s/", page.objects[-1].key)
    assert (500, False, 2) == (len(page.objects), page.truncated, s3.count("LIST"))


def test_a_look_up_costs_two_requests(made: Callable[..., Store], s3: FakeS3):
    """One LIST that begins behind the hint, one read of an object's last bytes."""
    s3.objects.update({f"lake/s/{n:020}.jsonl.gz": b"x" * 5000 for n in range(3)})
    store = made(s3.url)
    page = store.list("s/", f"s/{2:020}")
    assert [f"s/{2:020}.jsonl.gz"] == [o.key for o in page.objects]
    assert b"x" * 1024 == store.read(page.objects[-1].key, -1024)
    assert [("LIST", None), ("GET", "bytes=-1024")] == [(a.method, a.headers.get("range")) for a in s3.asked]


# ---- stores that lie --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("conditions", "words"), [("ignored", "8 were told"), ("two steps", "were told")])
def test_a_store_that_lies_is_refused(made: Callable[..., Store], conditions: str, words: str):
    """A condition that is ignored, or looked at before and not while it is written, is found by the probe (B10)."""
    with FakeS3(conditions=conditions) as liar, pytest.raises(ConfigError, match=rf"cannot hold exactly-once.*{words}"):
        probe(made(liar.url), Layout("s"))


@pytest.mark.parametrize("client", CLIENTS)
def test_at_least_once_is_asked_for_by_name(client: str):
    """A sink over a store that lies opens nothing, pins nothing, and says how it could; asked by name, it opens."""
    extents = {Partition("s", 0): Extent(0, 0, 0, Identity("c", "t", "read_committed", 1))}
    with FakeS3(conditions="ignored") as liar:
        uri = f"{client}://KEY:SECRET@{BUCKET}/lake?endpoint_url={liar.url}&region=us-east-1"
        with Registry.discover().sink(uri) as sink, pytest.raises(ConfigError, match="guarantee=at-least-once"):
            sink.bind(extents)
        assert {} == liar.objects
        with Registry.discover().sink(f"{uri}&guarantee=at-least-once") as sink:
            sink.bind(extents)
        assert ["lake/s/_headrace/dataset.json"] == list(liar.objects)


def test_a_store_that_does_not_lie(store: Store, s3: FakeS3):
    """It is probed once; the verdict stays in the lake."""
    probe(store, Layout("s"))
    before = len(s3.asked)
    probe(store, Layout("s"))
    assert 1 == len(s3.asked) - before


def test_a_store_that_lists_in_another_order(store: Store, s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
    """A listing that does not ascend would end a chain too early: such a store is refused."""
    s3.objects.update({"lake/s/b": b"", "lake/s/a": b""})
    monkeypatch.setattr("headrace.testing.fake_s3.sorted", lambda keys, **_: list(keys), raising=False)
    with pytest.raises(ConfigError, match="ascending"):
        store.list("s/")


# ---- the rest ---------------------------------------------------------------------------------------------------


def test_settings_arrive(made: Callable[..., Store], s3: FakeS3):
    """Encryption, its key and the storage class are asked for with each PUT."""
    store = made(s3.url, more="sse=aws:kms&sse_kms_key_id=k1&storage_class=standard_ia")
    store.create("s/x", b"", {"start": "7"})
    headers = s3.asked[-1].headers
    assert ("aws:kms", "k1", "STANDARD_IA", "7") == (
        headers["x-amz-server-side-encryption"],
        headers["x-amz-server-side-encryption-aws-kms-key-id"],
        headers["x-amz-storage-class"],
        headers["x-amz-meta-start"],
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("storage_class=GLACIER", "readable at once"),
        ("storage_class=DEEP_ARCHIVE", "readable at once"),
        ("sse=rot13", "expected one of"),
        ("sse_kms_key_id=k", "sse=aws:kms"),
        ("ca_file=/no/such/file", "expected certificates"),
        ("page_size=1001", "page_size"),
        ("request_timeout_s=0s", "request_timeout_s"),
        ("no_such=1", "no setting 'no_such'"),
    ],
)
def test_wrong_settings(made: Callable[..., Store], setting: str, words: str):
    """They are found when the store is made, before anything is sent."""
    with pytest.raises(ConfigError, match=words):
        made("http://127.0.0.1:1", more=setting)


@pytest.mark.parametrize("client", CLIENTS)
def test_credentials_in_the_endpoint(client: str, monkeypatch: pytest.MonkeyPatch):
    """The endpoint is shown and kept, so they are refused there, from the URI and from the environment, and not shown."""
    url = "http://me:PASSWD@127.0.0.1:9"
    with pytest.raises(ConfigError, match="credentials in endpoint_url") as raised:
        Registry.discover().store(f"{client}://{BUCKET}/lake?endpoint_url={url}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ConfigError, match="access_key and secret_key") as again:
        Registry.discover().store(f"{client}://{BUCKET}/lake")
    assert "PASSWD" not in f"{raised.value} {again.value}"


@pytest.mark.parametrize("client", CLIENTS)
def test_credentials_that_cannot_be_had_now(client: str, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who hands them out is down, which passes: nothing is said to be wrong with the settings, and later they are used."""
    import aiobotocore.utils  # noqa: PLC0415 - not where the extra is missing

    monkeypatch.setattr(aiobotocore.utils.AioContainerMetadataFetcher, "SLEEP_TIME", 0)
    (tmp_path / "token").write_text("token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{s3.url}/{BUCKET}/role",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    uri = f"{client}://{BUCKET}/lake?endpoint_url={s3.url}&region=us-east-1&{ONCE}"
    s3.fail("GET", *[answer(503, "")] * (3 if client == "s3" else 1))
    s3.objects["role"] = (
        b'{"AccessKeyId": "HANDED", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}'
    )
    with contextlib.closing(Registry.discover().store(uri)) as store:
        with pytest.raises((SinkUnavailableError, CommitUnknownError)):
            store.create("s/x", b"", {})
        assert 0 == s3.count("PUT")
        assert store.create("s/x", b"", {})
    assert "HANDED" in s3.asked[-1].headers["authorization"]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("uri", ["", "/lake", "?region=x"])
def test_a_uri_without_a_bucket(client: str, uri: str):
    """It is refused with an example."""
    with pytest.raises(ConfigError, match="bucket"):
        Registry.discover().store(f"{client}://{uri}")


def test_secrets_are_not_shown(made: Callable[..., Store], s3: FakeS3):
    """Neither by a store, nor by its place and its identity."""
    store = made(s3.url, more="session_token=TOKEN")
    shown = f"{store!r} {store.place} {store.identity()} {store._requests() if hasattr(store, '_requests') else ''}"
    assert [] == [word for word in ("KEY", "SECRET", "TOKEN") if word in shown]


def test_identity(made: Callable[..., Store], s3: FakeS3):
    """The endpoint, the bucket and the client with its version: another one of them is probed again (B10)."""
    one, same = made(s3.url).identity(), made(s3.url).identity()
    assert one == same
    assert all(word in one for word in (s3.url, BUCKET, "Store"))
    assert any(word in one for word in ("s3fs 2", "obstore 0"))
    assert one != made("http://127.0.0.1:1").identity() != made(s3.url, place=f"{BUCKET}/other").identity()


def test_environment(s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
    """Credentials, region and endpoint come from the environment as usual."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "FROMENV",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "eu-west-7",
        "AWS_DEFAULT_REGION": "eu-west-7",
        "AWS_ENDPOINT_URL": s3.url,
    }.items():
        monkeypatch.setenv(name, value)
    for client in CLIENTS:
        with contextlib.closing(Registry.discover().store(f"{client}://{BUCKET}/lake")) as store:
            store.create(f"s/{client}", b"", {})
        assert "FROMENV" in s3.asked[-1].headers["authorization"]
        assert "eu-west-7" in s3.asked[-1].headers["authorization"]


def test_many_at_once(store: Store, s3: FakeS3):
    """Requests of several threads are under way at the same time: the server answers eight only when all have come."""
    s3.together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda n: store.create(f"s/{n}", b"", {}), range(16)))


def test_a_closed_store_leaves_nothing_behind(made: Callable[..., Store], s3: FakeS3):
    """No connection, and no thread beyond the one that fsspec has for all."""
    made(s3.url).create("s/0", b"", {})
    threads = {t.name for t in threading.enumerate()}
    for number in range(1, 4):
        store = made(s3.url)
        store.create(f"s/{number}", b"", {})
        store.close()
    assert {t for t in {t.name for t in threading.enumerate()} - threads if "process_request" not in t} == set()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(made: Callable[..., Store], s3: FakeS3):
    """A child makes connections of its own, or says that it must: it never waits for its parent's."""
    store = made(s3.url)
    store.create("s/parent", b"", {})
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                code = 0 if store.create("s/child", b"", {}) else 2
            except HeadraceError as error:
                code = 0 if "open it in the child" in str(error) else 3
        os._exit(code)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.02)
    assert 0 == os.waitstatus_to_exitcode(ended[1])
    assert store.create("s/parent again", b"", {})


def test_a_server_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    """Its credentials stand in its URL, or where S3's clients look for theirs; without a URL there is none."""
    for name in ("HEADRACE_TEST_MINIO", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert given("HEADRACE_TEST_MINIO") is None
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "r"}.items():
        monkeypatch.setenv(name, value)
    for url, expected in {
        "https://me:p%2Fw@minio.example:9000": S3Endpoint("https://minio.example:9000", "me", "p/w", "r"),
        "http://127.0.0.1:9000": S3Endpoint("http://127.0.0.1:9000", "k", "s", "r"),
    }.items():
        monkeypatch.setenv("HEADRACE_TEST_MINIO", url)
        assert expected == given("HEADRACE_TEST_MINIO")
    assert "p/w" not in repr(S3Endpoint("u", "me", "p/w"))
    parsed = URI.parse(S3Endpoint("http://h:1", "me", "p/w+x@y").uri("bucket/a b"))
    assert ("me", "p/w+x@y", "bucket", "/a b") == (parsed.user, parsed.password, parsed.host, parsed.path)


# ---- Google and Azure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["gs://bucket/lake", "az://container/lake?account=someone"])
def test_other_clouds_are_made_by_uri(uri: str):
    """They connect at the first request, and say where they are."""
    with contextlib.closing(Registry.discover().store(uri)) as store:
        assert uri.partition("?")[0] == store.place
        assert "obstore 0" in store.identity()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(412, "ConditionNotMet", False), (409, "BlobAlreadyExists", False), (409, "OperationAborted", CommitUnknownError)],
)
def test_a_name_that_is_taken_at_azure(monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: object):
    """Azure says so by a 409 with a code of its own; any other 409 is not known."""
    from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415 - not where the extra is missing

    def put(*_: object, **__: object) -> None:
        text = f"Object already exists: Server returned non-2xx status code: {status} Conflict: <?xml?><Error><Code>{code}</Code>"
        raise AlreadyExistsError(text)

    monkeypatch.setattr("obstore.put", put)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    with contextlib.closing(Registry.discover().store("az://container?account=someone")) as store:
        if expected is False:
            assert store.create("x", b"", {}) is False
        else:
            with pytest.raises(CommitUnknownError):
                store.create("x", b"", {})

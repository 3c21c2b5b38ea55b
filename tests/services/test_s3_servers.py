"""A lake on real S3 servers: what goes wrong there, and the whole way from Kafka to DuckDB."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import secrets
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.errors import CommitUnknownError, ConfigError, SinkUnavailableError, TransientError
from headrace.registry import Registry
from headrace.store import Store
from headrace.testing.oracle import read_lake
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.process import free_port
from headrace.testing.servers.s3 import S3Endpoint, S3Server
from headrace.testing.servers.tls import Authority
from headrace.testing.servers.versity import Versity

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

CLIENTS = ["s3", "s3+obstore"]
CONTRACT = "from headrace.contract import contract\n\n@contract(version=1)\nclass Row:\n    n: int\n"


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Store]:
    with contextlib.closing(Registry.discover().store(uri)) as store:
        yield store


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=cwd)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done


def stored(endpoint: S3Endpoint, bucket: str, prefix: str, stream: str) -> dict[int, list[int]]:
    """Offsets by partition, read by another client and another reader."""
    found = {k.removeprefix(f"{prefix}/"): v for k, v in endpoint.objects(bucket, f"{prefix}/").items()}
    return {n: [r.offset for r in p.records] for n, p in read_lake(found, stream).items()}


def wait(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


# ---- what a server refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    [
        {"ContentMD5": base64.b64encode(hashlib.md5(b"body").digest()).decode()},
        {"ChecksumSHA256": base64.b64encode(hashlib.sha256(b"body").digest()).decode()},
    ],
    ids=["Content-MD5", "SHA-256"],
)
def test_a_damaged_body_is_refused(s3: S3Endpoint, digest: dict[str, str]):
    """The digests that the clients send are compared with the body that came; one that differs is not stored."""
    bucket = s3.bucket()
    with contextlib.closing(s3.client()) as client:
        client.put_object(Bucket=bucket, Key="x", Body=b"body", **digest)
        with pytest.raises(ClientError) as raised:
            client.put_object(Bucket=bucket, Key="y", Body=b"bodY", **digest)
    assert 400 == raised.value.response["ResponseMetadata"]["HTTPStatusCode"]
    assert {"x": b"body"} == s3.objects(bucket)


@contextlib.contextmanager
def damaging(endpoint: S3Endpoint) -> Iterator[str]:
    """A way to the server on which one byte of a body becomes another one; the address to use instead of its own."""
    address = ("127.0.0.1", int(endpoint.url.rpartition(":")[2]))

    open_: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data.replace(b"precious", b"Precious"))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(address) as server:
                open_.extend((server, self.request))
                back = threading.Thread(target=pump, args=(server, self.request))
                back.start()
                pump(self.request, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as proxy:  # its end waits for the connections' threads
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()
            for end in open_:  # clients keep connections for later
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_write_that_is_damaged_on_its_way(s3: S3Endpoint, client: str):
    """The server notices, nothing is stored, and the client says that it may be sent again."""
    bucket = s3.bucket()
    with damaging(s3) as url, opened(s3.uri(bucket, client, endpoint_url=url)) as store:
        with pytest.raises((SinkUnavailableError, ConfigError)) as raised:
            store.create("x", b"precious", {})
        assert isinstance(raised.value, SinkUnavailableError), raised.value
        assert store.create("y", b"common", {})
    assert {"y": b"common"} == s3.objects(bucket)


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_wrong_is_said(s3: S3Endpoint, client: str):
    """A bucket that is not there, a key that nobody knows, a secret that is not the key's."""
    bucket = s3.bucket()
    for uri, words in (
        (s3.uri("no-such-bucket", client), "make the bucket"),
        (s3.uri(bucket, client).replace(s3.access_key, "nobody", 1), "credentials"),
        (s3.uri(bucket, client).replace(s3.secret_key, "wrong"), "credentials"),
    ):
        with opened(uri) as store:
            for ask in (lambda: store.create("x", b"", {}), lambda: store.list(""), lambda: store.read("x")):
                with pytest.raises(ConfigError, match=words) as raised:
                    ask()
                assert s3.secret_key not in str(raised.value)


# ---- TLS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Minio, Versity])
def test_tls(tmp_path: Path, kind: type[S3Server], monkeypatch: pytest.MonkeyPatch):
    """A private authority is trusted by ca_file, or by AWS_CA_BUNDLE, and by nothing else."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    try:
        with kind(folder=tmp_path / "server", authority=Authority(tmp_path)) as server:
            bucket = server.endpoint.bucket()
            for client in CLIENTS:
                with opened(server.endpoint.uri(bucket, client)) as store:
                    assert store.create(client, b"body", {})
                    assert b"body" == store.read(client)
                with opened(server.endpoint.uri(bucket, client, ca_file="")) as store:
                    with pytest.raises(ConfigError, match="ca_file"):
                        store.create("x", b"", {})
                    with pytest.raises(ConfigError, match="ca_file"):
                        store.read(client)
                with opened(server.endpoint.uri(bucket, client, ca_file="", verify="false")) as store:
                    assert b"body" == store.read(client)
                with monkeypatch.context() as patch:
                    patch.setenv("AWS_CA_BUNDLE", server.endpoint.ca_file)
                    with opened(server.endpoint.uri(bucket, client, ca_file="")) as store:
                        assert b"body" == store.read(client)
    except ServerMissing as exc:
        pytest.skip(str(exc))


# ---- a server that dies -------------------------------------------------------------------------------------------


def publish(kafka: str, topic: str, first: int, last: int) -> None:
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "log_level": 0})
    for n in range(first, last):
        producer.produce(topic, b'{"n":%d}' % n, partition=n % 2)
    assert 0 == producer.flush(30)


@pytest.fixture
def topic(kafka: str) -> str:
    name = f"t-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(30)
    return name


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_killed(kafka: str, topic: str, tmp_path: Path, client: str):
    """It is killed under a running stream, twice, and comes back: no record is lost and none is there twice."""
    told = tmp_path / "told"
    try:
        server = Minio(folder=tmp_path / "minio")
        server.start()
    except ServerMissing as exc:
        pytest.skip(str(exc))
    with contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        bucket = server.endpoint.bucket()
        uri = server.endpoint.uri(f"{bucket}/lake", client, request_timeout_s="5s")
        command = [sys.executable, "-m", "headrace", "stream", f"kafka://{kafka}/{topic}?group=g-{topic}", uri]
        command += ["--flush-records", "200", "--flush-age", "200ms"]
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stack.enter_context(told.open("wb")))
        )
        stack.callback(process.kill)

        def count() -> int:
            return sum(len(offsets) for offsets in stored(server.endpoint, bucket, "lake", topic).values())

        for n in range(3):
            publish(kafka, topic, n * 3000, (n + 1) * 3000)
            if n < 2:
                wait(lambda: any(key.endswith(".gz") for key in server.endpoint.objects(bucket)))
                server.kill()
                publish(kafka, topic, 9000 + n * 500, 9500 + n * 500)
                server.start()
        wait(lambda: process.poll() is not None or count() >= 10_000)
        process.terminate()
        assert 0 == process.wait(60), told.read_text()
        assert {0: list(range(5000)), 1: list(range(5000))} == stored(server.endpoint, bucket, "lake", topic)
        assert server.secret_key not in told.read_text()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_stands_still(tmp_path: Path, client: str):
    """A write to a server that does not answer is unknown within the time-out; it may be stored when the server wakes."""
    try:
        server = Minio(folder=tmp_path / "minio")
        server.start()
    except ServerMissing as exc:
        pytest.skip(str(exc))
    with contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        bucket = server.endpoint.bucket()
        store = stack.enter_context(
            opened(server.endpoint.uri(bucket, client, request_timeout_s="3s", retry_reads_s="0s"))
        )
        assert store.create("a", b"", {})
        server.pause()
        began = time.monotonic()
        with pytest.raises(CommitUnknownError):
            store.create("b", b"body", {})
        assert time.monotonic() - began < 60
        with pytest.raises(SinkUnavailableError):
            store.read("a")
        server.resume()
        wait(lambda: settled(store))
        assert b"body" == store.read("b")
        server.kill()
        with pytest.raises(TransientError):
            store.create("c", b"", {})


def settled(store: Store) -> bool:
    try:
        return store.create("b", b"body", {}) in (True, False)
    except TransientError:
        return False


# ---- the whole way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "client"), [("minio", "s3"), ("versity", "s3+obstore")])
def test_from_kafka_to_duckdb(
    kafka: str, topic: str, server: str, client: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """stream, load and show, by URI alone; each record is there once, by an independent reader too."""
    s3: S3Endpoint = request.getfixturevalue(server)
    bucket = s3.bucket()
    lake, silver = s3.uri(f"{bucket}/lakes/a", client), f"duckdb://{tmp_path}/silver.duckdb?table=rows"
    (tmp_path / "contracts.py").write_text(CONTRACT)
    source = f"kafka://{kafka}/{topic}?group=g-{topic}"
    for first in (0, 500):
        publish(kafka, topic, first, first + 500)
        run("stream", source, lake, "--until-end")
        done = run("load", lake, silver, "--contract", f"{tmp_path}/contracts.py:Row", "--json")
        assert s3.secret_key not in done.stdout + done.stderr

    assert {0: list(range(500)), 1: list(range(500))} == stored(s3, bucket, "lakes/a", topic)
    import duckdb  # noqa: PLC0415 - the reader beside it

    with duckdb.connect(f"{tmp_path}/silver.duckdb", read_only=True) as connection:
        assert (1000, 1000, 999) == connection.execute(
            "select count(*), count(distinct n), max(n) from rows"
        ).fetchone()
    shown = run("show", lake, "--stream", topic, "--partition", "1", "--json")
    assert 500 == sum(s["records"] for s in json.loads(shown.stdout)["segments"])
    assert s3.secret_key not in shown.stdout + shown.stderr
    keys = [k for k in s3.objects(bucket, "lakes/a/") if "partition=" in k and k.endswith(".gz")]
    lines = [line for k in keys for line in gzip.decompress(s3.objects(bucket, k)[k]).splitlines()]
    assert set(range(1000)) == {json.loads(line)["value"]["n"] for line in lines}


def test_both_clients_share_a_lake(s3: S3Endpoint):
    """What one wrote the other one reads, and neither overwrites what is there."""
    bucket = s3.bucket()
    with opened(s3.uri(bucket, "s3")) as one, opened(s3.uri(bucket, "s3+obstore")) as other:
        assert one.create("s/a b+c", b"1", {})
        assert not other.create("s/a b+c", b"2", {})
        assert b"1" == other.read("s/a b+c")
        assert other.create("s/ü", b"3", {})
        assert [o.key for o in one.list("").objects] == [o.key for o in other.list("").objects] == ["s/a b+c", "s/ü"]


def test_nobody_listens_at_a_free_port(s3: S3Endpoint):
    """An endpoint where no server is: the next attempt may find one, so it is transient."""
    with (
        opened(s3.uri("bucket", endpoint_url=f"http://127.0.0.1:{free_port()}")) as store,
        pytest.raises(SinkUnavailableError),
    ):
        store.create("x", b"", {})

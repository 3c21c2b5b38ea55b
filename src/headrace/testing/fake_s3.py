"""
A server that speaks enough of S3 to be lied by and to fail: what no real server does when it is asked to.

It keeps objects in memory, counts what it was asked, checks the digest of each PUT, does not look at signatures, and
answers wrongly where a test says so. It is no store for anything else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import attrs

BUCKET = "bucket"
"""The one that there is."""

SLOW_S = 1.6
"""How long a slow answer takes."""

_PIECES = 16


@attrs.frozen
class Fault:
    """
    What happens to one request.

    Attributes:
        kind: "answer" with *status* and *code*; "reset" of the connection; "silence", the connection stays; "cut", half of
            the answer comes; "stall", half of it, and the connection stays; "slow", all of it within SLOW_S; "damage", a
            byte of what was sent is another one when it arrives.

        status: Of the answer.

        code: Of the answer's body; "": the body is a page of HTML, as a load balancer has it.

        carried_out: Whether the request was carried out all the same.

        headers: Of the answer.
    """

    kind: Literal["answer", "reset", "silence", "cut", "stall", "slow", "damage"] = "answer"
    status: int = 500
    code: str = "InternalError"
    carried_out: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Asked:
    """A request that came, whatever became of it."""

    method: str
    key: str
    headers: dict[str, str]
    query: dict[str, str]


@attrs.define(eq=False)
class FakeS3:
    """
    The server; use it as a context.

    Attributes:
        conditions: What it makes of ``If-None-Match: *``: it keeps it, it ignores it, or it looks and then writes, in two
            steps between which others look too.

        objects: What it holds of its one bucket.

        asked: Every request, in the order of their coming.

        together: Where it is given, a PUT is answered only when as many have come.
    """

    conditions: Literal["kept", "ignored", "two steps"] = "kept"
    objects: dict[str, bytes] = attrs.field(factory=dict)
    asked: list[Asked] = attrs.field(factory=list)
    together: threading.Barrier | None = None
    _faults: dict[str, deque[Fault]] = attrs.field(factory=lambda: defaultdict(deque), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _ending: threading.Event = attrs.field(factory=threading.Event, init=False)
    _server: ThreadingHTTPServer | None = attrs.field(default=None, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where it answers."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, method: str, *faults: Fault) -> None:
        """Let the next requests of this method fail so, one after the other."""
        self._faults[method].extend(faults)

    def count(self, method: str, key: str | None = None) -> int:
        """How many requests of this method came, for this key or for any."""
        return sum(a.method == method and key in (None, a.key) for a in self.asked)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake-s3")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    s3: FakeS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer in two writes waits for the client's acknowledgement of the first

    def log_message(self, *_: object) -> None:
        """Say nothing: what was asked is kept."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that goes away is what some tests are about
            super().handle()

    def do_PUT(self) -> None:
        self._take("PUT")

    def do_GET(self) -> None:
        self._take("GET")

    def do_HEAD(self) -> None:
        self._take("HEAD")

    def do_DELETE(self) -> None:
        self._take("DELETE")

    def _take(self, method: str) -> None:
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.lstrip("/").partition("/")
        key = unquote(name)
        query = {n: v[0] for n, v in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        s3, what = self.s3, "LIST" if method == "GET" and not key else method
        with s3._lock:  # noqa: SLF001 - the other half of one thing
            s3.asked.append(Asked(what, key, {n.lower(): v for n, v in self.headers.items()}, query))
            fault = s3._faults[what].popleft() if s3._faults[what] else None  # noqa: SLF001
        if fault is not None and fault.kind == "damage" and body:
            body, fault = bytes([body[0] ^ 1]) + body[1:], None
        answer: tuple[int, bytes, dict[str, str]]
        if bucket != BUCKET:
            answer = 404, _error("NoSuchBucket"), {}
        elif fault is None or fault.carried_out or fault.kind in ("cut", "stall", "slow"):
            answer = getattr(self, f"_{what.lower()}")(key, query, body)
        if fault is not None and fault.kind == "answer":
            answer = fault.status, _error(fault.code), {"Content-Type": "application/xml", **dict(fault.headers)}
        if fault is not None and fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault is not None and fault.kind == "silence":
            s3._ending.wait(60)  # noqa: SLF001
            self.close_connection = True
        else:
            self._answer(*answer, how=fault.kind if fault is not None else "")

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, how: str) -> None:
        ending, cut = self.s3._ending, how in ("cut", "stall")  # noqa: SLF001 - the other half of one thing
        if how == "slow" and self.command == "PUT":
            ending.wait(SLOW_S)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if how == "slow" and body:
            for piece in range(_PIECES):
                ending.wait(SLOW_S / _PIECES)
                self.wfile.write(body[len(body) * piece // _PIECES : len(body) * (piece + 1) // _PIECES])
        elif self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if how == "stall":
            self.wfile.flush()
            ending.wait(60)
        self.close_connection = self.close_connection or cut

    def _put(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        s3, headers = self.s3, self.headers
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        sha256 = hashlib.sha256(body).digest()
        if headers.get("Content-MD5", md5) != md5:
            return 400, _error("BadDigest"), {}
        if headers.get("x-amz-checksum-sha256", (b64 := base64.b64encode(sha256).decode())) != b64:
            return 400, _error("BadDigest"), {}
        if headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD") not in ("UNSIGNED-PAYLOAD", sha256.hex()):
            return 400, _error("XAmzContentSHA256Mismatch"), {}
        if s3.together is not None:
            s3.together.wait(60)
        conditional = headers.get("If-None-Match") == "*" and s3.conditions != "ignored"
        if s3.conditions == "two steps":
            taken = conditional and key in s3.objects
            time.sleep(0.1)  # others look now
        with s3._lock:  # noqa: SLF001
            if s3.conditions != "two steps":
                taken = conditional and key in s3.objects
            if taken:
                return 412, _error("PreconditionFailed"), {}
            s3.objects[key] = body
        return 200, b"", {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'}

    def _get(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        found = self.s3.objects.get(key)
        if found is None:
            return 404, _error("NoSuchKey"), {}
        about = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT", "ETag": '"x"'}
        wanted = (self.headers.get("Range") or "").removeprefix("bytes=")
        if not wanted:
            return 200, found, about
        first, _, last = wanted.partition("-")
        start = int(first) if first else max(0, len(found) - int(last))
        end = min(len(found), int(last) + 1) if first and last else len(found)
        if start >= len(found):
            return 416, _error("InvalidRange"), {}
        return 206, found[start:end], {**about, "Content-Range": f"bytes {start}-{end - 1}/{len(found)}"}

    def _head(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        status, found, headers = self._get(key, query, body)
        return status, b"", {**headers, "Content-Length": str(len(found))}

    def _delete(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        self.s3.objects.pop(key, None)
        return 204, b"", {}

    def _list(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        prefix, after = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", "")
        size = int(query.get("max-keys", "1000"))
        keys = sorted((k for k in self.s3.objects if k.startswith(prefix)), key=str.encode)
        keys = [k for k in keys if k.encode() > after.encode()]
        shown, more = keys[:size], len(keys) > size
        coded = quote if query.get("encoding-type") == "url" else escape
        lines = "".join(
            f"<Contents><Key>{coded(k)}</Key><Size>{len(self.s3.objects[k])}</Size><ETag>x</ETag>"
            "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for k in shown
        )
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        text = f"<Name>{BUCKET}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}{lines}"
        if query.get("encoding-type") == "url":
            text += "<EncodingType>url</EncodingType>"
        return 200, f"<ListBucketResult>{text}</ListBucketResult>".encode(), {"Content-Type": "application/xml"}


def _error(code: str) -> bytes:
    if not code:
        return b"<html><head><title>404 page not found</title><body><p>default backend</html>"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>'
    return text.encode()

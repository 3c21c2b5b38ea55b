"""
Objects on S3, and on whatever speaks like it, through s3fs.

s3fs makes the session: credentials, endpoint, TLS, connections, its event loop. Requests are sent one by one by its
`call_s3`, not by its `pipe_file`, which splits large objects into parts and sends each request up to five times (B6, B15).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import aiobotocore
import aiohttp
import attrs
import botocore
import s3fs
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,  # noqa: A004 - Python's own is an OSError, which is named beside it
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    ProxyConnectionError,
)
from fsspec.asyn import sync  # type: ignore[import-untyped]
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]

from headrace.errors import ConfigError, HeadraceError, SinkUnavailableError
from headrace.finding import Finding
from headrace.plugins.lake.answers import Answer, failed, is_missing
from headrace.plugins.lake.remote import Part
from headrace.plugins.lake.s3_doctor import rules_that_harm
from headrace.plugins.lake.s3_session import OnceSession
from headrace.plugins.lake.s3_settings import S3Settings
from headrace.store import Page, StoredObject

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 120.0
"""Nothing is sent to the store by then, but models are read and a machine may be asked for its role."""

_NO_CREDENTIALS_NOW = (CredentialRetrievalError, MetadataRetrievalError)
"""Whoever hands out credentials does not answer, or not well: nothing was sent, and later it may be."""

_UNLIMITED_S = 86400.0
"""What a socket may be silent: each request has a limit of its own, which grows with what it carries."""

_PIECE_BYTES = 256 << 10


@attrs.define(kw_only=True, eq=False)
class S3Store(S3Settings):
    """
    A bucket on S3 as a store. Each segment is one create-only PUT, whatever its size, with a digest that the store checks.

    It is safe to fork: a child makes connections of its own.
    """

    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _files: s3fs.S3FileSystem | None = attrs.field(default=None, init=False, repr=False)
    _pid: int = attrs.field(default=0, init=False, repr=False)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> S3Store:
        """Make the store of ``s3://bucket/prefix?region=eu-central-1`` or ``s3://bucket?endpoint_url=http://127.0.0.1:9000``."""
        return cls(**cls.settings(uri))

    def identity(self) -> str:
        """The endpoint, the bucket, and the libraries that send: another one of them is probed again."""
        versions = f"s3fs {s3fs.__version__} aiobotocore {aiobotocore.__version__} botocore {botocore.__version__}"
        return f"{super().identity()} endpoint={self.endpoint_url or 'aws'} region={self.region} {versions}"

    def close(self) -> None:
        with self._lock:
            files, self._files = self._files, None
        if files is not None and self._pid == os.getpid():
            with contextlib.suppress(FSTimeoutError):  # it is given up either way
                sync(files.loop, files.s3.close, timeout=self.request_timeout_s)

    def _scheme(self) -> str:
        return "s3"

    # ---- requests -------------------------------------------------------------------------------------------------

    def _put(self, name: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        digest = hashlib.md5(body, usedforsecurity=False).digest()  # the one that every S3 checks
        request = {
            "Bucket": self.bucket,
            "Key": name,
            "Body": body,
            "IfNoneMatch": "*",
            "ContentMD5": base64.b64encode(digest).decode(),
            "Metadata": dict(metadata),
            **self.put_parameters(),
        }
        what = f"create s3://{self.bucket}/{name}"

        async def put(files: s3fs.S3FileSystem) -> bool:
            await files._call_s3("put_object", **request)
            return True

        def taken(answer: Answer) -> bool | None:
            return False if answer.status == 412 else None

        return self._ask(put, what, taken, writing=True, timeout_s=self._allowed_s(len(body)))

    def _list(self, prefix: str, after: str) -> Page:
        request = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": self.page_size}
        if after:
            request["StartAfter"] = after

        async def list_(files: s3fs.S3FileSystem) -> Page:
            found = await files._call_s3("list_objects_v2", **request)
            contents = found.get("Contents", ())
            objects = [StoredObject(o["Key"], o["Size"], o["LastModified"].timestamp()) for o in contents]
            return Page(objects, bool(found["IsTruncated"]))

        return self._ask(list_, f"list s3://{self.bucket}/{prefix}")

    def _get(self, name: str, wanted: str) -> Part | None:
        request = {"Bucket": self.bucket, "Key": name, **({"Range": wanted} if wanted else {})}
        what = f"read s3://{self.bucket}/{name}"

        async def get(files: s3fs.S3FileSystem) -> Part | None:
            async with asyncio.timeout(self._allowed_s()):
                found = await files._call_s3("get_object", **request)
            async with found["Body"] as stream, asyncio.timeout(self._allowed_s(found["ContentLength"])):
                body = await self._all_of(stream)
            if len(body) != found["ContentLength"]:
                answer = Answer(None, text=f"{len(body)} of {found['ContentLength']} bytes came")
                raise failed(answer, what, writing=False)
            return part_of(body, found.get("ContentRange"))

        def nothing(answer: Answer) -> tuple[Part | None] | None:
            if answer.status == 416:
                return (Part(b"", 0, 0),)
            return (None,) if is_missing(answer) else None

        async def boxed(files: s3fs.S3FileSystem) -> tuple[Part | None]:
            return (await get(files),)

        return self._ask(boxed, what, nothing, timeout_s=None)[0]

    async def _all_of(self, stream: Any) -> bytes:
        """Read to the end, as long as something comes."""
        pieces: list[bytes] = []
        while True:
            async with asyncio.timeout(self.request_timeout_s):
                piece = await stream.read(_PIECE_BYTES)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)

    def _delete(self, name: str) -> None:
        async def delete(files: s3fs.S3FileSystem) -> bool:
            await files._call_s3("delete_object", Bucket=self.bucket, Key=name)
            return True

        def nothing(answer: Answer) -> bool | None:
            return True if is_missing(answer) else None

        self._ask(delete, f"delete s3://{self.bucket}/{name}", nothing)

    def _ask(
        self,
        call: Callable[[s3fs.S3FileSystem], Awaitable[T]],
        what: str,
        expected: Callable[[Answer], T | None] = lambda _: None,
        *,
        writing: bool = False,
        timeout_s: float | None = 0.0,
    ) -> T:
        """
        Send one request and wait for its answer; what is neither it nor *expected* becomes our error.

        *timeout_s* is that of a request that carries little where it is 0, and the call's own business where it is None.
        """
        files = self._connected()
        limit = self._allowed_s() if timeout_s == 0 else timeout_s
        try:
            return sync(files.loop, call, files, timeout=limit)  # type: ignore[no-any-return]
        except HeadraceError:
            raise
        except Exception as exc:  # s3fs raises what it likes: the answer inside decides
            answer = answer_of(exc)
            if answer is None:
                raise ConfigError(f"cannot {what}: {type(exc).__name__}: {exc}") from exc
            found = expected(answer)
            if found is not None:
                return found
            raise failed(answer, what, writing=writing) from exc

    def check(self) -> Iterator[Finding]:
        """Say whether the bucket deletes by itself what a lake must keep."""

        async def rules(files: s3fs.S3FileSystem) -> list[dict[str, Any]] | None:
            found = await files._call_s3("get_bucket_lifecycle_configuration", Bucket=self.bucket)
            return found.get("Rules", [])  # type: ignore[no-any-return]  # the client has no types

        def none(answer: Answer) -> list[dict[str, Any]] | None:
            return [] if answer.status in (404, 405, 501) and answer.code != "NoSuchBucket" else None

        try:
            found = self._ask(rules, f"ask for the lifecycle rules of s3://{self.bucket}", none)
        except ConfigError as error:
            advice = (
                "allow s3:GetLifecycleConfiguration, or look by hand: a rule that deletes by age takes whole chains"
            )
            yield Finding("lifecycle", "unknown", str(error), advice)
            return
        harmful = list(rules_that_harm(found or [], f"{self.prefix}/" if self.prefix else ""))
        yield from harmful or [Finding("lifecycle", "fine", "no rule takes what a lake must keep")]

    # ---- the session ----------------------------------------------------------------------------------------------

    def _connected(self) -> s3fs.S3FileSystem:
        with self._lock:
            if self._files is None or self._pid != os.getpid():
                self._files = self._connect()
                self._pid = os.getpid()
            return self._files

    def _connect(self) -> s3fs.S3FileSystem:
        try:
            session = AioSession(profile=self.profile or None)
            session.register("before-call.s3", _at_once)
            files = s3fs.S3FileSystem(
                key=self.access_key or None,
                secret=self.secret_key or None,
                token=self.session_token or None,
                endpoint_url=self.endpoint_url or None,
                session=session,
                client_kwargs=self._client_settings(),
                config_kwargs=self._config_settings(),
                skip_instance_cache=True,
                use_listings_cache=False,
            )
            files.retries = 1  # s3fs' own attempts; those of botocore are among the settings (B15)
            sync(files.loop, files.set_session, timeout=_CONNECT_TIMEOUT_S)
        except _NO_CREDENTIALS_NOW as exc:
            raise SinkUnavailableError(f"cannot connect to {self.place}: {exc}") from exc
        except (BotoCoreError, OSError, ValueError) as exc:
            raise ConfigError(f"cannot connect to {self.place}: {exc}; check the settings of the store") from exc
        return files

    def _client_settings(self) -> dict[str, Any]:
        # None: as a profile has it
        verify = (self.ca_file or None) if self.verify else False
        return {"verify": verify, **({"region_name": self.region} if self.region else {})}

    def _config_settings(self) -> dict[str, Any]:
        return {
            "http_session_cls": OnceSession,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": self.connect_timeout_s,
            "read_timeout": _UNLIMITED_S,
            "max_pool_connections": self.connections,
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path" if self.path_style else "auto"},
            # Content-MD5 is sent with each PUT, and a segment carries a digest of its own
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }


def _at_once(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    """
    Have botocore send a request at once, and once.

    It would ask for leave before it sends a body, which costs a round trip each time; and it would repeat a request in
    another region, unless it believes that it has done so already.
    """
    params["headers"].pop("Expect", None)
    context.setdefault("s3_redirect", {})["redirected"] = True


def part_of(body: bytes, content_range: str | None) -> Part:
    """Read ``bytes 5-9/10``; without it the body is the whole object."""
    if not content_range:
        return Part(body, 0, len(body))
    span, _, size = content_range.removeprefix("bytes ").partition("/")
    return Part(body, int(span.partition("-")[0]), int(size))


def answer_of(exc: BaseException) -> Answer | None:
    """
    Return what the store answered, from the exception that s3fs made of it; None where no request was made at all.

    For one status s3fs raises one exception with one server and another one with the next: only what botocore kept of the
    answer tells.
    """
    for error in _causes(exc):
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            told = response.get("Error", {})
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return Answer(status, str(told.get("Code", "")), str(told.get("Message", "")))
    text = f"{type(exc).__name__} {exc}".strip()
    if _is_distrust(exc):
        return Answer(None, "CertificateNotTrusted", text)
    if isinstance(exc, (ConnectTimeoutError, ProxyConnectionError, *_NO_CREDENTIALS_NOW)) or _is_unconnected(exc):
        return Answer(None, text=text, sent=False)
    if isinstance(
        exc, (HTTPClientError, ConnectionError, asyncio.TimeoutError, FSTimeoutError, OSError)
    ) or not isinstance(exc, (BotoCoreError, ValueError, TypeError, AttributeError)):
        return Answer(None, text=text)
    return None


def _is_unconnected(exc: BaseException) -> bool:
    """Whether not even a connection was made: botocore has one error for that and for a connection that broke."""
    return isinstance(exc, BotoCoreError) and isinstance(exc.kwargs.get("error"), aiohttp.ClientConnectorError)


def _is_distrust(exc: BaseException) -> bool:
    """Whether the server's certificate is not to be trusted."""
    return any(
        isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error)
        for error in _causes(exc)
    )


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """
    The exception and what it was made of: fsspec makes a third one of what s3fs has made of botocore's.

    Not what was being handled when it was raised: that may be the answer to another request.
    """
    while exc is not None:
        yield exc
        exc = exc.__cause__

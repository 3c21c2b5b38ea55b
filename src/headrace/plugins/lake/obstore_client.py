"""
Requests by obstore: the object_store library of Rust, at a tenth of the processor time a small PUT.

It has one exception for a name that is taken and for a conflict of two writers that nobody won, so the answer is read where
it keeps the whole of it: in the exception's text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import obstore
from obstore.exceptions import BaseError

from headrace.errors import ConfigError
from headrace.plugins.lake.answers import Answer, failed, is_missing
from headrace.plugins.lake.remote import SLOWEST_BYTES_PER_S, Part
from headrace.store import Page, StoredObject

T = TypeVar("T")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_NO_RANGE = ("Received non-partial response", "CONTENT_RANGE header")
_READING = -1
_LARGEST_BYTES = 5 << 30  # that one PUT makes
_ANSWERED = (BaseError, FileNotFoundError)  # its error for what is not there is Python's own


@attrs.define(eq=False)
class ObstoreClient:
    """
    Sends single requests, each once.

    Attributes:
        make: Makes a store of obstore's, from the settings of its HTTP client and of its retries.

        place: The URI of the bucket, for messages.

        request_timeout_s: Of a request that carries little; a read may be silent for so long.

        connect_timeout_s: Until there is a connection.

        options: More settings of the HTTP client.
    """

    make: Callable[[Any, Any], Any] = attrs.field(repr=False)
    place: str
    request_timeout_s: float
    connect_timeout_s: float
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  # whole certificates may be in it
    _stores: dict[int, Any] = attrs.field(factory=dict, init=False, repr=False)
    _pid: int = attrs.field(factory=os.getpid, init=False)

    def put(self, name: str, body: bytes, attributes: Mapping[str, str]) -> bool:
        """Send one create-only PUT; see `headrace.store.Store.create`."""
        store, what = self._store(len(body)), f"create {self.place}/{name}"
        try:
            # mode and use_multipart both: in one request, whatever the size
            obstore.put(store, name, body, attributes=dict(attributes), mode="create", use_multipart=False)
        except _ANSWERED as exc:
            answer = answer_of(exc)
            # Azure's 409 says that the name is taken; S3's that two writers met, and neither knows who won
            if answer.status == 412 or answer.code == "BlobAlreadyExists":
                return False
            raise failed(answer, what, writing=True) from exc
        return True

    def list(self, prefix: str, after: str, page_size: int) -> Page:
        """
        List one page, mostly by one LIST.

        obstore knows prefixes that are folders only, and begins only behind what could be a key; what comes besides is passed
        over here.
        """
        folder, _, rest = prefix.rpartition("/")
        begin = max(_possible(after), _possible(_just_before(prefix)) if rest else "", key=str.encode)
        found: list[StoredObject] = []

        def fill() -> Page:
            found.clear()
            for chunk in obstore.list(self._store(), folder or None, offset=begin or None, chunk_size=page_size):
                for o in chunk:
                    key = o["path"]
                    if key.startswith(prefix) and key.encode() > after.encode():
                        found.append(StoredObject(key, o["size"], o["last_modified"].timestamp()))
                        if len(found) == page_size:
                            return Page(found, truncated=True)
                    elif key.encode() > prefix.encode() and not key.startswith(prefix):
                        return Page(found, truncated=False)
            return Page(found, truncated=False)

        return self._asked(fill, f"list {self.place}/{prefix}")

    def get(self, name: str, wanted: str) -> Part | None:
        """Send one GET of this range, a header of HTTP; "": of all."""
        store, what = self._store(reading=True), f"read {self.place}/{name}"
        try:
            found = obstore.get(store, name, options=_range(wanted))
            body = bytes(found.bytes())
        except _ANSWERED as exc:
            answer = answer_of(exc)
            if answer.status == 416:
                return Part(b"", 0, 0)
            if wanted and any(words in str(exc) for words in _NO_RANGE):  # what servers say of an empty object
                return self.get(name, "")
            if is_missing(answer):
                return None
            raise failed(answer, what, writing=False) from exc
        return Part(body, found.range[0], found.meta["size"])

    def delete(self, name: str) -> None:
        """Send one DELETE; nothing happens where nothing is."""
        try:
            obstore.delete(self._store(), name)
        except _ANSWERED as exc:
            answer = answer_of(exc)
            if not is_missing(answer):
                raise failed(answer, f"delete {self.place}/{name}", writing=False) from exc

    def _asked(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except _ANSWERED as exc:
            raise failed(answer_of(exc), what, writing=False) from exc

    def _store(self, carried_bytes: int = 0, *, reading: bool = False) -> Any:
        """
        Return a store whose time-out allows for what is carried: few different ones, as each has its connections.

        How much a read carries is not known before: it may take what the largest object takes, unless nothing comes.
        """
        if os.getpid() != self._pid:
            raise ConfigError(
                f"{self.place} was opened by process {self._pid} and is used by its child {os.getpid()}; obstore's threads do"
                " not survive a fork: open it in the child and not before, start processes by spawn, or use s3://"
            )
        if reading:
            if _READING not in self._stores:
                timeout_s = self.request_timeout_s + _LARGEST_BYTES / SLOWEST_BYTES_PER_S
                self._stores[_READING] = self._made(timeout_s, read_timeout=timedelta(seconds=self.request_timeout_s))
            return self._stores[_READING]
        allowed = 1 + carried_bytes / SLOWEST_BYTES_PER_S / self.request_timeout_s
        doublings = math.ceil(math.log2(allowed))
        if doublings not in self._stores:
            self._stores[doublings] = self._made(self.request_timeout_s * 2**doublings)
        return self._stores[doublings]

    def _made(self, timeout_s: float, **more: Any) -> Any:
        options = {
            "timeout": timedelta(seconds=timeout_s),
            "connect_timeout": timedelta(seconds=self.connect_timeout_s),
            "user_agent": "headrace",
            **self.options,
            **more,
        }
        try:
            return self.make(options, {"max_retries": 0, "retry_timeout": timedelta(seconds=timeout_s)})
        except (BaseError, ValueError, TypeError) as exc:
            raise ConfigError(
                f"cannot connect to {self.place}: {_shown(exc)}; check the settings of the store"
            ) from exc


def _range(wanted: str) -> Any:
    """Turn a header of HTTP into obstore's word for it."""
    first, dash, last = wanted.removeprefix("bytes=").partition("-")
    if not dash:
        return {}
    if not first:
        return {"range": {"suffix": int(last)}}
    return {"range": (int(first), int(last) + 1) if last else {"offset": int(first)}}


def _possible(name: str) -> str:
    """Cut a name down to what may be a key: it sorts before the name then, and so do few others."""
    parts = name.split("/")
    end = next((i for i, part in enumerate(parts) if part in ("", ".", "..")), len(parts))
    return "/".join(parts[:end])


def _just_before(prefix: str) -> str:
    """Return a name that sorts before all that begin so, and behind nearly all that sort before them."""
    last = ord(prefix[-1])
    before = 0xD7FF if last == 0xE000 else last - 1  # no character lies between
    return prefix[:-1] + chr(before) + "\U0010ffff" if last > 0 else prefix[:-1]


def answer_of(exc: BaseException) -> Answer:
    """Return what the store answered, from the text of obstore's exception."""
    text = str(exc)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return Answer(int(status[1]), code[1] if code else "", _shown(exc))
    if "Received redirect without LOCATION" in text:
        return Answer(301, "PermanentRedirect")
    if "UnknownIssuer" in text or "InvalidCertificate" in text or "CertificateError" in text:
        return Answer(None, "CertificateNotTrusted", _shown(exc))
    if "169.254.169.254" in text:
        return Answer(401, text="no credentials were found, and the machine has no role")
    return Answer(None, text=_shown(exc), sent="kind: Connect," not in text)


def _shown(exc: BaseException) -> str:
    """What people are told of it: without what is there for those who mend obstore, and without the body once more."""
    return str(exc).partition("\n\nDebug source:")[0].partition(": <?xml")[0][:500]

"""One request to an exchange's history: its answer, or whether asking again helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import urllib3

from headrace.plugins.market.backoff import said_wait_s
from headrace.plugins.market.history import HistoryLostError, HistoryRefusedError

_OK, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 200, 401, 403, 404, 429
_TOO_MANY_WAIT_S = 60.0
_TIMEOUT = urllib3.Timeout(connect=5.0, read=5.0)
_BY_HAND = urllib3.Retry(0, redirect=False)


@attrs.define(kw_only=True, eq=False)
class Fetcher:
    """
    Asks an exchange, one request at a time.

    Attributes:
        most_bytes: A larger answer is refused.

        now_ns: Nanoseconds since the epoch.
    """

    most_bytes: int
    now_ns: Callable[[], int]
    _pool: urllib3.PoolManager = attrs.field(
        factory=lambda: urllib3.PoolManager(maxsize=1, retries=_BY_HAND), init=False
    )

    def get(self, address: str, headers: Mapping[str, str]) -> tuple[Mapping[str, str], bytes]:
        """
        Return an answer's headers and body.

        Raises:
            HistoryLostError: Asking again may help; it says from when on.
            HistoryRefusedError: It does not.
        """
        try:
            response = self._pool.request(
                "GET", address, headers=dict(headers), timeout=_TIMEOUT, preload_content=False
            )
            try:
                body = response.read(self.most_bytes + 1, decode_content=True)
                if len(body) <= self.most_bytes:
                    body += response.read(1)  # where it was cut off it is told at its end
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HistoryLostError(
                f"not reached: {type(error).__name__}"
            ) from None  # not its text: that has the address
        if len(body) > self.most_bytes:
            raise HistoryRefusedError(f"an answer of more than {self.most_bytes:,} bytes")
        self._check(response.status, response.headers)
        return response.headers, body

    def _check(self, status: int, headers: Mapping[str, str]) -> None:
        if status == _OK:
            return
        if status == _TOO_MANY:
            # of other answers too many servers tell it, as the state of a quota
            reset = headers.get("X-RateLimit-Reset", "")
            raise HistoryLostError("too many requests", self._wait_s(headers, reset, _TOO_MANY_WAIT_S))
        if status >= 500:
            raise HistoryLostError(f"HTTP {status}", self._wait_s(headers, "", 0.0))
        why = {
            _UNAUTHORIZED: "credentials refused",
            _FORBIDDEN: "not in this subscription, or credentials refused",
            _NOT_FOUND: "no history",
        }.get(status, "refused")
        raise HistoryRefusedError(f"{why} (HTTP {status})")

    def _wait_s(self, headers: Mapping[str, str], reset: str, unsaid_s: float) -> float:
        """For how long the exchange asks to be left alone; where it does not say, *unsaid_s*."""
        said_s = said_wait_s(headers.get("Retry-After", ""), reset, self.now_ns())
        return unsaid_s if said_s is None else said_s

"""An HTTP session that sends each request once (B15)."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientConnectorError, ClientHandlerType, ClientOSError, ClientRequest, ClientResponse


class OnceSession(AIOHTTPSession):  # type: ignore[misc]  # it has no types
    """
    aiobotocore's session without aiohttp's repetitions.

    aiohttp sends a PUT a second time of its own accord where the connection breaks, and again wherever it is redirected. Both
    are below all that retry settings reach, and unseen by whoever counts attempts.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Once(await super()._get_session(proxy_url))


class _Once:
    """The one method of an `aiohttp.ClientSession` that aiobotocore calls."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **more: Any) -> ClientResponse:
        return await self._session.request(method, **more, allow_redirects=False, middlewares=(_break,))


async def _break(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Tell of a broken connection by an error that aiohttp does not repeat a request after."""
    try:
        return await handler(request)
    except ClientConnectorError:
        raise  # nothing was sent
    except (ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientPayloadError(f"the connection broke: {exc}") from exc

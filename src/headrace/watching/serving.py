"""Serves `/live`, `/ready` and `/metrics` over HTTP, for whoever watches a process."""

from __future__ import annotations

import logging
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.watching.health import Health
from headrace.watching.meters import Meters

_log = logging.getLogger("headrace.watching")

_REQUEST_S = 5.0
"""A client that sends no request for so long is hung up on."""


class Serving:
    """
    A server in threads of its own, from entering to leaving it. It holds nobody up: who is being answered at the end is cut off.

    Args:
        place: ``PORT`` or ``HOST:PORT``; loopback without a host. Port 0 is any that is free.

        health: What `/live` and `/ready` tell.

        meters: What `/metrics` shows.

    Raises:
        ConfigError: The place is none, is taken, or may not be listened on.
    """

    def __init__(self, place: str, health: Health, meters: Meters) -> None:
        host, port = parse_place(place)

        class Handler(_Handler):
            pass

        Handler.health, Handler.meters = health, meters
        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            raise ConfigError(
                f"--serve {place}: cannot listen on {host}:{port}: {why}; give each process a port of its own, or 0 for"
                " any that is free"
            ) from exc
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="headrace-http", daemon=True
        )
        log_event(_log, logging.INFO, "serving", host=host, port=self.port, paths="/live /ready /metrics")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def parse_place(place: str) -> tuple[str, int]:
    """
    Read ``PORT``, ``HOST:PORT`` or ``[::1]:PORT``.

    Raises:
        ConfigError: It is none of them.
    """
    host, _, port = place.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"found --serve {place!r}, expected PORT or HOST:PORT, such as 9464 or 0.0.0.0:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that is slow does not keep the process alive
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is nobody's fault."""
        log_event(_log, logging.DEBUG, "client gone", client=client_address)


class _Handler(BaseHTTPRequestHandler):
    health: Health
    meters: Meters
    timeout = _REQUEST_S
    server_version = "headrace"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            body, kind = self.meters.text(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, kind)
        elif path in ("/live", "/ready"):
            wrong = self.health.not_alive() if path == "/live" else self.health.not_ready()
            code = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
            self._answer(code, f"{wrong or 'ok'}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /live, /ready and /metrics\n")

    do_HEAD = do_GET  # noqa: N815 - the name that the library calls

    def _answer(self, code: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library gives it by this name
        """A scrape is no event of the run."""

"""Toxiproxy: connections that break on request, between a client and a server, built by Go."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import attrs

from headrace.testing.servers.cache import built
from headrace.testing.servers.process import Server, answers, free_port

VERSION = "v2.12.0"
_DIGEST = "h1:d1x++lYZg/zijXPPcv7PH0MvHMzEI5aX/YuUi/Sw+yg="

Toxic = Literal["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data"]
"""What it can do to a connection: https://github.com/Shopify/toxiproxy#toxics."""

_TIMEOUT_S = 10.0


def binary() -> Path:
    """Return the server's path, built the first time. Errors as for `built`."""
    module = f"github.com/Shopify/toxiproxy/v2@{VERSION}"
    return built("server", f"toxiproxy-{VERSION}", module, "./cmd/server", _DIGEST)


@attrs.define(kw_only=True, eq=False)
class Toxiproxy(Server):
    """
    A server of proxies; use it as a context. Nothing of a connection that broke is kept.

    Attributes:
        port: Of its own API, on 127.0.0.1.
    """

    port: int = attrs.field(factory=free_port)

    def command(self) -> list[str]:
        return [str(binary()), "-host", "127.0.0.1", "-port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"LOG_LEVEL": "error"}

    def ready(self) -> bool:
        return answers(self.port)

    def proxy(self, name: str, upstream: int, listen: int | None = None) -> Proxy:
        """Make a proxy in front of a port of 127.0.0.1; it lets everything pass until it is told otherwise."""
        listen = free_port() if listen is None else listen
        place = {"listen": f"127.0.0.1:{listen}", "upstream": f"127.0.0.1:{upstream}"}
        self.call("POST", "/proxies", {"name": name, **place, "enabled": True})
        return Proxy(server=self, name=name, port=listen)

    def call(self, method: str, path: str, body: object = None) -> str:
        """Call its API."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, method=method)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return str(answer.read().decode())


@attrs.frozen(kw_only=True)
class Proxy:
    """
    One proxy.

    Attributes:
        server: Whose.

        name: Its name there.

        port: Where clients connect, on 127.0.0.1.
    """

    server: Toxiproxy
    name: str
    port: int

    @contextmanager
    def toxic(self, kind: Toxic, *, up: bool = False, share: float = 1.0, **attributes: int) -> Iterator[None]:
        """
        Spoil connections, those that are open and new ones, as long as the context lasts.

        Args:
            kind: How.

            up: What goes to the server; otherwise what comes from it.

            share: Of the connections, 0 to 1.

            attributes: Toxiproxy's own: ``latency`` and ``jitter`` in milliseconds, ``rate`` in KB/s, ``bytes``, …
        """
        stream = "upstream" if up else "downstream"
        wanted: dict[str, Any] = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": share}
        self.server.call("POST", f"/proxies/{self.name}/toxics", {**wanted, "attributes": attributes})
        try:
            yield
        finally:
            self.server.call("DELETE", f"/proxies/{self.name}/toxics/{kind}-{stream}")

    def connections(self) -> int:
        """How many clients are connected to it now; 0 where the system does not tell."""
        wanted, established = f":{self.port:04X}", "01"
        try:
            lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            return 0
        return sum(line.split()[2].endswith(wanted) and line.split()[3] == established for line in lines)

    def round_trip_s(self) -> float:
        """How long it takes to send a byte through it and hear that the connection ended, or anything else."""
        began_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=_TIMEOUT_S) as connection, suppress(OSError):
            connection.sendall(b"\0\0\0\0" * 8 + b"\r\n\r\n")
            connection.recv(1)
        return time.monotonic() - began_s

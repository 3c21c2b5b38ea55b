"""Chromium without a window: opens a page as its readers do, and tells what it made of it, by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from websockets.sync.client import ClientConnection, connect

from headrace.testing.servers.cache import program, provided, run, verify_file
from headrace.testing.servers.process import Server, answers, free_port

VERSION = "147.0.0"
_DIGEST = "sha512-4ZKeAQQa8up2mt675qSitztLdbQrlf8BKdC5naeap+5Mv1OV1OlJdPoU+EJC/p5sQUJUQmN4r+q5+EhaaOUHpQ=="

_UNPACK = """
const zlib = require("zlib"), fs = require("fs");
for (const name of ["chromium", "al2023.tar", "fonts.tar"])
  fs.writeFileSync(name, zlib.brotliDecompressSync(fs.readFileSync(`package/bin/${name}.br`)), {mode: 0o755});
"""
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""
_TIMEOUT_S = 30.0
_LARGEST_ANSWER = 64 << 20


def folder() -> Path:
    """
    Return the folder of the browser, its libraries and fonts, fetched the first time.

    The package is a Chromium that was built for machines with nothing on them: https://github.com/Sparticuz/chromium.

    Raises:
        ServerMissing: Where npm and Node are not there to fetch and unpack it.
        NotWhatWasPinnedError: npm was given another package; it was not unpacked.
    """

    def build(place: Path) -> None:
        npm, node = (program(name, "it fetches and unpacks the package with the browser") for name in ("npm", "node"))
        run([npm, "pack", "--silent", f"@sparticuz/chromium@{VERSION}"], cwd=place)
        (package,) = place.glob("*.tgz")
        verify_file(package, _DIGEST)
        run(["tar", "xzf", package.name], cwd=place)
        run([node, "-e", _UNPACK], cwd=place)
        for archive in ("al2023.tar", "fonts.tar"):
            run(["tar", "xf", archive], cwd=place)
            (place / archive).unlink()
        run(["rm", "-r", "package", package.name], cwd=place)

    return provided(f"chromium-{VERSION}", build)


@attrs.define(kw_only=True, eq=False)
class Chromium(Server):
    """
    One browser; use it as a context. It is asked on a port of 127.0.0.1 and has a profile of its own.

    Attributes:
        port: Of its DevTools.
    """

    port: int = attrs.field(factory=free_port)

    def command(self) -> list[str]:
        options = ["--headless=shell", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [f"--remote-debugging-port={self.port}", f"--user-data-dir={self.folder / 'profile'}"]
        return [str(folder() / "chromium"), *options, "about:blank"]

    def environment(self) -> dict[str, str]:
        place = folder()
        libraries = [str(place / "lib/lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        # the package's own fonts.conf looks for them where it was made for, and a page without a font has no width to measure
        fonts = self.folder / "fonts.conf"
        fonts.write_text(_FONTS.format(fonts=place / "fonts", cache=self.folder / "fonts-cache"), encoding="utf-8")
        return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)), "FONTCONFIG_FILE": str(fonts)}

    def ready(self) -> bool:
        return answers(self.port)

    @contextmanager
    def page(
        self, address: str, *, width: int = 1200, height: int = 900, media: Mapping[str, str] | None = None
    ) -> Iterator[Page]:
        """
        Open a page, and wait until it is loaded.

        Args:
            address: Of any kind that Chromium opens, such as ``file:///…``.

            width: Of the window, in CSS pixels.

            height: Of the window, in CSS pixels.

            media: Features of the medium, such as ``{"prefers-color-scheme": "dark"}``; ``medium`` is its type, such as print.
        """
        new = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?{quote('about:blank')}", method="PUT")
        with urllib.request.urlopen(new, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own
            there = json.load(answer)["webSocketDebuggerUrl"]
        with connect(there, max_size=_LARGEST_ANSWER, open_timeout=_TIMEOUT_S, ping_interval=None) as socket:
            page = Page(socket=socket)
            for domain in ("Page", "Network", "Runtime", "Log", "Accessibility", "DOM"):
                page.call(f"{domain}.enable")
            features = dict(media or {})
            page.call(
                "Emulation.setEmulatedMedia",
                media=features.pop("medium", ""),
                features=[{"name": name, "value": value} for name, value in features.items()],
            )
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < height,
            )
            page.call("Page.navigate", url=address)
            page.wait("Page.loadEventFired")
            yield page


@attrs.define(kw_only=True, eq=False)
class Page:
    """
    An open page.

    Attributes:
        socket: To it.

        events: What it has told so far: method and parameters, oldest first.
    """

    socket: ClientConnection
    events: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)
    _ids: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the DevTools protocol, and return its answer. RuntimeError where it was refused."""
        number = next(self._ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (said := self._hear()).get("id") != number:
            pass
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return dict(said["result"])

    def wait(self, method: str) -> dict[str, Any]:
        """Wait for an event, and return its parameters. TimeoutError where it does not come."""
        while not any(name == method for name, _ in self.events):
            self._hear()
        return next(parameters for name, parameters in reversed(self.events) if name == method)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, as JSON has it. RuntimeError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go: its name, and the number that Windows gives it."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, *, whole: bool = True) -> bytes:
        """Return a picture, as PNG: of the whole page, or of what the window shows."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def _hear(self) -> dict[str, Any]:
        said = dict(json.loads(self.socket.recv(timeout=_TIMEOUT_S)))
        if "method" in said:
            self.events.append((said["method"], said["params"]))
        return said

"""The Versity S3 Gateway without a container: the second S3 server, whose code shares nothing with MinIO's."""

from __future__ import annotations

from pathlib import Path

import attrs

from headrace.testing.servers.cache import built
from headrace.testing.servers.s3 import S3Server

VERSION = "v1.8.0"
_DIGEST = "h1:au+wI+aybno/STsQiSm35Uu6Q6iK5MWReQxgO6SEMFc="


def binary() -> Path:
    """Return the gateway's path, built the first time. Errors as for `built`."""
    module = f"github.com/versity/versitygw@{VERSION}"
    return built("versitygw", f"versitygw-{VERSION}", module, "./cmd/versitygw", _DIGEST)


@attrs.define(kw_only=True, eq=False)
class Versity(S3Server):
    """The gateway over a folder; it keeps metadata in files beside it, since not every file system has attributes."""

    def command(self) -> list[str]:
        data, beside = self.folder / "data", self.folder / "metadata"
        for folder in (data, beside):
            folder.mkdir(exist_ok=True)
        options = ["--port", f"127.0.0.1:{self.port}", "--health", "/health", "--keep-alive", "--quiet"]
        if self.authority is not None:
            pair = self.authority.issue("127.0.0.1", "versity", self.folder)
            options += ["--cert", str(pair.certificate), "--key", str(pair.key)]
        return [str(binary()), *options, "posix", "--sidecar", str(beside), str(data)]

    def environment(self) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}

    def ready(self) -> bool:
        return self.says(200, "/health")

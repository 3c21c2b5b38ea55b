"""MinIO without a container: built by Go, one process on one folder."""

from __future__ import annotations

from pathlib import Path

import attrs

from headrace.testing.servers.cache import built
from headrace.testing.servers.process import free_port
from headrace.testing.servers.s3 import S3Server

VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
_DIGEST = "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA="


def binary() -> Path:
    """Return the server's path, built the first time. Errors as for `built`."""
    return built("minio", f"minio-{VERSION}", f"github.com/minio/minio@{VERSION}", ".", _DIGEST)


@attrs.define(kw_only=True, eq=False)
class Minio(S3Server):
    """MinIO, as one process on one disk."""

    console_port: int = attrs.field(factory=free_port)

    def command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        places = ["--address", f"127.0.0.1:{self.port}", "--console-address", f"127.0.0.1:{self.console_port}"]
        return [str(binary()), "server", str(data), *places, "--certs-dir", str(self._certificates())]

    def environment(self) -> dict[str, str]:
        return {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key, "MINIO_BROWSER": "off"}

    def ready(self) -> bool:
        return self.says(200, "/minio/health/live")

    def _certificates(self) -> Path:
        """Make the folder in which MinIO looks for them, by the names it looks for."""
        folder = self.folder / "certificates"
        folder.mkdir(exist_ok=True)
        if self.authority is not None and not (folder / "public.crt").exists():
            pair = self.authority.issue("127.0.0.1", "minio", folder)
            pair.certificate.rename(folder / "public.crt")
            pair.key.rename(folder / "private.key")
            pair.both.unlink()
        return folder

"""The lakes of a run, by kind; each is made at its first use."""

from __future__ import annotations

import contextlib
from pathlib import Path

import attrs
from deployment import Disk, Lake

from headrace.testing.oracle import objects_in
from headrace.testing.servers.minio import Minio
from headrace.testing.servers.s3 import S3Server
from headrace.testing.servers.toxiproxy import Toxiproxy
from headrace.testing.servers.versity import Versity

KINDS = ("disk", "minio", "versity")

SERVERS: dict[str, type[S3Server]] = {"minio": Minio, "versity": Versity}


@attrs.define(kw_only=True, eq=False)
class Lakes:
    """Use it as a context; what it made is gone after it."""

    folder: Path
    toxiproxy: Toxiproxy
    _made: dict[str, Lake] = attrs.field(factory=dict)
    _end: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    def get(self, kind: str) -> Lake:
        if kind not in self._made:
            disk = Disk.make(self.folder / kind)
            self._end.callback(disk.close)
            self._made[kind] = self._disk(disk) if kind == "disk" else self._served(kind, disk)
        return self._made[kind]

    def _served(self, kind: str, disk: Disk) -> Lake:
        server = SERVERS[kind](folder=disk.folder)
        self._end.enter_context(server)
        proxy, endpoint = self.toxiproxy.proxy(kind, server.port), server.endpoint
        bucket = endpoint.bucket()
        through = attrs.evolve(endpoint, url=f"http://127.0.0.1:{proxy.port}")
        return Lake(
            kind=kind,
            uri=through.uri(bucket, request_timeout_s="4s", connect_timeout_s="4s"),
            glob=f"s3://{bucket}",
            environment={"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key},
            disk=disk,
            server=server,
            proxy=proxy,
            direct_endpoint=endpoint.url,
            objects=lambda topic: endpoint.objects(bucket, topic),
        )

    def _disk(self, disk: Disk) -> Lake:
        root = disk.folder / "lake"
        return Lake(
            kind="disk",
            uri=f"file://{root}",
            glob=str(root),
            disk=disk,
            objects=lambda topic: {k: v for k, v in objects_in(root).items() if k.startswith(topic)},
        )

    def close(self) -> None:
        self._end.close()

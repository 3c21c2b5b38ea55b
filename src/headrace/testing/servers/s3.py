"""What the S3 servers have in common, and what a test is given of one."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from headrace.testing.servers.process import Server, free_port
from headrace.testing.servers.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class S3Endpoint:
    """
    An S3 server that a test may use.

    Attributes:
        url: Where it answers.

        access_key: With the right to make buckets.

        secret_key: Never printed.

        region: That requests are signed for.

        ca_file: Certificates that its own is signed by; "" where it has none, or one that everybody knows.
    """

    url: str
    access_key: str
    secret_key: str = attrs.field(repr=False)
    region: str = "us-east-1"
    ca_file: str = ""

    def client(self) -> Any:
        """Make a client of botocore, which shares nothing with the stores under test: to look at what is really there."""
        import botocore.session  # noqa: PLC0415 - only with the extra s3

        return botocore.session.Session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=self.ca_file or None,
        )

    def bucket(self) -> str:
        """Make a bucket and return its name, which no other test has."""
        name = f"headrace-{secrets.token_hex(6)}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str, prefix: str = "") -> Mapping[str, bytes]:
        """Read every object of a bucket, by name, around whatever is under test; not what is deleted meanwhile."""
        found: dict[str, bytes] = {}
        with contextlib.closing(self.client()) as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    with contextlib.suppress(client.exceptions.NoSuchKey):
                        found[item["Key"]] = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        return found

    def uri(self, place: str, scheme: str = "s3", **settings: str) -> str:
        """Return the URI of a bucket or of a prefix in it, with credentials: ``s3://KEY:SECRET@bucket/prefix?…``."""
        more = {"endpoint_url": self.url, "region": self.region, "ca_file": self.ca_file, **settings}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in more.items() if value)
        return f"{scheme}://{quote(self.access_key)}:{quote(self.secret_key, safe='')}@{place}?{query}"


@attrs.define(kw_only=True, eq=False)
class S3Server(Server):
    """
    An S3 server on 127.0.0.1; what it stored stays in its folder.

    Attributes:
        port: Where it answers.

        access_key: Of its owner.

        secret_key: Of its owner.

        authority: With one it speaks TLS, with a certificate that this one signs.
    """

    port: int = attrs.field(factory=free_port)
    access_key: str = "headrace"
    secret_key: str = attrs.field(factory=lambda: secrets.token_hex(12), repr=False)
    authority: Authority | None = None

    @property
    def endpoint(self) -> S3Endpoint:
        """What its clients need."""
        scheme = "https" if self.authority else "http"
        ca_file = str(self.authority.certificate) if self.authority else ""
        return S3Endpoint(f"{scheme}://127.0.0.1:{self.port}", self.access_key, self.secret_key, ca_file=ca_file)

    def says(self, status: int, path: str) -> bool:
        """Whether it answers a GET of this path with this status."""
        connection: http.client.HTTPConnection
        if self.authority:
            trusted = ssl.create_default_context(cafile=self.authority.certificate)
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=trusted)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def given(variable: str) -> S3Endpoint | None:
    """
    Return the server that the environment names: a URL in *variable*.

    Its credentials stand in the URL (``http://KEY:SECRET@host:9000``) or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;
    AWS_REGION and AWS_CA_BUNDLE count too.
    """
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - only here

    if not (url := os.environ.get(variable)):
        return None
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return S3Endpoint(
        f"{parts.scheme}://{host}",
        unquote(parts.username or "") or os.environ.get("AWS_ACCESS_KEY_ID", ""),
        unquote(parts.password or "") or os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        os.environ.get("AWS_REGION", "us-east-1"),
        os.environ.get("AWS_CA_BUNDLE", ""),
    )

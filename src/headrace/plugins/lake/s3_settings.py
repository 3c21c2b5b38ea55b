"""The settings that every client of S3 takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from headrace.errors import ConfigError
from headrace.plugins.lake.remote import RemoteStore

if TYPE_CHECKING:
    from headrace.uri import URI

READABLE = (
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
)
"""Storage classes whose objects can be read at once."""


def _upper(text: str) -> str:
    return text.upper()


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _authorities() -> str:
    return os.environ.get("AWS_CA_BUNDLE") or ""


@attrs.define(kw_only=True, eq=False)
class S3Settings(RemoteStore):
    """
    A bucket on S3 or on a store that speaks like it.

    Attributes:
        endpoint_url: Of a store that is not AWS, ``https://minio.example:9000``; AWS_ENDPOINT_URL where it is not given.
            Without credentials: it is shown.

        region: Of the bucket; AWS_REGION and the profile's where it is not given.

        path_style: The bucket stands in the path and not in the host's name; yes where there is an endpoint.

        access_key: With secret_key: credentials. Without: AWS_ACCESS_KEY_ID, a profile, the machine's role, as usual.

        secret_key: Never printed.

        session_token: Of temporary credentials.

        profile: The profile of ~/.aws/config to use.

        ca_file: Certificates of a private authority that the endpoint's is signed by; AWS_CA_BUNDLE where it is not given.

        verify: Whether the endpoint's certificate is looked at.

        sse: How the store encrypts what it keeps.

        sse_kms_key_id: With which key of its key service.

        storage_class: Of the segments; one that is readable at once.
    """

    endpoint_url: str = attrs.field(factory=_endpoint)
    region: str = ""
    path_style: bool = attrs.field()
    access_key: str = attrs.field(default="", repr=False)
    secret_key: str = attrs.field(default="", repr=False)
    session_token: str = attrs.field(default="", repr=False)
    profile: str = ""
    ca_file: str = attrs.field(factory=_authorities)
    verify: bool = True
    sse: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    sse_kms_key_id: str = ""
    storage_class: str = attrs.field(default="", converter=_upper)

    @path_style.default
    def _path_style(self) -> bool:
        return bool(self.endpoint_url)

    @storage_class.validator
    def _readable(self, _: object, storage_class: str) -> None:
        if storage_class and storage_class not in READABLE:
            raise ValueError(
                f"storage_class={storage_class}: expected one that is readable at once, of {', '.join(READABLE)}; a lake's"
                " newest segment is read at each start"
            )

    def __attrs_post_init__(self) -> None:
        if "@" in self.endpoint_url:  # it is shown in messages and kept in the lake
            raise ConfigError(
                "found credentials in endpoint_url, expected scheme, host and port, as in https://minio.example:9000; give them"
                " as access_key and secret_key, or as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if bool(self.access_key) != bool(self.secret_key):
            raise ConfigError("found one of access_key and secret_key, expected both or none")
        if self.sse_kms_key_id and not self.sse.startswith("aws:kms"):
            raise ConfigError("found sse_kms_key_id without sse=aws:kms, expected both")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ConfigError(f"found no file ca_file={self.ca_file}, expected certificates as PEM")

    @classmethod
    def settings(cls, uri: URI) -> dict[str, Any]:
        """Read the fields out of a URI; ``user:password@`` are access key and secret key."""
        credentials = {"access_key": uri.user, "secret_key": uri.password} if uri.user else {}
        return {
            "bucket": uri.host,
            "prefix": uri.path,
            **credentials,
            **uri.fields(cls, unsettable=("bucket", "prefix", *credentials)),
        }

    def put_parameters(self) -> dict[str, str]:
        """Return what each PUT says besides, by the names of S3's API."""
        wanted = {
            "ServerSideEncryption": self.sse,
            "SSEKMSKeyId": self.sse_kms_key_id,
            "StorageClass": self.storage_class,
        }
        return {name: value for name, value in wanted.items() if value}

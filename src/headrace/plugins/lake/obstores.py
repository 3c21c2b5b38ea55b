"""Objects on S3, Google Cloud Storage and Azure, through obstore."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from headrace.errors import ConfigError
from headrace.plugins.lake.obstore_client import ObstoreClient
from headrace.plugins.lake.remote import Part, RemoteStore
from headrace.plugins.lake.s3_settings import S3Settings
from headrace.store import Page

if TYPE_CHECKING:
    from headrace.registry import Registry
    from headrace.uri import URI


class _ByObstore(RemoteStore):
    """Sends what a store is asked for through a client that is made at the first request."""

    __slots__ = ()

    _client: ObstoreClient | None

    def close(self) -> None:
        self._client = None

    @abstractmethod
    def _requests(self) -> ObstoreClient:
        """Return the client, made at first use."""

    def _put(self, name: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        return self._requests().put(name, body, metadata)

    def _list(self, prefix: str, after: str) -> Page:
        return self._requests().list(prefix, after, self.page_size)

    def _get(self, name: str, wanted: str) -> Part | None:
        return self._requests().get(name, wanted)

    def _delete(self, name: str) -> None:
        self._requests().delete(name)


@attrs.define(kw_only=True, eq=False)
class ObstoreS3Store(_ByObstore, S3Settings):
    """
    A bucket on S3 as a store, through obstore. Each segment is one create-only PUT, with a digest that the store checks.

    It does not survive a fork: a child is told so, and does not wait for its parent's threads. Start processes by spawn.
    """

    _client: ObstoreClient | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.profile:
            raise ConfigError("found profile, which obstore does not read: use s3://, or AWS_ACCESS_KEY_ID and so on")

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> ObstoreS3Store:
        """Make the store of ``s3+obstore://bucket/prefix?region=eu-central-1``; settings as of ``s3://``."""
        return cls(**cls.settings(uri))

    def identity(self) -> str:
        return f"{super().identity()} endpoint={self.endpoint_url or 'aws'} region={self.region} {_version()}"

    def _scheme(self) -> str:
        return "s3+obstore"

    def _put(self, name: str, body: bytes, metadata: Mapping[str, str]) -> bool:
        more = {"Storage-Class": self.storage_class} if self.storage_class else {}
        return super()._put(name, body, {**metadata, **more})

    def _requests(self) -> ObstoreClient:
        if self._client is None:
            settings = self._settings()
            options: dict[str, Any] = {"allow_http": self.endpoint_url.startswith("http://")}
            if self.ca_file:
                options["root_certificate"] = Path(self.ca_file).read_bytes()
            if not self.verify:
                options["allow_invalid_certificates"] = True
            self._client = _client(
                self,
                lambda http, retry: S3Store(self.bucket, client_options=http, retry_config=retry, **settings),
                options,
            )
        return self._client

    def _settings(self) -> dict[str, Any]:
        found = {
            "endpoint": self.endpoint_url,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "session_token": self.session_token,
            "server_side_encryption": self.sse,
            "sse_kms_key_id": self.sse_kms_key_id,
        }
        fixed = {
            "virtual_hosted_style_request": not self.path_style,
            "checksum_algorithm": "SHA256",
            "conditional_put": "etag",
            "disable_bulk_delete": True,
        }
        return {**{name: value for name, value in found.items() if value}, **fixed}


@attrs.define(kw_only=True, eq=False)
class ObstoreStore(_ByObstore):
    """
    A bucket on Google Cloud Storage, or a container on Azure, as a store.

    Credentials come from the environment, as the makers of each say: GOOGLE_APPLICATION_CREDENTIALS,
    AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or the machine's identity.

    Attributes:
        kind: "gs" or "az".

        account: Azure's storage account; AZURE_STORAGE_ACCOUNT_NAME where it is not given.
    """

    kind: str = attrs.field(default="gs", validator=attrs.validators.in_(("gs", "az")))
    account: str = ""
    _client: ObstoreClient | None = attrs.field(default=None, init=False, repr=False)

    @classmethod
    def from_uri(cls, uri: URI, registry: Registry) -> ObstoreStore:
        """Make the store of ``gs://bucket/prefix`` or ``az://container/prefix?account=name``."""
        fixed: dict[str, Any] = {"kind": uri.scheme, "bucket": uri.host, "prefix": uri.path}
        return cls(**fixed, **uri.fields(cls, unsettable=tuple(fixed)))

    def identity(self) -> str:
        return f"{super().identity()} account={self.account} {_version()}"

    def _scheme(self) -> str:
        return self.kind

    def _requests(self) -> ObstoreClient:
        if self._client is None:
            self._client = _client(self, self._make, {})
        return self._client

    def _make(self, http: Any, retry: Any) -> GCSStore | AzureStore:
        if self.kind == "gs":
            return GCSStore(self.bucket, client_options=http, retry_config=retry)
        more: dict[str, Any] = {"account_name": self.account} if self.account else {}
        return AzureStore(self.bucket, client_options=http, retry_config=retry, **more)


def _client(store: RemoteStore, make: Any, options: dict[str, Any]) -> ObstoreClient:
    bucket = f"{store.place.partition('://')[0]}://{store.bucket}"
    idle = {"pool_max_idle_per_host": str(store.connections)}
    return ObstoreClient(make, bucket, store.request_timeout_s, store.connect_timeout_s, {**idle, **options})


def _version() -> str:
    return f"obstore {obstore.__version__}"

"""Certificates for tests: an authority of one's own, and what servers and clients need of it, as PEM files."""

from __future__ import annotations

from pathlib import Path

import attrs
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@attrs.frozen
class Pair:
    """
    A certificate with its key, as files.

    Attributes:
        certificate: With the chain up to the authority.

        key: As PKCS#8, not encrypted.

        both: The two in one file, as Kafka's PEM keystores take them.
    """

    certificate: Path
    key: Path
    both: Path


@attrs.define(eq=False)
class Authority:
    """
    Signs certificates that nobody else trusts.

    Attributes:
        folder: Where its files go; it must be there.
    """

    folder: Path
    _ca: trustme.CA = attrs.field(factory=trustme.CA, init=False, repr=False)

    @property
    def certificate(self) -> Path:
        """What a client is told to trust."""
        path = self.folder / "ca.pem"
        if not path.exists():
            self._ca.cert_pem.write_to_path(str(path))
        return path

    def issue(self, host: str, name: str, folder: Path | None = None) -> Pair:
        """Issue a certificate for a host or an address, with a common name that a server takes for the client's."""
        issued = self._ca.issue_cert(host, common_name=name)
        key = load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        pair = Pair(*((folder or self.folder) / f"{name}.{kind}.pem" for kind in ("crt", "key", "all")))
        pair.certificate.write_bytes(chain)
        pair.key.write_bytes(text)
        pair.both.write_bytes(text + chain)
        return pair

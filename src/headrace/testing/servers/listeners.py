"""Where clients reach a test broker, and how they must prove who they are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from headrace.testing.servers.tls import Authority

ListenerName = Literal["plain", "sasl", "tls", "mtls"]

_MODULES = "org.apache.kafka.common.security"


@attrs.frozen(kw_only=True)
class Security:
    """
    Asks clients for credentials, on listeners of their own. ``plain`` stays open: its clients are super users.

    =========  ==========  ================================================================================
    ``sasl``   SASL        PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 of `users`; OAUTHBEARER, unsigned
    ``tls``    SASL, TLS   the same
    ``mtls``   TLS         a client's certificate of the same authority; its common name is the user
    =========  ==========  ================================================================================

    Attributes:
        users: Passwords by name.

        authority: Signs the brokers' certificates.

        acls: Whoever has no right by an ACL is refused. Without it everybody may do everything.
    """

    users: Mapping[str, str] = attrs.field(repr=False)
    authority: Authority
    acls: bool = False

    names = ("sasl", "tls", "mtls")
    """Its listeners."""

    def properties(self, number: int, folder: Path) -> dict[str, str]:
        """Return what a broker is told; its keys are written into its folder."""
        pair = self.authority.issue("127.0.0.1", f"broker-{number}", folder)
        plain = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        modules = {
            "plain": f"{_MODULES}.plain.PlainLoginModule required {plain}",
            "scram-sha-256": f"{_MODULES}.scram.ScramLoginModule required",
            "scram-sha-512": f"{_MODULES}.scram.ScramLoginModule required",
            "oauthbearer": f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"',
        }
        found = {
            "sasl.enabled.mechanisms": ",".join(m.upper() for m in modules),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(pair.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "listener.name.mtls.ssl.client.auth": "required",
            "listener.name.mtls.ssl.principal.mapping.rules": "RULE:.*CN=([^,]+).*/$1/",
        }
        for listener in ("sasl", "tls"):
            found |= {f"listener.name.{listener}.{m}.sasl.jaas.config": f"{text};" for m, text in modules.items()}
        if self.acls:
            found["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            found["super.users"] = "User:ANONYMOUS"
        return found

    def scram(self) -> list[str]:
        """Return what `StorageTool` is told, so that the users are there from the first start."""
        return [
            part
            for name, password in self.users.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for part in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]


PROTOCOLS: Mapping[str, str] = {"plain": "PLAINTEXT", "sasl": "SASL_PLAINTEXT", "tls": "SASL_SSL", "mtls": "SSL"}
"""What Kafka calls the protocol of each listener."""

"""Who connects to which account, and how: settings of ours, of the environment, of a named connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import snowflake.connector
from cryptography.hazmat.primitives import serialization

from headrace.errors import ConfigError

NEW = int(snowflake.connector.__version__.split(".")[0]) >= 5
"""Connector 5 has new names for some settings, and warns of the old ones."""

_FROM_ENVIRONMENT = (
    "account",
    "user",
    "password",
    "authenticator",
    "token",
    "token_file",
    "private_key_file",
    "private_key_passphrase",
    "role",
    "warehouse",
)


@attrs.frozen(kw_only=True)
class Account:
    """
    What a connection is made of.

    Where no `connection` is named, what is empty is taken from ``SNOWFLAKE_ACCOUNT``, ``SNOWFLAKE_USER``,
    ``SNOWFLAKE_PASSWORD`` and so on. Nothing of it is printed but account, user and names.

    Attributes:
        account: Its identifier, ``organization-name``.

        user: Who connects.

        connection: A connection of ``connections.toml``; what is given here wins over it.

        password: Of the user.

        authenticator: The connector's own word; "" for what fits the other settings.

        token: An OAuth access token, or a programmatic access token.

        token_file: A file with the token in it, read at each connection: it may be renewed meanwhile.

        private_key: A key in PEM or DER (PKCS 8).

        private_key_file: A file with the key.

        private_key_passphrase: Of the key.

        role: "" for the user's default.

        warehouse: "" for the user's default.

        host: Of another address than the account's own, with `port` and `protocol`.

        port: 0 for the connector's default.

        protocol: "" for https.
    """

    account: str = ""
    user: str = ""
    connection: str = ""
    password: str = attrs.field(default="", repr=False)
    authenticator: str = ""
    token: str = attrs.field(default="", repr=False)
    token_file: str = ""
    private_key: bytes = attrs.field(default=b"", repr=False)
    private_key_file: str = ""
    private_key_passphrase: str = attrs.field(default="", repr=False)
    role: str = ""
    warehouse: str = ""
    host: str = ""
    port: int = 0
    protocol: str = ""

    def completed(self, environment: Mapping[str, str] = os.environ) -> Account:
        """Fill what is empty from the environment, unless a connection is named."""
        if self.connection:
            return self
        found = {name: environment.get(f"SNOWFLAKE_{name.upper()}", "") for name in _FROM_ENVIRONMENT}
        given = self.password or self.token or self.token_file or self.private_key or self.private_key_file
        if given:  # of two ways to show who one is, the one that was given counts
            for name in (
                "password",
                "token",
                "token_file",
                "private_key_file",
                "private_key_passphrase",
                "authenticator",
            ):
                found.pop(name)
        missing: dict[str, Any] = {name: text for name, text in found.items() if text and not getattr(self, name)}
        return attrs.evolve(self, **missing)

    def settings(self) -> dict[str, Any]:
        """
        Write it as the connector's settings.

        Raises:
            ConfigError: No account, no user, or a key or a token that cannot be read.
        """
        full = self.completed()
        if not full.connection and not full.account:
            raise ConfigError(
                "found no account: write snowflake://ACCOUNT/…, ?connection=NAME, or set SNOWFLAKE_ACCOUNT"
            )
        names = ("account", "user", "password", "authenticator", "role", "warehouse", "host", "port", "protocol")
        found: dict[str, Any] = {name: getattr(full, name) for name in names if getattr(full, name)}
        if full.connection:
            found["connection_name"] = full.connection
        if full.private_key or full.private_key_file:
            found["private_key"] = full.der()
        elif full.token or full.token_file:
            found["token"] = full.token or _read(full.token_file, "token").decode().strip()
            found.setdefault("authenticator", "oauth" if _is_oauth(found["token"]) else "PROGRAMMATIC_ACCESS_TOKEN")
        return found

    def der(self) -> bytes:
        """The key as the connector takes it in all its versions: DER, without a passphrase."""
        content = self.private_key or _read(self.private_key_file, "private key")
        phrase = self.private_key_passphrase.encode() or None
        load = (
            serialization.load_pem_private_key
            if content.lstrip().startswith(b"-----")
            else serialization.load_der_private_key
        )
        try:
            key = load(content, phrase)
        except (ValueError, TypeError) as exc:
            place = self.private_key_file or "private_key"
            raise ConfigError(
                f"{place}: cannot be read as a private key: wrong passphrase, or no PKCS 8 in PEM or DER"
            ) from exc
        return key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _is_oauth(token: str) -> bool:
    """A token in three parts is a JSON Web Token, as OAuth servers give them; a programmatic one has none of that."""
    return token.count(".") == 2


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: the {what} cannot be read: {exc.strerror}") from exc

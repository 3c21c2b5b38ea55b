"""Component URIs: a source, sink, lake or warehouse as one line of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs

from headrace.errors import ConfigError
from headrace.units import parse_bytes, parse_seconds

_HIDDEN = re.compile(r"[^/@\s]*:[^@\s]*@")
_SECRET = (
    "password",
    "secret",
    "token",
    "passphrase",
    "credential",
    "sasl.jaas",
    "oauthbearer.config",
    "private",
    "ssl.key",
    "access_key",
)


def is_secret(name: str) -> bool:
    """Say whether a setting of this name is kept out of everything that is printed."""
    return any(word in name.lower() for word in _SECRET)


NESTED = "headrace.settings"
"""
Metadata of a field whose value is an attrs class with settings of the same URI: the names of those that are none, as other parts
of the URI say them.
"""


@attrs.frozen
class URI:
    """
    ``scheme://user:password@host/path?setting=value``, percent-decoded.

    ``str()`` and ``repr()`` show no password and no secret setting.

    Attributes:
        scheme: Which plugin.

        host: With its port, ``"127.0.0.1:9092"``; "" where the URI has none. A list of hosts stays one text.

        path: With its leading slash.

        settings: The query, in its order; a setting that is given twice is refused.

        user: "" where there is none.

        password: "" where there is none.
    """

    scheme: str
    host: str
    path: str
    settings: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    user: str = ""
    password: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> URI:
        """Take a URI apart; ConfigError says what is wrong with it."""
        scheme, colon, rest = text.partition("://")
        if not colon or not scheme.replace("+", "").replace("-", "").isalnum():
            raise ConfigError(
                f"found {_HIDDEN.sub('***@', text)!r}, expected a URI such as kafka://127.0.0.1:9092/trades?group=bronze or file:///lake"
                + ("" if colon or "/" not in text else f"; a path is written file://{text if text[0] == '/' else '/…'}")
            )
        # the scheme is cut off first: urlsplit knows some schemes and would treat them apart
        parts = urlsplit(f"//{rest}")
        if "#" in rest or _cut_password(parts.netloc, rest):  # and nothing of it may be shown
            raise ConfigError(
                f"found a {scheme}:// URI with '#', or with '@' behind the host: in a name, a path or a password '#' is written"
                " %23, '/' %2F, '?' %3F and '@' %40"
            )
        userinfo, at, host = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":") if at else ("", "", "")
        settings: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in settings:
                raise ConfigError(f"{name!r} is given twice in the URI of {scheme}://{host}{parts.path}")
            settings[name] = value
        return cls(scheme.lower(), host, unquote(parts.path), settings, unquote(user), unquote(password))

    def __str__(self) -> str:
        user = f"{quote(self.user)}{':***' if self.password else ''}@" if self.user else ""
        query = "&".join(f"{name}={'***' if is_secret(name) else value}" for name, value in self.settings.items())
        return f"{self.scheme}://{user}{self.host}{self.path}{'?' + query if query else ''}"

    def fields(
        self,
        component: type,
        *,
        dotted: str | None = None,
        plain: tuple[str, ...] = (),
        leave: tuple[str, ...] = (),
        unsettable: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """
        Turn the settings into keyword arguments of an attrs class, by the names and types of its fields.

        A field that ends in ``_bytes`` reads ``32MiB``, one that ends in ``_s`` reads ``30s``; ``a-b`` is ``a_b``.

        Args:
            component: The attrs class.

            dotted: The field that takes every setting with a dot in its name, unchanged: a client library's own.

            plain: Settings of the client library whose names have no dot.

            leave: Settings that the caller reads itself.

            unsettable: Fields that a URI sets by its other parts, or not at all.

        Raises:
            ConfigError: A setting that the class does not have, or a value that is not of its type.
        """
        known = {f.name: f for f in attrs.fields(component) if f.init and f.name[0] != "_" and f.name not in unsettable}
        hints = get_type_hints(component)
        found: dict[str, Any] = {}
        client: dict[str, str] = {}
        for name, value in self.settings.items():
            field = name.replace("-", "_")
            if name in leave:
                continue
            if ("." in name or name in plain) and dotted is not None:
                client[name] = value
            elif field in known and _is_plain(hints.get(field)):
                found[field] = _convert(field, value, hints[field], self.scheme)
            else:
                names = sorted({*(n for n in known if _is_plain(hints.get(n))), *leave})
                more = "; any setting of the client library may be given too (its name has a dot)" if dotted else ""
                raise ConfigError(
                    f"{self.scheme}:// has no setting {name!r}; expected one of {', '.join(names) or 'none'}{more}"
                )
        if dotted is not None and client:
            found[dotted] = client
        return found


def _cut_password(netloc: str, rest: str) -> bool:
    """Whether what looks like a host and a port is a user and the beginning of a password, which a '/' or a '?' has cut."""
    _, colon, port = netloc.rpartition(":")
    return "@" in rest and "@" not in netloc and bool(colon) and not port.isdecimal() and not port.endswith("]")


_PLAIN = (str, int, float, bool)


def _members(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_plain(hint: object) -> bool:
    """Whether a text can be turned into a value of this type."""
    return any(m in _PLAIN or (get_args(m) and all(isinstance(a, str) for a in get_args(m))) for m in _members(hint))


def _convert(name: str, value: str, hint: object, scheme: str) -> Any:
    members = _members(hint)
    try:
        if name.endswith("_bytes"):
            return parse_bytes(value)
        if name.endswith("_s") and (float in members or int in members):
            return parse_seconds(value)
        if bool in members:
            return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}[value.lower()]
        if int in members:
            return int(value)
        if float in members:
            return float(value)
    except (ValueError, KeyError) as exc:
        wanted = " or ".join(getattr(m, "__name__", str(m)) for m in members if m is not type(None))
        detail = f" ({exc})" if isinstance(exc, ConfigError) else ""
        raise ConfigError(f"{scheme}://…?{name}={value}: expected {wanted}{detail}") from exc
    choices = [a for m in members for a in get_args(m)]
    if choices and value not in choices:
        raise ConfigError(f"{scheme}://…?{name}={value}: expected one of {', '.join(map(str, choices))}")
    return value

"""What source and sink share: settings, connections, and librdkafka's errors told as ours."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import attrs
from confluent_kafka import KafkaError, KafkaException

from headrace.errors import ConfigError, HeadraceError, SourceUnavailableError, TransientError
from headrace.uri import URI, is_secret

T = TypeVar("T")

_log = logging.getLogger("headrace.kafka.client")

_REMEMBERED = 1000
"""Different lines of the client that are remembered."""

PLAIN = ("acks", "debug", "log_level", "partitioner", "retries")
"""librdkafka's settings whose names have no dot (its CONFIGURATION.md)."""

_CONNECTION = (
    "api.",
    "bootstrap.",
    "broker.",
    "client.",
    "connections.",
    "debug",
    "enable.sasl.",
    "enable.ssl.",
    "https.",
    "log",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
)
"""How librdkafka's settings begin that are about a connection, and no consumer's or producer's alone."""

_REFUSED = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._INVALID_ARG,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_CONFIG,
}
_ADVICE = {
    KafkaError.UNRELEASED_INSTANCE_ID: "another member of the group has the same instance=, or had it a moment ago: give each"
    " its own, or wait until the group has forgotten it (its session timeout)",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "to read, the user needs Describe and Read on the topic; to publish, Describe and"
    " Write",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the user needs Read on the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "to publish, the user needs Write on the topic, or IdempotentWrite on the"
    " cluster before Kafka 3.0; to make a topic, Create on the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the user needs Describe and Write on the transactional id",
}
"""What to do, where more can be said than that something was refused."""

NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}


def told(error: KafkaError, what: str, unavailable: type[TransientError]) -> HeadraceError:
    """
    Make our error of librdkafka's: a setting, or something that may pass.

    Args:
        error: What librdkafka said.

        what: What was being done, and where.

        unavailable: The transient error of this side.
    """
    if error.code() in NO_TOPIC:
        return ConfigError(f"{what}: the topic or partition does not exist; make it, or mend the name ({error.str()})")
    if error.fatal() or error.code() in _REFUSED:
        advice = _ADVICE.get(error.code(), "check addresses, credentials and rights")
        return ConfigError(f"{what}: {error.name()}: {error.str()}; {advice}")
    return unavailable(f"{what}: {error.name()}: {error.str()}")


def fatal(error: KafkaError, what: str) -> HeadraceError:
    """Make our error of one after which a consumer does no more. Which it was, it says in its text only."""
    said = f"{what}: {error.str()}"
    if "instance" in error.str().lower():
        return ConfigError(f"{said}; {_ADVICE[KafkaError.UNRELEASED_INSTANCE_ID]}")
    if "version not supported" in error.str():
        return ConfigError(f"{said}; the broker does not have this group protocol: set group_protocol=classic")
    return SourceUnavailableError(f"{said}; joining again")  # such as a group that was deleted


@attrs.define
class ClientLog:
    """
    Takes librdkafka's log lines.

    What it calls an error is a connection that it mends itself, twenty times a second while a broker is away. So it is a
    warning here, and said once in a while; a call that cannot go on raises its own error.

    Attributes:
        every_s: How long the same line is not repeated.

        clock: Monotonic seconds.
    """

    every_s: float = 10.0
    clock: Callable[[], float] = time.monotonic
    _last_s: dict[str, float] = attrs.field(factory=dict, init=False)

    def log(self, level: int, text: str, *values: object) -> None:
        """Log as a `logging.Logger` does, which is what the client takes this for."""
        line = text % values if values else text
        if level >= logging.WARNING and self._said(line.partition(" (after ")[0]):  # the rest says how long it took
            return
        _log.log(min(level, logging.WARNING), "%s", line)

    def _said(self, what: str) -> bool:
        now = self.clock()
        if now - self._last_s.get(what, -math.inf) < self.every_s:
            return True
        if len(self._last_s) >= _REMEMBERED:
            self._last_s.clear()
        self._last_s[what] = now
        return False


def asked(call: Callable[[], T], what: str, unavailable: type[TransientError]) -> T:
    """Return what *call* returns; its KafkaException becomes ours."""
    try:
        return call()
    except KafkaException as exc:
        raise told(exc.args[0], what, unavailable) from exc


def made(
    kind: Callable[..., T], settings: Mapping[str, object], on_error: Callable[[KafkaError], None] | None = None
) -> T:
    """Make a client. ConfigError in librdkafka's own words where it does not know a setting or refuses its value."""
    try:
        return kind({"error_cb": on_error or log_error, **settings}, logger=ClientLog())
    except KafkaException as exc:
        raise ConfigError(f"librdkafka refuses its settings: {exc.args[0].str()}") from exc
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"librdkafka refuses its settings: {exc}") from exc


def merged(fixed: Mapping[str, object], defaults: Mapping[str, object], given: Mapping[str, str]) -> dict[str, object]:
    """Put settings together; ConfigError where one is given that the protocol fixes otherwise."""
    for name, value in fixed.items():
        if name in given and str(given[name]).lower() != str(value).lower():
            shown = "***" if is_secret(name) else given[name]
            raise ConfigError(
                f"found {name}={shown}, expected {value}: exactly-once rests on it; leave the setting out"
            )
    return {**defaults, **given, **fixed}


def credentials(uri: URI) -> dict[str, str]:
    """Take ``user:password@`` from the URI as SASL's; what is not there may stand in a file."""
    given = {"sasl.username": uri.user, "sasl.password": uri.password}
    return {name: value for name, value in given.items() if value}


def from_file(path: str) -> dict[str, str]:
    """
    Read settings of librdkafka from a file: one ``name=value`` a line, as it is, with nothing encoded; ``#`` begins a comment.

    Args:
        path: Of the file; "" for none.

    Raises:
        ConfigError: It cannot be read, or a line is none of these. Nothing of what it says is shown.
    """
    found: dict[str, str] = {}
    try:
        text = Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8"
        raise ConfigError(f"settings_file={path}: cannot be read: {why}") from exc
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = (word.strip() for word in line.partition("="))
        if not name or name.startswith("#"):
            continue
        if not equals or name in found:
            expected = "a name once" if equals else "name=value"
            raise ConfigError(f"settings_file={path}: line {number}: expected {expected}")
        found[name] = value
    return found


def connection(settings: Mapping[str, object]) -> dict[str, object]:
    """Leave of a client's settings those that say how brokers are reached: every client of a component has the same."""
    return {name: value for name, value in settings.items() if name.startswith(_CONNECTION)}


def topics_of(uri: URI) -> tuple[str, ...]:
    """Take the topics from the URI's path: ``/trades`` or ``/trades,quotes``."""
    found = tuple(name for name in uri.path.strip("/").split(",") if name)
    if not uri.host or not found:
        raise ConfigError(f"found {uri}, expected kafka://HOST:PORT/TOPIC, several of either divided by commas")
    return found


def log_error(error: KafkaError) -> None:
    """librdkafka mends most of these by itself; a call that cannot go on raises its own."""
    _log.debug("client error name=%s fatal=%s text=%s", error.name(), error.fatal(), error.str())

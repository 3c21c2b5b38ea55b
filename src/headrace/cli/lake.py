"""What commands that look into a lake share."""

from __future__ import annotations

import logging
import time

import attrs

from headrace.chain import Chain, streams
from headrace.errors import ConfigError
from headrace.logs import event as log_event
from headrace.registry import Registry
from headrace.store import Store
from headrace.uri import URI

_log = logging.getLogger("headrace.cli.lake")

_OF_THE_SINK = ("compression", "format", "guarantee")
"""Settings that a lake's URI may carry for `headrace stream`; whoever reads finds them in the pin."""


def open_store(registry: Registry, lake: str) -> tuple[Store, str, str]:
    """Make the store of a lake's URI; return it with the stream and the epoch that the URI names, "" for none."""
    uri = URI.parse(lake)
    settings = {name: value for name, value in uri.settings.items() if name not in _OF_THE_SINK}
    stream, epoch = settings.pop("stream", ""), settings.pop("epoch", "")
    return registry.store(attrs.evolve(uri, settings=settings)), stream, epoch


def open_chain(registry: Registry, lake: str, stream: str, epoch: str, wait_s: float | None = None) -> Chain:
    """
    Open one dataset of a lake: of its only stream, where none is named.

    Args:
        registry: Makes the store.

        lake: Its URI.

        stream: Its name; "" for the only one.

        epoch: Its name; "" for the first one.

        wait_s: Where the lake does not have it yet, look again after so long, for ever; None: do not wait.

    Raises:
        ConfigError: The lake has no such stream or epoch, or several streams and none is named.
    """
    store, named, named_epoch = open_store(registry, lake)
    if wait_s is not None:
        _wait_for(store, stream or named, epoch or named_epoch, wait_s)
    return Chain.open(store, stream or named or _only_stream(store), epoch or named_epoch)


def _wait_for(store: Store, stream: str, epoch: str, wait_s: float) -> None:
    def there() -> bool:
        return any((stream or name, epoch) == (name, begun) for name, begun in streams(store))

    if not there():
        log_event(_log, logging.WARNING, "waiting for a stream", lake=store.place, stream=stream or None)
    while not there():
        time.sleep(wait_s)  # nothing is held yet: a signal may end the process here as it likes


def _only_stream(store: Store) -> str:
    found = sorted({stream for stream, _ in streams(store)})
    if not found:
        raise ConfigError(f"{store.place} holds no stream; `headrace stream SOURCE {store.place}` writes one")
    if len(found) > 1:
        raise ConfigError(f"{store.place} has {len(found)} streams ({', '.join(found)}): name one with --stream")
    return found[0]

"""An audit of what URIs name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import attrs

from headrace.auditing.result import AuditFinding, AuditResult
from headrace.auditing.run import Audit
from headrace.chain import streams
from headrace.contract import Contract
from headrace.errors import ConfigError, TransientError
from headrace.logs import redacted
from headrace.registry import Registry
from headrace.source import Source
from headrace.uri import URI

_OF_THE_SINK = ("compression", "format", "guarantee")
_NO_GROUP = "headrace-audit"


def made(
    stack: ExitStack,
    lake: str,
    warehouse: str,
    *,
    source: str,
    stream: str,
    epoch: str,
    contract: type | Sequence[type] | None,
    registry: Registry | None = None,
) -> Audit:
    """Make the audit of what URIs name; the stack closes what it is made of. ConfigError as for `headrace.audit`."""
    registry = Registry.discover() if registry is None else registry
    uri = URI.parse(lake)
    settings = {name: value for name, value in uri.settings.items() if name not in _OF_THE_SINK}
    stream, epoch = stream or settings.pop("stream", ""), epoch or settings.pop("epoch", "")
    settings = {name: value for name, value in settings.items() if name not in ("stream", "epoch")}
    store = registry.store(attrs.evolve(uri, settings=settings))
    stack.callback(store.close)
    if not stream:
        there = sorted({name for name, _ in streams(store)})
        if len(there) != 1:
            raise ConfigError(
                f"{store.place} has {len(there)} streams ({', '.join(there) or 'none'}): name one (--stream)"
            )
        [stream] = there
    kept = _newest_first(contract)
    loader = None
    if warehouse:
        loader = registry.loader(warehouse, kept[0]) if kept else registry.ledger(warehouse)
        stack.callback(loader.close)
    log = None
    if source:
        log = looked_at(registry, source)
        stack.callback(log.close)
    return Audit(
        store=store,
        stream=stream,
        epoch=epoch,
        source=log,
        loader=loader,
        source_name=redacted(str(URI.parse(source))) if source else "",
        loader_name=redacted(str(URI.parse(warehouse))) if warehouse else "",
        typed=bool(kept),
        earlier=kept[1:],
    )


def looked_at(registry: Registry, source: str) -> Source:
    """
    Make a source that is asked and read beside its readers. One of Kafka needs no group for that, as none is joined.

    Args:
        registry: Knows the plugins.

        source: Its URI.

    Raises:
        ConfigError: The URI is wrong, or a live feed's: there is no log of it to look at.
    """
    uri = URI.parse(source)
    if uri.scheme == "kafka" and "group" not in uri.settings:
        uri = attrs.evolve(uri, settings={**uri.settings, "group": _NO_GROUP})
    made = registry.source(uri)
    if not made.rereadable:
        made.close()
        raise ConfigError(f"found the source {redacted(source)}, a live feed, expected the log that it is kept in")
    return made


def _newest_first(given: type | Sequence[type] | None) -> Sequence[type]:
    each = [] if given is None else [given] if isinstance(given, type) else list(given)
    return sorted(each, key=lambda kept: Contract.of(kept).version, reverse=True)


def unanswered(lake: str, stream: str, error: TransientError) -> AuditResult:
    """The result where not even the names of the streams were to be had."""
    place = redacted(str(URI.parse(lake)))
    evidence = f"the lake did not answer: {error}"
    finding = AuditFinding("unknown", "lake", None, 0, 0, evidence, "see that it can be read, and ask again")
    return AuditResult(stream, place, findings=[finding])


def audit(
    lake: str,
    warehouse: str = "",
    *,
    source: str = "",
    stream: str = "",
    epoch: str = "",
    contract: type | Sequence[type] | None = None,
    deep: bool = False,
    since: int | str | None = None,
    until: int | str | None = None,
    caught_up: bool = False,
    gaps: str = "",
) -> AuditResult:
    """
    Compare what URIs name, from the log's offsets to the warehouse's rows, and say what is wrong, where, and what to do.

    Args:
        lake: Such as ``file:///lake``.

        warehouse: Such as ``duckdb:///silver.duckdb?table=trades``; "" for none.

        source: Such as ``kafka://127.0.0.1:9092/trades``; "" for none. No group is joined.

        stream: Its name, where the lake has several.

        epoch: As for `headrace.Chain.open`.

        contract: What a row is: with *deep*, rows are compared cell by cell. Where rows were loaded by several versions, all of
            them. A deep audit of a table without them is never complete.

        deep: As for `headrace.Audit`, and so are the next four.

        since: From there on.

        until: Up to there.

        caught_up: What is on its way counts as not complete.

        gaps: The stream with a feed's gap records.

    Raises:
        ConfigError: A URI is wrong, the source is a live feed, the lake has several streams and none is named, or two contracts
            are of one version.
    """
    with ExitStack() as stack:
        try:
            run = made(stack, lake, warehouse, source=source, stream=stream, epoch=epoch, contract=contract)
        except TransientError as error:
            return unanswered(lake, stream, error)
        run.deep, run.since, run.until, run.caught_up = deep, since, until, caught_up
        run.gaps = gaps
        return run.run()

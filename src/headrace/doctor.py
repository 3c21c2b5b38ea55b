"""Examines what URIs name, before anything depends on it: reachable, allowed, fit for exactly once?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from headrace.errors import (
    ConfigError,
    HeadraceError,
    MissingExtraError,
    PluginError,
    PluginNotFoundError,
    TransientError,
)
from headrace.finding import Finding
from headrace.hookspecs import Kind
from headrace.loader import Loader
from headrace.registry import Registry
from headrace.sink import Sink
from headrace.source import Source
from headrace.store import Store
from headrace.uri import URI

_KINDS: tuple[Kind, ...] = ("sink", "source", "loader", "store")
"""In this order: a lake is examined as what is written to, and a Kafka URI with a group as what is read."""

Component = Source | Sink | Loader | Store


@attrs.frozen
class Examination:
    """
    What was found about one URI.

    Attributes:
        uri: Without secrets.

        kind: As what it was examined; None where nothing could be made of it.

        findings: In the order in which they were looked at.
    """

    uri: str
    kind: Kind | None
    findings: Sequence[Finding]


def examine(registry: Registry, uri: str) -> Examination:
    """
    Make what a URI names and let it be examined. Never raises a HeadraceError: that is a finding.

    What writes is a lake's probe: in a place of its own, and taken away again. Nothing is pinned, no group is joined.
    """
    shown = f"{uri.partition('://')[0]}://…" if "://" in uri else "…"  # a text that is no URI may be a password
    try:
        parsed = URI.parse(uri)
        shown = str(parsed)
        kind, component = _made(registry, parsed)
    except HeadraceError as error:
        return Examination(shown, None, [_finding_of(error, "settings")])
    try:
        found = list(_checked(component))
    finally:
        component.close()
    if not found:
        nothing = f"{type(component).__name__} has no examination of its own"
        found = [Finding("examination", "unknown", nothing, "try it: a short run shows more")]
    return Examination(shown, kind, found)


def verdict(examinations: Iterable[Examination]) -> int:
    """Return 0 where all is fine, 1 where something is wrong, 2 where something could not be told."""
    states = {finding.state for examination in examinations for finding in examination.findings}
    return 1 if "wrong" in states else 2 if "unknown" in states else 0


def _made(registry: Registry, uri: URI) -> tuple[Kind, Component]:
    """Make the first kind that takes the URI's settings."""
    kinds = [kind for kind in _KINDS if uri.scheme in registry.schemes(kind)]
    refusals: list[str] = []
    for kind in kinds:
        try:
            return kind, registry.ledger(uri) if kind == "loader" else registry.make(kind, uri)
        except ConfigError as error:
            refusals.append(f"as a {kind}: {error}" if len(kinds) > 1 else str(error))
    if refusals:
        raise ConfigError("; ".join(refusals))
    known = sorted({scheme for kind in _KINDS for scheme in registry.schemes(kind)})
    raise PluginNotFoundError(f"no plugin makes anything from {uri.scheme}://; expected one of {', '.join(known)}")


def _checked(component: Component) -> Iterator[Finding]:
    try:
        yield from component.check()
    except HeadraceError as error:
        yield _finding_of(error, "reachable" if isinstance(error, TransientError) else "usable")


def _finding_of(error: HeadraceError, subject: str) -> Finding:
    if isinstance(error, TransientError):
        return Finding(subject, "wrong", str(error), "check address, network and whether it runs; then examine again")
    if isinstance(error, MissingExtraError):
        return Finding("installed", "wrong", str(error), "install the extra that the message names")
    if isinstance(error, PluginError):
        return Finding("installed", "wrong", str(error), "`headrace plugins` lists what is there")
    return Finding(subject, "wrong", str(error), "do what the message says")

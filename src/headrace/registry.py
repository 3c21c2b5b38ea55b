"""Finds plugins and makes components from URIs."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import attrs
import pluggy

from headrace import hookspecs
from headrace.errors import ConfigError, HeadraceError, MissingExtraError, PluginError, PluginNotFoundError
from headrace.hookspecs import Component, Ended, Kind
from headrace.loader import Loader
from headrace.sink import Sink
from headrace.source import Source
from headrace.store import Store
from headrace.uri import URI

GROUP = "headrace"
"""The entry-point group in which plugins register, ours like a stranger's."""

_log = logging.getLogger("headrace.registry")


@attrs.frozen
class Plugin:
    """
    An installed plugin.

    Attributes:
        name: Of its entry point.

        distribution: The package that brought it, with its version; "" where it was added by hand.

        components: What it can make; empty where it is broken.

        error: Why it could not be loaded; None where it could.
    """

    name: str
    distribution: str
    components: tuple[Component, ...]
    error: Exception | None = None


@attrs.define
class Registry:
    """
    The plugins that are installed, as an object: nothing happens at import time.

    A broken plugin is remembered and raised only when something is asked of it, so that it cannot take the working ones
    with it.
    """

    plugins: list[Plugin] = attrs.field(factory=list)
    _manager: pluggy.PluginManager = attrs.field(factory=lambda: pluggy.PluginManager("headrace"), repr=False)

    def __attrs_post_init__(self) -> None:
        self._manager.add_hookspecs(hookspecs.PluginSpecs)

    @classmethod
    def discover(cls) -> Registry:
        """Find every plugin that is installed. No client library is imported."""
        registry = cls()
        for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
            registry._load(point)
        return registry

    def add(self, plugin: object, name: str, distribution: str = "") -> None:
        """
        Add a plugin that is at hand: a module or object with hook implementations.

        Raises:
            PluginError: It is no plugin, or names a scheme twice, or one that another plugin has already.
        """
        try:
            self._manager.register(plugin, name)
            hook = self._manager.subset_hook_caller(
                "headrace_components",
                [p for p in self._manager.get_plugins() if p is not plugin],
            )
            components = tuple(c for found in hook() for c in found)
            self._check(name, components)
        except Exception as exc:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            if isinstance(exc, PluginError):
                raise
            raise PluginError(f"plugin {name!r} cannot be registered: {exc}") from exc
        self.plugins.append(Plugin(name, distribution, components))

    def _check(self, name: str, components: tuple[Component, ...]) -> None:
        brought: set[tuple[str, str]] = set()
        for c in components:
            if not isinstance(c, Component):
                raise PluginError(f"plugin {name!r}: headrace_components returned {c!r}, expected a headrace.Component")
            if (c.kind, c.scheme) in brought:
                raise PluginError(f"plugin {name!r} brings the {c.kind} {c.scheme}:// twice")
            brought.add((c.kind, c.scheme))
            other = self._find(c.kind, c.scheme)
            if other is not None:
                raise PluginError(
                    f"plugin {name!r} brings the {c.kind} {c.scheme}://, which {other[0].name!r} has; uninstall one of them"
                )

    def source(self, uri: str | URI) -> Source:
        """Make a source. Errors as for `make`."""
        return cast("Source", self.make("source", uri))

    def sink(self, uri: str | URI) -> Sink:
        """Make a sink. Errors as for `make`."""
        return cast("Sink", self.make("sink", uri))

    def store(self, uri: str | URI) -> Store:
        """Make the store under a lake. Errors as for `make`."""
        return cast("Store", self.make("store", uri))

    def loader(self, uri: str | URI, contract: type) -> Loader:
        """Make a loader for one target. Errors as for `make`."""
        return cast("Loader", self.make("loader", uri, contract=contract))

    def ledger(self, uri: str | URI) -> Loader:
        """
        Make a loader that is asked nothing that a contract decides: positions, quarantine, counts. Errors as for `make`.

        Its contract is a class with one column that no table has.
        """
        from headrace.contract import contract  # noqa: PLC0415 - its imports are not needed by others

        @contract(version=1)
        class NoRow:
            """Never read."""

            nothing: str | None

        return self.loader(uri, NoRow)

    def make(self, kind: Kind, uri: str | URI, **more: object) -> Any:
        """
        Make a component from its URI; it connects later, at first use.

        Raises:
            ConfigError: The URI or one of its settings is wrong.
            PluginNotFoundError: No plugin has this scheme for this kind.
            MissingExtraError: Its client library is not installed.
            PluginError: The plugin is broken.
        """
        uri = URI.parse(uri) if isinstance(uri, str) else uri
        found = self._find(kind, uri.scheme)
        if found is None:
            raise self._unknown(kind, uri)
        try:
            return self.load_class(found[1]).from_uri(uri, self, **more)
        except HeadraceError:
            raise
        except (TypeError, ValueError) as exc:  # a field's own validator
            raise ConfigError(f"{uri}: {exc.args[0] if exc.args else exc}") from exc

    def ended(self, make: Callable[[], Ended]) -> None:
        """Tell every plugin that listens how a command ended; *make* is called once, where one does. Nothing is raised."""
        listeners = self._manager.hook.headrace_ended.get_hookimpls()
        if not listeners:
            return
        ended = make()
        for listener in listeners:
            try:
                listener.function(*([ended] if listener.argnames else []))
            except Exception as exc:  # noqa: BLE001 - a plugin that listens must not change what it hears of
                _log.warning("hook failed hook=headrace_ended plugin=%s error=%r", listener.plugin_name, exc)

    def load_class(self, component: Component) -> Any:
        """Import a component's class; MissingExtraError where its client library is not there."""
        module, _, name = component.path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as exc:
            if component.extra and not (exc.name or "").startswith("headrace"):
                raise MissingExtraError(
                    f"the {component.kind} {component.scheme}:// needs {exc.name}, which is not installed: "
                    f"pip install 'headrace[{component.extra}]'"
                ) from exc
            raise PluginError(f"the {component.kind} {component.scheme}:// cannot be imported: {exc}") from exc
        except (ImportError, AttributeError) as exc:
            raise PluginError(f"the {component.kind} {component.scheme}:// cannot be imported: {exc}") from exc

    def schemes(self, kind: Kind) -> Mapping[str, Component]:
        """Return the schemes that can be made, for one kind."""
        return {c.scheme: c for p in self.plugins for c in p.components if c.kind == kind}

    def _find(self, kind: Kind, scheme: str) -> tuple[Plugin, Component] | None:
        return next(
            ((p, c) for p in self.plugins for c in p.components if c.kind == kind and c.scheme == scheme),
            None,
        )

    def _load(self, point: EntryPoint) -> None:
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else ""
        try:
            self.add(point.load(), point.name, distribution)
        except Exception as exc:  # noqa: BLE001 - a broken plugin must not take the working ones with it
            _log.warning("plugin broken name=%s distribution=%s error=%r", point.name, distribution, exc)
            self.plugins.append(Plugin(point.name, distribution, (), exc))

    def _unknown(self, kind: Kind, uri: URI) -> PluginError | ConfigError:
        known = ", ".join(f"{s}://" for s in sorted(self.schemes(kind))) or "none"
        others = sorted({c.kind for p in self.plugins for c in p.components if c.scheme == uri.scheme})
        if others:
            return ConfigError(f"{uri.scheme}:// can be a {' or a '.join(others)}, not a {kind}; {kind}s: {known}")
        broken = [p for p in self.plugins if p.error is not None]
        message = f"no plugin makes a {kind} from {uri.scheme}://; {kind}s: {known}"
        if broken:
            message += "; these plugins are installed but broken: " + ", ".join(f"{p.name} ({p.error})" for p in broken)
        error = PluginNotFoundError(message)
        error.__cause__ = broken[0].error if broken else None
        return error

"""``headrace plugins``: what can be made, and with which settings."""

from __future__ import annotations

import inspect
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import typer

from headrace.cli.exits import DONE
from headrace.cli.options import AsJson, LogFormat, LogLevel, begin
from headrace.cli.output import Output
from headrace.errors import MissingExtraError, PluginError, PluginNotFoundError
from headrace.hookspecs import Component
from headrace.logs import redacted
from headrace.registry import Registry
from headrace.units import format_bytes
from headrace.uri import NESTED, is_secret

_OURS = "headrace"


def plugins(
    context: typer.Context,
    scheme: Annotated[
        str,
        typer.Argument(
            metavar="[SCHEME]",
            help="Show the settings of this one, or of all that a plugin of this name makes.",
            show_default=False,
        ),
    ] = "",
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    List what can be made from which URI.

    Each installed plugin, what it makes, and what is missing to make it. With SCHEME: the settings that its URI takes.

    For example:

    headrace plugins

    headrace plugins kafka
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    if scheme:
        return _settings(output, registry, scheme.removesuffix("://").lower())
    rows: list[list[str]] = []
    for plugin in registry.plugins:
        rows += [
            [f"{c.scheme}://", c.kind, plugin.name, plugin.distribution, _state(registry, c), c.summary]
            for c in plugin.components
        ]
        if plugin.error is not None:
            rows.append(["", "", plugin.name, plugin.distribution, f"broken: {redacted(str(plugin.error))}", ""])
    columns = ["scheme", "kind", "plugin", "package", "state", "what it does"]
    output.document({"plugins": [dict(zip(columns, row, strict=True)) for row in rows]})
    styles = [None if row[4] == "ready" else "yellow" if row[4].startswith("needs") else "red" for row in rows]
    if output.drawn:
        keep = [0, 1, 4] if output.width < 70 else [0, 1, 2, 4, 5] if output.width < 110 else range(6)
        columns, rows = [columns[i] for i in keep], [[row[i] for i in keep] for row in rows]
    output.table("", columns, rows, styles)
    if output.drawn:
        output.line("\n`headrace plugins SCHEME` shows the settings of one.", style="dim")
    return DONE


def _state(registry: Registry, component: Component) -> str:
    try:
        registry.load_class(component)
    except MissingExtraError:
        return f"needs {_OURS}[{component.extra}]"
    except PluginError as error:
        return f"broken: {redacted(str(error))}"
    except Exception as error:  # noqa: BLE001 - a stranger's module may fail in any way, and the others are to be listed
        return f"broken: {redacted(f'{type(error).__name__}: {error}')}"
    return "ready"


# ---- the settings of one scheme ---------------------------------------------------------------------------


def _settings(output: Output, registry: Registry, scheme: str) -> int:
    found = [c for plugin in registry.plugins for c in plugin.components if c.scheme == scheme]
    if not found:
        found = _of_plugin(registry, scheme)
    documents = []
    for i, component in enumerate(found):
        kind = registry.load_class(component)
        settings = _fields(kind)
        example = _summary(kind.from_uri)
        about = {"scheme": component.scheme, "kind": component.kind, "summary": component.summary}
        documents.append({**about, "settings": settings})
        if i:
            output.line()
        output.line(f"{component.scheme}:// as a {component.kind}: {component.summary}", style="bold")
        output.line(example)
        _show(output, settings)
    output.document({"components": documents})
    return DONE


def _of_plugin(registry: Registry, name: str) -> list[Component]:
    """All that a plugin of this name makes and that can be made here: whoever reads the list may take its name for a scheme."""
    named = [c for plugin in registry.plugins if plugin.name == name for c in plugin.components]
    ready = [c for c in named if _state(registry, c) == "ready"]
    if not named:
        known = ", ".join(sorted({f"{c.scheme}://" for plugin in registry.plugins for c in plugin.components}))
        raise PluginNotFoundError(f"found {name}://, expected one of {known}, or a plugin's name")
    return ready or named


def _show(output: Output, settings: list[dict[str, str]]) -> None:
    if not output.drawn:
        columns = ["name", "reads", "default", "help"]
        output.table("", columns, [[setting[c] for c in columns] for setting in settings])
        return
    for setting in settings:
        about = setting["reads"] + (f", {setting['default']} by default" if setting["default"] else "")
        output.line()
        output.line(f"{setting['name']}  ({about.replace('needed by default', 'needed')})", style="cyan")
        output.line(f"  {setting['help']}")


def _fields(kind: Any) -> list[dict[str, str]]:
    """The fields of an attrs class that a URI can set, with what its docstring says of them."""
    hints, told = get_type_hints(kind), dict[str, str]()
    for home in reversed(kind.__mro__):  # a field is told of where it is declared
        told |= _told(inspect.getdoc(home) or "")
    found = []
    for field in attrs.fields(kind):
        if NESTED in field.metadata:
            elsewhere = field.metadata[NESTED]
            found += [setting for setting in _fields(hints[field.name]) if setting["name"] not in elsewhere]
            continue
        reads = _reads(field.name, hints[field.name])
        if not field.init or field.name.startswith("_") or not reads:
            continue
        default = "needed" if field.default is attrs.NOTHING else _default(field.name, field.default)
        found.append({"name": field.name, "reads": reads, "default": default, "help": told.get(field.name, "")})
    return found


def _reads(name: str, hint: object) -> str:
    """Name what a setting's text looks like; "" where no text can be one."""
    members = [m for m in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)) if m is not NoneType]
    choices = [str(a) for m in members if get_origin(m) is Literal for a in get_args(m)]
    if choices:
        return " or ".join(choices)
    if name.endswith("_bytes") and int in members:
        return "a size"
    if name.endswith("_s") and {int, float} & set(members):
        return "a time"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return next((words[m] for m in words if m in members), "")


def _default(name: str, value: object) -> str:
    if is_secret(name):
        return ""
    if value is None or value == "" or isinstance(value, attrs.Factory):  # type: ignore[arg-type]  # a class to attrs
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if name.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value).replace(" ", "").replace(".0", "")
    if name.endswith("_s") and isinstance(value, (int, float)):
        return f"{value:g}s"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(docstring: str) -> dict[str, str]:
    """What a docstring's section of attributes says of each."""
    _, _, section = docstring.partition("\nAttributes:\n")
    told: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        begun = re.match(r" {4}(\w+): (.*)", line)
        if line and not line.startswith(" "):
            break
        if begun:
            name = begun[1]
            told[name] = [begun[2]]
        elif name and line.strip():
            told[name].append(line.strip())
    return {name: _unquoted(" ".join(lines)) for name, lines in told.items()}


def _summary(function: Any) -> str:
    return _unquoted(" ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split()))


def _unquoted(text: str) -> str:
    return text.replace("``", "").replace("`", "")

"""The page of commands, from the application itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_type_hints

import typer.main

from headrace.cli.app import application
from making.text import cell, escaped

HEAD = """# Commands

Every command with all its options, as `headrace COMMAND --help` shows them. Sources, sinks, lakes and warehouses are
[URIs](settings.md); what an exit code means, and the way out of each error, stands in [failures](../failures.md).

"""
COMMON = ("json", "log_level", "log_format", "help")
_BEFORE = "Before the command's name, as in `headrace --metrics-file FILE load …`:\n\n"


def page() -> str:
    root = typer.main.get_command(application(drawn=False))
    found = list(_leaves(root, "headrace"))
    listed = "".join(
        f"| [`{name}`](#{name.replace(' ', '-')}) | {cell(_paragraphs(command)[0])} |\n" for name, command in found
    )
    head = f"{HEAD}| command | |\n|---|---|\n{listed}\n## What all have in common\n\n{_common(root, found[0][1])}"
    return head + "".join(_command(name, command) for name, command in found)


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, below its groups."""
    parts = getattr(command, "commands", None)
    if parts is None:
        yield name, command
        return
    for part, below in parts.items():
        yield from _leaves(below, f"{name} {part}")


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(p.split()) for p in inspect.cleandoc(command.help or "").split("\n\n")]


def _common(root: Any, one: Any) -> str:
    own = [o for o in one.params if o.name in COMMON]
    before = [o for o in root.params if o.name not in COMMON]  # the command's name stands behind these
    return _table("option", own, {}) + "\n" + _BEFORE + _table("option", before, {}) + "\n"


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in COMMON]
    said = [p.replace("\x08", "").strip() for p in _paragraphs(command)]
    prose = "\n\n".join(escaped(p) for p in said if not p.startswith("headrace ") and p != "For example:")
    examples = [p for p in said if p.startswith("headrace ")]
    usage = " ".join([name, *(["[OPTIONS]"] if options else []), *(_name(a) for a in arguments)])
    text = f"## {name}\n\n{prose}\n\n```text\n{usage}\n```\n\n"
    if examples:
        text += "For example:\n\n```bash\n" + "\n".join(examples) + "\n```\n\n"
    for title, params in (("argument", arguments), ("option", options)):
        text += _table(title, params, _choices(command)) + "\n" if params else ""
    return text


def _choices(command: Any) -> dict[str, list[str]]:
    """The words of options that are enumerations."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    return {
        name: [str(member.value) for member in hint]
        for name, hint in hints.items()
        if inspect.isclass(hint) and issubclass(hint, Enum)
    }


def _name(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _table(title: str, params: list[Any], choices: dict[str, list[str]]) -> str:
    rows = "".join(f"| {_names(p, choices)} | {cell(_help(p))} | {cell(_default(p))} |\n" for p in params)
    return f"| {title} | | default |\n|---|---|---|\n{rows}"


def _names(param: Any, choices: dict[str, list[str]]) -> str:
    if param.param_type_name == "argument":
        return f"`{_name(param)}`"
    value = "" if param.is_flag else f" {param.metavar or '|'.join(choices.get(param.name, ())) or 'TEXT'}"
    return f"`{', '.join([*param.opts, *param.secondary_opts])}{value}`".replace("|", "\\|")


def _help(param: Any) -> str:
    return str(param.help or "") + (f" Or the variable `{param.envvar}`." if getattr(param, "envvar", None) else "")


def _default(param: Any) -> str:
    shown = getattr(param, "show_default", None)
    if param.required:
        return "needed"
    if isinstance(shown, str):
        return shown
    if not shown or param.default in (None, "", False) or callable(param.default):
        return ""
    return str(getattr(param.default, "value", param.default))

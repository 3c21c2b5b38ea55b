"""The page of the public names, from their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import attrs

import headrace
from making.text import doc

HEAD = """# Python

The public names, as their docstrings say them. Those of `headrace` are imported from there: `from headrace import Pipeline`.
Nothing is imported until it is asked for, so `import headrace` costs nothing and needs no client library. What stands in no
list here is not public; the names of `headrace.testing` stand in [Test your plugin](../testing.md). Errors have
[a page of their own](errors.md).

"""
GROUPS: dict[str, tuple[str, ...]] = {
    "To run": (
        *("Pipeline", "FlushPolicy", "Progress", "Load", "LoadProgress", "LoadResult", "Redrive", "RedriveProgress"),
        *("Outlook", "Selection", "Reload", "Expire", "Expiry", "Chain"),
    ),
    "To make components from URIs": ("Registry", "Plugin", "Component", "URI", "hookimpl", "Ended"),
    "To implement: sources, sinks, stores, loaders": (
        *("Source", "Owner", "Sink", "Draft", "Guarantee", "Store", "Page", "StoredObject", "Loader"),
        *("LoadableSegment", "Line", "Census", "Change", "QuarantineCount", "QuarantinedRecord", "Finding"),
    ),
    "Values": (
        *("Partition", "Record", "Headers", "TimestampType", "Batch", "Reached", "BelowLog", "Failed", "Event"),
        *("Hint", "Position", "Start", "Extent", "Identity", "Segment", "Trailer"),
    ),
}
OTHERS = {
    "headrace.contract": ("contract", "column", "load_contract", "Contract", "Column"),
    "headrace.bars": ("Bars",),
    "headrace.airflow": ("uri", "retry_policy", "must_be_complete"),
    "headrace.tally": ("counted", "strays", "by_partition"),
    "headrace.rowwise": (
        *(
            "lacking",
            "typed",
            "typed_again",
            "check_share",
            "newest",
            "order_of",
            "selected",
            "TypedSegment",
            "TypedRow",
        ),
    ),
}


def page() -> str:
    groups = {
        title: [(name, getattr(headrace, name)) for name in names if name in headrace.__all__]
        for title, names in GROUPS.items()
    }
    told = {name for names in GROUPS.values() for name in names}
    left = [n for n in headrace.__all__ if n not in told and n[0] != "_" and not n.endswith("Error")]
    groups["More"] = [(name, getattr(headrace, name)) for name in left]
    for module, names in OTHERS.items():
        groups[f"From {module}"] = [(name, getattr(importlib.import_module(module), name)) for name in names]
    text = HEAD
    for title, things in groups.items():
        if things:
            text += f"## {title}\n\n" + "".join(_entry(name, thing) for name, thing in things)
    return text.rstrip() + "\n"


def _entry(name: str, thing: Any) -> str:
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return f"### {name}\n\n" + _alias(name, thing)
    text = f"### {name}\n\n{_signature(name, thing)}{doc(thing)}\n\n"
    if inspect.isclass(thing):
        text += "".join(
            _member(thing, name, key, member) for key, member in vars(thing).items() if _is_public(thing, key)
        )
    return text


def _alias(name: str, thing: Any) -> str:
    """A type that is a union or a choice of words, or a marker of pluggy's."""
    if name == "hookimpl":
        return "Marks a function of a plugin as the implementation of [a hook](../hooks.md).\n\n"
    return f"```text\n{name} = {_plain(str(thing))}\n```\n\n"


def _is_public(thing: Any, key: str) -> bool:
    member = vars(thing)[key]
    called = isinstance(member, (classmethod, staticmethod, property)) or inspect.isfunction(member)
    return not key.startswith("_") and called and bool(inspect.getdoc(getattr(thing, key)))


def _member(thing: Any, owner: str, key: str, member: Any) -> str:
    if isinstance(member, property):
        return f"#### {owner}.{key}\n\n{_duty(thing, key)}{doc(member)}\n\n"
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    return f"#### {owner}.{key}()\n\n{_signature(key, function)}{_duty(thing, key)}{doc(function)}\n\n"


def _duty(thing: Any, key: str) -> str:
    """Of an interface whether whoever implements it has to write the method."""
    if not getattr(thing, "__abstractmethods__", None):
        return ""
    return "**To be written.** " if key in thing.__abstractmethods__ else "*Has a default.* "


def _signature(name: str, thing: Any) -> str:
    if inspect.isclass(thing) and not attrs.has(thing):
        return ""
    try:
        found = inspect.signature(thing)
    except ValueError:
        return ""
    shown = [p for p in found.parameters.values() if p.name not in {"self", "cls"}]
    parts, starred = [], False
    for p in shown:
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts, starred = [*parts, "*"], True
        starred = starred or p.kind is p.VAR_POSITIONAL
        parts.append(_plain(str(p.replace(default="…" if _is_made(p.default) else p.default))).replace("'…'", "…"))
    returns = (
        ""
        if found.return_annotation is found.empty or inspect.isclass(thing)
        else f" -> {_plain(_word(found.return_annotation))}"
    )
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"
    return f"```text\n{line}\n```\n\n"


def _word(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _is_made(default: Any) -> bool:
    """Whether a default is an object whose repr says nothing to a reader."""
    return default is not inspect.Parameter.empty and not isinstance(
        default, (str, int, float, bool, type(None), tuple)
    )


def _plain(text: str) -> str:
    """Without quotes around annotations and the modules before names."""
    text = re.sub(r""": (['"])(.*?)\1(?= = |$)""", r": \2", text)
    return re.sub(
        r"\b(?:headrace|typing|collections\.abc|pathlib|datetime|decimal|attr|attrs)\.(?:[a-z_]+\.)*(?=[A-Z])", "", text
    )

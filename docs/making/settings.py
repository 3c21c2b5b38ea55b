"""The page of URIs and settings, from what `headrace plugins` says of each class."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections import defaultdict
from typing import Any

from headrace.cli.app import run
from headrace.registry import Registry
from making.text import cell, escaped

HEAD = """# URIs and settings

A source, a sink, a lake or a warehouse is one line of text:

```text
scheme://user:password@host/path?setting=value&setting=value
```

- Quote it in a shell: `?` and `&` mean something else there.
- `/`, `?`, `#`, `@` and `%` in a name, a path or a password are written `%2F`, `%3F`, `%23`, `%40`, `%25`.
- A setting may be written with `-` or `_`. Where it ends in `_s` it reads a time (`30s`, `10m`, `500ms`), in `_bytes` a
  size (`32MiB`); "true or false" may be on and off, or 1 and 0, too.
- A setting with a dot in its name goes to the client library as it is, where there is one: `fetch.wait.max.ms=20`.
- A setting that the component does not have is refused, and the message names those that it has. So is one that stands twice.
- No password and no secret setting is ever printed.

The same list is on the command line: `headrace plugins`, and `headrace plugins SCHEME`. A plugin of another package shows
there, too.

"""


def page() -> str:
    plugins = [p for p in _json("plugins")["plugins"] if p["package"].startswith("headrace ")]
    text = HEAD + "| scheme | as a | plugin | |\n|---|---|---|---|\n"
    for plugin in plugins:
        text += f"| `{plugin['scheme']}` | {plugin['kind']} | {plugin['plugin']} | {cell(plugin['what it does'])} |\n"
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for scheme in dict.fromkeys(p["scheme"] for p in plugins):
        for component in _json("plugins", scheme)["components"]:
            groups[json.dumps(component["settings"])].append(component)
    return text + "".join(_section(found) for found in groups.values())


def _json(*words: str) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*words, "--json"])
    if code:
        raise SystemExit(f"headrace {' '.join(words)} ended with {code}")
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def _example(scheme: str, kind: str) -> str:
    """What the class says of its URI: the first paragraph of `from_uri`."""
    registry = Registry.discover()
    (component,) = [c for p in registry.plugins for c in p.components if (c.scheme, c.kind) == (scheme, kind)]
    return " ".join((inspect.getdoc(registry.load_class(component).from_uri) or "").partition("\n\n")[0].split())


def _section(components: list[dict[str, Any]]) -> str:
    """One table for all that take the same settings."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for component in components:
        kinds[component["kind"]].append(f"{component['scheme']}://")
    title = "; ".join(f"{', '.join(schemes)} as a {kind}" for kind, schemes in kinds.items())
    rows = "".join(
        f"| `{s['name']}` | {s['reads']} | {cell(s['default'])} | {cell(s['help'])} |\n"
        for s in components[0]["settings"]
    )
    summary = "; ".join(dict.fromkeys(c["summary"] for c in components))
    examples = " ".join(dict.fromkeys(_example(c["scheme"], c["kind"]) for c in components))
    table = f"| setting | reads | default | |\n|---|---|---|---|\n{rows}" if rows else "It has no settings.\n"
    return f"\n## {title}\n\n{escaped(summary[:1].upper() + summary[1:])}. {escaped(examples)}\n\n{table}"

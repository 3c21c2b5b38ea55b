"""Files of JSON lines or CSV as a source."""

from headrace.hookspecs import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring files as a source."""
    path = f"{__name__}.source:JsonlSource"
    return [
        Component("source", "jsonl", path, summary="reads a file of JSON lines"),
        Component("source", "csv", path, summary="reads a CSV file, a JSON object a row"),
    ]

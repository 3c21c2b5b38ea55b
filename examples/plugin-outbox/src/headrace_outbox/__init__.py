"""Outbox tables of SQLite applications as sources."""

from headrace import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring a source."""
    return [
        Component("source", "outbox", "headrace_outbox.source:OutboxSource", summary="reads an outbox table of SQLite")
    ]

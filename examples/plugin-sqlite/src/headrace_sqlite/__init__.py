"""SQLite files as warehouses."""

from headrace import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring a loader."""
    return [
        Component("loader", "sqlite", "headrace_sqlite.loader:SQLiteLoader", summary="loads a table of a SQLite file")
    ]

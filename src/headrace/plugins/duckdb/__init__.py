"""DuckDB, the embedded warehouse."""

from headrace.hookspecs import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring DuckDB as a loader."""
    return [Component("loader", "duckdb", f"{__name__}.loader:DuckDBLoader", "duckdb", "typed tables in a DuckDB file")]

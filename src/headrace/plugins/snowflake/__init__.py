"""Snowflake, the warehouse in the cloud."""

from headrace.hookspecs import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring Snowflake as a loader."""
    what = "typed tables in a Snowflake schema"
    return [Component("loader", "snowflake", f"{__name__}.loader:SnowflakeLoader", "snowflake", what)]

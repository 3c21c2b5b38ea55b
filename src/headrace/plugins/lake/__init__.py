"""The lake: bronze segments on a store, one conditional write each."""

from headrace.hookspecs import Component, hookimpl


@hookimpl
def headrace_components() -> list[Component]:
    """Bring the lake on a local disk: its sink, its source, its store."""
    return [
        Component("sink", "file", f"{__name__}.sink:LakeSink", summary="bronze segments on a local disk, exactly once"),
        Component("source", "file", f"{__name__}.source:LakeSource", summary="reads a lake's chains back"),
        Component("store", "file", f"{__name__}.local:FileStore", summary="objects on a local disk"),
    ]

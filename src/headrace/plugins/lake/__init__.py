"""The lake: bronze segments on a store, one conditional write each."""

from headrace.hookspecs import Component, hookimpl


def _by_obstore(scheme: str, place: str, store: str) -> list[Component]:
    return [
        Component("sink", scheme, f"{__name__}.sink:LakeSink", "obstore", f"bronze segments on {place}, exactly once"),
        Component("source", scheme, f"{__name__}.source:LakeSource", "obstore", "reads a lake's chains back"),
        Component("store", scheme, f"{__name__}.{store}", "obstore", f"objects on {place}, by obstore"),
    ]


@hookimpl
def headrace_components() -> list[Component]:
    """Bring the lake on a local disk and on S3: its sink, its source, its store."""
    return [
        Component("sink", "file", f"{__name__}.sink:LakeSink", summary="bronze segments on a local disk, exactly once"),
        Component("source", "file", f"{__name__}.source:LakeSource", summary="reads a lake's chains back"),
        Component("store", "file", f"{__name__}.local:FileStore", summary="objects on a local disk"),
        Component("sink", "s3", f"{__name__}.sink:LakeSink", "s3", "bronze segments on S3, exactly once"),
        Component("source", "s3", f"{__name__}.source:LakeSource", "s3", "reads a lake's chains back"),
        Component("store", "s3", f"{__name__}.s3:S3Store", "s3", "objects on S3 and what speaks like it, by s3fs"),
        *_by_obstore("s3+obstore", "S3", "obstores:ObstoreS3Store"),
        *_by_obstore("gs", "Google Cloud Storage", "obstores:ObstoreStore"),
        *_by_obstore("az", "Azure", "obstores:ObstoreStore"),
    ]

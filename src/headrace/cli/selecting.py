"""Options that say which quarantined records are meant."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.loader import Selection
from headrace.records import Partition

Warehouse = Annotated[
    str, typer.Argument(metavar="WAREHOUSE", help="The target, a URI with its table.", show_default=False)
]
OfStream = Annotated[
    str, typer.Option("--stream", metavar="NAME", help="Only what comes from this stream.", show_default=False)
]
OfPartition = Annotated[
    int | None,
    typer.Option("--partition", min=0, metavar="N", help="Only of this partition of --stream.", show_default=False),
]
From = Annotated[int, typer.Option("--from", min=0, metavar="OFFSET", help="The first offset.")]
To = Annotated[
    int | None, typer.Option("--to", min=0, metavar="OFFSET", help="Before this offset.", show_default=False)
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Only for this reason, as `list` prints it.", show_default=False),
]
OfColumn = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="Only for this column; '' is the record as a whole.",
        show_default=False,
    ),
]


def selected(
    stream: str, partition: int | None, start: int, end: int | None, reason: str | None, column: str | None
) -> Selection:
    """Make a selection of what the options say."""
    if partition is not None and not stream:
        raise typer.BadParameter("it goes with --stream: whose partition?", param_hint="--partition")
    if end is not None and end <= start:
        raise typer.BadParameter(f"found {end}, expected more than --from {start}", param_hint="--to")
    return Selection(
        partition=None if partition is None else Partition(stream, partition),
        start=start,
        end=end,
        reason=reason,
        column=column,
        stream=stream or None,
    )


def nothing_in(target: str) -> str:
    """Say that nothing was found; a name that was misspelled looks the same, since asking makes no table."""
    return f"the quarantine of {target} is empty for what was selected, or there is no such table"

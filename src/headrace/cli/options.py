"""Options that several commands have, what they begin with, and the sizes and times that they read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from headrace.cli.output import Output
from headrace.errors import ConfigError
from headrace.logs import configure
from headrace.units import parse_bytes, parse_seconds, parse_share

T = TypeVar("T")


def _read(parse: Callable[[str], T]) -> Callable[[Any], T]:
    def read(value: Any) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # a default, already read
        try:
            return parse(value)
        except ConfigError as exc:
            raise typer.BadParameter(str(exc)) from exc

    return read


def _positive(parse: Callable[[str], T], what: str) -> Callable[[str], T]:
    def read(text: str) -> T:
        number = parse(text)
        if not number > 0:  # type: ignore[operator]  # sizes and times are numbers
            raise ConfigError(f"found {text!r}, expected {what} above 0")
        return number

    return read


size = _read(_positive(parse_bytes, "a size"))
"""Reads ``32MiB``."""

seconds = _read(parse_seconds)
"""Reads ``30s``; 0 is a time too."""

some_seconds = _read(_positive(parse_seconds, "a time"))
"""Reads ``30s``, but not 0."""

share = _read(parse_share)
"""Reads ``5%``."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document, and nothing else.")]
Lake = Annotated[
    str, typer.Argument(metavar="LAKE", help="Where the segments are, such as file:///lake.", show_default=False)
]
StreamName = Annotated[
    str, typer.Option("--stream", metavar="NAME", help="Which stream, where the lake has several.", show_default=False)
]
Epoch = Annotated[
    str,
    typer.Option(
        "--epoch", metavar="NAME", help="Which epoch of the stream; the first one has no name.", show_default=False
    ),
]
ContractName = Annotated[
    str,
    typer.Option(
        "--contract",
        metavar="MODULE:CLASS",
        show_default=False,
        help="What a row is: a class of a module, or of a file as in trades.py:Trade.",
    ),
]
RetryFor = Annotated[
    float,
    typer.Option(
        "--retry-for",
        parser=seconds,
        metavar="TIME",
        show_default="10m",
        help="How long to try a service that does not answer.",
    ),
]
Group = Annotated[
    int,
    typer.Option(
        "--group",
        parser=size,
        metavar="SIZE",
        show_default="16MiB",
        help="Load segments together up to this size, compressed.",
    ),
]
MaxRejected = Annotated[
    float,
    typer.Option(
        "--max-rejected",
        parser=share,
        metavar="SHARE",
        show_default="50%",
        help="End with code 1, and write nothing, where more of a transaction's records break the contract: 5%, 100% for"
        " no limit. Fewer than 100 stop nothing.",
    ),
]
BeginAt = Annotated[
    list[str] | None,
    typer.Option(
        "--begin-at",
        metavar="oldest|PARTITION:OFFSET",
        show_default=False,
        help="Where a partition begins that was never loaded: 'oldest' for behind what `headrace expire` deleted, or an"
        " offset at which a segment starts, for each partition once.",
    ),
]
Evolve = Annotated[
    bool,
    typer.Option(
        "--evolve",
        help="Fields of the stream that the contract does not name become columns, which may be null. A table that is there is"
        " altered as by --alter.",
    ),
]
LogLevel = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        envvar="HEADRACE_LOG_LEVEL",
        show_default="warning; info where a run has no terminal",
        help="debug, info, warning or error. debug shows tracebacks.",
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format",
        metavar="FORMAT",
        envvar="HEADRACE_LOG_FORMAT",
        show_default="auto",
        help="text for people; json for machines, the error that ends a run too; auto: a terminal gets text, all else JSON"
        " lines, and the error that ends a run as text.",
    ),
]

_RUNS = ("stream", "load", "redrive", "reload")


def begin(context: typer.Context, log_level: str, log_format: str, *, as_json: bool = False) -> Output:
    """
    Configure logging and return the process's output.

    Called for `headrace` itself and again for the command: the options may stand before it or after.

    Raises:
        ConfigError: No such level or format.
    """
    output = context.ensure_object(Output)
    name = context.invoked_subcommand or context.info_name
    quiet = sys.stderr.isatty() or name not in _RUNS
    output.log_level = log_level or output.log_level
    output.log_format = log_format or output.log_format
    output.run = configure(
        format=output.log_format or "auto",  # type: ignore[arg-type]  # it looks
        level=output.log_level or ("warning" if quiet else "info"),
        run=output.run,
    )
    output.as_json |= as_json
    return output

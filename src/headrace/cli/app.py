"""The application: what is common to all commands."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import (
    audit,
    contract,
    demo,
    doctor,
    expire,
    load,
    plugins,
    quarantine,
    record,
    redrive,
    reload,
    show,
    status,
    stream,
)
from headrace.cli.exits import DONE, FAULT, OUTPUT, USAGE, code_of
from headrace.cli.options import LogFormat, LogLevel, begin
from headrace.cli.output import Output, give_up_pipe, message_of, places_of, print_error
from headrace.errors import HeadraceError
from headrace.hookspecs import Ended
from headrace.logs import event as log_event

_log = logging.getLogger("headrace.cli")

# click's ClickException: typer brings a click of its own, or uses the package, by its version
_ClickError: type[Any] = typer.BadParameter.__mro__[2]
_HEARD = ("stream", "load", "redrive", "reload", "audit", "expire")
_COMPLETE = "_HEADRACE_COMPLETE"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as above
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only here

        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


def common(
    context: typer.Context,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            "--metrics-file",
            metavar="FILE",
            envvar="HEADRACE_METRICS_FILE",
            show_default="none",
            help="Write how the command ended as metrics, for node_exporter's textfile collector. A file for each job.",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """
    Carries a stream to the lake and on to the warehouse, every record exactly once.

    Sources, sinks, lakes and warehouses are URIs: kafka://127.0.0.1:9092/trades?group=bronze, jsonl:///ticks.jsonl,
    file:///lake, duckdb:///silver.duckdb?table=trades. Settings stand after the question mark; those of the client library
    are the ones with a dot, such as fetch.min.bytes=1. Quote a URI in a shell. `headrace plugins` lists the schemes,
    `headrace plugins kafka` the settings of one.

    Sizes read like 32MiB, times like 30s. Results go to standard output, logs and progress to standard error.

    Exit codes: 0 done; 1 the data is not as it should be; 2 a wrong option or setting; 3 a service did not answer;
    130 or 143 stopped by SIGINT or SIGTERM before it was done.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)
    begin(context, log_level, log_format).metrics_file = metrics_file


def application(*, drawn: bool) -> typer.Typer:
    """Make the application; *drawn* where its help goes to a terminal."""
    app = typer.Typer(
        name="headrace",
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if drawn else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, help=_help(common))(common)
    for command in (
        stream.stream,
        load.load,
        redrive.redrive,
        reload.reload,
        show.show,
        status.status,
        audit.audit,
        record.record,
        expire.expire,
        doctor.doctor,
        plugins.plugins,
        demo.demo,
    ):
        app.command(command.__name__, help=_help(command))(command)
    groups: list[tuple[str, str, dict[str, Callable[..., Any]]]] = [
        (
            "quarantine",
            "What broke its contract: count it, look at a record, export it.",
            {"list": quarantine.counts, "show": quarantine.show, "export": quarantine.export},
        ),
        ("contract", "Contracts: draft one from what is in a lake.", {"infer": contract.infer}),
    ]
    for title, about, parts in groups:
        group = typer.Typer(rich_markup_mode="rich" if drawn else None)
        group.callback(invoke_without_command=True)(_show_help)
        for name, part in parts.items():
            group.command(name, help=_help(part))(part)
        app.add_typer(group, name=title, help=about)
    return app


def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def _help(command: Callable[..., Any]) -> str:
    """A docstring with each paragraph on one line: the terminal's width folds it, not ours."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.__doc__ or "").split("\n\n"))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; a HeadraceError is told in one paragraph, never as a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    output = Output("--json" in words)  # known before the words are understood: a wrong one is told as JSON too
    try:
        code = _run(words, output)
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_pipe()
        return DONE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        give_up_pipe()
        print_error(Output(), "OutputError", f"standard output cannot be written: {error.strerror}", {}, None)
        return OUTPUT
    return code


def _open_streams() -> None:
    """A process may be started without them; and what cannot be encoded is escaped."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")


def _run(words: list[str], output: Output) -> int:
    command = typer.main.get_command(application(drawn=sys.stdout.isatty()))
    if _COMPLETE in os.environ:
        command.main(args=words, prog_name="headrace")  # a shell asks what may follow; it does not return
    name = next((word for word in words if word in getattr(command, "commands", ())), "")
    try:
        # not by main(), which has exit codes of its own for interrupts and broken pipes
        with command.make_context("headrace", list(words), obj=output) as made:
            code = command.invoke(made)
    except typer.Exit as done:
        return done.exit_code
    except HeadraceError as error:
        _tell(output, error)
        return _end(name, output, code_of(error))
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        hint = f"; `{context.command_path} --help` explains it" if context is not None else ""
        print_error(output, "UsageError", f"{error.format_message().rstrip('.')}{hint}", {}, None)
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _end(name, output, 130)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno in _FULL:
            raise
        return _end(name, output, _fault(output, error))
    except Exception as error:  # noqa: BLE001 - the last place that can say so
        return _end(name, output, _fault(output, error))
    return _end(name, output, code if isinstance(code, int) else DONE)


def _end(command: str, output: Output, code: int) -> int:
    """Tell plugins that listen how a command ended that works on a deployment, and return its code."""
    if command in _HEARD:
        from headrace.registry import Registry  # noqa: PLC0415 - not for those that only show

        _write_metrics(command, output, code)
        Registry.discover().ended(lambda: Ended(command, code, output.told()))
    return code


def _write_metrics(command: str, output: Output, code: int) -> None:
    """Write the file that was asked for; where that fails the command has ended as it has ended, and the log says so."""
    if output.metrics_file is None:
        return
    from headrace.watching.ended import write_ended  # noqa: PLC0415 - only where it is asked for

    try:
        write_ended(output.metrics_file, command, code, output.told())
    except HeadraceError as error:
        log_event(_log, logging.ERROR, "metrics not written", path=str(output.metrics_file), error=error)


def _tell(output: Output, error: HeadraceError) -> None:
    debug = logging.getLogger().isEnabledFor(logging.DEBUG)
    name, message, places = type(error).__name__, message_of(error), places_of(error)
    if output.log_format != "json":
        print_error(output, name, message, places, error if debug else None)
        return
    log_event(_log, logging.ERROR, "command failed", type=name, error=message, **places)
    output.error(name, message, places)


def _fault(output: Output, error: Exception) -> int:
    message = f"{type(error).__name__}: {error}. This is a fault of headrace or of a plugin: please report it with the traceback"
    print_error(output, "InternalError", message, {}, error)
    return FAULT

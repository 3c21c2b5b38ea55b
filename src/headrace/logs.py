"""
The central logger: every process of a deployment logs alike.

The library itself only makes records, with `event`; it adds no handler and sets no level. A process that is ours to
configure, such as the command line, a service or a task, calls `configure` once: text for people on a terminal, JSON lines
for machines, with the same fields in both, from headrace's loggers and from everybody else's:

========= ==========================================================================================
ts        When, ISO-8601 in UTC with milliseconds: ``2026-01-31T12:00:00.000Z``
level     debug, info, warning, error, critical
logger    Whose line it is: ``headrace.pipeline``
event     What happened: ``segment stored``
run       Which process of the deployment
stream, partition, start, end, records, error, …  What it is about, as given to `event`
repeated  So many lines alike came since the last one of them that was written, this one too
exc       The traceback, where there is one
========= ==========================================================================================

The schema is a file, `SCHEMA`, and the test suite holds the log of every command against it. The run's id goes where its
work goes: into the connection ids in the headers of a feed's records, the trailers of segments, the ledger's attempts.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import threading
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from headrace.errors import ConfigError, MissingExtraError
from headrace.sampling import Sampling
from headrace.uri import is_secret

Format = Literal["auto", "text", "json"]

_HANDLER = "headrace"
_REPEAT_S = 30.0
_RUN_LENGTH = 64

SCHEMA = Path(__file__).with_name("log.schema.json")
"""What a line may hold, as JSON Schema."""

# a password may hold "/" and "@" that nobody encoded: all up to the last "@" goes, unless a port stands there; and the
# slashes may have been forgotten
_URI_PASSWORD = re.compile(r"(//[^/\s:@]*|\b\w+:[^/\s:@]+):(?!\d+(?:[/?,\s]|$))\S+@")
_NAME = re.compile(r"""([\w.-]+)["']?\s*[=:]\s*""")
_VALUE = re.compile(r"""(?:(?:Bearer|Basic)\s+)?("[^"]*"|'[^']*'|[^\s&,;"'}\])]+)""", re.IGNORECASE)


def event(log: logging.Logger, level: int, what: str, /, **fields: object) -> None:
    """
    Log an event with its fields: ``segment stored stream=ticks partition=3 start=42 end=57``.

    The fields are also on the record, as ``record.fields``, for handlers that write them apart.
    """
    if log.isEnabledFor(level):
        text = " ".join(["%s", *(f"{name}=%s" for name in fields)])
        log.log(level, text, what, *fields.values(), extra={"fields": fields, "what": what}, stacklevel=2)


def configure(
    *,
    format: Format = "auto",  # noqa: A002 - the word that people look for
    level: str = "info",
    run: str | None = None,
    stream: IO[str] | None = None,
    repeat_s: float | None = None,
) -> str:
    """
    Configure logging for this process: the only place that does. Calling it again replaces what it did before.

    Python's warnings come as log lines too. Handlers that others have added stay as they are.

    Args:
        format: "auto" is text on a terminal, JSON lines elsewhere.

        level: Of all loggers: "debug", "info", "warning" or "error".

        run: Stands on every line; the variable HEADRACE_RUN, or a random one, unless given.

        stream: Where lines go; standard error, whatever it is at that moment, unless given.

        repeat_s: A warning or an error that repeats is written at most so often, with the number of those between as
            ``repeated``; the first and the last always are. 0: each line. The variable HEADRACE_LOG_REPEAT_S, or 30, unless
            given.

    Returns:
        The run's id.

    Raises:
        ConfigError: No such format or level.
        MissingExtraError: structlog is not installed.
    """
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ConfigError(f"found log level {level!r}, expected debug, info, warning or error")
    if format not in ("auto", "text", "json"):
        raise ConfigError(f"found log format {format!r}, expected auto, text or json")
    run = run or os.environ.get("HEADRACE_RUN") or secrets.token_hex(4)
    repeat_s = _repeat_s() if repeat_s is None else repeat_s
    drawn = (sys.stderr if stream is None else stream).isatty()
    handler = _Lines(stream, run, Sampling(repeat_s))
    handler.setFormatter(_formatter(run, as_text=format == "text" or (format == "auto" and drawn), drawn=drawn))
    handler.set_name(_HANDLER)
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == _HANDLER]:
        root.removeHandler(old)
        old.close()  # what it was silent about
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return run


def redacted(text: str) -> str:
    """Take the passwords of URIs and the values of secret settings out of a text."""
    text = _URI_PASSWORD.sub(r"\1:***@", text)
    kept, done = [], 0
    for name in _NAME.finditer(text):
        value = _VALUE.match(text, name.end()) if name.end() >= done and is_secret(name[1]) else None
        if value is not None:
            kept += [text[done : name.end()], "***"]
            done = value.end()
    return "".join([*kept, text[done:]])


class _Lines(logging.StreamHandler[Any]):
    """
    Writes what its sampling lets through: to what it was given, or to whatever standard error is now, for a progress bar that
    is drawn there puts itself in its place.
    """

    def __init__(self, out: IO[str] | None, run: str, sampling: Sampling) -> None:
        logging.Handler.__init__(self)
        self.run = run
        self._out = out
        self._sampling = sampling

    @property
    def stream(self) -> Any:
        return sys.stderr if self._out is None else self._out

    def emit(self, record: logging.LogRecord) -> None:
        for each in self._sampling.taken(record):
            super().emit(each)

    def close(self) -> None:
        with self.lock or threading.Lock():
            for each in self._sampling.rest():
                super().emit(each)
        super().close()


def run_id() -> str:
    """Return the id of this process's run, as on its log lines; "" where nobody has configured its log."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, _Lines)]
    return handlers[0].run if handlers else ""


def marked(token: str) -> str:
    """Put the run's id, where there is one, before a random token: what this process leaves behind leads to its log."""
    run = run_id()
    return f"{run[:_RUN_LENGTH]}.{token}" if run else token


def _repeat_s() -> float:
    text = os.environ.get("HEADRACE_LOG_REPEAT_S", "")
    try:
        return float(text) if text else _REPEAT_S
    except ValueError as exc:
        raise ConfigError(f"found HEADRACE_LOG_REPEAT_S={text!r}, expected seconds, 0 for each line") from exc


def _formatter(run: str, *, as_text: bool, drawn: bool) -> logging.Formatter:
    try:
        import structlog  # noqa: PLC0415 - only who configures needs it
    except ImportError as exc:
        raise MissingExtraError("configuring logs needs structlog: pip install 'headrace[cli]'") from exc
    renderer: Any = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    if as_text:
        renderer = _text_renderer(structlog, colors=drawn and not os.environ.get("NO_COLOR"))
    line = _Line(run, exc="exception" if as_text else "exc", short=as_text and drawn)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    # a processor would format the message anew: one that cannot be formatted must not end the program
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[line], processors=[remove, renderer])


def _text_renderer(structlog: Any, *, colors: bool) -> Any:
    dim, bold, red, yellow, reset = ("\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m") if colors else ("",) * 5
    column, pair = structlog.dev.Column, structlog.dev.KeyValueColumnFormatter
    levels = {"debug": dim, "info": "", "warning": yellow, "error": red, "critical": red}
    return structlog.dev.ConsoleRenderer(
        columns=[
            column("", pair(key_style=dim, value_style="", reset_style=reset, value_repr=_word)),
            column("ts", pair(key_style=None, value_style=dim, reset_style=reset, value_repr=str)),
            column("level", structlog.dev.LogLevelColumnFormatter(level_styles=levels, reset_style=reset)),
            column("event", pair(key_style=None, value_style=bold, reset_style=reset, value_repr=str)),
        ],
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,  # others show local variables, secrets among them
    )


class _Line:
    """Makes a line's fields out of a record, whoever logged it, and takes secrets out of it."""

    def __init__(self, run: str, *, exc: str, short: bool) -> None:
        self._run = run
        self._exc = exc
        self._short = short

    def __call__(self, _log: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        record: logging.LogRecord = line["_record"]
        told: dict[str, Any] = {
            "ts": self._when(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redacted(getattr(record, "what", None) or str(line["event"])).strip(),
            "run": self._run,
        }
        for name, value in getattr(record, "fields", {}).items():
            told[f"{name}_" if name in told else name] = "***" if is_secret(name) else _plain(value)
        if self._short:
            del told["logger"]
            told["run"] = told.pop("run")  # last: it is the same on every line
        if record.exc_info and record.exc_info[1] is not None:
            told[self._exc] = redacted("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return told | {name: value for name, value in line.items() if name.startswith("_")}

    def _when(self, seconds: float) -> str:
        when = datetime.fromtimestamp(seconds, UTC)
        if self._short:
            return when.astimezone().strftime("%H:%M:%S")
        return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03}Z"


def _word(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or not c.isprintable() for c in text) else text


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float, bool, type(None))) else redacted(str(value))

"""What commands say: drawn on a terminal, plain in a pipe, one JSON document where it was asked for."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace.errors import HeadraceError
from headrace.logs import redacted
from headrace.records import Partition

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@attrs.define
class Output:
    """
    Standard output of one command.

    Attributes:
        as_json: One JSON document, and nothing else.

        log_level: As asked for; "" where nobody did.

        log_format: As asked for. With "json" an error is a log line and no paragraph: a machine reads standard error.

        run: The run's id in the logs.

        metrics_file: Where to write how the command ended; None: nowhere.
    """

    as_json: bool = False
    log_level: str = ""
    log_format: str = ""
    run: str | None = None
    metrics_file: Path | None = None
    _console: Console = attrs.field(factory=lambda: Console(highlight=False), init=False, repr=False)
    _kept: dict[str, object] = attrs.field(factory=dict, init=False)
    _told: Mapping[str, object] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def drawn(self) -> bool:
        """Whether a person looks at it."""
        return not self.as_json and self._console.is_terminal

    @property
    def width(self) -> int:
        """Of the terminal, in columns."""
        return self._console.width

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Sequence[str | None] = ()
    ) -> None:
        """
        Show rows: a table on a terminal, a line of names and tab-separated lines in a pipe.

        Args:
            title: Above it, on a terminal.

            columns: Their names.

            rows: Numbers are aligned to the right.

            styles: Of each row, on a terminal; none unless given.
        """
        if self.as_json:
            return
        cells = [list(row) for row in rows]
        if not self.drawn:
            self._plain("\t".join(columns))
            for row in cells:
                self._plain("\t".join("" if cell is None else plain(str(cell), kept="") for cell in row))
            return
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for i, column in enumerate(columns):
            numeric = any(isinstance(row[i], int) for row in cells)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for i, row in enumerate(cells):
            texts = ("" if c is None else f"{c:,}" if isinstance(c, int) else plain(str(c), kept="") for c in row)
            table.add_row(*map(Text, texts), style=styles[i] if i < len(styles) else None)
        if title:
            self._console.print(Text(plain(title), style="bold"))
        self._console.print(table)

    def line(self, text: str = "", style: str | None = None, *, whole: bool = False) -> None:
        """Show one line of text; a terminal folds it between words, or where it ends if it is to be copied as a *whole*."""
        if self.as_json:
            return
        if self.drawn:
            self._console.print(Text(plain(text), style=style or ""), soft_wrap=whole)
        else:
            self._plain(plain(text))

    def remark(self, text: str, style: str | None = None) -> None:
        """Say something about a table: beneath it on a terminal; on standard error where a machine reads the table."""
        if self.drawn:
            self.line(text, style)
        elif not self.as_json:
            print(plain(text), file=sys.stderr)

    def document(self, content: Mapping[str, object]) -> None:
        """Print the command's result, where JSON was asked for."""
        self._told = {**self._kept, **content}
        if self.as_json:
            self._plain(json.dumps(self._told, default=str, ensure_ascii=False))

    def told(self) -> dict[str, object]:
        """Return the command's result as far as it was told, as what JSON can hold."""
        found: dict[str, object] = json.loads(json.dumps(self._told, default=str))
        return found

    def error(self, name: str, message: str, places: Mapping[str, object]) -> None:
        """Print an error as the result, where JSON was asked for."""
        self.document({"error": {"type": name, "message": redacted(message), **places}})

    def keep(self, content: Mapping[str, object]) -> None:
        """Put these fields into the document that comes, be it a result or an error."""
        self._kept.update(content)

    def _plain(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")


def print_error(
    output: Output, name: str, message: str, places: Mapping[str, object], exc: BaseException | None
) -> None:
    """
    Say what went wrong: one paragraph on standard error, and as JSON on standard output where that was asked for.

    Args:
        output: Of the command.

        name: Of the kind of error.

        message: May hold secrets; they are taken out.

        places: Where it was, for JSON.

        exc: Its traceback is printed too; None: no traceback.
    """
    message = redacted(message)
    console = Console(stderr=True, highlight=False)
    if exc is not None:
        console.print(Text(redacted("".join(traceback.format_exception(exc))), style="dim"), soft_wrap=True)
    console.print(Text.assemble((name, "bold red"), ": ", plain(message)), soft_wrap=not console.is_terminal)
    output.error(name, message, places)


def message_of(error: HeadraceError) -> str:
    """The error's text with its notes."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def places_of(error: HeadraceError) -> dict[str, object]:
    """Where an error was, as fields: those that a log line has."""
    found = {
        name: getattr(error, name) for name in ("partition", "start", "end", "key", "expected") if hasattr(error, name)
    }
    partition = found.pop("partition", None)
    if isinstance(partition, Partition):
        return {"stream": partition.stream, "partition": partition.number, **found}
    return found


def plain(text: str, *, kept: str = "\n") -> str:
    """Escape what would move a terminal's cursor or colour it, but what is *kept*: data is shown, it commands nothing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def when(ms: object) -> str | None:
    """A time as people read it, in UTC; None where there is none."""
    if not isinstance(ms, int) or ms < 0:
        return None
    return (_EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def give_up_pipe() -> None:
    """Whoever read our output has left: say nothing more, not even at the interpreter's end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)

"""``headrace doctor``: examines what URIs name."""

from __future__ import annotations

from typing import Annotated

import attrs
import typer

from headrace.cli.options import AsJson, LogFormat, LogLevel, begin
from headrace.cli.output import Output
from headrace.doctor import Examination, examine, verdict
from headrace.registry import Registry


def doctor(
    context: typer.Context,
    uris: Annotated[list[str], typer.Argument(metavar="URI...", help="What is examined.", show_default=False)],
    json: AsJson = False,
    log_level: LogLevel = "",
    log_format: LogFormat = "",
) -> int:
    """
    Examine what each URI names, and say what to do about what is found.

    Is it reachable, and may we do what we must? Does the lake's store refuse to overwrite, and agree on the time? Does the topic
    exist, on enough brokers, and will it keep what is not read yet? How far is the group? Give the URIs as you give them to
    the other commands; a Kafka URI with a group is examined as what is read.

    It writes nothing but a lake's probes, and takes them away again; it joins no group. Exit code 0: all is fine; 1: something is
    wrong; 2: something could not be told.

    For example:

    headrace doctor 'kafka://127.0.0.1:9092/trades?group=bronze' file:///lake 'duckdb:///silver.duckdb?table=trades'
    """
    output, registry = begin(context, log_level, log_format, as_json=json), Registry.discover()
    found = [examine(registry, uri) for uri in uris]
    code = verdict(found)
    for examination in found:
        _show(output, examination)
    documents = [
        {"uri": e.uri, "kind": e.kind, "findings": [attrs.asdict(finding) for finding in e.findings]} for e in found
    ]
    output.document({"ok": code == 0, "examined": documents})
    return code


def _show(output: Output, examination: Examination) -> None:
    if not output.drawn:
        rows = [
            [examination.uri, examination.kind, f.state, f.subject, f.found, f.advice] for f in examination.findings
        ]
        output.table("", ["uri", "kind", "state", "subject", "found", "what to do"], rows)
        return
    output.line()
    output.line(f"{examination.uri}" + (f", as a {examination.kind}" if examination.kind else ""), style="bold")
    styles = {"fine": None, "wrong": "bold red", "unknown": "yellow"}
    rows = [[f.state, f.subject, f.found] for f in examination.findings]
    output.table("", ["state", "subject", "found"], rows, [styles[f.state] for f in examination.findings])
    for finding in examination.findings:
        if finding.advice:
            output.line(f"{finding.subject}: {finding.advice}", style=styles[finding.state])

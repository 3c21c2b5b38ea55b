"""Numbers of a command that has ended, in a file that node_exporter's textfile collector reads."""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.metric import Metric
from headrace.watching.meters import client, families

_SUCCESS = "headrace_command_last_success_timestamp_seconds"
_LOADED = {"records": "records", "rows": "inserted", "quarantined": "rejected", "superseded": "superseded"}
_LOADS = ("load", "redrive", "reload")
_VERDICTS = ("complete", "incomplete", "unknown")


def write_ended(
    file: Path, command: str, code: int, document: Mapping[str, object], now_s: float | None = None
) -> None:
    """
    Write how a command ended, in one step: whoever reads the file sees the old or the new one, whole.

    When the command last succeeded is kept from the file that was there.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        ConfigError: The file cannot be written.
    """
    client()
    now_s = time.time() if now_s is None else now_s
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra, which client() has asked for

    registry = CollectorRegistry()
    found = list(
        families(_metrics(command, code, document, now_s, None if code == 0 else _last_success(file, command)))
    )

    class Found:
        def collect(self) -> Iterator[Any]:
            return iter(found)

    registry.register(Found())
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(generate_latest(registry))
        temporary.replace(file)
    except OSError as exc:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(f"--metrics-file {file} cannot be written: {exc.strerror}") from exc


def _last_success(file: Path, command: str) -> float | None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(rf'(?m)^{_SUCCESS}\{{command="{command}"\}} (\S+)$', text)
    return float(found[1]) if found else None


def _metrics(
    command: str, code: int, document: Mapping[str, object], now_s: float, succeeded_s: float | None
) -> Iterator[Metric]:
    of = {"command": command}
    yield Metric("headrace_command_exit_code", "How the command ended last.", code, of)
    yield Metric("headrace_command_last_end_timestamp_seconds", "When it ended last.", now_s, of)
    if code == 0 or succeeded_s is not None:
        yield Metric(_SUCCESS, "When it last ended with code 0.", now_s if code == 0 else succeeded_s or 0.0, of)
    if command in _LOADS and "target" in document:
        target = {"target": str(document["target"])}
        for name, field in _LOADED.items():
            if isinstance(value := document.get(field), int):
                yield Metric(f"headrace_last_{command}_{name}", f"{name.capitalize()} of the last run.", value, target)
    if command == "audit" and "verdict" in document:
        yield from _audit(document, now_s)


def _audit(document: Mapping[str, Any], now_s: float) -> Iterator[Metric]:
    stream = {"stream": str(document.get("stream", ""))}
    for verdict in _VERDICTS:
        is_it = float(document["verdict"] == verdict)
        yield Metric("headrace_audit_verdict", "1 for the last audit's verdict.", is_it, {**stream, "verdict": verdict})
    yield Metric("headrace_audit_timestamp_seconds", "When the last audit ended.", now_s, stream)
    kinds = Counter(finding["kind"] for finding in document.get("findings", ()))
    yield Metric("headrace_audit_findings", "Findings of the last audit.", sum(kinds.values()), stream)
    partitions = document.get("partitions", ())
    for name, field in (("records", "records"), ("quarantined_records", "quarantined")):
        if any(p.get(field) is not None for p in partitions):
            total = sum(p.get(field) or 0 for p in partitions)
            yield Metric(f"headrace_audit_{name}", f"{field.capitalize()}, as the last audit counted.", total, stream)
    for name in ("lake", "log"):
        behind = [p[f"behind_{name}"] for p in partitions if p.get(f"behind_{name}") is not None]
        if behind:
            label = {**stream, "of": name}
            yield Metric("headrace_audit_behind_records", "Offsets on their way at the last audit.", sum(behind), label)

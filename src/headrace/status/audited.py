"""Reads what the last audit said, from the file that somebody keeps of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from headrace.status.result import Level, Problem
from headrace.units import format_seconds

_SHOWN = 5


def of_audit(file: Path, at_s: float, oldest_s: float) -> Iterator[Problem]:
    """
    Yield what ``headrace audit --json`` has found, and whether that is old news.

    Args:
        file: Its standard output.

        at_s: Now.

        oldest_s: An older one says nothing of today.
    """
    again = "headrace audit LAKE WAREHOUSE --json > FILE, nightly"
    try:
        age_s = at_s - file.stat().st_mtime
        found: Any = msgspec.json.decode(file.read_bytes())
        verdict, findings = found["verdict"], found["findings"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        yield Problem("unknown", "audit", f"{file} holds no audit: {type(error).__name__}: {error}", again)
        return
    if age_s > oldest_s:
        yield Problem("unknown", "audit", f"the last one is {format_seconds(round(age_s))} old ({file})", again)
    if verdict != "complete" and not findings:
        yield Problem("unknown" if verdict == "unknown" else "wrong", "audit", f"its verdict is {verdict}", again)
    for finding in findings[:_SHOWN]:
        level: Level = "unknown" if finding["kind"] == "unknown" else "wrong"
        where = (
            "" if finding["partition"] is None else f" {finding['partition']} [{finding['start']}, {finding['end']})"
        )
        text = f"{finding['kind']} in the {finding['where']}{where}: {finding['evidence']}"
        yield Problem(level, "audit", text, finding["advice"])
    if len(findings) > _SHOWN:
        yield Problem("wrong", "audit", f"and {len(findings) - _SHOWN:,} more findings", f"they are in {file}")

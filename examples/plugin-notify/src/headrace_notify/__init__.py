"""Posts to a web hook how headrace's commands ended."""

from __future__ import annotations

import json
import os
from urllib.request import Request, urlopen

from headrace import Ended, hookimpl

TIMEOUT_S = 5.0


@hookimpl
def headrace_ended(ended: Ended) -> None:
    """Post it, unless all is well and nobody asked for that; what fails here is a warning in headrace's log."""
    url = os.environ.get("HEADRACE_NOTIFY_URL", "")
    if not url or (not ended.code and os.environ.get("HEADRACE_NOTIFY") != "all"):
        return
    body = {"command": ended.command, "code": ended.code, "text": told(ended), "document": ended.document}
    headers = {"Content-Type": "application/json"}
    request = Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - who deploys it says where to
    with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - the same
        pass


def told(ended: Ended) -> str:
    """One line for people: the error, or an audit's first finding, or that it is done."""
    error, findings = ended.document.get("error"), ended.document.get("findings")
    if isinstance(error, dict):
        return f"headrace {ended.command} ended with code {ended.code}: {error.get('type')}: {error.get('message')}"
    if isinstance(findings, list) and findings:
        first = findings[0]
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        where = f"partition {first.get('partition')} [{first.get('start')}, {first.get('end')})"
        return f"headrace {ended.command}: {first.get('kind')} in {where}{more}"
    return f"headrace {ended.command} ended with code {ended.code}"

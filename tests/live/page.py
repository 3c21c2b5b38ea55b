"""
Makes a page of the results of a run: ``python page.py RESULTS.json > live.md``.

`nox -s live -- --minutes 60 --json tests/live/results.json` makes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TITLE = """# From the exchange to silver, the last long run

`nox -s live -- --minutes N` carries a feed all the way while everything breaks: a local exchange that numbers what it trades, a
proxy that spoils connections, `headrace stream` into a Kafka broker, another one from there to MinIO (behind a proxy too),
`headrace load` into DuckDB, and `headrace audit` once a minute. Faults are drawn from the printed seed; a process that ends is
started again. At the end silver is compared with what the exchange sent, number by number: each is one row, or missing and told
by [a gap record](feeds.md#gaps).

What a number that is missing is told by: the numbers of a gap; the gap with which a producer begins that does not know what the
one before it had received; or a gap that was still open when its producer was killed.

This page is made from the results of a run (`tests/live/results.json`), and a test compares the two.
"""

_MEMORY = ("first_mib", "last_mib", "first_least_mib", "rest_mib", "peak_mib")


def page(found: dict[str, Any]) -> str:
    """Write it."""
    verdict, memory = found["verdict"], found["memory"]
    meanwhile = found["audits_meanwhile"]
    lines = [
        TITLE,
        "## What was found",
        "",
        "| | |",
        "|---|---:|",
        f"| minutes | {found['minutes']} |",
        f"| seed | {found['seed']} |",
        f"| messages a second, wanted and sent | {found['rate_wanted']:,} and {found['rate']:,} |",
        f"| messages sent | {verdict['sent']:,} |",
        f"| rows in silver | {verdict['rows']:,} |",
        f"| missing, told by the numbers of a gap | {verdict['by_numbers']:,} |",
        f"| missing, told by the gap with which the next producer began | {verdict['by_start']:,} |",
        f"| missing, told by a gap that was open when its producer was killed | {verdict['open']:,} |",
        f"| **missing, told by nobody** | **{verdict['unexplained']:,}** |",
        f"| **told as missing, and there** | **{verdict['overclaimed']:,}** |",
        f"| **numbers with two rows** | **{verdict['doubled']:,}** |",
        f"| **rows that are not what was sent** | **{verdict['changed']:,}** |",
        f"| **out of order within a symbol** | **{verdict['disordered']:,}** |",
        f"| **in quarantine** | **{verdict['quarantined']:,}** |",
        f"| gap records | {verdict['gaps']:,} |",
        *(f"| the audit of {kind} at the end | {_verdict(about)} |" for kind, about in found["audits"].items()),
        f"| audits while it ran: complete | {meanwhile.get('0', 0)} |",
        f"| audits while it ran: could not tell (a server was down) | {meanwhile.get('2', 0)} |",
        f"| **audits while it ran: a false alarm** | **{meanwhile.get('1', 0)}** |",
        "",
        "## Memory",
        "",
        "Processes are ended in the first part of a run only. Of the rest, in which connections and servers go on breaking, the",
        "median of the last third is compared with that of the first; in MiB, resident, all of the process. Where it is more,",
        "what the process takes at the end, when all is stored and nothing comes, is compared with the least of the first",
        "third: what waits is no growth. [What memory depends on](operations.md#memory-of-a-process).",
        "",
        "| | first third | last third | least of the first third | at rest, at the end | most, of the whole run |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {' | '.join(str(about.get(of, 'not measured')) for of in _MEMORY)} |"
            for name, about in memory.items()
        ),
        "",
        *(
            f"**The memory of {name} is not flat by this measure**: it grew by {about['last_mib'] - about['first_mib']} MiB.\n"
            for name, about in memory.items()
            if not about["flat"]
        ),
        "## Faults",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in found["faults"].items()),
        "",
        "So often processes were started: " + ", ".join(f"{name} {n}" for name, n in found["starts"].items()) + ".",
    ]
    if found["ended_by_themselves"]:
        lines += ["", "What else happened:", "", *(f"- `{line[:300]}`" for line in found["ended_by_themselves"])]
    return "\n".join(lines) + "\n"


def _verdict(audit: dict[str, Any]) -> str:
    return {0: "complete", 1: "not complete", 2: "could not tell"}[audit["code"]]


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

"""
Makes a page of the results of a run: ``python page.py RESULTS.json > chaos.md``.

`nox -s chaos -- --minutes 60 --all --controls --json tests/chaos/results.json` makes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TITLE = """# Chaos, the last long run

`nox -s chaos -- --minutes N` breaks a real deployment at random: three Kafka brokers (replication 3,
`min.insync.replicas=2`), lakes on a local disk, MinIO and the Versity gateway, all behind a fault proxy, and
processes of `headrace stream` that a supervisor starts again. In each round a fresh topic is published to (plain and
transactional, a third of the transactions aborted, values that are no JSON among them), faults are drawn, and at the
end what the brokers hold, read by Kafka's own Java client, is compared record by record with what the lake holds,
read by a parser that shares no line with headrace. DuckDB counts the glob all the while. A fault that was
drawn and never took effect fails the run.

This page is made from the results of a run (`tests/chaos/results.json`), and a test compares the two.
"""

PROTECTIONS = {
    "condition": "the condition of the PUT (MinIO)",
    "hint": "the look-up: the group's committed offset is taken for the position",
    "base": "the base: after a refusal reading goes on where it was",
}


def page(found: dict[str, Any]) -> str:
    """Write it."""
    lakes = ", ".join(f"{count} on {name}" for name, count in sorted(found["lakes"].items()))
    protocols = " and ".join(f"{count} by the {name} protocol" for name, count in sorted(found["protocols"].items()))
    lines = [
        TITLE,
        "## What was found",
        "",
        "| | |",
        "|---|---:|",
        f"| minutes | {found['minutes']} |",
        f"| seed | {found['seed']} |",
        f"| rounds | {found['rounds']}: {lakes}; {protocols} |",
        f"| records compared | {found['records']:,} |",
        f"| segments | {found['segments']:,} |",
        f"| **records lost** | **{found['lost']}** |",
        f"| **records doubled** | **{found['duplicated']}** |",
        f"| **records changed** | **{found['changed']}** |",
        f"| **out of order** | **{found['disordered']}** |",
        f"| **objects that do not fit their name, trailer or chain** | **{found['broken']}** |",
        f"| looks of a reader at the glob | {found['looks']:,} |",
        f"| **looks that saw a record twice** | **{found['looks_with_a_record_twice']}** |",
        *(f"| {what} | {count} |" for what, count in sorted(found["notes"].items())),
        f"| rounds that failed | {len(found['bad_rounds'])} |",
        "",
        "## Faults that took effect",
        "",
        "| fault | times |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in sorted(found["faults"].items())),
        *(f"| {name} | 0 |" for name in found["never_drawn"]),
        "",
        *(
            f"Drawn once more, tried three times, and without effect: *{name}* ({count} of its rounds).\n"
            for name, count in sorted(found["missed"].items())
        ),
        "",
        "## Without a protection",
        "",
        "The same deployment, one fault, and one protection taken away (`tests/chaos/stream.py`): what the comparison found.",
        "",
        "| without | lost | doubled | broken objects |",
        "|---|---:|---:|---:|",
        *(
            f"| {PROTECTIONS[rule]} | {about['lost']} | {about['duplicated']} | {about['broken']} |"
            for rule, about in found["controls"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

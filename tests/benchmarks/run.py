"""
Measures headrace side by side with what it stands on, prints a table and keeps the numbers.

Ratios are of one run, turn by turn, and that is what to look at: rates move with whatever else the machine does. Nothing
here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bronze
import encode
import freshness
import imports
import recovery
import scaling
import silver
from rich.console import Console
from rich.table import Table
from sides import Sheet, fill, measure

import services

ROOT = Path(__file__).parents[2]
_PIPE_WIDTH = 176
_THOUSANDS_FROM = 10_000
ALONE = ("bronze", "jsonl", "encode", "silver", "import")
SERVICES = ("s3", "process", "latency", "recovery", "freshness")
SCALING = ("partitions", "processes", "tables")
PACKAGES = (
    "headrace",
    "attrs",
    "backports.zstd",
    "confluent-kafka",
    "duckdb",
    "isal",
    "msgspec",
    "obstore",
    "pyarrow",
    "s3fs",
)


def main() -> None:
    arguments = _arguments()
    groups: dict[str, Any] = {
        "bronze": partial(bronze.kafka, address=arguments.kafka),
        "jsonl": bronze.jsonl,
        "encode": encode.lines,
        "silver": silver.duckdb_loads,
        "import": imports.headrace_alone,
        "s3": services.s3,
        "process": services.process,
        "latency": services.latency,
        "recovery": partial(recovery.look_up, segments=arguments.segments),
        "partitions": scaling.partitions,
        "processes": scaling.processes,
        "tables": scaling.tables,
        "freshness": freshness.freshness,
    }
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    measured = []
    with console.status("") as status:
        for name in _wanted(arguments.only):
            status.update(f"{name}: making what is measured")
            with (
                tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
                groups[name](Path(folder), arguments.records) as found,
            ):
                measured += [
                    fill(one, status.update)
                    if isinstance(one, Sheet)
                    else measure(one, arguments.repeat, status.update)
                    for one in found
                ]
    if compared := [found for found in measured if "sides" in found]:
        console.print(_table(compared))
    for sheet in measured:
        if "rows" in sheet:
            console.print(_sheet(sheet))
    for line in _facts(measured):
        print(line)
    print(f"kept in {_keep(measured, arguments)}")


def _wanted(only: Sequence[str] | None) -> Sequence[str]:
    several = {"service": SERVICES, "scaling": SCALING}
    return [name for wanted in only or ALONE for name in several.get(wanted, (wanted,))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, help="in each run (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each comparison (default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*ALONE, *SERVICES, "service", *SCALING, "scaling"),
        help=f"measure this alone; may be given more than once; service is {', '.join(SERVICES)}, scaling is"
        f" {', '.join(SCALING)}; they start a broker and MinIO where they need them, and are not measured unless they are named",
    )
    parser.add_argument(
        "--segments", type=int, default=10_000, help="of the history on MinIO of recovery (default: %(default)s)"
    )
    parser.add_argument(
        "--kafka", default="", metavar="HOST:PORT", help="a real broker; else librdkafka's embedded one"
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".bench", help="where the numbers are kept")
    return parser.parse_args()


def _table(measured: list[dict[str, Any]]) -> Table:
    """A row for each side, with what it is compared with; and more rows where that is more than one."""
    table = Table(title=f"headrace {_version('headrace')}, {os.cpu_count()} CPUs: median \\[least, most]")
    for heading in ("what", "records/s", "CPU s/M", "compared with", "ratio", "CPU", "floor | goal"):
        table.add_column(heading, justify="left" if heading in ("what", "compared with") else "right", no_wrap=True)
    for found in measured:
        table.add_section()
        table.add_row(f"[bold]{found['name']}[/]")
        for side in found["sides"]:
            first = [f"  {side['name']}", _rate(side["records_per_s"]), _spread(side["cpu_s_per_million"])]
            ratios = [r for r in found["ratios"] if r["of"] == side["name"]]
            for ratio in ratios or [None]:
                compared = (
                    () if ratio is None else (ratio["to"], _spread(ratio["rate"]), _spread(ratio["cpu"]), ratio["goal"])
                )
                table.add_row(*first, *compared)
                first = ["", "", ""]
    return table


def _sheet(found: dict[str, Any]) -> Table:
    table = Table(title=found["name"])
    table.add_column("")
    for heading in found["headings"]:
        table.add_column(heading, justify="right")
    for name, *cells in found["rows"]:
        table.add_row(name, *map(_cell, cells))
    return table


def _cell(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.2f}"
    return _told(cell)


def _facts(measured: list[dict[str, Any]]) -> list[str]:
    return [
        f"{found['name']}: " + "; ".join(f"{name} {_told(fact)}" for name, fact in found["facts"].items())
        for found in measured
        if found["facts"]
    ]


def _told(fact: object) -> str:
    if isinstance(fact, list):
        return ", ".join(map(_told, fact)) or "none"
    return f"{fact:,.1f}" if isinstance(fact, float) else f"{fact:,}" if isinstance(fact, int) else str(fact)


def _rate(found: dict[str, float]) -> str:
    if found["median"] < _THOUSANDS_FROM:
        return _spread(found, ",.0f")
    median, least, most = (f"{found[name] / 1000:,.0f}k" for name in ("median", "min", "max"))
    return f"{median} \\[{least}, {most}]"


def _spread(found: dict[str, float], form: str = ".2f") -> str:
    return f"{found['median']:{form}} \\[{found['min']:{form}}, {found['max']:{form}}]"


def _keep(measured: list[dict[str, Any]], arguments: argparse.Namespace) -> Path:
    now = datetime.now(UTC)
    kept = {
        "made_at": now.isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src")),
        "cpus": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "arguments": {
            "records": arguments.records,
            "repeat": arguments.repeat,
            "only": arguments.only,
            "segments": arguments.segments,
        },
        "measurements": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path: Path = arguments.out / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return path


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()

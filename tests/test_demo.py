"""The demo: what it shows, and that it would not show it were it not so."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from headrace.demo.check import count_partitions, differences, silver_differences, total
from headrace.demo.feed import Feed, write_feeds
from headrace.demo.page import Page, render


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run of the real command, in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo") / "here"
    command = [sys.executable, "-m", "headrace", "demo", "--folder", str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(shown, tmp_path: Path) -> Path:
    """A copy of what it left, to be spoilt."""
    return Path(shutil.copytree(shown[0], tmp_path / "copy"))


def trades(folder: Path) -> Feed:
    path = folder / "feed" / "trades.jsonl"
    return Feed("trades", path, len(path.read_bytes().splitlines()), 5)


def objects(folder: Path) -> list[Path]:
    return sorted((folder / "lake" / "trades").glob("partition=*/*.jsonl.gz"))


def published(folder: Path) -> dict[int, int]:
    """By the lake before it was spoilt: the broker is gone."""
    found: dict[int, int] = {}
    for path in objects(folder):
        number = int(path.parent.name.removeprefix("partition="))
        found[number] = found.get(number, 0) + len(gzip.decompress(path.read_bytes()).splitlines())
    return found


def test_exact(shown):
    """It ends with 0, shows a line a partition, and says that every record arrived once, after real kills."""
    folder, process = shown
    assert (0, "") == (process.returncode, process.stderr)
    rows = [line.split("\t") for line in process.stdout.splitlines() if "\t" in line]
    totals = {row[0]: row[2:6] for row in rows if row[1] == "all"}
    assert {"bars": ["2303", "2303", "2303", "0"], "trades": ["112470", "112470", "112465", "5"]} == totals
    assert {"yes"} == {row[-1] for row in rows[1:]}
    assert re.search(r"killed with SIGKILL at \d+ segments", process.stdout)
    assert re.search(r"Every record once, after [123] kills?, in", process.stdout)
    assert str(folder / "report.html") in process.stdout


def test_next_commands(shown):
    """Each command that it proposes runs."""
    proposed = [line.strip() for line in shown[1].stdout.partition("Look at it:")[2].splitlines() if line.strip()]
    assert 5 == len(proposed)
    for line in proposed[1:]:
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (done.returncode, done.stderr), line
        assert len(done.stdout.splitlines()) > 3


def test_every_record_by_hand(shown):
    """What it claims holds for a reader of a few lines: gzip, JSON, and places in the log."""
    places, values = set(), []
    for path in objects(shown[0]):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            record = json.loads(line)
            places.add((path.parent.name, record["offset"]))
            values.append(line.partition(b'"value":')[2][:-1] if "value" in record else None)
    lines = trades(shown[0]).path.read_bytes().splitlines()
    assert len(lines) == len(values) == len(places)
    readable = sorted(value for value in values if value is not None)
    assert set(readable) <= set(lines)
    assert 2 == values.count(None)  # JSON that ends too early, bytes that are no text: kept as base64


def test_page_stands_alone(shown):
    """The page names no other file and no host, and shows the three sessions, the counts and the chains."""
    page = (shown[0] / "report.html").read_text(encoding="utf-8")
    assert "Every record exactly once" in page
    assert 3 == page.count('class="price"')
    assert "112,470" in page
    for outside in ("http://", "https://", "src=", "<link", "@import"):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("fault", ["lost", "twice", "changed", "swapped"])
def test_a_fault_is_seen(copy: Path, fault: str):
    """A segment lost or doubled, a record changed, two records swapped: no count and no comparison passes over it."""
    feed, before = trades(copy), published(copy)
    victim = objects(copy)[2]
    lines = gzip.decompress(victim.read_bytes()).splitlines(keepends=True)
    if fault == "lost":
        victim.unlink()
    elif fault == "twice":
        shutil.copy(victim, victim.with_name(f"{10**15:020d}.jsonl.gz"))
    elif fault == "changed":
        victim.write_bytes(gzip.compress(b"".join([lines[0].replace(b'"size":', b'"size": '), *lines[1:]])))
    else:
        i = next(i for i, (a, b) in enumerate(itertools.pairwise(lines)) if value(a) != value(b))
        lines[i], lines[i + 1] = spliced(lines[i], lines[i + 1]), spliced(lines[i + 1], lines[i])
        victim.write_bytes(gzip.compress(b"".join(lines)))
    counts = count_partitions(copy / "lake", copy / "silver.duckdb", feed, "trades", before)
    exact = all(count.exact for count in [*counts, total(counts, feed)])
    assert exact == (fault in {"changed", "swapped"})
    assert differences(copy / "lake", feed, "trades") > 0


def value(line: bytes) -> bytes:
    return line.partition(b'"value":')[2]


def spliced(line: bytes, other: bytes) -> bytes:
    """This record's place with the other one's value."""
    return line.partition(b'"value":')[0] + b'"value":' + value(other)


def test_no_fault_is_imagined(copy: Path):
    """The copy, unspoilt, passes both: what the others see is their fault."""
    feed = trades(copy)
    counts = count_partitions(copy / "lake", copy / "silver.duckdb", feed, "trades", published(copy))
    assert all(count.exact for count in [*counts, total(counts, feed)])
    assert 0 == differences(copy / "lake", feed, "trades")
    assert 0 == silver_differences(copy / "lake", copy / "silver.duckdb", feed, "trades")


@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM trades WHERE _partition = 2 AND _offset = 7",
        "INSERT INTO trades SELECT * FROM trades WHERE _partition = 2 AND _offset = 7",
        "UPDATE trades SET price = price + 0.0001 WHERE _partition = 2 AND _offset = 7",
        "UPDATE trades SET _offset = 10000000 WHERE _partition = 2 AND _offset = 7",
        "DELETE FROM trades_quarantine WHERE rowid = 0",
        "INSERT INTO trades_quarantine SELECT * FROM trades_quarantine LIMIT 1",
    ],
    ids=["lost", "twice", "changed", "moved", "lost from quarantine", "twice in quarantine"],
)
def test_a_fault_of_silver_is_seen(copy: Path, fault: str):
    """Counts may agree where rows do not: each row is held against its line in the lake."""
    with duckdb.connect(str(copy / "silver.duckdb")) as connection:
        connection.execute(fault)
    assert 0 < silver_differences(copy / "lake", copy / "silver.duckdb", trades(copy), "trades")


def test_a_row_too_many(copy: Path):
    """A doubled row in the warehouse is counted."""
    with duckdb.connect(str(copy / "silver.duckdb")) as connection:
        connection.execute("INSERT INTO trades SELECT * FROM trades LIMIT 1")
    counts = count_partitions(copy / "lake", copy / "silver.duckdb", trades(copy), "trades", published(copy))
    assert not all(count.exact for count in counts)


def test_exit_code_of_a_fault(tmp_path: Path):
    """Where a record is missing the command says so, ends with 1, and the page says it too."""
    spoil = (
        "import sys, pathlib, headrace.demo.demo as demo\n"
        "load = demo.Demo.load\n"
        "def spoilt(self, feed):\n"
        "    load(self, feed)\n"
        "    sorted(pathlib.Path(self.lake, feed.stream).glob('partition=*/*.jsonl.gz'))[-1].unlink()\n"
        "demo.Demo.load = spoilt\n"
        "from headrace.cli import main\n"
        "sys.argv[1:] = ['demo', '--json', '--folder', sys.argv[1]]\n"
        "sys.exit(main())\n"
    )
    folder = tmp_path / "demo"
    command = [sys.executable, "-c", spoil, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 1 == process.returncode, process.stderr
    told = json.loads(process.stdout)
    assert not told["exactly_once"]
    assert any(problem.startswith("trades/") for problem in told["problems"])
    assert [folder / "report.html", folder] == [Path(told["report"]), Path(told["folder"])]
    assert {"bars": 2303, "trades": 112_470} == {
        c["stream"]: c["published"] for c in told["counts"] if c["partition"] is None
    }
    assert "Every record exactly once" not in (folder / "report.html").read_text(encoding="utf-8")


def test_folder_of_others(tmp_path: Path):
    """A folder with something in it is not touched."""
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, "-m", "headrace", "demo", "--folder", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 2 == process.returncode
    assert f"{tmp_path} is there already and not empty" in process.stderr
    assert ["mine.txt"] == [path.name for path in tmp_path.iterdir()]


def test_shares_are_whole(shown):
    """The page counts shares as a person does: without the digits that the column has for parts of one."""
    page = (shown[0] / "report.html").read_text(encoding="utf-8")
    assert 3 == len(re.findall(r"%, [\d,]+ shares<", page))


def test_page_escapes(shown, tmp_path: Path):
    """A problem's text is text, whatever is in it."""
    feeds = write_feeds(tmp_path)
    assert ["bars", "trades"] == [feed.stream for feed in feeds]
    page = render(Page([], {}, [], ["<script>alert(1)</script>"], shown[0] / "silver.duckdb", {}, 1.0))
    assert "<script>alert" not in page
    assert "Not shown" in page

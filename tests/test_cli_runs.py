"""`headrace stream`, `load` and `show`: a file to the lake to a table, looked at, stopped and broken."""

from __future__ import annotations

import gzip
import json
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.cli.app import run
from headrace.cli.signals import SIGNALS, stopping

pytestmark = pytest.mark.usefixtures("logging_restored")

HEADRACE = shutil.which("headrace", path=str(Path(sys.executable).parent)) or ""
RECORDS = 20


@pytest.fixture
def ticks(tmp_path):
    """Twenty records: one in ten has an escape sequence in its value."""
    path = tmp_path / "ticks.jsonl"
    lines = [{"symbol": f"S{i % 2}", "n": i, "at": 1_700_000_000_000 + i, "note": "\x1b[31m"} for i in range(RECORDS)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


@pytest.fixture
def lake(tmp_path, ticks):
    """A lake with one stream of four segments: [0, 5), [5, 10), [10, 15), [15, 20)."""
    source, place = f"jsonl://{ticks}?key=symbol&timestamp=at", f"file://{tmp_path}/lake"
    assert 0 == run(["stream", source, place, "--until-end", "--flush-records", "5", "--log-level", "error"])
    return tmp_path / "lake"


@pytest.fixture
def segments(lake):
    return sorted((lake / "ticks" / "partition=0").iterdir())


def called(capfd, *words: object) -> tuple[int, str, str]:
    """Run in this process, without what was printed before."""
    capfd.readouterr()
    code = run([str(word) for word in words])
    out, err = capfd.readouterr()
    return code, out, err


def rows_of(table: str) -> list[dict[str, str]]:
    names, *rows = [line.split("\t") for line in table.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


# ---- stream -----------------------------------------------------------------------------------------------


def test_stream(segments, ticks):
    """Every line of the file is in the lake once, its bytes unchanged; counted by gzip and json, not by us."""
    lines = [json.loads(line) for path in segments for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [json.loads(line) for line in ticks.read_text().splitlines()] == [line["value"] for line in lines]
    assert list(range(RECORDS)) == [line["offset"] for line in lines]


def test_stream_as_json(capfd, tmp_path, ticks):
    """The final numbers are the only thing on standard output; a second run finds nothing to do."""
    words = ("stream", f"jsonl://{ticks}", f"file://{tmp_path}/other", "--until-end", "--json", "--log-format", "json")
    for records in (RECORDS, 0):
        code, out, err = called(capfd, *words)
        done = json.loads(out)
        assert 0 == code
        assert (records, records) == (done["records"], done["stored_records"])
        assert ("exactly-once", None, []) == (done["guarantee"], done["stopped_by"], done["stopped_partitions"])
        assert "run ends" in {json.loads(line)["event"] for line in err.splitlines()}


def test_stream_into_another_stream_s_dataset(capfd, lake, tmp_path):
    """A file that is another one is refused with code 1, and the lake stays as it is."""
    before = sorted(lake.rglob("partition=*/*"))
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    code, out, err = called(capfd, "stream", f"jsonl://{other}?stream=ticks", f"file://{lake}", "--until-end", "--json")
    assert (1, "IdentityError") == (code, json.loads(out)["error"]["type"])
    assert "epoch" in err
    assert before == sorted(lake.rglob("partition=*/*"))


def test_a_stream_gives_freed_memory_back(monkeypatch, ticks, tmp_path):
    """While it runs, whatever else it shows."""
    asked = []
    monkeypatch.setattr("headrace.cli.stream.Trimming", lambda: lambda: asked.append(1))
    assert 0 == run(["stream", f"jsonl://{ticks}", f"file://{tmp_path}/lake", "--until-end", "--log-level", "error"])
    assert asked


def test_memory_gives_the_source_its_queue(monkeypatch, tmp_path):
    """The client's queue is an eighth of --memory, within bounds, unless the URI says how much it is."""
    pytest.importorskip("confluent_kafka")
    seen = []
    monkeypatch.setattr("headrace.cli.stream.Pipeline.run", lambda self: seen.append(self.source.queue_bytes))
    uri = "kafka://127.0.0.1:1/t?group=g"
    for memory, more in (("64MiB", ""), ("1GiB", ""), ("4MiB", ""), ("64MiB", "&queue_bytes=3MiB")):
        assert 0 == run(["stream", uri + more, f"file://{tmp_path}", "--memory", memory])
    assert [8 << 20, 32 << 20, 1 << 20, 3 << 20] == seen


@pytest.mark.parametrize("memory", ["1", "100KiB", "4194303"])
def test_memory_has_a_least_size(capfd, tmp_path, ticks, memory):
    """Less than a few blocks is refused before anything is opened."""
    code, _, err = called(capfd, "stream", f"jsonl://{ticks}", f"file://{tmp_path}/lake", "--memory", memory)
    assert (2, False) == (code, (tmp_path / "lake").exists())
    assert "expected 4.0 MiB or more" in err


def test_parquet(capfd, tmp_path, ticks, lake, contract):
    """A lake of Parquet is shown, loaded and replayed as one of lines is."""
    pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    source, place = f"jsonl://{ticks}?key=symbol&timestamp=at", f"file://{tmp_path}/parquet"
    assert 0 == run(["stream", source, f"{place}?format=parquet", "--until-end", "--flush-records", "5"])
    folder = tmp_path / "parquet/ticks/partition=0"
    assert [f"{start:020d}.parquet" for start in (0, 5, 10, 15)] == sorted(path.name for path in folder.iterdir())
    shown = [called(capfd, "show", where, "--partition", "0", "--deep") for where in (place, f"file://{lake}")]
    columns = ("start", "end", "records", "first time", "last time", "state")
    lines = [[tuple(row[c] for c in columns) for row in rows_of(out)] for _, out, _ in shown]
    assert [0, 0] == [code for code, *_ in shown]
    assert lines[0] == lines[1]
    code, out, _ = called(capfd, "show", place, "--offset", "7", "--raw")
    assert (0, ticks.read_text().splitlines()[7]) == (code, out)
    words = ("load", place, f"duckdb://{tmp_path}/p.duckdb?table=ticks", "--contract", contract, "--json")
    code, out, _ = called(capfd, *words)
    assert (0, 15, 5) == (code, json.loads(out)["inserted"], json.loads(out)["rejected"])
    assert 0 == run(["stream", place, f"file://{tmp_path}/back", "--until-end", "--flush-records", "5"])
    for path in sorted((lake / "ticks/partition=0").iterdir()):
        again = tmp_path / "back/ticks/partition=0" / path.name
        assert gzip.decompress(path.read_bytes()) == gzip.decompress(again.read_bytes())


def test_full_disk(tmp_path, ticks):
    """
    Where the disk takes no more, the run ends with code 3, what was stored stays, and the next run goes on.

    The disk is full by a limit on the size of files, which Linux reports as EFBIG: the store takes that for a setting.
    """

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))

    words = [HEADRACE, "stream", f"jsonl://{ticks}", f"file://{tmp_path}/lake", "--until-end", "--retry-for", "1s"]
    done = subprocess.run(words, preexec_fn=limited, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 3)
    assert "cannot create" in done.stderr
    assert "Traceback" not in done.stderr
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (0, f"{RECORDS} records") == (again.returncode, again.stdout[: len(f"{RECORDS} records")])


def test_a_file_where_a_folder_is_needed(capfd, ticks):
    """A place that cannot be written to is named, with code 2, before anything is written."""
    code, _, err = called(capfd, "stream", f"jsonl://{ticks}", f"file://{ticks}/lake", "--until-end")
    assert 2 == code
    assert f"{ticks}/lake" in err


# ---- signals ----------------------------------------------------------------------------------------------


@pytest.fixture
def endless(tmp_path, ticks):
    """Start an endless run; return it when its pin is in the lake."""
    made = []

    def start(*more: str) -> subprocess.Popen[str]:
        words = ["stream", f"jsonl://{ticks}?follow=true", f"file://{tmp_path}/lake", "--log-format", "json", *more]
        process = subprocess.Popen([HEADRACE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        made.append(process)
        wait_for(process, "partitions assigned")
        return process

    yield start
    for process in made:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], event: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([process.stderr], [], [], 1)[0]:
            line = process.stderr.readline()
            if not line or json.loads(line)["event"] == event:
                return
    raise AssertionError(f"no {event!r} within 30 s")


@pytest.mark.parametrize(("expected", "number"), [(0, signal.SIGTERM), (130, signal.SIGINT)])
def test_stop(endless, expected, number):
    """A first signal commits what is held, long before its flush age, and ends the run."""
    process = endless("--json")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert expected == process.returncode
    done = json.loads(out)
    assert (number.name, done["records"]) == (done["stopped_by"], done["stored_records"])
    assert "Traceback" not in err


def test_stop_of_a_bounded_run(tmp_path, ticks):
    """A bounded run that SIGTERM ends before its end says so: 143. The next one does the rest."""
    words = [HEADRACE, "stream", f"jsonl://{ticks}?timestamp=at&pace=0.001", f"file://{tmp_path}/lake", "--until-end"]
    process = subprocess.Popen(
        [*words, "--log-format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(process, "partitions assigned")
    process.terminate()
    process.communicate(timeout=30)
    assert 143 == process.returncode


def test_second_signal():
    """A second signal ends the process at once, while the first one still waits for a client library that is deaf."""
    code = """
import hashlib
from headrace.cli.signals import stopping
with stopping(lambda: print("asked", flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes of C: no handler of Python's runs meanwhile
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "asked\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert 130 == process.returncode


def test_signals_are_given_back():
    """After a run the handlers are those from before."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with stopping(lambda: None) as stop:
        assert before != [signal.getsignal(number) for number in SIGNALS]
    assert before == [signal.getsignal(number) for number in SIGNALS]
    assert stop.signal is None


# ---- load -------------------------------------------------------------------------------------------------


@pytest.fixture
def contract(tmp_path):
    path = tmp_path / "ticks_contract.py"
    path.write_text(
        "from headrace.contract import column, contract\n"
        "@contract(version=1)\n"
        "class Tick:\n"
        "    '''A tick.'''\n"
        "    symbol: str\n"
        "    n: int = column(maximum=14)\n"
    )
    return f"{path}:Tick"


def test_load(capfd, lake, tmp_path, contract):
    """Rows and quarantine add up to the records; a second run lacks nothing; DuckDB counts the same."""
    duckdb = pytest.importorskip("duckdb")
    words = (
        "load",
        f"file://{lake}",
        f"duckdb://{tmp_path}/silver.duckdb?table=ticks",
        "--contract",
        contract,
        "--json",
    )
    code, out, _ = called(capfd, *words)
    done = json.loads(out)
    assert (0, RECORDS, 15, 5) == (code, done["records"], done["inserted"], done["rejected"])
    code, out, _ = called(capfd, *words)
    assert (0, 0) == (code, json.loads(out)["records"])
    with duckdb.connect(f"{tmp_path}/silver.duckdb") as database:
        assert (15,) == database.execute("SELECT count(*) FROM ticks").fetchone()


def test_load_of_a_broken_chain(capfd, lake, segments, tmp_path, contract):
    """What comes before a gap is loaded, the numbers are told, and the code is 1."""
    pytest.importorskip("duckdb")
    segments[2].unlink()
    words = (
        "load",
        f"file://{lake}",
        f"duckdb://{tmp_path}/silver.duckdb?table=ticks",
        "--contract",
        contract,
        "--json",
    )
    code, out, _ = called(capfd, *words)
    done = json.loads(out)
    assert (1, 10) == (code, done["records"])
    assert {"type": "GapError", "stream": "ticks", "partition": 0, "start": 10, "end": 15} == {
        n: v for n, v in done["error"].items() if n != "message"
    }


def test_load_into_memory(capfd, lake, contract):
    """A database in memory would be gone after the first call: it is refused, and no file of that name is made."""
    pytest.importorskip("duckdb")
    code, _, err = called(capfd, "load", f"file://{lake}", "duckdb:///:memory:?table=t", "--contract", contract)
    assert (2, False) == (code, Path("/:memory:").exists())
    assert "found database ':memory:', expected a file" in err


def test_load_with_a_wrong_contract(capfd, lake, tmp_path):
    """A contract that cannot be loaded is told before anything is opened."""
    pytest.importorskip("duckdb")
    for wrong in ("nothing", "no.such.module:Tick", f"{tmp_path}/none.py:Tick", "json:JSONDecoder"):
        code, _, err = called(
            capfd, "load", f"file://{lake}", f"duckdb://{tmp_path}/x.duckdb?table=t", "--contract", wrong
        )
        assert (2, False) == (code, "Traceback" in err), wrong
        assert not (tmp_path / "x.duckdb").exists()


# ---- show -------------------------------------------------------------------------------------------------


def test_show_lake(capfd, lake):
    """A lake in one row a partition."""
    code, out, err = called(capfd, "show", f"file://{lake}")
    (row,) = rows_of(out)
    assert (0, "") == (code, err)
    assert ("ticks", "0", "4", "20", "20", "ok") == tuple(
        row[n] for n in ("stream", "partition", "segments", "records", "end", "state")
    )
    pin = json.loads((lake / "ticks" / "_headrace" / "dataset.json").read_text())
    assert pin["id"] == row["dataset"]


def test_show_chain(capfd, lake, segments):
    """A chain in one row a segment, with what its trailer says."""
    code, out, _ = called(capfd, "show", f"file://{lake}", "--partition", "0")
    rows = rows_of(out)
    assert 0 == code
    assert [("0", "5"), ("5", "10"), ("10", "15"), ("15", "20")] == [(r["start"], r["end"]) for r in rows]
    assert "2023-11-14 22:13:20.004" == rows[0]["last time"]
    assert [str(path.stat().st_size) for path in segments] == [r["bytes"] for r in rows]


@pytest.mark.parametrize("more", [(), ("--offset", "3"), ("--json",)], ids=str)
def test_show_a_partition_that_is_not_there(capfd, lake, more):
    """A partition that the stream does not have is no empty chain: the error says which there are."""
    code, out, err = called(capfd, "show", f"file://{lake}", "--partition", "9", *more)
    assert 2 == code
    assert "stream 'ticks' has no partition 9; it has: 0" in out + err


def test_show_gap(capfd, lake, segments):
    """A missing segment is shown at its place, and those behind it are looked at as well."""
    segments[1].unlink()
    code, out, err = called(capfd, "show", f"file://{lake}", "--partition", "0")
    assert 1 == code
    assert ["ok", "gap", "ok", "ok"] == [r["state"] for r in rows_of(out)]
    assert ("5", "10") == tuple(rows_of(out)[1][n] for n in ("start", "end"))
    assert "no segment covers [5, 10)" in err
    assert 1 == called(capfd, "show", f"file://{lake}")[0]


def test_show_overlap(capfd, lake, segments):
    """A segment that starts inside another one is shown, whether it is whole or a copy under another name."""
    shutil.copy(segments[1], segments[1].with_name("00000000000000000007.jsonl.gz"))
    code, out, err = called(capfd, "show", f"file://{lake}", "--partition", "0")
    assert 1 == code
    assert [("5", "ok"), ("7", "overlap"), ("10", "ok")] == [(r["start"], r["state"]) for r in rows_of(out)][1:4]
    assert "starts at 7, inside the segment before it" in err


def test_show_corrupt(capfd, lake, segments):
    """A damaged trailer is found by every look, damaged bytes by --deep."""
    whole = segments[2].read_bytes()
    segments[2].write_bytes(whole[:-9])
    code, out, _ = called(capfd, "show", f"file://{lake}", "--partition", "0")
    assert (1, ["ok", "ok", "corrupt", "ok"]) == (code, [r["state"] for r in rows_of(out)])
    segments[2].write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    assert 0 == called(capfd, "show", f"file://{lake}", "--partition", "0")[0]
    code, out, _ = called(capfd, "show", f"file://{lake}", "--partition", "0", "--deep")
    assert (1, ["ok", "ok", "corrupt", "ok"]) == (code, [r["state"] for r in rows_of(out)])


def test_show_chain_as_json(capfd, lake, segments):
    """One document with segments and what is wrong."""
    segments[0].unlink()
    code, out, err = called(capfd, "show", f"file://{lake}", "--partition", "0", "--json")
    found = json.loads(out)
    assert (1, "", False, 3, 20) == (code, err, found["ok"], len(found["segments"]), found["end"])
    assert [("gap", 0, 5)] == [(b["state"], b["start"], b["end"]) for b in found["broken"]]


def test_show_record(capfd, lake, ticks):
    """One record: for people without what would command a terminal, as JSON, and as the very bytes."""
    value = ticks.read_bytes().splitlines()[7]
    words = ("show", f"file://{lake}", "--partition", "0", "--offset", "7")
    code, out, _ = called(capfd, *words)
    assert 0 == code
    assert "key      S1\n" in out
    assert "\x1b" not in out
    code, out, _ = called(capfd, *words, "--json")
    record = json.loads(out)["record"]
    assert ("S1", value.decode(), 1_700_000_000_007) == (record["key"], record["value"], record["timestamp_ms"])
    done = subprocess.run([HEADRACE, *words, "--raw"], capture_output=True, check=True)
    assert (value, b"") == (done.stdout, done.stderr)


def test_show_no_record(capfd, lake, segments):
    """Where there is no such record, the reason is said, with code 1."""
    words = ("show", f"file://{lake}", "--partition", "0", "--offset")
    code, out, err = called(capfd, *words, 20)
    assert (1, "", True) == (code, out, "the chain ends at 20" in err)
    segments[1].unlink()
    code, out, err = called(capfd, *words, 7, "--json")
    assert (1, None) == (code, json.loads(out)["record"])


def test_show_another_layout(capfd, lake):
    """A lake of another layout is refused, and the message says which layouts."""
    pin = lake / "ticks" / "_headrace" / "dataset.json"
    pin.write_text(pin.read_text().replace('"layout": 1', '"layout": 99'))
    code, out, err = called(capfd, "show", f"file://{lake}")
    assert (2, "") == (code, out)
    assert "found layout 99, expected 1" in err


def test_show_of_several_streams(capfd, lake, ticks):
    """With several streams one must be named, and the message lists them."""
    run(["stream", f"jsonl://{ticks}?stream=more", f"file://{lake}", "--until-end", "--log-level", "error"])
    code, _, err = called(capfd, "show", f"file://{lake}", "--partition", "0")
    assert (2, True) == (code, "more, ticks" in err)
    assert 0 == called(capfd, "show", f"file://{lake}", "--stream", "more", "--partition", "0")[0]
    assert 0 == called(capfd, "show", f"file://{lake}?stream=more", "--partition", "0")[0]
    assert 2 == called(capfd, "show", f"file://{lake}", "--stream", "none")[0]


def rows(warehouse):
    """How many the table has; 0 while a loader holds the file, or has made no table."""
    duckdb = pytest.importorskip("duckdb")
    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            return connection.execute("SELECT count(*) FROM t").fetchall()[0][0]
    except duckdb.Error:
        return 0


def test_load_waits_for_a_stream(tmp_path, ticks):
    """A load that follows may be started before there is anything to load."""
    pytest.importorskip("duckdb")
    (tmp_path / "tick.py").write_text(
        "from headrace.contract import contract\n@contract(version=1)\nclass Tick:\n    symbol: str\n    n: int\n"
    )
    lake, warehouse = f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/w.duckdb?table=t"
    command = [
        HEADRACE,
        "load",
        lake,
        warehouse,
        "--contract",
        f"{tmp_path}/tick.py:Tick",
        "--follow",
        "--every",
        "100ms",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "waiting for a stream" in process.stderr.readline()
            assert 0 == run(["stream", f"jsonl://{ticks}", lake, "--until-end", "--log-level", "error"])
            while "load begins" not in process.stderr.readline():
                assert process.poll() is None
            deadline = time.monotonic() + 30
            while rows(tmp_path / "w.duckdb") < RECORDS and time.monotonic() < deadline:
                time.sleep(0.05)  # it holds the file while it loads
            process.terminate()
            out, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert f"{RECORDS} records" in out

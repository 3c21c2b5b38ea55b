"""Records that nobody would send on purpose, from Kafka and from files to the lake and the table, by the real commands."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import duckdb
import pytest
from confluent_kafka import Producer

from headrace.demo.broker import embedded_broker

CONTRACT = """
from headrace.contract import contract

@contract(version=1)
class Row:
    n: int
    note: str | None
"""

BIG = b'{"n":1,"note":"%s"}' % (b"x" * 10_000_000)
DEEP = b'{"n":2,"note":' + b"[" * 1000 + b"]" * 1000 + b"}"

VALUES: dict[str, bytes | None] = {
    "good": b'{"n":1,"note":"fine"}',
    "tombstone": None,
    "empty": b"",
    "null": b"null",
    "two values": b"1,2",
    "two lists": b"[1],[2",
    "closes the line": b'1}\n{"offset":7,"value":1',
    "newline": b'{"n":1,\n"note":"two lines"}',
    "carriage return": b'{"n":1,\r"note":"two lines"}',
    "no UTF-8": b"\xff\xfe\x00",
    "no UTF-8 inside": b'{"n":1,"note":"\xff"}',
    "cut off": b'{"n":1,"note":"half a ch\xe2\x82',
    "surrogate": b'{"n":1,"note":"\\ud800"}',
    "NUL": b'{"n":1,"note":"\\u0000"}',
    "a raw NUL": b'{"n":1,"note":"\x00"}',
    "byte order mark": b'\xef\xbb\xbf{"n":1,"note":null}',
    "NaN": b'{"n":NaN,"note":null}',
    "infinity": b'{"n":-Infinity,"note":null}',
    "same key twice": b'{"n":1,"n":2,"note":null}',
    "nested 1,000 deep": DEEP,
    "a huge number": b'{"n":1e400,"note":null}',
    "a long number": b'{"n":' + b"9" * 5000 + b',"note":null}',
    "more than 64 bits": b'{"n":9223372036854775808,"note":null}',
    "spaces": b'  {"n" : 1 , "note" : null}  ',
    "text": b'"text"',
    "comment": b'{"n":1} // why',
    "10 MB": BIG,
}

GOOD = {"good", "same key twice", "spaces", "newline", "carriage return", "10 MB", "NUL"}
"""What keeps the contract, and so must be a row."""


@attrs.frozen
class Sent:
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


KEYS = [
    Sent(b'{"n":%d}' % i, key) for i, key in enumerate((None, b"", b"AAPL", b"\xff\x00", b'"}\n', "schlüssel".encode()))
]
HEADERS = [Sent(b'{"n":%d}' % i, b"k", h) for i, h in enumerate((
    (("a", b"1"), ("a", b"2")), (("", b""),), (("a", None),), (("b", b"\xff"),), (("value", b'":1}\n'),),
))]  # fmt: skip
EVERYTHING = [Sent(value, name.encode()) for name, value in VALUES.items()] + KEYS + HEADERS


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with embedded_broker() as bootstrap:
        yield bootstrap


@pytest.fixture
def contract(tmp_path: Path) -> str:
    (tmp_path / "rows.py").write_text(CONTRACT)
    return f"{tmp_path}/rows.py:Row"


def headrace(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *map(str, words), "--log-level", "error"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def stored(lake: Path) -> dict[tuple[int, int], Sent]:
    """Read the lake by its published format, without headrace; a place that stands twice is an error."""
    found: dict[tuple[int, int], Sent] = {}
    for path in sorted(lake.glob("*/partition=*/*.jsonl.gz")):
        number = int(path.parent.name.partition("=")[2])
        for line in gzip.decompress(path.read_bytes()).removesuffix(b"\n").split(b"\n"):
            fields, text = split(line)
            place = (number, fields["offset"])
            assert place not in found
            value = data(fields, "value") if text in (None, b"null") else text
            headers = tuple((h["key"], data(h, "value")) for h in fields["headers"] or ())
            found[place] = Sent(value, data(fields, "key"), headers)
    return found


def split(line: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The line's other fields, and the value's own bytes: what comes before the value is JSON once it is closed."""
    at = line.find(b',"value":')
    while at >= 0:
        try:
            return {"value": None, **json.loads(line[:at] + b"}")}, line[at + 9 : -1]
        except ValueError:  # inside a header
            at = line.find(b',"value":', at + 1)
    return json.loads(line), None


def data(fields: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_b64" in fields:
        return base64.b64decode(fields[f"{name}_b64"])
    return None if fields[name] is None else fields[name].encode()


def loaded(warehouse: Path) -> tuple[int, int]:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM t").fetchall()[0]
        (refused,) = connection.execute("SELECT count(*) FROM t_quarantine").fetchall()[0]
    return rows, refused


def test_from_kafka(broker: str, tmp_path: Path, contract: str):
    """Each record comes out of the lake to the byte, and is a row or in quarantine: none is lost, none stops the others."""
    producer = Producer(
        {"bootstrap.servers": broker, "message.max.bytes": 20_000_000, "log_level": 0, "compression.type": "zstd"}
    )  # compressed, for the embedded broker keeps 5 MB
    for sent in EVERYTHING:
        producer.produce("hostile", sent.value, sent.key, partition=0, headers=list(sent.headers) or None)
    assert 0 == producer.flush(20)

    source = f"kafka://{broker}/hostile?group=g&topic_id=off"
    done = headrace("stream", source, f"file://{tmp_path}/lake", "--until-end", "--flush-records", 7)
    assert 0 == done.returncode, done.stderr
    assert EVERYTHING == [sent for _, sent in sorted(stored(tmp_path / "lake").items())]

    done = headrace("load", f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/w.duckdb?table=t", "--contract", contract)
    assert 0 == done.returncode, done.stderr
    good = len(GOOD) + len(KEYS) + len(HEADERS)
    assert (good, len(EVERYTHING) - good) == loaded(tmp_path / "w.duckdb")


def test_from_a_file(tmp_path: Path, contract: str):
    """The same values as lines of a file: a line is a value, whatever it is."""
    sent = {name: value for name, value in VALUES.items() if value and b"\n" not in value}
    lines = list(sent.values())
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    done = headrace("stream", f"jsonl://{tmp_path}/in.jsonl", f"file://{tmp_path}/lake", "--until-end")
    assert 0 == done.returncode, done.stderr
    assert lines == [found.value for _, found in sorted(stored(tmp_path / "lake").items())]

    done = headrace("load", f"file://{tmp_path}/lake", f"duckdb://{tmp_path}/w.duckdb?table=t", "--contract", contract)
    assert 0 == done.returncode, done.stderr
    good = len(GOOD & sent.keys())
    assert (good, len(lines) - good) == loaded(tmp_path / "w.duckdb")


def test_the_reader_is_no_fool(tmp_path: Path):
    """A line that was changed, and one that stands twice, are seen by this file's own reader."""
    (tmp_path / "in.jsonl").write_bytes(b'{"n":1}\n{"n":2}\n')
    assert 0 == headrace("stream", f"jsonl://{tmp_path}/in.jsonl", f"file://{tmp_path}/lake", "--until-end").returncode
    (path,) = (tmp_path / "lake").glob("in/partition=0/*")
    body = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(body.replace(b'{"n":2}', b'{"n":3}')))
    assert [b'{"n":1}', b'{"n":3}'] == [sent.value for sent in stored(tmp_path / "lake").values()]
    path.write_bytes(gzip.compress(body + body))
    with pytest.raises(AssertionError):
        stored(tmp_path / "lake")


@pytest.mark.parametrize(("words", "code", "says"), [
    (["stream", "kafak://h/t?group=g", "file:///x"], 2, "no plugin makes a source from kafak://; sources: alpaca://, az://, "),
    (["stream", "jsonl:///no/such/file.jsonl", "file://{tmp}/lake", "--until-end"], 2, "/no/such/file.jsonl"),
    (["stream", "jsonl://{tmp}/in.jsonl?colour=red", "file://{tmp}/lake", "--until-end"], 2, "colour"),
    (["stream", "jsonl://{tmp}/in.jsonl", "file://{tmp}/in.jsonl", "--until-end"], 2, "in.jsonl"),
    (["stream", "jsonl://{tmp}/in.jsonl", "file://{tmp}/lake", "--flush-bytes", "many"], 2, "many"),
    (["stream", "kafka://127.0.0.1:9/t?group=g&no.such.setting=1", "file://{tmp}/lake"], 2, "no.such.setting"),
    (["stream", "kafka://127.0.0.1:9/t", "file://{tmp}/lake"], 2, "group"),
    (["stream", "kafka://127.0.0.1:9/t?group=g&request_timeout_s=1", "file://{tmp}/lake", "--retry-for", "1s"], 3, "127.0.0.1:9"),
    (["load", "file://{tmp}/nothing", "duckdb://{tmp}/w.duckdb?table=t", "--contract", "{tmp}/rows.py:Row"], 2, "nothing"),
    (["load", "file://{tmp}/lake", "duckdb://{tmp}/w.duckdb?table=t", "--contract", "no_such_module:Row"], 2, "no_such_module"),
    (["load", "file://{tmp}/lake", "duckdb://{tmp}/w.duckdb?table=t", "--contract", "{tmp}/rows.py:Raw"], 2, "Raw"),
    (["show", "file://{tmp}/nothing"], 2, "nothing"),
])  # fmt: skip
@pytest.mark.usefixtures("contract")
def test_clear_error(tmp_path: Path, words: list[str], code: int, says: str):
    """What is wrong is named, in one paragraph without a traceback, with the exit code of its kind; the input is untouched."""
    (tmp_path / "in.jsonl").write_bytes(b'{"n":1}\n')
    done = headrace(*(word.format(tmp=tmp_path) for word in words))
    assert code == done.returncode, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert b'{"n":1}\n' == (tmp_path / "in.jsonl").read_bytes()

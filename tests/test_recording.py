"""A feed as a file, and the file as a feed again."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import msgspec
import pytest

from headrace.cli.app import run
from headrace.errors import ConfigError
from headrace.plugins.market.json_feed import JsonFeed
from headrace.plugins.market.source import FeedSource
from headrace.recording import Recording, in_order, line, unwrapped
from headrace.records import Batch, Partition, Record, Start
from headrace.registry import Registry
from headrace.testing.servers.exchange import CoinbaseExchange, PlainExchange, coinbase_match


def recorded(source: FeedSource, path: Path | str, exchange: PlainExchange, *frames: bytes) -> Recording:
    recording = Recording(source=source, path=str(path), records=len(frames))
    thread = threading.Thread(target=recording.run)
    thread.start()
    exchange.wait_for_clients()
    for frame in frames:
        exchange.send(frame, text=False)
    thread.join(20)
    assert not thread.is_alive()
    return recording


FRAMES = [
    b'{"s":"A","t":"2026-01-02T15:00:00Z","p":1.50}',
    b'{"s":"B",\n"t":\r\n"2026-01-02T15:00:01Z"}',
    b"\xff{",
    b"{",
    b'"\xc3\xa4"',
    b"",
    b" ",
    b"null",
    b'{"n":NaN}',
    b'{"value_b64":"AA=="}',
    b"\xef\xbb\xbf{}",
    b"[" * 5_000,
    b' {"s":"\xe2\x80\xa8"}\t',
    b"1\r\n",
]


def test_recorded_and_replayed(tmp_path: Path):
    """A recording has a message a line; replayed, each is a record with its key and its time. Gaps are in a file beside it."""
    with PlainExchange() as exchange:
        feed = JsonFeed(
            name="any", address=exchange.address, symbols=("A",), send=('{"follow":{symbols}}',), symbol="s"
        )
        recording = recorded(FeedSource(feed=feed), tmp_path / "rec.jsonl", exchange, *FRAMES)
    lines = (tmp_path / "rec.jsonl").read_bytes().split(b"\n")
    assert [FRAMES[0], b'{"value_b64":"/3s="}', b'{"value_b64":"ew=="}', FRAMES[4], b'{"value_b64":""}'] == [
        lines[0], *lines[2:6]
    ]  # fmt: skip
    assert all("value_b64" in json.loads(each) for each in (lines[1], *lines[6:7], *lines[8:12], lines[13]))
    assert (FRAMES[7], FRAMES[12], b"") == (lines[7], lines[12], lines[14])
    gaps = [json.loads(value) for value in (tmp_path / "rec.gaps.jsonl").read_bytes().splitlines()]
    assert ["started", "started", "stopped"] == [gap["cause"] for gap in gaps]
    assert {str(tmp_path / "rec.jsonl"): len(FRAMES), str(tmp_path / "rec.gaps.jsonl"): 3} == recording.counts
    replayed = Registry.discover().source(f"jsonl://{tmp_path}/rec.jsonl?recorded=true&key=s&timestamp=t")
    (batch, *_) = replayed.poll(Owner(), 0.0)
    assert FRAMES == list(batch.values)
    assert sum(map(len, FRAMES)) + len("AB\u2028".encode()) == batch.nbytes
    (partition,) = replayed.extents()
    assert FRAMES == [value for again in replayed.reread(partition, 0, len(FRAMES)) for value in again.values]
    assert [b"A", b"B", None] == list(batch.keys)[:3]
    assert [1_767_366_000_000, 1_767_366_001_000] == list(batch.timestamps_ms)[:2]
    replayed.close()


def test_kinds_are_recorded_as_they_came(tmp_path: Path):
    """Messages of several kinds in one file are in the order in which they came, in a frame and from frame to frame."""
    sent = [{"T": kind, "n": n} for n, kind in enumerate("tqxqqt" * 2_000)]
    sizes = itertools.cycle((1, 5, 2, 1_000))
    rest = iter(sent)
    with PlainExchange() as exchange:
        feed = JsonFeed(
            name="any",
            address=exchange.address,
            symbols=("A",),
            send=('{"follow":{symbols}}',),
            kind="T",
            streams={"t": "trades", "q": "quotes"},
        )
        recording = Recording(source=FeedSource(feed=feed), path=f"{tmp_path}/rec.jsonl", records=len(sent))
        thread = threading.Thread(target=recording.run, daemon=True)
        thread.start()
        exchange.wait_for_clients()
        while frame := list(itertools.islice(rest, next(sizes))):
            exchange.send(json.dumps(frame).encode())
        thread.join(20)
        assert not thread.is_alive()
    assert sent == [json.loads(value) for value in (tmp_path / "rec.jsonl").read_bytes().splitlines()]


def of_stream(name: str, *places: tuple[bytes, int, int]) -> Batch:
    """A record for each place: its connection, when it came, and as which one; its value is its name and number."""
    records = [
        Record(
            offset,
            0,
            None,
            b"%s%d" % (name.encode(), n),
            (("headrace.received_ns", b"%d" % ns), ("headrace.connection", c), ("headrace.sequence", b"%d" % n)),
        )
        for offset, (c, ns, n) in enumerate(places)
    ]
    return Batch.of(Partition(name, 0), records, assignment=1)


def test_order_of_several_connections():
    """One connection's messages are behind another's, whatever the clock does meanwhile; a stream alone stays as it is."""
    a = of_stream("a", (b"p-1", 50, 8), (b"p-1", 40, 10), (b"p-history", 70, 1), (b"p-1", 45, 11), (b"p-2", 90, 2))
    b = of_stream("b", (b"p-1", 30, 9), (b"p-1", 47, 12), (b"p-2", 80, 1))
    assert b"a8 b9 a10 a11 b12 a1 b1 a2".split() == in_order([a, b])
    assert b"a8 a10 a1 a11 a2".split() == in_order([a])
    late, early = of_stream("a", (b"p-1", 50, 2)), of_stream("b", (b"p-1", 30, 1), (b"p-2", 40, 1))
    assert b"b1 a2 b1".split() == in_order([late, early])
    for headers in (None, [None] * len(b), [(("headrace.sequence", b"x"),)] * len(b)):
        assert [*a.values, *b.values] == in_order([a, attrs.evolve(b, headers=headers)])


class Owner:
    def assigned(self, hints):
        return {p: Start(0, None, 1) for p in hints}


@pytest.mark.parametrize(
    "value", [*FRAMES, None, b'{"a": 1}', b'{"a":\n1}', b"\n", b'{"value_b64":1}', b'{"value_b64":']
)
def test_one_line_a_value(value: bytes | None):
    """Every value is a line, and the line makes the value again; what no recording wrote is left as it is."""
    assert b"\n" not in line(value)
    assert value == unwrapped(line(value))
    msgspec.json.decode(line(value))
    for strange in (b'{"value_b64":1}', b'{"value_b64":"AA==","b":1}', b'{"value_b64":"="}', b'{"value_b64":'):
        assert strange == unwrapped(strange)


def test_a_recording_of_no_values(tmp_path: Path):
    """A record without a value stays one; without the setting, and in a file of another kind, nothing is taken apart."""
    (tmp_path / "rec.jsonl").write_bytes(line(None) + b"\n\n" + line(b"") + b"\n{}\n")
    for words, values in (("?recorded=true", [None, b"", b"{}"]), ("", [line(None), line(b""), b"{}"])):
        replayed = Registry.discover().source(f"jsonl://{tmp_path}/rec.jsonl{words}")
        (batch, *_) = replayed.poll(Owner(), 0.0)
        assert (values, [0, 2, 3]) == (list(batch.values), list(batch.offsets))
        replayed.close()
    with pytest.raises(ConfigError, match="a recording is a file of JSON lines"):
        Registry.discover().source(f"csv://{tmp_path}/rec.jsonl?recorded=true")


def test_recording_refuses(tmp_path: Path):
    """A file that is there is not written to, a source that can be read again is not recorded."""
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    registry = Registry.discover()
    for uri, path, message in (
        ("coinbase://BTC-USD", tmp_path / "a.jsonl", "is there already"),
        ("coinbase://BTC-USD", tmp_path / "no" / "a.jsonl", "there is no folder"),
        ("coinbase://BTC-USD", tmp_path / "a.jsonl.gz", "plain text"),
        (f"jsonl://{tmp_path}/a.jsonl", tmp_path / "b.jsonl", "can be read again"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recording(source=registry.source(uri), path=str(path))


def test_record_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The command records until it is stopped, stores what was received, and says what it wrote where."""
    with CoinbaseExchange() as exchange:
        words = [f"coinbase://BTC-USD?address={exchange.address}", f"{tmp_path}/{{stream}}.jsonl", "--json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "record", *words], stdout=subprocess.PIPE, env={**os.environ}
        )
        exchange.wait_for_clients()
        exchange.publish(*(coinbase_match(n) for n in range(1000)))
        while not (tmp_path / "coinbase.trades.jsonl").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    told = json.loads(out)
    assert 0 == process.returncode, told
    numbers = [json.loads(v)["trade_id"] for v in (tmp_path / "coinbase.trades.jsonl").read_bytes().splitlines()]
    assert list(range(len(numbers))) == numbers
    assert len(numbers) == told["files"][f"{tmp_path}/coinbase.trades.jsonl"]
    assert 2 == run(["record", "coinbase://BTC-USD", f"{tmp_path}/coinbase.trades.jsonl"])
    assert "is there already" in capsys.readouterr().err

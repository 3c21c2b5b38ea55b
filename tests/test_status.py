"""`headrace status`: what is planted is shown, with what to do, at 80 columns and in a pipe; what is sound is not."""

from __future__ import annotations

import io
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from headrace.chain import Chain
from headrace.cli.app import run
from headrace.cli.output import Output
from headrace.cli.status_screen import Screen, _drawn
from headrace.contract import contract
from headrace.errors import ConfigError, SinkUnavailableError, SourceUnavailableError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore
from headrace.plugins.lake.sink import LakeSink
from headrace.status.gaps import GapRecords
from headrace.status.look import Look
from headrace.status.result import Status
from headrace.testing.log import MemoryLog
from headrace.testing.source import MemorySource

pytestmark = pytest.mark.usefixtures("logging_restored")

NOW_S = time.time()
"""A disk's own clock cannot be set: what shall be old is looked at later."""
LAKE, TABLE, KAFKA = "file:///lake", "duckdb:///silver.duckdb?table=trades", "kafka://127.0.0.1:9092/trades"


@contract(version=1)
class Trade:
    n: int


def gap(number: int, symbol: str, to: str | None, cause: str = "connection lost") -> bytes:
    told = {"id": f"r-{number}", "feed": "alpaca", "producer": "a", "symbol": symbol, "cause": cause}
    return json.dumps({**told, "from": "2023-11-14T22:10:00.000000000Z", "to": to}).encode()


class World:
    """A log of two partitions in a lake in a table, and a stream of gaps beside it; all of it sound and new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = MemoryLog(stream="trades", partitions=2)
        self.gaps = MemoryLog(stream="alpaca.gaps", topic="gaps")
        for n in range(40):
            self.say(n)
        self.gaps.produce(gap(1, "AAPL", "2023-11-14T22:11:00.000000000Z"))
        self.write(self.log)
        self.write(self.gaps)
        self.load()

    def say(self, n: int, value: bytes | None = None) -> None:
        self.log.produce(value or b'{"n":%d}' % n, partition=n % 2, timestamp_ms=int(NOW_S * 1000) - 60_000 + n)

    def write(self, log: MemoryLog, records: int = 10) -> None:
        sink, source = LakeSink(store=self.store()), MemorySource(log=log, hints={}, idle=lambda _: None)
        Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=records)).run()

    def store(self) -> FileStore:
        return FileStore(root=self.folder / "lake")

    def loader(self) -> DuckDBLoader:
        return DuckDBLoader(database=self.folder / "w.duckdb", target="trades", contract=Trade)

    def load(self) -> None:
        Load(chain=Chain.open(self.store(), "trades"), loader=self.loader()).run()

    def look(self, **more) -> Look:
        settings = {
            "store": self.store(),
            "warehouse": self.loader,
            "source": MemorySource(log=self.log),
            "uris": (LAKE, TABLE, KAFKA),
            "clock": lambda: NOW_S,
        }
        return Look(**(settings | more))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def drawn(status: Status, before: Status | None = None, width: int = 80, *, terminal: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, force_terminal=terminal).print(_drawn(status, before))
    return out.getvalue()


def test_all_is_well(world: World):
    """Of a deployment that is sound nothing is said but its numbers, and it costs a bounded number of requests."""
    look = world.look()
    first, second = look(), look()
    assert ([], 0) == (list(first.problems), first.exit_code)
    gaps, trades = first.streams
    zero = trades.partitions[0]
    assert (20, 20, 20, 0, 0) == (zero.log_end, zero.bronze_end, zero.silver_end, zero.bronze_lag, zero.silver_lag)
    assert [int(NOW_S * 1000) - 60_000 + n for n in (38, 39)] == [p.silver_record_ms for p in trades.partitions]
    assert ([], None, 0) == (gaps.gaps, trades.gaps, first.quarantined)
    # two streams (2 LISTs, 2 reads), one more LIST; pins; partitions (3 and 2 LISTs); ends (2 each); the gaps' own
    assert second.requests <= first.requests <= 25
    text = drawn(first)
    assert re.match(rf"nothing is wrong  \d\d:\d\d:\d\d UTC, {first.requests} requests", text)
    assert 2 == text.count("60 s")


def test_planted_faults(world: World, tmp_path: Path):
    """A partition that stands still, a load that does not run, quarantine, a feed that is down, an audit: each is told."""
    world.say(41, b'{"n":"no number"}')
    world.write(world.log)
    world.load()
    for n in range(100, 140):
        world.say(n)
    Pipeline(
        source=MemorySource(log=world.log, hints={}, idle=lambda _: None),
        sink=LakeSink(store=world.store()),
        until_end=True,
    ).run()
    for n in (200, 202):
        world.say(n)  # only in the log, and for an hour nothing was stored
    world.gaps.produce(gap(2, "AAPL", None))
    world.gaps.produce(gap(3, "MSFT", None))
    world.write(world.gaps)
    audit = tmp_path / "audit.json"
    finding = {
        "kind": "gap",
        "where": "lake",
        "partition": 1,
        "start": 3,
        "end": 7,
        "evidence": "no segment",
        "advice": "restore",
    }
    audit.write_text(json.dumps({"verdict": "incomplete", "findings": [finding]}))
    stored_s = time.time()
    found = world.look(audit=audit, clock=lambda: stored_s + 3620)()
    told = [(p.level, p.where, p.what) for p in found.problems]
    assert [
        ("wrong", "feed", "alpaca is not heard since 2023-11-14T22:10:00.000000000Z (connection lost): AAPL, MSFT"),
        (
            "wrong",
            "bronze",
            "trades stands still in 1 of 2 partitions (0): 2 offsets behind the log, and nothing was stored for 60 min",
        ),
        (
            "wrong",
            "silver",
            "trades is not loaded in all of its 2 partitions: 40 offsets behind the lake, the oldest segment waits for 60 min",
        ),
        ("wrong", "audit", "gap in the lake 1 [3, 7): no segment"),
        ("look", "quarantine", "1 record broke the contract"),
    ] == told
    assert all(p.advice for p in found.problems)
    assert 1 == found.exit_code
    text = drawn(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for problem in found.problems:
        assert f"{problem.where}: " in text
    folded = " ".join(text.split())
    for problem in found.problems:
        assert " ".join(problem.what.split()) in folded
        assert f"-> {' '.join(problem.advice.split())}" in folded
    (tmp_path / "screen.txt").write_text(drawn(found, terminal=True))


def test_a_marker_is_not_waited_for(world: World):
    """A log that ends with a transaction's marker is ahead of the lake for ever, and does not stand still; a record does."""
    world.log.produce(b'{"n":1}', partition=0, fate="open")
    world.log.settle(abort=False)
    world.write(world.log)
    world.load()
    later = world.look(late_s=0.0, clock=lambda: time.time() + 3600)
    for _ in range(2):
        found = later()
        assert [1, 0] == [p.bronze_lag for p in found.streams[1].partitions]
        assert ([], 0) == (list(found.problems), found.exit_code)
    world.say(1)
    world.say(0)
    (problem,) = later().problems
    assert "trades stands still in all of its 2 partitions: 3 offsets behind the log" in problem.what


def told(identity: str, cause: str, to: str | None, revision: int, producer: str = "") -> bytes:
    """A gap record; of a producer without a name that is its run."""
    run = identity.rpartition("-")[0]
    known = {"id": identity, "revision": revision, "feed": "alpaca", "producer": producer or run, "symbol": "AAPL"}
    return json.dumps({**known, "cause": cause, "from": "2023-11-14T22:10:00.000000000Z", "to": to}).encode()


ENDED = "2023-11-14T22:11:00.000000000Z"


def begun(run: str, producer: str = "") -> list[tuple]:
    return [(f"{run}-1", "started", to, n, producer) for n, to in enumerate((None, ENDED), 1)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([("p.r1-1", "lost", None, 1, "p"), ("p.r1-1", "lost", ENDED, 2, "p")], []),
        # what came of asking for an earlier gap is told while the next one lasts, each in an object of its own
        (
            [("p.r1-1", "lost", ENDED, 2, "p"), ("p.r1-2", "away", None, 1, "p")]
            + [("p.r1-1", "lost", ENDED, revision, "p") for revision in range(3, 10)],
            ["away"],
        ),
        # killed, and begun again
        ([("p.r1-1", "lost", None, 1, "p"), ("p.r2-1", "started", ENDED, 2, "p")], []),
        ([("p.r1-1", "stopped", None, 1, "p"), ("p.r2-1", "started", None, 1, "p")], ["started"]),
        # another one with a name is no other run of it
        ([("p.r1-1", "lost, then refused", None, 2, "p"), *begun("q.r1", "q")], ["lost, then refused"]),
        # without a name: ended, and begun again; also when it has a name since then
        ([("r1-1", "stopped", None, 1), *begun("r2")], []),
        ([("r1-1", "started, then refused", None, 2), *begun("r2")], []),
        ([("r1-1", "lost, then failed", None, 2), *begun("p.r2", "p")], []),
        ([("r1-1", "stopped", None, 1), *begun("r2"), ("r2-2", "lost", None, 1)], ["lost"]),
        # two at a time: what it says behind the other one's beginning shows that it was not killed before
        ([*begun("r1"), *begun("r2"), ("r1-2", "stopped", None, 1)], ["stopped"]),
        ([("r1-1", "lost", ENDED, 2), ("r1-2", "lost", None, 1), *begun("r2"), ("r1-1", "lost", ENDED, 3)], ["lost"]),
        ([*begun("r2"), ("r1-2", "lost", None, 1), ("r2-1", "started", ENDED, 3)], ["lost"]),
    ],
)
def test_gaps_that_last(world: World, records: list[tuple], expected: list[str]):
    """A gap lasts by its own newest revision, whatever is told of others behind it, until its producer runs again."""
    for record in records:
        world.gaps.produce(told(*record))
        world.write(world.gaps)
    found = world.look()()
    assert expected == [gap.cause for gap in found.streams[0].gaps or ()]
    assert ["wrong"] * len(expected) == [p.level for p in found.problems]


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("lost", "look in the producer's log for `feed lost`: while it runs"),
        ("lost, then stopped", "its producer was ended: start"),
        ("refused", "its producer ended with code 2: mend"),
        ("started, then failed", "its producer ended with an error"),
        ("closed (1012: stop, then stopped)", "look in the producer's log for `feed lost`: while it runs"),
    ],
)
def test_what_to_do_about_a_gap(world: World, cause: str, advice: str):
    """Who has ended does not connect again by itself, and the advice is another one."""
    world.gaps.produce(told("r1-1", cause, None, 1))
    world.write(world.gaps)
    (problem,) = world.look()().problems
    assert f"alpaca is not heard since 2023-11-14T22:10:00.000000000Z ({cause}): AAPL" == problem.what
    assert problem.advice.startswith(advice)


@pytest.mark.parametrize("producer", ["", "p"])
def test_killed_or_down(world: World, producer: str):
    """Whether one without a name was killed in a gap, or still runs beside the one that began later, is asked, and no alarm."""
    for record in (("r1-1", "lost", None, 1), *begun("p.r2" if producer else "r2", producer)):
        world.gaps.produce(told(*record))
    world.write(world.gaps)
    found = world.look()()
    (problem,) = found.problems
    assert ("look", "feed", 0, []) == (problem.level, problem.where, found.exit_code, list(found.streams[0].gaps))
    assert (
        "alpaca: a producer without a name told no end of what it did not hear since 2023-11-14T22:10:00.000000000Z (lost),"
        " and another one began: AAPL" == problem.what
    )
    assert "producer=NAME" in problem.advice


def flapping(world: World, times: int) -> None:
    """One producer is down, and the gap records of its standby go by, an object each."""
    for n, record in enumerate(
        [("a.r1-1", "down", None, 1, "a")]
        + [(f"b.r1-{n}", "lost", to, i, "b") for n in range(times // 2) for i, to in enumerate((None, ENDED), 1)]
    ):
        world.gaps.produce(told(*record), timestamp_ms=1_700_000_000_000 + 1000 * n)
    world.write(world.gaps, records=1)
    assert times + 2 == len(list((world.folder / "lake" / "alpaca.gaps" / "partition=0").iterdir()))


def test_gap_records_that_go_by(world: World):
    """However many of its standby's objects lie behind it, a producer that is down is told; a later look reads what is new."""
    flapping(world, 60)
    look = world.look()
    first, second = look(), look()
    for found in (first, second):
        assert (["down"], None) == ([gap.cause for gap in found.streams[0].gaps], found.streams[0].gaps_from_ms)
        assert "not looked at" not in drawn(found)
    assert first.requests - second.requests >= 2 * 61
    world.gaps.produce(told("a.r1-1", "down", ENDED, 2, "a"))
    world.write(world.gaps)
    assert [] == look().streams[0].gaps


@pytest.mark.parametrize(
    ("bound", "read"), [({"most_segments": 20}, 20), ({"most_bytes": 1}, 1), ({"most_s": 0.0}, 64)], ids=str
)
def test_gap_records_that_are_not_looked_at(world: World, bound: dict[str, float], read: int):
    """Where more gap records are there than are read, a look says from when on they were, on the screen and in the document."""
    flapping(world, 70)
    chain = Chain.open(world.store(), "alpaca.gaps")
    found = GapRecords(**bound).read(chain, {0: chain.newest(0).end})
    from_ms = 1_700_000_000_000 + 1000 * (71 - read)
    assert ([], [], from_ms) == (found.gaps, found.doubtful, found.from_ms)
    look = world.look()
    look._gaps[chain.dataset.id] = GapRecords(**bound)
    for status in (look(), look()):
        (stream, _) = status.document()["streams"]
        assert from_ms == stream["gaps_from_ms"]
        text = f"gaps before {datetime.fromtimestamp(from_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC were not looked at: alpaca.gaps"
        assert text in " ".join(drawn(status).split())


def test_gap_records_that_cannot_be_read(world: World, tmp_path: Path):
    """What the gaps are is not known then, and the rest is shown."""
    world.gaps.produce(told("a.r1-1", "down", None, 1, "a"))
    world.write(world.gaps)
    first = min((tmp_path / "lake" / "alpaca.gaps" / "partition=0").iterdir())
    first.write_bytes(b"x" + first.read_bytes()[1:])
    look = world.look()
    found = look()
    assert [("unknown", "feed")] == [(p.level, p.where) for p in found.problems]
    assert (None, 20) == (found.streams[0].gaps, found.streams[1].partitions[0].silver_end)


def test_retention_and_another_log(world: World):
    """What retention took before it was stored is told with its range; a log of the same name that is another one, as such."""
    for n in range(200, 240):
        world.say(n)
    world.log.retain(30, 0)
    (problem,) = world.look()().problems
    assert "trades/0: retention took 10 offsets [20, 30) before they were stored" == problem.what
    world.log.recreate()
    (problem,) = world.look()().problems
    assert "another cluster or topic id" in problem.what


def test_damage(world: World, tmp_path: Path):
    """A chain whose last object is damaged is told, and the other partitions as they are."""
    last = max((tmp_path / "lake" / "trades" / "partition=0").iterdir())
    last.write_bytes(last.read_bytes()[:-5] + b"xxxxx")
    found = world.look()()
    (problem,) = found.problems
    assert ("wrong", "bronze") == (problem.level, problem.where)
    assert "headrace show file:///lake --stream trades --partition 0" == problem.advice
    assert [None, 20] == [p.bronze_end for p in found.streams[1].partitions]


def test_what_does_not_answer(world: World):
    """A log, a table or a lake that does not answer is told, and the rest is shown."""

    class Deaf(MemorySource):
        def extents(self):
            raise SourceUnavailableError("broker is away")

    class DeafLoader(DuckDBLoader):
        def positions(self, lines):
            raise SinkUnavailableError("locked")

    loader = lambda: DeafLoader(database=world.folder / "w.duckdb", target="trades", contract=Trade)  # noqa: E731 - short
    found = world.look(source=Deaf(log=world.log), warehouse=loader)()
    assert [("unknown", "log"), ("unknown", "silver")] == [(p.level, p.where) for p in found.problems]
    assert 2 == found.exit_code
    assert [20, 20] == [p.bronze_end for p in found.streams[1].partitions]


def test_unknown_stream(world: World):
    """A stream that is not there is refused, with those that are."""
    with pytest.raises(ConfigError, match=r"no stream 'quotes'; it has: alpaca\.gaps, trades"):
        world.look(stream="quotes")()


def test_rates(world: World):
    """Two looks give the growth of each place between them."""
    now = [NOW_S]
    look = world.look(clock=lambda: now[0])
    before = look()
    for n in range(100, 140):
        world.say(n)
    now[0] += 10
    assert "growing: log 4/s, bronze 0/s, silver 0/s" in drawn(look(), before)


SCHEMA = {
    "version",
    "exit_code",
    "at_s",
    "lake",
    "warehouse",
    "source",
    "streams",
    "quarantined",
    "problems",
    "requests",
}


def test_document(world: World, capsys):
    """With --json it is one document of promised fields, and in a pipe tab-separated lines without control codes."""
    lake, table = f"file://{world.folder}/lake", f"duckdb:///{world.folder}/w.duckdb?table=trades"
    code = run(["status", lake, table, "--late", "1000000h", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (0, 0) == (code, found["exit_code"])
    assert SCHEMA == set(found)
    assert {"stream", "epoch", "dataset", "partitions", "gaps", "gaps_from_ms"} == set(found["streams"][1])
    assert {
        "number", "log_low", "log_end", "bronze_end", "bronze_record_ms", "bronze_put_s", "bronze_start", "bronze_lag",
        "silver_end", "silver_record_ms", "silver_lag", "waiting_s",
    } == set(found["streams"][1]["partitions"][0])  # fmt: skip
    assert 0 == run(["status", lake, table, "--stream", "trades"])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"stream\tpartition\tlog_end\t", lines[0])
    assert ["trades\t0\t\t20", "trades\t1\t\t20"] == [line[:13].rstrip() for line in lines[1:3]]
    assert "nothing is wrong" == lines[3]
    assert "\x1b" not in "".join(lines)


def test_problems_in_a_pipe(world: World, capsys):
    """What is wrong is a line of tab-separated fields, too, as nothing else can be taken apart."""
    world.say(41, b'{"n":"no number"}')
    world.write(world.log)
    world.load()
    table = f"duckdb:///{world.folder}/w.duckdb?table=trades"
    assert 0 == run(["status", f"file://{world.folder}/lake", table, "--stream", "trades", "--late", "1000000h"])
    names, problem, verdict = capsys.readouterr().out.splitlines()[-3:]
    assert ["level", "where", "problem", "what to do"] == names.split("\t")
    assert ["look", "quarantine", "1 record broke the contract"] == problem.split("\t")[:3]
    assert "nothing is wrong, 1 look" == verdict


def test_a_log_without_a_group(world: World, capsys):
    """Kafka is asked without a group, as the help says: what does not answer is a problem, and the URI is none."""
    pytest.importorskip("confluent_kafka")
    kafka = "kafka://127.0.0.1:9/trades?request_timeout_s=0.2s"
    assert 2 == run(["status", f"file://{world.folder}/lake", "--source", kafka, "--late", "1000000h", "--json"])
    assert ["log"] == [p["where"] for p in json.loads(capsys.readouterr().out)["problems"]]


@pytest.mark.parametrize("command", ["status", "audit"])
def test_a_live_feed_is_no_log(world: World, tmp_path: Path, capsys, command: str):
    """A feed's offsets are its own and have no end: it is refused where a log is asked for, and no number is made of it."""
    pytest.importorskip("websockets")
    words = [f"file://{world.folder}/lake", "--stream", "trades", "--source", "coinbase://BTC-USD?producer=a", "--json"]
    assert 2 == run(["--metrics-file", str(tmp_path / "ended.prom"), command, *words])
    error = capsys.readouterr().err
    assert "found the source coinbase://BTC-USD?producer=a, a live feed, expected the log that it is kept in" in error
    if command == "audit":
        assert "headrace_audit" not in (tmp_path / "ended.prom").read_text()


def test_watch_redraws(world: World):
    """With --watch a terminal is drawn anew in its place; without one nothing is drawn."""
    screen = Screen(Output(as_json=False))
    with screen:
        screen.show(world.look()())
        assert screen._live is None

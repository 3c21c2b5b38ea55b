"""What a feed did not send is told, and is not wrong; what it sent and nobody has is found, though its log is gone as well."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from audit_faults import forged, without
from feed_world import LONG_AGO_NS, SECOND_NS, FeedWorld, History, Producer, healthy_feed

from headrace.auditing.feed_gaps import read_gaps
from headrace.auditing.numbers import Numbers
from headrace.auditing.run import Audit
from headrace.plugins.lake.local import FileStore
from headrace.plugins.market.json_feed import JsonFeed
from headrace.records import Record


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> FeedWorld:
    return healthy_feed(tmp_path_factory.mktemp("feed"))


def test_what_the_feed_did_not_send_is_told(world: FeedWorld):
    """Each gap with its cause and numbers, what of it came late or from the other producer; the verdict is complete."""
    result = world.audit()

    assert ([], "complete") == (list(map(str, result.findings)), result.verdict)
    assert ("coinbase.gaps", 26) == (result.gaps_of, result.counted)
    told = [(g.producer, g.cause, g.last, g.next, g.missing, g.absent, g.state) for g in result.gaps if g.next]
    assert [
        ("one", "numbers are missing", 4, 8, 2, 2, "missing"),  # 5 and 7; 6 came late
        ("one", "broken off", 10, 13, 2, 2, "missing"),
        ("two", "numbers are missing", 21, 23, 1, 0, "filled"),  # the other producer has them
        ("one", "numbers are missing", 19, 22, 2, 0, "filled"),
    ] == told
    states = [(g.producer, g.cause, g.state) for g in result.gaps if not g.next]
    assert [
        ("one", "started", "may be missing"),
        ("two", "started", "may be missing"),
        ("one", "stopped", "open"),
    ] == states
    shallow = world.audit(deep=False)
    assert (4, None) == (sum(1 for g in shallow.gaps if g.next), shallow.counted)
    assert ["missing"] * 4 == [
        g.state for g in shallow.gaps if g.next
    ]  # by the records alone nobody knows of the others


def two_producers(folder: Path, lost: frozenset[int] = frozenset()) -> FeedWorld:
    """Of one feed, and numbers that are lost behind the exchange, whoever received them."""
    made = FeedWorld(folder)
    made.lost = set(lost)
    one, two = Producer(made, "one"), Producer(made, "two")
    one.receive(1, 2, 3, 5, 6, 4, 7, 8)
    two.receive(1, 2, 3, 4, 5, 6, 7, 8)
    one.receive(11, 12, 13)
    two.receive(12, 13)
    for producer in (one, two):
        producer.publish()
    made.stream()
    return made


@pytest.mark.parametrize(
    ("lost", "evidence"),
    [
        ({7}, "no record has 7,"),
        ({2, 3}, "no record has 2 to 3,"),
        ({4}, "no record has 4,"),  # late for the one, in order for the other
        ({10}, None),  # neither got it
        (set(), None),
    ],
)
def test_what_was_received_and_is_not_there_is_found(tmp_path: Path, lost: set[int], evidence: str | None):
    """A number that some producer got is somewhere, or told; it need not be there twice."""
    result = two_producers(tmp_path, frozenset(lost)).audit()

    assert bool(evidence) == bool(result.findings)
    if evidence:
        assert all(("missing", "numbers") == (f.kind, f.where) for f in result.findings)
        assert any(evidence in f.evidence for f in result.findings), list(map(str, result.findings))
        assert "exchange's history" in result.findings[0].advice
        assert 1 == result.exit_code


def test_a_late_number_that_was_lost(tmp_path: Path):
    """By the gap record it came: then it is there, or it was lost."""
    world = FeedWorld(tmp_path)
    world.lost = {3}
    one = Producer(world, "one")
    one.receive(1, 2, 5, 3, 6)
    one.publish()
    world.stream()

    [finding] = world.audit().findings
    assert ("missing", "numbers") == (finding.kind, finding.where)
    assert "of the numbers 3 to 4 no record has 2, and by the gap record 1 are missing" in finding.evidence


def test_a_gap_record_may_be_on_its_way(tmp_path: Path):
    """Trades reach the lake before the gap between them does: for ten minutes that is a remark, then it is wrong."""
    world = FeedWorld(tmp_path)
    one = Producer(world, "one")
    one.receive(1, 2)
    world.stream(("gaps",))
    one.receive(5, 6)
    one.publish()
    world.stream(("trades",))

    soon, late = (lambda s=s: LONG_AGO_NS + (world.seconds + s) * SECOND_NS for s in (60, 3600))
    result = world.audit(now_ns=soon)
    assert "complete" == result.verdict
    assert any("2 of the newest numbers are missing" in remark for remark in result.remarks)
    assert ["missing"] == [f.kind for f in world.audit(now_ns=late).findings]
    world.stream(("gaps",))
    assert [] == world.said(now_ns=late)


@pytest.mark.parametrize(
    "number",
    [
        *("12", "12.0", "1.2e1", "-3", "1e15", "12.5", "1e16", "1e300", "9" * 22, "9" * 5_000, "true", "null", "[12]"),
        *('"12"', '"0012"', '"12.0"', '"-3"', f'"{"9" * 18}"', f'"{"9" * 19}"', '{"n":12}'),
    ],
)
def test_numbers_are_read_as_the_feed_counts_them(number: str):
    """What a feed takes for a number is one for the audit, and nothing else is: else one of them tells a loss that is none."""
    feed = JsonFeed(name="any", address="ws://x", symbols=("A",), symbol="s", sequence="n")
    value = f'{{"s":"A","n":{number}}}'.encode()
    (messages,) = feed.dialogue().hear(value).messages
    numbers = Numbers("n")
    numbers.record(0, Record(offset=0, timestamp_ms=0, key=b"A", value=value))
    found = [run.start for ranges in numbers.ranges("A").values() for run in ranges.runs]
    assert [n for n in messages.numbers if n is not None] == found


def test_a_feed_that_does_not_count(tmp_path: Path):
    """Its gaps are told by their times, and no number is looked for."""
    world = FeedWorld(tmp_path)
    one = Producer(world, "one", counts=False)
    one.receive(1, 2)
    one.lose("no answer for 20 s")
    one.publish()
    world.stream()
    result = world.audit()

    assert ("complete", None) == (result.verdict, result.counted)
    assert ["started", "no answer for 20 s"] == [g.cause for g in result.gaps]


def test_gap_records_that_cannot_be_read(tmp_path: Path):
    """Without knowing what was told nothing is complete; that nobody kept the gaps of a feed is a remark."""
    made = two_producers(tmp_path)
    path = next((tmp_path / "coinbase.gaps").glob("partition=*/*.gz"))
    body = path.read_bytes()
    path.write_bytes(body[:60] + bytes([body[60] ^ 4]) + body[61:])
    result = made.audit()
    assert "unknown" in {f.kind for f in result.findings}
    assert "--stream coinbase.gaps" in next(f for f in result.findings if f.kind == "unknown").advice

    assert "unknown" == made.audit(gaps="coinbase.gasp").verdict
    for each in (tmp_path / "coinbase.gaps").rglob("*"):
        if each.is_file():
            each.unlink()
    nothing = made.audit()
    assert ("complete", "") == (nothing.verdict, nothing.gaps_of)
    assert ["what the feed did not send: the lake has no stream coinbase.gaps"] == list(nothing.remarks)


def test_a_part_has_no_numbers(world: FeedWorld):
    """Of a part nobody can say which numbers belong into it; it says so, and tells the gaps of its time."""
    part = world.audit(since="2026-01-01T00:00:20+00:00")
    assert "complete" == part.verdict
    assert any("only in all of a stream" in remark for remark in part.remarks)
    assert 0 < len(part.gaps) < len(world.audit().gaps)


@pytest.mark.parametrize("seed", range(6))
def test_random_healthy_histories(tmp_path: Path, seed: int):
    """Restarts, kills, lost connections, late and missing numbers, two producers: no false alarm; one number lost is found."""
    healthy = History(FeedWorld(tmp_path / "healthy"), random.Random(seed)).play()
    healthy.world.stream()
    assert [] == healthy.world.said()
    if not healthy.steady:
        return
    lost = random.Random(seed).choice(healthy.steady)
    again = History(FeedWorld(tmp_path / "lost", lost={lost}), random.Random(seed)).play()
    again.world.stream()
    stored = {
        int(e.record.value.rpartition(b":")[2][:-1])
        for log in healthy.world.logs["trades"].logs.values()
        for e in log.entries
    }
    if lost in stored and {lost - 1, lost + 1} <= stored:
        assert [("missing", "numbers")] == [f[:2] for f in again.world.said()][:1]


@pytest.mark.parametrize("lost", [set(), {9}])
def test_what_was_dropped_behind_what_was_fetched_later(tmp_path: Path, lost: set[int]):
    """A number that was fetched was sent in its gap, however late it came: what was due behind it was dropped, as is told."""
    made = FeedWorld(tmp_path, lost=lost)
    one = Producer(made, "one")
    one.receive(1, 2)
    one.lose()
    one.connect()
    one.publish()
    one.receive(6, 7)
    one.drop()
    one.receive(8, 9, 10)
    one.publish()
    one.fetch("one-2", 4, 5)  # 3 the history does not have
    made.stream()
    findings = made.audit().findings
    assert len(lost) == len(findings)
    assert all(f"no record has {n}," in f.evidence for n, f in zip(lost, findings, strict=True))


def test_a_late_number_behind_an_expired_head(tmp_path: Path):
    """What was deleted on purpose is not looked for, though a number that came late is the lowest that is there."""
    made = FeedWorld(tmp_path)
    one = Producer(made, "one")
    one.receive(1, 2, 3, 5, 6, 7, 8, 9, 4, 10, 11, 12)
    one.publish()
    made.stream()
    folder = tmp_path / "coinbase.trades" / f"partition={sum(b'BTC-USD') % 2}"
    first = min(folder.iterdir())
    assert forged(without(0))(first.read_bytes())  # it holds records
    note = tmp_path / "coinbase.trades/_headrace/expired" / folder.name / f"{0:020d}-{6:020d}.json"
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    first.unlink()
    assert [] == made.said()
    assert read_gaps(Audit(store=FileStore(root=tmp_path), stream="coinbase.trades")) is not None

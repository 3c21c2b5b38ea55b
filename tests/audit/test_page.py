"""The audit's page: one file that needs no network, and that is read with eyes, by keyboard, aloud, and on paper."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from audit_faults import FAULTS, told
from audit_world import World, healthy
from feed_world import healthy_feed

from headrace.auditing.chains import Judged, Sound
from headrace.auditing.objects import Named
from headrace.auditing.page import render
from headrace.auditing.result import AuditFinding, AuditResult, PartitionAudit, Span
from headrace.auditing.spans import spans
from headrace.auditing.trailers import Said
from headrace.cli.audit import _write
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.records import Extent, Identity, Partition
from headrace.store import StoredObject

_ALONE = {"meta", "link", "br", "img", "input", "hr"}


class Elements(HTMLParser):
    """The elements of a page, each with its attributes; whatever is not closed in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert [] == self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def of(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.found if tag in tags)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AuditResult]:
    """One of each verdict."""
    folder = tmp_path_factory.mktemp("page")
    world: World = healthy(folder / "healthy")
    wrong = told(next(f for f in FAULTS if f.name == "a row is changed by one digit"), world, folder / "wrong")
    loader = DuckDBLoader(database=folder / "none.duckdb", target="ticks", contract=FAULTS[0].kept)
    return {"complete": world.audit(deep=True), "incomplete": wrong, "unknown": world.audit(loader=loader)}


@pytest.fixture(scope="module", params=["complete", "incomplete", "unknown"])
def page(request: pytest.FixtureRequest, results: dict[str, AuditResult]) -> str:
    assert request.param == results[request.param].verdict
    return render(results[request.param])


def test_it_needs_nothing_else(page: str):
    """No address, no script, no font, no picture of elsewhere; and a browser is told to fetch none."""
    assert "default-src 'none'" in page
    for word in ("http://", "https://", "<script", "src=", "url(", "@import", "<link"):
        assert word not in page.replace("http-equiv", "")


def test_it_is_read_aloud(page: str):
    """One heading of the page, none left out in between; regions and pictures have names, tables say what heads what."""
    elements = Elements(page)
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert (1, 1) == (headings[0], headings.count(1))
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    named = [a["aria-labelledby"] for _, a in elements.found if "aria-labelledby" in a]
    assert named
    assert set(named) <= set(ids)
    assert all("scope" in a for a in elements.of("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" or "x" in a for a in elements.of("svg"))
    assert [("lang", "en")] == [*next(elements.of("html")).items()]
    assert {a["href"].lstrip("#") for a in elements.of("a") if a["href"]} <= set(ids)
    assert all("tabindex" in a for a in elements.of("div") if a.get("class") == "scroll")


def test_it_is_for_phones_paper_and_the_dark(page: str):
    """It says so itself; that it looks so is seen in a browser."""
    assert 'name="viewport" content="width=device-width' in page
    for medium in ("prefers-color-scheme: dark", "max-width: 40rem", "print", "forced-colors: active"):
        assert medium in page


def test_a_finding_stands_with_its_place_and_next_step(results: dict[str, AuditResult]):
    """What an engineer does with it: where, why, what next."""
    text = render(results["incomplete"])
    [finding] = results["incomplete"].findings

    assert "Not complete: 1 finding" in text
    assert "changed in the rows <span>partition 0, offsets [8, 9)</span>" in text
    assert finding.advice.replace("'", "&#x27;") in text
    assert 'class="mark"' in text


def test_a_feeds_gaps_are_on_it(tmp_path: Path):
    """What never came stands apart from what is wrong: each gap with its numbers, its state and its cause."""
    text = render(healthy_feed(tmp_path).audit())

    Elements(text)
    assert "<h1>Complete</h1>" in text
    assert '<h2 id="gaps">Not sent by the feed</h2>' in text
    row = '<td>5 to 7</td><td>2</td><td class="text">missing</td><td class="text">numbers are missing</td>'
    assert row in text
    assert "7</dd>" in text


def test_on_paper_no_word_is_broken(page: str):
    """A number cut into two lines is another number: lines break between words, headings stay with what follows."""
    paper = page[page.index("@media print") :]
    assert "overflow-wrap: normal" in paper
    assert re.search(r"h2[^{]*\{ break-after: avoid", paper)
    assert "counter(page)" in page


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_its_colours_are_told_apart(page: str):
    """Text 4.5 to 1 and more on both grounds, states 3 to 1 on the ground, light and dark (WCAG 2.2, 1.4.3 and 1.4.11)."""
    blocks = re.findall(r":root \{([^}]*)\}", page)
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0]))
    dark = {**light, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[1]))}
    for theme in (light, dark):
        for text in ("ink", "quiet", "accent", "good", "bad", "unsure"):
            assert all(_contrast(theme[text], theme[ground]) >= 4.5 for ground in ("paper", "card")), text
        for state in ("loaded", "lake", "missing", "quarantined"):
            assert _contrast(theme[state], theme["paper"]) >= 2.9, state


def test_names_are_shown_and_do_nothing():
    """Whatever stands in a name, a pin or a message is text."""
    bad = '<script>alert("1")</script>'
    finding = AuditFinding("gap", "lake", 0, 0, 1, bad, bad)
    result = AuditResult(bad, bad, pin={"format": bad}, findings=[finding], remarks=[bad], source=bad, warehouse=bad)
    result = attrs.evolve(result, partitions=[PartitionAudit(0, spans=[Span("missing", 0, 1)], digest=bad)])

    assert "<script" not in render(result)
    Elements(render(result))


def test_a_long_chain_is_a_short_picture():
    """A hundred thousand segments are drawn as a few ranges, and what is wrong among them is still there."""

    def judged(count: int) -> Judged:
        def link(n: int) -> Sound:
            said = Said("d", "s", 0, n * 10, n * 10 + 10, n * 10, 10, 0, 0, "", "", 1024)
            return Sound(Named(StoredObject("k", 1), n * 10, "jsonl.gz"), said)

        links = tuple(link(n) for n in range(count) if n != 500)
        return Judged(0, 0, count * 10, True, links, ((5000, 5010),), (), None, {})

    extent = Extent(0, 20_010, 20_010, Identity("c", "t", "read_committed", 1))
    found = spans(judged(2000), extent, None, Partition("s", 0))
    assert [
        ("in the lake", 0, 5000),
        ("missing", 5000, 5010),
        ("in the lake", 5010, 20_000),
        ("in the log", 20_000, 20_010),
    ] == [(s.state, s.start, s.end) for s in found]


def test_the_option(results: dict[str, AuditResult], tmp_path: Path):
    """`--html FILE` writes it."""
    _write(tmp_path / "audit.html", results["complete"])
    assert "<h1>Complete</h1>" in (tmp_path / "audit.html").read_text(encoding="utf-8")

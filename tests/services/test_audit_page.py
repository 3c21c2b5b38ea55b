"""The audit's page in a real browser: it fetches nothing, and is read in the dark, on a phone, on paper, by keyboard, aloud."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from headrace.auditing.page import render
from headrace.testing.servers.cache import ServerMissing
from headrace.testing.servers.chromium import Chromium, Page

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))

from audit_faults import FAULTS, told
from audit_world import healthy

pytestmark = pytest.mark.services

PHONE = {"width": 360, "height": 740}
DARK = {"prefers-color-scheme": "dark"}

CONTRASTS = """
(() => {
  const seen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => { seen.clearRect(0, 0, 1, 1); seen.fillStyle = colour; seen.fillRect(0, 0, 1, 1);
    return seen.getImageData(0, 0, 1, 1).data; };
  const light = colour => { const [r, g, b] = [...rgba(colour)].slice(0, 3).map(c => c / 255)
    .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = element => { for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor; if (rgba(colour)[3] > 0) return colour; } return "white"; };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || element.closest(".unseen, svg, .skip")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""


FOCUSED = """
(() => { const e = document.activeElement;
  return [[...document.querySelectorAll("*")].indexOf(e), getComputedStyle(e).outlineStyle, e.getBoundingClientRect().left >= 0,
    e.matches('a[href], [tabindex="0"]')];
})()
"""

ACTED_UPON = "document.querySelectorAll('a[href], [tabindex=\"0\"]').length"


@attrs.frozen
class Pages:
    """A report with a finding, in a browser."""

    browser: Chromium
    address: str

    def open(self, **how):
        return self.browser.page(self.address, **how)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("page")
    fault = next(f for f in FAULTS if f.name == "a row is changed by one digit")
    (folder / "audit.html").write_text(
        render(told(fault, healthy(folder / "healthy"), folder / "wrong")), encoding="utf-8"
    )
    try:
        with Chromium(folder=folder / "chromium") as browser:
            yield Pages(browser, f"file://{folder}/audit.html")
    except ServerMissing as exc:
        pytest.skip(str(exc))


def fetched(page: Page) -> list[str]:
    return [about["request"]["url"] for name, about in page.events if name == "Network.requestWillBeSent"]


def complaints(page: Page) -> list[object]:
    return [about for name, about in page.events if name in ("Runtime.exceptionThrown", "Log.entryAdded")]


def opened(pages: Pages, folder: Path, body: str):
    (folder / "other.html").write_text(f"<!doctype html><html lang='en'><title>other</title>{body}", encoding="utf-8")
    return pages.browser.page(f"file://{folder}/other.html")


def by_keyboard(page: Page) -> list[str]:
    """Press Tab once for each thing that can be acted upon; say what is wrong with the way that is gone."""
    places = []
    for _ in range(page.evaluate(ACTED_UPON)):
        page.press("Tab", 9)
        places.append(page.evaluate(FOCUSED))
    order = [place for place, *_ in places]
    wrong = []
    if len(set(order)) < len(order) or not all(can for *_, can in places):
        wrong.append("not reached")
    elif order != sorted(order):
        wrong.append("out of order")
    if not all(outline != "none" and inside for _, outline, inside, can in places if can):
        wrong.append("not seen")
    return wrong


def aloud(page: Page) -> list[tuple[str, str]]:
    """What a screen reader is given: roles and names."""
    nodes = [n for n in page.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
    found = [(n["role"]["value"], n.get("name", {}).get("value", "").strip()) for n in nodes if "role" in n]
    return [({"img": "image"}.get(role, role), name) for role, name in found]


def nameless(found: list[tuple[str, str]]) -> list[str]:
    """Roles that somebody must be told the name of, and is not."""
    return [role for role, name in found if role in ("heading", "region", "image", "link") and not name]


def test_it_fetches_nothing(pages: Pages):
    """The file itself is all that is asked for, and the browser has nothing to complain of."""
    with pages.open() as page:
        assert "Not complete: 1 finding" == page.evaluate("document.querySelector('h1').textContent")
        assert [pages.address] == fetched(page)
        assert [] == complaints(page)


def test_a_page_that_fetches_is_noticed(pages: Pages, tmp_path: Path):
    """The negative control: with a picture of elsewhere, grey text and a wide table the same looks find something."""
    head = "<!doctype html><meta name='viewport' content='width=device-width'><title>bad</title>"
    body = "<p style='color: #aaa'><b>grey</b></p><img src='missing.png' width='900' height='9'>"
    (tmp_path / "bad.html").write_text(head + body, encoding="utf-8")
    with pages.browser.page(f"file://{tmp_path}/bad.html", **PHONE) as page:
        assert len(fetched(page)) > 1
        assert complaints(page)
        assert page.evaluate(CONTRASTS)
        assert page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]
        assert (
            page.evaluate("document.querySelector('b').getBoundingClientRect().width") > 20
        )  # there is a font to measure


@pytest.mark.parametrize("media", [{}, DARK], ids=["light", "dark"])
def test_it_can_be_read(pages: Pages, media: dict[str, str]):
    """Text stands out from what is behind it, 4.5 to 1 and more, as the browser computed both; the dark one is dark."""
    with pages.open(media=media) as page:
        assert [] == page.evaluate(CONTRASTS)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ("rgb(15, 19, 24)" if media else "rgb(255, 255, 255)") == ground


def test_it_fits_a_phone(pages: Pages):
    """Nothing is wider than the window; what must be wide, its tables, scrolls on its own."""
    with pages.open(**PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert (
            page.evaluate("Math.max(...[...document.querySelectorAll('.scroll')].map(e => e.clientWidth))")
            <= PHONE["width"]
        )
        assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize) >= 16")


def test_it_is_printed(pages: Pages):
    """On paper it is light even where the screen is dark, nothing is cut off, and every section is there."""
    with pages.open(media={**DARK, "medium": "print"}, width=720, height=1000) as page:
        assert page.evaluate("[...document.querySelectorAll('.scroll')].every(e => e.scrollWidth <= e.clientWidth + 1)")
        hidden = "[...document.querySelectorAll('section, section *')].filter(e => getComputedStyle(e).display === 'none').length"
        assert 0 == page.evaluate(hidden)
        assert "rgb(255, 255, 255)" == page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert [] == page.evaluate(CONTRASTS)
        assert page.call("Page.printToPDF")["data"]


def test_it_goes_by_keyboard(pages: Pages):
    """Tab goes through all that can be acted upon, in the order of the page, and where one is can be seen."""
    with pages.open() as page:
        assert page.evaluate(ACTED_UPON) > 1
        assert [] == by_keyboard(page)


def test_it_is_read_aloud(pages: Pages):
    """What a screen reader is given: the heading, regions, pictures and tables, each with a name."""
    with pages.open() as page:
        found = aloud(page)
    roles = {role for role, _ in found}
    assert {"heading", "region", "table", "columnheader", "rowheader", "image", "link", "main"} <= roles
    assert ("heading", "Not complete: 1 finding") in found
    assert [] == nameless(found)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("<a href='#a'>one</a><a href='#b'>two</a>", []),
        ("<a href='#a'>one</a><a href='#b' tabindex='1'>two</a>", ["out of order"]),
        ("<a href='#a'>one</a><a href='#b' tabindex='-1'>two</a>", ["not reached"]),
        ("<style>a:focus { outline: none }</style><a href='#a'>one</a><a href='#b'>two</a>", ["not seen"]),
        ("<a href='#a'>one</a><a href='#b' style='position: absolute; left: -999px'>two</a>", ["not seen"]),
    ],
)
def test_a_page_that_does_not_go_by_keyboard_is_noticed(pages: Pages, tmp_path: Path, body: str, wrong: list[str]):
    """The negative control: another order, a link that is passed over, and one of which nobody sees that he is on it."""
    with opened(pages, tmp_path, body) as page:
        assert wrong == by_keyboard(page)


def test_a_page_that_is_not_read_aloud_is_noticed(pages: Pages, tmp_path: Path):
    """The negative control: a picture, a link and a region without a name, and a table that is none to a screen reader."""
    body = "<h1>Title</h1><img src='data:,' width=9 height=9><a href='#a'></a><section aria-label=' '>x</section>"
    table = "<table role='presentation'><tr><td>1</td></tr></table>"
    with opened(pages, tmp_path, body + table) as page:
        found = aloud(page)
    assert {"image", "link"} == set(nameless(found))
    assert not {"table", "rowheader", "columnheader", "main", "region"} & {role for role, _ in found}

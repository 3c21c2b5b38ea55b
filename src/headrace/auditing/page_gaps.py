"""The part of the audit's page about what a feed did not send."""

from __future__ import annotations

from html import escape

from headrace.auditing.result import AuditResult, FeedGap

_SHOWN = 500
_HEADS = ("symbol", "from", "to", "numbers", "missing", "state", "cause", "producer")
_TEXT = ("symbol", "state", "cause", "producer")
_ABOUT = (
    "By the receivers' own records: these messages never came, so nothing here lost them, and the stream is complete without."
    " Two producers of one feed have gaps of their own."
)


def not_sent(result: AuditResult) -> str:
    """Return the section; "" where this is no feed's stream."""
    if not result.gaps_of:
        return ""
    return (
        '<section aria-labelledby="gaps"><h2 id="gaps">Not sent by the feed</h2>'
        f'<p class="quiet">{_ABOUT}</p>{_table(result)}</section>'
    )


def _table(result: AuditResult) -> str:
    if not result.gaps:
        return "<p>No gap was recorded.</p>"
    heads = "".join(f'<th scope="col"{_class(name)}>{name}</th>' for name in _HEADS)
    rows = "".join(map(_row, result.gaps[:_SHOWN]))
    more = len(result.gaps) - _SHOWN
    rest = f"<p>{more:,} more are in the JSON (<code>--json</code>).</p>" if more > 0 else ""
    return (
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="gaps"><table class="gaps">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{rest}"
    )


def _row(gap: FeedGap) -> str:
    numbers = gap.numbers or "not counted"
    missing = gap.missing if gap.absent is None else gap.absent
    cells = {
        "from": _moment(gap.began) or "its start",
        "to": _moment(gap.ended) or "no end",
        "numbers": numbers,
        "missing": "not known" if missing is None else f"{missing:,}",
        "state": gap.state,
        "cause": f"{gap.cause}; history: {gap.history}" if gap.history else gap.cause,
        "producer": gap.producer,
    }
    told = "".join(f"<td{_class(name)}>{escape(cell)}</td>" for name, cell in cells.items())
    return f'<tr><th scope="row">{escape(gap.symbol)}</th>{told}</tr>'


def _class(name: str) -> str:
    return ' class="text"' if name in _TEXT else ""


def _moment(text: str | None) -> str:
    """To the millisecond: the JSON has all of it."""
    return "" if text is None else text.removesuffix("Z")[:23].replace("T", " ")

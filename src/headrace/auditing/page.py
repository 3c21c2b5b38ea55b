"""The audit's page: one HTML file that needs nothing else, for people with and without a screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from importlib.resources import files
from string import Template

from headrace.auditing.page_gaps import not_sent
from headrace.auditing.result import AuditFinding, AuditResult, PartitionAudit, Span, State
from headrace.units import format_bytes

_WIDTH = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORDS: dict[State | str, str] = {
    "loaded": "loaded",
    "quarantined": "of it in quarantine, as a share of the height",
    "in the lake": "in the lake, not loaded yet",
    "in the log": "in the log, not stored yet",
    "expired": "expired on purpose",
    "missing": "missing, or damaged",
}
_MARKS = {name: name.replace(" ", "-") for name in _WORDS}
_VERDICTS = {
    "complete": "Complete",
    "incomplete": "Not complete",
    "unknown": "Could not be told",
}
_SHOWN = 500
"""So many findings are on the page; the JSON has all of them."""


def render(result: AuditResult) -> str:
    """Return the page's HTML."""
    template = Template(files("headrace.auditing").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Audit of {result.stream}: {_VERDICTS[result.verdict].lower()}"),
        verdict=result.verdict,
        headline=escape(_headline(result)),
        stream=escape(result.stream),
        meaning=escape(_meaning(result)),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _facts(result)),
        legend=_legend(result),
        coverage="".join(_coverage(result, p) for p in result.partitions) or "<p>No partition was seen.</p>",
        findings=_findings(result),
        gaps=not_sent(result),
        counts="".join(map(_count_row, result.partitions)),
        holes=_holes(result.partitions),
        about="".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in _about(result)),
        digests="".join(_digest_row(p) for p in result.partitions if p.digest),
        remarks=_remarks(result.remarks),
    )


def _headline(result: AuditResult) -> str:
    count = sum(1 for f in result.findings if (f.kind == "unknown") == (result.verdict == "unknown"))
    many = f"{count:,} finding{'' if count == 1 else 's'}"
    return _VERDICTS[result.verdict] + ("" if result.verdict == "complete" else f": {many}")


def _meaning(result: AuditResult) -> str:
    looked = "lines, bytes and rows" if result.deep else "names, trailers and counts"
    if result.verdict == "complete":
        return (
            f"Nothing is wrong with what was looked at: {looked}. What is on its way is behind, and that is not wrong."
        )
    if result.verdict == "incomplete":
        return f"Something is not as it was written. Looked at were {looked}; each finding below says where, and what to do."
    return "Something did not answer, or its evidence is gone. Until it is asked again nobody should rely on it."


def _facts(result: AuditResult) -> Iterable[tuple[str, str]]:
    parts = result.partitions
    if not parts:
        return
    yield "records in the lake", f"{sum(p.records for p in parts):,}"
    yield "segments", f"{sum(p.segments for p in parts):,}"
    yield "size of the lake", format_bytes(sum(p.nbytes for p in parts))
    if result.warehouse:
        yield "rows", f"{sum(p.rows or 0 for p in parts):,}"
        yield "in quarantine", f"{sum(p.quarantined or 0 for p in parts):,}"
    if any(p.compared is not None for p in parts):
        yield "compared with the log", f"{sum(p.compared or 0 for p in parts):,}"
    if result.gaps_of:
        yield "gaps of the feed", f"{len(result.gaps):,}"
    yield "offsets behind", f"{sum((p.behind_log or 0) + (p.behind_lake or 0) for p in parts):,}"


# ---- the picture ----------------------------------------------------------------------------------------------------


def _legend(result: AuditResult) -> str:
    there: set[str] = {span.state for p in result.partitions for span in p.spans}
    there |= {"quarantined"} if any(span.quarantined for p in result.partitions for span in p.spans) else set()
    svg = '<li><svg class="swatch" viewBox="0 0 20 14" aria-hidden="true">'
    marks = f'{svg}<path d="M4 13l6 -10l6 10z" class="mark"/></svg>a finding</li>'
    low = f'{svg}<path d="M10 0v14" class="low"/></svg>the log begins</li>'
    more = marks * any(f.partition is not None for f in result.findings) + low * any(p.low for p in result.partitions)
    return more + "".join(
        f'<li><svg class="swatch" viewBox="0 0 20 14" aria-hidden="true"><rect width="20" height="14" class="{_MARKS[name]}"/>'
        f"</svg>{escape(words)}</li>"
        for name, words in _WORDS.items()
        if name in there
    )


def _coverage(result: AuditResult, p: PartitionAudit) -> str:
    last = max([p.chain_end, p.log_end or 0, p.ledger_end or 0, *(span.end for span in p.spans), 1])
    scale = _WIDTH / last
    blocks = "".join(_block(span, scale) for span in p.spans if span.end > span.start)
    low = (
        f'<path d="M{p.low * scale:.2f} 0v34" class="low"><title>the log begins at {p.low:,}</title></path>'
        if p.low
        else ""
    )
    found = [f for f in result.findings[:_SHOWN] if f.partition == p.number]
    return (
        f"<figure><figcaption><b>partition {p.number}</b> <span>{escape(_line(p, len(found)))}</span></figcaption>"
        f'<svg class="bar" viewBox="0 0 {_WIDTH} 34" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(_told(result.stream, p))}">'
        f'<rect width="{_WIDTH}" height="26" y="4" class="nothing"/>{blocks}{low}</svg>'
        f"{_marks(found, last) if found else ''}"
        f'<div class="ends" aria-hidden="true"><span>0</span><span>{_times(p)}</span><span>{last:,}</span></div></figure>'
    )


def _block(span: Span, scale: float) -> str:
    least = 4.0 if span.state == "missing" else 1.0  # what is wrong is seen, however short it is
    width = max(least, (span.end - span.start) * scale - 0.6)
    about = f"[{span.start:,}, {span.end:,}): {_WORDS.get(span.state, span.state)}"
    about += f", {span.records:,} records" if span.records else ""
    about += f", {span.quarantined:,} of them in quarantine" if span.quarantined else ""
    place = f'x="{span.start * scale:.2f}" width="{width:.2f}"'
    block = f'<rect {place} y="4" height="26" class="{_MARKS.get(span.state, span.state)}"/>'
    if span.quarantined:
        height = max(3.0, 26 * min(1.0, span.quarantined / max(1, span.records)))
        block += f'<rect {place} y="{30 - height:.2f}" height="{height:.2f}" class="quarantined"/>'
    return f"<g><title>{escape(about)}</title>{block}</g>"


def _marks(found: Sequence[AuditFinding], last: int) -> str:
    """A mark under the picture for each finding: one row may be wrong in a million."""
    marks = "".join(
        f'<svg x="{100 * min(1.0, (f.start + f.end) / 2 / last):.2f}%" overflow="visible"><path d="M-5 9l5 -9l5 9z" class="mark">'
        f"<title>{escape(f.kind)} in the {escape(f.where)}, [{f.start:,}, {f.end:,})</title></path></svg>"
        for f in found
    )
    return f'<svg class="marks" aria-hidden="true">{marks}</svg>'


def _line(p: PartitionAudit, findings: int) -> str:
    parts = [f"{_several(p.records, 'record')} in {_several(p.segments, 'segment')}"]
    parts += [_several(findings, "finding")] if findings else []
    missing = sum(span.end - span.start for span in p.spans if span.state == "missing")
    parts += [f"{_several(missing, 'offset')} missing or damaged"] if missing else []
    parts += [f"{p.behind_log:,} behind the log"] if p.behind_log else []
    parts += [f"{p.behind_lake:,} not loaded yet"] if p.behind_lake else []
    return ", ".join(parts)


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _told(stream: str, p: PartitionAudit) -> str:
    """The picture in words, for who cannot see it: how many offsets are in which state, and where what is missing is."""
    sums: dict[State, int] = {}
    for span in p.spans:
        sums[span.state] = sums.get(span.state, 0) + span.end - span.start
    parts = [f"{_several(count, 'offset')} {_WORDS.get(state, state)}" for state, count in sums.items()]
    refused = sum(span.quarantined for span in p.spans)
    parts += [f"{_several(refused, 'record')} in quarantine"] if refused else []
    missing = [f"[{s.start:,}, {s.end:,})" for s in p.spans if s.state == "missing"][:5]
    parts += [f"missing or damaged: {', '.join(missing)}"] if missing else []
    return f"{stream}, partition {p.number}: {'; '.join(parts) or 'nothing is there'}"


def _times(p: PartitionAudit) -> str:
    if p.min_ms is None or p.max_ms is None or p.min_ms < 0:
        return ""
    return f"{_time(p.min_ms)} to {_time(p.max_ms)}"


def _time(ms: int) -> str:
    return f"{(_EPOCH + timedelta(milliseconds=ms)).replace(tzinfo=None).isoformat(' ', 'seconds')} UTC"


# ---- tables ---------------------------------------------------------------------------------------------------------


def _findings(result: AuditResult) -> str:
    if not result.findings:
        return "<p>None.</p>"
    rows = "".join(map(_finding, result.findings[:_SHOWN]))
    more = len(result.findings) - _SHOWN
    rest = f"<p>{more:,} more are in the JSON (<code>--json</code>).</p>" if more > 0 else ""
    return f'<ol class="findings">{rows}</ol>{rest}'


def _finding(f: AuditFinding) -> str:
    place = "the whole stream" if f.partition is None else f"partition {f.partition}, offsets [{f.start:,}, {f.end:,})"
    return (
        f'<li class="{"unsure" if f.kind == "unknown" else "wrong"}"><h3>{escape(f.kind)} in the {escape(f.where)}'
        f" <span>{escape(place)}</span></h3><p>{escape(f.evidence)}</p><p><b>What to do:</b> {escape(f.advice)}</p></li>"
    )


def _count_row(p: PartitionAudit) -> str:
    log = None if p.low is None else f"[{p.low:,}, {p.log_end:,})"
    cells: list[object] = [log, f"[{p.chain_start:,}, {p.chain_end:,})", p.ledger_end, p.segments, p.records]
    cells += [p.rows, p.quarantined, p.superseded, p.compared, p.behind_log, p.behind_lake]
    return f'<tr><th scope="row">{p.number}</th>{"".join(map(_cell, cells))}</tr>'


def _cell(value: object) -> str:
    if value is None:
        return '<td class="none"><span aria-hidden="true">-</span><span class="unseen">not asked</span></td>'
    return f"<td>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(str(value))}</td>"


def _holes(partitions: Sequence[PartitionAudit]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{p.number}</th><td class="text">{escape(what)}</td><td>{count:,}</td></tr>'
        for p in partitions
        for what, count in sorted(p.holes.items())
    )
    return rows or '<tr><td colspan="3" class="text">None that was seen.</td></tr>'


def _digest_row(p: PartitionAudit) -> str:
    return f'<tr><th scope="row">{p.number}</th><td class="text"><code>{escape(p.digest)}</code></td></tr>'


def _about(result: AuditResult) -> Iterable[tuple[str, str]]:
    yield "lake", result.lake
    yield "stream", result.stream + (f", epoch {result.epoch}" if result.epoch else "")
    yield "dataset", result.dataset_id or "not pinned"
    yield "pin", ", ".join(f"{name} {value}" for name, value in result.pin.items() if value is not None)
    yield "source", result.source or "none was given"
    yield "warehouse", result.warehouse or "none was given"
    if result.gaps_of:
        numbers = "" if result.counted is None else f", {result.counted:,} numbers held against it"
        yield "gap records", f"stream {result.gaps_of}{numbers}"
    yield "looked at", "every line, byte and row (deep)" if result.deep else "names, trailers and counts"
    yield "part", result.scope or "all of it"
    yield "began", result.began_at or "not at all"
    yield "took", f"{result.elapsed_s:,.1f} s"
    yield "versions", ", ".join(f"{name} {value}" for name, value in result.versions.items())


def _remarks(remarks: Sequence[str]) -> str:
    if not remarks:
        return ""
    items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    return f'<section aria-labelledby="unseen"><h2 id="unseen">Not looked at</h2><ul>{items}</ul></section>'

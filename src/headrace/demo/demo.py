"""The whole path on real market data: feed, Kafka, bronze, silver; killed on the way, counted at the end."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import attrs

from headrace.chain import Chain
from headrace.demo.check import Count, count_partitions, differences, silver_differences, total
from headrace.demo.contracts import Bar, Trade
from headrace.demo.feed import Feed, write_feeds
from headrace.demo.page import Page, render
from headrace.demo.place import Shown, broker, made_folder, our_command
from headrace.demo.streaming import Kill, stream_to_bronze
from headrace.errors import HeadraceError
from headrace.flush import FlushPolicy
from headrace.load import Load
from headrace.pipeline import Pipeline
from headrace.registry import Registry
from headrace.segment import Segment

_COLUMNS = ("stream", "partition", "published", "bronze", "silver", "quarantine", "segments", "exactly once")
_CONTRACTS = {"bars": Bar, "trades": Trade}
_SEGMENT_RECORDS = {"bars": 400, "trades": 4000}
_KILLS_AT: Mapping[str, list[int]] = {"bars": [], "trades": [4, 12, 20]}


@attrs.frozen
class Demo:
    """One run of the demo, in its folder."""

    folder: Path
    bootstrap: str
    topic_id: str
    suffix: str
    output: Shown
    registry: Registry = attrs.field(factory=Registry.discover)

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def warehouse(self) -> Path:
        return self.folder / "silver.duckdb"

    def topic(self, feed: Feed) -> str:
        """A real broker gets topics of this run alone."""
        return f"{feed.stream}{self.suffix}"

    def publish(self, feeds: Sequence[Feed]) -> None:
        """Publish the feeds through headrace itself: a file as the source, Kafka as the sink."""
        for feed in feeds:
            source = self.registry.source(f"jsonl://{feed.path}?key=symbol&timestamp=time&stream={feed.stream}")
            partitions = 4 if self.suffix else 0  # the embedded broker makes them itself
            made = f"create_partitions={partitions}&create_settings=retention.ms=-1"  # the records are years old
            options = f"compression.type=zstd&partitioner=consistent_random&{made}"
            sink = self.registry.sink(f"kafka://{self.bootstrap}/{self.topic(feed)}?{options}")
            Pipeline(source=source, sink=sink, until_end=True, flush=FlushPolicy(records=20_000)).run()

    def held(self, feed: Feed) -> dict[int, int]:
        """How many records the broker holds of each partition; all of them from 0, or nothing may be claimed."""
        source = self.registry.source(self.source(feed, "count"))
        extents = source.extents()
        if any(extent.low for extent in extents.values()):
            raise HeadraceError(
                f"the broker dropped records of {self.topic(feed)} before they were read; nothing can be shown"
            )
        return {partition.number: extent.high for partition, extent in extents.items()}

    def source(self, feed: Feed, group: str) -> str:
        """The URI that the feed is read from."""
        return f"kafka://{self.bootstrap}/{self.topic(feed)}?group=demo-{group}&topic_id={self.topic_id}"

    def stream(self, feed: Feed) -> list[Kill]:
        """Stream one topic to bronze, killed on the way."""
        segments = feed.records // _SEGMENT_RECORDS[feed.stream] + 1
        with _bar(self.output, f"streaming {feed.stream}", segments) as watch:
            return stream_to_bronze(
                self.source(feed, "{run}"),
                self.lake,
                self.topic(feed),
                kill_at=_KILLS_AT[feed.stream],
                flush_records=_SEGMENT_RECORDS[feed.stream],
                watch=watch,
            )

    def chain(self, feed: Feed) -> Chain:
        return Chain.open(self.registry.store(f"file://{self.lake}"), self.topic(feed))

    def load(self, feed: Feed) -> None:
        """Load one topic's segments into its table."""
        target = f"duckdb://{self.warehouse}?table={feed.stream}"
        Load(chain=self.chain(feed), loader=self.registry.loader(target, _CONTRACTS[feed.stream])).run()


def run(*, folder: Path | None, kafka: str, output: Shown) -> int:
    """
    Run the demo; 0 where it can show that each record arrived exactly once, 1 where it cannot.

    Args:
        folder: Where to leave the lake, the warehouse and the page: a new or empty one, or one of an earlier demo.

        kafka: ``host:port`` of a real broker; "" for the embedded one.

        output: Where it says what it does.
    """
    began_s = time.monotonic()
    place = made_folder(folder)
    with broker(kafka) as bootstrap:
        suffix = f"-{secrets.token_hex(4)}" if kafka else ""
        demo = Demo(place, bootstrap, "on" if kafka else "off", suffix, output)
        feeds = write_feeds(place / "feed")
        output.line(
            f"feed     {sum(f.records for f in feeds):,} real records, {sum(f.poison for f in feeds)} of them spoilt on purpose"
        )
        demo.publish(feeds)
        published = {feed.stream: demo.held(feed) for feed in feeds}
        output.line(
            f"kafka    published to {bootstrap} ({'a real broker' if kafka else 'embedded: no server, no JVM'})"
        )
        kills = [kill for feed in feeds for kill in demo.stream(feed)]
        for kill in kills:
            output.line(
                f"bronze   process {kill.pid} killed with SIGKILL at {kill.segments} segments, and started again"
            )
    for feed in feeds:
        demo.load(feed)
    output.line("silver   loaded: rows, quarantine and ledger in one transaction each time")
    return _tell(demo, feeds, published, kills, began_s)


def _tell(
    demo: Demo, feeds: Sequence[Feed], published: Mapping[str, dict[int, int]], kills: Sequence[Kill], began_s: float
) -> int:
    output = demo.output
    counts: list[Count] = []
    problems = _problems_of_kills(kills)
    for feed in feeds:
        found = count_partitions(demo.lake, demo.warehouse, feed, demo.topic(feed), published[feed.stream])
        counts += [*found, total(found, feed)]
        wrong = differences(demo.lake, feed, demo.topic(feed))
        problems += [f"{feed.stream}: {wrong} records differ from those that were published"] if wrong else []
        wrong = silver_differences(demo.lake, demo.warehouse, feed, demo.topic(feed))
        problems += [f"{feed.stream}: {wrong} records differ between bronze and silver"] if wrong else []
    problems += [
        f"{c.stream}{'' if c.partition is None else f'/{c.partition}'}: published {c.published}, bronze {c.bronze}"
        f" ({c.distinct} distinct), silver {c.silver} + quarantine {c.quarantine}"
        for c in counts
        if not c.exact
    ]
    chains = {feed.stream: _segments(demo, feed) for feed in feeds}
    page = demo.folder / "report.html"
    page.write_text(
        render(Page(counts, chains, list(kills), problems, demo.warehouse, _versions(), time.monotonic() - began_s)),
        encoding="utf-8",
    )
    output.line()
    output.table("", _COLUMNS, [_row(c) for c in counts], ["bold" if c.partition is None else None for c in counts])
    output.line()
    for problem in problems:
        output.line(f"NOT SHOWN: {problem}", style="bold red")
    if not problems:
        output.line(
            f"Every record once, after {len(kills)} kill{'' if len(kills) == 1 else 's'}, in {time.monotonic() - began_s:.1f} s.",
            style="bold green",
        )
    fullest = max((c for c in counts if c.partition is not None), key=lambda c: c.bronze)
    _next(demo, page, next(f for f in feeds if f.stream == fullest.stream), fullest.partition or 0)
    output.document(
        {
            "exactly_once": not problems,
            "problems": problems,
            "counts": [{**attrs.asdict(c), "exact": c.exact} for c in counts],
            "kills": [attrs.asdict(k) for k in kills],
            "folder": str(demo.folder),
            "report": str(page),
            "elapsed_s": round(time.monotonic() - began_s, 2),
        }
    )
    return 1 if problems else 0


def _row(count: Count) -> tuple[object, ...]:
    where = "all" if count.partition is None else count.partition
    counted = (count.published, count.bronze, count.silver, count.quarantine, count.segments)
    return count.stream, where, *counted, "yes" if count.exact else "NO"


def _problems_of_kills(kills: Sequence[Kill]) -> list[str]:
    return [] if kills else ["no kill hit a process at work: nothing is shown of what a crash does"]


def _segments(demo: Demo, feed: Feed) -> dict[int, list[Segment]]:
    chain = demo.chain(feed)
    return {number: list(chain.walk(number)) for number in chain.partitions()}


def _next(demo: Demo, page: Path, feed: Feed, partition: int) -> None:
    ours = our_command()
    chain = f"file://{demo.lake} --stream {demo.topic(feed)} --partition {partition}"
    query = "SELECT _partition, _offset, reason, line FROM trades_quarantine"
    lines = [
        f"All of it is in {demo.folder}. Look at it:",
        f"  {page}",
        f"  {ours} show file://{demo.lake}",
        f"  {ours} show {chain}",
        f"  {ours} show {chain} --offset 0",
        f"  {sys.executable} -c \"import duckdb; duckdb.connect('{demo.warehouse}').sql('{query}').show()\"",
    ]
    for line in lines:
        demo.output.line(line, whole=True)


def _versions() -> dict[str, str]:
    names = ("headrace", "confluent-kafka", "duckdb", "msgspec")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


@contextmanager
def _bar(output: Shown, what: str, count: int) -> Iterator[Callable[[int], None]]:
    if not output.drawn:
        with nullcontext():
            yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - of the command line's extra
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=count)
        yield lambda now: bars.update(task, completed=now)

"""``headrace demo --live``: from an exchange to silver, with an outage on the way, and every number accounted for."""

from __future__ import annotations

import gzip
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import attrs

from headrace import audit
from headrace.auditing.page import render
from headrace.auditing.result import AuditResult
from headrace.chain import Chain
from headrace.demo.account import Account, accounts
from headrace.demo.place import Shown, broker, failed, made_folder, our_command, started
from headrace.demo.tape import PRODUCTS, UNKEPT, Market, Tape
from headrace.errors import SinkUnavailableError
from headrace.load import Load
from headrace.plugins.market import CoinbaseTrade, Gap
from headrace.registry import Registry

_EACH_S = 200
_TRADES_S = 1.5
_AWAY_S = 0.8
_END_S = 60.0
_TICK_S = 0.02
_CONTRACTS: dict[str, type] = {"trades": CoinbaseTrade, "gaps": Gap}
_COLUMNS = (
    "product",
    "sent",
    "bronze",
    "from history",
    "silver",
    "quarantine",
    "missing",
    "in gap records",
    "accounted for",
)


@attrs.frozen
class LiveDemo:
    """One run, in its folder."""

    folder: Path
    bootstrap: str
    feed: str
    topic_id: str
    registry: Registry = attrs.field(factory=Registry.discover)

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    def warehouse(self, kind: str) -> str:
        return f"duckdb://{self.folder / 'silver.duckdb'}?table={kind}"

    def stream(self, kind: str) -> str:
        return f"{self.feed}.{kind}"

    def follow(self, exchange: Market, kafka: str) -> Sequence[str]:
        """What brings the exchange into Kafka."""
        waits = "reconnect_first_s=0.2&reconnect_most_s=0.3"  # longer ones are for real exchanges
        addresses = f"address={exchange.address}&history_address={exchange.history_address}"
        history = "backfill_after_s=0.3&backfill_reach_s=0"
        settings = f"stream={self.feed}&producer=demo&{addresses}&{history}&{waits}"
        source = f"coinbase://{','.join(PRODUCTS)}?{settings}"
        made = "?create_partitions=4" if kafka else ""  # the embedded broker makes them itself
        return "stream", source, f"kafka://{self.bootstrap}/{{stream}}{made}"

    def keep(self) -> Sequence[str]:
        """What brings Kafka's topics into the lake."""
        topics = ",".join(self.stream(kind) for kind in _CONTRACTS)
        source = f"kafka://{self.bootstrap}/{topics}?group={self.feed}-demo&topic_id={self.topic_id}"
        return "stream", source, f"file://{self.lake}", "--flush-age", "1s"

    def is_stored(self) -> bool:
        """Whether the lake has all that the topics have."""
        for kind in _CONTRACTS:
            with closing(self.registry.source(self.log(kind))) as source:
                ends = {partition.number: extent.end for partition, extent in source.extents().items()}
            newest = {number: self.chain(kind).newest(number) for number, end in ends.items() if end}
            if any(segment is None or segment.end < ends[number] for number, segment in newest.items()):
                return False
        return True

    def is_asked(self) -> bool:
        """Whether the history was asked for what each product lacks, by the gap records in the lake."""
        objects = (self.lake / self.stream("gaps")).glob("partition=*/*.jsonl.gz")
        told = [json.loads(line)["value"] for o in objects for line in gzip.decompress(o.read_bytes()).splitlines()]
        return set(PRODUCTS) == {gap["symbol"] for gap in told if gap["backfill"]}

    def log(self, kind: str) -> str:
        return f"kafka://{self.bootstrap}/{self.stream(kind)}?group={self.feed}-look&topic_id={self.topic_id}"

    def chain(self, kind: str) -> Chain:
        return Chain.open(self.registry.store(f"file://{self.lake}"), self.stream(kind))

    def load(self) -> None:
        """Load both streams into their tables."""
        for kind, contract in _CONTRACTS.items():
            Load(chain=self.chain(kind), loader=self.registry.loader(self.warehouse(kind), contract)).run()

    def audits(self) -> dict[str, AuditResult]:
        """Audit both, from the log to the rows; of the trades every byte and number."""
        return {
            kind: audit(
                f"file://{self.lake}",
                self.warehouse(kind),
                source=self.log(kind),
                stream=self.stream(kind),
                contract=contract,
                deep=kind == "trades",
                caught_up=True,
            )
            for kind, contract in _CONTRACTS.items()
        }


def run(*, folder: Path | None, kafka: str, output: Shown, not_sent: Callable[[AuditResult], Iterable[str]]) -> int:
    """
    Run the demo; 0 where it can show that each trade that was sent is one row, or missing and told by a gap record; else 1.

    Args:
        folder: Where to leave the lake, the warehouse and the page: a new or empty one.

        kafka: ``host:port`` of a real broker; "" for the embedded one.

        output: Where it says what it does.

        not_sent: Says for people what an audit found in the gap records.
    """
    began_s = time.monotonic()
    place = made_folder(folder)
    with Market() as exchange, broker(kafka) as bootstrap:
        feed = f"coinbase-{secrets.token_hex(4)}" if kafka else "coinbase"
        demo = LiveDemo(place, bootstrap, feed, "on" if kafka else "off")
        sent = _carried(demo, exchange, kafka, output)
        demo.load()
        output.line("silver   trades and gap records: rows, quarantine and ledger in one transaction each time")
        audits = demo.audits()
    found = accounts(demo.lake, demo.folder / "silver.duckdb", demo.stream("trades"), sent)
    return _tell(demo, found, audits, list(not_sent(audits["trades"])), output, began_s)


def _carried(demo: LiveDemo, exchange: Market, kafka: str, output: Shown) -> dict[str, int]:
    """Trade, break off, trade again, and stop when the lake has it all; how many trades of each product were sent."""
    with ExitStack() as stack:
        feed = stack.enter_context(_child(*demo.follow(exchange, kafka)))
        _until(feed, lambda: bool(exchange.subscribed()))
        output.line(
            f"exchange on this machine, speaks as Coinbase does: {2 * _EACH_S:,} made-up trades a second, numbered"
        )
        bronze = stack.enter_context(_child(*demo.keep()))
        with Tape(exchange=exchange, each_s=_EACH_S) as tape:
            _until(bronze, lambda: next(demo.lake.glob("*/partition=*/*"), None) is not None)
            time.sleep(_TRADES_S)  # so long it trades: a length, no wait for something
            before = sum(tape.sent.values())
            tape.break_off(_AWAY_S)
            _until(feed, lambda: bool(exchange.subscribed()))
            missed = sum(tape.sent.values()) - before
            output.line(f"outage   after {before:,} trades it broke off; {missed:,} were made before the feed was back")
            time.sleep(_TRADES_S)  # as before
            _until(bronze, demo.is_asked)
            kept = ", ".join(product for product in PRODUCTS if product != UNKEPT)
            output.line(f"history  asked for what is missing; the exchange has kept {kept} alone")
        _end(feed)
        where = "a real broker" if kafka else "embedded: no server, no JVM"
        output.line(f"kafka    {demo.bootstrap} ({where})")
        _until(bronze, demo.is_stored)
        _end(bronze)
    output.line(f"bronze   {demo.lake}, from Kafka while the feed ran")
    return tape.sent


def _tell(
    demo: LiveDemo,
    found: Sequence[Account],
    audits: dict[str, AuditResult],
    told: Sequence[str],
    output: Shown,
    began_s: float,
) -> int:
    page = demo.folder / "audit.html"
    page.write_text(render(audits["trades"]), encoding="utf-8")
    problems = [f"{a.product}: {problem}" for a in found for problem in a.problems]
    problems += [f"the audit of {a.stream}: {finding}" for a in audits.values() for finding in a.findings]
    if not any(a.missing for a in found):
        problems.append("no trade was missing: nothing is shown of what an outage does")
    if not any(a.fetched for a in found):
        problems.append("nothing came from the exchange's history: nothing is shown of that")
    output.line()
    output.table("", _COLUMNS, [_row(a) for a in found])
    output.line()
    for line in told:
        output.line(line)
    output.line()
    for problem in problems:
        output.line(f"NOT SHOWN: {problem}", style="bold red")
    if not problems:
        output.line(
            f"Of {sum(a.sent for a in found):,} trades {sum(a.rows for a in found):,} are one row each,"
            f" {sum(a.fetched for a in found):,} of them from the exchange's history;"
            f" {sum(a.missing for a in found):,} are missing: nobody has them, and a gap record tells each number."
            f" The audit says {audits['trades'].verdict}. In {time.monotonic() - began_s:.1f} s.",
            style="bold green",
        )
    _next(demo, page, output)
    output.document(
        {
            "accounted_for": not problems,
            "problems": problems,
            "products": [attrs.asdict(a) for a in found],
            "audits": {kind: a.verdict for kind, a in audits.items()},
            "not_sent": told,
            "folder": str(demo.folder),
            "page": str(page),
            "elapsed_s": round(time.monotonic() - began_s, 2),
        }
    )
    return 1 if problems else 0


def _row(a: Account) -> tuple[object, ...]:
    counted = (a.sent, a.records, a.fetched, a.rows, a.quarantined, a.missing, a.told)
    return a.product, *counted, "NO" if a.problems else "yes"


def _next(demo: LiveDemo, page: Path, output: Shown) -> None:
    ours, lake = our_command(), f"file://{demo.lake}"
    silver = demo.folder / "silver.duckdb"
    query = "SELECT symbol, cause, began, ended, last_sequence, next_sequence, missing FROM gaps ORDER BY began"
    asked = f"--stream {demo.stream('trades')} --deep --contract headrace.plugins.market:CoinbaseTrade"
    lines = [
        f"All of it is in {demo.folder}. Look at it:",
        f"  {page}",
        f"  {ours} show {lake} --stream {demo.stream('gaps')}",
        f"  {ours} audit {lake} '{demo.warehouse('trades')}' {asked}",
        f"  {sys.executable} -c \"import duckdb; duckdb.connect('{silver}').sql('{query}').show()\"",
    ]
    for line in lines:
        output.line(line, whole=True)


@contextmanager
def _child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line beside the block, and never longer."""
    with started(*arguments) as child:  # closes its pipe, too
        try:
            yield child
        finally:
            child.kill()  # one that is over hears nothing


def _until(child: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait until it is true; HeadraceError where the process beside it ends before, or where that takes too long."""
    deadline = time.monotonic() + _END_S
    while not condition():
        if child.poll() is not None:
            raise failed(child)
        if time.monotonic() > deadline:
            raise SinkUnavailableError(f"headrace stream did not get there within {_END_S:.0f} s; try again")
        time.sleep(_TICK_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it store what it has, and end."""
    child.send_signal(signal.SIGTERM)
    if child.wait(_END_S):
        raise failed(child)

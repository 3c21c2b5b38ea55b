"""What is counted while a process runs. The names are promised: dashboards and alerts are made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from headrace.errors import MissingExtraError
from headrace.metric import Metric
from headrace.records import Partition

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AGES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
_SIZES = tuple(float(1 << n) for n in range(10, 31, 2))


def client() -> Any:
    """
    Import prometheus-client.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import prometheus_client  # noqa: PLC0415 - only who is asked for metrics needs it
    except ImportError as exc:
        raise MissingExtraError("metrics need prometheus-client: pip install 'headrace[metrics]'") from exc
    return prometheus_client


class Meters:
    """
    The numbers of one process: those that are counted as things happen, and those that are looked up at each scrape.

    Args:
        run: The run's id in the log.

        command: Whose process it is.

        clock: Seconds since the Unix epoch.
    """

    def __init__(self, run: str, command: str, clock: Callable[[], float] = time.time) -> None:
        prometheus = client()
        self.command = command
        self.clock = clock
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self._looks: list[Callable[[], Iterable[Metric]]] = []
        self.owned: set[Partition] = set()
        """What was assigned to this process; a commit under way may be answered after it is another's."""
        self.stored_ms: dict[Partition, int] = {}
        """Each partition's last record in the sink: its own time."""
        self.loaded_ms: dict[Partition, int] = {}
        """And in the warehouse."""

        def counter(name: str, text: str, *labels: str) -> Any:
            return prometheus.Counter(f"headrace_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Any:
            return prometheus.Histogram(f"headrace_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.stored_records = counter("records_stored", "Records committed to the sink.", "stream")
        self.stored_segments = counter("segments_stored", "Segments committed to the sink.", "stream")
        self.commit_seconds = histogram(
            "commit_duration_seconds", "One attempt to commit a draft, by how it ended.", _SECONDS, "outcome"
        )
        self.put_seconds = histogram(
            "put_duration_seconds", "One create-only PUT of a segment, by how it ended.", _SECONDS, "outcome"
        )
        self.segment_bytes = histogram("segment_size_bytes", "Objects of segments that were stored.", _SIZES)
        self.requests = counter("store_requests", "Requests to the lake's store, of any object.", "operation")
        self.refusals = counter("refusals", "Commits that another writer was before.")
        self.failures = counter("failures", "Calls without an answer, which are tried again.", "of")
        self.rebalances = counter("rebalances", "Assignments, releases and losses of partitions.", "kind")
        self.freshness = histogram(
            "freshness_seconds",
            "From a record's own time until it was stored: of the oldest record of each segment.",
            _AGES,
            "stage",
        )
        self.load_seconds = histogram("load_duration_seconds", "One transaction of the warehouse.", _SECONDS, "outcome")
        prometheus.Info("headrace_run", "Which run this is, as in the log.", registry=self.registry).info(
            {"run": run, "command": command}
        )
        self.registry.register(_Looked(self))

    def look(self, numbers: Callable[[], Iterable[Metric]]) -> None:
        """Ask this for more numbers at each scrape."""
        self._looks.append(numbers)

    def looked(self) -> Iterator[Metric]:
        """Yield what is looked up now."""
        for look in self._looks:
            yield from look()
        if self.command == "stream":
            yield Metric("headrace_partitions_assigned", "Partitions that this process owns.", len(self.owned))
        stored_ms = {partition: ms for partition, ms in self.stored_ms.copy().items() if partition in self.owned}
        for stage, times in (("bronze", stored_ms), ("silver", self.loaded_ms.copy())):
            for partition, ms in times.items():
                yield Metric(
                    f"headrace_{stage}_newest_timestamp_seconds",
                    f"The own time of the last record that is in {stage}.",
                    ms / 1000,
                    {"stream": partition.stream, "partition": str(partition.number)},
                )

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Return all of them as Prometheus reads them, and their media type."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra: Meters has asked for it

        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind


class _Looked:
    """A collector of what is looked up."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def describe(self) -> list[Any]:
        return []  # not looked up before there is anything to look at

    def collect(self) -> Iterator[Any]:
        return families(self._meters.looked())


def families(samples: Iterable[Metric]) -> Iterator[Any]:
    """Yield the samples as the families that prometheus-client writes."""
    from prometheus_client.metrics_core import Metric as Family  # noqa: PLC0415 - an extra: who calls has asked for it

    found: dict[str, Any] = {}
    for sample in samples:
        grows = sample.name.endswith("_total")
        family = found.get(sample.name)
        if family is None:
            name = sample.name.removesuffix("_total")
            family = found[sample.name] = Family(name, sample.help, "counter" if grows else "gauge")
        family.add_sample(sample.name, dict(sample.labels), sample.value)
    yield from found.values()

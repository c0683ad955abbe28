"""What the Faust tables hold, as Prometheus metrics.

Totals carry the partition as a label: when a partition moves to another worker its series ends
here and goes on there, where a rate over one series per worker would see a reset and a jump.
Labels are bounded: no user is a label, and reasons and models beyond a bound are `other`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from millstream.schemas.ports import ClockMs
from millstream.streams.views.aggregates import LATENCY, LATENCY_BUCKETS_MS, Aggregate, parts

__all__ = ["Aggregates", "Current", "Shown", "TableMetrics"]

Aggregates = Callable[[], Iterable[tuple[str, int, Aggregate]]]
"""Gives each view's name, partition and aggregate."""

Current = Callable[[], Iterable[tuple[str, int, Aggregate]] | None]
"""Gives the same of the partitions of this worker; `None` while it cannot tell which it has."""

LINGER_S = 60.0

_MINUTE_MS = 60_000

_FIGURES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "requests": (
        "requests",
        "Requests by what the middleware decided, and the reason of a rejection",
        ("decision", "reason"),
    ),
    "results": ("results", "Terminal results by status and reason", ("status", "reason")),
    "tokens": ("tokens", "Tokens that models read and wrote", ("direction",)),
    "cost_micros": ("cost_micros", "Spend in millionths of a US dollar, by model", ("model",)),
    "token_records": ("token_records", "Records of answers as they are written", ()),
    "streamed_tokens": ("streamed_tokens", "Model tokens in those records", ()),
    "checkpoints": ("checkpoints", "Session checkpoints", ()),
    "session_heads": (
        "session_heads",
        "Turns of sessions, what restores made of them, and heads that were written anew",
        (),
    ),
    "session_states": (
        "session_states",
        "Sessions that were created, or came into another state, by that state",
        ("state",),
    ),
    "session_changes": ("session_changes", "Changes of sessions, by kind", ("change",)),
    "dead_letters": ("dead_letters", "Records that could not be read, by reason", ("reason",)),
    "unreadable": (
        "view_unreadable",
        "Records of our own topics that a view could not read, by reason",
        ("reason",),
    ),
}
"""By counted figure: the metric's name, its help, its labels."""


class Shown:
    """What was shown last of each partition, and for `LINGER_S` after it went to another worker.

    That one restores it first. Summed over the largest of each series
    (`sum(max by (partition, status) (…))`) totals do not dip meanwhile. It outlives the views that
    it shows: while others are built in their place, and until these have counted as far, what was
    shown stays.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._last: dict[tuple[str, int], tuple[float, Aggregate]] = {}
        self._current: Current | None = None

    def show(self, current: Current, registry: CollectorRegistry) -> None:
        """Show what `current` gives at each scrape, in place of what was asked before."""
        if self._current is None:
            registry.register(TableMetrics(self.all))
        self._current = current

    def take(self, view: str, partition: int, aggregate: Aggregate) -> None:
        """Take in what a partition of this worker has now, unless more of it was shown of late."""
        now_s = self._clock_s()
        taken_s, last = self._last.get((view, partition), (now_s, aggregate))
        is_behind = (aggregate.log, aggregate.offset) < (last.log, last.offset)
        if not is_behind or now_s - taken_s >= LINGER_S:
            self._last[view, partition] = (now_s, aggregate)

    def hold(self) -> None:
        """Keep everything: nobody can tell now which partitions went to another worker."""
        now_s = self._clock_s()
        self._last = {place: (now_s, aggregate) for place, (_, aggregate) in self._last.items()}

    def all(self) -> Iterator[tuple[str, int, Aggregate]]:
        """Give what is to be shown."""
        if self._current is not None:
            aggregates = self._current()
            if aggregates is None:
                self.hold()
            else:
                for view, partition, aggregate in aggregates:
                    self.take(view, partition, aggregate)
        now_s = self._clock_s()
        self._last = {
            place: taken for place, taken in self._last.items() if now_s - taken[0] < LINGER_S
        }
        for (view, partition), (_, aggregate) in sorted(self._last.items()):
            yield view, partition, aggregate


class TableMetrics(Collector):
    """Collects the aggregates at every scrape."""

    def __init__(
        self, aggregates: Aggregates, clock_ms: ClockMs = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._aggregates = aggregates
        self._clock_ms = clock_ms

    def collect(self) -> Iterator[Metric]:
        """Give every family, also those without samples."""
        aggregates = list(self._aggregates())
        yield from _totals(aggregates)
        yield from self._last_minute(aggregates)
        yield _latency(aggregates)
        offsets = GaugeMetricFamily(
            "millstream_view_offset",
            "Offset of the last record that is counted",
            labels=("view", "partition"),
        )
        saturated = GaugeMetricFamily(
            "millstream_view_saturated",
            "Totals that are at the largest number a view keeps, and rise no more",
            labels=("view", "partition"),
        )
        full = GaugeMetricFamily(
            "millstream_view_full",
            "1 where a view keeps no more names: further ones are counted as `other`, or in place "
            "of one that counted less, which goes to `other`",
            labels=("view", "partition"),
        )
        for view, partition, aggregate in aggregates:
            offsets.add_metric((view, str(partition)), aggregate.offset)
            saturated.add_metric((view, str(partition)), aggregate.saturated)
            full.add_metric((view, str(partition)), aggregate.is_full)
        yield offsets
        yield saturated
        yield full

    def _last_minute(self, aggregates: list[tuple[str, int, Aggregate]]) -> Iterator[Metric]:
        # The last one that is over; a view that is behind by more counts nothing in it.
        minute = self._clock_ms() // _MINUTE_MS - 1
        families = {
            figure: GaugeMetricFamily(
                f"millstream_last_minute_{name}", f"{about}, in the last full minute", labels=labels
            )
            for figure, (name, about, labels) in _FIGURES.items()
        }
        sums: dict[str, int] = defaultdict(int)
        for _, _, aggregate in aggregates:
            for counted, amount in aggregate.minutes.get(minute, {}).items():
                sums[counted] += amount
        for counted, amount in sums.items():
            figure, label = parts(counted)
            families[figure].add_metric(_labels(figure, label), amount)
        yield from families.values()


def _totals(aggregates: list[tuple[str, int, Aggregate]]) -> Iterator[Metric]:
    families = {
        figure: CounterMetricFamily(
            f"millstream_{name}", f"{about}.", labels=(*labels, "partition")
        )
        for figure, (name, about, labels) in _FIGURES.items()
    }
    for _, partition, aggregate in aggregates:
        for counted, amount in aggregate.totals.items():
            if not counted.startswith(LATENCY):
                figure, label = parts(counted)
                families[figure].add_metric((*_labels(figure, label), str(partition)), amount)
    yield from families.values()


def _labels(figure: str, label: str) -> tuple[str, ...]:
    wanted = len(_FIGURES[figure][2])
    return tuple((label.split("|", wanted - 1) + [""] * wanted)[:wanted]) if wanted else ()


def _latency(aggregates: list[tuple[str, int, Aggregate]]) -> Metric:
    family = HistogramMetricFamily(
        "millstream_latency_seconds",
        "Time from a request's acceptance to the start of its run (queue), to its first token "
        "and to its result (run).",
        labels=("step", "partition"),
    )
    for _, partition, aggregate in aggregates:
        steps: dict[str, dict[str, int]] = defaultdict(dict)
        for counted, amount in aggregate.totals.items():
            if counted.startswith(LATENCY):
                step, _, bucket = parts(counted)[1].partition("|")
                steps[step][bucket] = amount
        for step, buckets in steps.items():
            numbers = range(len(LATENCY_BUCKETS_MS) + 1)
            counts = accumulate(buckets.get(str(number), 0) for number in numbers)
            bounds = [*(str(bound / 1000) for bound in LATENCY_BUCKETS_MS), "+Inf"]
            family.add_metric(
                (step, str(partition)),
                buckets=list(zip(bounds, counts, strict=True)),
                sum_value=buckets.get("sum", 0) / 1000,
            )
    return family

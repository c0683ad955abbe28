"""What the Faust tables hold, as Prometheus metrics.

Totals carry the partition as a label: when a partition moves to another worker its series ends
here and goes on there, where a rate over one series per worker would see a reset and a jump.
Labels are bounded: no user is a label, and reasons and models beyond a bound are `other`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from millstream.schemas.ports import ClockMs, wall_clock_ms
from millstream.streams.views.aggregates import (
    LATENCY,
    LATENCY_BUCKETS_MS,
    MINUTES_KEPT,
    Aggregate,
    parts,
)
from millstream.streams.views.lag import Lag

__all__ = ["Aggregates", "Current", "Lags", "Shown", "TableMetrics"]

Aggregates = Callable[[], Iterable[tuple[str, int, Aggregate]]]
"""Gives each view's name, partition and aggregate."""

Current = Callable[[], Iterable[tuple[str, int, Aggregate]] | None]
"""Gives the same of the partitions of this worker; `None` while it cannot tell which it has."""

Lags = Callable[[], Mapping[tuple[str, int], Lag]]
"""Gives how far each view is behind on the partitions that this worker reads now."""

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
        self._lags: Lags = dict

    def show(self, current: Current, registry: CollectorRegistry, lags: Lags = dict) -> None:
        """Show what `current` and `lags` give at each scrape, in place of what was asked before."""
        if self._current is None:
            registry.register(TableMetrics(self.all, self._lags_now))
        self._current, self._lags = current, lags

    def _lags_now(self) -> Mapping[tuple[str, int], Lag]:
        return self._lags()

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
    """Collects the aggregates, and how far behind they are, at every scrape."""

    def __init__(
        self, aggregates: Aggregates, lags: Lags, clock_ms: ClockMs = wall_clock_ms
    ) -> None:
        self._aggregates = aggregates
        self._lags = lags
        self._clock_ms = clock_ms

    def collect(self) -> Iterator[Metric]:
        """Give every family, also those without samples."""
        aggregates, lags = list(self._aggregates()), self._lags()
        yield from _totals(aggregates)
        yield from self._last_minute(aggregates, lags)
        yield from self._behind(lags)
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

    def _last_minute(
        self, aggregates: list[tuple[str, int, Aggregate]], lags: Mapping[tuple[str, int], Lag]
    ) -> Iterator[Metric]:
        minutes = _last_counted(lags, self._clock_ms() // _MINUTE_MS)
        families = {
            figure: GaugeMetricFamily(
                f"millstream_last_minute_{name}",
                f"{about}, in the last minute that is counted as a whole",
                labels=labels,
            )
            for figure, (name, about, labels) in _FIGURES.items()
        }
        sums: dict[str, int] = defaultdict(int)
        for view, partition, aggregate in aggregates:
            # One that went to another worker is shown by that one.
            if view in minutes and (view, partition) in lags:
                for counted, amount in aggregate.minutes.get(minutes[view], {}).items():
                    sums[counted] += amount
        for counted, amount in sums.items():
            figure, label = parts(counted)
            families[figure].add_metric(_labels(figure, label), amount)
        yield from families.values()
        began = GaugeMetricFamily(
            "millstream_last_minute_start_timestamp_seconds",
            "When the minute began that `millstream_last_minute_*` tell of a view's topic",
            labels=("view",),
        )
        for view, minute in sorted(minutes.items()):
            began.add_metric((view,), minute * _MINUTE_MS / 1000)
        yield began

    def _behind(self, lags: Mapping[tuple[str, int], Lag]) -> Iterator[Metric]:
        labels = ("view", "partition")
        records = GaugeMetricFamily(
            "millstream_view_lag_records",
            "Offsets between what is counted and the end of the log",
            labels=labels,
        )
        seconds = GaugeMetricFamily(
            "millstream_view_lag_seconds",
            "For how long records are there that are not counted, 0 where all are",
            labels=labels,
        )
        now_ms = self._clock_ms()
        for (view, partition), lag in sorted(lags.items()):
            records.add_metric((view, str(partition)), lag.records)
            if (behind_s := lag.behind_s(now_ms)) is not None:
                seconds.add_metric((view, str(partition)), behind_s)
        yield records
        yield seconds


def _last_counted(lags: Mapping[tuple[str, int], Lag], now: int) -> dict[str, int]:
    """Give the last minute before this one that each view has counted on every partition.

    A view that is further behind than minutes are kept, or of which it is not known, is left out.
    """
    minutes: dict[str, int] = {}
    for (view, _), lag in lags.items():
        whole = min(lag.counted_to_ms // _MINUTE_MS, now) - 1
        minutes[view] = min(whole, minutes.get(view, whole))
    since = max(now - MINUTES_KEPT + 1, 0)
    return {view: minute for view, minute in minutes.items() if minute >= since}


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

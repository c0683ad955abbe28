from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from millstream.schemas.errors import Misconfigured
from millstream.streams.telemetry.metrics import MetricsCollector, metrics, set_metrics


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector()


def value(collector: MetricsCollector, name: str, **labels: str) -> float | None:
    return collector.registry.get_sample_value(name, labels)


def test_a_counter_counts_by_label(collector: MetricsCollector) -> None:
    counter = collector.counter("runs", "Runs.", ["model"])
    counter.labels(model="a").inc()
    counter.labels(model="a").inc(2)
    assert value(collector, "runs_total", model="a") == 3


def test_a_counter_does_not_fall(collector: MetricsCollector) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        collector.counter("runs", "Runs.").inc(-1)


def test_a_gauge_rises_and_falls(collector: MetricsCollector) -> None:
    gauge = collector.gauge("depth", "Depth.")
    gauge.inc(3)
    gauge.dec()
    assert value(collector, "depth") == 2


def test_a_histogram_counts_into_its_buckets(collector: MetricsCollector) -> None:
    histogram = collector.histogram("size", "Size.", buckets=[1, 2])
    for size in (0.5, 1.5, 9):
        histogram.observe(size)
    assert value(collector, "size_bucket", le="1.0") == 1
    assert value(collector, "size_bucket", le="2.0") == 2
    assert value(collector, "size_bucket", le="+Inf") == 3


def test_the_same_declaration_gives_the_same_metric(collector: MetricsCollector) -> None:
    first = collector.counter("runs_total", "Runs.", ["model"])
    assert collector.counter("runs", "Runs.", ["model"]) is first


def test_another_type_or_label_of_a_known_name_is_refused(collector: MetricsCollector) -> None:
    collector.counter("runs", "Runs.", ["model"])
    with pytest.raises(Misconfigured, match="labels model; it cannot also be a gauge"):
        collector.gauge("runs", "Runs.")
    with pytest.raises(Misconfigured, match="labels none"):
        collector.counter("runs", "Runs.")


def test_other_buckets_of_a_known_histogram_are_refused(collector: MetricsCollector) -> None:
    collector.histogram("size", "Size.", buckets=[1, 2])
    with pytest.raises(Misconfigured, match="buckets"):
        collector.histogram("size", "Size.", buckets=[1, 3])


@pytest.mark.parametrize("buckets", [[], [2, 1], [1, 1], [float("nan"), 1]])
def test_buckets_that_do_not_rise_are_refused(
    collector: MetricsCollector, buckets: list[float]
) -> None:
    with pytest.raises(Misconfigured, match="rise"):
        collector.histogram("size", "Size.", buckets=buckets)


def test_a_name_that_another_metric_would_write_is_refused(collector: MetricsCollector) -> None:
    collector.histogram("size", "Size.")
    with pytest.raises(Misconfigured, match="size_count"):
        collector.gauge("size_count", "Clashes.")


def test_a_name_that_is_none_is_refused(collector: MetricsCollector) -> None:
    with pytest.raises(Misconfigured):
        collector.counter("", "Nothing.")


def test_hostile_label_values_are_escaped(collector: MetricsCollector) -> None:
    collector.counter("runs", "Runs.", ["who"]).labels(who='a"\n\\').inc()
    assert rb'runs_total{who="a\"\n\\"} 1.0' in generate_latest(collector.registry)


def test_a_timer_times_a_block_that_failed_too(collector: MetricsCollector) -> None:
    histogram = collector.histogram("took_seconds", "Took.", ["what"])
    with collector.timer(histogram, what="x"):
        pass
    with pytest.raises(KeyError), collector.timer(histogram, what="x"):
        raise KeyError
    assert value(collector, "took_seconds_count", what="x") == 2


async def test_a_timer_times_async_blocks_and_functions(collector: MetricsCollector) -> None:
    histogram = collector.histogram("took_seconds", "Took.")
    timer = collector.timer(histogram)

    @timer
    def double(number: int) -> int:
        return 2 * number

    @timer
    async def triple(number: int) -> int:
        return 3 * double(number)

    async with collector.timer(histogram):
        assert await triple(2) == 12
    assert value(collector, "took_seconds_count") == 3


def test_a_timer_in_use_is_refused_for_another_block(collector: MetricsCollector) -> None:
    timer = collector.timer(collector.histogram("took_seconds", "Took."))
    with timer, pytest.raises(RuntimeError, match="running"), timer:
        pass


def test_the_global_collector_is_what_the_root_set(collector: MetricsCollector) -> None:
    set_metrics(None)
    with pytest.raises(Misconfigured, match="set_metrics"):
        metrics()
    set_metrics(collector)
    assert metrics() is collector
    set_metrics(None)

from __future__ import annotations

from prometheus_client import CollectorRegistry

from millstream.streams.views.aggregates import Aggregate
from millstream.streams.views.lag import Lag
from millstream.streams.views.table_metrics import LINGER_S, Shown, TableMetrics

MINUTE_MS = 60_000
NOW_MS = 10 * MINUTE_MS + 5


def registry_of(
    *aggregates: tuple[str, int, Aggregate], lags: dict[tuple[str, int], Lag] | None = None
) -> CollectorRegistry:
    """Give what is collected of these, all of which are counted to now where no lag is given."""
    up_to_date = {(view, partition): Lag(0, NOW_MS, 0) for view, partition, _ in aggregates}
    registry = CollectorRegistry()
    registry.register(TableMetrics(lambda: aggregates, lambda: lags or up_to_date, lambda: NOW_MS))
    return registry


def aggregate(at_ms: int, *counts: dict[str, int]) -> Aggregate:
    made = Aggregate()
    for offset, each in enumerate(counts):
        made.fold(offset, at_ms, each)
    return made


def test_totals_are_counters_by_label_and_partition() -> None:
    registry = registry_of(
        ("results", 0, aggregate(0, {"results|completed": 2}, {"results|failed": 1})),
        ("results", 3, aggregate(0, {"results|completed": 5})),
    )

    def value(status: str, partition: str) -> float | None:
        labels = {"status": status, "reason": "", "partition": partition}
        return registry.get_sample_value("millstream_results_total", labels)

    assert (value("completed", "0"), value("failed", "0"), value("completed", "3")) == (2, 1, 5)
    assert value("failed", "3") is None


def test_a_reason_with_a_bar_in_it_is_one_label() -> None:
    registry = registry_of(("decisions", 0, aggregate(0, {"requests|rejected|a|b": 1})))
    labels = {"decision": "rejected", "reason": "a|b", "partition": "0"}
    assert registry.get_sample_value("millstream_requests_total", labels) == 1


def test_the_last_full_minute_is_summed_over_partitions_and_the_running_one_left_out() -> None:
    last, running = 9 * MINUTE_MS, 10 * MINUTE_MS
    registry = registry_of(
        ("results", 0, aggregate(last, {"results|completed": 2})),
        ("results", 1, aggregate(last, {"results|completed": 3})),
        ("results", 2, aggregate(running, {"results|completed": 100})),
    )
    labels = {"status": "completed", "reason": ""}
    assert registry.get_sample_value("millstream_last_minute_results", labels) == 5


COMPLETED = {"status": "completed", "reason": ""}


def last_minute(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    """Give what the last minute's gauge says of results, and of which minute."""
    began = registry.get_sample_value(
        "millstream_last_minute_start_timestamp_seconds", {"view": "results"}
    )
    return registry.get_sample_value("millstream_last_minute_results", COMPLETED), began


def test_a_minute_is_told_only_once_every_partition_is_counted_to_its_end() -> None:
    def of_both(before: int, last: int) -> Aggregate:
        made = aggregate(8 * MINUTE_MS, {"results|completed": before})
        made.fold(1, 9 * MINUTE_MS, {"results|completed": last})
        return made

    views = ("results", 0, of_both(2, 10)), ("results", 1, of_both(3, 20))
    behind = {("results", 0): Lag(0, NOW_MS, 0), ("results", 1): Lag(50, 10 * MINUTE_MS - 1, 0)}
    assert last_minute(registry_of(*views, lags=behind)) == (5, 8 * 60)
    caught_up = behind | {("results", 1): Lag(40, 10 * MINUTE_MS, 0)}
    assert last_minute(registry_of(*views, lags=caught_up)) == (30, 9 * 60)


def test_a_view_that_is_behind_holds_no_other_views_minute_back() -> None:
    views = (
        ("results", 0, aggregate(9 * MINUTE_MS, {"results|completed": 4})),
        ("tokens", 0, aggregate(9 * MINUTE_MS, {"token_records|": 7})),
    )
    lags = {("results", 0): Lag(0, NOW_MS, 0), ("tokens", 0): Lag(9, 9 * MINUTE_MS + 1, 0)}
    registry = registry_of(*views, lags=lags)
    assert last_minute(registry) == (4, 9 * 60)
    assert registry.get_sample_value("millstream_last_minute_token_records") is None


def test_no_minute_is_told_while_nobody_knows_how_far_it_is_counted() -> None:
    view = ("results", 0, aggregate(9 * MINUTE_MS, {"results|completed": 4}))
    for unknown in (Lag(3, 0, 0), Lag(0, 0, 0)):
        assert last_minute(registry_of(view, lags={("results", 0): unknown})) == (None, None)
    assert last_minute(registry_of(view, lags={("results", 7): Lag(0, NOW_MS, 0)}))[0] is None


def test_the_lag_is_told_in_records_and_in_seconds() -> None:
    view = ("results", 0, aggregate(0, {"results|completed": 4}))
    lags = {
        ("results", 0): Lag(14_039, NOW_MS - 27_000, 0),
        ("results", 1): Lag(0, NOW_MS - 600, 0),
        ("results", 2): Lag(8, 0, 0),
    }
    registry = registry_of(view, lags=lags)

    def value(figure: str, partition: int) -> float | None:
        labels = {"view": "results", "partition": str(partition)}
        return registry.get_sample_value(f"millstream_view_lag_{figure}", labels)

    assert [value("records", partition) for partition in range(3)] == [14_039, 0, 8]
    assert [value("seconds", partition) for partition in range(3)] == [27, 0, None]


def test_latencies_are_a_cumulative_histogram_in_seconds() -> None:
    counts = {"latency_ms|run|0": 1, "latency_ms|run|2": 2, "latency_ms|run|sum": 45}
    registry = registry_of(("results", 0, aggregate(0, counts)))

    def at_most(bound: str) -> float | None:
        labels = {"step": "run", "partition": "0", "le": bound}
        return registry.get_sample_value("millstream_latency_seconds_bucket", labels)

    assert [at_most(bound) for bound in ("0.005", "0.01", "0.025", "+Inf")] == [1, 1, 3, 3]
    of_run = {"step": "run", "partition": "0"}
    assert registry.get_sample_value("millstream_latency_seconds_sum", of_run) == 0.045


def test_the_offset_of_every_view_is_told() -> None:
    registry = registry_of(("costs", 2, aggregate(0, {}, {})))
    labels = {"view": "costs", "partition": "2"}
    assert registry.get_sample_value("millstream_view_offset", labels) == 1


def test_without_records_every_family_is_there_and_no_sample() -> None:
    assert not [sample for metric in registry_of().collect() for sample in metric.samples]


def test_a_view_that_keeps_no_more_names_says_so() -> None:
    few = aggregate(0, {"cost_micros|m": 1})
    many = aggregate(0, *({f"cost_micros|m{number}": 1} for number in range(300)))
    registry = registry_of(("costs", 0, few), ("costs", 1, many))
    for partition, is_full in (("0", 0), ("1", 1)):
        labels = {"view": "costs", "partition": partition}
        assert registry.get_sample_value("millstream_view_full", labels) == is_full


def test_results_are_told_by_status_and_reason_also_those_of_earlier_versions() -> None:
    counts = {"results|failed": 2, "results|failed|in_doubt": 1, "results|completed": 5}
    registry = registry_of(("results", 0, aggregate(0, counts)))

    def value(status: str, reason: str) -> float | None:
        labels = {"status": status, "reason": reason, "partition": "0"}
        return registry.get_sample_value("millstream_results_total", labels)

    told = (value("failed", ""), value("failed", "in_doubt"), value("completed", ""))
    assert told == (2, 1, 5)


def test_a_partition_that_moved_is_shown_until_its_next_owner_has_restored_it() -> None:
    now_s = 100.0
    shown = Shown(lambda: now_s)
    stays, goes = aggregate(0, {"results|completed": 2}), aggregate(0, {"results|completed": 3})
    shown.take("results", 1, goes)
    shown.take("results", 0, stays)
    now_s += LINGER_S / 2
    shown.take("results", 0, stays)
    assert list(shown.all()) == [("results", 0, stays), ("results", 1, goes)]
    now_s += LINGER_S / 2
    assert list(shown.all()) == [("results", 0, stays)]


def counted(offset: int, completed: int) -> Aggregate:
    made = aggregate(0, {"results|completed": completed})
    made.offset = offset
    return made


def test_totals_stay_while_views_are_built_anew_and_until_the_new_ones_have_counted_as_far() -> (
    None
):
    now_s = 100.0
    registry, shown = CollectorRegistry(), Shown(lambda: now_s)
    labels = {"status": "completed", "reason": "", "partition": "0"}

    def value() -> float | None:
        return registry.get_sample_value("millstream_results_total", labels)

    def at(offset: int, completed: int) -> list[tuple[str, int, Aggregate]]:
        return [("results", 0, counted(offset, completed))]

    first: list[tuple[str, int, Aggregate]] | None = at(9, 5)
    shown.show(lambda: first, registry)
    assert value() == 5
    first = None  # an outage has ended them, and lasts
    now_s += 10 * LINGER_S
    assert value() == 5
    second: list[tuple[str, int, Aggregate]] | None = None
    shown.show(lambda: second, registry)
    now_s += 10 * LINGER_S
    assert value() == 5
    second = at(7, 4)  # what was counted last had not reached the changelog
    assert value() == 5
    second = at(9, 5)
    assert value() == 5
    second = at(10, 6)
    assert value() == 6


def test_what_is_behind_is_shown_all_the_same_once_it_does_not_catch_up() -> None:
    now_s = 100.0
    shown = Shown(lambda: now_s)
    ahead, behind = counted(9, 5), counted(3, 2)
    shown.take("results", 0, ahead)
    now_s += LINGER_S - 1
    shown.take("results", 0, behind)
    assert list(shown.all()) == [("results", 0, ahead)]
    now_s += 1
    shown.take("results", 0, behind)
    assert list(shown.all()) == [("results", 0, behind)]


def test_a_log_that_was_set_back_is_not_behind() -> None:
    shown = Shown()
    shown.take("results", 0, counted(500, 5))
    anew = counted(3, 6)
    anew.log = 1
    shown.take("results", 0, anew)
    assert list(shown.all()) == [("results", 0, anew)]

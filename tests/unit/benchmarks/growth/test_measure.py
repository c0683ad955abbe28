"""Which histories are measured, and what a worker's log says of its lanes."""

from __future__ import annotations

import pytest

from benchmarks.measures.growth.deployed import lanes_opened_s
from benchmarks.measures.growth.measure import REQUESTS_DEFAULT, Size, restart_figures, sizes
from benchmarks.measures.growth.restarts import Restart, one_user_of_each_lane
from millstream.streams.wire.partitioning import home_partition


def test_by_default_a_hundred_thousand_sessions_are_measured_beside_a_thousand_and_none() -> None:
    assert sizes(REQUESTS_DEFAULT) == (Size(0, 0), Size(1_000, 1_430), Size(100_000, 143_000))


@pytest.mark.parametrize("requests", [1, 143, 1_430])
def test_a_small_history_stands_beside_none_alone(requests: int) -> None:
    empty, largest = sizes(requests)
    assert empty == Size(0, 0)
    assert largest.requests == requests
    assert 1 <= largest.sessions <= requests


def test_the_newest_opening_of_each_lane_counts_whatever_else_is_logged() -> None:
    log = """a warning of Python's own
{"event": "lane open", "partition": 0, "duration_ms": 900}
{"event": "lane lost", "partition": 0}
{"event": "lane open", "partition": 1, "duration_ms": 250}
{"event": "lane open", "partition": 0, "duration_ms": 1500}
"""
    assert lanes_opened_s(log) == {0: 1.5, 1: 0.25}


def test_each_lane_has_a_user() -> None:
    users = one_user_of_each_lane(4)
    assert [home_partition(user, 4) for user in users] == [0, 1, 2, 3]


def restart(times: float, peak_mib: float) -> Restart:
    return Restart(times, times, times, (times / 2, times), times, peak_mib)


def test_a_change_of_policy_has_bars_beside_a_start_without_one() -> None:
    taken = {
        "same": [restart(1.0, 100), restart(9.0, 900), restart(1.0, 100)],
        "caps": [restart(1.5, 110)],
        "rates": [restart(3.0, 130)],
    }
    figures = {one.name: one for one in restart_figures(Size(10, 14), taken, has_bar=True)}
    assert figures["growth_10_same_slowest_lane"].value == 1.0
    for kind, met in (("caps", True), ("rates", False)):
        for what in ("all_lanes", "slowest_lane", "memory_peak"):
            assert figures[f"growth_10_{kind}_{what}_over_same"].show() is met
    no_bars = restart_figures(Size(10, 14), taken, has_bar=False)
    assert all(one.target is None for one in no_bars)

"""What of a request's time is counted."""

from __future__ import annotations

from millstream.streams.lane.runs.stopwatch import Stopwatch


def test_only_the_time_between_start_and_stop_is_counted() -> None:
    watch = Stopwatch()
    watch.start(1000)
    watch.start(1500)
    watch.stop(3000)
    watch.stop(9000)
    assert (watch.elapsed_ms, watch.since_ms) == (2000, 0)


def test_it_counts_on_from_where_it_stood() -> None:
    watch = Stopwatch(elapsed_ms=2000)
    watch.start(10_000)
    assert watch.since_ms == 8000
    watch.stop(11_000)
    assert watch.elapsed_ms == 3000


def test_a_clock_that_was_put_back_counts_nothing() -> None:
    watch = Stopwatch()
    watch.start(5000)
    watch.stop(4000)
    assert watch.elapsed_ms == 0

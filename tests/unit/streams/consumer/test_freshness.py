"""Partitions for which no broker answers are known as such, without asking one."""

from __future__ import annotations

from faust.types import TP

from millstream.streams.consumer.freshness import Freshness, told_commits, told_stale

FIRST, SECOND = TP("requests", 0), TP("requests", 1)


class Reading:
    """What is fetched, when it was answered, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.answered: dict[TP, int | None] = {FIRST: 1, SECOND: 1}
        self.freshness = Freshness(lambda: self.answered, clock_s=lambda: self.now_s)

    def after(self, seconds: float) -> dict[TP, float]:
        """Give what is stale so many seconds later."""
        self.now_s += seconds
        return self.freshness.stale()


def test_partition_that_is_answered_for_is_fresh_and_one_that_is_not_becomes_stale() -> None:
    reading = Reading()
    assert reading.after(0) == {}
    for stamp in range(2, 8):
        reading.answered[FIRST] = stamp
        stale = reading.after(1)
    assert stale == {SECOND: 6.0}
    reading.answered[SECOND] = 9
    assert reading.after(0.1) == {}


def test_partition_that_was_never_answered_for_becomes_stale() -> None:
    reading = Reading()
    reading.answered = {FIRST: None}
    assert reading.after(0) == {}
    assert reading.after(5) == {FIRST: 5.0}


def test_partition_that_needs_no_fetch_is_not_stale_and_begins_anew_with_the_next_one() -> None:
    reading = Reading()
    reading.after(0)
    reading.answered = {}  # its records wait to be read, or it is paused
    assert reading.after(60) == {}
    reading.answered = {FIRST: 1}
    assert reading.after(1) == {}
    assert reading.after(5) == {FIRST: 5.0}


def test_what_is_stale_is_told_by_topic() -> None:
    told = told_stale({SECOND: 7.2, FIRST: 6.0, TP("control", 1): 6.0})
    assert told == "no broker has answered for 7 s for partitions of control 1; requests 0, 1"
    away = told_stale({TP(f"t{number:02}", 0): 6.0 for number in range(13)})
    assert away.endswith("of t00 0; t01 0; t02 0; and of 10 more topics")


def test_commit_that_does_not_end_is_told_with_its_partitions() -> None:
    assert told_commits({0: 0.0, 1: 1.2}) is None
    assert told_commits({0: 0.0, 3: 6.2, 1: 9.0}) == (
        "no commit has ended for 9 s on partitions 1, 3"
    )
